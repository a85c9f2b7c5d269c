"""Intervals and comparisons, as pure functions of arrays. Every random number is derived from ``seed``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

RESAMPLES = 10_000
Floats = npt.NDArray[np.float64]
_CHUNK = 1 << 21  # numbers held at a time


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


class Difference(NamedTuple):
    """A paired comparison.

    Attributes:
        mean: of ``a - b`` over the pairs.
        low, high: percentile bootstrap interval of it.
        p: two-sided p value of "there is no difference".
        pairs: how many pairs there were.
    """

    mean: float
    low: float
    high: float
    p: float
    pairs: int


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Score interval of a share (Wilson 1927); (0, 1) without trials."""
    from scipy.stats import binomtest

    if trials == 0:
        return Interval(0.0, 1.0)
    low, high = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return Interval(float(low), float(high))


def mean_intervals(
    values: npt.ArrayLike, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> list[Interval]:
    """Percentile bootstrap interval (Efron 1979) of the mean of each column; NaN without rows.

    Args:
        values: [rows, columns]; the columns of a row stay together.
    """
    table = np.asarray(values, np.float64)
    if len(table) == 0:
        return [Interval(math.nan, math.nan)] * table.shape[1]
    low, high, _ = _bootstrap(table, confidence, resamples, seed)
    # Resampling a constant column must give the constant, not its neighbour in floating point.
    same = (table == table[0]).all(axis=0)
    return [
        Interval(float(c), float(c)) if s else Interval(float(a), float(b))
        for a, b, c, s in zip(low, high, table[0], same, strict=True)
    ]


def paired(
    a: npt.ArrayLike, b: npt.ArrayLike, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """Compare two policies on the same tasks by the bootstrap of their differences.

    The interval holds the percentiles of the resampled mean difference. The p value resamples the differences shifted
    to mean 0 (Efron & Tibshirani 1993, §16.4) and is ``(1 + #{|mean*| >= |mean|}) / (1 + resamples)``.

    Args:
        a, b: one number for each task, in the same order.
    """
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    if len(difference) == 0:
        return Difference(math.nan, math.nan, math.nan, math.nan, 0)
    mean = float(difference.mean())
    low, high, means = _bootstrap(difference[:, None], confidence, resamples, seed)
    extreme = int((np.abs(means[0] - mean) >= abs(mean) - 1e-12).sum())
    return Difference(mean, float(low[0]), float(high[0]), (1 + extreme) / (1 + resamples), len(difference))


def _bootstrap(table: Floats, confidence: float, resamples: int, seed: int) -> tuple[Floats, Floats, Floats]:
    """Bounds of the mean of each column [columns], and the means of all resamples [columns, resamples]."""
    from scipy.stats import bootstrap

    if len(table) == 1:  # every resample is the only row
        return table[0], table[0], np.repeat(table.T, resamples, axis=1)
    result = bootstrap(
        (table,),
        np.mean,
        axis=0,
        n_resamples=resamples,
        batch=max(1, _CHUNK // table.size),
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return np.asarray(low), np.asarray(high), np.asarray(result.bootstrap_distribution)


def area(budgets: Sequence[float], successes: Sequence[float]) -> float | None:
    """Area under success over log2(1 + budget), by trapezoids; None for fewer than two budgets.

    Args:
        budgets: finite limits, in any order.
        successes: success at each.
    """
    points = sorted((math.log2(1 + budget), success) for budget, success in zip(budgets, successes, strict=True))
    if len(points) < 2:
        return None
    return sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(points))


def smallest_sufficient(
    budgets: Sequence[float], successes: Sequence[float], unlimited: float, share: float = 0.95
) -> float | None:
    """The smallest budget whose success is at least ``share`` of the unlimited success.

    None where there is none, or where nothing succeeds without a limit either.
    """
    if unlimited <= 0:
        return None
    enough = (b for b, success in zip(budgets, successes, strict=True) if success >= share * unlimited - 1e-12)
    return min(enough, default=None)
