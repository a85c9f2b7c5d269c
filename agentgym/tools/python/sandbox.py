"""What the three sandboxes share: one cage for all threads, stateless calls, sessions."""

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
from agentgym.tools.python.cage import Cage
from agentgym.tools.python.protocol import Limits, Result, SandboxDied, Session, ended_by_code
from agentgym.tools.python.session import PythonSession

_OPEN: weakref.WeakSet[CageSandbox] = weakref.WeakSet()


class CageSandbox(ABC):
    """A sandbox whose calls run in cells of one cage; a cage that died is started again by the next call.

    Whatever ran in a cage when it died runs once more, in a cage of its own: code that ends that one too has failed
    (:attr:`Failure.EXITED`), and takes nobody's result with it.

    Args:
        limits: what one call may use.
        parallel: calls that run at the same time, the others wait for their turn (which counts against no limit);
            None: twice the processors.
        cells: sessions and running calls at the same time.
    """

    kind = "cage"

    def __init__(self, limits: Limits | None = None, *, parallel: int | None = None, cells: int = 256) -> None:
        self.limits = limits or Limits()
        self.parallel = parallel or 2 * (os.cpu_count() or 1)
        self.cells = cells + self.parallel  # those kept ready take none of the caller's
        self._turn = threading.BoundedSemaphore(self.parallel)
        self._starting = threading.Lock()
        self._suspecting = threading.Lock()
        self._cage: Cage | None = None
        self._owner = os.getpid()
        _OPEN.add(self)

    @abstractmethod
    def _start(self, cells: int, spares: int) -> Cage:
        """Start a cage.

        Args:
            cells: sessions and running calls at the same time.
            spares: cells kept ready for stateless calls.

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

    def cage(self) -> Cage:
        """The running cage; starts one where there is none.

        Raises:
            SandboxUnavailable: the first one cannot be started; says what to install.
            WorldFault: the one that was there died, and no other can be started.
        """
        with self._starting:
            if os.getpid() != self._owner:
                raise UsageError("this sandbox belongs to the process before a fork; open one in every process")
            if self._cage is None:
                self._cage = self._start(self.cells, self.parallel)
            elif not self._cage.alive:
                self._cage.close()
                self._cage = self._restarted(self.cells, self.parallel)
            return self._cage

    def _restarted(self, cells: int, spares: int) -> Cage:
        try:
            return self._start(cells, spares)
        except SandboxUnavailable as error:
            raise WorldFault(f"the sandbox died and cannot be started again: {error}") from error

    @contextlib.contextmanager
    def alone(self) -> Iterator[Cage]:
        """A cage for one suspect at a time: what dies in it died by the suspect's code.

        Raises:
            WorldFault: it cannot be started, or the sandbox was closed.
        """
        if self._cage is None:
            raise WorldFault("the sandbox was closed during the call")
        with self._suspecting:
            cage = self._restarted(2, 1)
            try:
                yield cage
            finally:
                cage.close()

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
        cage = self.cage()
        try:
            return self.call(cage, cage.open(), code, stdin, files, one_shot=True)
        except SandboxDied:
            with self.alone() as own:
                try:
                    return self.call(own, own.open(), code, stdin, files, one_shot=True)
                except SandboxDied:
                    return ended_by_code(stateless=True)

    def call(
        self,
        cage: Cage,
        cell: int,
        code: str,
        stdin: str,
        files: Mapping[str, str | bytes] | None,
        *,
        seed: bytes = b"",
        one_shot: bool = False,
    ) -> Result:
        """One call in one cell, when it is its turn."""
        prepared = check_files(files or {}, self.limits)
        typed = _encoded("stdin", stdin, self.limits.file_size)
        _encoded("code", code, self.limits.file_size)
        with self._turn:
            return cage.call(cell, seed, code, typed, prepared, one_shot=one_shot)

    def session(self, *, seed: int | None = None) -> PythonSession:
        """A new session; ``seed`` seeds Python's ``random`` in it."""
        return PythonSession(self, seed=seed)

    def close(self) -> None:
        with self._starting:
            cage, self._cage = self._cage, None  # whoever waits for a result sees that it was closed, and did not die
            if cage is not None and os.getpid() == self._owner:
                cage.close()

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
