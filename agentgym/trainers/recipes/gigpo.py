"""Group-in-group policy optimisation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from agentgym.trainers.aggregate import token_mean
from agentgym.trainers.algorithm import Algorithm, recipe
from agentgym.trainers.anchors import similar_anchors
from agentgym.trainers.credit import chain, invalid_penalty, outcome, scaled, standardize, to_go, total
from agentgym.trainers.penalties import kl as kl_penalty
from agentgym.trainers.surrogate import fixed, min_clip, surrogate


@recipe
def gigpo(
    discount: Annotated[float, Field(ge=0, le=1)] = 0.95,
    step_weight: Annotated[float, Field(ge=0)] = 1.0,
    scale: bool = False,
    scale_episode: bool = True,
    similarity: Annotated[float, Field(gt=0, le=1)] = 1.0,
    penalty: Annotated[float, Field(ge=0)] = 0.0,
    released: bool = False,
    clip: Annotated[float, Field(gt=0, lt=1)] = 0.2,
    kl: Annotated[float, Field(ge=0)] = 0.0,
) -> Algorithm:
    """GRPO's credit for the episode, plus credit among all turns of a group that met the same state.

    A = A_episode + ω · A_turn. A_episode is GRPO's. A_turn compares the discounted return from a turn on with the mean
    of those of every turn in the group with an equal anchor, whichever episode it belongs to. 2505.10978, eq. 3, 6-8.

    Deviations: anchors are digests of the true state, not observation texts; an episode or turn without company gets 0;
    A_turn is not divided by the spread of its set unless ``scale`` (of two turns the paper's "w/ std" makes ±0.71
    whatever the gap).

    Bias: by the length of episodes: a state counts by the expected (n − 1)/n of its visits n, turns that revisit a
    state share a mean, and the loss is a mean over tokens; ``released`` adds a group mean that leans to long episodes.

    Args:
        discount: γ of the returns that turns with one anchor are compared by.
        step_weight: ω; 0 leaves A_episode.
        scale: divide A_turn by its set's standard deviation.
        scale_episode: divide A_episode by the group's standard deviation. Both true is the paper's "w/ std", both false
            its "w/o std".
        similarity: below 1, turns whose *observation texts* are at least this similar (difflib's ratio) count as one
            state, in place of equal anchors; the released search script uses 0.9.
        penalty: c, taken from both credits of each turn that the environment did not understand; released scripts: 0.1.
        released: the released code's rules in place of the paper's: A_episode has one value per turn in its mean and
            spread, a group with a single turn keeps its raw reward, and difflib's junk rule is on.
        clip: ε of the clipped ratio.
        kl: coefficient of the k3 penalty towards the first weights; the released scripts use 0.01.
    """
    invalid = (invalid_penalty(penalty),) if penalty else ()
    by = "anchor" if similarity == 1.0 else similar_anchors(similarity, column="observation", junk=released)
    whole = (
        standardize(scale=scale_episode, count="turn", alone="keep") if released else standardize(scale=scale_episode)
    )
    return Algorithm(
        credit=total(
            chain(outcome(), *invalid, whole),
            scaled(step_weight, chain(to_go(discount), *invalid, standardize(by=by, scale=scale))),
        ),
        surrogate=surrogate(bound=fixed(clip, clip), shape=min_clip(dual=3.0)),
        penalties=(kl_penalty(kl),) if kl else (),
        aggregate=token_mean,
    )
