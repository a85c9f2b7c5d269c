"""Search-R1: outcome rewards for searching and answering."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from agentgym.trainers.advantage import chain, episode_return, gae, standardize, whiten
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.loss.aggregate import seq_mean_token_mean, token_mean
from agentgym.trainers.loss.penalties import kl as kl_penalty
from agentgym.trainers.loss.penalties import value_loss
from agentgym.trainers.loss.surrogate import epsilon_clip, min_clip, surrogate
from agentgym.trainers.parts import algorithm
from agentgym.trainers.rewards.shaping import env_reward
from agentgym.trainers.rewards.shaping import kl as kl_reward


@algorithm
def search_r1(
    estimator: Literal["grpo", "ppo"] = "grpo",
    clip: Annotated[float, Field(gt=0, lt=1)] = 0.2,
    kl: Annotated[float, Field(ge=0)] = 0.001,
    value_weight: Annotated[float, Field(gt=0)] = 0.5,
    critic_lr: Annotated[float, Field(gt=0)] | None = None,
) -> Algorithm:
    """GRPO or PPO on exact match alone, where only the tokens that the policy wrote are learned from.

    Search-R1, 2503.09516. Its masking of retrieved tokens needs no switch here: observations are context, no
    token of them is scored or has an advantage, in any algorithm.

    With ``ppo``, γ = λ = 1 and the KL term is in the reward; unlike there the critic reads where turns begin, not every
    token, and shares the policy's weights.

    Bias: that of grpo, or of ppo.

    Args:
        estimator: each episode against its group, or a critic.
        clip: ε of the clipped ratio.
        kl: β of the distance to the first weights: a k3 penalty (grpo), or taken from the reward (ppo).
        value_weight: of the critic's error (ppo).
        critic_lr: learning rate of the value head (ppo); none: ten times ``lr``, the paper's 1e-5 beside 1e-6.
    """
    bounded = surrogate(bound=epsilon_clip(clip, clip), shape=min_clip())
    if estimator == "ppo":
        advantage = gae(1.0, 1.0)
        return Algorithm(
            reward=kl_reward(kl) if kl else env_reward(),
            advantage=chain(advantage, whiten("token")),
            critic=advantage,
            critic_lr=critic_lr,
            loss_term=bounded,
            penalty=(value_loss(value_weight, 0.5),),
            aggregate=token_mean(),
        )
    return Algorithm(
        advantage=chain(episode_return(), standardize()),
        loss_term=bounded,
        penalty=(kl_penalty(kl),) if kl else (),
        aggregate=seq_mean_token_mean(),
    )
