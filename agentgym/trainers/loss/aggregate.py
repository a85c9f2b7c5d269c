"""Aggregate: from loss per token to the loss.

Every common mean of token losses is linear in them, so an aggregator is a pure function ``(weight, sequence) ->
coefficient`` on flat tensors [tokens], computed **once over the whole update**; the loss is Σ coefficient · loss over
all tokens. Any split into micro-batches therefore adds up to exactly the same gradient, and the steps of several
minibatches, each with its number times the coefficients, average to it: what a token counts does not depend on the
groups that share its step. ::

    coefficient = token_mean()(tokens.weight, tokens.sequence)
    for part in micro_batches:
        (coefficient[part.index] * objective(part.tokens)).sum().backward()

A token counts if its weight is positive, a sequence if one of its tokens counts: masked tokens change nothing. Weights
multiply the loss and stay out of the denominators. With an empty mask all coefficients are 0. Means over
groups instead of sequences are the same functions with the group's number as ``sequence``.

**Bias**, in docstrings: whether leave-one-out advantages, one sequence an episode, keep the direction of the policy
gradient when the policy decides how long episodes are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import PositiveInt

from agentgym.errors import UsageError
from agentgym.trainers.parts import aggregate

if TYPE_CHECKING:
    from torch import Tensor

    Coefficient = Callable[[Tensor, Tensor], Tensor]


@aggregate
def token_mean() -> Coefficient:
    """w / (number of tokens): all tokens of the batch weigh the same. DAPO, Lite PPO.

    Bias:
        ``token_mean``: biased: the batch's number of tokens depends on its actions
    """

    def apply(weight: Tensor, sequence: Tensor) -> Tensor:
        counted = _counted(weight, sequence)
        return weight / counted.sum().clamp(min=1.0)

    return apply


@aggregate
def seq_mean_token_mean() -> Coefficient:
    """w / (number of sequences · tokens of its sequence): GRPO, GSPO.

    Bias:
        ``seq_mean_token_mean``: biased: a good short episode is pushed more than a good long one, a bad long one less
    """

    def apply(weight: Tensor, sequence: Tensor) -> Tensor:
        counted = _counted(weight, sequence)
        return weight / (_sequences(counted, sequence) * _length(counted, sequence))

    return apply


@aggregate
def seq_mean_token_sum() -> Coefficient:
    """w / (number of sequences): REINFORCE, RLOO.

    Bias:
        ``seq_mean_token_sum``: unbiased
    """
    return lambda weight, sequence: weight / _sequences(_counted(weight, sequence), sequence)


@aggregate
def seq_mean_token_sum_norm(max_length: PositiveInt) -> Coefficient:
    """w / (number of sequences · ``max_length``), a constant: Dr. GRPO (2503.20783).

    Bias:
        ``seq_mean_token_sum_norm``: unbiased, times 1 / max_length
    """
    total = seq_mean_token_sum()
    return lambda weight, sequence: total(weight, sequence) / max_length


@aggregate
def seq_sum_token_mean() -> Coefficient:
    """w / (tokens of its sequence), summed over sequences: DCPO (2509.02333).

    Bias:
        ``seq_sum_token_mean``: biased: as seq_mean_token_mean
    """
    return lambda weight, sequence: weight / _length(_counted(weight, sequence), sequence)


def _counted(weight: Tensor, sequence: Tensor) -> Tensor:
    """1 where a token counts, else 0."""
    if weight.ndim != 1 or weight.shape != sequence.shape:
        raise UsageError(f"weight and sequence are flat and equally long, got {weight.shape} and {sequence.shape}")
    if bool((~(weight >= 0)).any()) or bool(weight.isinf().any()):
        raise UsageError("weights must be finite and >= 0")
    return (weight > 0).to(weight.dtype)


def _by_sequence(counted: Tensor, sequence: Tensor) -> Tensor:
    total = int(sequence.max()) + 1 if len(sequence) else 0
    return counted.new_zeros(total).index_add(0, sequence, counted)


def _length(counted: Tensor, sequence: Tensor) -> Tensor:
    """Tokens that count in each token's sequence, at least 1 [tokens]."""
    return _by_sequence(counted, sequence).clamp(min=1.0)[sequence]


def _sequences(counted: Tensor, sequence: Tensor) -> Tensor:
    """Sequences that count, at least 1 []."""
    return (_by_sequence(counted, sequence) > 0).sum().clamp(min=1).to(counted.dtype)
