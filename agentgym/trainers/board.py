"""Metrics for TensorBoard, beside ``metrics.jsonl``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self


class Board:
    """Writes scalars into a folder for ``tensorboard --logdir``; a context manager.

    What it writes is a copy of ``metrics.jsonl``, so without the package it writes nothing, and training goes on.

    Args:
        path: the folder.
        update: the run goes on after this update: what an earlier process wrote beyond it is hidden.

    Attributes:
        available: whether tensorboard is installed.
    """

    def __init__(self, path: Path, update: int) -> None:
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.available = False
            return
        self.available = True
        self._writer = SummaryWriter(str(path), purge_step=update + 1)

    def add(self, update: int, figures: Mapping[str, Any]) -> None:
        """The numbers among the figures; names before the first ``_`` group ``eval_...`` apart from the rest."""
        if self._writer is None:
            return
        for name, value in figures.items():
            if isinstance(value, int | float) and name != "update":
                group = "eval" if name.startswith("eval_") else "train"
                self._writer.add_scalar(f"{group}/{name.removeprefix('eval_')}", value, update)

    def flush(self) -> None:
        """Put what waits on disk."""
        if self._writer is not None:
            self._writer.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()
