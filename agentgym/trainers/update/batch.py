"""An update's action tokens as columns, and the optimiser steps that go over them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agentgym.records import Episode
from agentgym.trainers.prefix_tree.rows import Rows
from agentgym.trainers.prefix_tree.tree import TokenTree

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Columns:
    """Flat columns with one entry per action token of the whole update, [tokens].

    Attributes:
        turn: row of the turn table.
        sequence: number of the sequence, an episode or a turn.
        floats: ``old``, ``advantage``, ``weight`` and whatever else parts read.
    """

    turn: Ints
    sequence: Ints
    floats: Mapping[str, Floats]

    @classmethod
    def of(
        cls,
        whole: Rows,
        owner: Ints,
        by_turn: Mapping[str, Floats],
        by_token: Mapping[str, Floats],
        sequence: Literal["episode", "turn"],
    ) -> Columns:
        """Put together.

        Args:
            whole: the rows of all episodes.
            owner: number of the episode of each turn.
            by_turn: columns over turns; each token gets its turn's.
            by_token: columns over action tokens.
            sequence: what counts as one.
        """
        floats = {"old": whole.old} | {name: values[whole.turn] for name, values in by_turn.items()}
        if not np.isnan(whole.entropy).any():
            floats["entropy"] = whole.entropy
        return cls(whole.turn, owner[whole.turn] if sequence == "episode" else whole.turn, floats | dict(by_token))

    def tensors(self, index: Ints | slice, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        """The columns of some tokens."""
        out = {name: torch.from_numpy(values[index]).to(device, dtype) for name, values in self.floats.items()}
        out["sequence"] = torch.from_numpy(self.sequence[index]).to(device)
        out["turn"] = torch.from_numpy(self.turn[index]).to(device)
        return out


class Step(NamedTuple):
    """What one optimiser step goes over.

    Attributes:
        tree: the rows that are learned from.
        entries: entry in :class:`Columns` of each of the tree's scored tokens, ascending.
    """

    tree: TokenTree
    entries: Ints


def steps(
    episodes: Sequence[Episode], count: int, whole: Rows, owner: Ints, teaches: NDArray[np.bool_]
) -> Iterator[Step]:
    """The optimiser steps of a pass over an update.

    Args:
        episodes: all of the update.
        count: how many steps, if there are as many groups.
        whole: the rows of all, those of an episode kept together.
        owner: number of the episode of each turn.
        teaches: of each episode, whether it can move a weight; the others are in no tree.
    """
    of_token = owner[whole.turn]
    for chosen in minibatches(episodes, count):
        taught = [n for n in chosen if teaches[n]]
        ids = {episodes[n].id for n in taught}
        rows = [row for row in whole.rows if row.keep_together in ids]
        yield Step(TokenTree.build(rows), np.flatnonzero(np.isin(of_token, taught)))


def minibatches(episodes: Sequence[Episode], count: int) -> Iterator[list[int]]:
    """Episode numbers of each optimiser step, ascending: whole groups, dealt out in order."""
    groups: dict[tuple[bool, str], list[int]] = {}
    for number, episode in enumerate(episodes):
        groups.setdefault((bool(episode.group), episode.group or episode.id), []).append(number)
    members = list(groups.values())
    for part in np.array_split(np.arange(len(members)), min(count, len(members))):
        yield sorted(n for g in part for n in members[g])
