"""What the three sandboxes share: one cage for all threads, stateless calls, sessions."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Self

from agentgym.env import digest
from agentgym.errors import UsageError
from agentgym.tools.python.cage import Cage
from agentgym.tools.python.protocol import Limits, Result, Session
from agentgym.tools.python.session import PythonSession

_OPEN: weakref.WeakSet[CageSandbox] = weakref.WeakSet()


class CageSandbox(ABC):
    """A sandbox whose calls run in cells of one cage; a cage that died is started again by the next call.

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
        self._cage: Cage | None = None
        self._owner = os.getpid()
        _OPEN.add(self)

    @abstractmethod
    def _start(self) -> Cage:
        """Start a cage.

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
        """The running cage; starts one where there is none."""
        with self._starting:
            if os.getpid() != self._owner:
                raise UsageError("this sandbox belongs to the process before a fork; open one in every process")
            if self._cage is None or not self._cage.alive:
                if self._cage is not None:
                    self._cage.close()
                self._cage = self._start()
            return self._cage

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
        return self.call(cage, cage.open(), code, stdin, files, one_shot=True)

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
            if self._cage is not None and os.getpid() == self._owner:
                self._cage.close()
            self._cage = None

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
