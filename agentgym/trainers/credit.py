"""Credit: how much better a turn was than expected. Parts, joined by :func:`chain`, :func:`total` and :func:`scaled`.

A part is a pure function ``(turns, credit) -> credit`` on float64 [turns]; any callable of that form joins in. ::

    grpo = chain(outcome(), standardize())
    gigpo = total(grpo, scaled(1.0, chain(to_go(0.95), standardize(by="anchor"))))  # with ``scale=True``
    advantage = gigpo(turns, turns.reward)

Rules for every part: a set of one, or a set without spread, gives 0; nothing depends on the order of rows or on what
ids are called (``anchors.similar_anchors`` excepted, which reads rows in order).

**Bias.** With a policy that itself decides how long an episode lasts, many usual baselines change what is optimised.
Each rule's docstring says under "Bias" whether its expected update on fresh samples, E[1/G Σᵢ Σₜ Aᵢₜ ∇log π(aᵢₜ)],
is c·∇E[undiscounted episode reward] with one constant c ("unbiased"; c is given where it is not 1, G is the group's
size) or not ("biased"). ``tests/trainers/test_bias.py`` reads these lines and checks each by exact enumeration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from agentgym.errors import UsageError
from agentgym.trainers.turns import Codes, Floats, Part, Sets, TurnTable, named, sums_by

Rule: TypeAlias = Callable[[TurnTable, Floats], Floats]
By: TypeAlias = str | Callable[[TurnTable], Iterable[object]]
FLAT = 1e-12  # a spread below this share of the values is rounding noise


@named
def chain(*parts: Rule) -> Part:
    """Each part works on what the one before returned."""
    _some(parts, "chain")

    def apply(turns: TurnTable, credit: Floats) -> Floats:
        for part in parts:
            credit = part(turns, credit)
        return credit

    return Part(apply, _needs(parts), parts)


@named
def total(*parts: Rule) -> Part:
    """The sum of what each part makes of the same credit."""
    _some(parts, "total")

    def apply(turns: TurnTable, credit: Floats) -> Floats:
        return np.asarray(np.sum([part(turns, credit) for part in parts], axis=0))

    return Part(apply, _needs(parts), parts)


@named
def scaled(weight: float, part: Rule) -> Part:
    """``weight`` times what the part returns."""
    return Part(lambda turns, credit: weight * part(turns, credit), _needs((part,)), (part,))


@named
def outcome() -> Part:
    """Every turn gets the sum of its episode: Aₜ = Σₖ rₖ.

    Bias:
        ``outcome()``: unbiased
    """
    return Part(lambda turns, credit: turns.per_episode(credit)[turns.episodes.code])


@named
def to_go(discount: float) -> Part:
    """Return: the discounted sum from the turn on, Aₜ = Σ_{k≥t} γᵏ⁻ᵗ rₖ, γ = ``discount`` in [0, 1].

    Bias:
        ``to_go(1.0)``: unbiased
        ``to_go(0.9)``: biased: rewards far from the action count less than the objective says
    """
    _in_unit("discount", discount)
    return Part(lambda turns, credit: turns.reverse_scan(credit, discount))


@named
def standardize(
    by: By = "group",
    count: Literal["episode", "turn"] = "episode",
    scale: bool = True,
    ddof: int = 1,
    eps: float = 1e-6,
    *,
    alone: Literal["zero", "keep"] = "zero",
) -> Part:
    """Minus the mean of its set; divided by the set's standard deviation if ``scale``: A = (x − μ) / (σ + ε).

    GRPO (arXiv 2402.03300) is ``chain(outcome(), standardize())``, Dr. GRPO (2503.20783) has ``scale=False``,
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
        ``chain(outcome(), standardize(scale=False))``: unbiased, times (G - 1) / G
        ``chain(to_go(1.0), standardize(scale=False))``: unbiased, times (G - 1) / G
        ``chain(outcome(), standardize())``: biased: σ weighs tasks and groups by their spread
        ``chain(outcome(), standardize(count="turn", scale=False))``: biased: the mean leans to long episodes, and how
            long an episode is depends on its own actions
        ``chain(to_go(1.0), standardize(by="anchor", scale=False))``: biased: a state is scaled by the expected
            (n − 1)/n of its visits n, and 0 where it is met once; turns that revisit a state share a mean
        ``chain(outcome(), standardize(scale=False, alone="keep"))``: unbiased, times (G - 1) / G
    """
    per_episode = by == "group" and count == "episode"

    def apply(turns: TurnTable, credit: Floats) -> Floats:
        sets = turns.sets(by)
        code = sets.code
        found = _moments(credit, sets, turns.first if per_episode else None, ddof)
        deviation = (credit - found.shift[code]) - found.mean[code]
        if scale:
            spread = found.deviation > 0
            deviation = np.where(spread[code], deviation / np.where(spread, found.deviation + eps, 1.0)[code], 0.0)
        lone = (found.number == 1)[code]
        return np.where(lone, credit if alone == "keep" else 0.0, deviation)

    return Part(apply, _columns(by))


@named
def leave_one_out(by: By = "group", count: Literal["episode", "turn"] = "episode") -> Part:
    """Minus the mean of the *others* of its set: Aᵢ = xᵢ − 1/(n−1) Σ_{j≠i} xⱼ = n/(n−1) (xᵢ − μ); RLOO (2402.14740).

    Args: as :func:`standardize`; with ``count="episode"`` the others are the other episodes' first turns.

    Bias:
        ``chain(outcome(), leave_one_out())``: unbiased
        ``chain(to_go(1.0), leave_one_out())``: unbiased
        ``chain(outcome(), leave_one_out(count="turn"))``: biased: the episode's own turns are among the others
        ``chain(to_go(1.0), leave_one_out(by="anchor"))``: biased: a state met once gives 0, so a state's term is scaled
            by the chance of company
    """
    per_episode = by == "group" and count == "episode"

    def apply(turns: TurnTable, credit: Floats) -> Floats:
        sets, rows = turns.sets(by), turns.first if per_episode else None
        found = _moments(credit, sets, rows, 0)
        own = credit[turns.first][turns.episodes.code] if per_episode else credit
        number, shift = found.number[sets.code], found.shift[sets.code]
        others = (number * found.mean[sets.code] - (own - shift)) / np.maximum(number - 1, 1)
        return np.where(number > 1, (credit - shift) - others, 0.0)

    return Part(apply, _columns(by))


@named
def whiten(count: Literal["episode", "turn", "token"] = "turn", center: bool = True, eps: float = 1e-8) -> Part:
    """Over the whole batch: A = (x − μ) / (σ + ε), σ unbiased; REINFORCE++ (2501.03262) with ``count="token"``.

    Args:
        count: one value per episode (its first turn's), per turn, or per action token (column ``tokens``).
        center: subtract μ; without it only the scale changes (Lite PPO, 2508.08221, after ``standardize(scale=False)``)

    Bias:
        ``chain(outcome(), whiten())``: biased: the batch's mean leans to long episodes, its σ weighs batches
        ``chain(outcome(), whiten(count="episode"))``: biased: σ weighs batches
    """

    def apply(turns: TurnTable, credit: Floats) -> Floats:
        if count == "token":
            weight = turns.tokens.astype(np.float64)
        elif count == "turn":
            weight = np.ones(len(turns))
        else:
            weight = np.zeros(len(turns))
            weight[turns.first] = 1.0
        return _whitened(credit, weight, center, eps)

    return Part(apply, frozenset({"tokens"}) if count == "token" else frozenset())


@named
def length_baseline() -> Part:
    """Minus the group's mean weighted by length: Aᵢ = rᵢ − Σⱼ Lⱼrⱼ / Σⱼ Lⱼ, L = action tokens; OPO (2505.23585).

    A group without tokens gives 0.

    Bias:
        ``chain(outcome(), length_baseline())``: biased: the baseline holds the episode's own reward and length
    """

    def apply(turns: TurnTable, credit: Floats) -> Floats:
        found, code = _moments(credit, turns.groups, turns.first, 0), turns.groups.code
        groups, length = Sets(code[turns.first], turns.groups.total), turns.per_episode(turns.tokens)
        away, tokens = credit - found.shift[code], sums_by(groups, length)
        mean = sums_by(groups, length * away[turns.first]) / np.maximum(tokens, 1.0)
        return np.where(((tokens == 0) | (found.number == 1))[code], 0.0, away - mean[code])

    return Part(apply, frozenset({"tokens"}))


@named
def best_of_group(scale: bool = False, eps: float = 1e-6) -> Part:
    """GRPO-pass@k: the best episode of a group of k gets r₁ − r₂ (best minus second), all others 0; a tie gives 0.

    With ``scale`` divided by the group's unbiased standard deviation + ε, as released.

    Bias:
        ``chain(outcome(), best_of_group())``: biased: it follows (unscaled: exactly, times 1/G) the gradient of the
            expected *best* reward of the group
    """

    def apply(turns: TurnTable, credit: Floats) -> Floats:
        values, groups = credit[turns.first], turns.groups.code[turns.first]
        order = np.lexsort((values, groups))
        ends = np.cumsum(np.bincount(groups, minlength=turns.groups.total)) - 1
        number = np.diff(ends, prepend=-1)
        best, second = order[ends], order[np.maximum(ends - 1, 0)]
        lead = np.zeros(len(values))
        lead[best] = np.where(number > 1, values[best] - values[second], 0.0)
        if scale:
            found = _moments(credit, turns.groups, turns.first, 1)
            lead = lead / (found.deviation + eps)[groups]
        return lead[turns.episodes.code]

    return Part(apply)


@named
def gae(discount: float = 1.0, trace: float = 1.0) -> Part:
    """Generalised advantage over turns (1506.02438): δₜ = rₜ + γVₜ₊₁ − Vₜ, Aₜ = δₜ + γλAₜ₊₁; γ, λ in [0, 1].

    The critic's Vₜ is the column ``value``. After the last turn V is 0, except that a truncated episode goes on from
    the column ``bootstrap`` (read on that turn): being cut off is not the end of the task.

    Bias:
        ``gae()``: unbiased
        ``gae(1.0, 0.5)``: biased: by as much as the critic is wrong
    """
    _in_unit("discount", discount)
    _in_unit("trace", trace)

    def apply(turns: TurnTable, credit: Floats) -> Floats:
        after = np.empty(len(turns))
        after[turns.order[:-1]] = turns.value[turns.order[1:]]
        after[turns.last] = _value_after_last(turns)
        return turns.reverse_scan(credit + discount * after - turns.value, discount * trace)

    return Part(apply, frozenset({"value", "truncated"}))


@named
def invalid_penalty(penalty: float) -> Part:
    """Minus ``penalty`` on each turn that the environment did not understand: Aₜ = xₜ − c·[not valid].

    It comes last, after the comparison with others: before ``standardize`` (where GiGPO's released code has it) it
    moves the mean that the other turns are compared with. It is not carried to earlier turns; for a penalty that is use
    ``rewards.format_penalty``.

    Bias:
        ``chain(outcome(), invalid_penalty(0.1))``: biased: on purpose, and blind to invalid turns that come later
    """
    return Part(lambda turns, credit: credit - penalty * ~turns.valid, frozenset({"valid"}))


class _Moments(NamedTuple):
    """Per set: how many values, one of them, the mean minus that one, the standard deviation (0: no spread)."""

    number: Codes
    shift: Floats
    mean: Floats
    deviation: Floats


def _moments(values: Floats, sets: Sets, rows: Codes | None, ddof: int) -> _Moments:
    """Moments of ``values[rows]`` in each set, taken about one member so that equal values cancel exactly."""
    x = values if rows is None else values[rows]
    sets = sets if rows is None else Sets(sets.code[rows], sets.total)
    number = np.bincount(sets.code, minlength=sets.total)
    shift = np.zeros(sets.total)
    shift[sets.code] = x
    away = x - shift[sets.code]
    mean = sums_by(sets, away) / np.maximum(number, 1)
    squares = sums_by(sets, (away - mean[sets.code]) ** 2)
    flat = sums_by(sets, np.abs(away)) <= FLAT * sums_by(sets, np.abs(x))
    deviation = np.sqrt(squares / np.maximum(number - ddof, 1))
    return _Moments(number, shift, mean, np.where(flat | (number <= ddof), 0.0, deviation))


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


def _value_after_last(turns: TurnTable) -> Floats:
    truncated = turns.truncated[turns.last]
    if not truncated.any():
        return np.zeros(turns.episodes.total)
    return np.where(truncated, turns.bootstrap[turns.last], 0.0)


def _needs(parts: Iterable[Rule]) -> frozenset[str]:
    return frozenset[str]().union(*(getattr(part, "needs", frozenset()) for part in parts))


def _columns(by: By) -> frozenset[str]:
    if callable(by):
        return frozenset(getattr(by, "needs", ()))
    return frozenset({by}) - {"group", "episode", "turn"}


def _some(parts: tuple[Rule, ...], name: str) -> None:
    if not parts:
        raise UsageError(f"{name}() joins nothing; give it parts, e.g. {name}(outcome(), standardize())")


def _in_unit(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise UsageError(f"{name} must lie in [0, 1], got {value!r}")
