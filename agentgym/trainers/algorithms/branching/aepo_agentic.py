"""Agentic entropy-balanced policy optimisation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from agentgym.trainers.advantage import chain, episode_return, standardize
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.loss.aggregate import token_mean
from agentgym.trainers.loss.surrogate import epsilon_clip, gradient_preserving_clip, surrogate
from agentgym.trainers.loss.token_weights import by_entropy
from agentgym.trainers.parts import algorithm
from agentgym.trainers.sampling.branching import entropy_branching


@algorithm
def aepo_agentic(
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5,
    beta: float = 0.2,
    window: PositiveInt = 20,
    penalty: Annotated[float, Field(ge=0, le=1)] = 0.05,
    allocation: float | None = 0.5,
    entropy_weight: Annotated[float, Field(ge=0)] = 0.2,
    clip_low: Annotated[float, Field(ge=0, le=1)] = 0.2,
    clip_high: Annotated[float, Field(ge=0)] = 0.28,
) -> Algorithm:
    """ARPO that shares a group between roots and branches by entropy, and keeps the gradient of clipped unsure tokens.

    The number of roots is size · σ(β_r(H_root − H_tool)), known from a first episode, which counts as one if there are
    more. P = (α +
    β·ΔH) · (1 − penalty·l) after l branchings in a row. A·(1 + a·z), z the z-score of a token's entropy. Tokens that
    became likelier than the upper bound keep that bound as their gradient's factor. 2510.14545; the first episode is
    kept here, where the paper throws it away.

    Bias: as arpo.

    Args:
        alpha: α.
        beta: β.
        window: tokens that an entropy is the mean of.
        penalty: per branching in a row on the path.
        allocation: β_r; none: half of the group are roots, and nothing is played first.
        entropy_weight: a.
        clip_low: ε_low of the clipped ratio.
        clip_high: ε_high.
    """
    return Algorithm(
        branching=entropy_branching(None, alpha, beta, window, penalty=penalty, allocation=allocation),
        advantage=chain(episode_return(), standardize()),
        token_weight=(by_entropy(entropy_weight),) if entropy_weight else (),
        loss_term=surrogate(bound=epsilon_clip(clip_low, clip_high), shape=gradient_preserving_clip()),
        aggregate=token_mean(),
    )
