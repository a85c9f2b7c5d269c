"""Counter-based random draws: every draw is a pure function of what it is for.

A key names one place of a run (run seed, task, episode, turn, position ...). Draws do not depend on the order in which
things happen, so a run with threads, or one that was resumed, draws the same numbers. Mixing is splitmix64's
finaliser (Steele, Lea & Flood 2014), iterated over the parts of a key.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_T = TypeVar("_T")


def key(*parts: int | str) -> int:
    """A 64-bit key from the parts; strings count by their content, so keys are the same in every process."""
    state = 0
    for part in parts:
        word = part if isinstance(part, int) else int.from_bytes(hashlib.blake2b(part.encode(), digest_size=8).digest())
        state = _mix(state ^ _mix(word & _MASK))
    return state


def uniform(*parts: int | str) -> float:
    """One number in [0, 1) for this place."""
    return (key(*parts) >> 11) * 2.0**-53


def choice(items: Sequence[_T], *parts: int | str) -> _T:
    """One of the items for this place."""
    return items[int(uniform(*parts) * len(items))]


def uniforms(keys: npt.NDArray[np.uint64], position: npt.NDArray[np.int64] | int) -> npt.NDArray[np.float64]:
    """``uniform(key, position)`` for arrays of keys and positions, [n] each."""
    words = np.asarray(position).astype(np.uint64)
    # The same two rounds as key(k, position) starting from a finished key.
    state = _mix_array(keys ^ _mix_array(words))
    return np.asarray((state >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _mix(x: int) -> int:
    x = (x + _GOLDEN) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def _mix_array(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        x = x + np.uint64(_GOLDEN)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


class Dice:
    """A stream of random numbers that is a pure function of its name: SHAKE-128, so no library's version changes it.

    Args:
        name: what the stream is for.
    """

    __slots__ = ("_name", "_numbers")

    def __init__(self, name: str) -> None:
        self._name = name
        self._numbers = self._stream()

    def _stream(self) -> Iterator[int]:
        seen, size = 0, 64
        while True:
            block = hashlib.shake_128(self._name.encode()).digest(2 * size)
            yield from struct.unpack(f"<{size}H", block)[seen:]
            seen, size = size, 4 * size

    def below(self, n: int) -> int:
        """A number from 0 to n - 1, where n is at most 65,536."""
        return next(self._numbers) * n >> 16

    def between(self, low: int, high: int) -> int:
        """A number from low to high, both included."""
        return low + (next(self._numbers) * (high - low + 1) >> 16)

    def choice(self, items: Sequence[_T]) -> _T:
        """One of the items."""
        return items[next(self._numbers) * len(items) >> 16]

    def sample(self, items: Iterable[_T], count: int) -> list[_T]:
        """``count`` different ones of the items, in random order."""
        left, numbers = list(items), self._numbers
        return [left.pop(next(numbers) * len(left) >> 16) for _ in range(count)]

    def shuffled(self, items: Iterable[_T]) -> list[_T]:
        """All of the items in random order."""
        left = list(items)
        return self.sample(left, len(left))
