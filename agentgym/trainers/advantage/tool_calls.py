"""Credit for *when* tools are called."""

from __future__ import annotations

import numpy as np

from agentgym.errors import UsageError
from agentgym.trainers.advantage.partitions import Floats, Partition, sums_by
from agentgym.trainers.advantage.turn_table import TurnFunction, TurnTable
from agentgym.trainers.parts import advantage


@advantage(needs=("success", "tokens", "tool_calls"))
def early_call(delta: float = -2.0, limit: float = 0.7) -> TurnFunction:
    """Solved episodes get more credit the earlier they first called a tool; ASPO (2508.19201, §3.3).

    A + clip(δ·(p − mean p) / mean L, −k·A, k·A) for the set of a group's solved episodes with a call; p counts the
    action tokens up to the end of the first turn with a call, L all of the episode's. Others, and credit ≤ 0, stay as
    they are. It comes after the group's statistics, so they neither amplify it nor trade it against being right.

    Args:
        delta: δ; negative favours early calls.
        limit: k in [0, 1), so that solved episodes keep a positive credit.
    """
    if not 0.0 <= limit < 1.0:
        raise UsageError(f"limit must lie in [0, 1), got {limit!r}")

    def apply(turns: TurnTable, values: Floats) -> Floats:
        order, code = turns.order, turns.episodes.code
        written = np.cumsum(turns.tokens[order]).astype(np.float64)
        written -= np.repeat((written - turns.tokens[order])[np.cumsum(turns.lengths) - turns.lengths], turns.lengths)
        position = np.full(turns.episodes.total, np.inf)
        calling = turns.tool_calls[order] > 0
        np.minimum.at(position, code[order][calling], written[calling])
        early = np.isfinite(position) & turns.success[turns.first]
        if not early.any():
            return values
        group = Partition(turns.groups.code[turns.first], turns.groups.total)
        number = np.maximum(sums_by(group, early.astype(np.float64)), 1.0)
        length = sums_by(group, np.where(early, turns.per_episode(turns.tokens), 0.0)) / number
        mean = sums_by(group, np.where(early, position, 0.0)) / number
        away = np.where(early, position, mean[group.code]) - mean[group.code]
        bias = (delta * away / np.maximum(length, 1.0)[group.code])[code]
        bound = limit * np.maximum(values, 0.0)
        return np.asarray(values + np.where(early[code], np.clip(bias, -bound, bound), 0.0))

    return apply
