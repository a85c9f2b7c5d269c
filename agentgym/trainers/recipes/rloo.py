"""REINFORCE with a leave-one-out baseline."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from agentgym.trainers.aggregate import seq_mean_token_sum
from agentgym.trainers.algorithm import Algorithm, recipe
from agentgym.trainers.credit import chain, leave_one_out, outcome
from agentgym.trainers.rewards import kl as kl_reward
from agentgym.trainers.rewards import paid
from agentgym.trainers.surrogate import absolute, one, surrogate, unclipped


@recipe
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
        reward=kl_reward(kl) if kl else paid(),
        credit=chain(outcome(), leave_one_out()),
        surrogate=surrogate(one(), absolute(), unclipped()),
        aggregate=seq_mean_token_sum,
    )
