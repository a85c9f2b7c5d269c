"""Group-in-group policy optimisation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from agentgym.trainers.aggregate import token_mean
from agentgym.trainers.algorithm import Algorithm, recipe
from agentgym.trainers.anchors import similar_anchors
from agentgym.trainers.credit import chain, outcome, scaled, standardize, to_go, total
from agentgym.trainers.penalties import kl as kl_penalty
from agentgym.trainers.surrogate import fixed, min_clip, surrogate


@recipe
def gigpo(
    discount: Annotated[float, Field(gt=0, le=1)] = 0.95,
    step_weight: Annotated[float, Field(ge=0)] = 1.0,
    scale: bool = False,
    statistics: Literal["episode", "turn"] = "episode",
    similarity: Annotated[float, Field(gt=0, le=1)] = 1.0,
    clip: Annotated[float, Field(gt=0, lt=1)] = 0.2,
    kl: Annotated[float, Field(ge=0)] = 0.0,
) -> Algorithm:
    """GRPO's credit for the episode, plus credit among all turns of a group that met the same state.

    A = A_episode + ω · A_turn. A_turn compares the discounted return from a turn on with the mean of those of every turn
    in the group with an equal anchor, whichever episode it belongs to. 2505.10978, eq. 3, 6-8.

    Args:
        discount: γ of the returns that turns with one anchor are compared by.
        step_weight: ω; 0 is GRPO.
        scale: divide by the set's standard deviation, the paper's "w/ std"; a pair then always gets ±0.71.
        statistics: of the episode part: one value per episode, as the paper writes, or one per turn, as its code does.
        similarity: below 1, observations at least this similar (difflib's ratio) count as one anchor.
        clip: ε of the clipped ratio.
        kl: coefficient of the k3 penalty towards the first weights; the released scripts use 0.01.
    """
    by = "anchor" if similarity == 1.0 else similar_anchors(similarity)
    return Algorithm(
        credit=total(
            chain(outcome(), standardize(count=statistics, scale=scale)),
            scaled(step_weight, chain(to_go(discount), standardize(by=by, scale=scale))),
        ),
        surrogate=surrogate(bound=fixed(clip, clip), shape=min_clip(dual=3.0)),
        penalties=(kl_penalty(kl),) if kl else (),
        aggregate=token_mean,
    )
