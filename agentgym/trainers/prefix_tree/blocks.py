"""How a micro-batch of the prefix tree is laid out for attention: rectangles of queries and keys.

Only attention looks at paths: own nodes as queries, the whole path as keys, and paths that share most of it side by
side. No N x N mask exists.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

#: Query-key pairs that cost about as much as one more attention call; more padding than this per path is not accepted.
_CALL_PAIRS = 4096
#: Query-key pairs that cost about as much as gathering one more key and its value.
_KEY_PAIRS = 16
#: Lengths are rounded up to this; attention kernels are up to 1.6 times slower on odd lengths.
_ALIGN = 8
#: From this share of own nodes on, plain causal attention over the whole path is cheaper than a masked rectangle.
_CAUSAL_SHARE = 0.7


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Rectangles of queries and keys that go through attention together, padded at the end to one shape.

    Query q sees key k iff ``k <= q < exit[k]``, as in the whole tree.

    Attributes:
        queries: node of each query, ascending, [B, Q]; padded with node 0.
        keys: node of each key, ascending from the root, [B, K]; padded with node 0.
        exits: end of each key's subtree, [B, K]; 0 for padding, so that nobody sees it.
        causal: queries are keys, and one path: attention is plain causal and needs no mask.
    """

    queries: Ints
    keys: Ints
    exits: Ints
    causal: bool


@dataclass(frozen=True, slots=True, eq=False)
class MicroBatch:
    """Part of a tree that goes through the model at once; node numbers are local, in depth-first order.

    Attributes:
        rows: the tree's rows whose scored tokens are here, ascending, [R].
        scored: which of the tree's scored tokens these are, ascending, [S]; slices per-token columns.
        tokens, positions: token id and depth of each node, [N].
        blocks: what attends to what.
        outputs: where each node's result lies among the blocks' flattened queries, [N].
        parents: nodes that predict something, ascending, [P].
        pair_parent, pair_token: distinct predictions: index into ``parents`` and token id, [U].
        pair_choices: the ids that each prediction is among, [U, C], padded with -1, which alone stands for all ids;
            None where no prediction is restricted.
        pairs: the prediction behind each scored token, [S].
    """

    rows: Ints
    scored: Ints
    tokens: Ints
    positions: Ints
    blocks: tuple[Block, ...]
    outputs: Ints
    parents: Ints
    pair_parent: Ints
    pair_token: Ints
    pair_choices: Ints | None
    pairs: Ints


def lay_out(paths: list[tuple[Ints, int]], exits: Ints) -> tuple[tuple[Block, ...], Ints]:
    """Group rectangles of similar shape; also where each node's result lies among all flattened queries, [N]."""

    def shape(queries: Ints, keys: Ints) -> tuple[bool, int, int]:
        return len(queries) == len(keys), _align(len(keys)), _align(len(queries))

    rectangles = _rectangles(paths)
    shaped = sorted(((shape(*item), i) for i, item in enumerate(rectangles)), reverse=True)
    groups: list[tuple[bool, int, int, list[int]]] = []
    for (causal, keys, queries), i in shaped:
        if groups and groups[-1][0] == causal:
            _, k, q, members = groups[-1]
            wider = max(q, queries)
            padding = (len(members) + 1) * wider * k - len(members) * q * k - queries * keys
            if padding <= _CALL_PAIRS:
                members.append(i)
                groups[-1] = (causal, k, wider, members)
                continue
        groups.append((causal, keys, queries, [i]))
    outputs = np.empty(len(exits), np.int64)
    blocks: list[Block] = []
    start = 0
    for causal, k, q, members in groups:
        queries_BQ = np.zeros((len(members), q), np.int64)
        keys_BK, exits_BK = np.zeros((2, len(members), k), np.int64)
        for b, i in enumerate(members):
            asking, seen = rectangles[i]
            queries_BQ[b, : len(asking)] = asking
            keys_BK[b, : len(seen)] = seen
            exits_BK[b, : len(seen)] = exits[seen]
            outputs[asking] = start + b * q + np.arange(len(asking))
        blocks.append(Block(queries_BQ, keys_BK, exits_BK, causal))
        start += len(members) * q
    return tuple(blocks), outputs


def _rectangles(paths: list[tuple[Ints, int]]) -> list[tuple[Ints, Ints]]:
    """Queries and keys of each call: a path's own nodes and the path, or those of neighbours that share most keys.

    Paths are in depth-first order: whatever a path shares with an earlier one, it shares with the one before it.
    """
    rectangles: list[tuple[Ints, Ints]] = []
    for path, ancestors in paths:
        own = path[ancestors:]
        if len(own) >= _CAUSAL_SHARE * len(path):
            rectangles.append((path, path))
            continue
        if rectangles:
            queries, keys = rectangles[-1]
            together = (len(queries) + len(own)) * (len(keys) + len(own))
            more = together - len(queries) * len(keys) - len(own) * len(path)
            if len(queries) < len(keys) and more <= _KEY_PAIRS * len(path):
                rectangles[-1] = np.concatenate([queries, own]), np.concatenate([keys, own])
                continue
        rectangles.append((own, path))
    return rectangles


def _align(n: int) -> int:
    return -(-n // _ALIGN) * _ALIGN
