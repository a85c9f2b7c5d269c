"""Rewards as learning sees them: parts ``(turns, reward) -> reward`` on float64 [turns], joined by ``credit.chain``.

They come before credit, so what they add or take is carried back to earlier turns by whatever credit rule follows.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from agentgym.errors import UsageError
from agentgym.trainers.turns import Floats, Part, TurnTable, named


@named
def paid() -> Part:
    """What the environment paid, unchanged."""
    return Part(lambda turns, reward: reward)


@named
def overlong(limit: int, buffer: int, factor: float = 1.0, column: str = "tokens", cap: float | None = 1.0) -> Part:
    """DAPO's soft limit on length (2503.14476): the last turn of an episode of length L pays

    −factor · min(cap, max(0, (L − (limit − buffer)) / buffer))

    so it is free up to ``limit − buffer``, and with ``cap=1`` costs ``factor`` from ``limit`` on.

    Args:
        limit, buffer: in the unit of ``column``, 0 < buffer <= limit.
        column: what is summed over the episode to make L, e.g. ``tokens`` or ``tool_calls``.
        cap: None: it goes on growing beyond ``limit`` (TAPO, 2510.07038).
    """
    if not 0 < buffer <= limit:
        raise UsageError(f"overlong needs 0 < buffer <= limit, got limit={limit!r}, buffer={buffer!r}")

    def apply(turns: TurnTable, reward: Floats) -> Floats:
        over = (turns.per_episode(turns.column(column)) - (limit - buffer)) / buffer
        out = reward.copy()
        out[turns.last] -= factor * np.clip(over, 0.0, cap)
        return out

    return Part(apply, frozenset({column}))


@named
def format_penalty(penalty: float) -> Part:
    """Minus ``penalty`` on the reward of each turn that the environment did not understand (column ``valid``)."""
    return Part(lambda turns, reward: reward - penalty * ~turns.valid, frozenset({"valid"}))


@named
def kl(coefficient: float) -> Part:
    """Minus coefficient · Σ(log π_old − log π_ref) over the turn's action tokens, the column ``kl``: KL in the reward.

    RLOO (2402.14740) and REINFORCE++ (2501.03262). Unlike a k1 term in the loss it has a gradient: that of KL(π‖π_ref).
    """
    return Part(lambda turns, reward: reward - coefficient * turns.kl, frozenset({"kl"}))


@named
def malformed(score: float = -1.0) -> Part:
    """``score`` in place of what an episode earned that was not well formed; TAPO (2510.07038), ARPO, IGPO.

    That is an episode with an action that the environment did not understand, or that did not end with an answer
    (column ``terminated``). Its last turn gets ``score``, its others 0.
    """

    def apply(turns: TurnTable, reward: Floats) -> Floats:
        bad = (turns.per_episode(~turns.valid) > 0) | ~turns.terminated[turns.first]
        out = np.where(bad[turns.episodes.code], 0.0, reward)
        out[turns.last] += np.where(bad, score, 0.0)
        return out

    return Part(apply, frozenset({"valid", "terminated"}))


@named
def tool_bonus(bonus: float = 0.1, kinds: int = 2) -> Part:
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

    return Part(apply, frozenset({"tools"}))


@named
def tool_cost(
    smoothing: float = 4.0,
    scale: float = 1.0,
    fewest: Literal["group", "task", "none"] = "group",
) -> Part:
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
        return _times(turns, reward, scale * np.where(np.isnan(least), 1.0, factor))

    needs = frozenset({"tool_calls"} | ({"success"} if fewest != "none" else set()) | ({"task"} & {fewest}))
    return Part(apply, needs, state=remembered)


@named
def rubrics(weight: float = 0.3, column: str = "evidence_recall", relative: bool = True) -> Part:
    """C-GRPO: part of what a right answer earns depends on the facts that were found for it (CaRR, 2601.06021).

    R = R_o · ((1 − α) + α · R_r / max R_r in the group); what is not positive stays as it is. R_r, the share of the
    question's facts that hold up, is ``column`` on the last turn. Here the facts are the documents that support the
    answer, so no judge is needed: shown by a tool (``evidence_recall``), or shown and then cited by the answering
    action (``evidence_cited``, the paper's rule). The paper's search from the answer along shared entities is left out:
    a document's entities are not recorded. Without named evidence an episode keeps its reward.

    Args:
        weight: α in [0, 1].
        relative: divide by the group's best, as in the paper; the released configuration does not.
    """
    if not 0.0 <= weight <= 1.0:
        raise UsageError(f"weight must lie in [0, 1], got {weight!r}")

    def apply(turns: TurnTable, reward: Floats) -> Floats:
        share = np.empty(turns.episodes.total)
        share[turns.episodes.code[turns.last]] = turns.column(column)[turns.last]
        known = np.isfinite(share)
        share = np.where(known, share, 0.0)
        if relative:
            best = np.zeros(turns.groups.total)
            np.maximum.at(best, turns.groups.code[turns.last], share[turns.episodes.code[turns.last]])
            group = np.empty(turns.episodes.total, np.intp)
            group[turns.episodes.code[turns.last]] = turns.groups.code[turns.last]
            share = np.divide(share, best[group], out=np.zeros_like(share), where=best[group] > 0)
        return _times(turns, reward, np.where(known, 1.0 - weight + weight * share, 1.0))

    return Part(apply, frozenset({column}))


def _times(turns: TurnTable, reward: Floats, factor: Floats) -> Floats:
    """Rewards of episodes that earned something, times a factor [episodes]."""
    earned = turns.per_episode(reward) > 0
    return reward * np.where(earned, factor, 1.0)[turns.episodes.code]


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
