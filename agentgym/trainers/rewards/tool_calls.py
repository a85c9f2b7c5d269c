"""Rewards for tool calls: what they cost, and what they earn.

A reward part is ``(turns, reward) -> reward`` on float64 [turns], joined by ``chain``, ``add`` and ``scale``.
It comes before the advantage, so whatever advantage rule follows carries what it adds or takes back to earlier turns.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from agentgym.errors import UsageError
from agentgym.trainers.advantage.partitions import Floats
from agentgym.trainers.advantage.turn_table import TurnFunction, TurnTable
from agentgym.trainers.parts import Declared, declare, reward
from agentgym.trainers.rewards.shaping import scale_earned


@reward(needs=("tools",))
def tool_bonus(bonus: float = 0.1, kinds: int = 2) -> TurnFunction:
    """``bonus`` more for an episode that earned something and used ``kinds`` different tools; ARPO's r_M (2507.19849).

    It is paid on the last turn. Only calls that ran without an error count (column ``tools``): text that quotes a call,
    or a program that raised, is no use of a tool.
    """
    if kinds < 1:
        raise UsageError(f"kinds must be at least 1, got {kinds!r}")

    def apply(turns: TurnTable, reward: Floats) -> Floats:
        used: list[set[str]] = [set() for _ in range(turns.episodes.total)]
        for episode, names in zip(turns.episodes.code.tolist(), turns.tools.tolist(), strict=True):
            used[episode].update(names)
        earned = (turns.per_episode(reward) > 0) & np.array([len(names) >= kinds for names in used], bool)
        out = reward.copy()
        out[turns.last] += np.where(earned[turns.episodes.code[turns.last]], bonus, 0.0)
        return out

    return apply


@reward
def tool_cost(
    smoothing: float = 4.0,
    scale: float = 1.0,
    fewest: Literal["group", "task", "none"] = "group",
) -> Declared[[TurnTable, Floats], Floats]:
    """OTC: what an episode earned, times how near it came to the fewest tool calls that the task needs (2504.14870).

    r = α · r_tool · r_φ. With m calls in the episode and n the fewest in a solved one:

    * n = 0: r_tool = cos(mπ / (2m + c)), so 1 without calls;
    * n > 0: r_tool = sin(f π / (2n)), f = 2nm / (m + n): 1 at m = n, less for fewer and for more.

    A product, so that a wrong answer cannot be made up for by saving calls: what is not positive stays as it is. Where
    no solved episode is known, and n with it, r_tool is 1 (the paper's r_φ is 0 there).

    Args:
        smoothing: c; the paper takes the number of calls that are allowed.
        scale: α.
        fewest: where n comes from: the ``group``; the ``task``, over the whole run (a table that is saved with the
            checkpoint; the update's own episodes are entered before they are scored); ``none``: n = 0, OTC-PPO.
    """
    if smoothing <= 0 or scale <= 0:
        raise UsageError(f"smoothing and scale must be positive, got {smoothing!r} and {scale!r}")
    if fewest not in ("group", "task", "none"):
        raise UsageError(f"fewest is 'group', 'task' or 'none', got {fewest!r}")
    remembered: dict[str, Any] | None = {} if fewest == "task" else None

    def apply(turns: TurnTable, reward: Floats) -> Floats:
        calls = turns.per_episode(turns.tool_calls)
        least = np.zeros(len(calls)) if fewest == "none" else _fewest(turns, calls, remembered)
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = np.sin(calls / (calls + least) * np.pi)
        factor = np.where(least > 0, spread, np.cos(calls * np.pi / (2.0 * calls + smoothing)))
        return scale_earned(turns, reward, scale * np.where(np.isnan(least), 1.0, factor))

    needs = frozenset({"tool_calls"} | ({"success"} if fewest != "none" else set()) | ({"task"} & {fewest}))
    return declare(apply, needs=needs, state=remembered)


def _fewest(turns: TurnTable, calls: Floats, table: dict[str, Any] | None) -> Floats:
    """Fewest calls of a solved episode of the same group, or of the same task in the table; NaN: none [episodes]."""
    first = np.empty(turns.episodes.total, np.intp)
    first[turns.episodes.code[turns.first]] = turns.first
    solved = turns.success[first]
    if table is None:
        least = np.full(turns.groups.total, np.inf)
        group = turns.groups.code[first]
        np.minimum.at(least, group[solved], calls[solved])
        return np.where(np.isfinite(least), least, np.nan)[group]
    tasks = [str(task) for task in turns.task[first]]
    for task, number, right in zip(tasks, calls.tolist(), solved, strict=True):
        if right:
            table[task] = min(table.get(task, number), number)
    return np.array([table.get(task, np.nan) for task in tasks], np.float64)
