"""Group sequence policy optimisation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from agentgym.trainers.advantage import chain, episode_return, standardize
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.loss.aggregate import seq_mean_token_mean
from agentgym.trainers.loss.surrogate import epsilon_clip, min_clip, sequence_ratio, surrogate
from agentgym.trainers.parts import algorithm


@algorithm
def gspo(
    clip_low: Annotated[float, Field(ge=0, le=1)] = 3e-4,
    clip_high: Annotated[float, Field(ge=0)] = 4e-4,
    sequence: Literal["episode", "turn"] = "episode",
) -> Algorithm:
    """GRPO with one importance ratio per sequence instead of one per token.

    s = (Π ρₜ)^(1/n) over the n action tokens of a sequence; max(−As, −A·clip(s, 1 − ε_low, 1 + ε_high)), mean over its
    tokens, then over sequences. 2507.18071, eq. 5-7 (eq. 13-14 per token). The paper's sequence is one answer.

    Bias: by the length of episodes through the mean over a sequence, and by the division by the group's spread.

    Args:
        clip_low: ε_low.
        clip_high: ε_high.
        sequence: what has one ratio: all action tokens of an episode, or those of one turn.
    """
    return Algorithm(
        advantage=chain(episode_return(), standardize()),
        loss_term=surrogate(sequence_ratio(), epsilon_clip(clip_low, clip_high), min_clip()),
        aggregate=seq_mean_token_mean(),
        sequence=sequence,
    )
