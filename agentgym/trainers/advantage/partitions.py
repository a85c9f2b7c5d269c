"""Partitions of the turns into sets; sums, moments and scans over them."""

from __future__ import annotations

from itertools import count
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agentgym.errors import UsageError

Floats = NDArray[np.float64]
Codes = NDArray[np.intp]
FLAT = 1e-12  #: a spread below this share of the values is rounding noise


class Partition(NamedTuple):
    """A partition of the turns: ``code`` [turns] in 0…total-1 says which set a turn belongs to."""

    code: Codes
    total: int


def factorise(name: str, column: NDArray[Any]) -> Partition:
    """Number the distinct ids of a column; each None gets a number of its own.

    Raises:
        UsageError: an id is not hashable.
    """
    if column.dtype.kind in "iub":
        distinct, inverse = np.unique(column, return_inverse=True)
        return Partition(inverse, len(distinct))
    ids = column.tolist()
    try:
        numbers = dict(zip(dict.fromkeys(ids), count(), strict=False))
        code = np.fromiter(map(numbers.__getitem__, ids), dtype=np.intp, count=len(ids))
    except TypeError as error:
        raise UsageError(f"ids in column {name!r} must be hashable: {error}; use tuples or strings") from error
    if None not in numbers:
        return Partition(code, len(numbers))
    others = np.flatnonzero(code == numbers[None])[1:]
    code[others] = len(numbers) + np.arange(len(others))
    return Partition(code, len(numbers) + len(others))


def sums_by(sets: Partition, values: Floats) -> Floats:
    """Sum of ``values`` over each set [sets]."""
    sums = np.bincount(sets.code, weights=values, minlength=sets.total)
    return sums.astype(np.float64, copy=False)


class Moments(NamedTuple):
    """Per set: how many values, one of them, the mean minus that one, the standard deviation (0: no spread)."""

    number: Codes
    shift: Floats
    mean: Floats
    deviation: Floats


def moments(values: Floats, sets: Partition, ddof: int, rows: Codes | None = None) -> Moments:
    """Moments of ``values[rows]`` in each set, taken about one member so that equal values cancel exactly."""
    if rows is not None:
        values, sets = values[rows], Partition(sets.code[rows], sets.total)
    number = np.bincount(sets.code, minlength=sets.total)
    shift = np.zeros(sets.total)
    shift[sets.code] = values
    away = values - shift[sets.code]
    mean = sums_by(sets, away) / np.maximum(number, 1)
    squares = sums_by(sets, (away - mean[sets.code]) ** 2)
    flat = sums_by(sets, np.abs(away)) <= FLAT * sums_by(sets, np.abs(values))
    deviation = np.sqrt(squares / np.maximum(number - ddof, 1))
    return Moments(number, shift, mean, np.where(flat | (number <= ddof), 0.0, deviation))


def reverse_scan(values: Floats, remaining: Codes, factor: float) -> Floats:
    """yᵢ = xᵢ + factor · yᵢ₊₁ inside each run of a flat array; ``remaining`` counts what follows in the run.

    Doubles the reach of a partial sum each time round, so it takes log₂(longest run) array operations, not a loop over
    elements: after k rounds yᵢ = Σ_{j < 2ᵏ} factorʲ xᵢ₊ⱼ.
    """
    out = values.copy()
    reach, weight = 1, factor
    longest = int(remaining.max(initial=0))
    while reach <= longest:
        out[:-reach] += np.where(remaining[:-reach] >= reach, weight * out[reach:], 0.0)
        reach, weight = reach * 2, weight * weight
    return out


def pairs(outer: Partition, inner: Partition) -> Partition:
    """Number the pairs (outer, inner) that occur."""
    owner = np.zeros(inner.total, dtype=np.intp)
    owner[inner.code] = outer.code
    if np.array_equal(owner[inner.code], outer.code):  # every inner id lives in one outer set, as ids of episodes do
        return inner
    distinct, code = np.unique(outer.code * inner.total + inner.code, return_inverse=True)
    return Partition(code, len(distinct))
