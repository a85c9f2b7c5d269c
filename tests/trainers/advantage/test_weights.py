"""Weights and rewards: each value by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from agentgym.errors import UsageError
from agentgym.trainers.advantage.combine import chain
from agentgym.trainers.advantage.returns import discounted_return, episode_return
from agentgym.trainers.advantage.turn_table import TurnTable
from agentgym.trainers.advantage.turn_weights import difficulty, drop_zero, mask_truncated, product
from agentgym.trainers.loss.token_weights import top_entropy
from agentgym.trainers.loss.tokens import Tokens
from agentgym.trainers.parts import get_algorithm, turn_weight
from agentgym.trainers.rewards.shaping import env_reward, format_penalty, kl, overlong


def table(**columns):
    base = {"group": [0, 0, 0], "episode": ["a", "a", "b"], "turn": [0, 1, 0], "reward": [0.0, 1.0, 0.5]}
    return TurnTable.from_columns(**{**base, **columns})


# --- weights ----------------------------------------------------------------------------------------------------------


def test_mask_truncated_and_drop_zero():
    turns = table(truncated=[False, False, True])
    advantage = np.array([0.0, 1.0, -1.0])
    assert mask_truncated()(turns, advantage).tolist() == [1.0, 1.0, 0.0]
    assert drop_zero()(turns, advantage).tolist() == [0.0, 1.0, 1.0]
    both = product(mask_truncated(), drop_zero())
    assert both(turns, advantage).tolist() == [0.0, 1.0, 0.0]
    assert both.needs == {"truncated"}
    assert product()(turns, advantage).tolist() == [1.0] * 3


def test_a_negative_weight_is_refused(registry):
    @turn_weight
    def minus():
        """Negative where the advantage is."""
        return lambda turns, advantage: advantage

    with pytest.raises(UsageError, match=r"weights are >= 0; minus\(\) gives -1.0 to turn 2"):
        product(minus())(table(), [0.0, 1.0, -1.0])


def two_groups(success, **columns):
    n = len(success)
    return TurnTable.from_columns(
        group=[0] * 4 + [1] * (n - 4), episode=range(n), turn=[0] * n, reward=[0.0] * n, success=success, **columns
    )


def test_difficulty_weighs_hard_tasks_more():
    turns = two_groups([1, 0, 0, 0, 1, 1, 1, 0])  # rates .25 and .75
    found = difficulty(2.0)(turns, np.ones(8))
    assert_allclose(found, [1.1244] * 4 + [0.8756] * 4, atol=1e-4)
    assert_allclose(found[0] + found[4], 2.0)


def test_difficulty_leaves_groups_without_advantage_out():
    turns = two_groups([1, 0, 0, 0, 1, 1, 1, 1])
    assert difficulty()(turns, np.array([1.0] * 4 + [0.0] * 4)).tolist() == [1.0] * 4 + [0.0] * 4
    assert not difficulty()(turns, np.zeros(8)).any()


def test_difficulty_of_a_group_that_never_succeeds_is_the_least():
    found = difficulty(0.01)(two_groups([0, 0, 0, 0, 1, 1, 1, 0]), np.ones(8))
    assert found[0] < 1e-9 < found[4]


def test_difficulty_counts_an_episode_once():
    turns = table(success=[True, True, False])  # two episodes, one solved: rate .5 whatever their lengths
    other = TurnTable.from_columns(group=[1], episode=["c"], turn=[0], reward=[0.0], success=[True])
    columns = {name: [*turns.column(name), *other.column(name)] for name in turns.columns}
    found = difficulty(1.0)(TurnTable.from_columns(**columns), np.ones(4))
    assert_allclose(found[0] / found[3], math.exp(0.5))


def token_batch(entropy, weight):
    n = len(entropy)
    ids = torch.zeros(n, dtype=torch.int64)
    zero = torch.zeros(n)
    return Tokens(zero, zero, zero, torch.tensor(weight), ids, ids, entropy=torch.tensor(entropy))


def test_top_entropy_keeps_the_most_uncertain_of_the_tokens_that_count():
    batch = token_batch([0.1, 0.9, 0.5, 9.0, 0.7, 0.2], [1.0, 1.0, 1.0, 0.0, 1.0, 1.0])
    assert top_entropy(0.4)(batch).tolist() == [0, 1, 0, 0, 1, 0]
    assert top_entropy(0.41)(batch).tolist() == [0, 1, 1, 0, 1, 0]
    assert top_entropy(1.0)(batch).tolist() == [1, 1, 1, 0, 1, 1]
    assert top_entropy().needs == {"entropy"}


def test_top_entropy_keeps_ties_and_survives_an_empty_mask():
    assert top_entropy(0.25)(token_batch([1.0, 2.0, 2.0, 0.0], [1.0] * 4)).tolist() == [0, 1, 1, 0]
    assert top_entropy()(token_batch([1.0, 2.0], [0.0, 0.0])).tolist() == [0, 0]


@pytest.mark.parametrize("make", [lambda: top_entropy(0.0), lambda: difficulty(0.0)])
def test_weights_out_of_range_are_refused(make):
    with pytest.raises(UsageError, match=r"share must lie in|temperature must be positive"):
        make()


# --- rewards ----------------------------------------------------------------------------------------------------------


def test_env_reward_is_what_was_paid():
    turns = table()
    assert env_reward()(turns, turns.reward).tolist() == [0.0, 1.0, 0.5]


@pytest.mark.parametrize(
    ("length", "cost"), [(0, 0), (60, 0), (70, 0.5), (80, 1.0), (95, 1.75), (100, 2.0), (120, 2.0)]
)
def test_overlong_costs_more_and_more_inside_the_buffer(length, cost):
    turns = table(tokens=[length - length // 3, length // 3, 0])
    found = overlong(100, 40, factor=2.0)(turns, turns.reward)
    assert_allclose(found, [0.0, 1.0 - cost, 0.5])


def test_overlong_without_a_cap_goes_on_growing():
    turns = table(tokens=[100, 80, 0])
    assert_allclose(overlong(100, 40, cap=None)(turns, turns.reward), [0.0, 1.0 - 120 / 40, 0.5])
    assert_allclose(get_algorithm("tapo")(limit=100, buffer=40).reward(
        turns.with_columns(valid=[True] * 3, terminated=[True] * 3), turns.reward), [0.0, -2.0, 0.5])  # fmt: skip


def test_overlong_measures_any_column():
    turns = table(tool_calls=[3, 3, 1])
    assert overlong(4, 4, column="tool_calls")(turns, turns.reward).tolist() == [0.0, 0.0, 0.25]
    with pytest.raises(UsageError, match="0 < buffer <= limit, got limit=3, buffer=4"):
        overlong(3, 4)


def test_penalties_in_the_reward_are_carried_back_by_returns():
    turns = table(valid=[True, False, True], kl=[0.0, 2.0, 1.0])
    rule = chain(format_penalty(0.5), kl(0.1), discounted_return(1.0))
    assert_allclose(rule(turns, turns.reward), [0.3, 0.3, 0.4])
    assert rule.needs == {"valid", "kl"}
    assert chain(env_reward(), episode_return())(turns, turns.reward).tolist() == [1.0, 1.0, 0.5]
