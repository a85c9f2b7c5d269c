"""Tool-augmented policy optimisation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from agentgym.trainers.advantage import chain, episode_return, standardize
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.loss.aggregate import token_mean
from agentgym.trainers.loss.surrogate import epsilon_clip, min_clip, surrogate
from agentgym.trainers.parts import algorithm
from agentgym.trainers.rewards.shaping import malformed, overlong
from agentgym.trainers.sampling.selection import nonzero_variance


@algorithm
def tapo(
    score: float = -1.0,
    limit: Annotated[int, Field(ge=2)] = 2048,
    buffer: Annotated[int, Field(ge=1)] = 1024,
    rollouts: Annotated[int, Field(ge=1)] = 10,
    clip_low: Annotated[float, Field(ge=0, le=1)] = 0.2,
    clip_high: Annotated[float, Field(ge=0)] = 0.28,
    dual: Annotated[float, Field(gt=1)] = 10.0,
) -> Algorithm:
    """DAPO for episodes with tools: malformed ones earn -1, long ones less; groups of one outcome are drawn again.

    R = s + min(0, −(L − (limit − buffer)) / buffer), L the episode's action tokens; s what it earned, ``score`` if an
    action was not understood or no answer came. Mean over all action tokens, asymmetric clip, dual clip, no KL. TAPO,
    2510.07038. Tool calls cost nothing. Groups left missing after the last rollout stay missing, where the paper
    fills up with leftovers; and its scorers (edit distance, relative error) are the environment's business.

    Bias: that of dapo.

    Args:
        score: of a malformed episode.
        limit: action tokens of an episode at which the length penalty reaches 1; it goes on growing beyond.
        buffer: it begins so many tokens before.
        rollouts: at most so many rollouts an update.
        clip_low: ε_low.
        clip_high: ε_high.
        dual: where A < 0 the loss stops at this ratio.
    """
    return Algorithm(
        selection=nonzero_variance(rollouts, of="success"),
        reward=chain(malformed(score), overlong(limit, buffer, cap=None)),
        advantage=chain(episode_return(), standardize()),
        loss_term=surrogate(bound=epsilon_clip(clip_low, clip_high), shape=min_clip(dual)),
        aggregate=token_mean(),
    )
