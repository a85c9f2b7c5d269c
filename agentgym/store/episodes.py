"""Episodes as lines, and files of them."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import itertools
import json
import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import orjson
import zstandard

from agentgym.errors import StoreError
from agentgym.records import Episode, Sample, StopReason, Task, ToolCall, Turn, Usage
from agentgym.store.files import StrPath, atomic_write, lock, sync, writing
from agentgym.store.shapes import shaped

PATTERN = "episodes-*.jsonl.zst"
FLUSH_BYTES = 8 << 20  #: a writer flushes by itself when this much text waits
MOST_UNPACKED = 256 << 20  #: bytes of one frame, and so of one episode; a small file can hold gigabytes
_CHUNK = 1 << 16
_FEED = 1 << 10  # bytes unpacked at once: a block of four unpacks to 128 KiB
_MAGIC = b"\x28\xb5\x2f\xfd"  # how a zstd frame begins


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
        task = shaped(Task(**record.pop("task")))
        turns = tuple(map(_turn, record.pop("turns")))
        stop = StopReason(record.pop("stop"))
        record |= {name: tuple(record.get(name, ())) for name in ("answers", "evidence")}
        final = _sample(record.pop("final_context", None))
        return shaped(Episode(task=task, turns=turns, stop=stop, final_context=final, **record))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise StoreError(f"not an episode record ({type(error).__name__}: {error}): {line[:60]!r}...") from error


def _turn(record: dict[str, Any]) -> Turn:
    calls = tuple(shaped(ToolCall(**c)) for c in record.pop("tool_calls", ()))
    sample = _sample(record.pop("sample", None))
    screenshot = record.pop("screenshot", None)
    if screenshot is not None:
        screenshot = base64.b64decode(screenshot, validate=True)
    usage = shaped(Usage(**record.pop("usage", {})))
    return shaped(Turn(tool_calls=calls, sample=sample, usage=usage, screenshot=screenshot, **record))


def _sample(record: dict[str, Any] | None) -> Sample | None:
    if record is None:
        return None
    record |= {name: tuple(record.get(name, ())) for name in ("context", "action", "logprobs", "entropies")}
    return shaped(Sample(**record | {"choices": tuple(map(tuple, record.get("choices", ())))}))


def _plain(value: object) -> object:
    """For JSON encoders: what they do not know themselves."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
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
        parts = (value.reward, value.sample, value.usage, value.tool_calls, value.columns)
        return all(map(_finite, parts))
    if isinstance(value, ToolCall):
        return math.isfinite(value.seconds + value.cost) and _finite(value.arguments)
    if isinstance(value, Episode):
        return all(map(_finite, (value.task.options, value.turns, value.metrics, value.final_context)))
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
        path: the file; made if it is not there. A frame that a crash left half-written is cut off. Anything else that
            stands behind the last whole frame, zeros for example after a power cut, is moved to a file beside it.
        at: cut the file here first, at a :attr:`position` of before; None continues after the last whole frame.

    Raises:
        StoreError: not an episode file, one that is damaged before its last frame, ``at`` is not one of its positions,
            or another writer has it open.
    """

    def __init__(self, path: StrPath, at: int | None = None) -> None:
        self.path = Path(path)
        self._waiting: list[bytes] = []
        self._size = 0
        self._compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
        self._file = self.path.open("a+b", buffering=0)
        try:
            lock(self._file, self.path)
            self.position = self._begin(at)  #: bytes that are safely on disk
        except BaseException:
            self._file.close()
            raise
        self._file.truncate(self.position)

    def append(self, episode: Episode) -> None:
        """Add an episode; it is on disk after the next :meth:`flush`."""
        line = encode(episode)
        if len(line) + FLUSH_BYTES > MOST_UNPACKED:
            raise StoreError(f"episode {episode.id!r} has {len(line)} bytes; an episode has at most 248 MiB")
        self._waiting.append(line)
        self._size += len(line)
        if self._size >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> int:
        """Write what waits as one frame and wait for the disk. Returns the new :attr:`position`.

        Raises:
            DiskFull: no room; what waits goes on waiting.
        """
        if self._waiting:
            frame = self._compressor.compress(b"".join(self._waiting))
            try:
                with writing(self.path):
                    self._write(frame)
            except BaseException:
                self._file.truncate(self.position)
                raise
            self.position += len(frame)
            self._waiting, self._size = [], 0
        return self.position

    def close(self) -> None:
        """Flush and close."""
        if not self._file.closed:
            try:
                self.flush()
            finally:
                self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, at: int | None) -> int:
        """Where the next frame belongs; puts aside what was never written by a writer."""
        ends, damage = [0], None
        try:
            for end, _ in _frames(self.path):
                ends.append(end)
        except _Damage as found:
            damage = found
            if at is None and not found.last:
                raise found.error(self.path) from found
        if at is not None and at not in ends:
            raise StoreError(
                f"{self.path} cannot be continued at byte {at}: its last whole frame ends at {ends[-1]}; put the file "
                "back as it was when the checkpoint was written"
            )
        if damage is not None:
            self._put_aside(damage)
        return ends[-1] if at is None else at

    def _put_aside(self, damage: _Damage) -> None:
        content = self.path.read_bytes()[damage.byte :]
        names = (f"{self.path.name}.damaged-{number}" for number in itertools.count(1))
        aside = next(path for path in map(self.path.with_name, names) if not path.exists())
        atomic_write(aside, content)
        warnings.warn(
            f"{self.path}: behind its last whole frame stood {len(content)} bytes that are not episodes; "
            f"they were moved to {aside.name}",
            stacklevel=4,
        )

    def _write(self, frame: bytes) -> None:
        left = memoryview(frame)
        while left:
            left = left[self._file.write(left) :]
        sync(self.path)
        if not self.position:
            sync(self.path.parent)


def read_episodes(path: StrPath) -> Iterator[Episode]:
    """The episodes of a file, or of every ``episodes-*.jsonl.zst`` of a run folder, in the order they were written.

    A last frame that a crash left half-written is left out; so is, with a warning, anything else behind the last whole
    frame.

    Raises:
        StoreError: nothing there, it is not an episode file, or it is damaged before its last frame.
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
        try:
            for _, content in _frames(file):
                yield from map(decode, content.splitlines())
        except _Damage as damage:
            if not damage.last:
                raise damage.error(file) from damage
            warnings.warn(
                f"{file}: what stands behind byte {damage.byte} is not episodes and is left out", stacklevel=2
            )


# Frames ---------------------------------------------------------------------------------------------------------------


class _Damage(Exception):
    """Bytes that are neither a frame nor the beginning of one.

    Attributes:
        byte: where they begin, behind a whole frame or at the start of the file.
        last: whether no whole frame follows them, so that nothing is lost without them.
    """

    def __init__(self, path: Path, byte: int, reason: str) -> None:
        super().__init__(reason)
        self.byte = byte
        rest = path.read_bytes()[byte:]
        self.last = not rest.strip(b"\0") or (byte > 0 and not _holds_a_frame(rest))

    def error(self, path: Path) -> StoreError:
        return StoreError(f"{path} is damaged after byte {self.byte} or no episode file: {self}")


def _frames(path: Path) -> Iterator[tuple[int, bytes]]:
    """(byte where it ends, content) of each whole frame.

    Raises:
        _Damage: something else stands behind them.
    """
    end, buffer = 0, b""
    with path.open("rb") as file:
        while True:
            frame, parts, begin, size = zstandard.ZstdDecompressor().decompressobj(), [], end, 0
            while not frame.eof:
                buffer = buffer or file.read(_CHUNK)
                if not buffer:
                    return
                fed, buffer = buffer[:_FEED], buffer[_FEED:]
                try:
                    parts.append(frame.decompress(fed))
                except zstandard.ZstdError as error:
                    raise _Damage(path, begin, str(error)) from error
                size += len(parts[-1])
                if size > MOST_UNPACKED:
                    most = f"{MOST_UNPACKED >> 20} MiB"
                    raise StoreError(
                        f"{path} is no episode file: the frame at byte {begin} unpacks to more than {most}"
                    )
                end += len(fed) - len(frame.unused_data)
                buffer = frame.unused_data + buffer
            yield end, b"".join(parts)


def _holds_a_frame(content: bytes) -> bool:
    """Whether a whole frame begins anywhere behind the first byte; where finding out costs too much, one may."""
    at, size = content.find(_MAGIC, 1), 0
    while at >= 0:
        frame, place = zstandard.ZstdDecompressor().decompressobj(), at
        with contextlib.suppress(zstandard.ZstdError):
            while not frame.eof and place < len(content) and size <= MOST_UNPACKED:
                size += _FEED + len(frame.decompress(content[place : place + _FEED]))
                place += _FEED
        if frame.eof or size > MOST_UNPACKED:
            return True
        at = content.find(_MAGIC, at + 1)
    return False
