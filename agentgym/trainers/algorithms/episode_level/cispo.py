"""Clipped importance-sampling policy optimisation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from agentgym.trainers.advantage import chain, episode_return, standardize
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.loss.aggregate import token_mean
from agentgym.trainers.loss.surrogate import ratio_bounds, stop_gradient_clip, surrogate
from agentgym.trainers.parts import algorithm


@algorithm
def cispo(
    low: Annotated[float, Field(ge=0, le=1)] = 0.0,
    high: Annotated[float, Field(ge=1)] = 5.0,
) -> Algorithm:
    """GRPO's advantage, with the importance ratio as a bounded weight, so that no token loses its gradient.

    −sg(clip(ρ, low, high))·A·log π, mean over all action tokens. MiniMax-M1, 2506.13585, eq. 4-5. The bounds are of the
    ratio itself; as in the paper only the upper one is used by default (5 is TRL's; the paper gives no number).

    Bias: by the length of episodes through the mean over tokens, and by the division by the group's spread.

    Args:
        low: least weight of a token.
        high: greatest weight of a token.
    """
    return Algorithm(
        advantage=chain(episode_return(), standardize()),
        loss_term=surrogate(bound=ratio_bounds(low, high), shape=stop_gradient_clip()),
        aggregate=token_mean(),
    )
