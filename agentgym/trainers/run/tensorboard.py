"""Metrics for TensorBoard, beside ``metrics.jsonl``."""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Self

from agentgym.store.files import writing


class TensorBoardLogger:
    """Writes scalars into a folder for ``tensorboard --logdir``; a context manager.

    What it writes is a copy of ``metrics.jsonl``, so without the package it writes nothing, and training goes on. It
    writes at once, in the thread that calls it: the package's own writer has a thread that dies of a full disk.

    Args:
        path: the folder.
        update: the run goes on after this update: what an earlier process wrote beyond it is hidden.

    Attributes:
        available: whether tensorboard is installed.
    """

    def __init__(self, path: Path, update: int) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        try:
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            self.available = False
            return
        self.available = True
        self._event, self._summary = Event, Summary
        with writing(path):
            path.mkdir(exist_ok=True)
            self._file = _new(path).open("xb")
            self._records = RecordWriter(self._file)
            self._write(file_version="brain.Event:2")
            # at the start the evaluation before the first update is made again
            self._write(step=update + 1 if update else 0, session_log=SessionLog(status=SessionLog.START))

    def add(self, update: int, figures: Mapping[str, Any]) -> None:
        """The numbers among the figures; names before the first ``_`` group ``eval_...`` apart from the rest."""
        if self._file is None:
            return
        values = []
        for name, value in figures.items():
            if isinstance(value, int | float) and name != "update":
                group = "eval" if name.startswith("eval_") else "train"
                tag = f"{group}/{name.removeprefix('eval_')}"
                values.append(self._summary.Value(tag=tag, simple_value=value))
        with writing(self._path):
            self._write(step=update, summary=self._summary(value=values))
            self._file.flush()

    def _write(self, **content: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with writing(self._path):
                self._file.close()


def _new(folder: Path) -> Path:
    """A name that TensorBoard recognises, behind all that are there."""
    name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}"
    return next(path for n in itertools.count() if not (path := folder / f"{name}.{n}").exists())
