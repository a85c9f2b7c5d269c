"""Segment policy optimisation on trees."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from agentgym.trainers.advantage.branches import inverse_copy_weight, node_values
from agentgym.trainers.advantage.turn_weights import drop_zero
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.loss.aggregate import token_mean
from agentgym.trainers.loss.surrogate import epsilon_clip, min_clip, surrogate
from agentgym.trainers.loss.token_weights import low_probability
from agentgym.trainers.parts import algorithm
from agentgym.trainers.sampling.branching import tree


@algorithm
def spo_tree(
    factors: tuple[PositiveInt, ...] = (2, 2, 2),
    every: PositiveInt = 1,
    scale: bool = False,
    value: Literal["children", "leaves"] = "children",
    mask: Annotated[float, Field(gt=0, le=1)] = 0.9,
    clip: Annotated[float, Field(gt=0, lt=1)] = 0.2,
) -> Algorithm:
    """A tree of fixed shape; a segment's advantage is how much it changed the mean of what came of it.

    A = V(child) − V(parent), V the mean of a node's children, or the reward of a leaf; segments are turns here, not
    tokens. Each segment is learned from once, without those of advantage 0, and only at tokens that were not certain.
    2505.23564. ``group_size`` has to be the product of the factors. Edges of earlier updates are not replayed.

    Bias: by the number of tokens that count; with ``scale`` also by the spread among siblings.

    Args:
        factors: children at each level, beginning with the roots; the paper's are 6,6,6.
        every: turns between levels.
        scale: divide by the standard deviation among siblings.
        value: what V is the mean of: a node's children, or all leaves below it, which leans to children with more of
            them (episodes that end before a cut have one).
        mask: only tokens that were sampled with a smaller probability count; 1: all but certain ones.
        clip: ε of the clipped ratio.
    """
    return Algorithm(
        branching=tree(factors, every),
        advantage=node_values(scale, value=value),
        turn_weight=(inverse_copy_weight(), drop_zero()),
        token_weight=(low_probability(mask),),
        loss_term=surrogate(bound=epsilon_clip(clip, clip), shape=min_clip()),
        aggregate=token_mean(),
    )
