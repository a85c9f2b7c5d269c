"""Group-relative policy optimisation without its two biases."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from agentgym.trainers.advantage import chain, episode_return, standardize
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.loss.aggregate import seq_mean_token_sum_norm
from agentgym.trainers.loss.surrogate import epsilon_clip, min_clip, surrogate
from agentgym.trainers.parts import algorithm


@algorithm
def dr_grpo(
    clip: Annotated[float, Field(gt=0, lt=1)] = 0.2,
    max_length: PositiveInt = 512,
) -> Algorithm:
    """GRPO without the division by the group's spread and without the division by an episode's length.

    Aᵢ = Rᵢ − mean R; loss = 1/(N · L) Σᵢ Σₜ over the action tokens of N episodes, L a constant. 2503.20783. As in the
    paper there is no KL term.

    Bias: none by the length of episodes; times (G − 1)/(G · L) for groups of G.

    Args:
        clip: ε of the clipped ratio.
        max_length: L, action tokens an episode may have; only scales the loss.
    """
    return Algorithm(
        advantage=chain(episode_return(), standardize(scale=False)),
        loss_term=surrogate(bound=epsilon_clip(clip, clip), shape=min_clip()),
        aggregate=seq_mean_token_sum_norm(max_length),
    )
