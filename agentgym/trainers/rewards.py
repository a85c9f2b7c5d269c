"""Rewards as learning sees them: parts ``(turns, reward) -> reward`` on float64 [turns], joined by ``credit.chain``.

They come before credit, so what they add or take is carried back to earlier turns by whatever credit rule follows.
"""

from __future__ import annotations

import numpy as np

from agentgym.errors import UsageError
from agentgym.trainers.turns import Floats, Part, TurnTable, named


@named
def paid() -> Part:
    """What the environment paid, unchanged."""
    return Part(lambda turns, reward: reward)


@named
def overlong(limit: int, buffer: int, factor: float = 1.0, column: str = "tokens") -> Part:
    """DAPO's soft limit on length (2503.14476): the last turn of an episode of length L pays

    −factor · min(1, max(0, (L − (limit − buffer)) / buffer))

    so it is free up to ``limit − buffer`` and costs ``factor`` from ``limit`` on.

    Args:
        limit, buffer: in the unit of ``column``, 0 < buffer <= limit.
        column: what is summed over the episode to make L, e.g. ``tokens`` or ``tool_calls``.
    """
    if not 0 < buffer <= limit:
        raise UsageError(f"overlong needs 0 < buffer <= limit, got limit={limit!r}, buffer={buffer!r}")

    def apply(turns: TurnTable, reward: Floats) -> Floats:
        over = (turns.per_episode(turns.column(column)) - (limit - buffer)) / buffer
        out = reward.copy()
        out[turns.last] -= factor * np.clip(over, 0.0, 1.0)
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
