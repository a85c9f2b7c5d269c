"""Information gain: a turn is worth what it adds to the policy's belief in the accepted answer; IGPO (ICLR 2026).

The belief bₜ after turn t is the mean log-probability of the answer's tokens there
(:mod:`agentgym.trainers.update.answer_probe`), read from the columns ``answer_logprob`` (after the turn) and
``answer_logprob_before``. NaN means that there is none: the turn that answers, a task without accepted answers. Such a
turn has no gain and enters no statistic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from agentgym.errors import UsageError
from agentgym.trainers.advantage.partitions import Codes, Floats, Partition, moments
from agentgym.trainers.advantage.turn_table import TurnFunction, TurnTable
from agentgym.trainers.parts import advantage, reward

Kind: TypeAlias = Literal["log", "prob"]
Norm: TypeAlias = Literal["separate", "joint", "per_turn_index", "none"]
Accumulate: TypeAlias = Literal["sum", "mean", "rescaled"]
NEEDS = frozenset({"answer_logprob", "answer_logprob_before"})


@dataclass(frozen=True)
class AnswerProbe:
    """How the policy is asked.

    Attributes:
        lead: what an action says before its answer. A model that thinks first believes nothing before it has closed its
            thinking: give it e.g. ``"<think>\\nI know enough to answer.\\n</think>\\n"``.
        opening, closing: the markup around an answer; None: the environment's own.
        aliases: how several accepted answers become one belief. ``best``: the alias that is believed most at the end,
            the same one for all turns. ``mean``: log of the mean of exp(b) over aliases, which is log-sum-exp but for a
            constant. ``first``: the first one only (IGPO's released code).
        max_aliases: so many are scored.
        removed: what is left out of a turn when the belief *after* it is scored. ``nothing``; the turn's ``thinking``;
            or its whole ``action``, so that only the tool's text can raise the belief. A policy can raise its own
            belief by writing a guess.
        by: who is asked: the ``policy`` that acted, or the ``reference`` (the first weights; a target that stays).
    """

    lead: str = ""
    opening: str | None = None
    closing: str | None = None
    aliases: Literal["best", "mean", "first"] = "best"
    max_aliases: int = 8
    removed: Literal["nothing", "thinking", "action"] = "nothing"
    by: Literal["policy", "reference"] = "policy"

    def __post_init__(self) -> None:
        if self.max_aliases < 1:
            raise UsageError(f"max_aliases must be at least 1, got {self.max_aliases}; 1 scores the first answer only")
        if (self.opening is None) != (self.closing is None):
            raise UsageError("give both opening and closing, or neither for the environment's own")


#: IGPO's released wrapper, in words of our own: a thought that enough is known, then the answer.
PUBLISHED = AnswerProbe("<think>\nI know enough to answer.\n</think>\n", "<answer>\n", "\n</answer>")


@reward(needs=NEEDS)
def information_gain(kind: Kind = "log") -> TurnFunction:
    """What each turn added to the belief, in place of the reward; 0 where no belief follows the turn.

    ``log``: IGₜ = bₜ − bₜ₋₁ (the paper's second version); ``prob``: exp bₜ − exp bₜ₋₁ (its first one). With beliefs
    about whole turns the log gains of an episode add up to the last belief minus the one before the first turn.
    """

    def apply(turns: TurnTable, reward: Floats) -> Floats:
        gain, known = gains(turns, kind)
        return np.where(known, gain, 0.0)

    return apply


@advantage(needs=NEEDS)
def information_credit(
    kind: Kind = "log",
    norm: Norm = "separate",
    std: Literal["population", "unbiased"] = "population",
    accumulate: Accumulate = "sum",
    discount: float = 1.0,
    gain_weight: float = 1.0,
    outcome_weight: float = 1.0,
    eps: float = 1e-6,
) -> TurnFunction:
    """IGPO's advantage: normalised gains and the normalised outcome, summed from each turn on.

    r̃ₖ = w_ig · z(IGₖ) + [k is the episode's last turn] · w_out · z(outcome);  Aₜ = Σ_{k≥t} γᵏ⁻ᵗ r̃ₖ, where
    z(x) = (x − μ) / (σ + ε) inside the group and the outcome is the sum of the episode's rewards.

    A set of fewer than two values, or with σ < ε, gives 0. Weights act after normalisation, where they are not divided
    out again. An episode that a limit cut off has a gain *and* an outcome on its last turn; without beliefs what is
    left is the outcome.

    Args:
        kind: see :func:`information_gain`.
        norm: what shares μ and σ. ``separate`` (the paper): all gains of a group; all its outcomes. ``joint``: both
            together; equal outcomes tell nothing, so (unlike in the paper) they then give 0 and stay out.
            ``per_turn_index``: gains at the same place of their episodes (A2TGPO, 2605.06200). ``none``: as they are.
        std: σ² = Σ(x − μ)² / n, or / (n − 1).
        accumulate: ``sum`` (the paper); ``mean``: divided by the number n of summed terms; ``rescaled``: by √n
            (A2TGPO), so that the scale does not grow with the turns that follow.
        discount: γ, in [0, 1].
        gain_weight, outcome_weight: w_ig, w_out; 0 leaves the term out.
        eps: ε.
    """
    if not 0.0 <= discount <= 1.0:
        raise UsageError(f"discount must lie in [0, 1], got {discount!r}")
    if eps <= 0:
        raise UsageError(f"eps decides what counts as no spread and must be positive, got {eps!r}")
    ddof = 0 if std == "population" else 1

    def apply(turns: TurnTable, reward: Floats) -> Floats:
        gain, known = gains(turns, kind)
        outcome = turns.per_episode(reward)
        gain[known], outcome = _normalised(turns, gain[known], known, outcome, norm, ddof, eps)
        credit = np.where(known, gain_weight * gain, 0.0)
        credit[turns.last] += outcome_weight * outcome[turns.episodes.code[turns.last]]
        total = turns.reverse_scan(credit, discount)
        if accumulate == "sum":
            return total
        terms = known & (gain_weight != 0)
        terms[turns.last] |= outcome_weight != 0
        number = np.maximum(turns.reverse_scan(terms.astype(np.float64), 1.0), 1.0)
        return total / (number if accumulate == "mean" else np.sqrt(number))

    return apply


def gains(turns: TurnTable, kind: Kind = "log") -> tuple[Floats, NDArray[np.bool_]]:
    """The gain of each turn, and whether it has one [turns] each."""
    if kind not in ("log", "prob"):
        raise UsageError(f"kind of information gain is 'log' or 'prob', got {kind!r}")
    after, before = turns.answer_logprob, turns.answer_logprob_before
    gain: Floats = after - before if kind == "log" else np.exp(after) - np.exp(before)
    return gain, np.isfinite(gain)


def _normalised(
    turns: TurnTable, gain: Floats, known: NDArray[np.bool_], outcome: Floats, norm: Norm, ddof: int, eps: float
) -> tuple[Floats, Floats]:
    """Gains of the turns that have one, and outcomes [episodes], in the unit of their sets' spread."""
    if norm == "none":
        return gain, outcome
    groups = turns.groups.total
    group = np.empty(turns.episodes.total, np.intp)
    group[turns.episodes.code[turns.first]] = turns.groups.code[turns.first]
    if norm == "joint":
        differ = _spread(outcome, group, groups)[group]
        both = np.concatenate([gain, outcome[differ]])
        code = np.concatenate([turns.groups.code[known], group[differ]])
        scores = _scores(both, Partition(code, groups), ddof, eps)
        shared = np.zeros(len(outcome))
        shared[differ] = scores[len(gain) :]
        return scores[: len(gain)], shared
    if norm == "separate":
        sets = turns.groups
    elif norm == "per_turn_index":
        sets = turns.sets("turn")
    else:
        raise UsageError(f"norm is 'separate', 'joint', 'per_turn_index' or 'none', got {norm!r}")
    own = _scores(gain, Partition(sets.code[known], sets.total), ddof, eps)
    return own, _scores(outcome, Partition(group, groups), ddof, eps)


def _scores(values: Floats, sets: Partition, ddof: int, eps: float) -> Floats:
    """(x − μ) / (σ + ε) inside each set; 0 where a set has one value or no spread [values]."""
    found, code = moments(values, sets, ddof), sets.code
    away = values - found.shift[code] - found.mean[code]
    flat = found.deviation < eps
    return np.where(flat[code], 0.0, away / np.where(flat, 1.0, found.deviation + eps)[code])


def _spread(values: Floats, code: Codes, total: int) -> NDArray[np.bool_]:
    """Whether the values of a set differ [total]."""
    low, high = np.full(total, np.inf), np.full(total, -np.inf)
    np.minimum.at(low, code, values)
    np.maximum.at(high, code, values)
    return low < high
