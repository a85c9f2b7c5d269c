"""Returns: what an episode or the rest of it was paid, on every turn.

**Bias.** With a policy that itself decides how long an episode lasts, many usual baselines change what is optimised.
Each part's docstring says under "Bias" whether its expected update on fresh samples, E[1/G Σᵢ Σₜ Aᵢₜ ∇log π(aᵢₜ)],
is c·∇E[undiscounted episode reward] with one constant c ("unbiased"; c is given where it is not 1, G is the group's
size) or not ("biased"). The test of bias reads these lines and checks each by exact enumeration.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from agentgym.trainers.advantage.turn_table import TurnFunction
from agentgym.trainers.parts import advantage


@advantage
def episode_return() -> TurnFunction:
    """Every turn gets the sum of its episode: Aₜ = Σₖ rₖ.

    Bias:
        ``episode_return()``: unbiased
    """
    return lambda turns, values: turns.per_episode(values)[turns.episodes.code]


@advantage
def discounted_return(discount: Annotated[float, Field(ge=0, le=1)]) -> TurnFunction:
    """Return: the discounted sum from the turn on, Aₜ = Σ_{k≥t} γᵏ⁻ᵗ rₖ, γ = ``discount`` in [0, 1].

    Bias:
        ``discounted_return(1.0)``: unbiased
        ``discounted_return(0.9)``: biased: rewards far from the action count less than the objective says
    """
    return lambda turns, values: turns.reverse_scan(values, discount)


@advantage(needs=("valid",))
def invalid_penalty(penalty: float) -> TurnFunction:
    """Minus ``penalty`` on each turn that the environment did not understand: Aₜ = xₜ − c·[not valid].

    It comes last, after the comparison with others: before ``standardize`` (where GiGPO's released code has it) it
    moves the mean that the other turns are compared with. It is not carried to earlier turns; for a penalty that is use
    ``rewards.format_penalty``.

    Bias:
        ``chain(episode_return(), invalid_penalty(0.1))``: biased: on purpose, and blind to invalid turns that come
            later
    """
    return lambda turns, values: values - penalty * ~turns.valid
