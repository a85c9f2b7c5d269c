"""REINFORCE++, and its variant with a group baseline."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from agentgym.trainers.advantage import chain, discounted_return, episode_return, standardize, whiten
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.loss.aggregate import token_mean
from agentgym.trainers.loss.surrogate import epsilon_clip, min_clip, surrogate
from agentgym.trainers.parts import algorithm
from agentgym.trainers.rewards.shaping import env_reward
from agentgym.trainers.rewards.shaping import kl as kl_reward


@algorithm
def reinforce_pp(
    baseline: Literal["batch", "group"] = "batch",
    discount: Annotated[float, Field(gt=0, le=1)] = 1.0,
    clip: Annotated[float, Field(gt=0, lt=1)] = 0.2,
    kl: Annotated[float, Field(ge=0)] = 0.0,
) -> Algorithm:
    """The return from a turn on, brought to mean 0 and variance 1 over the whole batch's tokens; clipped, no critic.

    Aₜ = (Gₜ − μ)/(σ + ε), μ and σ over all action tokens of the batch. 2501.03262. ``baseline=group`` is
    REINFORCE++-baseline: Gₜ − the mean of its group comes first. The paper's rewards are per token; here the return and
    the KL taken from it are per turn, so all tokens of a turn have one advantage.

    Bias: by the length of episodes: the batch's mean leans to long ones (with ``group`` less so), and σ weighs batches.

    Args:
        baseline: what a return is compared with before it is scaled.
        discount: γ, over turns; the paper's is 1. With ``group`` and 1 every turn gets its episode's whole reward.
        clip: ε of the clipped ratio.
        kl: β of the log-ratio to the first weights that is taken from the reward.
    """
    returns = episode_return() if baseline == "group" and discount == 1.0 else discounted_return(discount)
    parts = (returns, standardize(scale=False)) if baseline == "group" else (returns,)
    return Algorithm(
        reward=kl_reward(kl) if kl else env_reward(),
        advantage=chain(*parts, whiten("token")),
        loss_term=surrogate(bound=epsilon_clip(clip, clip), shape=min_clip()),
        aggregate=token_mean(),
    )
