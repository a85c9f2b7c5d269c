"""What an update says about itself."""

from __future__ import annotations

import pytest
import torch

from agentgym.trainers.loss.surrogate import (
    by_probability,
    clipped_tokens,
    epsilon_clip,
    ratio_bounds,
    reinforce_ratio,
    sequence_ratio,
    surrogate,
    unclipped,
)
from agentgym.trainers.loss.tokens import Tokens
from agentgym.trainers.parts import loss_term
from agentgym.trainers.update.metrics import UpdateMetrics

RATIOS = torch.tensor([0.75, 0.85, 1.0, 1.25, 1.35])


def tokens() -> Tokens:
    number = torch.zeros(5, dtype=torch.int64)
    old = torch.full((5,), -1.0)
    return Tokens(
        logprob=old + RATIOS.log(), old=old, advantage=torch.ones(5), weight=torch.ones(5), sequence=number, turn=number
    )


@pytest.mark.parametrize(
    ("loss", "share"),
    [
        (surrogate(bound=epsilon_clip(0.2, 0.2)), 0.6),  # 0.75, 1.25 and 1.35
        (surrogate(bound=epsilon_clip(0.2, 0.28)), 0.4),  # DAPO leaves 1.25 in
        (surrogate(bound=ratio_bounds(0.0, 5.0)), 0.0),
        (surrogate(reinforce_ratio(), epsilon_clip(0.2, 0.2), unclipped()), 0.0),  # its ratio is 1
        (surrogate(sequence_ratio(), epsilon_clip(3e-4, 4e-4)), 1.0),  # one ratio for all, geometric mean 1.015
    ],
)
def test_the_share_of_clipped_tokens_knows_the_bounds_of_the_algorithm(loss, share) -> None:
    metrics = UpdateMetrics(loss)
    metrics.add(tokens(), torch.tensor(0.0))
    assert metrics.metrics()["clip_fraction"] == pytest.approx(share)


def test_bounds_of_each_token() -> None:
    clipped = clipped_tokens(surrogate(bound=by_probability()))
    assert clipped is not None
    # q = 1/e: from ½(1 + √max(1 − .64e, 0)) = 0.5 to ½(1 + √(1 + .8e)) = 1.39
    assert clipped(tokens()).tolist() == [False, False, False, False, False]


def test_a_loss_without_bounds_clips_nothing(registry) -> None:
    @loss_term
    def bare():
        """REINFORCE."""
        return lambda tokens: -tokens.advantage * tokens.logprob

    assert clipped_tokens(bare()) is None
    metrics = UpdateMetrics(bare())
    metrics.add(tokens(), torch.tensor(0.0))
    assert metrics.metrics()["clip_fraction"] == 0.0
