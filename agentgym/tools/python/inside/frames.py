"""Length-prefixed frames and fields. Nothing is ever unpickled, and every length is checked before it is believed."""

from __future__ import annotations

import os
import struct

HEADER = struct.Struct("!IIB")  #: payload bytes, lease, kind
SIZE = struct.Struct("!I")
MAX_FRAME = 256 * 1024 * 1024

READY, CALL, CLOSE, RESULT, GONE, SPOILED = range(1, 7)

#: How a call ended, as its monitor saw it.
REPORTED, EXITED, KILLED = range(3)

#: status, exit code, seconds, CPU seconds, bytes of memory, limits (bits), bytes of stdout, of stderr
VERDICT = struct.Struct("!BiddQBQQ")

#: Bits of ``VERDICT``'s limits, in the order of ``agentgym.tools.python.Limit``.
WALL, CPU, MEMORY, PROCESSES, FILE_SIZE, DISK, OUTPUT = (1 << bit for bit in range(7))


class FrameError(ValueError):
    """Bytes that are no frame or no fields."""


def pack(*fields: bytes) -> bytes:
    """Join ``fields``, each behind its length; :func:`unpack` is the inverse."""
    return b"".join(SIZE.pack(len(field)) + field for field in fields)


def unpack(blob: bytes, count: int | None = None) -> list[bytes]:
    """The fields of ``blob``.

    Raises:
        FrameError: a length points past the end, or there are not ``count`` fields.
    """
    fields: list[bytes] = []
    at = 0
    while at < len(blob):
        if at + SIZE.size > len(blob):
            raise FrameError(f"a length is cut off at byte {at}")
        (size,) = SIZE.unpack_from(blob, at)
        at += SIZE.size
        if at + size > len(blob):
            raise FrameError(f"a field of {size} bytes does not fit into the {len(blob) - at} that are left")
        fields.append(blob[at : at + size])
        at += size
    if count is not None and len(fields) != count:
        raise FrameError(f"{len(fields)} fields instead of {count}")
    return fields


def frame(lease: int, kind: int, payload: bytes = b"") -> bytes:
    """One frame, ready to be written."""
    return HEADER.pack(len(payload), lease, kind) + payload


class Frames:
    """Cuts a byte stream into (lease, kind, payload).

    Raises:
        FrameError: from :meth:`feed`, where a frame claims to be larger than ``limit``.
    """

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """Add ``data``; return the frames that are now complete."""
        self._buffer += data
        done: list[tuple[int, int, bytes]] = []
        while len(self._buffer) >= HEADER.size:
            size, lease, kind = HEADER.unpack_from(self._buffer)
            if size > self._limit:
                raise FrameError(f"a frame of {size} bytes; at most {self._limit} are allowed")
            end = HEADER.size + size
            if len(self._buffer) < end:
                break
            done.append((lease, kind, bytes(self._buffer[HEADER.size : end])))
            del self._buffer[:end]
        return done


def write_all(fd: int, data: bytes) -> None:
    """Write all of ``data`` to a blocking descriptor."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
