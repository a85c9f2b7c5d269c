"""Turn weights: how much a turn counts, >= 0; 0 leaves it out of the loss and of every denominator.

A turn weight is a part ``(turns, advantage) -> factor`` on float64 [turns], computed once over the whole update before
minibatches are cut; factors are multiplied. Weights change *what* is optimised, so each says how.
"""

from __future__ import annotations

import numpy as np

from agentgym import keyed_random
from agentgym.errors import UsageError
from agentgym.trainers.advantage.partitions import Floats
from agentgym.trainers.advantage.turn_table import TurnFunction, TurnTable
from agentgym.trainers.parts import Declared, declare, turn_weight


@turn_weight
def product(*parts: TurnFunction) -> Declared[[TurnTable, Floats], Floats]:
    """The product of turn weights; all 1 without parts. Refuses a negative factor."""
    for part in parts:
        turn_weight.require(part, "product()")

    def apply(turns: TurnTable, advantage: Floats) -> Floats:
        factor = np.ones(len(turns))
        for part in parts:
            given = part(turns, advantage)
            if (given < 0).any():
                row = int(np.argmin(given))
                raise UsageError(f"weights are >= 0; {part!r} gives {given[row]} to turn {row}")
            factor = factor * given
        return factor

    return declare(apply, parts=parts)


@turn_weight(needs=("truncated",))
def mask_truncated() -> TurnFunction:
    """0 on every turn of a truncated episode: DAPO's over-long filtering (2503.14476).

    The policy then hears nothing about running into a limit. It is no longer the gradient of the expected reward.
    """
    return lambda turns, advantage: 1.0 - turns.truncated


@turn_weight
def drop_zero() -> TurnFunction:
    """0 where the advantage is 0: those turns leave the denominators of token and sequence means.

    With an aggregator whose denominators are constants it changes nothing.
    """
    return lambda turns, advantage: (advantage != 0.0).astype(np.float64)


@turn_weight
def difficulty(temperature: float = 2.0, column: str = "success") -> Declared[[TurnTable, Floats], Floats]:
    """Harder tasks weigh more: λ_q = n · softmax_q(−p_q / T) over the n groups with some advantage; DGPO (2601.20614).

    p_q is the mean of ``column`` (in [0, 1]) over the group's episodes. As released, p_q = 0 (all failed, so the
    advantages came from something else) counts as 1. Groups without any advantage get 0.
    """
    if temperature <= 0:
        raise UsageError(f"temperature must be positive, got {temperature!r}")

    def apply(turns: TurnTable, advantage: Floats) -> Floats:
        groups, first = turns.groups, turns.first
        total = np.bincount(groups.code[first], weights=turns.column(column)[first], minlength=groups.total)
        rate = total / np.bincount(groups.code[first], minlength=groups.total)
        used = np.bincount(groups.code, weights=np.abs(advantage), minlength=groups.total) > 0
        if not used.any():
            return np.zeros(len(turns))
        ease = np.where(rate == 0.0, 1.0, rate)
        hardness = np.where(used, np.exp((ease[used].min() - ease) / temperature), 0.0)
        return np.asarray((hardness * used.sum() / hardness.sum())[groups.code])

    return declare(apply, needs={column})


@turn_weight
def subsample(multiple: int) -> TurnFunction:
    """0 on turns drawn at random, so that the number of others is a multiple of ``multiple``; EAPO (2511.07327).

    |C'| = m · ⌊|C| / m⌋ of all |C| turns of the update; fewer than m turns are all kept. A draw hangs off the names of
    the episode and the turn, so a resumed run leaves out the same ones.
    """
    if multiple < 1:
        raise UsageError(f"multiple must be at least 1, got {multiple!r}")

    def apply(turns: TurnTable, advantage: Floats) -> Floats:
        weight = np.ones(len(turns))
        if len(turns) >= multiple:
            names = zip(turns.group, turns.episode, turns.turn.tolist(), strict=True)
            chance = [keyed_random.uniform("thinned", *map(str, name)) for name in names]
            weight[np.argsort(chance, kind="stable")[: len(turns) % multiple]] = 0.0
        return weight

    return apply
