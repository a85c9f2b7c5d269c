"""Success against budget as one SVG, drawn without any library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from agentgym.evaluate.statistics import Curve, Row

_WIDTH, _HEIGHT = 720, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 56, 64
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # told apart by colour-blind people too
_UNITS = {"tool_calls": "tool calls", "per_tool": "calls of"}


def success_plot(curves: Sequence[Curve], title: str) -> str | None:
    """Success with its 95 % interval over log2(1 + budget), one line for each policy; the unlimited row stands apart.

    Args:
        curves: all with one limit, e.g. all over tool calls.
        title: what was played.

    Returns:
        The SVG, or None where there is no budget to draw over.
    """
    limits = {c.limit for c in curves if c.limit is not None}
    xs = sorted({x for c in curves for x, _ in c.points})
    if len(limits) != 1 or not xs:
        return None
    scale = _Scale(xs, any(c.unlimited is not None for c in curves))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}">',
        '<g font-family="system-ui, sans-serif" font-size="13">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="22" font-size="15" font-weight="600">{escape(title)}</text>',
        *_axes(scale, _label(limits.pop())),
    ]
    for number, curve in enumerate(curves):
        parts += _line(curve, scale, _COLOURS[number % len(_COLOURS)], number)
    return "\n".join([*parts, "</g>", "</svg>"]) + "\n"


class _Scale:
    """Budget and success -> position."""

    def __init__(self, xs: Sequence[float], unlimited: bool) -> None:
        self.xs, self.unlimited = xs, unlimited
        self._low = math.log2(1 + xs[0])
        self._span = math.log2(1 + xs[-1]) - self._low
        width = _WIDTH - _LEFT - _RIGHT - 24
        self._width = width * (0.85 if unlimited else 1.0)
        self.infinity = _LEFT + 12 + width

    def x(self, budget: float) -> float:
        share = (math.log2(1 + budget) - self._low) / self._span if self._span else 0.5
        return round(_LEFT + 12 + share * self._width, 1)

    def y(self, success: float) -> float:
        return round(_HEIGHT - _BOTTOM - success * (_HEIGHT - _TOP - _BOTTOM), 1)


def _axes(scale: _Scale, label: str) -> list[str]:
    right, bottom = _WIDTH - _RIGHT, scale.y(0)
    parts = []
    for percent in range(0, 101, 20):
        y = scale.y(percent / 100)
        parts.append(f'<line x1="{_LEFT}" x2="{right}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{percent} %</text>')
    ticks = [(scale.x(x), f"{x:,g}") for x in scale.xs]
    if scale.unlimited:
        ticks.append((scale.infinity, "∞"))
    for x, text in ticks:
        parts.append(f'<line x1="{x}" x2="{x}" y1="{bottom}" y2="{bottom + 5}" stroke="#444"/>')
        parts.append(f'<text x="{x}" y="{bottom + 20}" text-anchor="middle">{text}</text>')
    parts.append(f'<line x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}" stroke="#444"/>')
    middle = (_LEFT + right) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 16}" text-anchor="middle">{escape(label)}</text>')
    return parts


def _line(curve: Curve, scale: _Scale, colour: str, number: int) -> list[str]:
    points = [(scale.x(x), found) for x, found in curve.points]
    upper = [f"{x},{scale.y(r.interval.high)}" for x, r in points]
    lower = [f"{x},{scale.y(r.interval.low)}" for x, r in reversed(points)]
    line = " ".join(f"{x},{scale.y(r.success or 0.0)}" for x, r in points)
    parts = [
        f'<polygon points="{" ".join([*upper, *lower])}" fill="{colour}" fill-opacity="0.12"/>',
        f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>',
    ]
    if curve.unlimited is not None:
        points.append((scale.infinity, curve.unlimited))
    for x, found in points:
        low, high = scale.y(found.interval.low), scale.y(found.interval.high)
        parts.append(f'<line x1="{x}" x2="{x}" y1="{low}" y2="{high}" stroke="{colour}" stroke-opacity="0.5"/>')
        told = f"<title>{escape(f'{curve.policy}, {_told(found)}')}</title>"
        parts.append(f'<circle cx="{x}" cy="{scale.y(found.success or 0.0)}" r="4" fill="{colour}">{told}</circle>')
    x = _LEFT + 4 + 220 * (number % 3)
    y = 40 + 14 * (number // 3)
    parts.append(f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{colour}"/>')
    parts.append(f'<text x="{x + 16}" y="{y}" font-size="12">{escape(curve.policy[-32:])}</text>')
    return parts


def _told(found: Row) -> str:
    low, high = (round(100 * bound, 1) for bound in found.interval)
    return f"{found.budget}: {100 * (found.success or 0.0):.1f} % ({low} to {high}), {found.episodes} episodes"


def _label(limit: str) -> str:
    name, _, tool = limit.partition(".")
    return f"budget: {_UNITS.get(name, name)} {tool}".rstrip() + " (log2(1 + budget))"
