"""Curves as SVG, drawn here; the page needs no library."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT, PAD = 300.0, 96.0, 6.0
_FIRST = ("success", "reward", "episode_turns", "invalid_action_rate", "loss")
_BOOKKEEPING = ("update", "event", "split")
Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One curve: its name in the legend, its kind (``train`` or ``eval``), its points as data and in the picture."""

    name: str
    kind: str
    points: tuple[Point, ...]
    path: str
    dots: tuple[Point, ...]


@dataclass(frozen=True)
class Chart:
    """One metric; its evaluation (``eval_NAME``) is drawn into the same picture.

    Attributes:
        moves: whether a value differs from another; flat curves are only listed.
        low, high: range of the values.
    """

    name: str
    lines: tuple[Line, ...]
    moves: bool
    low: float
    high: float
    first_update: int
    last_update: int

    @property
    def told(self) -> list[tuple[float, str]]:
        """(update, value in words) of every point, for the pointer."""
        return [(x, f"{line.name} {number(y)}") for line in self.lines for x, y in line.points]


def make_charts(lines: Iterable[Mapping[str, Any]]) -> list[Chart]:
    """One chart a metric from the lines of ``metrics.jsonl``; the usual ones first, the rest by name."""
    series: dict[tuple[str, str], list[Point]] = {}
    for line in lines:
        kind = str(line.get("split", "eval")) if line.get("event") else ""
        for name, value in line.items():
            if name not in _BOOKKEEPING and _is_number(value):
                base = name.removeprefix("eval_") if kind else name
                series.setdefault((base, kind), []).append((float(line.get("update", 0)), float(value)))
    names = sorted({name for name, _ in series}, key=lambda n: (_FIRST.index(n) if n in _FIRST else len(_FIRST), n))
    return [_chart(name, {kind: points for (n, kind), points in series.items() if n == name}) for name in names]


def number(value: object) -> str:
    """A number with four significant digits, without trailing noise."""
    if not _is_number(value):
        return "" if value is None else str(value)
    real = float(value)  # type: ignore[arg-type]
    whole = abs(real) < 1e7 and real == int(real)
    text = f"{int(real):,}".replace(",", "\u2009") if whole else f"{real:.4g}"
    return text.replace("-", "\u2212")


def _chart(name: str, series: Mapping[str, Sequence[Point]]) -> Chart:
    everything = [p for points in series.values() for p in points]
    xs, ys = [x for x, _ in everything], [y for _, y in everything]
    x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)
    drawn = []
    for kind, points in sorted(series.items()):
        spots = tuple((_scale(x, x0, x1, WIDTH), HEIGHT - _scale(y, y0, y1, HEIGHT)) for x, y in points)
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
        dots = spots if kind or len(spots) == 1 else ()
        drawn.append(Line(kind or "training", "eval" if kind else "train", tuple(points), path, dots))
    return Chart(name, tuple(drawn), y1 > y0, y0, y1, int(x0), int(x1))


def _scale(value: float, low: float, high: float, size: float) -> float:
    share = (value - low) / (high - low) if high > low else 0.5
    return round(PAD + share * (size - 2 * PAD), 2)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
