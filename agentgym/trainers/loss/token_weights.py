"""Token weights: how much a token counts, >= 0; 0 leaves it out of the loss and of every denominator.

A token weight is a part ``(tokens) -> factor`` [tokens], computed once over the whole update, from the policy that
sampled, before minibatches are cut; factors are multiplied. Weights change *what* is optimised, so each says how.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from agentgym.errors import UsageError
from agentgym.trainers.loss.tokens import TokenFunction, Tokens
from agentgym.trainers.parts import token_weight

if TYPE_CHECKING:
    from torch import Tensor


@token_weight(needs=("entropy",))
def top_entropy(share: float = 0.2) -> TokenFunction:
    """1 on the ``share`` of the batch's tokens with the highest entropy, 0 on the others (2506.01939).

    Masked tokens do not take part. Tokens as uncertain as the last one that is kept are kept too.
    """
    if not 0.0 < share <= 1.0:
        raise UsageError(f"share must lie in (0, 1], got {share!r}")

    def apply(tokens: Tokens) -> Tensor:
        entropy, counted = tokens.require("entropy").detach(), tokens.weight > 0
        number = int(counted.sum())
        if number == 0:
            return tokens.weight.new_zeros(len(tokens))
        least = entropy[counted].topk(math.ceil(share * number)).values[-1]
        return ((entropy >= least) & counted).to(tokens.weight.dtype)

    return apply


@token_weight(needs=("entropy",))
def by_entropy(scale: float = 0.2) -> TokenFunction:
    """1 + scale · z, z the batch's z-score of the token's entropy (nats); never below 0. AEPO (2510.14545).

    Multiplying the loss by it is its entropy-aware advantage, A·(1 + a·Â_ΔH). Masked tokens do not take part in z; a
    batch without spread gives 1.
    """

    def apply(tokens: Tokens) -> Tensor:
        entropy, counted = tokens.require("entropy").detach(), tokens.weight > 0
        number = int(counted.sum())
        if number < 2:
            return tokens.weight.new_ones(len(tokens))
        away = entropy - entropy[counted].mean()
        deviation = entropy[counted].std()
        if not float(deviation) > 1e-9:
            return tokens.weight.new_ones(len(tokens))
        return (1.0 + scale * away / deviation).clamp(min=0.0).to(tokens.weight.dtype)

    return apply


@token_weight
def low_probability(below: float = 0.9) -> TokenFunction:
    """1 on tokens that were sampled with a probability < ``below``, 0 on the others: SPO's mask (2505.23564)."""
    if not 0.0 < below <= 1.0:
        raise UsageError(f"below must lie in (0, 1], got {below!r}")
    return lambda tokens: (tokens.old < math.log(below)).to(tokens.weight.dtype)
