"""Control: parameters over time. A controller is called with the number of the update, from 0, and gives a value.

Schedules depend on that number only. Other controllers also learn from the metrics of finished updates; they have a
state, which is saved with the checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from agentgym.errors import UsageError
from agentgym.trainers.turns import named


@runtime_checkable
class Controller(Protocol):
    """Gives a value for each update."""

    def __call__(self, update: int) -> float:
        """The value for update number ``update``."""
        ...

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Learn from the metrics of the update that was just made, over the global batch; once per update."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes, as JSON values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        ...


@dataclass(frozen=True)
class Schedule:
    """A controller without a state."""

    at: Callable[[int], float]
    name: str = "schedule"

    def __call__(self, update: int) -> float:
        if update < 0:
            raise UsageError(f"updates are counted from 0, got {update}")
        return float(self.at(update))

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Schedules learn nothing."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state:
            raise UsageError(f"{self.name} has no state, got {dict(state)}; the checkpoint is of another controller")

    def __repr__(self) -> str:
        return self.name


@named
def constant(value: float) -> Schedule:
    """Always ``value``."""
    return Schedule(lambda update: value)


@named
def linear(start: float, end: float, updates: int) -> Schedule:
    """start + (end − start)·u/U for u < U = ``updates``, then ``end``."""
    _positive(updates)
    return Schedule(lambda update: start + (end - start) * min(update / updates, 1.0))


@named
def cosine(start: float, end: float, updates: int) -> Schedule:
    """end + (start − end)·(1 + cos(π·u/U))/2 for u < U = ``updates``, then ``end``."""
    _positive(updates)
    return Schedule(lambda update: end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * min(update / updates, 1.0))))


@named
def warm_up(updates: int, then: Schedule) -> Schedule:
    """``then`` from its own update 0 on, after ``updates`` updates that rise in equal steps to its first value.

    Update u < U has (u + 1)/(U + 1) of it, so no update is wasted on 0.
    """
    _positive(updates)
    return Schedule(
        lambda update: then(0) * (update + 1) / (updates + 1) if update < updates else then(update - updates)
    )


@dataclass
class AdaptiveKL:
    """A KL coefficient that steers a measured KL to a target (1909.08593, section 2.2).

    After each update  β ← β · (1 + clip(KL/target − 1, −0.2, 0.2) · samples/horizon).

    Args:
        coefficient: β at the start; changes.
        target: KL that is wanted, in the unit of the metric.
        horizon: samples over which β may change by a fifth.
        metric, samples: metrics that hold the KL and the number of samples of an update.
    """

    coefficient: float
    target: float
    horizon: float = 10_000.0
    metric: str = "kl"
    samples: str = "episodes"

    def __post_init__(self) -> None:
        if min(self.target, self.horizon) <= 0 or self.coefficient < 0:
            raise UsageError(f"AdaptiveKL needs coefficient >= 0, target > 0 and horizon > 0, got {self!r}")

    def __call__(self, update: int) -> float:
        return self.coefficient

    def observe(self, metrics: Mapping[str, float]) -> None:
        absent = [name for name in (self.metric, self.samples) if name not in metrics]
        if absent:
            raise UsageError(f"AdaptiveKL reads the metric {absent[0]!r}; this update has {', '.join(sorted(metrics))}")
        error = min(max(metrics[self.metric] / self.target - 1.0, -0.2), 0.2)
        self.coefficient *= 1.0 + error * metrics[self.samples] / self.horizon

    def state_dict(self) -> dict[str, Any]:
        return {"coefficient": self.coefficient}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.coefficient = float(state["coefficient"])


def _positive(updates: int) -> None:
    if updates < 1:
        raise UsageError(f"updates must be at least 1, got {updates!r}")
