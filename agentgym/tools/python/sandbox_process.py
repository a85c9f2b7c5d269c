"""The host's end of a sandbox process: starts the supervisor, sends calls, hands results to the threads that wait."""

from __future__ import annotations

import itertools
import json
import math
import queue
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from agentgym.errors import SandboxUnavailable, WorldFault
from agentgym.tools.python.cgroups import Groups
from agentgym.tools.python.inside import frames
from agentgym.tools.python.protocol import Failure, Limit, Limits, PythonError, Result, SandboxDied, ended_by_code

#: Standard modules that a model's code often imports; loaded once, inherited by every worker.
PRELOAD = (
    "ast",
    "builtins",
    "bisect",
    "collections",
    "copy",
    "csv",
    "ctypes",
    "dataclasses",
    "datetime",
    "decimal",
    "enum",
    "fractions",
    "functools",
    "heapq",
    "io",
    "itertools",
    "json",
    "linecache",
    "math",
    "operator",
    "random",
    "re",
    "site",
    "statistics",
    "string",
    "textwrap",
    "time",
    "traceback",
    "typing",
)

_PARTS = (
    "frames",
    "seccomp",
    "landlock",
    "confine",
    "cgroup",
    "worker",
    "fork_server",
    "usage",
    "monitor",
    "supervisor",
)
_PACKAGES = ("agentgym", "agentgym.tools", "agentgym.tools.python", "agentgym.tools.python.inside")
_START_SECONDS = 60.0
_GRACE = 20.0  #: seconds beyond ``Limits.wall`` after which a sandbox process that does not answer is given up

#: First program in the sandbox: reads the others from its standard input, so that it needs no file of ours.
_BOOT = """
import os, sys, types
def take(n):
    data = b""
    while len(data) < n:
        more = os.read(0, n - len(data))
        if not more: os._exit(3)
        data += more
    return data
def text(): return take(int(take(8))).decode()
import json
sys.path[:] = [p for p in sys.path if p] + json.loads(text())
for name in json.loads(text()):
    module = sys.modules[name] = types.ModuleType(name)
    module.__path__ = []
for name, source in json.loads(text()):
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
    parent, _, last = name.rpartition(".")
    setattr(sys.modules[parent], last, module)
sys.modules["agentgym.tools.python.inside.supervisor"].main(text())
"""


def command(python: str) -> list[str]:
    """How the supervisor is started: no site-packages, no user files, nothing written."""
    return [python, "-S", "-s", "-B", "-c", _BOOT]


_Answer = tuple[int, bytes]  #: kind of frame, payload
_HUNG_UP: _Answer = (frames.GONE, b"ended")


class Transport(Protocol):
    """A byte stream to and from a supervisor."""

    def send(self, data: bytes) -> None:
        """Write all of ``data``.

        Raises:
            OSError: the other end is gone.
        """

    def receive(self) -> bytes:
        """Some bytes, as soon as there are any; empty when the other end is gone."""

    def close(self) -> None:
        """End the sandbox process, with everything in it."""

    def complaint(self) -> str:
        """The last line it wrote to its standard error."""


class ProcessTransport:
    """A supervisor that is a child process."""

    def __init__(self, argv: Sequence[str], env: dict[str, str] | None = None, groups: Groups | None = None) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the process
        self._groups = groups
        self._process = subprocess.Popen(  # noqa: S603  # a list, no text from a model
            argv if groups is None else groups.command(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            env=env,
            pass_fds=() if groups is None else tuple(groups.descriptors.values()),
        )

    def send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        frames.write_all(self._process.stdin.fileno(), data)

    def receive(self) -> bytes:
        assert self._process.stdout is not None
        data: bytes = self._process.stdout.read(1 << 20)  # type: ignore[attr-defined,unused-ignore]
        return data

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._groups is not None:
            self._groups.close()

    def complaint(self) -> str:
        if self._errors.closed:
            return ""
        self._errors.seek(0)
        return last_line(self._errors.read())

    def release(self) -> None:
        """Close what is left open on this side, once nobody reads any more."""
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()


def last_line(text: bytes) -> str:
    """The last line that says something."""
    lines = [line for line in text.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


class SandboxProcess:
    """One running supervisor, shared by many threads.

    Args:
        transport: the stream to it.
        mode, home, worker_slots, uid_base, packages, groups: how worker slots are isolated (see ``inside.confine``),
            where they live, and how many there are.
        spares: worker slots kept ready for stateless calls.

    Raises:
        SandboxUnavailable: it did not come up, or cannot run a first call.
    """

    def __init__(
        self,
        transport: Transport,
        limits: Limits,
        *,
        mode: str,
        home: str,
        worker_slots: int,
        spares: int,
        uid_base: int = 0,
        packages: Sequence[str] = (),
        preload: Sequence[str] = (),
        groups: Groups | None = None,
    ) -> None:
        self.limits = limits
        self._transport = transport
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, queue.SimpleQueue[_Answer]] = {}
        self._alive = True
        self._ready: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
        self._waiting[0] = self._ready
        config = {
            "mode": mode,
            "home": home,
            "worker_slots": worker_slots,
            "spares": spares,
            "uid_base": uid_base,
            "limits": asdict(limits),
            "preload": [*PRELOAD, *preload],
            "groups": None if groups is None else {"version": groups.version, **groups.descriptors},
        }
        self._reader = threading.Thread(target=self._read, name="agentgym-sandbox", daemon=True)
        try:
            self._transport.send(_boot_text(packages, config))
            self._reader.start()
            self._wait_ready()
        except (OSError, queue.Empty):
            complaint = self._transport.complaint()
            self.close()
            raise SandboxUnavailable(f"the sandbox did not start: {complaint or 'no answer'}") from None

    def _wait_ready(self) -> None:
        if self._ready.get(timeout=_START_SECONDS)[0] != frames.READY:
            raise OSError("ended")
        lease = self.open()
        try:
            first = self.call(lease, b"", "1", b"", (), one_shot=True)
        except WorldFault:
            raise OSError("the first call failed") from None
        if first.value != "1":
            raise OSError(str(first.error))

    @property
    def alive(self) -> bool:
        """Whether calls can be sent."""
        return self._alive

    def open(self) -> int:
        """The number of a new lease of a worker slot; it costs nothing until its first call."""
        return next(self._numbers)

    def call(
        self, lease: int, seed: bytes, code: str, stdin: bytes, files: Sequence[bytes], *, one_shot: bool
    ) -> Result:
        """Run one call under ``lease`` and wait for it. ``files``: names and contents in turn.

        A monitor that ends during the call was alone with this code, so that is the code's failure.

        Raises:
            SandboxDied: the sandbox process broke, with all worker slots in it.
            WorldFault: every worker slot is in use.
        """
        answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
        fields = frames.pack(seed, code.encode(errors="surrogatepass"), stdin, *files)
        self._waiting[lease] = answers
        try:
            self._send(frames.frame(lease, frames.CALL, (b"1" if one_shot else b"0") + fields))
            kind, answer = answers.get(timeout=self.limits.wall + _GRACE)
        except (OSError, queue.Empty):
            self.close()
            raise SandboxDied("the sandbox stopped answering and was ended") from None
        finally:
            self._waiting.pop(lease, None)
        if kind != frames.RESULT and answer == b"full":
            raise WorldFault(
                "every worker slot of the sandbox is in use; close sessions, or open it with more worker_slots"
            )
        if kind != frames.RESULT and answer == b"spoiled":  # by another call: this one never began
            raise SandboxDied("the worker slot of the call could not be cleared of what was there before")
        if (kind, answer) == _HUNG_UP:
            raise SandboxDied(f"the sandbox ended during the call: {self._transport.complaint()}".rstrip(": "))
        if kind != frames.RESULT:
            return ended_by_code(stateless=one_shot)
        return read_result(answer, self.limits, stateless=one_shot)

    def end(self, lease: int) -> None:
        """End a lease, with everything that runs in its worker slot."""
        if self._alive:
            try:
                self._send(frames.frame(lease, frames.CLOSE))
            except OSError:
                self._alive = False

    def close(self) -> None:
        """End the sandbox process."""
        self._alive = False
        self._transport.close()
        if self._reader.is_alive() and self._reader is not threading.current_thread():
            self._reader.join(10)
        if isinstance(self._transport, ProcessTransport):
            self._transport.release()

    def _send(self, data: bytes) -> None:
        if not self._alive:
            raise OSError("closed")
        with self._lock:
            self._transport.send(data)

    def _read(self) -> None:
        incoming = frames.Frames()
        try:
            while data := self._transport.receive():
                for lease, kind, payload in incoming.feed(data):
                    if (waiter := self._waiting.get(lease)) is not None:
                        waiter.put((kind, payload))
        except (OSError, ValueError):
            pass  # closed from this side, or nonsense from the other: over in both cases
        self._alive = False
        for waiter in list(self._waiting.values()):
            waiter.put(_HUNG_UP)


def _boot_text(packages: Sequence[str], config: dict[str, Any]) -> bytes:
    folder = Path(frames.__file__).parent
    sources = [(f"{_PACKAGES[-1]}.{part}", (folder / f"{part}.py").read_text("utf-8")) for part in _PARTS]
    texts = [json.dumps(part).encode() for part in (list(packages), _PACKAGES, sources, config)]
    return b"".join(b"%08d" % len(text) + text for text in texts)


_KILLED_BY = {
    Limit.WALL: (Failure.TIMEOUT, "killed after {0.wall:g} s"),
    Limit.CPU: (Failure.CPU, "killed after {0.cpu:g} CPU s"),
    Limit.MEMORY: (Failure.MEMORY, "killed: more than {0.memory} bytes of memory"),
    Limit.OUTPUT: (Failure.OUTPUT, "killed: endless output"),
}


def read_result(answer: bytes, limits: Limits, *, stateless: bool) -> Result:
    """What a monitor reported. The worker's own report inside it is hostile: anything odd about it is ``EXITED``.

    Raises:
        FrameError: the monitor's part is no such thing.
    """
    verdict, out, err, report = frames.unpack(answer, 4)
    status, code, seconds, cpu, memory, bits, *written = frames.VERDICT.unpack(verdict)
    value, error, claimed = None, None, 0
    if status == frames.REPORTED:
        value, error, claimed = _read_report(report, limits)
    elif status == frames.EXITED:
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        error = PythonError(Failure.EXITED, message=f"the interpreter ended before the code did ({how})")
    else:
        error = next(
            (
                PythonError(kind, message=text.format(limits))
                for limit, (kind, text) in _KILLED_BY.items()
                if bits & _bit(limit)
            ),
            PythonError(Failure.EXITED, message="the session was closed during the call"),
        )
    return Result(
        stdout=out.decode(errors="replace"),
        stderr=err.decode(errors="replace"),
        value=value,
        error=error,
        limits=tuple(limit for limit in Limit if (bits | claimed) & _bit(limit)),
        written=(written[0], written[1]),
        lost=status != frames.REPORTED and not stateless,
        seconds=seconds if math.isfinite(seconds) else 0.0,
        cpu_seconds=max(0.0, cpu),
        memory=memory,
    )


def _bit(limit: Limit) -> int:
    return 1 << list(Limit).index(limit)


def _read_report(report: bytes, limits: Limits) -> tuple[str | None, PythonError | None, int]:
    """(value, error, bits of limits) of a worker's report."""
    try:
        status, value, name, message, printed, bits = frames.unpack(report, 6)
        claimed = bits[0] & ~(frames.WALL | frames.CPU)  # those are for the monitor to say
    except (frames.FrameError, IndexError):
        return None, PythonError(Failure.EXITED, message="the interpreter sent a report that makes no sense"), 0
    if status == b"ok":
        return None, None, claimed
    if status == b"value":
        cut = frames.OUTPUT if len(value) > limits.output else 0
        return value[: limits.output].decode(errors="replace"), None, claimed | cut
    texts = [field.decode(errors="replace") for field in (name[:200], message[:2000], printed[: limits.output + 16])]
    kind = Failure.MEMORY if texts[0] == "MemoryError" else Failure.EXCEPTION
    return None, PythonError(kind, *texts), claimed
