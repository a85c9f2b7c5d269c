"""From episodes to the rows of the prefix tree, with one entry per action token in the same order.

Turns whose contexts are append-only share one row; a turn whose context was rebuilt (a window, a workspace) starts a
new one. A branch brings its whole history: the tree computes what it shares with its parent once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from agentgym.errors import UsageError
from agentgym.records import Episode
from agentgym.trainers.prefix_tree.tree import Row

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True)
class TokenTable:
    """The action tokens of episodes as flat columns in row order, [tokens]; from rows to loss there is no other shape.

    Attributes:
        rows: for :meth:`TokenTree.build`; their scored tokens are the entries of the columns.
        turn: row of the turn table (episodes in order, their turns in order).
        old: log-probability with which the token was sampled; 0 where it was not sampled (a demonstration).
        entropy: entropy in nats of the distribution it was sampled from; NaN where not recorded.
        first: whether it is the first action token of its turn.
        columns: what was added: numbers, and numbers of things.
    """

    rows: list[Row]
    turn: Ints
    old: Floats
    entropy: Floats
    first: NDArray[np.bool_]
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def with_columns(self, **columns: NDArray[Any]) -> TokenTable:
        """This table with columns over tokens added or replaced."""
        return replace(self, columns={**self.columns, **columns})

    def with_turn_columns(self, **columns: Floats) -> TokenTable:
        """This table with columns over turns added: each token gets its turn's value."""
        return self.with_columns(**{name: values[self.turn] for name, values in columns.items()})

    def sum_by_turn(self, values: Floats, turns: int) -> Floats:
        """Sum of ``values`` over the tokens of each turn [turns]."""
        return np.asarray(np.bincount(self.turn, values, turns), np.float64)

    def tensors(self, index: Ints | slice, make: Callable[[NDArray[Any]], T]) -> dict[str, T]:
        """Columns of some tokens as fields of :class:`~agentgym.trainers.loss.tokens.Tokens`.

        Args:
            index: which tokens.
            make: makes a tensor of an array.
        """
        columns: dict[str, NDArray[Any]] = {"old": self.old, "turn": self.turn, **self.columns}
        if not np.isnan(self.entropy).any():
            columns.setdefault("entropy", self.entropy)
        return {name: make(values[index]) for name, values in columns.items()}


class _Piece(NamedTuple):
    """A row being built."""

    tokens: list[int]
    scored: list[int]
    choices: list[tuple[int, ...]]


def rows_of(episodes: Sequence[Episode], *, together: str | None = "episode") -> TokenTable:
    """Rows of episodes whose turns all have samples.

    Args:
        episodes: in the order in which the turn table was made from them.
        together: ``"episode"``: all rows of an episode land in one micro-batch (sequence ratios need that).

    Raises:
        UsageError: a turn without a sample.
    """
    rows: list[Row] = []
    turn_of: list[int] = []
    first: list[bool] = []
    old: list[float] = []
    entropy: list[float] = []
    number = 0
    for episode in episodes:
        key: Hashable = episode.id if together == "episode" else None
        piece, before = _Piece([], [], []), 0
        for turn in episode.turns:
            sample = turn.sample
            if sample is None:
                raise UsageError(
                    f"episode {episode.id!r} has a turn without tokens; only sampled episodes can be learned from"
                )
            if sample.keep < before:
                _close(rows, piece, key)
                piece = _Piece(piece.tokens[: sample.keep], [], [])
            start = sample.extend(piece.tokens)
            before = len(piece.tokens)
            size = len(sample.action)
            piece.scored.extend(range(start, start + size))
            piece.choices.extend(sample.choices or [()] * size)
            turn_of.extend([number] * size)
            first.extend(n == 0 for n in range(size))
            old.extend(sample.logprobs or [0.0] * size)
            entropy.extend(sample.entropies or [np.nan] * size)
            number += 1
        _close(rows, piece, key)
    return TokenTable(rows, np.array(turn_of, np.int64), np.array(old), np.array(entropy), np.array(first, bool))


def _close(rows: list[Row], piece: _Piece, key: Hashable) -> None:
    if piece.scored:
        choices = piece.choices if any(piece.choices) else None
        rows.append(Row(np.array(piece.tokens, np.int64), np.array(piece.scored, np.int64), key, choices))
