"""Credit on trees of episodes: what a turn that several episodes share is given; columns ``parent``, ``fork_turn``.

A branch brings a copy of every turn before its fork. Copies of one turn are one *node*; the episodes that hold a copy
are its leaves. With the episode's own credit on each copy ("soft", ARPO's default) the gradient on a node with d leaves
is that of d times their mean, as long as no ratio is clipped and tokens are averaged over the batch; under a mean per
sequence, or where clipping depends on the sign of the credit, it differs.

=================  ====================================================================================================
soft               nothing: ``chain(episode_return(), standardize())``
hard               ``chain(episode_return(), standardize(), mean_over_copies())``: the mean of the copies, weight d
hard-unit          the same with ``turn_weight=(inverse_copy_weight(),)``: weight 1
node values        ``node_values()``: V(end of segment) − V(its start)
=================  ====================================================================================================
"""

from __future__ import annotations

from itertools import combinations
from math import comb
from typing import Literal

import numpy as np

from agentgym.errors import UsageError
from agentgym.trainers.advantage.partitions import Codes, Floats, Partition, sums_by
from agentgym.trainers.advantage.turn_table import TurnFunction, TurnTable
from agentgym.trainers.parts import Declared, advantage, declare, turn_weight

NEEDS = frozenset({"parent", "fork_turn"})
MOST_SETS = 20_000


def turn_copies(turns: TurnTable) -> Partition:
    """Turns that are copies of one turn, i.e. have the same owner: the first episode that played it.

    A parent that is not in the table (it failed) is known by its id; who its own parent was is then not.
    """
    parent, fork = _parents(turns)
    owner = turns.episodes.code.astype(np.intp)
    while True:
        inherited = (turns.turn < fork[owner]) & (parent[owner] >= 0)
        if not inherited.any():
            break
        owner = np.where(inherited, parent[owner], owner)
    _, code = np.unique(owner * (int(turns.turn.max(initial=0)) + 1) + turns.turn, return_inverse=True)
    return Partition(code, int(code.max(initial=-1)) + 1)


@advantage(needs=NEEDS)
def mean_over_copies() -> TurnFunction:
    """Every copy of a turn gets the mean over its copies: A = 1/d Σ Aⱼ; ARPO's hard attribution (2507.19849, §3.2)."""

    def apply(turns: TurnTable, values: Floats) -> Floats:
        found = turn_copies(turns)
        return (sums_by(found, values) / _leaves(found))[found.code]

    return apply


@turn_weight(needs=NEEDS)
def inverse_copy_weight() -> TurnFunction:
    """A turn weight, 1/d on each of a turn's d copies: together they weigh as much as a turn that is not shared.

    Weights multiply the loss and stay out of its denominators (:mod:`agentgym.trainers.loss.aggregate`).
    """

    def apply(turns: TurnTable, advantage: Floats) -> Floats:
        found = turn_copies(turns)
        return (1.0 / _leaves(found))[found.code]

    return apply


@turn_weight(needs=NEEDS)
def after_fork_mask() -> TurnFunction:
    """A turn weight: 1 on the turns that were played for the episode, 0 on those before its fork."""
    return lambda turns, advantage: (turns.turn >= turns.fork_turn).astype(np.float64)


@advantage(needs=NEEDS)
def node_values(
    scale: bool = False, eps: float = 1e-6, value: Literal["children", "leaves"] = "children"
) -> TurnFunction:
    """A = V(end of the segment) − V(its start), V the value of a node; SPO-tree (2505.23564).

    A segment is a stretch of turns without a fork; all its turns get A, and over the segments of an episode A adds up
    to its reward minus the value of the group.

    **Bias.** V of ``children``, the paper's, is an unbiased estimate wherever the number of children does not depend on
    what came of them: every child is one sample of the next action. ``leaves`` counts a child as often as it was forked
    itself, so a state's value leans to what was forked most; where all are forked equally often the two are equal.

    Args:
        scale: divide by the unbiased standard deviation among the children of the segment's start, plus ``eps``: the
            "grpo" form. Children without spread give 0.
        value: what a node's V is the mean of: the V of its ``children`` (of an episode that ends there, its reward), or
            the rewards of all the ``leaves`` below it.
    """
    if value not in ("children", "leaves"):
        raise UsageError(f"value is 'children' or 'leaves', got {value!r}")

    def apply(turns: TurnTable, values: Floats) -> Floats:
        found, order = turn_copies(turns), turns.order
        reward, group = turns.per_episode(values), turns.groups.code[order]
        first, leaves = _starts(turns), _leaves(found)[found.code][order]
        above = np.where(first, found.total + group, np.concatenate([[0], found.code[order][:-1]]))
        known = _values(turns, found, above, reward) if value == "children" else _leaf_values(turns, found, reward)
        start = first.copy()
        start[1:] |= leaves[1:] != leaves[:-1]
        at = _last_true(start)
        out = np.empty(len(turns))
        out[order] = known[found.code[order]] - known[above[at]]
        if scale:
            own = found.code[order][start]
            deviation = _sibling_deviation(above[start], own, known[own])
            spread = np.zeros(len(turns))
            spread[start] = deviation
            spread = spread[at]
            out[order] = np.where(spread > 0, out[order] / np.where(spread > 0, spread + eps, 1.0), 0.0)
        return out

    return apply


def _values(turns: TurnTable, found: Partition, above: Codes, reward: Floats) -> Floats:
    """Mean over the children, from the leaves up [nodes, then groups].

    Args:
        above: number of what each row of ``turns.order`` follows: a node, or ``found.total`` + its group.
        reward: of each episode.
    """
    order = turns.order
    level = np.arange(len(turns)) - np.repeat(np.cumsum(turns.lengths) - turns.lengths, turns.lengths)
    one = np.unique(found.code[order], return_index=True)[1]  # a place in the order for each node
    total = np.zeros(found.total + turns.groups.total)
    number = np.zeros_like(total)
    ends = found.code[turns.last]
    np.add.at(total, ends, reward[turns.episodes.code[turns.last]])
    np.add.at(number, ends, 1.0)
    for depth in range(int(level.max(initial=-1)), -1, -1):
        these = np.flatnonzero(level[one] == depth)
        total[these] /= number[these]
        np.add.at(total, above[one[these]], total[these])
        np.add.at(number, above[one[these]], 1.0)
    total[found.total :] /= number[found.total :]
    return total


def _leaf_values(turns: TurnTable, found: Partition, reward: Floats) -> Floats:
    """Mean reward of the leaves below [nodes, then groups]."""
    below = sums_by(found, reward[turns.episodes.code]) / _leaves(found)
    return np.concatenate([below, _group_means(turns, reward)])


@advantage(needs=NEEDS)
def monte_carlo_values() -> TurnFunction:
    """SPO-chain: A = V(next cut) − V(this cut) on the episodes that were continued; 0 on the continuations.

    A cut is a turn that others were forked at; V there is the mean reward of those forks, and after the last cut the
    episode's own reward. Turns before the first cut get 0. ``branching.chain`` makes such groups; with
    ``turn_weight=(drop_zero(),)`` the continuations stay out of the loss.
    """

    def apply(turns: TurnTable, values: Floats) -> Floats:
        parent, fork = _parents(turns)
        reward, order = turns.per_episode(values), turns.order
        height = int(turns.turn.max(initial=0)) + 1
        forked = np.flatnonzero(parent[: turns.episodes.total] >= 0)
        cuts, which = np.unique(parent[forked] * height + fork[forked], return_inverse=True)
        value = np.bincount(which, reward[forked], len(cuts)) / np.maximum(np.bincount(which, minlength=len(cuts)), 1)
        episode = turns.episodes.code[order]
        key = episode * height + turns.turn[order]
        place = np.minimum(np.searchsorted(cuts, key), max(len(cuts) - 1, 0))
        cut = (cuts[place] == key) & (turns.turn[order] >= fork[episode]) if len(cuts) else np.zeros(len(turns), bool)
        start = _last_true(cut | _starts(turns))
        coming = np.append(cut, True)
        following = np.minimum.accumulate(np.where(coming, np.arange(len(turns) + 1), len(turns))[::-1])[::-1][1:]
        inside = (following < len(turns)) & (episode[np.minimum(following, len(turns) - 1)] == episode)
        after = np.where(
            inside, value[place[np.minimum(following, len(turns) - 1)]] if len(cuts) else 0, reward[episode]
        )
        out = np.zeros(len(turns))
        out[order] = np.where(cut[start], after - (value[place[start]] if len(cuts) else 0.0), 0.0)
        return out

    return apply


@advantage
def diverse_sets(
    size: int = 4, window: int | None = None, column: str = "anchor"
) -> Declared[[TurnTable, Floats], Floats]:
    """Credit for being in sets that succeed *and* differ: f(set) = mean reward · share of distinct ways; 2509.25424.

    The episodes that went on from one state (a root's, or one that others were forked at) are a pool; f is taken of
    every subset of ``size``, and an episode gets the mean of f over its sets minus the mean over all: what drawn sets
    give on average. It holds for ``window`` turns from that state on. All other turns of an episode's own, and those of
    pools smaller than ``size`` + 1, get the reward minus the group's mean; copies of turns before a fork get 0.

    Args:
        column: two ways are the same if they met the same set of these after the state.

    Raises:
        UsageError: a pool has more than 20000 sets.
    """
    if size < 1:
        raise UsageError(f"size must be at least 1, got {size!r}")

    def apply(turns: TurnTable, values: Floats) -> Floats:
        parent, fork = _parents(turns)
        reward, code = turns.per_episode(values), turns.episodes.code
        out = (reward - _group_means(turns, reward)[turns.groups.code[turns.first]])[code]
        ids = turns.column(column).tolist()
        seen: list[list[tuple[int, object]]] = [[] for _ in range(turns.episodes.total)]
        for row in turns.order.tolist():
            seen[code[row]].append((int(turns.turn[row]), ids[row]))
        for at, members in _pools(turns, parent, fork):
            if len(members) <= size:
                continue
            ways = [frozenset(x for t, x in seen[e] if t > at) for e in members]
            share = _set_credit(np.clip(reward[members], 0.0, 1.0), ways, size)
            given = np.zeros(turns.episodes.total)
            given[members] = share
            chosen = np.isin(code, members) & (turns.turn >= at)
            if window is not None:
                chosen &= turns.turn < at + window
            out = np.where(chosen, given[code], out)
        return np.where(turns.turn >= fork[code], out, 0.0)

    return declare(apply, needs=NEEDS | {column})


def _pools(turns: TurnTable, parent: Codes, fork: Codes) -> list[tuple[int, list[int]]]:
    """(turn, episodes) that went on from one state, early ones first: the roots of each group, and each fork's."""
    pools: dict[tuple[int, int], list[int]] = {}
    group = turns.groups.code[turns.first]
    for episode in range(turns.episodes.total):
        if parent[episode] < 0:
            pools.setdefault((0, -1 - int(group[episode])), []).append(episode)
    for episode in np.flatnonzero(parent[: turns.episodes.total] >= 0).tolist():
        above, at = int(parent[episode]), int(fork[episode])
        present = [above] if above < turns.episodes.total else []
        pools.setdefault((at, above), present).append(episode)
    return [(at, members) for (at, _), members in sorted(pools.items())]


def _set_credit(reward: Floats, ways: list[frozenset[object]], size: int) -> Floats:
    """Mean of f over the sets that hold an episode minus the mean over all sets [episodes]."""
    if comb(len(ways), size) > MOST_SETS:
        raise UsageError(f"{len(ways)} episodes have {comb(len(ways), size)} sets of {size}; use fewer continuations")
    numbers = {way: i for i, way in enumerate(dict.fromkeys(ways))}
    code = np.array([numbers[way] for way in ways])
    sets = np.array(list(combinations(range(len(ways)), size)))
    ordered = np.sort(code[sets], axis=1)
    distinct = 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(axis=1)
    f = reward[sets].mean(axis=1) * distinct / size
    held = np.bincount(sets.ravel(), np.repeat(f, size), len(ways)) / np.bincount(sets.ravel(), minlength=len(ways))
    return np.asarray(held - f.mean())


def _parents(turns: TurnTable) -> tuple[Codes, Codes]:
    """Each episode's parent by number (-1: none) and fork turn; absent parents are numbered after the rest."""
    first = turns.first
    ids = list(zip(turns.groups.code[first].tolist(), turns.episode[first].tolist(), strict=True))
    number = {found: i for i, found in enumerate(ids)}
    parent = []
    for (group, _), above in zip(ids, turns.parent[first].tolist(), strict=True):
        parent.append(-1 if above is None else number.setdefault((group, above), len(number)))
    absent = len(number) - len(ids)
    code = np.concatenate([np.array(parent, dtype=np.intp), np.full(absent, -1, dtype=np.intp)])
    fork = np.concatenate([turns.fork_turn[first], np.zeros(absent, dtype=np.int64)])
    return code, np.where(code >= 0, fork, 0).astype(np.intp)


def _leaves(found: Partition) -> Floats:
    return np.bincount(found.code, minlength=found.total).astype(np.float64)


def _group_means(turns: TurnTable, reward: Floats) -> Floats:
    group = turns.groups.code[turns.first]
    return np.bincount(group, reward, turns.groups.total) / np.bincount(group, minlength=turns.groups.total)


def _starts(turns: TurnTable) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Whether a row of ``turns.order`` is the first of its episode."""
    start = np.zeros(len(turns), dtype=bool)
    start[np.cumsum(turns.lengths) - turns.lengths] = True
    return start


def _last_true(flags: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Codes:
    """Place of the last True up to each place; the first flag is True."""
    return np.asarray(np.maximum.accumulate(np.where(flags, np.arange(len(flags)), 0)), dtype=np.intp)


def _sibling_deviation(above: Codes, node: Codes, value: Floats) -> Floats:
    """Unbiased standard deviation of ``value`` over the distinct nodes below each ``above``; copies count once."""
    _, rows = np.unique(node, return_index=True)
    _, code = np.unique(above, return_inverse=True)
    number = np.bincount(code[rows])
    mean = np.bincount(code[rows], value[rows]) / number
    squares = np.bincount(code[rows], (value[rows] - mean[code[rows]]) ** 2)
    return np.asarray(np.sqrt(squares / np.maximum(number - 1, 1))[code])
