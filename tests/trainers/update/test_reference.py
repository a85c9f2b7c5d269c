"""The reference policy: first weights, or the base model under adapters."""

from __future__ import annotations

import pytest
import torch

from agentgym.models.lora import with_lora
from agentgym.trainers.prefix_tree.scoring import Scorer
from agentgym.trainers.prefix_tree.tree import Row, TokenTree
from agentgym.trainers.update.reference import Reference

import numpy as np  # isort: skip


def logprobs(scorer: Scorer) -> torch.Tensor:
    (batch,) = TokenTree.build([Row(np.arange(2, 12), np.arange(3, 10))]).batches()
    with torch.no_grad():
        return scorer.score(batch).logprob


def moved(model) -> None:
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight), alpha=0.3)


def test_a_copy_of_the_first_weights_stays(small) -> None:
    model, _ = small()
    scorer = Scorer(model)
    before = logprobs(scorer)
    reference = Reference(model, scorer)
    moved(model)
    with reference.scoring() as frozen:
        assert torch.equal(logprobs(frozen), before)
    assert not torch.equal(logprobs(scorer), before)


def test_under_adapters_it_is_the_base_model_and_no_copy(small) -> None:
    pytest.importorskip("peft")
    base, _ = small()
    before = logprobs(Scorer(base))
    model = with_lora(base, 2)
    scorer = Scorer(model)
    reference = Reference(model, scorer)
    moved(model)
    changed = logprobs(scorer)
    with reference.scoring() as frozen:
        assert frozen is scorer
        assert torch.allclose(logprobs(frozen), before, atol=1e-6)
    assert torch.equal(logprobs(scorer), changed)  # the adapters are back
    assert not torch.allclose(changed, before, atol=1e-3)
    assert reference.state_dict() is None
