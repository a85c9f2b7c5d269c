"""Weights: how much a turn or a token counts, >= 0; 0 leaves it out of the loss and of every denominator.

A turn weight is a part ``(turns, advantage) -> factor`` on float64 [turns]; a token weight is a function ``(tokens) ->
factor`` [tokens]. Both are computed once over the whole update, from the policy that sampled, before minibatches are
cut; factors are multiplied. Weights change *what* is optimised, so each says how.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from agentgym import draws
from agentgym.errors import UsageError
from agentgym.trainers.tokens import Term, Tokens
from agentgym.trainers.turns import Floats, Part, TurnTable, named

if TYPE_CHECKING:
    from torch import Tensor


@named
def product(*parts: Callable[[TurnTable, Floats], Floats]) -> Part:
    """The product of turn weights; all 1 without parts. Refuses a negative factor."""

    def apply(turns: TurnTable, advantage: Floats) -> Floats:
        factor = np.ones(len(turns))
        for part in parts:
            given = part(turns, advantage)
            if (given < 0).any():
                row = int(np.argmin(given))
                raise UsageError(f"weights are >= 0; {part!r} gives {given[row]} to turn {row}")
            factor = factor * given
        return factor

    return Part(apply, frozenset[str]().union(*(getattr(part, "needs", ()) for part in parts)), parts)


@named
def mask_truncated() -> Part:
    """0 on every turn of a truncated episode: DAPO's over-long filtering (2503.14476).

    The policy then hears nothing about running into a limit. It is no longer the gradient of the expected reward.
    """
    return Part(lambda turns, advantage: 1.0 - turns.truncated, frozenset({"truncated"}))


@named
def drop_zero() -> Part:
    """0 where the advantage is 0: those turns leave the denominators of token and sequence means.

    With an aggregator whose denominators are constants it changes nothing.
    """
    return Part(lambda turns, advantage: (advantage != 0.0).astype(np.float64))


@named
def difficulty(temperature: float = 2.0, column: str = "success") -> Part:
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

    return Part(apply, frozenset({column}))


@named
def top_entropy(share: float = 0.2) -> Term[[Tokens], Tensor]:
    """1 on the ``share`` of the batch's tokens with the highest entropy, 0 on the others (2506.01939).

    Masked tokens do not take part. Tokens as uncertain as the last one that is kept are kept too.
    """
    if not 0.0 < share <= 1.0:
        raise UsageError(f"share must lie in (0, 1], got {share!r}")

    def apply(tokens: Tokens) -> Tensor:
        entropy, counted = tokens.require("entropy").detach(), tokens.weight > 0
        number = int(counted.sum())
        if number == 0:
            return tokens.weight.new_zeros(len(tokens))
        least = entropy[counted].topk(math.ceil(share * number)).values[-1]
        return ((entropy >= least) & counted).to(tokens.weight.dtype)

    return Term(apply, frozenset({"entropy"}))


@named
def thinned(multiple: int) -> Part:
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
            chance = [draws.uniform("thinned", *map(str, name)) for name in names]
            weight[np.argsort(chance, kind="stable")[: len(turns) % multiple]] = 0.0
        return weight

    return Part(apply)


@named
def by_entropy(scale: float = 0.2) -> Term[[Tokens], Tensor]:
    """1 + scale · z, z the batch's z-score of the token's entropy (nats); never below 0. AEPO (2510.14545).

    Multiplying the loss by it is its entropy-aware advantage, A·(1 + a·Â_ΔH). Masked tokens do not take part in z; a
    batch without spread gives 1.
    """

    def apply(tokens: Tokens) -> Tensor:
        entropy, counted = tokens.require("entropy").detach(), tokens.weight > 0
        number = int(counted.sum())
        if number < 2:
            return tokens.weight.new_ones(len(tokens))
        away = entropy - entropy[counted].mean()
        deviation = entropy[counted].std()
        if not float(deviation) > 1e-9:
            return tokens.weight.new_ones(len(tokens))
        return (1.0 + scale * away / deviation).clamp(min=0.0).to(tokens.weight.dtype)

    return Term(apply, frozenset({"entropy"}))


@named
def unsure(below: float = 0.9) -> Term[[Tokens], Tensor]:
    """1 on tokens that were sampled with a probability < ``below``, 0 on the others: SPO's mask (2505.23564)."""
    if not 0.0 < below <= 1.0:
        raise UsageError(f"below must lie in (0, 1], got {below!r}")
    return Term(lambda tokens: (tokens.old < math.log(below)).to(tokens.weight.dtype))
