"""Segment policy optimisation on chains."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from agentgym.trainers.aggregate import token_mean
from agentgym.trainers.algorithm import Algorithm, recipe
from agentgym.trainers.branches import continuation_values
from agentgym.trainers.branching import chain
from agentgym.trainers.surrogate import fixed, min_clip, surrogate
from agentgym.trainers.weights import drop_zero, unsure


@recipe
def spo_chain(
    continuations: PositiveInt = 3,
    every: PositiveInt = 1,
    mask: Annotated[float, Field(gt=0, le=1)] = 0.9,
    clip: Annotated[float, Field(gt=0, lt=1)] = 0.2,
) -> Algorithm:
    """Along one episode the value before every turn is measured by continuations; a turn's credit is its change.

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
        branching=chain(continuations, every),
        credit=continuation_values(),
        weights=(drop_zero(), unsure(mask)),
        surrogate=surrogate(bound=fixed(clip, clip), shape=min_clip()),
        aggregate=token_mean,
    )
