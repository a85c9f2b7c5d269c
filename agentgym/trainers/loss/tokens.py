"""One entry per action token: what the token stages read."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeAlias

from agentgym.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

LOG_LIMIT = 20.0  # a log-ratio beyond this says that something is broken; e**20 still fits a float32


@dataclass(frozen=True, eq=False)
class Tokens:
    """Flat tensors [tokens], one entry per action token of the rows of a batch; observation tokens are not here.

    A sequence is what counts as one for sequence ratios and sequence means: an episode, or one turn. A micro-batch may
    hold any sequences, but holds them whole.

    Attributes:
        logprob: log π of the policy being updated; carries the gradient.
        old: log-probability with which the token was sampled.
        advantage: of the token's turn, or of the token itself.
        weight: >= 0; 0 is masked.
        sequence: int64, number of the sequence, 0…S-1.
        turn: int64, row of the turn table.
        reference: log π of the reference policy.
        entropy: entropy of the policy's distribution (nats); may carry the gradient.
        value, old_value, target: the critic's value (carries the gradient), the one before the update, and its target.
    """

    logprob: Tensor
    old: Tensor
    advantage: Tensor
    weight: Tensor
    sequence: Tensor
    turn: Tensor
    reference: Tensor | None = None
    entropy: Tensor | None = None
    value: Tensor | None = None
    old_value: Tensor | None = None
    target: Tensor | None = None

    def __post_init__(self) -> None:
        shapes = {name: tuple(tensor.shape) for name, tensor in self._tensors().items()}
        if set(shapes.values()) != {(len(self.logprob),)}:
            raise UsageError(f"Tokens are flat tensors of one length, one entry per action token; got {shapes}")
        for name in ("sequence", "turn"):
            if getattr(self, name).is_floating_point():
                raise UsageError(f"Tokens.{name} numbers things and is int64, got {getattr(self, name).dtype}")

    def __len__(self) -> int:
        return len(self.logprob)

    @property
    def sequences(self) -> int:
        """One more than the largest sequence number here."""
        return int(self.sequence.max()) + 1 if len(self) else 0

    @property
    def log_ratio(self) -> Tensor:
        """log π − log π_old of each token, kept within ±20."""
        return (self.logprob - self.old).clamp(-LOG_LIMIT, LOG_LIMIT)

    def require(self, name: str) -> Tensor:
        """An optional tensor by name.

        Raises:
            UsageError: it was not given.
        """
        tensor: Tensor | None = getattr(self, name)
        if tensor is None:
            raise UsageError(f"Tokens.{name} is needed here and was not computed; a part that reads it declares it")
        return tensor

    def sum_by_sequence(self, values: Tensor) -> Tensor:
        """Σ of ``values`` over the tokens of each sequence that are not masked [sequences]."""
        kept = values.where(self.weight > 0, values.new_zeros(()))
        return values.new_zeros(self.sequences).index_add(0, self.sequence, kept)

    def mean_by_sequence(self, values: Tensor) -> Tensor:
        """Mean of ``values`` over the tokens of each sequence that are not masked; 0 where all are [sequences]."""
        number = self.sum_by_sequence(values.new_ones(len(self)))
        return self.sum_by_sequence(values) / number.clamp(min=1.0)

    def _tensors(self) -> dict[str, Tensor]:
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in given.items() if tensor is not None}


#: ``(tokens) -> values``, one a token: the type of what works on them.
TokenFunction: TypeAlias = "Callable[[Tokens], Tensor]"
