"""Reward shaping: the environment's reward, limits on length, format and KL.

A reward part is ``(turns, reward) -> reward`` on float64 [turns], joined by ``chain``, ``add`` and ``scale``.
It comes before the advantage, so whatever advantage rule follows carries what it adds or takes back to earlier turns.
"""

from __future__ import annotations

import numpy as np

from agentgym.errors import UsageError
from agentgym.trainers.advantage.partitions import Floats
from agentgym.trainers.advantage.turn_table import TurnFunction, TurnTable
from agentgym.trainers.parts import Declared, declare, reward


@reward
def env_reward() -> TurnFunction:
    """What the environment paid, unchanged."""
    return lambda turns, reward: reward


@reward
def overlong(
    limit: int, buffer: int, factor: float = 1.0, column: str = "tokens", cap: float | None = 1.0
) -> Declared[[TurnTable, Floats], Floats]:
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
        length = turns.per_episode(np.nan_to_num(turns.column(column)))  # a turn without a value adds nothing
        over = (length - (limit - buffer)) / buffer
        out = reward.copy()
        out[turns.last] -= factor * np.clip(over, 0.0, cap)
        return out

    return declare(apply, needs={column})


@reward(needs=("valid",))
def format_penalty(penalty: float) -> TurnFunction:
    """Minus ``penalty`` on the reward of each turn that the environment did not understand (column ``valid``)."""
    return lambda turns, reward: reward - penalty * ~turns.valid


@reward(needs=("kl",))
def kl(coefficient: float) -> TurnFunction:
    """Minus coefficient · Σ(log π_old − log π_ref) over the turn's action tokens, the column ``kl``: KL in the reward.

    RLOO (2402.14740) and REINFORCE++ (2501.03262). Unlike a k1 term in the loss it has a gradient: that of KL(π‖π_ref).
    """
    return lambda turns, reward: reward - coefficient * turns.kl


@reward(needs=("valid", "terminated"))
def malformed(score: float = -1.0) -> TurnFunction:
    """``score`` in place of what an episode earned that was not well formed; TAPO (2510.07038), ARPO, IGPO.

    That is an episode with an action that the environment did not understand, or that did not end with an answer
    (column ``terminated``). Its last turn gets ``score``, its others 0.
    """

    def apply(turns: TurnTable, reward: Floats) -> Floats:
        bad = (turns.per_episode(~turns.valid) > 0) | ~turns.terminated[turns.first]
        out = np.where(bad[turns.episodes.code], 0.0, reward)
        out[turns.last] += np.where(bad, score, 0.0)
        return out

    return apply


def scale_earned(turns: TurnTable, reward: Floats, factor: Floats) -> Floats:
    """Rewards of episodes that earned something, times a factor [episodes]."""
    earned = turns.per_episode(reward) > 0
    return reward * np.where(earned, factor, 1.0)[turns.episodes.code]
