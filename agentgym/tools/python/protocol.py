"""What a sandbox is: limits in, typed results out.

What a result says about time, killed calls and cut output is measured outside the process that runs the code; a limit
that the code survived (a MemoryError, a full disk) is as its interpreter told it.
``stdout``, ``stderr``, ``value`` and the text of an exception are the code's own words: hostile code can make them up.
A judge therefore runs a program and compares its output outside; it never asks the program whether it was right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Protocol, Self

from agentgym.errors import UsageError, WorldFault

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call may use. Every limit holds for the call with all the processes it starts.

    Attributes:
        wall: seconds until the call is killed.
        cpu: CPU seconds until the call is killed.
        memory: bytes of private memory; one process that asks for more gets a MemoryError, several are killed.
        processes: processes and threads at one time, the interpreter included.
        file_size: bytes of one file (also of ``stdin`` and of each entry of ``files``).
        disk: bytes of all files together; they live in memory and vanish with the call or session.
        output: bytes kept of stdout, of stderr, of the value and of a traceback, each.
        open_files: file descriptors of one process.
    """

    wall: float = 10.0
    cpu: float = 10.0
    memory: int = 512 * MIB
    processes: int = 32
    file_size: int = 32 * MIB
    disk: int = 64 * MIB
    output: int = 64 * 1024
    open_files: int = 128

    def __post_init__(self) -> None:
        least = {"memory": 32 * MIB, "open_files": 16, "output": 256, "disk": 65536}
        for spec in fields(self):
            value, floor = getattr(self, spec.name), least.get(spec.name, 0)
            if not value > 0 or value < floor or value == float("inf"):
                raise UsageError(f"{spec.name}={value!r}: a limit is a finite number, at least {floor or 'above 0'}")


class Limit(StrEnum):
    """A limit that a call met."""

    WALL = "wall"
    CPU = "cpu"
    MEMORY = "memory"
    PROCESSES = "processes"
    FILE_SIZE = "file_size"
    DISK = "disk"
    OUTPUT = "output"


class Failure(StrEnum):
    """Why a call has an error; exactly one."""

    EXCEPTION = "exception"  #: the code raised (a SyntaxError too); a session keeps its state
    TIMEOUT = "timeout"  #: killed at ``Limits.wall``
    CPU = "cpu"  #: killed at ``Limits.cpu``
    MEMORY = "memory"  #: a MemoryError, or killed at ``Limits.memory``
    OUTPUT = "output"  #: killed because it never stopped writing
    EXITED = "exited"  #: the interpreter ended or stopped making sense before it reported: ``os._exit``, a crash


@dataclass(frozen=True, slots=True)
class PythonError:
    """What went wrong in a call.

    Attributes:
        kind: the reason, for a reward to switch on.
        name: class of the exception, ``"ZeroDivisionError"``; empty where nothing was raised.
        message: one line.
        traceback: as Python prints it, only the code's own frames; empty where nothing was raised.
    """

    kind: Failure
    name: str = ""
    message: str = ""
    traceback: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"{self.name}: {self.message}" if self.name and self.message else self.name or self.message


@dataclass(frozen=True, slots=True)
class Result:
    """What one call did.

    Attributes:
        stdout: the part that was kept; bytes that are not UTF-8 are replaced by U+FFFD.
        stderr: likewise.
        value: ``repr`` of the last expression, like a notebook; None where the code ends in a statement or in None.
        error: None where the code ran to its end.
        limits: the limits that were met, also those the code survived.
        written: bytes written to (stdout, stderr), also those that were not kept.
        lost: the session's interpreter ended with this call; the next call starts in an empty one.
        seconds: wall time of the call; ``cpu_seconds`` of all its processes; ``memory`` is the most that was seen.
    """

    stdout: str = ""
    stderr: str = ""
    value: str | None = None
    error: PythonError | None = None
    limits: tuple[Limit, ...] = ()
    written: tuple[int, int] = (0, 0)
    lost: bool = False
    seconds: float = field(default=0.0, compare=False)
    cpu_seconds: float = field(default=0.0, compare=False)
    memory: int = field(default=0, compare=False)

    def text(self) -> str:
        """The result as one text for a model: output, value, error, and how much was cut off."""
        parts = [self.stdout, self.stderr]
        if self.value is not None:
            parts.append(self.value)
        if self.error is not None:
            parts.append(self.error.traceback or str(self.error))
        if Limit.OUTPUT in self.limits:
            parts.append(f"[output cut off; {sum(self.written)} bytes were written]")
        if self.lost:
            parts.append("[the interpreter was stopped; its variables and files are gone]")
        return "\n".join(part.rstrip("\n") for part in parts if part) or "[no output]"


class SandboxDied(WorldFault):
    """The process that holds all worker slots ended during a call, whoever ended it; the next call starts another."""


def ended_by_code(*, stateless: bool) -> Result:
    """The result of code that ended what watches it: its own failure, not the sandbox's."""
    error = PythonError(Failure.EXITED, message="the code ended the sandbox process that ran it")
    return Result(error=error, lost=not stateless)


class Session(Protocol):
    """A live interpreter: what one call defines, the next one sees."""

    def run(self, code: str, *, stdin: str = "", files: Mapping[str, str | bytes] | None = None) -> Result:
        """Run ``code`` in this interpreter."""

    def fork(self) -> Self:
        """A second session in the same state, nothing shared.

        Raises:
            ForkError: the recorded calls, played again, gave other results.
        """

    def close(self) -> None:
        """End the interpreter with everything it started. May be called twice."""


class Sandbox(Protocol):
    """Runs untrusted Python code. Safe to call from many threads.

    Attributes:
        kind: ``"bubblewrap"``, ``"docker"`` or ``"unsafe-local"``.
        limits: what a call may use.
        fingerprint: content hash of kind, interpreter and limits.
    """

    kind: str
    limits: Limits

    @property
    def fingerprint(self) -> str: ...

    def run(
        self,
        code: str,
        *,
        stdin: str = "",
        files: Mapping[str, str | bytes] | None = None,
        session: Session | None = None,
    ) -> Result:
        """Run ``code`` in a fresh interpreter, or in ``session``.

        Args:
            code: a program; the ``repr`` of a last bare expression becomes ``Result.value``.
            stdin: what it reads from standard input.
            files: relative path -> content, written into the working directory first.

        Raises:
            UsageError: an input is larger than the limits allow, or a path leaves the working directory.
            WorldFault: the sandbox itself failed and cannot be started again; nothing is known about the code.
        """

    def session(self, *, seed: int | None = None) -> Session:
        """A new session; ``seed`` seeds Python's ``random`` in it."""

    def close(self) -> None:
        """End everything that runs. May be called twice."""
