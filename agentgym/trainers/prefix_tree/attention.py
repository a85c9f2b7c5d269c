"""The prefix tree's :class:`~agentgym.models.attention.Plan`: each block is one call of SDPA over gathered nodes.

Measured against one dense N x N mask a bin, and against the prefix's keys and values kept in the graph, in CPU seconds
of forward and backward on one thread (``benchmarks/tree.py CASE --alternatives``, medians of 5):

====================================  ==========  =======  ==========  =========
rows                                  row by row  blocks   dense mask  kept keys
====================================  ==========  =======  ==========  =========
8 prompts x 8 completions             1.98        1.08     1.37        1.21
8 episodes of 590, 80 in common       1.36        1.17     1.35        1.47
====================================  ==========  =======  ==========  =========
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from agentgym.trainers.prefix_tree.blocks import Block, MicroBatch


class TreePlan:
    """A micro-batch's blocks as tensors on the model's device; masks are made once and serve every layer.

    A block's mask is the tree's rule: a query q sees a key k iff ``k <= q < exit[k]``.
    """

    def __init__(self, batch: MicroBatch, device: torch.device) -> None:
        self.outputs = torch.from_numpy(batch.outputs).to(device)
        positions = torch.from_numpy(batch.positions).to(device)
        self.blocks = [_BlockPlan(block, positions) for block in batch.blocks]

    def attend(
        self, module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, window: int | None, options: Any
    ) -> Tensor:
        heads, groups = query.shape[1], key.shape[1]
        flat = [x.squeeze(0).transpose(0, 1).flatten(1) for x in (query, key, value)]

        def gather(x: Tensor, nodes: Tensor, heads: int) -> Tensor:
            return x.index_select(0, nodes.reshape(-1)).view(*nodes.shape, heads, -1).transpose(1, 2)

        results = []
        for block in self.blocks:
            mask = block.mask(window, query.dtype)
            result = F.scaled_dot_product_attention(
                gather(flat[0], block.queries, heads),
                gather(flat[1], block.keys, groups),
                gather(flat[2], block.keys, groups),
                attn_mask=mask,
                is_causal=mask is None,
                dropout_p=options.get("dropout", 0.0),
                scale=options.get("scaling"),
                enable_gqa=heads != groups,
            )
            results.append(result.transpose(1, 2).reshape(block.queries.numel(), heads, -1))
        joined = results[0] if len(results) == 1 else torch.cat(results)
        return joined.index_select(0, self.outputs)[None]


class _BlockPlan:
    def __init__(self, block: Block, positions: Tensor) -> None:
        self.causal = block.causal
        self.queries, self.keys, self._exits = (
            torch.from_numpy(x).to(positions.device) for x in (block.queries, block.keys, block.exits)
        )
        self._positions = positions
        self._masks: dict[tuple[int | None, torch.dtype], Tensor] = {}

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """What is added to the attention logits, [B, 1, Q, K]; None for plain causal attention."""
        if window is not None and window >= self.keys.shape[1]:
            window = None
        if self.causal and window is None:
            return None
        if (window, dtype) not in self._masks:
            query, key = self.queries[:, :, None], self.keys[:, None]
            hidden = (key > query) | (query >= self._exits[:, None])
            if window is not None:
                hidden |= self._positions[query] - self._positions[key] >= window
            mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, float("-inf"))
            self._masks[window, dtype] = mask[:, None]
        return self._masks[window, dtype]
