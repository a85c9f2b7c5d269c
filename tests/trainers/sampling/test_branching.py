"""Branching: the rules by hand, and what must hold for every tree whatever the rule."""

from __future__ import annotations

import importlib.util
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from agentgym import keyed_random
from agentgym.errors import UsageError
from agentgym.models.engines.local import sample
from agentgym.models.local_policy import ModelPolicy
from agentgym.policy import Reply, SyncPolicy
from agentgym.records import Episode, Sample, StopReason, Task, ToolCall, Turn
from agentgym.rollout import Group, GroupState, Independent, LiveEpisode, Rollout
from agentgym.trainers.prefix_tree.rows import rows_of
from agentgym.trainers.prefix_tree.scoring import Scorer
from agentgym.trainers.prefix_tree.tree import TokenTree
from agentgym.trainers.run.summary import branching_metrics, decisions, shared_and_played
from agentgym.trainers.sampling.branching import (
    entropy_branching,
    independent,
    random_branching,
    root_continuations,
    spread_branching,
    tree,
    vines,
)
from agentgym.trainers.sampling.branching_rules import root_share

import letters  # isort: skip

RULES = {
    "entropy": entropy_branching(window=2),
    "whole reply": entropy_branching(match_released_code=True),
    "random": random_branching(3),
    "spread": spread_branching(2),
    "two each": random_branching(1, 0.7, each=2),
    "tree": tree((2, 2, 2)),
    "root continuations": root_continuations(2),
    "vines": vines(1, 3, 3),
    "monitored": entropy_branching(allocation=0.5, penalty=0.05),
}


def policy_of(small, **options):
    model, tokenizer = small()
    return ModelPolicy(model, tokenizer, max_new_tokens=4, entropies=True, **options)


def sampled(entropies, action=()):
    return Sample(0, (), action or (0,) * len(entropies), (), tuple(entropies))


def turn(entropies=(1.0,), **options):
    return Turn("o", "a", sample=sampled(entropies), **options)


def running(*turns, key=7, size=8, max_turns=None, **options):
    state = GroupState(Group("g", Task(0), size), claimed=1, roots=1, members=1)
    episode = LiveEpisode("g/0", state, 0, key, None, Task(0), turns=list(turns), max_turns=max_turns, **options)
    state.living[episode.id] = episode
    return episode


class Knows(SyncPolicy):
    """A policy with a vocabulary of four."""

    vocabulary = 4


def begun(maker):
    rule = maker()
    rule.begin(Knows())
    return rule


# --- what holds for every tree ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
def test_every_tree(name, small, played):
    policy = policy_of(small)
    episodes = played(policy, groups=4, size=8, branching=RULES[name](), turns=4)
    by_id = {e.id: e for e in episodes}
    assert sorted(by_id) == sorted(f"g{g}/{m}" for g in range(4) for m in range(8))  # always M leaves
    assert any(e.parent for e in episodes)
    for episode in episodes:
        if episode.parent is None:
            assert episode.fork_turn is None
            continue
        parent, fork = by_id[episode.parent], episode.fork_turn
        assert episode.turns[:fork] == parent.turns[:fork]  # samples and rewards included
        assert len(parent.turns) > fork
        assert episode.contexts()[fork] == parent.contexts()[fork]  # same up to the first token after the answer
        assert episode.turns[fork].observation == parent.turns[fork].observation
        assert episode.turns[fork].anchor == parent.turns[fork].anchor
    assert policy.engine.generated == sum(len(t.sample.action) for e in episodes for t in e.own_turns)
    metrics = shared_and_played(episodes)
    assert metrics["made_action_tokens"] == policy.engine.generated
    whole = sum(len(t.sample.action) for e in episodes for t in e.turns)
    assert metrics["made_action_tokens"] + metrics["inherited_action_tokens"] == whole
    assert not policy._episodes
    assert not policy._working


@pytest.mark.parametrize("name", ["entropy", "two each", "tree"])
def test_tokens_of_a_branch_are_sampled_from_its_own_context(name, small, played):
    """Keys and values copied while the parent is still writing must not leak into the branch."""
    policy = policy_of(small)
    episodes = played(policy, groups=2, size=8, branching=RULES[name](), turns=4)
    rows = rows_of(episodes)
    scores = np.empty(len(rows.turn))
    with torch.no_grad():
        for micro in TokenTree.build(rows.rows).batches(100_000):
            scores[micro.scored] = Scorer(policy.model).score(micro).logprob.double().numpy()
    assert scores == pytest.approx(rows.old, abs=2e-4)


@pytest.mark.parametrize("name", RULES)
def test_one_seed_gives_one_tree_and_another_seed_another(name, small, played):
    def grown(key, max_concurrent_episodes):
        rule = RULES[name]()
        env = lambda: letters.Letters(turns=4)  # noqa: E731
        with Rollout(
            env, policy_of(small), max_concurrent_episodes=max_concurrent_episodes, branching=rule, run_key=key
        ) as rollout:
            found = list(rollout.play([Group(f"g{n}", Task(n), 8) for n in range(3)]))
        return {e.id: e for e in found}, decisions(rule)

    assert grown(1, 99) == grown(1, 99)
    assert grown(1, 99)[0] != grown(2, 99)[0]


def test_nothing_branches_without_probability_and_groups_are_topped_up_as_plain_ones(small, played):
    rule = entropy_branching(3, alpha=0.0, beta=0.0, fill=False)()
    branched = played(policy_of(small), size=8, branching=rule)
    plain = played(policy_of(small), size=8, branching=independent()())
    actions, same = ([[t.sample.action for t in e.turns] for e in found] for found in (branched, plain))
    assert actions == same  # roots draw by their number, whenever they start
    nodes = decisions(rule)
    assert nodes
    assert all(n.chance == 0.0 and n.branches == 0 for n in nodes)
    assert decisions(rule) == []


def test_a_state_is_decided_once(small, played):
    rule = random_branching(2, 0.5)()
    episodes = {e.id: e for e in played(policy_of(small), size=8, branching=rule, turns=4)}
    nodes = decisions(rule)
    for node in nodes:
        assert node.turn > (episodes[node.episode].fork_turn or 0)  # a fork's first turn was decided by its parent
        assert node.turn >= 1
        made = [e for e in episodes.values() if e.parent == node.episode and e.fork_turn == node.turn]
        assert len(made) == node.branches
    assert len({(n.episode, n.turn) for n in nodes}) == len(nodes)


# --- entropy ----------------------------------------------------------------------------------------------------------


def test_entropy_of_a_known_distribution():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.125, 0.125]]))
    _, _, (entropy,) = sample(logits, np.array([0.3]), 1.0, 1.0, entropy=True)
    assert entropy == pytest.approx(1.213008, abs=1e-6)
    rule = begun(entropy_branching())
    assert rule.signal(running(turn([0.0])), Reply("", sampled([entropy]))) == pytest.approx(0.875, abs=1e-6)


@pytest.mark.parametrize(("signal", "expected"), [(-0.5, 0.4), (0, 0.5), (0.2, 0.54), (1, 0.7), (2, 0.9)])
def test_probability(signal, expected):
    assert begun(entropy_branching(alpha=0.5, beta=0.2)).chance(running(turn()), signal) == pytest.approx(expected)


def test_the_signal_is_of_this_reply_against_the_first_and_over_the_window():
    rule = begun(entropy_branching(window=3))
    before = turn([9.0])  # the reply before plays no part
    episode = running(turn([0.2, 0.4, 0.6, 99.0]), before)
    reply = Reply("", sampled([1.0, 1.2, 1.4, 50.0]))
    assert rule.branches(episode, reply) in (0, 1)
    (node,) = decisions(rule)
    assert node.signal == pytest.approx((1.2 - 0.4) / math.log(4))
    assert node.chance == pytest.approx(0.5 + 0.2 * node.signal)
    assert node.draw == keyed_random.uniform(7, 2, "fork")
    assert node.branches == (node.draw < node.chance)


def test_a_fork_inherits_the_first_entropy_of_its_root():
    rule = begun(entropy_branching())
    twin = running(turn([0.5]), turn([2.0]), turn([3.0]), parent="g/1", fork_turn=1)
    assert rule.signal(twin, Reply("", sampled([1.0]))) == pytest.approx(0.5 / math.log(4))


def test_the_released_signal_lags_and_is_zero_after_the_first_answer():
    rule = begun(entropy_branching(match_released_code=True))
    assert rule.signal(running(turn([0.5, 0.5])), Reply("", sampled([9.0]))) == 0.0
    later = running(turn([0.5, 0.5]), turn([1.0, 2.0]))
    assert rule.signal(later, Reply("", sampled([9.0]))) == pytest.approx((3.0 - 1.0) / math.log(4))
    twin = running(turn([0.5]), turn([1.0]), turn([3.0]), parent="g/1", fork_turn=1)
    assert rule.signal(twin, Reply("", sampled([9.0]))) == pytest.approx((3.0 - 1.0) / math.log(4))


@pytest.mark.parametrize("released", [False, True])
def test_an_action_without_tokens_leaves_nothing_open(released):
    rule = begun(entropy_branching(match_released_code=released))
    before = turn([]) if released else turn([5.0])
    assert rule.signal(running(turn([1.0]), before), Reply("", sampled([]))) == pytest.approx(-1.0 / math.log(4))
    silent = Sample(0, (), (1,))
    with pytest.raises(UsageError, match="needs the entropies of sampled tokens"):
        rule.signal(running(turn([1.0]), Turn("o", "a", sample=silent)), Reply("", silent))


def test_signals_of_a_played_tree_are_fresh(small, played):
    rule = entropy_branching(2, window=2)()
    policy = policy_of(small)
    episodes = {e.id: e for e in played(policy, size=8, branching=rule, turns=4)}
    nodes = decisions(rule)
    for node in nodes:
        turns = episodes[node.episode].turns
        now, first = (np.mean(turns[t].sample.entropies[:2]) for t in (node.turn, 0))
        assert node.signal == pytest.approx((now - first) / math.log(policy.vocabulary))
    first = [n.signal for n in nodes if n.turn == 1]
    assert first
    assert all(s != 0 for s in first)  # the released code's is 0 here by construction


def test_threshold_instead_of_a_draw():
    rule = begun(entropy_branching(threshold=0.5))
    for now, expected in ((1.1, 1), (1.0, 0), (0.9, 0)):
        assert rule.branches(running(turn([1.0])), Reply("", sampled([now]))) == expected


def test_where_nothing_is_asked():
    rule = begun(random_branching(chance=1.0))
    assert rule.branches(running(), Reply("")) == 0  # no answer of the environment yet
    assert rule.branches(running(turn(error="what?")), Reply("")) == 0
    assert rule.branches(running(turn()), Reply("")) == 1


def test_caps():
    rule = begun(random_branching(chance=1.0, each=3, cap=4))
    assert [rule.branches(running(turn()), Reply("")) for _ in range(3)] == [3, 1, 0]
    rule.begin(Knows())
    assert rule.branches(running(turn(), size=3), Reply("")) == 2  # the group's room
    assert rule.roots(7) == 4
    assert random_branching(3)().roots(2) == 2


def test_the_last_turn_takes_its_share_of_the_room():
    last = running(turn(), turn(), size=8, max_turns=3)
    assert begun(random_branching(chance=0.0)).branches(last, Reply("")) == 7
    other = LiveEpisode("g/1", last.state, 1, 8, None, Task(0), turns=[turn()], max_turns=3)
    last.state.living["g/1"] = other
    assert begun(random_branching(chance=0.0)).branches(last, Reply("")) == 4
    other.turns, other.decided = [turn(), turn()], True  # it had its chance
    assert begun(random_branching(chance=0.0)).branches(last, Reply("")) == 7
    assert begun(random_branching(chance=0.0, fill=False)).branches(last, Reply("")) == 0
    assert begun(random_branching(chance=0.0)).branches(running(turn(), max_turns=3), Reply("")) == 0


# --- AEPO -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("difference", "expected"), [(-2, 4), (-0.5, 7), (0, 8), (0.5, 9), (2, 12), (99, 16), (-99, 1)]
)
def test_roots_by_entropy(difference, expected):
    assert root_share(16, difference, 0.5) == expected  # of 4.303, 7.005, 8, 8.995, 11.697


def test_the_first_episode_says_how_many_roots():
    rule = begun(entropy_branching(allocation=0.5))
    assert rule.roots(16) == 1
    assert rule.branches(running(turn(), turn()), Reply("", sampled([9.0]))) == 0
    state = GroupState(Group("g", Task(0), 16), claimed=1, roots=1, members=1, finished=1)
    last = Episode("g/0", "e", Task(0), (turn([1.0]), turn([2.0]), turn([4.0])), StopReason.TERMINATED)
    assert rule.refill(state, last) == root_share(16, -2.0, 0.5) - 1 == 3
    assert rule.keeps(state, last)
    assert rule.refill(state, replace(last, member=1)) == 15
    assert rule.refill(state, replace(last, turns=last.turns[:1])) == 15  # nothing to compare with


@pytest.mark.parametrize(("size", "kept"), [(16, True), (2, False), (1, True)])
def test_with_one_root_due_the_first_episode_is_not_it(size, kept):
    """Half of a group of two is one root, and it has to be one that could be branched."""
    rule = begun(entropy_branching(allocation=0.5))
    state = GroupState(Group("g", Task(0), size), claimed=1, roots=1, members=1, finished=1)
    level = Episode("g/0", "e", Task(0), (turn([1.0]), turn([1.0])), StopReason.TERMINATED)
    assert rule.keeps(state, level) is kept
    assert rule.keeps(state, replace(level, member=1))
    assert begun(entropy_branching()).keeps(state, level)


def test_a_group_of_one_root_has_one_root(small, played):
    """The rest are its branches; the episode that told how many roots there are comes beside the group."""
    policy = policy_of(small)
    rule = entropy_branching(alpha=1.0, allocation=0.5)()
    episodes = played(policy, groups=3, size=2, branching=rule, turns=4)
    beside, group = episodes[:3], episodes[3:]
    assert [(e.group, e.id) for e in beside] == [("", f"g{g}/0") for g in range(3)]
    assert [(e.group, e.member) for e in group] == [(f"g{g}", m) for g in range(3) for m in (1, 2)]
    assert [e.parent for e in group] == [None, "g0/1", None, "g1/1", None, "g2/1"]


def test_branchings_in_a_row_are_penalised():
    rule = begun(entropy_branching(alpha=1.0, beta=0.0, penalty=0.25, fill=False))
    reply = Reply("", sampled([1.0]))
    path = [turn()]
    for _ in range(3):
        rule.branches(running(*path, size=99), reply)
        path.append(turn())
    assert [n.chance for n in decisions(rule)] == [1.0, 0.75, 0.5]
    twin = running(*path[:2], parent="g/0", fork_turn=1, size=99)
    twin.id = "g/9"
    assert rule.chance(twin, 0.0) == 0.75  # it was forked at a branching
    assert rule.chance(running(turn(), turn(), turn(), turn(), turn()), 0.0) == 1.0


# --- spread of returns ------------------------------------------------------------------------------------------------


def finished(*steps):
    """An episode of (anchor, reward)."""
    turns = tuple(Turn("o", "a", r, anchor) for anchor, r in steps)
    return Episode("e", "env", Task(0), turns, StopReason.TERMINATED)


def test_spread_by_hand():
    rule = begun(spread_branching(alpha=0.5, beta=0.5, prior=4.0))
    episode = running(turn(), anchor="fork")
    assert rule.chance(episode, rule.signal(episode, Reply(""))) == 0.5  # nothing is known
    for reward in (0.0, 1.0, 1.0):
        rule.ended(finished(("start", 0.0), ("fork", reward)))
    for reward in (0.0, 0.0, 0.0):
        rule.ended(finished(("start", 0.0), ("sure", reward)))
    general = np.var([0, 1, 1, 0, 0, 0])
    s = math.sqrt((2 * np.var([0, 1, 1], ddof=1) + 4 * general) / 6)
    assert rule.signal(episode, Reply("")) == pytest.approx(s)
    sure = running(turn(), anchor="sure")
    t = math.sqrt(4 * general / 6)
    assert rule.signal(sure, Reply("")) == pytest.approx(t)
    assert rule.signal(running(turn(), anchor="new"), Reply("")) == pytest.approx(math.sqrt(general))
    rule.usual, rule.asked = s, 10**6
    assert rule.chance(episode, s) == pytest.approx(0.5)
    assert rule.chance(sure, t) == pytest.approx(0.5 + 0.5 * (t - s) / s, rel=0.02)


def test_spread_is_remembered():
    rule = begun(spread_branching(memory=2))
    for reward in (1.0, 0.0, 1.0):
        rule.ended(finished(("a", reward)))
    rule.ended(Episode("f", "env", Task(0), (turn(),), StopReason.POLICY_ERROR))
    rule.chance(running(turn()), 0.3)
    state = rule.state_dict()
    assert state["seen"] == {"a": [0.0, 1.0]}
    other = begun(spread_branching(memory=2))
    other.load_state_dict(state)
    assert (other.seen, other.late, other.usual, other.asked) == (rule.seen, rule.late, rule.usual, rule.asked)


# --- fixed shapes -----------------------------------------------------------------------------------------------------


def test_a_tree_of_fixed_shape(small, played):
    policy = policy_of(small)
    episodes = played(policy, groups=1, size=8, branching=tree((2, 2, 2), 1)(), turns=4)
    if all(len(e.turns) == 4 for e in episodes):
        assert sorted(e.fork_turn or 0 for e in episodes) == [0, 0, 1, 1, 2, 2, 2, 2]
    with pytest.raises(UsageError, match=r"a tree of 2 x 3 has 6 leaves, but the group's size is 8: set group_size=6"):
        played(policy, groups=1, size=8, branching=tree((2, 3))())


def test_a_chain_is_continued_at_every_cut(small, played):
    episodes = played(policy_of(small), groups=1, size=8, branching=root_continuations(2, 1)(), turns=3)
    root = episodes[0]
    forks = [e.fork_turn for e in episodes if e.parent == root.id]
    assert forks == sorted([t for t in range(len(root.turns)) for _ in range(2)])
    assert all(by.parent is None for e in episodes if e.parent for by in episodes if by.id == e.parent)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_policy_without_entropies_is_refused(small, played):
    model, tokenizer = small()
    with pytest.raises(UsageError, match=r"needs the entropies of sampled tokens: ModelPolicy\(entropies=True\)"):
        played(ModelPolicy(model, tokenizer, max_new_tokens=3), size=4, branching=entropy_branching(1)())
    with pytest.raises(UsageError, match=r"SyncPolicy does not. Use random_branching\(\)"):
        entropy_branching()().begin(SyncPolicy())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: entropy_branching(roots=0), "roots must be at least 1, got 0"),
        (lambda: entropy_branching(penalty=2.0), r"penalty must lie in \[0, 1\], got 2.0"),
        (lambda: tree((2, 0)), "factor 1 must be at least 1, got 0"),
        (lambda: root_continuations(0), "continuations must be at least 1, got 0"),
    ],
)
def test_values_outside_their_range(make, message):
    with pytest.raises(UsageError, match=message):
        make()


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_calls_and_tokens_are_counted_apart():
    def episode(name, turns, fork=None):
        parent = None if fork is None else "a"
        return Episode(name, "e", Task(0), turns, StopReason.TERMINATED, parent=parent, fork_turn=fork)

    one, two = turn([1.0] * 3, tool_calls=(ToolCall("x"),)), turn([1.0] * 5)
    metrics = shared_and_played([episode("a", (one, one, two)), episode("b", (one, one, two, two), 2)])
    assert metrics == {
        "branches": 1,
        "made_tool_calls": 2,
        "inherited_tool_calls": 2,
        "made_action_tokens": 11 + 10,
        "inherited_action_tokens": 6,
    }
    assert branching_metrics([episode("a", (one,))], []) == {}


def test_the_scripted_policy_of_the_benchmark():
    """Tool probability .75, cap 3, 16 episodes, 8 roots: at most 20.6 calls a group in 4 rounds; GRPO 27.8."""
    path = Path(__file__).parents[3] / "benchmarks" / "branching.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_branching", path)
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = benchmark
    spec.loader.exec_module(benchmark)
    made, rounds, plain = [], [], []
    for seed in range(3):
        episodes, lasted = benchmark.play(entropy_branching(8)(), 0.75, seed)
        made.append(shared_and_played(episodes)["made_tool_calls"] / 16)
        rounds.append(math.floor(lasted))
        assert sum(e.tool_calls for e in episodes) >= sum(len(t.tool_calls) for e in episodes for t in e.own_turns)
        plain.append(shared_and_played(benchmark.play(Independent(), 0.75, seed)[0])["made_tool_calls"] / 16)
    assert np.mean(made) <= 20.6
    assert max(rounds) == 4
    assert np.mean(plain) == pytest.approx(27.8, abs=0.6)
