"""Decoupled clip and dynamic sampling policy optimisation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from agentgym.trainers.advantage import chain, episode_return, standardize
from agentgym.trainers.advantage.turn_weights import mask_truncated
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.loss.aggregate import token_mean
from agentgym.trainers.loss.surrogate import epsilon_clip, min_clip, surrogate
from agentgym.trainers.parts import algorithm
from agentgym.trainers.rewards.shaping import env_reward, overlong
from agentgym.trainers.sampling.selection import nonzero_variance


@algorithm
def dapo(
    clip_low: Annotated[float, Field(ge=0, le=1)] = 0.2,
    clip_high: Annotated[float, Field(ge=0)] = 0.28,
    rollouts: PositiveInt = 10,
    limit: Annotated[int, Field(ge=5)] | None = None,
    mask_cut: bool = False,
) -> Algorithm:
    """GRPO's advantage with more room upwards, tokens weighted equally, and only groups whose rewards differ.

    max(−Aρ, −A·clip(ρ, 1 − ε_low, 1 + ε_high)), mean over all action tokens of the batch; groups without spread are
    replaced by rolling out again until the batch is full. 2503.14476. No KL term, as in the paper. Where the paper
    compares accuracies with 0 and 1, rewards are compared with each other here.

    Bias: by the length of episodes through the mean over tokens, and by the division by the group's spread; leaving
    groups out changes which tasks count.

    Args:
        clip_low: ε_low.
        clip_high: ε_high.
        rollouts: at most so many rollouts an update; 1 trains on what is left of the first.
        limit: soft limit on an episode's action tokens: its last fifth costs up to 1, linearly (the paper's 4096 of
            20480); none by default.
        mask_cut: leave truncated episodes out of the loss instead.
    """
    return Algorithm(
        selection=nonzero_variance(rollouts),
        reward=overlong(limit, limit // 5) if limit is not None else env_reward(),
        advantage=chain(episode_return(), standardize()),
        turn_weight=(mask_truncated(),) if mask_cut else (),
        loss_term=surrogate(bound=epsilon_clip(clip_low, clip_high), shape=min_clip()),
        aggregate=token_mean(),
    )
