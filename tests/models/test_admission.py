"""What is asked of a model before anything is played: sampled, scored and computed, its own tokens are as likely."""

from __future__ import annotations

import math

import pytest
import torch
from architectures import CONFIGS, VOCABULARY, make

from agentgym.errors import UsageError
from agentgym.models.admission import LIMITS, admit, compare
from agentgym.models.attention import CachePlan
from agentgym.models.loading import load
from agentgym.models.lora import with_lora
from agentgym.models.precision import compute_in
from agentgym.trainers.prefix_tree.attention import TreePlan
from agentgym.trainers.prefix_tree.scoring import Scorer
from agentgym.trainers.update.learner import Learner


def scored(model):
    """Scores texts as training does."""
    return Scorer(model, probe=False)._score_texts


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_agrees_with_itself_at_tokens_that_it_finds_likely(name):
    model = make(name)
    found = compare(model, scored(model))
    assert len(found.engine) == len(found.tree) == len(found.logprob) == 12 + 6 + 7
    assert float(found.engine.max()) < 1e-5
    assert float(found.tree.max()) < 1e-5
    assert float(found.logprob.mean()) > -math.log(VOCABULARY)


def test_the_modes_of_a_model_and_the_random_numbers_of_others_stay(small):
    model, _ = small()
    model.train()
    model.model.layers[0].eval()
    before = [m.training for m in model.modules()], torch.random.get_rng_state()
    admit(model, scored(model))
    assert [m.training for m in model.modules()] == before[0]
    assert torch.equal(torch.random.get_rng_state(), before[1])


def wrong_by(monkeypatch, plan, factor):
    ordinary = plan.attend
    monkeypatch.setattr(plan, "attend", lambda *a: factor * ordinary(*a))


def test_a_model_that_is_sampled_otherwise_is_refused(monkeypatch, small, tmp_path):
    model, tokenizer = small()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    wrong_by(monkeypatch, CachePlan, 1.05)
    said = (
        r"Qwen3ForCausalLM: log-probabilities of sampling and of ordinary forward passes differ by [\d.e-]+ nats a "
        r"token \(at most 0\.0001 in torch\.float32\)"
    )
    for refused in (lambda: admit(model), lambda: Scorer(model), lambda: load(str(tmp_path))):
        with pytest.raises(UsageError, match=said) as caught:
            refused()
        assert "\n" not in str(caught.value)


def test_a_model_that_is_scored_otherwise_is_refused(monkeypatch, small):
    model, _ = small()
    wrong_by(monkeypatch, TreePlan, 1.05)
    admit(model)
    with pytest.raises(UsageError, match="log-probabilities of the prefix tree and of ordinary forward passes differ"):
        Scorer(model)
    with pytest.raises(UsageError, match="of the prefix tree"):
        admit(with_lora(small()[0], 2), scored(model))


def test_a_model_that_cannot_be_computed_at_all_is_refused_in_one_line(monkeypatch, small):
    def broken(*_):
        raise RuntimeError("shapes do not fit\nat all")

    monkeypatch.setattr(CachePlan, "attend", broken)
    with pytest.raises(
        UsageError, match=r"^Qwen3ForCausalLM cannot be computed here: RuntimeError: shapes do not fit$"
    ):
        admit(small()[0])


def test_not_a_number_is_refused(small):
    model, _ = small()
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nan
    with pytest.raises(UsageError, match="differ by nan nats"):
        admit(model)


def sharp(small, precision):
    """A model about as sure of itself as trained ones are, with logits where bfloat16 is an eighth coarse."""
    model, _ = small()
    with torch.no_grad():
        model.model.norm.weight.mul_(5.0)
    compute_in(model, precision)
    return model


def test_numbers_are_judged_by_what_they_can_tell_apart(small):
    """In bfloat16 unlikely tokens differ by more than anything that is ever trained on."""
    fine, coarse = sharp(small, "float32"), sharp(small, "bfloat16")
    assert float(compare(fine, scored(fine)).tree.mean()) < LIMITS[torch.float32]
    found = compare(coarse, scored(coarse))
    largest = max(float(found.tree.mean()), float(found.engine.mean()))
    assert LIMITS[torch.float32] < largest < LIMITS[torch.bfloat16]
    Scorer(coarse)


def test_a_wrong_model_in_bfloat16_is_refused_all_the_same(monkeypatch, small):
    coarse = sharp(small, "bfloat16")
    wrong_by(monkeypatch, TreePlan, 2.0)
    with pytest.raises(UsageError, match=r"\(at most 0\.1 in torch\.bfloat16\)"):
        Scorer(coarse)


def test_a_short_context_is_enough(small):
    model, _ = small(max_context=8)
    found = compare(model, scored(model))
    assert len(found.engine) == 2 + 1 + 2


def test_the_copy_of_an_admitted_model_is_not_asked_again(monkeypatch, small):
    from agentgym.trainers.parts import get_algorithm
    from agentgym.trainers.prefix_tree import scoring

    probed = []
    monkeypatch.setattr(scoring, "admit", lambda model, score: probed.append(model))
    model, _ = small()
    learner = Learner(model, get_algorithm("grpo")(kl=0.1))
    assert learner.reference is not None
    assert probed == [model]
