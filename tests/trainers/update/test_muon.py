"""Muon takes torch's steps, in float32 on a CPU."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from agentgym.trainers.update.muon import Muon, orthogonal

SHAPES = [(24, 24), (48, 16), (16, 48)]


def matrices(seed: int) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def test_the_steps_are_those_of_torch_up_to_its_rounding() -> None:
    ours, begun = matrices(0), matrices(0)
    theirs = copy.deepcopy(ours)
    mine = Muon(ours, lr=0.01, weight_decay=0.1)
    torchs = torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(4):
        for optimizer in (mine, torchs):
            for group in optimizer.param_groups:
                group["lr"] = 0.01 / (1 + step)
        for mine_too, other, gradient in zip(ours, theirs, matrices(1 + step), strict=True):
            mine_too.grad, other.grad = gradient.detach().clone(), gradient.detach().clone()
        mine.step()
        torchs.step()
    for weight, other, start in zip(ours, theirs, begun, strict=True):
        assert (weight - other).norm() < 0.02 * (other - start).norm()  # bfloat16 has three digits
        assert torch.equal(mine.state[weight]["momentum_buffer"], torchs.state[other]["momentum_buffer"])


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_become_about_one_and_the_vectors_stay(shape: tuple[int, int]) -> None:
    left, _, right = torch.linalg.svd(matrices(3)[SHAPES.index(shape)].detach(), full_matrices=False)
    found = left.T @ orthogonal(left * torch.linspace(0.3, 3, min(shape)) @ right) @ right.T
    assert found.dtype == torch.float32
    assert (found - found.diag().diag()).abs().max() < 1e-4  # exact in float32; bfloat16 is off by 0.01
    assert found.diag().min() > 0.6
    assert found.diag().max() < 1.3


def test_a_matrix_without_a_gradient_stays() -> None:
    weights = matrices(0)
    weights[0].grad = torch.ones(SHAPES[0])
    before = [weight.detach().clone() for weight in weights]
    Muon(weights, lr=0.01, weight_decay=0.1).step()
    assert [torch.equal(weight, old) for weight, old in zip(weights, before, strict=True)] == [False, True, True]
