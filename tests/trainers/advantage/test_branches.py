"""Credit on trees, against values worked out by hand (two roots, a fork, and a fork of the fork)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgym.errors import UsageError
from agentgym.trainers.advantage.baselines import standardize
from agentgym.trainers.advantage.branches import (
    after_fork_mask,
    diverse_sets,
    inverse_copy_weight,
    mean_over_copies,
    monte_carlo_values,
    node_values,
    turn_copies,
)
from agentgym.trainers.advantage.combine import chain
from agentgym.trainers.advantage.returns import episode_return
from agentgym.trainers.advantage.turn_table import TurnTable


def table(episodes, group="g"):
    """``{id: (parent, fork turn, [reward of each turn])}`` as a table; anchors name the node."""
    rows = [(e, p, f, t, r) for e, (p, f, rewards) in episodes.items() for t, r in enumerate(rewards)]

    def owner(e, t):
        parent, fork, _ = episodes[e]
        return (e, t) if parent is None or t >= fork or parent not in episodes else owner(parent, t)

    return TurnTable.from_columns(
        group=[group] * len(rows),
        episode=[r[0] for r in rows],
        turn=[r[3] for r in rows],
        reward=[r[4] for r in rows],
        parent=[r[1] for r in rows],
        fork_turn=[r[2] for r in rows],
        anchor=[str(owner(r[0], r[3])) for r in rows],
    )


# Roots a and b; c forks from a after its first segment (turns 0 and 1), d from c after its second (turn 2).
TREE = {
    "a": (None, 0, [0, 0, 0, 1.0]),
    "b": (None, 0, [0, 0]),
    "c": ("a", 2, [0, 0, 0, 0, 0.4]),
    "d": ("c", 3, [0, 0, 0, 1.1]),
}


def by_turn(turns, values):
    return {(e, int(t)): v for e, t, v in zip(turns.episode, turns.turn, values, strict=True)}


def test_copies_of_a_turn_are_one_node():
    turns = table(TREE)
    code = by_turn(turns, turn_copies(turns).code)
    assert code["a", 0] == code["c", 0] == code["d", 0] != code["b", 0]
    assert code["a", 1] == code["c", 1] == code["d", 1] != code["a", 0]
    assert code["c", 2] == code["d", 2] != code["a", 2]
    assert code["c", 3] != code["d", 3]
    assert turn_copies(turns).total == 4 + 2 + 3 + 1


@pytest.mark.parametrize(
    ("ddof", "soft", "first", "second"),
    [
        (1, [0.722803, -1.204671, -0.433682, 0.915550], 0.401557, 0.240934),
        (0, [0.834620, -1.391034, -0.500772, 1.057186], 0.463678, 0.278207),
    ],
)
def test_hard_attribution_is_the_mean_of_the_leaves(ddof, soft, first, second):
    turns = table(TREE)
    plain = chain(episode_return(), standardize(ddof=ddof))
    given_soft = by_turn(turns, plain(turns, turns.reward))
    assert [given_soft[e, 0] for e in "abcd"] == pytest.approx(soft, abs=1e-6)
    shared = by_turn(turns, chain(plain, mean_over_copies())(turns, turns.reward))
    assert [shared[e, t] for e in "acd" for t in (0, 1)] == pytest.approx([first] * 6, abs=1e-6)
    assert [shared["c", 2], shared["d", 2]] == pytest.approx([second] * 2, abs=1e-6)
    assert [shared["a", 2], shared["b", 1], shared["c", 4], shared["d", 3]] == pytest.approx(soft, abs=1e-6)


def test_hard_moves_no_credit_between_turns_and_once_gives_every_node_weight_one():
    turns = table(TREE)
    values = np.random.default_rng(0).normal(size=len(turns))
    found = turn_copies(turns)
    assert np.bincount(found.code, mean_over_copies()(turns, values)) == pytest.approx(np.bincount(found.code, values))
    assert np.bincount(found.code, inverse_copy_weight()(turns, values)) == pytest.approx(np.ones(found.total))
    assert after_fork_mask()(turns, values).sum() == found.total


VALUES = {  # V of a group, of a's first segment, of c's second
    "leaves": (2.5 / 4, 2.5 / 3, 0.75),
    "children": ((0.875 + 0.0) / 2, (1.0 + 0.75) / 2, (0.4 + 1.1) / 2),
}


@pytest.mark.parametrize("value", VALUES)
def test_node_values_by_hand(value):
    turns = table(TREE)
    got = by_turn(turns, node_values(value=value)(turns, turns.reward))
    root, one, two = VALUES[value]
    assert [got[e, t] for e in "acd" for t in (0, 1)] == pytest.approx([one - root] * 6)
    assert [got["a", 2], got["a", 3]] == pytest.approx([1.0 - one] * 2)
    assert [got["c", 2], got["d", 2]] == pytest.approx([two - one] * 2)
    assert [got["c", 3], got["c", 4], got["d", 3]] == pytest.approx([0.4 - two, 0.4 - two, 1.1 - two])
    assert [got["b", 0], got["b", 1]] == pytest.approx([-root] * 2)


def test_the_value_of_a_node_is_the_mean_of_its_children_unless_leaves_are_asked_for():
    turns = table(TREE)
    assert node_values()(turns, turns.reward).tolist() == node_values(value="children")(turns, turns.reward).tolist()
    with pytest.raises(
        UsageError, match=r"node_values: value: input should be 'children' or 'leaves' \(got 'median'\)"
    ):
        node_values(value="median")


def test_a_value_does_not_lean_to_the_child_that_was_forked_more_often():
    """One child of three leaves of 1, one of one leaf of 0: each is one sample of the action."""
    episodes = {"a": (None, 0, [0, 1.0]), "c": ("a", 1, [0, 1.0]), "d": ("a", 1, [0, 1.0]), "b": (None, 0, [0.0])}
    turns = table(episodes)
    assert by_turn(turns, node_values()(turns, turns.reward))["b", 0] == -0.5
    assert by_turn(turns, node_values(value="leaves")(turns, turns.reward))["b", 0] == -0.75


def test_an_episode_that_ends_where_it_was_forked_is_a_child():
    """The fork's window was full before its first action: it earned what its parent had, and nothing more."""
    turns = table({"a": (None, 0, [0.5, 1.0]), "c": ("a", 1, [0.5])})
    got = by_turn(turns, node_values()(turns, turns.reward))
    assert [got["a", 0], got["a", 1], got["c", 0]] == [0.0, 0.5, 0.0]


@pytest.mark.parametrize("value", VALUES)
def test_node_values_scaled_by_the_spread_of_siblings(value):
    turns = table(TREE)
    got = by_turn(turns, node_values(scale=True, eps=0.0, value=value)(turns, turns.reward))
    root, one, two = VALUES[value]
    assert got["a", 0] == got["d", 1] == pytest.approx((one - root) / np.std([one, 0.0], ddof=1))
    assert got["b", 0] == pytest.approx(-root / np.std([one, 0.0], ddof=1))
    assert got["a", 3] == pytest.approx((1.0 - one) / np.std([1.0, two], ddof=1))
    assert got["d", 3] == pytest.approx((1.1 - two) / np.std([0.4, 1.1], ddof=1))
    same = table({e: (p, f, [0.0] * len(r)) for e, (p, f, r) in TREE.items()})
    assert not node_values(scale=True, value=value)(same, same.reward).any()


def test_a_failed_parent_is_still_what_its_forks_share():
    turns = table({k: v for k, v in TREE.items() if k != "a"})
    code = by_turn(turns, turn_copies(turns).code)
    assert code["c", 0] == code["d", 0] != code["b", 0]
    assert by_turn(turns, node_values()(turns, turns.reward))["d", 0] == pytest.approx(0.75 - 0.375)


def test_without_forks_every_turn_is_its_own():
    turns = table({"a": (None, 0, [0, 1.0]), "b": (None, 0, [0.5])})
    assert turn_copies(turns).total == 3
    assert mean_over_copies()(turns, turns.reward).tolist() == [0, 1, 0.5]
    assert node_values()(turns, turns.reward).tolist() == [0.25, 0.25, -0.25]
    assert not monte_carlo_values()(turns, turns.reward).any()


@st.composite
def trees(draw):
    episodes = {}
    for i in range(draw(st.integers(1, 7))):
        reward = draw(st.sampled_from([0.0, 0.5, 1.0]))
        if i and draw(st.booleans()):
            parent = str(draw(st.integers(0, i - 1)))
            low = episodes[parent][1]  # a fork lies on the parent's own turns
            fork = draw(st.integers(low, len(episodes[parent][2]) - 1))
        else:
            parent, fork = None, 0
        length = fork + draw(st.integers(1, 3))
        prefix = episodes[parent][2][:fork] if parent else []
        episodes[str(i)] = (parent, fork, [*prefix, *[0.0] * (length - fork - 1), reward])
    return episodes


def slow_value(episodes, held, depth, value):
    """V of the node that holds these episodes' turns up to ``depth``."""
    rewards = {e: sum(episodes[e][2]) for e in held}
    if value == "leaves" or len(held) == 1:
        return np.mean(list(rewards.values()))
    below = {}
    for e in held:
        below.setdefault(owner(episodes, e, depth), []).append(e)
    return np.mean([slow_value(episodes, children, depth + 1, value) for children in below.values()])


def owner(episodes, e, t):
    """The episode that first played turn ``t`` of ``e``."""
    parent, fork, _ = episodes[e]
    return e if parent is None or t >= fork else owner(episodes, parent, t)


@pytest.mark.parametrize("value", VALUES)
@given(episodes=trees())
def test_node_values_telescope_and_agree_with_a_slow_reference(value, episodes):
    turns = table(episodes)
    got = by_turn(turns, node_values(value=value)(turns, turns.reward))
    root = slow_value(episodes, list(episodes), 0, value)
    for e, (_, _, rewards) in episodes.items():
        before, start, done = root, None, 0.0
        for t in range(len(rewards)):
            held = [x for x in episodes if t < len(episodes[x][2]) and owner(episodes, x, t) == owner(episodes, e, t)]
            if held != start:
                new = slow_value(episodes, held, t + 1, value)
                advantage, before, start = new - before, new, held
                done += advantage
            assert got[e, t] == pytest.approx(advantage)
        assert done == pytest.approx(sum(rewards) - root)


def test_continuation_values_by_hand():
    # x is continued at turns 0, 2 and 3 (none at 1); the forks' means are .5, .75 and .25, its own end 1.
    turns = table(
        {
            "x": (None, 0, [0, 0, 0, 0, 1.0]),
            "p": ("x", 0, [0.0]),
            "q": ("x", 0, [1.0]),
            "r": ("x", 2, [0, 0, 0.5]),
            "s": ("x", 2, [0, 0, 1.0]),
            "t": ("x", 3, [0, 0, 0, 0.25]),
            "y": (None, 0, [0, 0, 1.0]),
            "z": ("y", 1, [0, 0.0]),
        }
    )
    got = by_turn(turns, monte_carlo_values()(turns, turns.reward))
    assert [got["x", t] for t in range(5)] == pytest.approx([0.25, 0.25, -0.5, 0.75, 0.75])
    assert [got["y", t] for t in range(3)] == pytest.approx([0, 1.0, 1.0])
    assert all(got[e, t] == 0 for e, t in got if e not in "xy")


def test_a_cut_in_turns_that_an_episode_inherited_is_not_its_own():
    # p is continued from x's turn 2; q claims to go on from p's turn 1, which x played. Both are continuations.
    turns = table({"x": (None, 0, [0, 0, 0, 1.0]), "p": ("x", 2, [0, 0, 0.5]), "q": ("p", 1, [0, 0.25])})
    got = by_turn(turns, monte_carlo_values()(turns, turns.reward))
    assert [got["x", t] for t in range(4)] == [0, 0, 0.5, 0.5]
    assert all(got[e, t] == 0 for e, t in got if e in "pq")


def test_sets_that_succeed_and_differ():
    # Four roots; a and b go the same way, d fails.
    turns = TurnTable.from_columns(
        group=["g"] * 8,
        episode=list("aabbccdd"),
        turn=[0, 1] * 4,
        reward=[0, 1, 0, 1, 0, 1, 0, 0],
        parent=[None] * 8,
        fork_turn=[0] * 8,
        anchor=["s", "left", "s", "left", "s", "right", "s", "pit"],
    )
    way, reward = {"a": 1, "b": 1, "c": 2, "d": 3}, {"a": 1, "b": 1, "c": 1, "d": 0}
    sets = list(itertools.combinations("abcd", 2))
    f = {s: np.mean([reward[e] for e in s]) * len({way[e] for e in s}) / 2 for s in sets}
    expected = {e: np.mean([f[s] for s in sets if e in s]) - np.mean(list(f.values())) for e in "abcd"}
    got = by_turn(turns, diverse_sets(2)(turns, turns.reward))
    assert {e: got[e, 0] for e in "abcd"} == pytest.approx(expected)
    assert expected["c"] > expected["a"] > expected["d"]
    assert by_turn(turns, diverse_sets(2, window=1)(turns, turns.reward))["c", 1] == pytest.approx(0.25)
    assert by_turn(turns, diverse_sets(4)(turns, turns.reward))["a", 0] == pytest.approx(0.25)  # no set to compare with


def test_sets_at_a_fork_leave_the_copied_turns_alone():
    turns = table(
        {
            "x": (None, 0, [0, 0, 1.0]),
            "p": ("x", 1, [0, 0, 1.0]),
            "q": ("x", 1, [0, 0.0]),
        }
    )
    got = by_turn(turns, diverse_sets(2)(turns, turns.reward))
    assert got["p", 0] == got["q", 0] == 0
    assert got["x", 0] == pytest.approx(1 / 3)  # its own turn before the fork: reward minus the group's mean
    # {x,p}: two ways, reward 1 -> 1; with q: mean .5, two ways -> .5
    assert [got[e, 1] for e in "xpq"] == pytest.approx([0.75 - 2 / 3, 0.75 - 2 / 3, 0.5 - 2 / 3])


def test_too_many_sets_are_refused():
    turns = table({str(i): (None, 0, [float(i % 2)]) for i in range(40)})
    with pytest.raises(UsageError, match=r"40 episodes have 847660528 sets of 10; use fewer continuations"):
        diverse_sets(10)(turns, turns.reward)
    with pytest.raises(UsageError, match="size must be at least 1, got 0"):
        diverse_sets(0)
