"""Small files that survive a crash, and files of one JSON object a line."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO

import orjson

from agentgym.errors import DiskFull, StoreError

StrPath = str | os.PathLike[str]


def lock(file: IO[bytes], what: Path) -> None:
    """Keep other writers out while the file is open, at most as long as this process lives."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StoreError(f"{what} is being written by another process; wait for its end or stop it") from None


@contextlib.contextmanager
def writing(path: StrPath) -> Iterator[None]:
    """Name the file or folder that a block writes, if the disk is full.

    Raises:
        DiskFull: instead of whatever the block raised for want of room; libraries have errors of their own for it.
    """
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        reason = _want_of_room(error)
        if reason is None:
            raise
        raise DiskFull(f"{path} cannot be written: {reason}; make room: what was saved before is whole") from error


def _want_of_room(error: BaseException | None) -> str | None:
    """The reason, if the error or one that led to it is a full disk, an exhausted quota or a limit on file sizes."""
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        named = re.search(r"\(os error (\d+)\)", str(error))  # as libraries in Rust end their messages
        code = int(named[1]) if number is None and named is not None else number
        if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return os.strerror(code)
        error = error.__cause__ or error.__context__
    return None


def atomic_write(path: StrPath, content: bytes | str) -> None:
    """Write a file so that a crash leaves the old one or the new one, never half of it."""
    path = Path(path)
    temporary = fresh_name(path)
    try:
        with writing(path), open_fresh(temporary) as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def fresh_name(path: Path) -> Path:
    """A name beside the file that nobody can guess, and so not take first."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def open_fresh(path: Path) -> BinaryIO:
    """Open a file to write that is not there yet, neither as a file nor as a link to one.

    Raises:
        FileExistsError: something has that name.
    """
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666), "wb")


def open_own(path: Path) -> BinaryIO:
    """Open a file of the run folder's own to lock it, made where it is missing; what a link points to is left alone.

    Raises:
        StoreError: it is a link.
    """
    try:
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+b")
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise StoreError(f"{path} is a link; a run folder has files of its own: delete it") from None


def sync(path: Path) -> None:
    """Wait until a file's bytes, or the names in a folder, are on disk."""
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
        line = orjson.dumps(dict(record), option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY)
        with writing(self.path):
            if not self._whole:
                self._end_with_a_line()
            self._whole = False
            with self.path.open("ab") as file:
                file.write(line)
            self._whole = True

    def read(self) -> list[dict[str, Any]]:
        """Every whole line; none where the file is not there.

        Raises:
            StoreError: a line is not a JSON object.
        """
        return list(self._records())

    def saved(self) -> int:
        """Wait for the disk. Returns the bytes that are there now, for :meth:`cut`."""
        if not self.path.exists():
            return 0
        with writing(self.path):
            sync(self.path)
            sync(self.path.parent)
        return self.path.stat().st_size

    def cut(self, size: int) -> None:
        """Drop what was written after :meth:`saved`, so that a resumed run writes it again.

        Raises:
            StoreError: the file has become shorter than that.
        """
        there = self.path.stat().st_size if self.path.exists() else 0
        if there < size:
            raise StoreError(
                f"{self.path} has {there} bytes, but had {size} when the checkpoint was written: lines are missing; "
                "put the file back"
            )
        if there > size:
            os.truncate(self.path, size)
            sync(self.path)

    def _end_with_a_line(self) -> None:
        """Drop the line that a crash left half-written."""
        if self.path.exists():
            content = self.path.read_bytes()
            if not content.endswith(b"\n"):
                os.truncate(self.path, content.rfind(b"\n") + 1)

    def _records(self) -> Iterator[dict[str, Any]]:
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
            yield record
