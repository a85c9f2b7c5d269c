"""Advantages for early calls, and the token weights that the algorithms with branches use."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agentgym.errors import UsageError
from agentgym.trainers.advantage.tool_calls import early_call
from agentgym.trainers.advantage.turn_table import TurnTable
from agentgym.trainers.loss.token_weights import by_entropy, low_probability
from agentgym.trainers.loss.tokens import Tokens


def table(**columns):
    """Three solved episodes that first call after 100, 300 and 800 of 2000 tokens, a failed one, one without calls."""
    rows = {
        "group": ["g"] * 13,
        "episode": [e for e in "abc" for _ in range(3)] + ["d", "d", "e", "e"],
        "turn": [0, 1, 2] * 3 + [0, 1, 0, 1],
        "reward": [0.0] * 13,
        "tokens": [100, 900, 1000, 200, 100, 1700, 700, 100, 1200, 5, 5, 7, 7],
        "tool_calls": [1, 1, 0, 0, 2, 0, 0, 1, 0, 1, 0, 0, 0],
        "success": [True] * 9 + [False] * 2 + [True] * 2,
    }
    return TurnTable.from_columns(**{**rows, **columns})


def test_early_calls_by_hand():
    turns = table()
    credit = np.full(13, 0.8)
    got = early_call(-2.0, 0.7)(turns, credit)
    assert got == pytest.approx([1.1] * 3 + [0.9] * 3 + [0.4] * 3 + [0.8] * 4)
    bounded = early_call(-8.0, 0.5)(turns, credit)
    assert bounded == pytest.approx([1.2] * 3 + [1.2] * 3 + [0.4] * 3 + [0.8] * 4)
    assert early_call()(turns, np.zeros(13)).tolist() == [0.0] * 13
    assert (early_call()(turns, np.full(13, -1.0)) == -1.0).all()
    order = np.random.default_rng(1).permutation(13)
    shuffled = TurnTable.from_columns(**{n: turns.column(n)[order] for n in turns.columns})
    assert early_call()(shuffled, credit) == pytest.approx(early_call()(turns, credit)[order])


def test_without_calls_or_success_nothing_changes():
    for columns in ({"tool_calls": [0] * 13}, {"success": [False] * 13}):
        assert (early_call()(table(**columns), np.ones(13)) == 1.0).all()
    with pytest.raises(UsageError, match=r"limit must lie in \[0, 1\), got 1.0"):
        early_call(limit=1.0)


def tokens(**columns):
    count = len(next(iter(columns.values())))
    plain = {"logprob": torch.zeros(count), "old": torch.zeros(count), "advantage": torch.zeros(count)}
    plain |= {"weight": torch.ones(count)}
    whole = {"sequence": torch.zeros(count, dtype=torch.long), "turn": torch.zeros(count, dtype=torch.long)}
    return Tokens(**{**plain, **whole, **columns})


def test_weight_by_entropy():
    given = tokens(entropy=torch.tensor([1.0, 2.0, 3.0, 50.0]), weight=torch.tensor([1.0, 1.0, 1.0, 0.0]))
    assert by_entropy(0.2)(given).tolist()[:3] == pytest.approx([0.8, 1.0, 1.2])
    assert by_entropy(5.0)(given).tolist()[:3] == pytest.approx([0.0, 1.0, 6.0])
    assert by_entropy()(tokens(entropy=torch.ones(3))).tolist() == [1.0] * 3
    assert by_entropy()(tokens(entropy=torch.ones(1))).tolist() == [1.0]


def test_only_unsure_tokens():
    given = tokens(old=torch.tensor([0.95, 0.9, 0.89, 0.1]).log() - 1e-6)
    assert low_probability(0.9)(given).tolist() == [0.0, 1.0, 1.0, 1.0]
    assert low_probability(1.0)(tokens(old=torch.tensor([0.0, -1e-3]))).tolist() == [0.0, 1.0]
    with pytest.raises(UsageError, match=r"below must lie in \(0, 1\], got 0"):
        low_probability(0)
