"""Polychromic objectives."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from agentgym.trainers.advantage.branches import after_fork_mask, diverse_sets
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.loss.aggregate import token_mean
from agentgym.trainers.loss.penalties import kl as kl_penalty
from agentgym.trainers.loss.surrogate import epsilon_clip, min_clip, surrogate
from agentgym.trainers.parts import algorithm
from agentgym.trainers.sampling.branching import vines


@algorithm
def polychromic(
    states: PositiveInt = 2,
    continuations: PositiveInt = 4,
    size: PositiveInt = 2,
    window: PositiveInt = 5,
    horizon: PositiveInt = 10,
    clip: Annotated[float, Field(gt=0, lt=1)] = 0.2,
    kl: Annotated[float, Field(ge=0)] = 0.01,
) -> Algorithm:
    """Sets of episodes that went on from one state are paid for succeeding *and* for differing.

    f(set) = mean reward · share of distinct ways; an episode's advantage, for ``window`` turns, is the mean of f over
    its sets minus the mean over all sets of the state. Two ways are the same if they met the same states. 2509.25424.
    Every set counts, where the paper draws 4; other turns get the reward minus the group's mean, where the paper has a
    critic. Rewards are taken to lie in 0…1. The penalty is KL(π_old‖π).

    Bias: on purpose, towards differing.

    Args:
        states: states of an episode that others go on from.
        continuations: episodes that go on from each, the first one included; the paper's are 8.
        size: episodes in a set; the paper's is 4.
        window: turns after the state that its sets pay for.
        horizon: states are drawn from the first so many turns.
        clip: ε of the clipped ratio.
        kl: coefficient of the k3 penalty on the distance from the policy that sampled.
    """
    return Algorithm(
        branching=vines(states, continuations, horizon),
        advantage=diverse_sets(size, window),
        turn_weight=(after_fork_mask(),),
        loss_term=surrogate(bound=epsilon_clip(clip, clip), shape=min_clip()),
        penalty=(kl_penalty(kl, to="old"),) if kl else (),
        aggregate=token_mean(),
    )
