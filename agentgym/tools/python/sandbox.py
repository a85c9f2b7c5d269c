"""What the three sandboxes share: one process for all threads, stateless calls, sessions."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Self

from agentgym.env import digest
from agentgym.errors import SandboxUnavailable, UsageError, WorldFault
from agentgym.tools.python.protocol import Limits, Result, SandboxDied, Session, ended_by_code
from agentgym.tools.python.sandbox_process import SandboxProcess
from agentgym.tools.python.session import PythonSession

_OPEN: weakref.WeakSet[ProcessSandbox] = weakref.WeakSet()


class ProcessSandbox(ABC):
    """A sandbox whose calls run in worker slots of one process. If it died, the next call starts another.

    Each call that ran in a process when it died runs once more, alone in another process. Code that ends that one too
    has failed (:attr:`Failure.EXITED`); other calls keep their results.

    Args:
        limits: what one call may use.
        parallel: calls that run at the same time; the others wait, which counts against no limit;
            None: twice the processors.
        worker_slots: sessions and running calls at the same time.
    """

    kind = "process"

    def __init__(self, limits: Limits | None = None, *, parallel: int | None = None, worker_slots: int = 256) -> None:
        self.limits = limits or Limits()
        self.parallel = parallel or 2 * (os.cpu_count() or 1)
        self.worker_slots = worker_slots + self.parallel  # those kept ready take none of the caller's
        self._turn = threading.BoundedSemaphore(self.parallel)
        self._starting = threading.Lock()
        self._suspecting = threading.Lock()
        self._process: SandboxProcess | None = None
        self._owner = os.getpid()
        _OPEN.add(self)

    @abstractmethod
    def _start(self, worker_slots: int, spares: int) -> SandboxProcess:
        """Start a process.

        Args:
            worker_slots: sessions and running calls at the same time.
            spares: worker slots kept ready for stateless calls.

        Raises:
            SandboxUnavailable: it cannot be started here; says what to install.
        """

    @property
    @abstractmethod
    def interpreter(self) -> str:
        """Which Python runs the code, with its version."""

    @property
    def fingerprint(self) -> str:
        return digest(self.kind, self.interpreter, self.limits)

    def process(self) -> SandboxProcess:
        """The running sandbox process; starts one where there is none.

        Raises:
            SandboxUnavailable: the first one cannot be started; says what to install.
            WorldFault: the one that was there died, and no other can be started.
        """
        with self._starting:
            if os.getpid() != self._owner:
                raise UsageError("this sandbox belongs to the process before a fork; open one in every process")
            if self._process is None:
                self._process = self._start(self.worker_slots, self.parallel)
            elif not self._process.alive:
                self._process.close()
                self._process = self._restarted(self.worker_slots, self.parallel)
            return self._process

    def _restarted(self, worker_slots: int, spares: int) -> SandboxProcess:
        try:
            return self._start(worker_slots, spares)
        except SandboxUnavailable as error:
            raise WorldFault(f"the sandbox died and cannot be started again: {error}") from error

    @contextlib.contextmanager
    def alone(self) -> Iterator[SandboxProcess]:
        """A sandbox process for one suspect at a time: what dies in it died by the suspect's code.

        Raises:
            WorldFault: it cannot be started, or the sandbox was closed.
        """
        if self._process is None:
            raise WorldFault("the sandbox was closed during the call")
        with self._suspecting:
            process = self._restarted(2, 1)
            try:
                yield process
            finally:
                process.close()

    def run(
        self,
        code: str,
        *,
        stdin: str = "",
        files: Mapping[str, str | bytes] | None = None,
        session: Session | None = None,
    ) -> Result:
        if session is not None:
            return session.run(code, stdin=stdin, files=files)
        process = self.process()
        try:
            return self.call(process, process.open(), code, stdin, files, one_shot=True)
        except SandboxDied:
            with self.alone() as own:
                try:
                    return self.call(own, own.open(), code, stdin, files, one_shot=True)
                except SandboxDied:
                    return ended_by_code(stateless=True)

    def call(
        self,
        process: SandboxProcess,
        lease: int,
        code: str,
        stdin: str,
        files: Mapping[str, str | bytes] | None,
        *,
        seed: bytes = b"",
        one_shot: bool = False,
    ) -> Result:
        """One call under one lease, when it is its turn."""
        prepared = check_files(files or {}, self.limits)
        typed = _encoded("stdin", stdin, self.limits.file_size)
        _encoded("code", code, self.limits.file_size)
        with self._turn:
            return process.call(lease, seed, code, typed, prepared, one_shot=one_shot)

    def session(self, *, seed: int | None = None) -> PythonSession:
        """A new session; ``seed`` seeds Python's ``random`` in it."""
        return PythonSession(self, seed=seed)

    def close(self) -> None:
        with self._starting:
            process, self._process = (
                self._process,
                None,
            )  # whoever waits for a result sees that it was closed, and did not die
            if process is not None and os.getpid() == self._owner:
                process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_files(files: Mapping[str, str | bytes], limits: Limits) -> list[bytes]:
    """Names and contents in turn, as they are sent.

    Raises:
        UsageError: a path that is absolute, leaves the working directory or has a NUL, or too many bytes.
    """
    fields: list[bytes] = []
    for name, content in files.items():
        path = PurePosixPath(name)
        if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
            raise UsageError(f"file name {name!r}: give a path relative to the working directory, without '..'")
        fields += [os.fsencode(name), _encoded(f"file {name!r}", content, limits.file_size)]
    if (total := sum(map(len, fields))) > limits.disk:
        raise UsageError(f"files of {total} bytes together; Limits.disk allows {limits.disk}")
    return fields


def _encoded(what: str, content: str | bytes, most: int) -> bytes:
    data = content.encode(errors="surrogatepass") if isinstance(content, str) else content
    if len(data) > most:
        raise UsageError(f"{what} has {len(data)} bytes; Limits.file_size allows {most}")
    return data


@atexit.register
def _close_all() -> None:
    for sandbox in list(_OPEN):
        sandbox.close()
