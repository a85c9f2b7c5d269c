"""Efficiency-aware policy optimisation, on a workspace that the policy rewrites."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from agentgym.trainers.advantage import chain, discounted_return, standardize
from agentgym.trainers.advantage.turn_weights import subsample
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.loss.aggregate import seq_mean_token_mean
from agentgym.trainers.loss.surrogate import epsilon_clip, min_clip, sequence_ratio, surrogate
from agentgym.trainers.parts import algorithm
from agentgym.trainers.sampling.contexts import workspace


@algorithm
def eapo(
    discount: Annotated[float, Field(gt=0, le=1)] = 0.95,
    clip_low: Annotated[float, Field(ge=0, le=1)] = 3e-4,
    clip_high: Annotated[float, Field(ge=0)] = 4e-4,
    multiple: Annotated[int, Field(ge=1)] = 1,
    instructions: bool = True,
) -> Algorithm:
    """Each turn is a sample of its own with a short context; it earns the outcome discounted by the turns to come.

    The policy sees the task, a report that it rewrites between ``<report>`` and ``</report>``, its last action and the
    result. rₜ = γ^(T−t) · R_T; Aₜ = (rₜ − μ) / (σ + ε) over all turns of all episodes of the group; one ratio a turn
    (GSPO), mean over turns. IterResearch, 2511.07327. So short solutions pay more per turn. The value of γ is our
    choice; the paper's choice of tasks that are solved in 20-60 % of trials is left to sampling.

    Bias: long episodes fill the set that all turns of a group are compared with, and γ < 1 pays less for early turns.

    Args:
        discount: γ.
        clip_low: ε_low of the clipped sequence ratio.
        clip_high: ε_high.
        multiple: leave out turns at random until their number is a multiple of this (the paper: of the data-parallel
            size); 1 keeps all.
        instructions: tell the policy what the environment expects and what a report is.
    """
    return Algorithm(
        context=workspace(instructions=instructions),
        advantage=chain(discounted_return(discount), standardize(count="turn")),
        turn_weight=(subsample(multiple),) if multiple > 1 else (),
        loss_term=surrogate(sequence_ratio(), epsilon_clip(clip_low, clip_high), min_clip()),
        aggregate=seq_mean_token_mean(),
        sequence="turn",
    )
