"""Where the keys and values of running episodes live between turns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class KVCache:
    """Keys and values of all KV slots, handed to the model as its cache.

    Each layer has shape [kv_slots, capacity, heads, head size].

    The last position is scratch: padding is written there and never read.
    """

    is_compileable = False

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.kv_slots = self.capacity = 0
        self.rows: Tensor | slice = slice(0)
        self.row_index = torch.zeros(0, 1, dtype=torch.long)
        self.positions = torch.zeros(0, 0, dtype=torch.long)
        self.read = 0

    def reserve(self, kv_slots: int, capacity: int) -> None:
        """Make room for so many KV slots of so many tokens; grows by at least a half, so copying is rare."""
        if kv_slots <= self.kv_slots and capacity < self.capacity:
            return
        self.kv_slots = max(kv_slots, self.kv_slots)
        if capacity >= self.capacity:
            self.capacity = max(capacity + 1, self.capacity * 3 // 2)
        for store in (self.keys, self.values):
            for layer, old in enumerate(store):
                new = old.new_zeros(self.kv_slots, self.capacity, *old.shape[2:])
                new[: old.shape[0], : old.shape[1]] = old
                store[layer] = new

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """What attention calls: [rows, heads, new, head size] in, everything readable out."""
        while len(self.keys) <= layer:
            for layers, new in ((self.keys, keys), (self.values, values)):
                layers.append(new.new_zeros(self.kv_slots, self.capacity, new.shape[1], new.shape[3]))
        out = []
        for store, new in ((self.keys[layer], keys), (self.values[layer], values)):
            store[self.row_index, self.positions] = new.transpose(1, 2)
            out.append(store[self.rows, : self.read].transpose(1, 2))
        return out[0], out[1]

    def get_seq_length(self, *_: Any) -> int:
        return self.read

    def copy(self, source: int, target: int, length: int) -> None:
        for store in (*self.keys, *self.values):
            store[target, :length] = store[source, :length]
