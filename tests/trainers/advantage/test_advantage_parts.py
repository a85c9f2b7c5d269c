"""Advantage parts: hand-computed values, GiGPO's published vectors, and the invariants every part keeps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from agentgym.errors import UsageError
from agentgym.trainers.advantage.baselines import best_of_group, leave_one_out, length_baseline, standardize, whiten
from agentgym.trainers.advantage.combine import add, chain, scale
from agentgym.trainers.advantage.critic import gae
from agentgym.trainers.advantage.returns import discounted_return, episode_return, invalid_penalty
from agentgym.trainers.advantage.states import similar_anchors
from agentgym.trainers.advantage.turn_table import ColumnError, TurnTable
from agentgym.trainers.parts import advantage


def table(**columns):
    return TurnTable.from_columns(**columns)


def one_turn_each(rewards, **columns):
    n = len(rewards)
    return table(group=["q"] * n, episode=list(range(n)), turn=[0] * n, reward=rewards, **columns)


# --- values by hand --------------------------------------------------------------------------------------------------

CHAIN = table(group="xxxxx", episode="aaabb", turn=[0, 1, 2, 0, 1], reward=[1.0, 0.0, 2.0, 4.0, -1.0])


def test_episode_return_is_the_sum_of_the_episode():
    assert episode_return()(CHAIN, CHAIN.reward).tolist() == [3, 3, 3, 3, 3]


def test_discounted_return_discounts_each_turn_from_its_own():
    # episode a: 1 + .5*0 + .25*2 = 1.5, 0 + .5*2 = 1, 2; episode b: 4 - .5 = 3.5, -1
    assert discounted_return(0.5)(CHAIN, CHAIN.reward).tolist() == [1.5, 1.0, 2.0, 3.5, -1.0]
    assert discounted_return(0.0)(CHAIN, CHAIN.reward).tolist() == CHAIN.reward.tolist()


def test_grpo_dr_grpo_and_rloo():
    turns = one_turn_each([1.0, 0.0, 0.0, 0.0])  # mean .25, unbiased deviation .5, population deviation .4330127
    assert_allclose(standardize(eps=0.0)(turns, turns.reward), [1.5, -0.5, -0.5, -0.5])
    assert_allclose(standardize()(turns, turns.reward), np.array([1.5, -0.5, -0.5, -0.5]) * 0.5 / (0.5 + 1e-6))
    assert_allclose(standardize(ddof=0, eps=0.0)(turns, turns.reward), [1.7320508, -0.5773503, -0.5773503, -0.5773503])
    assert_allclose(standardize(scale=False)(turns, turns.reward), [0.75, -0.25, -0.25, -0.25])
    assert_allclose(leave_one_out()(turns, turns.reward), [1, -1 / 3, -1 / 3, -1 / 3])


def test_statistics_per_episode_or_per_turn():
    turns = table(group="xxxx", episode="aaab", turn=[0, 1, 2, 0], reward=[0.0, 0.0, 1.0, 0.0])
    assert chain(episode_return(), standardize(scale=False))(turns, turns.reward).tolist() == [0.5, 0.5, 0.5, -0.5]
    per_turn = chain(episode_return(), standardize(count="turn", scale=False))
    assert per_turn(turns, turns.reward).tolist() == [0.25, 0.25, 0.25, -0.75]


def test_statistics_of_values_that_differ_inside_an_episode_are_those_of_first_turns():
    turns = table(group="xxx", episode="aab", turn=[0, 1, 0], reward=[1.0, 1.0, 4.0])  # returns 2 1 | 4, mean (2 + 4)/2
    assert chain(discounted_return(1.0), standardize(scale=False))(turns, turns.reward).tolist() == [-1.0, -2.0, 1.0]
    assert chain(discounted_return(1.0), leave_one_out())(turns, turns.reward).tolist() == [-2.0, -3.0, 2.0]


def test_whiten_over_turns_episodes_and_tokens():
    turns = table(group="xxx", episode="aab", turn=[0, 1, 0], reward=[1.0, 1.0, 4.0], tokens=[2, 3, 5])
    assert_allclose(whiten(eps=0.0)(turns, turns.reward), np.array([-1, -1, 2]) / np.sqrt(3))
    assert_allclose(whiten("episode", eps=0.0)(turns, turns.reward), np.array([-1.5, -1.5, 1.5]) / np.sqrt(4.5))
    # tokens: five 1s and five 4s, mean 2.5, unbiased variance 10 * 2.25 / 9 = 2.5
    assert_allclose(whiten("token", eps=0.0)(turns, turns.reward), np.array([-1.5, -1.5, 1.5]) / np.sqrt(2.5))
    assert_allclose(whiten(center=False, eps=0.0)(turns, turns.reward), np.array([1, 1, 4]) / np.sqrt(3))


def test_length_baseline_weighs_by_tokens():
    turns = table(group="xxx", episode="aab", turn=[0, 1, 0], reward=[0.0, 1.0, 0.0], tokens=[2, 1, 1])
    # Σ L r / Σ L = (3 * 1 + 1 * 0) / 4
    assert chain(episode_return(), length_baseline())(turns, turns.reward).tolist() == [0.25, 0.25, -0.75]


def test_length_baseline_of_a_group_without_tokens_is_zero():
    turns = one_turn_each([1.0, 2.0], tokens=[0, 0])
    assert length_baseline()(turns, turns.reward).tolist() == [0.0, 0.0]


def test_best_of_group_gives_the_lead_to_the_best():
    turns = one_turn_each([0.2, 1.0, 0.7, 0.7])
    assert_allclose(best_of_group()(turns, turns.reward), [0, 0.3, 0, 0])
    assert_allclose(best_of_group(scale=True, eps=0.0)(turns, turns.reward), [0, 0.3 / 0.3316625, 0, 0], rtol=1e-6)
    long = {"turn": [0, 1, 0, 0, 1, 2], "episode": ["a", "a", "b", "c", "c", "c"], "group": ["g"] * 6}
    turns = TurnTable.from_columns(**long, reward=[0.5, 0.5, 0.4, 0.0, 0.0, 0.1])
    scaled = chain(episode_return(), best_of_group(scale=True, eps=0.0))(turns, turns.reward)
    assert_allclose(scaled, [0.6 / 0.4582576, 0.6 / 0.4582576, 0, 0, 0, 0], rtol=1e-6)
    tie = one_turn_each([1.0, 1.0, 0.0])
    assert best_of_group()(tie, tie.reward).tolist() == [0, 0, 0]


def test_invalid_penalty_is_not_carried_back():
    turns = table(group="xx", episode="aa", turn=[0, 1], reward=[0.0, 1.0], valid=[True, False])
    assert chain(episode_return(), invalid_penalty(0.1))(turns, turns.reward).tolist() == [1.0, 0.9]


def test_add_and_scale():
    both = add(episode_return(), scale(0.5, discounted_return(0.0)))
    assert both(CHAIN, CHAIN.reward).tolist() == [3.5, 3.0, 4.0, 5.0, 2.5]


# --- a critic --------------------------------------------------------------------------------------------------------


def slow_gae(rewards, values, after, discount, gae_lambda):
    """The recursion as written in the paper, for one episode."""
    advantages, running = [0.0] * len(rewards), 0.0
    for t in reversed(range(len(rewards))):
        following = values[t + 1] if t + 1 < len(rewards) else after
        running = rewards[t] + discount * following - values[t] + discount * gae_lambda * running
        advantages[t] = running
    return advantages


def test_gae_ends_in_zero_when_terminated_and_in_the_critic_when_truncated():
    turns = table(
        group="xxxx",
        episode="aabb",
        turn=[0, 1, 0, 1],
        reward=[0.0, 1.0, 0.0, 1.0],
        value=[0.5, 0.25, 0.5, 0.25],
        truncated=[False, False, True, True],
        bootstrap=[9.0, 9.0, 9.0, 2.0],  # only the last turn's is read
    )
    expected = slow_gae([0, 1], [0.5, 0.25], 0.0, 0.9, 0.8) + slow_gae([0, 1], [0.5, 0.25], 2.0, 0.9, 0.8)
    assert_allclose(gae(0.9, 0.8)(turns, turns.reward), expected)
    # by hand: δ = [0 + .9*.25 - .5, 1 - .25] = [-.275, .75], A₀ = -.275 + .72*.75
    assert_allclose(expected[:2], [0.265, 0.75])


def test_gae_reduces_to_returns_minus_value():
    turns = CHAIN.with_columns(value=[0.1, 0.2, 0.3, 0.4, 0.5], truncated=[False] * 5)
    assert_allclose(gae()(turns, turns.reward), discounted_return(1.0)(turns, turns.reward) - turns.value)


def test_gae_of_a_truncated_episode_needs_the_value_after_it():
    turns = CHAIN.with_columns(value=[0.0] * 5, truncated=[False] * 3 + [True] * 2)
    with pytest.raises(ColumnError, match="no column 'bootstrap'"):
        gae()(turns, turns.reward)


# --- GiGPO, as released (vectors of 2505.10978's code: γ .95, ω 1, ε 1e-6) --------------------------------------------

GIGPO = table(
    group="AAAAAAAABBC",
    episode=["a1"] * 4 + ["a2"] * 2 + ["a3"] * 2 + ["b1"] * 2 + ["c1"],
    turn=[0, 1, 2, 3, 0, 1, 0, 1, 0, 1, 0],
    anchor=["s0", "s1", "s0", "s2", "s0", "s2", "s0", "s1", "s0", "s9", "s0"],
    reward=[0, 0, 0, 10, 0, 0, 0, 10, 0, 10, 10],
    valid=[True, True, False] + [True] * 8,
)


def returns(penalty):
    return chain(discounted_return(0.95), invalid_penalty(penalty))


def episode_part(penalty, scale, count="turn"):
    return chain(episode_return(), invalid_penalty(penalty), standardize(count=count, scale=scale, alone="keep"))


def turn_part(penalty, scale):
    return chain(returns(penalty), standardize(by="anchor", scale=scale))


def released(penalty, divide):
    return add(episode_part(penalty, divide), scale(1.0, turn_part(penalty, divide)))


T1 = [4.1803, 2.0125, 5.1066, 7.5, -14.3934, -12.5, 5.1066, 2.9875, 0, 0, 10]
T2 = [0.9041, -0.167, 1.1047, 1.2472, -3.1135, -2.3273, 1.1047, 1.2472, 0, 0, 10]
T3 = [4.2178, 2.025, 4.9441, 7.5125, -14.3559, -12.4875, 5.1441, 3.0, 0, 0, 10]
T4 = [0.9146, -0.1635, 1.0726, 1.2508, -3.114, -2.3272, 1.116, 1.2508, 0, 0, 10]
S1 = [1.6803, -0.4875, 2.6066, 5, -6.8934, -5, 2.6066, 0.4875, 0, 0, 0]
S2 = [0.364, -0.7071, 0.5646, 0.7071, -1.4933, -0.7071, 0.5646, 0.7071, 0, 0, 0]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (returns(0.0), [8.5737, 9.025, 9.5, 10, 0, 0, 9.5, 10, 9.5, 10, 10]),
        (returns(0.1), [8.5737, 9.025, 9.4, 10, 0, 0, 9.5, 10, 9.5, 10, 10]),
        (episode_part(0.0, False), [2.5] * 4 + [-7.5] * 2 + [2.5] * 2 + [0, 0, 10]),
        (episode_part(0.0, False, "episode"), [10 / 3] * 4 + [-20 / 3] * 2 + [10 / 3] * 2 + [10] * 3),
        (episode_part(0.0, True), [0.5401] * 4 + [-1.6202] * 2 + [0.5401] * 2 + [0, 0, 10]),
        (turn_part(0.0, False), S1),
        (turn_part(0.0, True), S2),
        (released(0.0, False), T1),
        (released(0.0, True), T2),
        (released(0.1, False), T3),
        (released(0.1, True), T4),
    ],
    ids=repr,
)
def test_gigpo_as_released(rule, expected):
    assert_allclose(rule(GIGPO, GIGPO.reward), expected, atol=5.1e-5)  # the vectors are printed with four decimals


def slow_released_gigpo(penalty, scale):
    """GiGPO's released arithmetic, row by row, from its description."""
    rows = range(len(GIGPO))
    gain = list(GIGPO.reward)
    for r in reversed(rows[:-1]):
        if GIGPO.episode[r] == GIGPO.episode[r + 1]:
            gain[r] += 0.95 * gain[r + 1]
    lost = [0.0 if v else penalty for v in GIGPO.valid]
    won = [sum(GIGPO.reward[k] for k in rows if GIGPO.episode[k] == GIGPO.episode[r]) - lost[r] for r in rows]
    gain = [g - c for g, c in zip(gain, lost, strict=True)]

    def normal(values, sets, lone):
        out = []
        for r in rows:
            members = [values[k] for k in rows if sets[k] == sets[r]]
            mean = sum(members) / len(members)
            if len(members) == 1:
                out.append(values[r] if lone else 0.0)
                continue
            deviation = (sum((m - mean) ** 2 for m in members) / (len(members) - 1)) ** 0.5
            out.append((values[r] - mean) / (deviation + 1e-6 if scale else 1.0))
        return out

    first = normal(won, list(GIGPO.group), True)
    second = normal(gain, list(zip(GIGPO.group, GIGPO.anchor, strict=True)), False)
    return [a + b for a, b in zip(first, second, strict=True)]


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("penalty", [0.0, 0.1])
def test_gigpo_as_released_to_all_digits(penalty, scale):
    assert_allclose(released(penalty, scale)(GIGPO, GIGPO.reward), slow_released_gigpo(penalty, scale), atol=1e-12)


def test_gigpo_without_repeated_states_is_grpo():
    grpo = chain(episode_return(), standardize())
    gigpo = add(grpo, scale(1.0, chain(discounted_return(0.95), standardize(by="anchor", scale=False))))
    turns = CHAIN.with_columns(anchor=list("pqrst"), reward=[1.0, 0.0, 2.0, 4.0, 0.0])
    assert_allclose(gigpo(turns, turns.reward), grpo(turns, turns.reward))
    assert np.abs(grpo(turns, turns.reward)).min() > 0.5


def test_a_turn_without_an_anchor_is_compared_with_none():
    turns = one_turn_each([0.0, 1.0, 0.0, 1.0], anchor=[None, None, "s", "s"])
    assert standardize(by="anchor", scale=False)(turns, turns.reward).tolist() == [0.0, 0.0, -0.5, 0.5]


def test_sets_of_ones_own_make_room_for_other_algorithms():
    """IGPO's separate normalisation and its published vectors: gains of inner turns, outcomes of last turns."""

    def kind(wanted):
        def ids(turns):
            last = set(turns.last.tolist())
            return ["kept" if (row in last) == (wanted == "last") else None for row in range(len(turns))]

        return ids

    turns = table(
        group=[0] * 9,
        episode=list("aaaabbbcc"),
        turn=[0, 1, 2, 3, 0, 1, 2, 0, 1],
        reward=[0.2, -0.1, 0.3, 1.0, 0.0, 0.4, 0.0, 0.1, 0.5],
    )
    separate = add(standardize(by=kind("inner"), ddof=0), standardize(by=kind("last"), ddof=0))
    full = [0.93197, 0.63921, 2.10305, 1.22474, -0.63921, 0.2391, -1.22474, -0.29277, 0.0]
    half = [-0.06648, -0.7185, 1.49068, 1.22474, -0.45257, 0.85147, -1.22474, -0.29277, 0.0]
    assert_allclose(chain(separate, discounted_return(1.0))(turns, turns.reward), full, atol=1e-4)
    assert_allclose(chain(separate, discounted_return(0.5))(turns, turns.reward), half, atol=1e-4)


# --- similar anchors --------------------------------------------------------------------------------------------------


def test_similar_anchors_join_the_first_cluster_that_is_alike():
    texts = ["you see a red door", "you see a red doar", "something else", "you see a red door", None, None]
    turns = one_turn_each([0.0] * 6, anchor=texts)
    assert similar_anchors(0.9)(turns) == [0, 0, 1, 0, None, None]
    assert similar_anchors(1.0)(turns) == [0, 1, 2, 0, None, None]


def test_similar_anchors_stay_inside_their_group_and_are_greedy():
    # each neighbour differs in 1 of 10 letters (ratio .9), the ends in 2 (.8): the third does not reach the first
    texts = ["aaaaaaaaaa", "aaaaaaaaab", "aaaaaaaabb"]
    turns = one_turn_each([0.0] * 3, anchor=texts)
    assert similar_anchors(0.9)(turns) == [0, 0, 1]
    apart = table(group=[1, 2, 1], episode=[0, 0, 1], turn=[0, 0, 0], reward=[0, 0, 0], anchor=["same"] * 3)
    assert similar_anchors(0.9)(apart) == [0, 1, 0]


def test_similar_anchors_leave_difflibs_junk_rule_out_unless_asked():
    parts = ["the kitchen has a stove and a fridge. " * 9, "a lamp is on the desk in the study. " * 9, "exit. " * 50]
    turns = one_turn_each([0.0] * 2, anchor=["".join(parts), "".join([parts[1], parts[0], parts[2]])])
    assert similar_anchors(0.6)(turns) == [0, 0]
    assert similar_anchors(0.6, junk=True)(turns) == [0, 1]


def test_similar_anchors_are_used_as_sets_and_checked():
    turns = one_turn_each([0.0, 1.0], anchor=["a red door", "a red doot"])
    rule = standardize(by=similar_anchors(0.85), scale=False)
    assert rule(turns, turns.reward).tolist() == [-0.5, 0.5]
    assert rule.needs == {"anchor"}
    assert "similar_anchors(0.85" in repr(rule)
    with pytest.raises(UsageError, match=r"threshold must lie in \(0, 1\], got 0"):
        similar_anchors(0)
    with pytest.raises(UsageError, match="compares texts, got 3"):
        similar_anchors()(one_turn_each([0.0], anchor=[3]))


# --- invariants -------------------------------------------------------------------------------------------------------

rewards = st.floats(-10, 10).map(lambda x: round(x, 3))


@st.composite
def batches(draw):
    """A few groups of episodes of one to four turns, rows shuffled."""
    rows = []
    for group in range(draw(st.integers(1, 3))):
        for episode in range(draw(st.integers(1, 4))):
            for turn in range(draw(st.integers(1, 4))):
                anchor = draw(st.sampled_from("pqr"))
                rows.append((group, episode, turn, draw(rewards), anchor, draw(st.integers(0, 5)), draw(st.booleans())))
    rows = draw(st.permutations(rows))
    names = ("group", "episode", "turn", "reward", "anchor", "tokens", "valid")
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


GRPO = chain(episode_return(), standardize())
CENTRED = [
    GRPO,
    chain(episode_return(), standardize(scale=False)),
    chain(episode_return(), leave_one_out()),
    chain(episode_return(), standardize(count="turn")),
]
SHIFT_FREE = [*CENTRED, chain(episode_return(), best_of_group()), chain(episode_return(), length_baseline())]
ANY = [
    *SHIFT_FREE,
    chain(discounted_return(0.95), standardize(by="anchor", scale=False)),
    chain(discounted_return(0.9), leave_one_out(by="anchor")),
    chain(episode_return(), whiten()),
    chain(episode_return(), whiten(count="token")),
    chain(episode_return(), invalid_penalty(0.1), standardize(count="turn", alone="keep")),
]


def row_permuted(columns, order):
    return {name: [values[i] for i in order] for name, values in columns.items()}


@pytest.mark.parametrize("rule", ANY, ids=repr)
@given(columns=batches(), data=st.data())
@settings(max_examples=25, deadline=None)
def test_order_of_rows_and_names_of_ids_do_not_matter(rule, columns, data):
    turns = table(**columns)
    expected = rule(turns, turns.reward)
    order = data.draw(st.permutations(range(len(turns))))
    again = table(**row_permuted(columns, order))
    assert_allclose(rule(again, again.reward), expected[order], atol=1e-9)
    renamed = {
        **columns,
        "group": [("task", -g) for g in columns["group"]],
        "episode": [f"e{9 - e}" for e in columns["episode"]],
        "turn": [10 * t - 7 for t in columns["turn"]],
        "anchor": [frozenset({a}) for a in columns["anchor"]],
    }
    other = table(**renamed)
    assert_allclose(rule(other, other.reward), expected, atol=1e-9)


def paid_at_the_end(columns):
    """The table with each episode's reward on its last turn only, so that adding to it adds to the return."""
    turns = table(**columns)
    reward = np.zeros(len(turns))
    reward[turns.last] = turns.reward[turns.last]
    return turns, reward


@pytest.mark.parametrize("rule", SHIFT_FREE, ids=repr)
@given(columns=batches(), shift=st.floats(-5, 5))
@settings(max_examples=25, deadline=None)
def test_a_constant_added_to_a_groups_rewards_changes_nothing(rule, columns, shift):
    turns, reward = paid_at_the_end(columns)
    more = reward.copy()
    more[turns.last] += np.where(turns.groups.code[turns.last] == 0, shift, 0.0)
    assert_allclose(rule(turns, more), rule(turns, reward), atol=1e-6)


@given(columns=batches(), factor=st.floats(0.1, 10))
@settings(max_examples=25, deadline=None)
def test_scaling_rewards_scales_centred_advantages_and_leaves_standardized_ones(columns, factor):
    turns, reward = paid_at_the_end(columns)
    exact = chain(episode_return(), standardize(eps=0.0))
    assert_allclose(exact(turns, factor * reward), exact(turns, reward), atol=1e-6)
    for rule in (CENTRED[1], CENTRED[2]):
        assert_allclose(rule(turns, factor * reward), factor * rule(turns, reward), atol=1e-9)


@pytest.mark.parametrize("rule", CENTRED[:3], ids=repr)
@given(columns=batches())
@settings(max_examples=25, deadline=None)
def test_one_value_per_episode_sums_to_zero_in_each_group(rule, columns):
    turns = table(**columns)
    advantages = rule(turns, turns.reward)
    for group in set(columns["group"]):
        of_group = turns.first[turns.group[turns.first] == group]
        assert abs(advantages[of_group].sum()) < 1e-9


@pytest.mark.parametrize("rule", ANY[:9], ids=repr)
@given(value=rewards, members=st.integers(1, 6))
@settings(max_examples=15, deadline=None)
def test_no_spread_gives_exactly_zero(rule, value, members):
    turns = one_turn_each([value] * members, tokens=[3] * members, anchor=["s"] * members)
    assert not rule(turns, turns.reward).any()


def test_rounding_noise_is_no_spread():
    turns = one_turn_each([0.1 + 0.2, 0.3, 0.3])  # differ in the last bit
    assert not standardize(eps=0.0)(turns, turns.reward).any()
    assert not whiten(eps=0.0)(turns, turns.reward).any()


@given(columns=batches(), discount=st.sampled_from([0.0, 0.5, 0.95, 1.0]))
@settings(max_examples=50, deadline=None)
def test_discounted_return_equals_the_loop(columns, discount):
    turns = table(**columns)
    slow = np.zeros(len(turns))
    for row in range(len(turns)):
        for k in range(len(turns)):
            ahead = turns.turn[k] - turns.turn[row]
            if turns.group[k] == turns.group[row] and turns.episode[k] == turns.episode[row] and ahead >= 0:
                slow[row] += discount**ahead * turns.reward[k]
    assert_allclose(discounted_return(discount)(turns, turns.reward), slow, atol=1e-9)


def test_discounted_return_of_a_very_long_episode_beside_short_ones():
    n = 5000
    turns = table(group=[0] * (n + 2), episode=[0] * n + [1, 2], turn=[*range(n), 0, 0], reward=[1.0] * (n + 2))
    found = discounted_return(0.99)(turns, turns.reward)
    assert_allclose(found[:n], (1 - 0.99 ** np.arange(n, 0, -1)) / 0.01)
    assert found[n:].tolist() == [1.0, 1.0]


# --- the door ---------------------------------------------------------------------------------------------------------


def test_parts_are_named_after_the_expression_that_makes_them():
    rule = add(
        chain(episode_return(), standardize()),
        scale(0.5, chain(discounted_return(0.9), standardize(by="anchor", scale=False))),
    )
    assert repr(rule) == (
        "add(chain(episode_return(), standardize()), "
        "scale(0.5, chain(discounted_return(0.9), standardize(by='anchor', scale=False))))"
    )
    assert rule.needs == {"anchor"}
    assert [repr(part) for part in rule.parts[0].parts] == ["episode_return()", "standardize()"]


def test_any_function_of_that_form_is_a_part():
    def halved(turns, values):
        return values / 2

    rule = chain(episode_return(), halved)
    assert rule(CHAIN, CHAIN.reward).tolist() == [1.5] * 5
    assert repr(rule) == "chain(episode_return(), halved)"


def test_values_of_the_wrong_shape_are_refused():
    with pytest.raises(UsageError, match=r"given to episode_return\(\) have shape \(3,\); the table has 5 turns"):
        episode_return()(CHAIN, [1.0, 2.0, 3.0])


def test_values_that_are_not_finite_are_refused_with_the_part_that_made_them(registry):
    with pytest.raises(UsageError, match=r"given to episode_return\(\) must be finite; row 2 is nan"):
        episode_return()(CHAIN, [1, 2, float("nan"), 4, 5])

    @advantage
    def broken(times: float = np.inf):
        """Not finite."""
        return lambda turns, values: values * times

    with pytest.raises(UsageError, match=r"returned by broken\(\) must be finite; row 0 is inf"):
        broken()(CHAIN, np.ones(5))
    with pytest.raises(UsageError, match=r"returned by broken\(\) must be finite; row 0 is inf"):
        chain(broken(), broken(0.0))(CHAIN, np.ones(5))
    assert broken(2.0)(CHAIN, np.ones(5)).tolist() == [2.0] * 5


def test_a_part_returns_float64_of_the_tables_length(registry):
    @advantage
    def short():
        """Too few."""
        return lambda turns, values: values[1:]

    @advantage
    def whole():
        """Integers."""
        return lambda turns, values: [1] * len(turns)

    with pytest.raises(UsageError, match=r"returned by short\(\) have shape \(4,\); the table has 5 turns"):
        short()(CHAIN, CHAIN.reward)
    assert whole()(CHAIN, CHAIN.reward).dtype == np.float64


def test_a_missing_column_is_named():
    with pytest.raises(ColumnError, match=r"no column 'anchor'; it has group, episode, turn, reward\. Add it with"):
        standardize(by="anchor")(CHAIN, CHAIN.reward)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: discounted_return(1.1),
            "discounted_return: discount: input should be less than or equal to 1 (got 1.1)",
        ),
        (lambda: gae(0.9, -0.1), "gae: gae_lambda: input should be greater than or equal to 0 (got -0.1)"),
        (lambda: gae(-0.9), "gae: discount: input should be greater than or equal to 0 (got -0.9)"),
        (chain, "chain() joins nothing; give it parts, e.g. chain(episode_return(), standardize())"),
        (add, "add() joins nothing; give it parts, e.g. add(episode_return(), standardize())"),
    ],
)
def test_options_out_of_range_are_refused(make, message):
    with pytest.raises(UsageError) as caught:
        make()
    assert str(caught.value) == message
