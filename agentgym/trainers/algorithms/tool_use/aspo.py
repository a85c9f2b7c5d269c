"""Advantage shaping policy optimisation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from agentgym.trainers.advantage import chain, early_call, episode_return, standardize
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.loss.aggregate import token_mean
from agentgym.trainers.loss.surrogate import epsilon_clip, min_clip, surrogate
from agentgym.trainers.parts import algorithm
from agentgym.trainers.sampling.selection import nonzero_variance


@algorithm
def aspo(
    delta: float = -2.0,
    limit: Annotated[float, Field(ge=0, lt=1)] = 0.7,
    clip_low: Annotated[float, Field(ge=0, le=1)] = 0.2,
    clip_high: Annotated[float, Field(ge=0)] = 0.28,
    rollouts: PositiveInt = 10,
) -> Algorithm:
    """DAPO whose solved episodes get a larger advantage the earlier they first called a tool.

    A + clip(δ·(p − mean p) / mean L, −k·A, k·A) for a group's solved episodes with a call, p the action tokens up to
    the first call, L all of them. 2508.19201. The bounded bias is added to the advantage, so being right always counts
    more.

    Bias: by the length of episodes, by the division by the group's spread, and on purpose towards early calls.

    Args:
        delta: δ; −2.0 is the paper's conservative value, −2.5 its aggressive one.
        limit: k; 0.7 and 0.9.
        clip_low: ε_low of the clipped ratio.
        clip_high: ε_high.
        rollouts: at most so many rollouts an update, until the batch is full of groups whose rewards differ.
    """
    return Algorithm(
        selection=nonzero_variance(rollouts),
        advantage=chain(episode_return(), standardize(), early_call(delta, limit)),
        loss_term=surrogate(bound=epsilon_clip(clip_low, clip_high), shape=min_clip()),
        aggregate=token_mean(),
    )
