"""Proximal policy optimisation with a critic."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from agentgym.trainers.advantage import chain, gae
from agentgym.trainers.advantage.baselines import whiten as whitened
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.loss.aggregate import token_mean
from agentgym.trainers.loss.penalties import value_loss
from agentgym.trainers.loss.surrogate import epsilon_clip, min_clip, surrogate
from agentgym.trainers.parts import algorithm
from agentgym.trainers.rewards.shaping import env_reward
from agentgym.trainers.rewards.shaping import kl as kl_reward


@algorithm
def ppo(
    discount: Annotated[float, Field(gt=0, le=1)] = 1.0,
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = 0.95,
    clip: Annotated[float, Field(gt=0, lt=1)] = 0.2,
    value_weight: Annotated[float, Field(gt=0)] = 0.5,
    value_clip: Annotated[float, Field(gt=0)] | None = 0.5,
    whiten: bool = True,
    kl: Annotated[float, Field(ge=0)] = 0.0,
    critic_lr: Annotated[float, Field(gt=0)] | None = None,
) -> Algorithm:
    """A critic says what each turn was worth; advantages add up its surprises, from turn to turn.

    δₜ = rₜ + γVₜ₊₁ − Vₜ, Aₜ = δₜ + γλAₜ₊₁ over the turns of an episode; clipped surrogate, plus c·½(V − (A + V_old))².
    PPO 1707.06347, eq. 7 and 9; GAE 1506.02438. V is a linear head on the model's last hidden state (weights shared
    with the policy), read where an action begins; all tokens of a turn learn the same target. After the last turn V is
    0, but an episode that was cut off goes on from V of the context that would have come next.

    Bias: with λ = 1 and no whitening none by the length of episodes beyond the mean over tokens; else by as much as the
    critic is wrong, and the batch's mean leans to long episodes.

    Args:
        discount: γ, over turns.
        gae_lambda: λ; 1 trusts rewards only, 0 the critic's next value only.
        clip: ε of the clipped ratio.
        value_weight: c.
        value_clip: the value moves at most so far from the old one before its loss stops falling; none: no clip.
        whiten: bring advantages to mean 0 and variance 1 over the batch's action tokens; the critic's targets stay.
        kl: β of the log-ratio to the first weights that is taken from the reward.
        critic_lr: learning rate of the value head; none: ten times ``lr``, as where the policy has 1e-6 and the critic
            1e-5. It rises and falls as ``lr`` does.
    """
    advantage = gae(discount, gae_lambda)
    return Algorithm(
        reward=kl_reward(kl) if kl else env_reward(),
        advantage=chain(advantage, whitened("token")) if whiten else advantage,
        critic=advantage,
        critic_lr=critic_lr,
        loss_term=surrogate(bound=epsilon_clip(clip, clip), shape=min_clip()),
        penalty=(value_loss(value_weight, value_clip),),
        aggregate=token_mean(),
    )
