"""Penalties: more loss per token, each a number times a term. ``needs`` names what must be computed for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from agentgym.errors import UnknownName
from agentgym.trainers.loss.tokens import LOG_LIMIT, TokenFunction, Tokens
from agentgym.trainers.parts import Declared, declare, penalty

if TYPE_CHECKING:
    from torch import Tensor

Estimator = Literal["k1", "k2", "k3", "forward"]


@penalty
def kl(
    coefficient: float, estimator: Estimator = "k3", to: Literal["reference", "old"] = "reference"
) -> Declared[[Tokens], Tensor]:
    """Distance to the reference policy, or to the one that sampled (``to="old"``).

    With d = log π_ref − log π of the sampled token, kept within ±20, for tokens sampled from π itself:

    ============  =============  ==============================================================================
    ``k1``        −d             KL(π‖π_ref) in value, but *as a loss its expected gradient is 0*: use it in rewards
    ``k2``        d²/2           its expected gradient is that of KL(π‖π_ref)
    ``k3``        eᵈ − d − 1     KL(π‖π_ref) in value, >= 0; its expected gradient is that of KL(π_ref‖π). GRPO
    ``forward``   d·eᵈ − eᵈ + 1  KL(π_ref‖π) in value, >= 0 (RAPO, 2510.03865)
    ============  =============  ==============================================================================

    With ``to="old"`` the tokens are samples of the *other* policy, so the two change places: d = log π − log π_old, and
    ``k1`` and ``k3`` are KL(π_old‖π) in value *and* expected gradient, ``forward`` is KL(π‖π_old).
    """
    if estimator not in ESTIMATORS:
        raise UnknownName("KL estimator", estimator, ESTIMATORS)

    def term(tokens: Tokens) -> Tensor:
        distance = tokens.log_ratio if to == "old" else tokens.require(to) - tokens.logprob
        return coefficient * ESTIMATORS[estimator](distance.clamp(-LOG_LIMIT, LOG_LIMIT))

    return declare(term, needs={"reference"} if to == "reference" else ())


ESTIMATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "k1": lambda d: -d,
    "k2": lambda d: d * d / 2.0,
    "k3": lambda d: d.exp() - d - 1.0,
    "forward": lambda d: d * d.exp() - d.exp() + 1.0,
}


@penalty(needs=("entropy",))
def entropy(coefficient: float) -> TokenFunction:
    """−coefficient · H: a bonus on the entropy of the policy's next-token distribution (nats)."""
    return lambda tokens: coefficient * -tokens.require("entropy")


@penalty
def value_loss(coefficient: float = 1.0, clip: float | None = None) -> Declared[[Tokens], Tensor]:
    """A critic's error ½(V − R)², R the column ``target``; PPO.

    ``clip`` = ε: ½ max((V − R)², (clip(V, V_old − ε, V_old + ε) − R)²), so V moves at most ε from the old value.
    """

    def term(tokens: Tokens) -> Tensor:
        value, target = tokens.require("value"), tokens.require("target")
        error = (value - target) ** 2
        if clip is not None:
            old = tokens.require("old_value")
            error = error.maximum((value.clamp(old - clip, old + clip) - target) ** 2)
        return coefficient * (0.5 * error)

    return declare(term, needs={"value", "target"} | ({"old_value"} if clip is not None else set()))
