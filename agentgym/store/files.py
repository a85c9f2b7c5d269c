"""Small files that survive a crash, and files of one JSON object a line."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from agentgym.errors import StoreError

StrPath = str | os.PathLike[str]


def lock(file: BinaryIO, what: Path) -> None:
    """Keep other writers out while the file is open, at most as long as this process lives."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StoreError(f"{what} is being written by another process; wait for its end or stop it") from None


def atomic_write(path: StrPath, content: bytes | str) -> None:
    """Write a file so that a crash leaves the old one or the new one, never half of it."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """A rename is on disk once its folder is."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class JsonLines:
    """A file of one JSON object a line, e.g. ``metrics.jsonl``. NaN and infinity become null."""

    def __init__(self, path: StrPath) -> None:
        self.path = Path(path)
        self._whole = False  # whether the last line is known to be whole

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one line; numpy scalars and arrays are taken as numbers and lists."""
        if not self._whole:
            self._keep(lambda _: True)
            self._whole = True
        line = orjson.dumps(dict(record), option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY)
        with self.path.open("ab") as file:
            file.write(line)

    def read(self) -> list[dict[str, Any]]:
        """Every whole line; none where the file is not there.

        Raises:
            StoreError: a line is not a JSON object.
        """
        return [record for _, record in self._lines()]

    def cut(self, update: int) -> None:
        """Drop the lines of later updates, so that a resumed run writes them again."""
        self._keep(lambda record: record.get("update", 0) <= update)

    def _keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        if self.path.exists():
            before = self.path.read_bytes()
            after = b"".join(line for line, record in self._lines() if wanted(record))
            if after != before:
                atomic_write(self.path, after)

    def _lines(self) -> Iterator[tuple[bytes, dict[str, Any]]]:
        content = self.path.read_bytes() if self.path.exists() else b""
        for number, line in enumerate(content.splitlines(keepends=True), 1):
            if not line.endswith(b"\n"):
                return  # a crash left it half-written
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise StoreError(f"{self.path}, line {number} is damaged: {error}") from error
            if not isinstance(record, dict):
                raise StoreError(f"{self.path}, line {number} is not a JSON object: {line[:60]!r}")
            yield line, record
