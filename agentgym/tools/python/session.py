"""A live interpreter per episode, forked by playing its calls again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from agentgym.errors import ForkError, UsageError, WorldFault
from agentgym.tools.python.protocol import Result, SandboxDied, ended_by_code
from agentgym.tools.python.sandbox_process import SandboxProcess

if TYPE_CHECKING:
    from agentgym.tools.python.sandbox import ProcessSandbox


@dataclass(frozen=True, slots=True)
class Call:
    """One recorded call: what went in and what came out."""

    code: str
    stdin: str
    files: tuple[tuple[str, str | bytes], ...]
    result: Result


class PythonSession:
    """A session of a sandbox: variables, imports and files live on from call to call.

    Between calls its processes are stopped, so nothing runs on. A call that kills the interpreter (a timeout,
    ``os._exit``, too much memory) sets ``Result.lost``; the next call starts in an empty one. If another session's
    code ends the sandbox process, the calls are played again in the next one, as for a fork.

    Forking replays: the copy plays every call since the interpreter was empty, and each must give the result it gave.
    Copying the process itself would be faster and unsound: two copies would share files, children and the power to
    stop each other.

    Args:
        sandbox: where it lives.
        seed: given to ``random.seed`` before the first call, so that a replay draws the same numbers.
    """

    def __init__(self, sandbox: ProcessSandbox, *, seed: int | None = None) -> None:
        self.sandbox = sandbox
        self.seed = seed
        self.calls: list[Call] = []
        self._process: SandboxProcess | None = None
        self._lease = 0
        self._closed = False

    def run(self, code: str, *, stdin: str = "", files: Mapping[str, str | bytes] | None = None) -> Result:
        """Run ``code`` in this interpreter; what earlier calls defined is there.

        Raises:
            UsageError: the session is closed, or an input is larger than the limits allow.
            WorldFault: the sandbox itself failed, and the session could not be brought back; its state is gone.
        """
        if self._closed:
            raise UsageError("this session is closed; open a new one")
        history, suspect = tuple(self.calls), self._process is None or self._process.alive
        try:
            result = self._play(code, stdin, files or {})
        except SandboxDied:
            if suspect and self._ends_a_process(history, code, stdin, files or {}):
                result = ended_by_code(stateless=False)
            else:
                self._bring_back(history)
                result = self._play(code, stdin, files or {})
        if result.lost:
            self._forget()
        else:
            self.calls.append(Call(code, stdin, tuple((files or {}).items()), result))
        return result

    @property
    def _seed(self) -> bytes:
        return b"" if self.seed is None else str(self.seed).encode()

    def _play(self, code: str, stdin: str, files: Mapping[str, str | bytes]) -> Result:
        process, seed = self._process, b""
        if process is None:
            process = self.sandbox.process()
            self._lease = process.open()
            seed = self._seed
        try:
            result = self.sandbox.call(process, self._lease, code, stdin, files, seed=seed)
        except UsageError:
            raise  # refused before it was sent
        except BaseException:
            process.end(self._lease)
            self._forget()
            raise
        self._process = process
        return result

    def _ends_a_process(self, history: Sequence[Call], code: str, stdin: str, files: Mapping[str, str | bytes]) -> bool:
        """Whether a sandbox process with nothing else in it dies of this session's calls and of this one."""
        with self.sandbox.alone() as process:
            lease, seed = process.open(), self._seed
            try:
                for call in (*history, Call(code, stdin, tuple(files.items()), Result())):
                    self.sandbox.call(process, lease, call.code, call.stdin, dict(call.files), seed=seed)
                    seed = b""
            except SandboxDied:
                return True
            return False

    def _bring_back(self, history: Sequence[Call]) -> None:
        """Play the calls again, in the next sandbox process."""
        for number, call in enumerate(history, 1):
            result = self._play(call.code, call.stdin, dict(call.files))
            if result != call.result:
                assert self._process is not None
                self._process.end(self._lease)
                self._forget()
                raise WorldFault(
                    f"the sandbox died, and call {number} of {len(history)} gave another result when played again"
                )
            self.calls.append(call)

    def _forget(self) -> None:
        self._process = None
        self.calls.clear()

    def fork(self) -> Self:
        """A second session in the same state, made by replaying the recorded calls; nothing is shared.

        Raises:
            ForkError: a call gave another result than the first time (it read a clock, unseeded random numbers, or
                the name of its working directory where worker slots have different ones).
        """
        if self._closed:
            raise ForkError("cannot fork a closed session; fork it before close()")
        twin = type(self)(self.sandbox, seed=self.seed)
        try:
            for number, call in enumerate(self.calls, 1):
                result = twin.run(call.code, stdin=call.stdin, files=dict(call.files))
                if result != call.result:
                    raise ForkError(
                        f"call {number} of {len(self.calls)} gave another result when it was replayed: "
                        f"{_brief(call.result)} became {_brief(result)}; its code is not deterministic"
                    )
        except BaseException:
            twin.close()
            raise
        return twin

    def close(self) -> None:
        """End the interpreter with everything it started. May be called twice."""
        self._closed = True
        if self._process is not None:
            self._process.end(self._lease)
        self._forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _brief(result: Result) -> str:
    text = result.text()
    return repr(text if len(text) <= 80 else text[:77] + "...")
