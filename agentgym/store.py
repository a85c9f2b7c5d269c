"""Episodes and run folders on disk.

::

    runs/my-run/
    ├── run.yaml                     recipe, every parameter, versions, fingerprints; fully resolved
    ├── metrics.jsonl                one JSON object a line: {"update": 3, "loss": 0.1, ...}
    ├── credits.jsonl                {"update": 3, "episode": "3.0/1", "credit": [0.5, -0.5]}, one number a turn
    ├── episodes-train.jsonl.zst     one zstd frame a flush, so a crash loses at most the frame being written
    ├── checkpoints/update-000003/   whole or not there
    └── report.html

An episode is one line of JSON and comes back equal, floats bit for bit. Strict JSON has no NaN, no infinity, no lone
surrogate, and integers beyond 64 bits get rounded by many readers: a line that needs one of these starts with ``!``
and is Python's JSON in UTF-8 with surrogates passed through.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import orjson
import yaml
import zstandard

from agentgym.errors import StoreError
from agentgym.records import Episode, Sample, StopReason, Task, ToolCall, Turn, Usage

StrPath = str | os.PathLike[str]
PATTERN = "episodes-*.jsonl.zst"
FLUSH_BYTES = 8 << 20  #: a writer flushes by itself when this much text waits
_CHUNK = 1 << 16


# One episode <-> one line ---------------------------------------------------------------------------------------------


def encode(episode: Episode) -> bytes:
    """The episode as one line, newline included.

    Raises:
        StoreError: its options or tool arguments are not JSON values.
    """
    try:
        if _finite(episode):
            return orjson.dumps(episode, default=_plain, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # a lone surrogate or a large integer; anything else fails again below, with its reason
        pass
    try:
        for where in (episode.task.options, *(c.arguments for t in episode.turns for c in t.tool_calls)):
            _require_text_keys(where)
        text = json.dumps(episode, default=_plain, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise StoreError(f"episode {episode.id!r} cannot be stored: {error}; keep JSON values in it") from error
    return b"!" + text.encode("utf-8", "surrogatepass") + b"\n"


def decode(line: bytes) -> Episode:
    """Inverse of :func:`encode`.

    Raises:
        StoreError: it is not an episode of this version.
    """
    try:
        record = json.loads(line[1:].decode("utf-8", "surrogatepass")) if line[:1] == b"!" else orjson.loads(line)
        task = Task(**record.pop("task"))
        turns = tuple(map(_turn, record.pop("turns")))
        stop = StopReason(record.pop("stop"))
        answers, evidence = tuple(record.pop("answers", ())), tuple(record.pop("evidence", ()))
        return Episode(task=task, turns=turns, stop=stop, answers=answers, evidence=evidence, **record)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(f"not an episode record ({type(error).__name__}: {error}): {line[:60]!r}...") from error


def _turn(record: dict[str, Any]) -> Turn:
    calls = tuple(ToolCall(**c) for c in record.pop("tool_calls", ()))
    sample = record.pop("sample", None)
    if sample is not None:
        for name in ("context", "action", "logprobs", "entropies"):
            sample[name] = tuple(sample.get(name, ()))
        sample["choices"] = tuple(map(tuple, sample.get("choices", ())))
        sample = Sample(**sample)
    return Turn(tool_calls=calls, sample=sample, usage=Usage(**record.pop("usage", {})), **record)


def _plain(value: object) -> object:
    """For JSON encoders: what they do not know themselves."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} of type {type(value).__name__} is not a JSON value")


def _finite(value: object) -> bool:
    """Whether strict JSON can hold every float in it. A tuple of floats is summed: that is fast, and at worst overflows
    and takes the other way of writing."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Sample):
        return math.isfinite(sum(value.logprobs)) and math.isfinite(sum(value.entropies))
    if isinstance(value, Usage):
        return math.isfinite(value.cost + value.model_seconds + value.tool_seconds + value.waiting_seconds)
    if isinstance(value, Turn):
        return _finite(value.reward) and _finite(value.sample) and _finite(value.usage) and _finite(value.tool_calls)
    if isinstance(value, ToolCall):
        return math.isfinite(value.seconds + value.cost) and _finite(value.arguments)
    if isinstance(value, Episode):
        return _finite(value.task.options) and _finite(value.turns)
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return True


def _require_text_keys(value: object) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"key {key!r} is not a text")
            _require_text_keys(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _require_text_keys(item)


# Episode files --------------------------------------------------------------------------------------------------------


class EpisodeWriter:
    """Appends episodes to a file; a context manager.

    Args:
        path: the file; made if it is not there. A frame that a crash left half-written is cut off.
        at: cut the file here first, at a :attr:`position` of before; None continues after the last whole frame.

    Raises:
        StoreError: not an episode file, ``at`` is not one of its positions, or another writer has it open.
    """

    def __init__(self, path: StrPath, at: int | None = None) -> None:
        self.path = Path(path)
        self._waiting: list[bytes] = []
        self._size = 0
        self._compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
        self._file: BinaryIO = self.path.open("a+b")
        try:
            _lock(self._file, self.path)
            ends = [0, *(end for end, _ in _frames(self.path))]
            if at is not None and at not in ends:
                raise StoreError(
                    f"{self.path} cannot be continued at byte {at}: its last whole frame ends at {ends[-1]}"
                )
        except StoreError:
            self._file.close()
            raise
        self.position = ends[-1] if at is None else at  #: bytes that are safely on disk
        self._file.truncate(self.position)

    def append(self, episode: Episode) -> None:
        """Add an episode; it is on disk after the next :meth:`flush`."""
        line = encode(episode)
        self._waiting.append(line)
        self._size += len(line)
        if self._size >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> int:
        """Write what waits as one frame and wait for the disk. Returns the new :attr:`position`."""
        if self._waiting:
            frame = self._compressor.compress(b"".join(self._waiting))
            self._waiting, self._size = [], 0
            self._file.write(frame)
            self._file.flush()
            os.fsync(self._file.fileno())
            self.position += len(frame)
        return self.position

    def close(self) -> None:
        """Flush and close."""
        if not self._file.closed:
            self.flush()
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_episodes(path: StrPath) -> Iterator[Episode]:
    """The episodes of a file, or of every ``episodes-*.jsonl.zst`` of a run folder, in the order they were written.

    A last frame that a crash left half-written is left out.

    Raises:
        StoreError: nothing there, or it is not an episode file.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob(PATTERN))
        if not files:
            raise StoreError(f"{path} holds no {PATTERN}; is it a run folder?")
    elif path.exists():
        files = [path]
    else:
        raise StoreError(f"{path} does not exist; give a run folder or an {PATTERN} file")
    for file in files:
        for _, content in _frames(file):
            yield from map(decode, content.splitlines())


def _frames(path: Path) -> Iterator[tuple[int, bytes]]:
    """(byte where it ends, content) of each whole frame."""
    end, buffer = 0, b""
    with path.open("rb") as file:
        while True:
            frame, parts = zstandard.ZstdDecompressor().decompressobj(), []
            while not frame.eof:
                buffer = buffer or file.read(_CHUNK)
                if not buffer:
                    return
                try:
                    parts.append(frame.decompress(buffer))
                except zstandard.ZstdError as error:
                    raise StoreError(f"{path} is damaged after byte {end} or no episode file: {error}") from error
                end += len(buffer) - len(frame.unused_data)
                buffer = frame.unused_data
            yield end, b"".join(parts)


# Small files ----------------------------------------------------------------------------------------------------------


def _lock(file: BinaryIO, what: Path) -> None:
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
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
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


# The folder of a run --------------------------------------------------------------------------------------------------


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
            _lock(file, self.path)
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
        _sync_folder(final.parent)

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
