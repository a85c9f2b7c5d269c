"""Optimisers: AdamW, and Muon for matrices with AdamW for the rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import nn

from agentgym.models.precision import master, publish
from agentgym.trainers.update.muon import Muon

Name = Literal["adamw", "muon"]
_RATIO = "ratio"  # key of a parameter group: its learning rate over that of the others


class Optimizer:
    """One or two torch optimisers under one learning rate.

    ``muon`` orthogonalises the momentum of every weight matrix inside the network (Jordan et al. 2024; its step is
    scaled to AdamW's size, so one learning rate serves both) and leaves embeddings, the output head, vectors and the
    value head to AdamW. From random weights it learned more from the same tokens; on a pretrained model AdamW is the
    usual choice.

    Args:
        name: which.
        matrices: weights inside the network with two dimensions.
        rest: all other weights.
        head: weights of a head beside the model.
        lr: of the model's weights.
        head_lr: of the head's; it rises and falls as ``lr`` does.

    Attributes:
        parameters: what is learned: the weights, or their masters in float32 where they compute in less.
    """

    def __init__(
        self,
        name: Name,
        matrices: Iterable[nn.Parameter],
        rest: Iterable[nn.Parameter],
        head: Iterable[nn.Parameter] = (),
        *,
        lr: float,
        head_lr: float | None = None,
        weight_decay: float,
        betas: tuple[float, float],
    ) -> None:
        groups = [list(weights) for weights in (matrices, rest, head)]
        self._weights = [weight for group in groups for weight in group]
        inner, outer, beside = ([master(weight) for weight in group] for group in groups)
        self.parameters = [*inner, *outer, *beside]
        self._all: list[torch.optim.Optimizer] = []
        if name == "muon":
            self._all.append(Muon(inner, lr=lr, weight_decay=weight_decay))
        else:
            outer = [*inner, *outer]
        if outer:  # adapters are matrices only: Muon takes them all
            self._all.append(torch.optim.AdamW(outer, lr=lr, weight_decay=weight_decay, betas=betas))
        if beside:
            of_head = {"params": beside, _RATIO: 1.0 if head_lr is None else head_lr / lr}
            self._all.append(torch.optim.AdamW([of_head], weight_decay=weight_decay, betas=betas))
        self.set_lr(lr)

    @classmethod
    def of(cls, name: Name, model: Any, head: Iterable[nn.Parameter], **options: Any) -> Optimizer:
        """For a language model's trainable weights, and those of a head beside it."""
        outside = {id(m.weight) for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m is not None}
        trained = [p for p in model.parameters() if p.requires_grad]
        matrices = [p for p in trained if p.ndim == 2 and id(p) not in outside]
        inner = {id(p) for p in matrices}
        return cls(name, matrices, [p for p in trained if id(p) not in inner], head, **options)

    def set_lr(self, lr: float) -> None:
        """The learning rate of the next step; the head's in its own proportion to it."""
        for optimizer in self._all:
            for group in optimizer.param_groups:
                group["lr"] = lr * group.get(_RATIO, 1.0)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for optimizer in self._all:
            optimizer.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Move the weights."""
        for optimizer in self._all:
            optimizer.step()
        publish(self._weights)

    def state_dict(self) -> list[dict[str, Any]]:
        """Everything an exact continuation needs."""
        return [optimizer.state_dict() for optimizer in self._all]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for optimizer, state in zip(self._all, states, strict=True):
            optimizer.load_state_dict(state)
