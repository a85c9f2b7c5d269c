"""Optimal tool calls."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from agentgym.trainers.advantage import chain, episode_return, standardize
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.loss.aggregate import seq_mean_token_mean
from agentgym.trainers.loss.penalties import kl as kl_penalty
from agentgym.trainers.loss.surrogate import epsilon_clip, min_clip, surrogate
from agentgym.trainers.parts import algorithm
from agentgym.trainers.rewards.tool_calls import tool_cost


@algorithm
def otc(
    smoothing: Annotated[float, Field(gt=0)] = 4.0,
    scale: Annotated[float, Field(gt=0)] = 1.0,
    fewest: Literal["group", "task", "none"] = "group",
    clip: Annotated[float, Field(gt=0, lt=1)] = 0.2,
    kl: Annotated[float, Field(ge=0)] = 0.0,
) -> Algorithm:
    """GRPO on a reward that shrinks with every tool call beyond the fewest that solved the task.

    r = α · r_tool · r_φ: r_tool = sin(πm / (m + n)) for m calls where n is the fewest of a solved episode; where the
    task was solved without calls, cos(mπ / (2m + c)). OTC, 2504.14870. A product, so a wrong answer earns nothing by
    saving calls. With ``fewest=none`` the reward of OTC-PPO, which compares with no other episode.

    Bias: that of grpo; and the reward of an episode depends on the others of its group, or on earlier ones.

    Args:
        smoothing: c; the number of calls that are allowed.
        scale: α.
        fewest: n: of the group, of the task over the whole run (kept with the checkpoint), or none.
        clip: ε of the clipped ratio.
        kl: coefficient of the k3 penalty towards the first weights; Search-R1, which the paper starts from, has 0.001.
    """
    return Algorithm(
        reward=tool_cost(smoothing, scale, fewest),
        advantage=chain(episode_return(), standardize()),
        loss_term=surrogate(bound=epsilon_clip(clip, clip), shape=min_clip()),
        penalty=(kl_penalty(kl),) if kl else (),
        aggregate=seq_mean_token_mean(),
    )
