"""Attention over a token tree, in Transformers' attention interface.

Each block of paths is one call of SDPA: own nodes as queries, whole paths as keys, gathered from the flat sequence of
nodes. Calls without a tree go on to Transformers' SDPA function unchanged, so a model set to this attention generates
as before; gradient checkpointing, which calls it again in backward, finds the same tree.

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

import numpy as np

from agentgym.errors import MissingExtra, UsageError
from agentgym.trainers.tree import Block, MicroBatch

try:
    import torch
    import torch.nn.functional as F
    from torch import Tensor
except ImportError as error:
    raise MissingExtra("torch", "train") from error

#: Name of the attention function in Transformers' registry.
ATTENTION = "agentgym_tree"


class Plan:
    """A micro-batch's blocks as tensors on the model's device; masks are made once and serve every layer."""

    def __init__(self, batch: MicroBatch, device: torch.device) -> None:
        self.outputs = torch.from_numpy(batch.outputs).to(device)
        self.blocks = [_BlockPlan(block, device) for block in batch.blocks]


class _BlockPlan:
    def __init__(self, block: Block, device: torch.device) -> None:
        self.batch, self.length = block.queries.shape
        self.width = block.keys.shape[1]
        self.causal = block.causal
        self.keys = torch.from_numpy(block.keys).reshape(-1).to(device)
        self.queries = self.keys if block.causal else torch.from_numpy(block.queries).reshape(-1).to(device)
        ancestors = block.ancestors if np.ptp(block.ancestors) else block.ancestors[:1]
        self._ancestors = torch.from_numpy(ancestors).to(device)
        self._masks: dict[tuple[int | None, torch.dtype], Tensor] = {}

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """What is added to the attention logits, [B or 1, 1, Q, K]; None for plain causal attention."""
        if window is not None and window >= self.width:
            window = None
        if self.causal and window is None:
            return None
        if (window, dtype) not in self._masks:
            device = self._ancestors.device
            seen_by = self._ancestors[:, None, None] + torch.arange(self.length, device=device)[:, None]
            key = torch.arange(self.width, device=device)
            hidden = key > seen_by
            if window is not None:
                hidden |= key <= seen_by - window
                hidden &= ~hidden.all(-1, keepdim=True)  # the softmax of a padded query that sees nothing is nan
            mask = torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, float("-inf"))
            self._masks[window, dtype] = mask[:, None]
        return self._masks[window, dtype]


def tree_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Transformers' attention interface: query [1, H, N, D], key and value [1, G, N, D] -> [1, N, H, D]."""
    plan: Plan | None = options.pop("tree", None)
    if plan is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        ordinary: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return ordinary
    for name in ("softcap", "s_aux", "position_bias"):
        if options.get(name) is not None:
            raise UsageError(
                f"{type(module).__name__} uses {name} in its attention, which the token tree cannot compute"
            )
    heads, groups, size = query.shape[1], key.shape[1], query.shape[3]
    flat = [x.squeeze(0).transpose(0, 1).flatten(1) for x in (query, key, value)]

    def gather(x: Tensor, nodes: Tensor, shape: tuple[int, ...]) -> Tensor:
        return x.index_select(0, nodes).view(*shape).transpose(1, 2)

    results = []
    for block in plan.blocks:
        mask = block.mask(options.get("sliding_window"), query.dtype)
        result = F.scaled_dot_product_attention(
            gather(flat[0], block.queries, (block.batch, block.length, heads, size)),
            gather(flat[1], block.keys, (block.batch, block.width, groups, size)),
            gather(flat[2], block.keys, (block.batch, block.width, groups, -1)),
            attn_mask=mask,
            is_causal=mask is None,
            dropout_p=options.get("dropout", 0.0),
            scale=options.get("scaling"),
            enable_gqa=heads != groups,
        )
        results.append(result.transpose(1, 2).reshape(block.batch * block.length, heads, -1))
    joined = results[0] if len(results) == 1 else torch.cat(results)
    return joined.index_select(0, plan.outputs)[None], None


def install(model: Any) -> None:
    """Set the model's attention to :func:`tree_attention`."""
    try:
        from transformers import AttentionInterface
        from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
    except ImportError as error:
        raise MissingExtra("transformers", "train") from error
    if model.config._attn_implementation == ATTENTION:
        return
    if model.config._attn_implementation != "sdpa":
        raise UsageError(
            f"attn_implementation={model.config._attn_implementation!r}: the token tree hands ordinary calls on to "
            'SDPA; load the model with attn_implementation="sdpa"'
        )
    AttentionInterface.register(ATTENTION, tree_attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    model.set_attn_implementation(ATTENTION)
