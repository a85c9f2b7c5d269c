"""GRPO with citation-aware rubric rewards."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from agentgym.trainers.advantage import chain, episode_return, standardize
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.loss.aggregate import token_mean
from agentgym.trainers.loss.surrogate import epsilon_clip, min_clip, surrogate
from agentgym.trainers.parts import algorithm
from agentgym.trainers.rewards.rubrics import rubrics


@algorithm
def c_grpo(
    weight: Annotated[float, Field(ge=0, le=1)] = 0.3,
    support: Literal["shown", "cited"] = "shown",
    relative: bool = True,
    clip_low: Annotated[float, Field(ge=0, le=1)] = 0.2,
    clip_high: Annotated[float, Field(ge=0)] = 0.28,
) -> Algorithm:
    """A right answer earns all only if the documents that support it were found (or found and cited) on the way.

    R = R_o · ((1 − α) + α · R_r / max R_r of the group), R_r the share of the question's supporting documents that
    hold; a wrong answer earns nothing for them. CaRR, 2601.06021. The paper's judge is not needed where questions name
    their evidence, so that the environment gives ``evidence_recall`` and ``evidence_cited``. Left out: its search for a
    connected chain of facts, and its mask of tokens whose probability differs between sampling and training, which here
    come from the same weights and the same code.

    Bias: that of grpo, and by the length of episodes through the mean over tokens.

    Args:
        weight: α.
        support: a document holds if a tool showed it, or only if the answering action also cites it as ``[id]``.
        relative: divide by the group's best, as the paper writes; the released configuration does not.
        clip_low: ε_low.
        clip_high: ε_high.
    """
    column = "evidence_recall" if support == "shown" else "evidence_cited"
    return Algorithm(
        reward=rubrics(weight, column, relative),
        advantage=chain(episode_return(), standardize()),
        loss_term=surrogate(bound=epsilon_clip(clip_low, clip_high), shape=min_clip()),
        aggregate=token_mean(),
    )
