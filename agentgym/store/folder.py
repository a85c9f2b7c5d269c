"""The folder of a run."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from agentgym.errors import StoreError
from agentgym.records import Episode
from agentgym.store.episodes import EpisodeWriter, read_episodes
from agentgym.store.files import JsonLines, StrPath, atomic_write, lock, sync_folder


class RunFolder:
    """An existing run folder; :meth:`create` makes one.

    Args:
        path: the folder.

    Attributes:
        config: what ``run.yaml`` says.
        metrics: ``metrics.jsonl``.
        credits: ``credits.jsonl``, the credit of each turn of the episodes that were trained on.

    Raises:
        StoreError: there is no run here.
    """

    def __init__(self, path: StrPath) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise StoreError(f"{self.path} is not a folder; give the folder of a run")
        try:
            self.config: dict[str, Any] = yaml.safe_load((self.path / "run.yaml").read_bytes())
        except FileNotFoundError:
            raise StoreError(f"{self.path} is not a run folder: it has no run.yaml") from None
        except yaml.YAMLError as error:
            raise StoreError(f"{self.path / 'run.yaml'} is damaged: {str(error).splitlines()[0]}") from error
        if not isinstance(self.config, dict):
            raise StoreError(f"{self.path / 'run.yaml'} is damaged: it is not a mapping")
        self.metrics = JsonLines(self.path / "metrics.jsonl")
        self.credits = JsonLines(self.path / "credits.jsonl")

    @classmethod
    def create(cls, path: StrPath, config: Mapping[str, Any]) -> RunFolder:
        """Make a run folder; the folder must be new or empty.

        Raises:
            StoreError: it holds a run, or something else.
        """
        path = Path(path)
        if (path / "run.yaml").exists():
            raise StoreError(f"{path} already holds a run; continue it with --resume, or choose another folder")
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise StoreError(f"{path} exists and is not a run folder; choose another folder")
        path.mkdir(parents=True, exist_ok=True)
        atomic_write(path / "run.yaml", yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
        return cls(path)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other runs from writing here meanwhile.

        Raises:
            StoreError: one does already.
        """
        with (self.path / "run.yaml").open("rb") as file:
            lock(file, self.path)
            yield

    def writer(self, name: str = "train", at: int | None = None) -> EpisodeWriter:
        """Append to ``episodes-{name}.jsonl.zst``; see :class:`EpisodeWriter`."""
        return EpisodeWriter(self.path / f"episodes-{name}.jsonl.zst", at)

    def episodes(self, name: str = "*") -> Iterator[Episode]:
        """The stored episodes; of every file, or of one."""
        for file in sorted(self.path.glob(f"episodes-{name}.jsonl.zst")):
            yield from read_episodes(file)

    @property
    def report(self) -> Path:
        """Where the report page belongs."""
        return self.path / "report.html"

    @contextlib.contextmanager
    def checkpoint(self, update: int) -> Iterator[Path]:
        """A folder to write a checkpoint into; it becomes ``checkpoints/update-{update}`` when the block ends well.

        A checkpoint of that update which is there already is replaced.
        """
        final = self.path / "checkpoints" / f"update-{update:06d}"
        temporary = final.with_name(f".{final.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        sync_folder(final.parent)

    def checkpoints(self) -> dict[int, Path]:
        """The whole checkpoints, by update, oldest first."""
        found = sorted((self.path / "checkpoints").glob("update-[0-9]*"))
        return {int(path.name.removeprefix("update-")): path for path in found}

    def prune(self, keep: int) -> None:
        """Delete all but the newest ``keep`` checkpoints."""
        for path in list(self.checkpoints().values())[:-keep]:
            shutil.rmtree(path)

    def latest_checkpoint(self) -> tuple[int, Path]:
        """The newest whole checkpoint.

        Raises:
            StoreError: there is none yet.
        """
        found = self.checkpoints()
        if not found:
            raise StoreError(f"{self.path} has no checkpoint to continue from; start it again in another folder")
        return list(found.items())[-1]
