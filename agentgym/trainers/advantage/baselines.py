"""Baselines: values against those of others, in a group, a set of turns, or the whole batch.

A set of one, or a set without spread, gives 0. Nothing depends on the order of rows or on what ids are called
(:func:`~agentgym.trainers.advantage.states.similar_anchors` excepted, which reads rows in order).

For what is meant by bias see :mod:`.returns`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias

import numpy as np

from agentgym.trainers.advantage.partitions import FLAT, Floats, Partition, moments, sums_by
from agentgym.trainers.advantage.turn_table import TurnFunction, TurnTable
from agentgym.trainers.parts import Declared, advantage, declare, turn_key

By: TypeAlias = str | Callable[[TurnTable], Iterable[object]]


@advantage
def standardize(
    by: By = "group",
    count: Literal["episode", "turn"] = "episode",
    scale: bool = True,
    ddof: int = 1,
    eps: float = 1e-6,
    *,
    alone: Literal["zero", "keep"] = "zero",
) -> Declared[[TurnTable, Floats], Floats]:
    """Minus the mean of its set; divided by the set's standard deviation if ``scale``: A = (x − μ) / (σ + ε).

    GRPO (arXiv 2402.03300) is ``chain(episode_return(), standardize())``, Dr. GRPO (2503.20783) has ``scale=False``,
    GiGPO's step term (2505.10978) is ``by="anchor"``.

    Args:
        by: sets are keyed by (group, this): a column, or a function of the table that returns one id per turn.
        count: μ and σ over one value per episode, that of its first turn, or over one value per turn, so that a long
            episode weighs more (what GiGPO's released code does). For ``by`` other than "group" always per turn.
        scale: divide. A set without spread then gives 0.
        ddof: σ² = Σ(x − μ)² / (n − ddof).
        eps: ε.
        alone: what a set of one value gives: 0, or ("keep", GRPO's and GiGPO's released code) the value as it came.

    Bias:
        ``chain(episode_return(), standardize(scale=False))``: unbiased, times (G - 1) / G
        ``chain(discounted_return(1.0), standardize(scale=False))``: unbiased, times (G - 1) / G
        ``chain(episode_return(), standardize())``: biased: σ weighs tasks and groups by their spread
        ``chain(episode_return(), standardize(count="turn", scale=False))``: biased: the mean leans to long episodes,
            and how long an episode is depends on its own actions
        ``chain(discounted_return(1.0), standardize(by="anchor", scale=False))``: biased: a state is scaled by the
            expected (n − 1)/n of its visits n, and 0 where it is met once; turns that revisit a state share a mean
        ``chain(episode_return(), standardize(scale=False, alone="keep"))``: unbiased, times (G - 1) / G
    """
    per_episode = by == "group" and count == "episode"

    def apply(turns: TurnTable, values: Floats) -> Floats:
        sets = turns.sets(by)
        code = sets.code
        found = moments(values, sets, ddof, turns.first if per_episode else None)
        deviation = (values - found.shift[code]) - found.mean[code]
        if scale:
            spread = found.deviation > 0
            deviation = np.where(spread[code], deviation / np.where(spread, found.deviation + eps, 1.0)[code], 0.0)
        lone = (found.number == 1)[code]
        return np.where(lone, values if alone == "keep" else 0.0, deviation)

    return declare(apply, needs=_columns(by))


@advantage
def leave_one_out(
    by: By = "group", count: Literal["episode", "turn"] = "episode"
) -> Declared[[TurnTable, Floats], Floats]:
    """Minus the mean of the *others* of its set: Aᵢ = xᵢ − 1/(n−1) Σ_{j≠i} xⱼ = n/(n−1) (xᵢ − μ); RLOO (2402.14740).

    Args: as :func:`standardize`; with ``count="episode"`` the others are the other episodes' first turns.

    Bias:
        ``chain(episode_return(), leave_one_out())``: unbiased
        ``chain(discounted_return(1.0), leave_one_out())``: unbiased
        ``chain(episode_return(), leave_one_out(count="turn"))``: biased: the episode's own turns are among the others
        ``chain(discounted_return(1.0), leave_one_out(by="anchor"))``: biased: a state met once gives 0, so a state's
            term is scaled by the chance of company
    """
    per_episode = by == "group" and count == "episode"

    def apply(turns: TurnTable, values: Floats) -> Floats:
        sets, rows = turns.sets(by), turns.first if per_episode else None
        found = moments(values, sets, 0, rows)
        own = values[turns.first][turns.episodes.code] if per_episode else values
        number, shift = found.number[sets.code], found.shift[sets.code]
        others = (number * found.mean[sets.code] - (own - shift)) / np.maximum(number - 1, 1)
        return np.where(number > 1, (values - shift) - others, 0.0)

    return declare(apply, needs=_columns(by))


@advantage
def whiten(
    count: Literal["episode", "turn", "token"] = "turn", center: bool = True, eps: float = 1e-8
) -> Declared[[TurnTable, Floats], Floats]:
    """Over the whole batch: A = (x − μ) / (σ + ε), σ unbiased; REINFORCE++ (2501.03262) with ``count="token"``.

    Args:
        count: one value per episode (its first turn's), per turn, or per action token (column ``tokens``).
        center: subtract μ; without it only the scale changes (Lite PPO, 2508.08221, after ``standardize(scale=False)``)

    Bias:
        ``chain(episode_return(), whiten())``: biased: the batch's mean leans to long episodes, its σ weighs batches
        ``chain(episode_return(), whiten(count="episode"))``: biased: σ weighs batches
    """

    def apply(turns: TurnTable, values: Floats) -> Floats:
        if count == "token":
            weight = turns.tokens.astype(np.float64)
        elif count == "turn":
            weight = np.ones(len(turns))
        else:
            weight = np.zeros(len(turns))
            weight[turns.first] = 1.0
        return _whitened(values, weight, center, eps)

    return declare(apply, needs={"tokens"} if count == "token" else ())


@advantage(needs=("tokens",))
def length_baseline() -> TurnFunction:
    """Minus the group's mean weighted by length: Aᵢ = rᵢ − Σⱼ Lⱼrⱼ / Σⱼ Lⱼ, L = action tokens; OPO (2505.23585).

    A group without tokens gives 0.

    Bias:
        ``chain(episode_return(), length_baseline())``: biased: the baseline holds the episode's own reward and length
    """

    def apply(turns: TurnTable, values: Floats) -> Floats:
        found, code = moments(values, turns.groups, 0, turns.first), turns.groups.code
        groups, length = Partition(code[turns.first], turns.groups.total), turns.per_episode(turns.tokens)
        away, tokens = values - found.shift[code], sums_by(groups, length)
        mean = sums_by(groups, length * away[turns.first]) / np.maximum(tokens, 1.0)
        return np.where(((tokens == 0) | (found.number == 1))[code], 0.0, away - mean[code])

    return apply


@advantage
def best_of_group(scale: bool = False, eps: float = 1e-6) -> TurnFunction:
    """GRPO-pass@k: the best episode of a group of k gets r₁ − r₂ (best minus second), all others 0; a tie gives 0.

    With ``scale`` divided by the group's unbiased standard deviation + ε, as released.

    Bias:
        ``chain(episode_return(), best_of_group())``: biased: it follows (unscaled: exactly, times 1/G) the gradient of
            the expected *best* reward of the group
    """

    def apply(turns: TurnTable, values: Floats) -> Floats:
        values, groups = values[turns.first], turns.groups.code[turns.first]
        order = np.lexsort((values, groups))
        ends = np.cumsum(np.bincount(groups, minlength=turns.groups.total)) - 1
        number = np.diff(ends, prepend=-1)
        best, second = order[ends], order[np.maximum(ends - 1, 0)]
        lead = np.zeros(len(values))
        lead[best] = np.where(number > 1, values[best] - values[second], 0.0)
        if scale:
            lead = lead / (moments(values, Partition(groups, turns.groups.total), 1).deviation + eps)[groups]
        return lead[turns.episodes.code]

    return apply


def _whitened(values: Floats, weight: Floats, center: bool, eps: float) -> Floats:
    number = weight.sum()
    if number <= 1:
        return np.zeros_like(values)
    shift = values[np.argmax(weight > 0)]
    away = values - shift
    mean = (weight * away).sum() / number
    deviation = float(np.sqrt((weight * (away - mean) ** 2).sum() / (number - 1)))
    if (weight * np.abs(away)).sum() <= FLAT * (weight * np.abs(values)).sum():
        return np.zeros_like(values)
    return np.asarray((away - mean if center else values) / (deviation + eps))


def _columns(by: By) -> frozenset[str]:
    if callable(by):
        turn_key.require(by, "by")
        return frozenset(getattr(by, "needs", ()))
    return frozenset({by}) - {"group", "episode", "turn"}
