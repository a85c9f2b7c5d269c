"""Advantages from a critic's value of each turn; for what bias means see :mod:`.returns`."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from agentgym.trainers.advantage.partitions import Floats
from agentgym.trainers.advantage.turn_table import TurnFunction, TurnTable
from agentgym.trainers.parts import advantage

Unit = Annotated[float, Field(ge=0, le=1)]


@advantage(needs=("value", "truncated"))
def gae(discount: Unit = 1.0, gae_lambda: Unit = 1.0) -> TurnFunction:
    """Generalised advantage over turns (1506.02438): δₜ = rₜ + γVₜ₊₁ − Vₜ, Aₜ = δₜ + γλAₜ₊₁; γ, λ in [0, 1].

    The critic's Vₜ is the column ``value``. After the last turn V is 0, except that a truncated episode goes on from
    the column ``bootstrap`` (read on that turn): being cut off is not the end of the task.

    Bias:
        ``gae()``: unbiased
        ``gae(1.0, 0.5)``: biased: by as much as the critic is wrong
    """

    def apply(turns: TurnTable, values: Floats) -> Floats:
        after = np.empty(len(turns))
        after[turns.order[:-1]] = turns.value[turns.order[1:]]
        after[turns.last] = _value_after_last(turns)
        return turns.reverse_scan(values + discount * after - turns.value, discount * gae_lambda)

    return apply


def _value_after_last(turns: TurnTable) -> Floats:
    truncated = turns.truncated[turns.last]
    if not truncated.any():
        return np.zeros(turns.episodes.total)
    return np.where(truncated, turns.bootstrap[turns.last], 0.0)
