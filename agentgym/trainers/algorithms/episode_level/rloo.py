"""REINFORCE with a leave-one-out baseline."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from agentgym.trainers.advantage import chain, episode_return, leave_one_out
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.loss.aggregate import seq_mean_token_sum
from agentgym.trainers.loss.surrogate import ratio_bounds, reinforce_ratio, surrogate, unclipped
from agentgym.trainers.parts import algorithm
from agentgym.trainers.rewards.shaping import env_reward
from agentgym.trainers.rewards.shaping import kl as kl_reward


@algorithm
def rloo(
    kl: Annotated[float, Field(ge=0)] = 0.0,
) -> Algorithm:
    """Each episode's reward against the mean of the others of its group; plain REINFORCE, nothing clipped.

    Aᵢ = Rᵢ − 1/(G−1) Σ_{j≠i} Rⱼ; loss = −1/N Σᵢ Aᵢ Σₜ log π. 2402.14740, eq. 10. Ratios are not used, so it wants one
    pass and one optimiser step an update (``epochs=1 minibatches=1``).

    Bias: none by the length of episodes.

    Args:
        kl: β of the log-ratio to the first weights that is taken from the reward, on the turn where it arises; the
            paper's is 0.03 to 0.05.
    """
    return Algorithm(
        reward=kl_reward(kl) if kl else env_reward(),
        advantage=chain(episode_return(), leave_one_out()),
        loss_term=surrogate(reinforce_ratio(), ratio_bounds(), unclipped()),
        aggregate=seq_mean_token_sum(),
    )
