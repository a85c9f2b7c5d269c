"""What an advantage part or aggregate optimises when the policy itself decides how long an episode is.

Two small decision processes are enumerated exactly: every episode with its probability, every group of G episodes with
the product of theirs. So the expected update by a part is a finite sum, to be compared with the true gradient of the
expected reward. The part's docstring says under "Bias" what should come out; these lines are read here, so a part and
what is claimed of it cannot drift apart.
"""

from __future__ import annotations

import inspect
import itertools
import re
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch

from agentgym.trainers.advantage import baselines, combine, critic, returns
from agentgym.trainers.advantage.baselines import best_of_group
from agentgym.trainers.advantage.combine import chain
from agentgym.trainers.advantage.returns import episode_return
from agentgym.trainers.advantage.turn_table import TurnTable
from agentgym.trainers.loss import aggregate
from agentgym.trainers.parts import STAGES, load_parts

ADVANTAGES = (returns, baselines, critic)  # every one of their parts makes a claim
CLAIM = re.compile(r"^\s+``(?P<rule>.+?)``: (?P<kind>unbiased|biased)(?:, times (?P<factor>[^;:,\n]+))?", re.MULTILINE)
POLICIES = ((0.3, -0.8), (-0.6, 0.5), (1.1, 0.2))  # log-odds of going on in state p and in state q
VALUE = {"p": 0.35, "q": 0.6}  # a critic that is wrong on purpose


@dataclass(frozen=True)
class Play:
    """One possible episode: the states met, whether it went on (1) or stopped (0) in each, and what that paid."""

    states: tuple[str, ...]
    actions: tuple[int, ...]
    rewards: tuple[float, ...]


# Going on costs a little; stopping pays by where one is. ``once`` never meets a state twice, ``again`` comes back to p.
ONCE = (
    Play(("p",), (0,), (0.3,)),
    Play(("p", "q"), (1, 0), (-0.1, 1.0)),
    Play(("p", "q"), (1, 1), (-0.1, 0.2)),
)
AGAIN = (
    Play(("p",), (0,), (0.3,)),
    Play(("p", "q"), (1, 0), (-0.1, 1.0)),
    Play(("p", "q", "p"), (1, 1, 0), (-0.1, -0.1, 0.5)),
    Play(("p", "q", "p"), (1, 1, 1), (-0.1, -0.1, 1.6)),
)
PROCESSES = {"once": ONCE, "again": AGAIN}


def odds(policy):
    return dict(zip("pq", policy, strict=True))


def probability(play, policy):
    """Π π(a|s), π(go on|s) = σ(log-odds)."""
    go = {s: 1 / (1 + np.exp(-x)) for s, x in odds(policy).items()}
    return float(np.prod([go[s] if a else 1 - go[s] for s, a in zip(play.states, play.actions, strict=True)]))


def scores(play, policy):
    """∇ log π(a|s) of each turn by the two log-odds [turns, 2]."""
    go = {s: 1 / (1 + np.exp(-x)) for s, x in odds(policy).items()}
    turns = zip(play.states, play.actions, strict=True)
    return np.array([[(a - go[s]) * (s == state) for state in "pq"] for s, a in turns])


def gradient(plays, policy):
    """∇ Σ P(episode)·(its rewards)."""
    return sum(probability(p, policy) * sum(p.rewards) * scores(p, policy).sum(axis=0) for p in plays)


def best_gradient(plays, policy, members):
    """∇ E[best reward of a group]."""
    total = np.zeros(2)
    for group in itertools.product(plays, repeat=members):
        chance = np.prod([probability(p, policy) for p in group])
        best = max(sum(p.rewards) for p in group)
        total += chance * best * sum(scores(p, policy).sum(axis=0) for p in group)
    return total


@cache
def tables(name, members):
    """Every group that can occur, as a turn table."""
    out = []
    for group in itertools.product(PROCESSES[name], repeat=members):
        rows = [(i, t, p) for i, p in enumerate(group) for t in range(len(p.states))]
        columns = {
            "group": [0] * len(rows),
            "episode": [i for i, _, _ in rows],
            "turn": [t for _, t, _ in rows],
            "reward": [p.rewards[t] for _, t, p in rows],
            "anchor": [p.states[t] for _, t, p in rows],
            "value": [VALUE[p.states[t]] for _, t, p in rows],
            "tokens": [1] * len(rows),
            "valid": [not (p.states[t] == "q" and p.actions[t] == 1) for _, t, p in rows],
            "truncated": [False] * len(rows),
        }
        out.append((group, TurnTable.from_columns(**columns)))
    return out


def expected_update(name, policy, members, update):
    """E[Σ of A·∇log π over the group's turns], ``update`` giving A·(share) per turn."""
    total = np.zeros(2)
    for group, turns in tables(name, members):
        chance = np.prod([probability(p, policy) for p in group])
        total += chance * update(turns) @ np.concatenate([scores(p, policy) for p in group])
    return total


def mean_over_episodes(rule, members):
    return lambda turns: rule(turns, turns.reward) / members


def aggregated(rule, members):
    credited = chain(episode_return(), baselines.leave_one_out())

    def update(turns):
        weight, sequence = torch.ones(len(turns), dtype=torch.float64), torch.from_numpy(turns.episodes.code)
        return credited(turns, turns.reward) * rule(weight, sequence).numpy()

    return update


def fit(update_of, members, name):
    """The factor c that fits update = c · ∇J at all policies best, and what it leaves, relative."""
    found = np.concatenate([expected_update(name, p, members, update_of) for p in POLICIES])
    true = np.concatenate([gradient(PROCESSES[name], p) for p in POLICIES])
    factor = found @ true / (true @ true)
    return factor, np.abs(found - factor * true).max() / np.abs(true).max()


def claims(module):
    """(factory, call as written, unbiased?, factor as written) for every line under a "Bias"."""
    for name, function in inspect.getmembers(module, inspect.isfunction):
        if function.__module__ != module.__name__ or name.startswith("_"):
            continue
        text = inspect.getdoc(function) or ""
        for match in CLAIM.finditer(text.partition("Bias:")[2]):
            yield pytest.param(
                match["rule"],
                match["kind"] == "unbiased",
                (match["factor"] or "1").strip(),
                id=f"{name}:{match['rule']}",
            )


@pytest.mark.parametrize(("written", "unbiased", "factor"), [c for module in ADVANTAGES for c in claims(module)])
def test_advantage_parts_are_as_biased_as_they_say(written, unbiased, factor):
    load_parts()
    rule = eval(written, dict(STAGES["advantage"].factories))
    check(lambda members: mean_over_episodes(rule, members), unbiased, factor)


@pytest.mark.parametrize(("written", "unbiased", "factor"), list(claims(aggregate)))
def test_aggregates_are_as_biased_as_they_say(written, unbiased, factor):
    rule = getattr(aggregate, written)(*([4] if written == "seq_mean_token_sum_norm" else []))
    check(lambda members: aggregated(rule, members), unbiased, factor)


def check(update_of, unbiased, factor):
    """Unbiased: c is as claimed and nothing is left, in both processes. Biased: no c fits in at least one of them."""
    left = []
    for name, members in itertools.product(PROCESSES, (2, 3)):
        found, rest = fit(update_of(members), members, name)
        left.append(rest)
        if unbiased:
            assert found == pytest.approx(eval(factor, {"G": members, "max_length": 4}), abs=1e-12)
    if unbiased:
        assert max(left) < 1e-12
    else:
        assert max(left) > 1e-3


def test_every_advantage_part_and_aggregate_makes_a_claim():
    joins = {"chain", "add", "scale"}
    for module in (*ADVANTAGES, combine, aggregate):
        silent = {
            function.__name__
            for name, function in inspect.getmembers(module, inspect.isfunction)
            if function.__module__ == module.__name__
            and not name.startswith("_")
            and not CLAIM.search(function.__doc__)
        }
        assert silent == (joins if module is combine else set())


def test_every_line_of_a_claim_is_read():
    text = inspect.getdoc(baselines.standardize).partition("Bias:")[2]
    assert len(CLAIM.findall(text)) == text.count("biased") == 6
    assert [len(list(claims(module))) for module in (*ADVANTAGES, aggregate)] == [4, 14, 2, 5]


@pytest.mark.parametrize("name", PROCESSES)
def test_the_true_gradient_is_that_of_the_expected_reward(name):
    def expected_reward(policy):
        return sum(probability(p, policy) * sum(p.rewards) for p in PROCESSES[name])

    step = 1e-6
    for policy in POLICIES:
        numeric = [
            (expected_reward((policy[0] + step, policy[1])) - expected_reward((policy[0] - step, policy[1])))
            / (2 * step),
            (expected_reward((policy[0], policy[1] + step)) - expected_reward((policy[0], policy[1] - step)))
            / (2 * step),
        ]
        np.testing.assert_allclose(gradient(PROCESSES[name], policy), numeric, atol=1e-9)
        assert sum(probability(p, policy) for p in PROCESSES[name]) == pytest.approx(1.0)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("members", [2, 3])
def test_best_of_group_follows_the_expected_best(name, members):
    rule = chain(episode_return(), best_of_group())
    for policy in POLICIES:
        found = expected_update(name, policy, members, mean_over_episodes(rule, members))
        np.testing.assert_allclose(found, best_gradient(PROCESSES[name], policy, members) / members, atol=1e-12)


def test_a_mean_over_turns_can_push_a_state_the_wrong_way():
    """Why standardize() counts episodes: in state q going on is better here, and this rule makes it rarer."""
    per_turn = chain(episode_return(), baselines.standardize(count="turn", scale=False))
    found = expected_update("again", POLICIES[0], 2, mean_over_episodes(per_turn, 2))
    assert found[1] < -1e-3 < 1e-3 < gradient(AGAIN, POLICIES[0])[1]
