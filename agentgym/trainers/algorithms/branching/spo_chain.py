"""Segment policy optimisation on chains."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from agentgym.trainers.advantage.branches import monte_carlo_values
from agentgym.trainers.advantage.turn_weights import drop_zero
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.loss.aggregate import token_mean
from agentgym.trainers.loss.surrogate import epsilon_clip, min_clip, surrogate
from agentgym.trainers.loss.token_weights import low_probability
from agentgym.trainers.parts import algorithm
from agentgym.trainers.sampling.branching import root_continuations


@algorithm
def spo_chain(
    continuations: PositiveInt = 3,
    every: PositiveInt = 1,
    mask: Annotated[float, Field(gt=0, le=1)] = 0.9,
    clip: Annotated[float, Field(gt=0, lt=1)] = 0.2,
) -> Algorithm:
    """Along one episode the value before every turn is measured by continuations; a turn's advantage is its change.

    A = V(next cut) − V(this cut), V the mean reward of the continuations from there; after the last cut the episode's
    own reward. Cuts are turns here; the paper cuts at unsure tokens. Continuations are not learned from. 2505.23564.
    A group holds as many continued episodes as fit; one of T turns takes 1 + continuations · T places.

    Bias: by the number of tokens that count.

    Args:
        continuations: K; the paper's is 9.
        every: turns between cuts.
        mask: only tokens that were sampled with a smaller probability count; 1: all but certain ones.
        clip: ε of the clipped ratio.
    """
    return Algorithm(
        branching=root_continuations(continuations, every),
        advantage=monte_carlo_values(),
        turn_weight=(drop_zero(),),
        token_weight=(low_probability(mask),),
        loss_term=surrogate(bound=epsilon_clip(clip, clip), shape=min_clip()),
        aggregate=token_mean(),
    )
