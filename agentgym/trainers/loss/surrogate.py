"""Surrogate: loss per token = shape(ratio, bound, advantage), to be minimised. Any ratio goes with any bound and shape.

====================  =========================================================================
PPO, GRPO             ``surrogate()``
DAPO                  ``surrogate(bound=epsilon_clip(0.2, 0.28))``
GSPO                  ``surrogate(sequence_ratio(), epsilon_clip(3e-4, 4e-4))``
CISPO                 ``surrogate(bound=ratio_bounds(0.0, 5.0), shape=stop_gradient_clip())``
GMPO                  ``surrogate(geometric_mean(), ratio_bounds(), unclipped())``
SAPO                  ``surrogate(bound=ratio_bounds(), shape=smooth_gate())``
DCPO                  ``surrogate(bound=by_probability(), shape=min_clip(dual=10.0))``
AEPO                  ``surrogate(bound=epsilon_clip(0.2, 0.28), shape=gradient_preserving_clip())``
REINFORCE, RLOO       ``surrogate(reinforce_ratio(), ratio_bounds(), unclipped())``
LUFFY (off-policy)    ``surrogate(policy_shaping(), ratio_bounds(), unclipped())``
====================  =========================================================================

On fresh samples (ratio 1) each of them but the last has the gradient of REINFORCE, −A ∇log π. A is the advantage, ρ the
ratio, sg(·) stops the gradient. Log-ratios are kept within ±20.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from agentgym.errors import UsageError
from agentgym.trainers import parts
from agentgym.trainers.loss.tokens import LOG_LIMIT, TokenFunction, Tokens
from agentgym.trainers.parts import Declared, declare, loss_term

if TYPE_CHECKING:
    from torch import Tensor


class Bounds(NamedTuple):
    """Where the ratio is clipped: numbers, or one per token."""

    low: Tensor | float
    high: Tensor | float

    def clip(self, ratio: Tensor) -> Tensor:
        """The ratio brought inside; no gradient where it was outside."""
        return ratio.clamp(min=self.low).clamp(max=self.high)


if TYPE_CHECKING:
    Ratio = Callable[[Tokens], Tensor]
    Bound = Callable[[Tokens], Bounds]
    Shape = Callable[[Tokens, Tensor, Bounds], Tensor]
else:  # checked when a part is made, where torch need not be there
    Ratio = Bound = Shape = Callable


@loss_term
def surrogate(
    ratio: Ratio | None = None, bound: Bound | None = None, shape: Shape | None = None
) -> Declared[[Tokens], Tensor]:
    """Join a ratio, a bound and a shape; by default PPO's ``token_ratio()``, ``epsilon_clip()`` and ``min_clip()``."""
    ratio, bound, shape = ratio or token_ratio(), bound or epsilon_clip(), shape or min_clip()
    parts.ratio.require(ratio, "surrogate(ratio=...)")
    parts.bound.require(bound, "surrogate(bound=...)")
    parts.shape.require(shape, "surrogate(shape=...)")

    def apply(tokens: Tokens) -> Tensor:
        return shape(tokens, ratio(tokens), bound(tokens))

    return declare(apply, parts=(ratio, bound, shape), linear=True)


def clipped_tokens(loss: object) -> Callable[[Tokens], Tensor] | None:
    """Which tokens' ratios lie outside the bounds of a loss term [tokens], bool; None if it has no ratio or bound."""
    inside = {part.stage: part for part in loss.walk()} if isinstance(loss, parts.Part) else {}
    if not {"ratio", "bound"} <= inside.keys():
        return None

    def apply(tokens: Tokens) -> Tensor:
        ratio, bounds = inside["ratio"](tokens).detach(), inside["bound"](tokens)
        outside: Tensor = (ratio < bounds.low) | (ratio > bounds.high)
        return outside

    return apply


# --- ratios -----------------------------------------------------------------------------------------------------------


@parts.ratio
def token_ratio() -> TokenFunction:
    """ρₜ = π(aₜ) / π_old(aₜ)."""
    return lambda tokens: tokens.log_ratio.exp()


@parts.ratio
def sequence_ratio(cap: float = 10.0) -> TokenFunction:
    """s = (Π ρₜ)^(1/n) over the sequence's n tokens, as sg(s)·π(aₜ)/sg(π(aₜ)); GSPO (2507.18071).

    So each token has the value s, clips as its sequence does, keeps its own advantage, and the sum of gradients over a
    sequence is that of n·s. For n = 1 it is :func:`token_ratio`. log s is kept below ``cap``.
    """

    def apply(tokens: Tokens) -> Tensor:
        mean = tokens.mean_by_sequence(tokens.log_ratio.detach()).clamp(max=cap)
        return mean.exp()[tokens.sequence] * _one(tokens)

    return apply


@parts.ratio
def geometric_mean(low: float = 0.4, high: float = 0.4) -> TokenFunction:
    """exp(mean of log ρₜ), each log ρₜ clipped on the harmful side only first; GMPO (2507.20673).

    Harmful is log ρₜ > ``high`` where A > 0 and log ρₜ < −``low`` where A < 0; such a token has no gradient. It is
    bounded already, so it goes with ``ratio_bounds()`` and ``unclipped()``.
    """

    def apply(tokens: Tokens) -> Tensor:
        log_ratio = tokens.log_ratio
        clipped = log_ratio.clamp(max=high).where(tokens.advantage > 0, log_ratio.clamp(min=-low))
        return tokens.mean_by_sequence(clipped).exp()[tokens.sequence]

    return apply


@parts.ratio
def reinforce_ratio() -> TokenFunction:
    """π/sg(π): the value is 1 and the gradient ∇log π, whatever ``old`` was; REINFORCE."""
    return _one


@parts.ratio
def policy_shaping(constant: float = 0.1) -> TokenFunction:
    """p/(p + c) of the current probability p, without a denominator of its own; LUFFY (2504.14945).

    Its gradient by log p is c·p/(p + c)²: unlikely tokens (p near c) learn most.
    """
    if constant <= 0:
        raise UsageError(f"constant must be positive, got {constant!r}")
    return lambda tokens: (tokens.logprob - math.log(constant)).sigmoid()


def _one(tokens: Tokens) -> Tensor:
    return (tokens.logprob - tokens.logprob.detach()).exp()


# --- bounds -----------------------------------------------------------------------------------------------------------


@parts.bound
def epsilon_clip(low: float = 0.2, high: float = 0.2) -> Bound:
    """[1 − low, 1 + high]; PPO .2/.2, DAPO .2/.28, GSPO 3e-4/4e-4."""
    if not (0.0 <= low <= 1.0 and high >= 0.0):
        raise UsageError(
            f"epsilon_clip(low, high) clips to [1 - low, 1 + high]: 0 <= low <= 1 and high >= 0, got {low}, {high}"
        )
    return lambda tokens: Bounds(1.0 - low, 1.0 + high)


@parts.bound
def ratio_bounds(low: float = 0.0, high: float = math.inf) -> Bound:
    """[low, high] themselves; without arguments no bound at all."""
    if not 0.0 <= low <= high:
        raise UsageError(f"ratio_bounds(low, high) needs 0 <= low <= high, got {low}, {high}")
    return lambda tokens: Bounds(low, high)


@parts.bound
def by_probability(low: float = 0.16, high: float = 0.2, cap: float = 10.0) -> Bound:
    """Wider for tokens that were unlikely, q = π_old(aₜ); DCPO (2509.02333).

    [½(1 + √max(1 − 4·low/q, 0)), min(cap, ½(1 + √(1 + 4·high/q)))]
    """

    def apply(tokens: Tokens) -> Bounds:
        inverse = (-tokens.old).clamp(max=LOG_LIMIT).exp()  # 1/q
        lower = 0.5 * (1.0 + (1.0 - 4.0 * low * inverse).clamp(min=0.0).sqrt())
        upper = 0.5 * (1.0 + (1.0 + 4.0 * high * inverse).sqrt())
        return Bounds(lower, upper.clamp(max=cap))

    return apply


# --- shapes -----------------------------------------------------------------------------------------------------------


@parts.shape
def min_clip(dual: float | None = None) -> Shape:
    """PPO (1707.06347, eq. 7): max(−Aρ, −A·clip(ρ)); no gradient where clipping made the objective worse.

    ``dual`` (1912.09729; 3 is usual, > 1): where A < 0 the loss stops at −A·dual, so a token that became far more
    likely cannot dominate. That is also the two-sided clip with δ = ``dual``.
    """
    if dual is not None and dual <= 1.0:
        raise UsageError(f"dual bounds the ratio from above and must exceed 1, got {dual!r}")

    def apply(tokens: Tokens, ratio: Tensor, bounds: Bounds) -> Tensor:
        gain = -tokens.advantage
        loss = (gain * ratio).maximum(gain * bounds.clip(ratio))
        if dual is None:
            return loss
        return loss.minimum(gain * dual).where(tokens.advantage < 0, loss)

    return apply


@parts.shape
def stop_gradient_clip() -> Shape:
    """CISPO (2506.13585): −sg(clip(ρ))·A·log π; every token keeps a gradient, of bounded weight."""

    def apply(tokens: Tokens, ratio: Tensor, bounds: Bounds) -> Tensor:
        return -bounds.clip(ratio.detach()) * tokens.advantage * tokens.logprob

    return apply


@parts.shape
def gradient_preserving_clip() -> Shape:
    """AEPO (entropy-balanced agent RL, 2510.14545): a gain above the bound keeps the bound as its gradient's factor.

    −A·ρ̃ with ρ̃ = high·ρ/sg(ρ) where A > 0 and ρ > high; low (no gradient) where A < 0 and ρ < low; else ρ.
    """

    def apply(tokens: Tokens, ratio: Tensor, bounds: Bounds) -> Tensor:
        same = ratio.detach()
        above = (tokens.advantage > 0) & (same > bounds.high)
        held = bounds.clip(same) * ratio / same.where(above, same.new_ones(()))  # 1: no division by 0 where not used
        kept = ratio.clamp(min=bounds.low).where(tokens.advantage < 0, ratio)
        return -tokens.advantage * held.where(above, kept)

    return apply


@parts.shape
def smooth_gate(positive: float = 1.0, negative: float = 1.05) -> Shape:
    """SAPO (2511.20347): −A·(4/τ)·σ(τ(ρ − 1)), τ by the sign of A; slope 1 at ρ = 1, fading smoothly. Uses no bound."""

    def apply(tokens: Tokens, ratio: Tensor, bounds: Bounds) -> Tensor:
        sharp = tokens.advantage.new_full((), positive).where(
            tokens.advantage > 0, tokens.advantage.new_tensor(negative)
        )
        return -tokens.advantage * (4.0 / sharp) * (sharp * (ratio - 1.0)).sigmoid()

    return apply


@parts.shape
def unclipped() -> Shape:
    """−A·ρ. No bound is used."""
    return lambda tokens, ratio, bounds: -tokens.advantage * ratio
