"""The optimizer steps that go over an update's tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agentgym.errors import UsageError
from agentgym.records import Episode
from agentgym.trainers.prefix_tree.rows import TokenTable
from agentgym.trainers.prefix_tree.tree import TokenTree

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Step(NamedTuple):
    """What one optimizer step goes over.

    Attributes:
        tree: the rows that are learned from.
        entries: entry in the token table of each of the tree's scored tokens, ascending.
    """

    tree: TokenTree
    entries: Ints


def steps(
    episodes: Sequence[Episode], count: int, table: TokenTable, owner: Ints, teaches: NDArray[np.bool_]
) -> Iterator[Step]:
    """The optimizer steps of a pass over an update.

    Args:
        episodes: all of the update.
        count: how many steps, if there are as many groups.
        table: the tokens of all, the rows of an episode kept together.
        owner: number of the episode of each turn.
        teaches: of each episode, whether it can move a weight; the others are in no tree.
    """
    of_token = owner[table.turn]
    for chosen in minibatches(episodes, count):
        taught = [n for n in chosen if teaches[n]]
        ids = {episodes[n].id for n in taught}
        rows = [row for row in table.rows if row.keep_together in ids]
        yield Step(TokenTree.build(rows), np.flatnonzero(np.isin(of_token, taught)))


def context_behind(episode: Episode) -> tuple[int, ...]:
    """The context behind the last turn of an episode.

    Raises:
        UsageError: it was not recorded.
    """
    if (context := episode.context_behind()) is not None:
        return context
    raise UsageError(
        f"episode {episode.id!r} ({episode.stop}) has no final_context; a rollout records it from a policy that shows "
        "its contexts (context_behind), and agentgym.trainers.sft.demonstrations.tokenised adds it to texts"
    )


def minibatches(episodes: Sequence[Episode], count: int) -> Iterator[list[int]]:
    """Episode numbers of each optimizer step, ascending: whole groups, dealt out in order."""
    groups: dict[tuple[bool, str], list[int]] = {}
    for number, episode in enumerate(episodes):
        groups.setdefault((bool(episode.group), episode.group or episode.id), []).append(number)
    members = list(groups.values())
    for part in np.array_split(np.arange(len(members)), min(count, len(members))):
        yield sorted(n for g in part for n in members[g])
