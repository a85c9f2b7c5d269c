"""The folder of a run."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import yaml

from agentgym.errors import StoreError
from agentgym.records import Episode
from agentgym.store.checkpoints import Checkpoints
from agentgym.store.episodes import EpisodeWriter, read_episodes
from agentgym.store.files import JsonLines, StrPath, atomic_write, lock, open_own, writing

_MOST_BYTES, _MOST_VALUES = 4_000_000, 200_000  # of run.yaml


class RunFolder:
    """An existing run folder; :meth:`create` makes one.

    Args:
        path: the folder.

    Attributes:
        config: what ``run.yaml`` says.
        saved: the checkpoints.
        metrics: ``metrics.jsonl``.
        advantages: ``advantages.jsonl``, the advantage of each turn of the episodes that were trained on.

    Raises:
        StoreError: there is no run here.
    """

    def __init__(self, path: StrPath) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise StoreError(f"{self.path} is not a folder; give the folder of a run")
        try:
            self.config: dict[str, Any] = _from_yaml(self.path / "run.yaml")
        except FileNotFoundError:
            raise StoreError(f"{self.path} is not a run folder: it has no run.yaml") from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            reason = str(error).splitlines()[0] if str(error) else "it is nested too deeply"
            raise StoreError(f"{self.path / 'run.yaml'} is damaged: {reason}") from error
        if not isinstance(self.config, dict):
            raise StoreError(f"{self.path / 'run.yaml'} is damaged: it is not a mapping")
        self.saved = Checkpoints(self.path / "checkpoints")
        self.metrics = JsonLines(self.path / "metrics.jsonl")
        self.advantages = JsonLines(self.path / "advantages.jsonl")

    @classmethod
    def create(cls, path: StrPath, config: Mapping[str, Any]) -> RunFolder:
        """Make a run folder; the folder must be new or empty.

        Raises:
            StoreError: it holds a run, or something else.
        """
        path = Path(path)
        cls.check_free(path)
        made = not path.exists()
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(mode=0o700, exist_ok=True)  # episodes may hold what nobody else should read
        try:
            atomic_write(path / "run.yaml", _as_yaml(config))
        except BaseException:
            if made:
                path.rmdir()
            raise
        return cls(path)

    @staticmethod
    def check_free(path: StrPath) -> None:
        """Refuse what :meth:`create` would refuse, without making anything.

        Raises:
            StoreError: the folder holds a run or something else, or cannot be made where it should be.
        """
        path = Path(path)
        if (path / "run.yaml").exists():
            raise StoreError(f"{path} already holds a run; continue it with --resume, or choose another folder")
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise StoreError(f"{path} exists and is not a run folder; choose another folder")
        parent = next(p for p in (path, *path.absolute().parents) if p.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise StoreError(f"{path} cannot be made: {parent} is no folder to write in; choose another folder")

    def remove(self) -> None:
        """Delete the run with everything in it."""
        shutil.rmtree(self.path)

    def rewrite(self, config: Mapping[str, Any]) -> None:
        """Give the run another ``run.yaml``."""
        atomic_write(self.path / "run.yaml", _as_yaml(config))
        self.config = dict(config)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other runs from writing here meanwhile.

        Raises:
            StoreError: one does already.
        """
        with writing(self.path):
            file = open_own(self.path / ".lock")  # run.yaml itself may be replaced meanwhile
        with file:
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

    def checkpoint(self, update: int) -> AbstractContextManager[Path]:
        """A folder to write a checkpoint into; see :meth:`Checkpoints.write`."""
        return self.saved.write(update)

    def checkpoints(self) -> dict[int, Path]:
        """The checkpoints, by update, oldest first; see :meth:`Checkpoints.found`."""
        return self.saved.found()

    def latest_checkpoint(self) -> tuple[int, Path]:
        """The newest checkpoint and its update; see :meth:`Checkpoints.newest`.

        Raises:
            StoreError: there is none, or it is damaged.
        """
        return self.saved.newest()


def _from_yaml(path: Path) -> Any:
    """What a YAML file says; a few lines of it could stand for billions of values.

    Raises:
        ValueError: it is too large for what a run records.
    """
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"it has more than {_MOST_BYTES} bytes")
    config = yaml.safe_load(content)
    left, waiting = _MOST_VALUES, [config]
    while waiting:
        value = waiting.pop()
        left -= 1
        waiting += [*value.values()] if isinstance(value, dict) else value if isinstance(value, list | set) else []
        if left < len(waiting):
            raise ValueError(f"it stands for more than {_MOST_VALUES} values")
    return config


def _as_yaml(config: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
