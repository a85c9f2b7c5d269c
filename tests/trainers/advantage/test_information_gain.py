"""Information gain as credit: the vectors of the paper's formulas, the edge rules, and released code's defects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgym.errors import UsageError
from agentgym.trainers.advantage.baselines import standardize
from agentgym.trainers.advantage.combine import chain
from agentgym.trainers.advantage.information_gain import gains, information_credit, information_gain
from agentgym.trainers.advantage.returns import episode_return
from agentgym.trainers.advantage.turn_table import ColumnError, TurnTable

NAN = float("nan")
#: gains of the turns before the last one, and outcomes
GAINS, OUTCOMES = [[0.2, -0.1, 0.3], [0.0, 0.4], [0.1]], [1.0, 0.0, 0.5]


def table(
    gains: Sequence[Sequence[float]], outcomes: Sequence[float], *, answered: bool = True, group: str = "q"
) -> TurnTable:
    """Episodes whose beliefs start at -3 and change by these gains; one more turn answers if ``answered``."""
    columns: dict[str, list[Any]] = {
        name: [] for name in ("group", "episode", "turn", "reward", "answer_logprob", "answer_logprob_before")
    }
    for number, (rises, reward) in enumerate(zip(gains, outcomes, strict=True)):
        belief = -3.0
        steps: list[float] = [*rises, NAN] if answered else list(rises)
        for turn, gain in enumerate(steps):
            columns["group"].append(group)
            columns["episode"].append(number)
            columns["turn"].append(turn)
            columns["reward"].append(reward if turn == len(steps) - 1 else 0.0)
            columns["answer_logprob_before"].append(belief)
            belief += gain
            columns["answer_logprob"].append(belief)
    return TurnTable.from_columns(**columns)


@pytest.mark.parametrize(
    ("norm", "discount", "expected"),
    [
        ("separate", 1.0, [0.93197, 0.63921, 2.10305, 1.22474, -0.63921, 0.2391, -1.22474, -0.29277, 0.0]),
        ("separate", 0.5, [-0.06648, -0.7185, 1.49068, 1.22474, -0.45257, 0.85147, -1.22474, -0.29277, 0.0]),
        ("joint", 1.0, [1.04257, 1.25108, 2.39791, 2.29365, -1.25108, -0.41703, -0.83406, 0.20851, 0.7298]),
        ("joint", 0.5, [-0.46916, -0.52128, 1.25108, 2.29365, -0.83406, 0.0, -0.83406, -0.15639, 0.7298]),
    ],
)
def test_the_vectors(norm: Any, discount: float, expected: list[float]):
    turns = table(GAINS, OUTCOMES)
    got = information_credit(norm=norm, discount=discount)(turns, turns.reward)
    assert got == pytest.approx(expected, abs=1e-5)


def test_gains_of_both_kinds():
    # means of the answer's log-probabilities (-3, -2), (-2, -2), (-.5, -.1)
    turns = TurnTable.from_columns(
        group="q" * 3,
        episode="a" * 3,
        turn=[0, 1, 2],
        reward=[0, 0, 1],
        answer_logprob=[-2.0, -0.3, NAN],
        answer_logprob_before=[-2.5, -2.0, -0.3],
    )
    assert information_gain()(turns, turns.reward) == pytest.approx([0.5, 1.7, 0.0])
    assert information_gain("prob")(turns, turns.reward) == pytest.approx([0.05325, 0.605483, 0.0], abs=1e-6)


def test_per_turn_index_normalises_equal_places():
    turns = table(GAINS, OUTCOMES)
    got = information_credit(norm="per_turn_index", outcome_weight=0.0, discount=0.0)(turns, turns.reward)
    # first turns .2, 0, .1: mean .1, σ = sqrt(.02/3); second -.1, .4: ±1; third alone
    assert got == pytest.approx([1.22474, -1.0, 0.0, 0.0, -1.22474, 1.0, 0.0, 0.0, 0.0], abs=1e-4)


def test_none_leaves_gains_and_outcomes_as_they_are():
    turns = table(GAINS, OUTCOMES)
    got = information_credit(norm="none")(turns, turns.reward)
    assert got == pytest.approx([1.4, 1.2, 1.3, 1.0, 0.4, 0.4, 0.0, 0.6, 0.5])


def test_unbiased_spread():
    turns = table([[0.1], [0.3]], [0.0, 1.0])
    got = information_credit(std="unbiased", discount=0.0)(turns, turns.reward)
    assert got == pytest.approx([-np.sqrt(0.5), -np.sqrt(0.5), np.sqrt(0.5), np.sqrt(0.5)], abs=1e-4)


def test_mean_and_rescaled_sums():
    turns = table([[0.2, -0.1, 0.3]], [1.0])
    total, mean, root = (
        information_credit(norm="none", accumulate=how)(turns, turns.reward) for how in ("sum", "mean", "rescaled")
    )
    assert mean == pytest.approx(total / [4, 3, 2, 1])
    assert root == pytest.approx(total / np.sqrt([4, 3, 2, 1]))


def test_a_turn_without_belief_is_no_term():
    turns = table([[], [0.4]], [1.0, 0.0])
    turns = turns.with_columns(answer_logprob=[NAN] * 3)
    got = information_credit(norm="none", accumulate="mean")(turns, turns.reward)
    assert got == pytest.approx([1.0, 0.0, 0.0])


def test_without_beliefs_the_outcome_is_left():
    turns = table(GAINS, OUTCOMES).with_columns(answer_logprob=[NAN] * 9)
    got = information_credit()(turns, turns.reward)
    grpo = chain(episode_return(), standardize(ddof=0))(turns, turns.reward)
    assert got == pytest.approx(grpo, abs=1e-5)


def test_an_episode_cut_by_a_limit_has_a_gain_and_an_outcome_on_its_last_turn():
    turns = table([[0.1, 0.5], [0.2, 0.4]], [0.0, 1.0], answered=False)
    got = information_credit(norm="none", discount=0.0)(turns, turns.reward)
    assert got == pytest.approx([0.1, 0.5, 0.2, 1.4])


def test_few_values_and_no_spread_give_zero():
    alone = table([[0.7]], [1.0])
    assert information_credit()(alone, alone.reward).tolist() == [0.0, 0.0]
    same = table([[0.1 + 0.2], [0.3]], [1.0, 1.0])
    assert information_credit()(same, same.reward) == pytest.approx(np.zeros(4), abs=1e-12)


def test_groups_do_not_mix():
    first, second = table(GAINS, OUTCOMES), table([[5.0], [9.0]], [0.0, 3.0], group="r")
    both = TurnTable.from_columns(
        **{name: [*first.column(name).tolist(), *second.column(name).tolist()] for name in first.columns}
    )
    for norm in ("separate", "joint", "per_turn_index"):
        part = information_credit(norm=norm)  # type: ignore[arg-type]
        expected = np.concatenate([part(t, t.reward) for t in (first, second)])
        assert part(both, both.reward) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: information_credit(discount=1.5), r"discount must lie in \[0, 1\], got 1.5"),
        (lambda: information_credit(eps=0.0), "eps decides what counts as no spread and must be positive"),
    ],
)
def test_wrong_parameters(make: Any, message: str):
    with pytest.raises(UsageError, match=message):
        make()


def test_wrong_words():
    turns = table(GAINS, OUTCOMES)
    with pytest.raises(UsageError, match=r"information_gain: kind: input should be 'log' or 'prob' \(got 'bits'\)"):
        information_gain("bits")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="kind of information gain is 'log' or 'prob', got 'bits'"):
        gains(turns, "bits")  # type: ignore[arg-type]
    for name, known in (
        ("norm", "'separate', 'joint', 'per_turn_index' or 'none'"),
        ("std", "'population' or 'unbiased'"),
        ("accumulate", "'sum', 'mean' or 'rescaled'"),
    ):
        with pytest.raises(UsageError, match=rf"information_credit: {name}: input should be {known} \(got 'batch'\)"):
            information_credit(**{name: "batch"})


def test_the_columns_are_declared():
    turns = TurnTable.from_columns(group=["q"], episode=["a"], turn=[0], reward=[1.0])
    assert information_credit().needs == {"answer_logprob", "answer_logprob_before"}
    with pytest.raises(ColumnError, match="no column 'answer_logprob"):
        information_credit()(turns, turns.reward)


# --- defects of released code (numbers as in the list that docs/results.md quotes) -----------------------------------


def test_defect_4_a_gain_at_the_mean_of_its_set_keeps_its_own_turn():
    # gains .1, .2, .3 have mean .2: the second turn's normalised gain is exactly 0, and it is still a turn of its own
    turns = table([[0.1, 0.2, 0.3]], [0.0])
    got = information_credit(discount=0.5)(turns, turns.reward)
    z = 0.1 / np.sqrt(0.02 / 3)
    assert got == pytest.approx([-z + 0.25 * z, 0.5 * z, z, 0.0], abs=1e-4)


def test_defect_5_a_missing_belief_costs_only_its_own_gain():
    turns = table(GAINS, OUTCOMES)
    after = turns.answer_logprob.copy()
    after[1] = NAN
    got = information_credit(norm="none", discount=0.0)(turns.with_columns(answer_logprob=after), turns.reward)
    assert got == pytest.approx([0.2, 0.0, 0.3, 1.0, 0.0, 0.4, 0.0, 0.1, 0.5])


@pytest.mark.parametrize("norm", ["separate", "joint"])
def test_defect_6_weights_survive_the_normalisation(norm: Any):
    turns = table(GAINS, OUTCOMES)
    full = information_credit(norm=norm)(turns, turns.reward)
    gain = information_credit(norm=norm, outcome_weight=0.0)(turns, turns.reward)
    end = information_credit(norm=norm, gain_weight=0.0)(turns, turns.reward)
    assert gain + end == pytest.approx(full)
    mixed = information_credit(norm=norm, gain_weight=0.25, outcome_weight=2.0)(turns, turns.reward)
    assert mixed == pytest.approx(0.25 * gain + 2.0 * end)
    assert np.abs(mixed - full).max() > 0.5


def test_defect_7_rescaled_sums_do_not_grow_with_depth():
    rng = np.random.default_rng(0)

    def first_turn(depth: int, how: Any) -> float:
        turns = table(rng.normal(size=(400, depth)), rng.normal(size=400))
        credit = information_credit(accumulate=how)(turns, turns.reward)
        return float(np.sqrt(np.mean(credit[turns.first] ** 2)))

    # depth independent terms of variance 1 each: their sum has rms sqrt(depth + 1), the rescaled one 1
    assert first_turn(2, "sum") == pytest.approx(np.sqrt(3), rel=0.1)
    assert first_turn(9, "sum") == pytest.approx(np.sqrt(10), rel=0.1)
    for depth in (2, 9):
        assert first_turn(depth, "rescaled") == pytest.approx(1.0, rel=0.1)
        assert first_turn(depth, "mean") == pytest.approx(1 / np.sqrt(depth + 1), rel=0.1)


def test_defect_8_equal_outcomes_push_no_answer():
    turns = table(GAINS, [1.0, 1.0, 1.0])
    joint = information_credit(norm="joint")(turns, turns.reward)
    assert joint[turns.last].tolist() == [0.0, 0.0, 0.0]
    assert joint == pytest.approx(information_credit()(turns, turns.reward))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_defect_9_array_operations_equal_the_loop(data: st.DataObject):
    """The vectorised credit against the formulas written out, turn by turn; also for permuted rows."""
    number = st.floats(-3, 3).map(lambda x: round(x, 3))
    gains = data.draw(st.lists(st.lists(number, max_size=4), min_size=1, max_size=4))
    outcomes = data.draw(st.lists(number, min_size=len(gains), max_size=len(gains)))
    discount = data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    norm = data.draw(st.sampled_from(["separate", "joint", "none"]))
    turns = table(gains, outcomes)
    part = information_credit(norm=norm, discount=discount)
    expected = np.array(loop(gains, outcomes, discount, norm))
    assert part(turns, turns.reward) == pytest.approx(expected, abs=1e-6)
    shuffled = np.array(data.draw(st.permutations(range(len(turns)))))
    moved = TurnTable.from_columns(**{name: turns.column(name)[shuffled] for name in turns.columns})
    assert part(moved, moved.reward) == pytest.approx(expected[shuffled], abs=1e-6)


def loop(gains: list[list[float]], outcomes: list[float], discount: float, norm: str) -> list[float]:
    # beliefs are summed up from -3, so a gain is what is left of it in floating point
    known = [g for rises in gains for g in rises]
    pools = {"gain": known, "outcome": outcomes}
    if norm == "joint" and len(set(outcomes)) > 1:
        pools = dict.fromkeys(pools, known + outcomes)

    def score(x: float, pool: list[float]) -> float:
        sigma = float(np.std(pool))
        if norm == "none":
            return x
        return (x - float(np.mean(pool))) / (sigma + 1e-6) if len(pool) > 1 and sigma > 1e-6 else 0.0

    out = []
    for rises, end in zip(gains, outcomes, strict=True):
        terms = [score(g, pools["gain"]) for g in rises] + [score(end, pools["outcome"])]
        out += [sum(discount ** (k - t) * terms[k] for k in range(t, len(terms))) for t in range(len(terms))]
    return out
