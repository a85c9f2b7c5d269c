"""Agentic reinforced policy optimisation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from agentgym.trainers.advantage import chain, episode_return, standardize
from agentgym.trainers.advantage.branches import inverse_copy_weight, mean_over_copies, node_values
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.loss.aggregate import token_mean
from agentgym.trainers.loss.penalties import kl as kl_penalty
from agentgym.trainers.loss.surrogate import epsilon_clip, min_clip, surrogate
from agentgym.trainers.parts import algorithm
from agentgym.trainers.rewards.shaping import env_reward, malformed
from agentgym.trainers.rewards.tool_calls import tool_bonus
from agentgym.trainers.sampling.branching import entropy_branching


@algorithm
def arpo(
    roots: PositiveInt | None = None,
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5,
    beta: float = 0.2,
    window: PositiveInt = 20,
    each: PositiveInt = 1,
    cap: Annotated[int, Field(ge=0)] | None = None,
    fill: bool = True,
    threshold: float | None = None,
    match_released_code: bool = False,
    attribution: Literal["soft", "hard", "hard_unit", "node_values"] = "soft",
    clip: Annotated[float, Field(gt=0, lt=1)] = 0.2,
    kl: Annotated[float, Field(ge=0)] = 0.0,
    value: Literal["children", "leaves"] = "children",
    bonus: Annotated[float, Field(ge=0)] = 0.0,
    format_score: float | None = None,
) -> Algorithm:
    """GRPO on groups of which a part is forked from running episodes, where the policy became unsure after an answer.

    After an answer of the environment an episode is forked with probability P = α + β·ΔH, ΔH how much higher the mean
    entropy of what the policy writes next (its first ``window`` tokens, over ln V) is than at its start. 2507.19849.
    The paper's 16 episodes with 8 roots are ``group_size=16``. With alpha=0 beta=0 fill=no it is GRPO.

    Bias: by the division by the group's spread; and a turn that d episodes share weighs d times a private one (not with
    ``attribution=hard_unit``).

    Args:
        roots: episodes that start at once; by default half of the group.
        alpha: probability of branching where the policy is as sure as at its start.
        beta: weight of ΔH; the paper finds 0.4 best and trains with 0.2.
        window: tokens that the entropy is the mean of.
        each: branches of one state.
        cap: at most so many branches an update.
        fill: on the last turn (``max_turns``) take what room is left, before fresh roots do.
        threshold: branch iff P exceeds it, as the paper writes, instead of a draw.
        match_released_code: read the signal as the released code does: one turn late, summed, and 0 after the first
            answer.
        attribution: what turns get that several episodes share: each episode's own advantage, the mean of it, the mean
            with the weight of one turn, or the change of value along the tree (no group statistics).
        clip: ε of the clipped ratio.
        kl: coefficient of the k3 penalty towards the first weights.
        value: with ``attribution=node_values``, what a node's value is the mean of: its children, or all leaves below
            it, which leans to what was forked most.
        bonus: what an episode that earned something earns beside it if it used two different tools; the paper's 0.1.
        format_score: what a malformed episode earns; the paper's is -1. None: what the environment paid.
    """
    rewards = [malformed(format_score)] if format_score is not None else []
    rewards += [tool_bonus(bonus)] if bonus else []
    plain = chain(episode_return(), standardize())
    own = {"soft": plain, "node_values": node_values(value=value)}
    return Algorithm(
        branching=entropy_branching(roots, alpha, beta, window, each, cap, fill, threshold, match_released_code),
        reward=chain(*rewards) if rewards else env_reward(),
        advantage=own.get(attribution, chain(plain, mean_over_copies())),
        turn_weight=(inverse_copy_weight(),) if attribution in ("hard_unit", "node_values") else (),
        loss_term=surrogate(bound=epsilon_clip(clip, clip), shape=min_clip(dual=3.0)),
        penalty=(kl_penalty(kl),) if kl else (),
        aggregate=token_mean(),
    )
