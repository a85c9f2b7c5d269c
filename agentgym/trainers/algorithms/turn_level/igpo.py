"""Information gain-based policy optimisation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from agentgym.trainers.advantage.information_gain import PUBLISHED, AnswerProbe, information_credit
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.loss.aggregate import seq_mean_token_mean
from agentgym.trainers.loss.penalties import kl as kl_penalty
from agentgym.trainers.loss.surrogate import epsilon_clip, min_clip, surrogate
from agentgym.trainers.parts import algorithm
from agentgym.trainers.rewards.shaping import env_reward, malformed


@algorithm
def igpo(
    gain: Literal["log", "prob"] = "log",
    norm: Literal["separate", "joint", "per_turn_index", "none"] = "separate",
    std: Literal["population", "unbiased"] = "population",
    accumulate: Literal["sum", "mean", "rescaled"] = "sum",
    discount: Annotated[float, Field(ge=0, le=1)] = 1.0,
    gain_weight: Annotated[float, Field(ge=0)] = 1.0,
    outcome_weight: Annotated[float, Field(ge=0)] = 1.0,
    removed: Literal["nothing", "thinking", "action"] = "nothing",
    aliases: Literal["best", "mean", "first"] = "best",
    max_aliases: Annotated[int, Field(ge=1)] = 8,
    by: Literal["policy", "reference"] = "policy",
    wrapper: Literal["environment", "published"] = "environment",
    lead: str = "",
    format_score: float | None = None,
    clip: Annotated[float, Field(gt=0, lt=1)] = 0.2,
    kl: Annotated[float, Field(ge=0)] = 0.0,
) -> Algorithm:
    """A turn is worth what it added to the policy's belief in the accepted answer; the last one what the answer earned.

    bₜ = mean log π(answer token | everything up to turn t's tool result); IGₜ = bₜ − bₜ₋₁, z-scored over the group;
    the last turn gets the z-scored outcome; Aₜ = Σ_{k≥t} γᵏ⁻ᵗ r̃ₖ on every token the policy wrote in turn t. IGPO (ICLR
    2026). No gradient flows through beliefs. The environment must give ``info["answers"]``; tasks without them
    learn from the outcome alone.

    Unlike in the released code all accepted answers count, not the first alone; an episode that a limit cut off has a
    gain for its last call; weights are applied after normalisation, where they are not divided out; outcomes that are
    all equal push no answer under ``norm=joint``; and no KL penalty by default (the released scripts take 0.001).

    Bias: by the length of episodes through the mean over tokens and through sets of turns that long episodes fill, and
    by the belief itself wherever it rises without the answer getting better.

    Args:
        gain: differences of log-probabilities, or (the paper's first version) of probabilities.
        norm: what shares mean and spread: gains and outcomes apart, both together, gains at equal places, or nothing.
        std: divide squares by n, or by n - 1.
        accumulate: sum of the terms that follow, their mean, or the sum over the square root of their number (A2TGPO,
            2605.06200), whose scale does not grow with depth.
        discount: γ.
        gain_weight: of the normalised gains; 0 leaves the outcome.
        outcome_weight: of the normalised outcome.
        removed: what of a turn's own text is left out before its gain is measured. A policy can raise its belief by
            writing a guess: "thinking" removes that, "action" leaves the tool's text alone.
        aliases: the answer believed most at the end, the mean over all, or the first.
        max_aliases: so many accepted answers are scored.
        by: whose belief: the policy's, or that of the first weights.
        wrapper: what the answer stands in where it is asked for: the environment's own markup; or the paper's, a closed
            thought that enough is known, and ``<answer>`` tags on lines of their own.
        lead: what an action says before its answer; for models that think, a closed thought. Empty: the wrapper's.
        format_score: what a malformed episode earns in place of its reward; the released code's is -2. None: what the
            environment paid.
        clip: ε of the clipped ratio.
        kl: coefficient of the k3 penalty towards the first weights.
    """
    return Algorithm(
        reward=malformed(format_score) if format_score is not None else env_reward(),
        advantage=information_credit(gain, norm, std, accumulate, discount, gain_weight, outcome_weight),
        loss_term=surrogate(bound=epsilon_clip(clip, clip), shape=min_clip()),
        penalty=(kl_penalty(kl),) if kl else (),
        aggregate=seq_mean_token_mean(),
        answer_probe=AnswerProbe(
            lead=lead or (PUBLISHED.lead if wrapper == "published" else ""),
            opening=PUBLISHED.opening if wrapper == "published" else None,
            closing=PUBLISHED.closing if wrapper == "published" else None,
            aliases=aliases,
            max_aliases=max_aliases,
            removed=removed,
            by=by,
        ),
    )
