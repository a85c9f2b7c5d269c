"""One optimiser step's worth of episodes: which ones, and their action tokens as tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agentgym.records import Episode
from agentgym.trainers.rows import Rows
from agentgym.trainers.tree import TokenTree

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Batch:
    """The tree, and flat columns with one entry per action token, [tokens].

    Attributes:
        tree: the rows that are learned from.
        index: column entry of each of the tree's scored tokens, ascending.
        turn: row of the turn table of *these* episodes.
        sequence: number of the sequence, an episode or a turn.
        floats: ``old``, ``advantage``, ``weight`` and whatever else parts read.
    """

    tree: TokenTree
    index: Ints
    turn: Ints
    sequence: Ints
    floats: Mapping[str, Floats]

    def tensors(self, index: Ints | slice, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        """The columns of some tokens."""
        out = {name: torch.from_numpy(values[index]).to(device, dtype) for name, values in self.floats.items()}
        out["sequence"] = torch.from_numpy(self.sequence[index]).to(device)
        out["turn"] = torch.from_numpy(self.turn[index]).to(device)
        return out


def minibatches(episodes: Sequence[Episode], count: int) -> Iterator[list[int]]:
    """Episode numbers of each optimiser step, ascending: whole groups, dealt out in order."""
    groups: dict[tuple[bool, str], list[int]] = {}
    for number, episode in enumerate(episodes):
        groups.setdefault((bool(episode.group), episode.group or episode.id), []).append(number)
    members = list(groups.values())
    for part in np.array_split(np.arange(len(members)), min(count, len(members))):
        yield sorted(n for g in part for n in members[g])


def cut(
    episodes: Sequence[Episode],
    chosen: Sequence[int],
    whole: Rows,
    by_turn: Mapping[str, Floats],
    by_token: Mapping[str, Floats],
    sequence: Literal["episode", "turn"],
    teaches: NDArray[np.bool_],
) -> Batch:
    """The chosen episodes' tokens.

    Args:
        episodes: all of the update.
        chosen: numbers of some of them, ascending.
        whole: the rows of all, those of an episode kept together.
        by_turn: columns over all turns of all episodes; each token gets its turn's.
        by_token: columns over all action tokens of all episodes.
        sequence: what counts as one.
        teaches: of each episode, whether it can move a weight; the others are in the columns, not in the tree.
    """
    lengths = np.array([len(e.turns) for e in episodes])
    tokens = np.array([sum(len(t.sample.action) for t in e.turns if t.sample) for e in episodes])
    turns, of_token = _spans(lengths, chosen), _spans(tokens, chosen)
    turn = np.searchsorted(turns, whole.turn[of_token])
    owner = np.repeat(np.arange(len(chosen)), lengths[chosen])
    floats = {"old": whole.old[of_token]} | {name: values[turns][turn] for name, values in by_turn.items()}
    if not np.isnan(whole.entropy[of_token]).any():
        floats["entropy"] = whole.entropy[of_token]
    floats |= {name: values[of_token] for name, values in by_token.items()}
    taught = {episodes[n].id for n in chosen if teaches[n]}
    rows = [row for row in whole.rows if row.keep_together in taught]
    index = np.flatnonzero(np.repeat(teaches[chosen], tokens[chosen]))
    return Batch(TokenTree.build(rows), index, turn, owner[turn] if sequence == "episode" else turn, floats)


def _spans(lengths: Ints, chosen: Sequence[int]) -> Ints:
    """Positions that some items take up among all, laid out one after the other."""
    begin = np.concatenate([[0], np.cumsum(lengths)])
    return np.concatenate([np.arange(begin[n], begin[n + 1]) for n in chosen])
