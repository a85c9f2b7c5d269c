"""Playing the same tasks under several budgets, and what it says about a policy."""

from __future__ import annotations

from agentgym.evaluate.intervals import Difference, Interval, area, mean_intervals, paired, wilson
from agentgym.evaluate.plot import success_plot
from agentgym.evaluate.statistics import Calls, Comparison, Curve, Mean, Row, calls_of, compare, row
from agentgym.evaluate.sweep import SweepFolder, evaluate, result, tasks_of, timing

__all__ = [
    "Calls",
    "Comparison",
    "Curve",
    "Difference",
    "Interval",
    "Mean",
    "Row",
    "SweepFolder",
    "area",
    "calls_of",
    "compare",
    "evaluate",
    "mean_intervals",
    "paired",
    "result",
    "row",
    "success_plot",
    "tasks_of",
    "timing",
    "wilson",
]
