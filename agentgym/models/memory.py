"""Where tensors lie in memory.

A matrix product may add up in another order when its operands begin at other addresses, so equal numbers at unequal
alignment are not enough for an exact continuation. A loaded tensor often lies inside the bytes of a file, at any
address; every tensor that torch itself allocates begins at a multiple of 64.
"""

from __future__ import annotations

import itertools
from typing import Any

from torch import Tensor, nn


def realign(model: nn.Module) -> None:
    """Move every weight and buffer into fresh memory; tied weights stay tied."""
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        tensor.data = tensor.data.clone()


def realigned(tree: Any) -> Any:
    """A copy of nested dicts, lists and tuples with every tensor in fresh memory."""
    if isinstance(tree, Tensor):
        return tree.clone()
    if isinstance(tree, dict):
        return {key: realigned(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(map(realigned, tree))
    return tree
