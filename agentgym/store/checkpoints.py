"""Checkpoints of a run: folders that are whole or not there, with the checksum of every file.

::

    checkpoints/update-000003/
    ├── SHA256SUMS          one line a file, as `sha256sum --check` reads them
    └── ...                 whatever the run needs to continue
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from agentgym.errors import StoreError
from agentgym.store.files import sync, writing

SUMS = "SHA256SUMS"
_NAME = re.compile(r"update-(\d{6,})")


class Checkpoints:
    """The checkpoints in a folder.

    Args:
        path: the folder; made with the first checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def folder(self, update: int) -> Path:
        """Where the checkpoint of an update lies, or will."""
        return self.path / f"update-{update:06d}"

    def found(self) -> dict[int, Path]:
        """What is named like a checkpoint, by update, oldest first; see :meth:`damage`."""
        names = [path.name for path in self.path.glob("update-*")]
        updates = sorted(int(match[1]) for match in map(_NAME.fullmatch, names) if match)
        return {update: self.folder(update) for update in updates if self.folder(update).name in names}

    def odd(self) -> list[Path]:
        """What else lies there, e.g. ``update-3`` or ``update-000003.copy``: no checkpoint, and left alone."""
        known = set(self.found().values())
        there = sorted(self.path.iterdir()) if self.path.is_dir() else []
        return [path for path in there if path not in known and not path.name.startswith(".")]

    @contextlib.contextmanager
    def write(self, update: int) -> Iterator[Path]:
        """A folder to write a checkpoint into; it takes its place when the block ends well.

        What was there under that update is replaced. A block that ends with an error leaves nothing behind.
        """
        final = self.folder(update)
        temporary = final.with_name(f".{final.name}.tmp")
        _clear(temporary)
        try:
            with writing(final):
                temporary.mkdir(parents=True)
                yield temporary
                sums = [f"{_digest(file)}  {file.relative_to(temporary)}\n" for file in _files(temporary)]
                (temporary / SUMS).write_text("".join(sums))
                for path in (*temporary.rglob("*"), temporary):
                    sync(path)
            _remove(final)
            temporary.rename(final)
        except BaseException:
            _clear(temporary)
            raise
        sync(self.path)

    def prune(self, keep: int) -> None:
        """Delete all but the newest ``keep`` checkpoints, and what a crash left of unfinished ones."""
        for path in list(self.found().values())[:-keep]:
            _remove(path)
        for path in self.path.glob(".update-*"):
            _clear(path)

    def newest(self) -> tuple[int, Path]:
        """The newest checkpoint, every byte of it as it was written.

        Raises:
            StoreError: there is none, or it is damaged; the newest one that is whole is offered.
        """
        found = self.found()
        if not found:
            odd = [path.name for path in self.odd()]
            what = f"; {odd[0]!r} is not named like one (update-000003)" if odd else ""
            raise StoreError(f"{self.path.parent} has no checkpoint{what}")
        update, path = list(found.items())[-1]
        wrong = damage(path)
        if wrong is not None:
            whole = (older.name for older in reversed(list(found.values())[:-1]) if damage(older) is None)
            older = next(whole, None)
            offer = f"delete that folder and {older}, which is whole, is the newest" if older else "no other is whole"
            raise StoreError(f"the checkpoint {path} is damaged: {wrong}; {offer}")
        return update, path

    def whole(self, update: int) -> Path:
        """The checkpoint of an update, every byte of it as it was written.

        Raises:
            StoreError: it is damaged.
        """
        path = self.folder(update)
        if (wrong := damage(path)) is not None:
            raise StoreError(f"the checkpoint {path} is damaged: {wrong}; choose another one")
        return path


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, in a few words; None: every byte is as it was written."""
    if not path.is_dir():
        return "it is not a folder"
    try:
        lines = (path / SUMS).read_text().splitlines()
    except FileNotFoundError:
        return f"{SUMS} is missing"
    except UnicodeDecodeError:
        return f"{SUMS} is not text"
    if not lines:
        return f"{SUMS} is empty"
    for line in lines:
        match = re.fullmatch(r"([0-9a-f]{64})  (.+)", line)
        if match is None:
            return f"{SUMS} holds the line {line[:80]!r}"
        file = path / match[2]
        if not file.is_file():
            return f"{match[2]} is missing"
        if _digest(file) != match[1]:
            return f"{match[2]} is {'not what was written' if file.stat().st_size else 'empty'}"
    return None


def _clear(path: Path) -> None:
    """Delete a folder as far as possible; of a link the link alone."""
    if path.is_symlink():
        path.unlink()
    shutil.rmtree(path, ignore_errors=True)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _remove(path: Path) -> None:
    """Delete a checkpoint; it loses its name first, so that a crash leaves no half of one under it."""
    if path.exists():
        hidden = path.with_name(f".{path.name}.old")
        shutil.rmtree(hidden, ignore_errors=True)
        path.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)
