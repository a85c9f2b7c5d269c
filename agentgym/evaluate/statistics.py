"""From episodes to figures, which depend on nothing but the records: the same records give the same figures."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from agentgym import keyed_random
from agentgym.budget import Budget
from agentgym.evaluate.intervals import Difference, Interval, area, mean_intervals, paired, smallest_sufficient, wilson
from agentgym.failures import Failures
from agentgym.records import Episode

PER_EPISODE = ("calls", "turns", "tokens", "prompt_tokens", "cost", "reward")
CLOCKS = ("seconds", "model_seconds", "tool_seconds")


class Calls(NamedTuple):
    """The tool calls of one episode.

    Attributes:
        made: those that ran.
        errors: of these, how many failed.
        repeats: of these, how many did not fail but asked exactly what an earlier one had been answered.
        refused: calls that a budget did not let run.
        malformed: calls of unknown tools or with wrong arguments, which never ran either.
        cost: price of all.
    """

    made: int
    errors: int
    repeats: int
    refused: int
    malformed: int
    cost: float


def calls_of(episode: Episode) -> Calls:
    """Count the tool calls of an episode; a call is wasted once, as an error or as a repeat."""
    errors = repeats = 0
    cost = 0.0
    seen: set[tuple[str, str]] = set()
    for call in (call for turn in episode.turns for call in turn.tool_calls):
        cost += call.cost
        if call.status != "ran":
            continue
        asked = (call.name, json.dumps(call.arguments, sort_keys=True, default=str))
        if call.error is not None:
            errors += 1
        elif asked in seen:
            repeats += 1
        else:
            seen.add(asked)
    counts = episode.call_counts
    return Calls(counts.made, errors, repeats, counts.refused, counts.malformed, cost)


class Mean(NamedTuple):
    """A mean over episodes with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Row:
    """One policy at one budget.

    Attributes:
        budget: what every episode could use.
        episodes: how many count: played to an end that the agent is responsible for.
        failures: of all episodes, those included that the world or the policy ended and that are in no other figure.
        successes, success, interval: how many were solved, their share, and its Wilson 95 % interval.
        means: for each of :data:`PER_EPISODE`.
        clocks: for each of :data:`CLOCKS`; wall clock, as the records say.
        errors, repeats: calls that failed, that had been made before; in all episodes.
        refused, malformed: calls that never ran: refused by the budget, of unknown tools or with wrong arguments.
        productivity: solved episodes for each call made (OTC, 2504.14870: TP); None without calls.
        cost_of_pass: mean cost of an episode / success (2504.13359); None where nothing was solved.
        stops: how many episodes ended for which reason.
    """

    budget: Budget
    episodes: int
    failures: Failures
    successes: int
    interval: Interval
    means: dict[str, Mean]
    clocks: dict[str, Mean] = field(compare=False)
    errors: int
    repeats: int
    refused: int
    malformed: int
    productivity: float | None
    cost_of_pass: float | None
    stops: dict[str, int]

    @property
    def success(self) -> float | None:
        """Share of the episodes that were solved; None without episodes."""
        return self.successes / self.episodes if self.episodes else None

    @property
    def failed(self) -> int:
        """Episodes that are left out."""
        return self.failures.failed

    @property
    def wasted(self) -> int:
        """Calls that failed or repeated an earlier one."""
        return self.errors + self.repeats

    def as_dict(self) -> dict[str, Any]:
        """All figures but wall-clock times, as JSON values."""
        return {
            "budget": str(self.budget),
            "episodes": self.episodes,
            **self.failures.as_dict(),
            "successes": self.successes,
            "success": self.success,
            "success_low": self.interval.low,
            "success_high": self.interval.high,
            **{name: _finite(mean) for name, mean in self.means.items()},
            "productivity": self.productivity,
            "cost_of_pass": self.cost_of_pass,
            "errors": self.errors,
            "repeats": self.repeats,
            "wasted": self.wasted,
            "refused": self.refused,
            "malformed": self.malformed,
            "stops": self.stops,
        }


def row(budget: Budget, episodes: Sequence[Episode], *, resamples: int = 2000, seed: int = 0) -> Row:
    """The figures of episodes that were played under one budget, in any order."""
    valid = sorted((e for e in episodes if not e.failed), key=lambda e: e.id)
    calls = [calls_of(e) for e in valid]
    usages = [e.usage for e in valid]
    table = [
        (c.made, len(e.turns), u.completion_tokens, u.prompt_tokens, u.cost + c.cost, e.reward)
        for e, c, u in zip(valid, calls, usages, strict=True)
    ]
    times = [(u.model_seconds + u.tool_seconds, u.model_seconds, u.tool_seconds) for u in usages]
    successes = sum(e.solved for e in valid)
    made = sum(c.made for c in calls)
    means = _means(PER_EPISODE, table, resamples, keyed_random.key(seed, "means"))
    return Row(
        budget=budget,
        episodes=len(valid),
        failures=Failures.of(sorted(episodes, key=lambda e: e.id)),
        successes=successes,
        interval=wilson(successes, len(valid)),
        means=means,
        clocks=_means(CLOCKS, times, resamples, keyed_random.key(seed, "clocks")),
        errors=sum(c.errors for c in calls),
        repeats=sum(c.repeats for c in calls),
        refused=sum(c.refused for c in calls),
        malformed=sum(c.malformed for c in calls),
        productivity=successes / made if made else None,
        cost_of_pass=means["cost"].mean * len(valid) / successes if successes else None,
        stops=dict(sorted(Counter(str(e.stop) for e in episodes).items())),
    )


def _means(names: Sequence[str], table: Sequence[Sequence[float]], resamples: int, seed: int) -> dict[str, Mean]:
    if not table:
        return dict.fromkeys(names, Mean(math.nan, math.nan, math.nan))
    intervals = mean_intervals(table, resamples=resamples, seed=seed)
    averages = (math.fsum(column) / len(table) for column in zip(*table, strict=True))
    return {name: Mean(m, *i) for name, m, i in zip(names, averages, intervals, strict=True)}


def _finite(mean: Mean) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in mean._asdict().items()}


@dataclass(frozen=True, slots=True)
class Curve:
    """One policy at several budgets.

    Attributes:
        policy: its name.
        rows: in the order of the budgets given.
        episodes: the records behind each row.
    """

    policy: str
    rows: tuple[Row, ...]
    episodes: tuple[tuple[Episode, ...], ...] = field(default=(), repr=False)

    @property
    def limit(self) -> str | None:
        """The one limit that the budgets differ in; None where they limit several things, or nothing."""
        names = [tuple(r.budget.limits) for r in self.rows if r.budget.limits]
        return names[0][0] if names and set(names) == {names[0]} and len(names[0]) == 1 else None

    @property
    def points(self) -> list[tuple[float, Row]]:
        """(limit, row) of the rows that have both and episodes, smallest first; empty where :attr:`limit` is None."""
        name = self.limit
        if name is None:
            return []
        found = [(r.budget.limits[name], r) for r in self.rows if r.budget.limits and r.episodes]
        return sorted(found, key=lambda point: point[0])

    @property
    def unlimited(self) -> Row | None:
        """The row without a budget, if it was played."""
        return next((r for r in self.rows if not r.budget.limits and r.episodes), None)

    @property
    def area(self) -> float | None:
        """Area under success over log2(1 + budget); None for fewer than two budgets."""
        return area([x for x, _ in self.points], [r.success or 0.0 for _, r in self.points])

    @property
    def greatest_area(self) -> float | None:
        """The area of a policy that always succeeds."""
        return area([x for x, _ in self.points], [1.0 for _ in self.points])

    @property
    def sufficient(self) -> float | None:
        """The smallest budget that reaches 95 % of the unlimited success.

        None where no budget does, nothing unlimited was played, or nothing succeeds even then.
        """
        if self.unlimited is None:
            return None
        xs, ys = [x for x, _ in self.points], [r.success or 0.0 for _, r in self.points]
        return smallest_sufficient(xs, ys, self.unlimited.success or 0.0)

    def as_dict(self) -> dict[str, Any]:
        """All figures but wall-clock times, as JSON values."""
        return {
            "policy": self.policy,
            "limit": self.limit,
            "sufficient_budget": self.sufficient,
            "area": self.area,
            "greatest_area": self.greatest_area,
            "rows": [r.as_dict() for r in self.rows],
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two policies on the same tasks at one budget; every difference is ``first - second``."""

    budget: Budget
    success: Difference
    calls: Difference
    cost: Difference

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        parts = {"success": self.success, "calls": self.calls, "cost": self.cost}
        return {"budget": str(self.budget), **{k: _clean(d) for k, d in parts.items()}}


def compare(first: Curve, second: Curve, *, seed: int = 0) -> list[Comparison]:
    """Paired bootstrap comparison at every budget that both were played at.

    A task counts where both policies' episodes did not fail.
    """
    others = {r.budget: episodes for r, episodes in zip(second.rows, second.episodes, strict=True)}
    found = []
    for here, episodes in zip(first.rows, first.episodes, strict=True):
        if here.budget not in others:
            continue
        partner = {e.id: e for e in others[here.budget] if not e.failed}
        pairs = [(e, partner[e.id]) for e in episodes if not e.failed and e.id in partner]
        values = [[_compared(e) for e in side] for side in zip(*pairs, strict=True)] if pairs else [[], []]
        columns = [[[v[i] for v in side] for side in values] for i in range(3)]
        found.append(
            Comparison(here.budget, *(paired(a, b, seed=keyed_random.key(seed, "paired")) for a, b in columns))
        )
    return found


def _compared(episode: Episode) -> tuple[float, float, float]:
    calls = calls_of(episode)
    return float(episode.solved), float(calls.made), episode.usage.cost + calls.cost


def _clean(difference: Difference) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in difference._asdict().items()}
