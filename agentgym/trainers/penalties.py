"""Penalties: more loss per token, each a number times a term. ``needs`` names what must be computed for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from agentgym.errors import UnknownName
from agentgym.trainers.tokens import LOG_LIMIT, Tokens
from agentgym.trainers.turns import named

if TYPE_CHECKING:
    from torch import Tensor

Estimator = Literal["k1", "k2", "k3", "forward"]


@dataclass(frozen=True)
class Penalty:
    """``(tokens) -> coefficient · term [tokens]``, added to the surrogate before aggregation."""

    coefficient: float
    term: Callable[[Tokens], Tensor]
    needs: frozenset[str] = frozenset()
    name: str = "penalty"

    def __call__(self, tokens: Tokens) -> Tensor:
        return self.coefficient * self.term(tokens)

    def __repr__(self) -> str:
        return self.name


@named
def kl(coefficient: float, estimator: Estimator = "k3", to: Literal["reference", "old"] = "reference") -> Penalty:
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
        return ESTIMATORS[estimator](distance.clamp(-LOG_LIMIT, LOG_LIMIT))

    return Penalty(coefficient, term, frozenset({"reference"}) if to == "reference" else frozenset())


ESTIMATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "k1": lambda d: -d,
    "k2": lambda d: d * d / 2.0,
    "k3": lambda d: d.exp() - d - 1.0,
    "forward": lambda d: d * d.exp() - d.exp() + 1.0,
}


@named
def entropy(coefficient: float) -> Penalty:
    """−coefficient · H: a bonus on the entropy of the policy's next-token distribution (nats)."""
    return Penalty(coefficient, lambda tokens: -tokens.require("entropy"), frozenset({"entropy"}))


@named
def value_loss(coefficient: float = 1.0, clip: float | None = None) -> Penalty:
    """A critic's error ½(V − R)², R the column ``target``; PPO.

    ``clip`` = ε: ½ max((V − R)², (clip(V, V_old − ε, V_old + ε) − R)²), so V moves at most ε from the old value.
    """

    def term(tokens: Tokens) -> Tensor:
        value, target = tokens.require("value"), tokens.require("target")
        error = (value - target) ** 2
        if clip is not None:
            old = tokens.require("old_value")
            error = error.maximum((value.clamp(old - clip, old + clip) - target) ** 2)
        return 0.5 * error

    return Penalty(coefficient, term, frozenset({"value", "target"} | ({"old_value"} if clip is not None else set())))
