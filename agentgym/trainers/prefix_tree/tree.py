"""The prefix tree: equal prefixes of training rows are computed once.

A row is a token sequence with the positions whose log-probability is wanted. Rows are merged into a trie; a node is
one distinct (position, prefix). Nodes are numbered depth first, so node q sees node k iff ``k <= q < exit[k]``;
position ids are depths, not offsets. Token ``j`` of a row is predicted at the node of token ``j - 1``; what a row has
after the last such node is never computed.

The tree is laid out as *chains*: each chain is one root-to-leaf path and owns the nodes that no earlier chain has.
Everything that works token by token (embeddings, projections, MLPs, norms) runs once per node on a flat sequence
without padding; only attention looks at paths: own nodes as queries, the whole path as keys, and paths that share most
of it side by side (:class:`Block`).
No N x N mask exists, and sharing changes cost, never values: every result is defined on the rows.

Needs numpy only; :mod:`agentgym.trainers.prefix_tree.scoring` runs the tree through a model.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from agentgym.errors import UsageError
from agentgym.trainers.prefix_tree.blocks import MicroBatch, lay_out

Ints = NDArray[np.int64]
#: Tokens that cost about as much as one more forward and backward call.
_CALL_TOKENS = 16


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One token sequence to score.

    Attributes:
        tokens: context and action ids, [L].
        scored: ascending positions j, 1 <= j < L: the log-probability of ``tokens[j]`` given ``tokens[:j]`` is wanted.
        keep_together: rows with one key land in one micro-batch (e.g. an episode's id, for ratios over a sequence).
        choices: for each scored token the ids that it was drawn among, [S]; empty: among all, as without ``choices``.
    """

    tokens: NDArray[np.integer]
    scored: NDArray[np.integer]
    keep_together: Hashable | None = None
    choices: Sequence[Sequence[int]] | None = None


class TokenTree:
    """Rows merged into a trie. Build it with :meth:`build`.

    Attributes:
        tokens, depth, exit: token id, position and end of subtree of each node, [N].
        offsets: row r owns the scored tokens ``offsets[r]:offsets[r + 1]``, [R + 1].
        target: token id of each scored token, in row order, [S].
        parent: node that predicts each scored token, [S].
        row_tokens: tokens that a computation row by row would put through the model.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.offsets, position, self.target, self._needed = _labels(rows)
        self.row_tokens = int(self._needed.sum())
        self._choices, self._choice = _choices(rows, self.offsets)
        self._units = _units(rows)
        self._batches: dict[int | None, list[MicroBatch]] = {}
        self._chain, self._paths, sequences = _paths(rows, self._needed)
        self.tokens, self.depth, self.exit = _nodes(self._paths, sequences)
        self._local = np.empty(len(self.tokens), np.int64)  # a node's number in the micro-batch that is being made
        self.parent = np.empty(len(self.target), np.int64)
        for r, (start, stop) in enumerate(zip(self.offsets[:-1], self.offsets[1:], strict=True)):
            if start < stop:
                self.parent[start:stop] = self._paths[self._chain[r]][position[start:stop] - 1]

    @classmethod
    def build(cls, rows: Sequence[Row]) -> TokenTree:
        """Merge rows. O(tokens) besides sorting the rows.

        Raises:
            UsageError: a scored position that is not in 1..L-1 or not ascending, or a negative token id.
        """
        return cls(rows)

    @property
    def sharing(self) -> float:
        """Rows' tokens / tree tokens: how many times a node would be computed row by row; 1.0 for an empty tree."""
        return self.row_tokens / len(self.tokens) if len(self.tokens) else 1.0

    def path(self, row: int) -> Ints:
        """The nodes of a row, root first, up to the one that predicts its last scored token."""
        return self._paths[self._chain[row]][: self._needed[row]] if self._needed[row] else np.empty(0, np.int64)

    def batches(self, max_tokens: int | None = None) -> list[MicroBatch]:
        """Cut the tree into micro-batches of at most ``max_tokens`` nodes.

        Every scored token is in exactly one of them. A prefix that two micro-batches need is computed in both. Rows
        kept together are never parted: where they alone need more than ``max_tokens`` they get their own micro-batch.

        Raises:
            UsageError: ``max_tokens`` < 1.
        """
        if max_tokens is not None and max_tokens < 1:
            raise UsageError(f"max_tokens={max_tokens}: a micro-batch needs at least 1 token; give None for no limit")
        if max_tokens not in self._batches:  # every epoch goes over the same ones
            self._batches[max_tokens] = [self._batch(rows) for rows in self._fill(max_tokens or len(self.tokens))]
        return self._batches[max_tokens]

    def _fill(self, max_tokens: int) -> Iterator[list[int]]:
        """Sets of rows in depth-first order, so that neighbours share."""
        units = [[r for r in unit if self._needed[r]] for unit in self._units]
        units = sorted((u for u in units if u), key=lambda unit: min(int(self._chain[r]) for r in unit))
        while units:
            taken = self._cut(units, max_tokens)
            yield [r for unit in units[:taken] for r in unit]
            units = units[taken:]

    def _cut(self, units: list[list[int]], max_tokens: int) -> int:
        """How many units the next micro-batch takes: it is filled, then cut where that costs least per token.

        A cut costs the prefix that is computed again behind it, and a call.
        """
        inside = np.zeros(len(self.tokens), bool)
        cuts: list[tuple[float, int]] = []  # cost per token of a cut before a unit, the unit's number
        total = 0
        for i, unit in enumerate(units):
            known, added = self._add(unit, inside)
            if i:
                cuts.append(((known + _CALL_TOKENS) / total, i))
            if i and total + added > max_tokens:
                return min(cuts)[1]
            total += added
        return len(units)

    def _add(self, rows: list[int], inside: NDArray[np.bool_]) -> tuple[int, int]:
        """Mark the rows' nodes; how many of one row were there before, and how many were new in all.

        The part of a path that is inside is always its beginning.
        """
        known = max(int(np.count_nonzero(inside[self.path(r)])) for r in rows)
        added = 0
        for r in rows:
            path = self.path(r)
            fresh = path[np.count_nonzero(inside[path]) :]
            inside[fresh] = True
            added += len(fresh)
        return known, added

    def _batch(self, rows: list[int]) -> MicroBatch:
        rows = sorted(rows)
        scored = np.concatenate([np.arange(self.offsets[r], self.offsets[r + 1]) for r in rows])
        longest: dict[int, int] = {}
        for r in rows:
            chain = int(self._chain[r])
            longest[chain] = max(longest.get(chain, 0), int(self._needed[r]))
        paths: list[tuple[Ints, int]] = []
        before = np.empty(0, np.int64)
        for chain, length in sorted(longest.items()):
            path = self._paths[chain][:length]
            ancestors = _common(path, before)
            if ancestors < length:
                paths.append((path, ancestors))
                before = path
        nodes = np.concatenate([path[ancestors:] for path, ancestors in paths])
        self._local[nodes] = np.arange(len(nodes))
        exits = np.searchsorted(nodes, self.exit[nodes])
        blocks, outputs = lay_out([(self._local[path], ancestors) for path, ancestors in paths], exits)
        # a prediction is keyed by its node, its token, and what it was drawn among
        width, sets = int(self.target.max()) + 1, len(self._choices)
        node_token = self.parent[scored] * width + self.target[scored]
        distinct, pairs = np.unique(node_token * sets + self._choice[scored], return_inverse=True)
        distinct, choice = np.divmod(distinct, sets)
        parents, pair_parent = np.unique(distinct // width, return_inverse=True)
        return MicroBatch(
            rows=np.asarray(rows, np.int64),
            scored=scored,
            tokens=self.tokens[nodes],
            positions=self.depth[nodes],
            blocks=blocks,
            outputs=outputs,
            parents=self._local[parents],
            pair_parent=pair_parent,
            pair_token=distinct % width,
            pair_choices=self._choices[choice] if sets > 1 else None,
            pairs=pairs,
        )


def _labels(rows: Sequence[Row]) -> tuple[Ints, Ints, Ints, Ints]:
    """Offsets [R+1], position [S] and token [S] of the scored tokens; how many tokens of each row are computed [R]."""
    counts = np.fromiter((len(row.scored) for row in rows), np.int64, len(rows))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    position = np.zeros(offsets[-1], np.int64)
    target = np.zeros(offsets[-1], np.int64)
    needed = np.zeros(len(rows), np.int64)
    for r, row in enumerate(rows):
        if not counts[r]:
            continue
        at = np.asarray(row.scored, np.int64)
        if at[0] < 1 or at[-1] >= len(row.tokens) or (len(at) > 1 and (at[1:] <= at[:-1]).any()):
            raise UsageError(
                f"row {r}: scored positions {at.tolist()[:8]} must ascend within 1..{len(row.tokens) - 1}; "
                "the first token has no context to be predicted from"
            )
        position[offsets[r] : offsets[r + 1]] = at
        target[offsets[r] : offsets[r + 1]] = np.asarray(row.tokens)[at]
        needed[r] = at[-1]
    if len(target) and target.min() < 0:
        raise UsageError(f"token id {target.min()} is negative; give vocabulary ids >= 0")
    return offsets, position, target, needed


def _choices(rows: Sequence[Row], offsets: Ints) -> tuple[Ints, Ints]:
    """The distinct sets of ids that tokens were drawn among, [C, ids] padded with -1, and each scored token's set [S].

    The first set has no ids: it stands for the whole vocabulary.
    """
    numbers: dict[tuple[int, ...], int] = {(): 0}
    choice = np.zeros(offsets[-1], np.int64)
    for r, row in enumerate(rows):
        if row.choices is not None:
            found = [numbers.setdefault(tuple(ids), len(numbers)) for ids in row.choices]
            if len(found) != len(row.scored):
                raise UsageError(f"row {r}: choices for {len(found)} tokens, but {len(row.scored)} are scored")
            choice[offsets[r] : offsets[r + 1]] = found
    table = np.full((len(numbers), max(1, max(map(len, numbers)))), -1, np.int64)
    for ids, number in numbers.items():
        table[number, : len(ids)] = ids
    return table, choice


def _units(rows: Sequence[Row]) -> list[list[int]]:
    """Rows that must stay together, in order of first appearance."""
    units: dict[tuple[bool, Hashable], list[int]] = {}
    for r, row in enumerate(rows):
        key = (False, r) if row.keep_together is None else (True, row.keep_together)
        units.setdefault(key, []).append(r)
    return list(units.values())


def _paths(rows: Sequence[Row], needed: Ints) -> tuple[Ints, list[Ints], list[Ints]]:
    """Each row's chain [R], and each chain's nodes and tokens, root first; chains in depth-first order.

    Rows are sorted by their big-endian bytes, which is the order of their tokens, so equal prefixes are neighbours. A
    row that begins the next one (or equals it) needs no chain of its own.
    """
    ids = [np.asarray(row.tokens[:n], np.int64) for row, n in zip(rows, needed, strict=True)]
    if any(len(row) and row.min() < 0 for row in ids):
        raise UsageError(
            f"token id {min(int(row.min()) for row in ids if len(row))} is negative; give vocabulary ids >= 0"
        )
    keys = [row.astype(">u4").tobytes() for row in ids]
    order = sorted((r for r in range(len(rows)) if needed[r]), key=keys.__getitem__)
    host = np.zeros(len(rows), np.int64)
    ends: list[int] = []  # the row at the end of each chain
    shared: list[int] = []  # tokens that a chain shares with the one before
    pending = 0
    for i, this in enumerate(order):
        host[this] = len(ends)
        common = _common(ids[this], ids[order[i + 1]]) if i + 1 < len(order) else 0
        if common < needed[this]:
            ends.append(this)
            shared.append(pending)
            pending = common
    sequence = _longest_first(needed[np.asarray(ends, np.int64)], np.asarray(shared, np.int64))
    rank = np.empty(len(ends), np.int64)
    rank[sequence] = np.arange(len(ends))
    sequences = [ids[ends[chain]] for chain in sequence]
    paths: list[Ints] = []
    count = 0
    for c, row in enumerate(sequences):
        # in depth-first order no earlier chain shares more than the one before
        common = _common(row, sequences[c - 1]) if c else 0
        fresh = np.arange(count, count + len(row) - common)
        paths.append(np.concatenate([paths[-1][:common], fresh]) if common else fresh)
        count += len(fresh)
    return (rank[host] if ends else host), paths, sequences


def _common(a: Ints, b: Ints) -> int:
    """Length of the longest common prefix."""
    n = min(len(a), len(b))
    different = a[:n] != b[:n]
    first = int(different.argmax()) if n else 0
    return first if n and different[first] else n


def _longest_first(lengths: Ints, shared: Ints) -> list[int]:
    """Reorder sorted chains: still depth first, but of several branches the one with the longest chain comes first.

    So an episode stays one chain, and what hangs off its turns are short chains beside it.
    """
    order: list[int] = []
    todo = [(0, len(lengths))] if len(lengths) else []
    while todo:
        low, high = todo.pop()
        if high - low == 1:
            order.append(low)
            continue
        inner = shared[low + 1 : high]
        cuts = [low, *(low + 1 + np.flatnonzero(inner == inner.min())).tolist(), high]
        todo += sorted(pairwise(cuts), key=lambda span: (int(lengths[span[0] : span[1]].max()), -span[0]))
    return order


def _nodes(paths: list[Ints], sequences: list[Ints]) -> tuple[Ints, Ints, Ints]:
    """Token, depth and end of subtree of each node, [N]."""
    count = int(paths[-1][-1]) + 1 if paths else 0
    tokens, depth, end = (np.zeros(count, np.int64) for _ in range(3))
    before = np.empty(0, np.int64)
    for path, sequence in zip(paths, sequences, strict=True):
        common = _common(path, before)
        tokens[path[common:]] = sequence[common:]
        depth[path[common:]] = np.arange(common, len(path))
        end[before[common:]] = path[common]
        before = path
    end[before] = count
    return tokens, depth, end
