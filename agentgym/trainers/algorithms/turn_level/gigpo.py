"""Group-in-group policy optimisation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from agentgym.trainers.advantage import (
    add,
    chain,
    combine,
    discounted_return,
    episode_return,
    invalid_penalty,
    similar_anchors,
    standardize,
)
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.loss.aggregate import token_mean
from agentgym.trainers.loss.penalties import kl as kl_penalty
from agentgym.trainers.loss.surrogate import epsilon_clip, min_clip, surrogate
from agentgym.trainers.parts import algorithm


@algorithm
def gigpo(
    discount: Annotated[float, Field(ge=0, le=1)] = 0.95,
    step_weight: Annotated[float, Field(ge=0)] = 1.0,
    scale: bool = False,
    scale_episode: bool | None = None,
    similarity: Annotated[float, Field(gt=0, le=1)] = 1.0,
    penalty: Annotated[float, Field(ge=0)] = 0.0,
    match_released_code: bool = False,
    clip: Annotated[float, Field(gt=0, lt=1)] = 0.2,
    kl: Annotated[float, Field(ge=0)] = 0.0,
) -> Algorithm:
    """GRPO's advantage of the episode, plus that of each turn among all turns of its group that met the same state.

    A = A_episode + ω · A_turn. A_episode compares an episode's reward with the mean of its group. A_turn compares the
    discounted return from a turn on with the mean of those of every turn in the group with an equal anchor, whichever
    episode it belongs to. 2505.10978, eq. 3, 6-8. The default is the paper's "w/o std"; ``scale=true`` is its "w/ std",
    which of two turns makes ±0.71 whatever the gap.

    Deviations: anchors are digests of the true state, not observation texts; an episode or turn without company gets 0.

    Bias: by the length of episodes: a state counts by the expected (n − 1)/n of its visits n, turns that revisit a
    state share a mean, and the loss is a mean over tokens; ``match_released_code`` adds a group mean that leans to long
    episodes.

    Args:
        discount: γ of the returns that turns with one anchor are compared by.
        step_weight: ω; 0 leaves A_episode.
        scale: divide both terms by the standard deviation of what they are compared with: the paper's "w/ std".
        scale_episode: divide A_episode alone, or not; none: as ``scale``. True with ``scale=false`` is GRPO's term
            beside an undivided A_turn, which is not published.
        similarity: below 1, turns whose *observation texts* are at least this similar (difflib's ratio) count as one
            state, in place of equal anchors; the released search script uses 0.9.
        penalty: c, taken from A of each turn that the environment did not understand.
        match_released_code: the released code's rules in place of the paper's: A_episode has one value per turn in its
            mean and spread, a group with a single turn keeps its raw reward, difflib's junk rule is on, and the penalty
            (0.1 in its scripts) is taken from rewards and returns before they are compared, so that one misunderstood
            turn lifts the others of its group.
        clip: ε of the clipped ratio.
        kl: coefficient of the k3 penalty towards the first weights; the released scripts use 0.01.
    """
    invalid = (invalid_penalty(penalty),) if penalty else ()
    before, after = (invalid, ()) if match_released_code else ((), invalid)
    by = "anchor" if similarity == 1.0 else similar_anchors(similarity, column="observation", junk=match_released_code)
    scale_episode = scale if scale_episode is None else scale_episode
    whole = (
        standardize(scale=scale_episode, count="turn", alone="keep")
        if match_released_code
        else standardize(scale=scale_episode)
    )
    advantage = add(
        chain(episode_return(), *before, whole),
        combine.scale(step_weight, chain(discounted_return(discount), *before, standardize(by=by, scale=scale))),
    )
    return Algorithm(
        advantage=chain(advantage, *after) if after else advantage,
        loss_term=surrogate(bound=epsilon_clip(clip, clip), shape=min_clip(dual=3.0)),
        penalty=(kl_penalty(kl),) if kl else (),
        aggregate=token_mean(),
    )
