"""Muon: momentum whose singular values are all made about one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

_MOMENTUM = 0.95
_STEPS, _A, _B, _C = 5, 3.4445, -4.7750, 2.0315  # of Jordan et al. 2024: the slope at zero is steep


class Muon(torch.optim.Optimizer):
    """The steps of ``torch.optim.Muon(adjust_lr_fn="match_rms_adamw")``, in the numbers that are fast on the device.

    torch orthogonalises in bfloat16 everywhere. A CPU without instructions for it takes ten times as long as in
    float32, and a tiny model then spends more time on this than on everything else in a step.

    Args:
        weights: matrices.
        lr: a step has the root mean square of about 0.2·lr, as those of AdamW have, so that one learning rate does for
            both (Liu et al. 2025, 2502.16982).
        weight_decay: decoupled.
    """

    def __init__(self, weights: Iterable[nn.Parameter], *, lr: float, weight_decay: float) -> None:
        super().__init__(weights, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Move the weights."""
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if (gradient := weight.grad) is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(gradient)
                momentum = state["momentum_buffer"]
                momentum.lerp_(gradient, 1 - _MOMENTUM)
                direction = orthogonal(gradient.lerp(momentum, _MOMENTUM))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(direction, alpha=-0.2 * math.sqrt(max(weight.shape)) * group["lr"])


def orthogonal(matrix: Tensor) -> Tensor:
    """The same singular vectors with singular values between about 0.7 and 1.2, by Newton and Schulz, [rows, columns].

    Args:
        matrix: float32. It is computed with in bfloat16 where it is not on a CPU.
    """
    found = matrix if matrix.device.type == "cpu" else matrix.bfloat16()
    if tall := matrix.shape[0] > matrix.shape[1]:
        found = found.T
    found = found / found.norm().clamp(min=1e-7)
    for _ in range(_STEPS):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=_B, alpha=_C), found, beta=_A)
    return found.T if tall else found
