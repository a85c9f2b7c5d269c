"""Group-relative policy optimisation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from agentgym.trainers.advantage import chain, episode_return, standardize
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.loss.aggregate import seq_mean_token_mean
from agentgym.trainers.loss.penalties import kl as kl_penalty
from agentgym.trainers.loss.surrogate import epsilon_clip, min_clip, surrogate
from agentgym.trainers.parts import algorithm


@algorithm
def grpo(
    clip: Annotated[float, Field(gt=0, lt=1)] = 0.2,
    kl: Annotated[float, Field(ge=0)] = 0.0,
) -> Algorithm:
    """Each episode's reward against the mean and spread of its group; every turn gets the same advantage.

    Aᵢ = (Rᵢ − mean R) / (std R + 1e-6), std unbiased, in the group of episodes of one task. Clipped surrogate, mean
    over an episode's action tokens, then over episodes. DeepSeekMath, 2402.03300, eq. 3. A group of one, and a group
    whose rewards are all equal, gets 0.

    Bias: by the length of episodes through the mean over an episode's tokens (a good short episode is pushed more than
    a good long one), and by the division by the group's spread; ``dr_grpo`` has neither.

    Args:
        clip: ε of the clipped ratio.
        kl: coefficient of the k3 penalty towards the first weights; the paper's is 0.04.
    """
    return Algorithm(
        advantage=chain(episode_return(), standardize()),
        loss_term=surrogate(bound=epsilon_clip(clip, clip), shape=min_clip()),
        penalty=(kl_penalty(kl),) if kl else (),
        aggregate=seq_mean_token_mean(),
    )
