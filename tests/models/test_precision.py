"""bfloat16 for what is computed, float32 for what is learned: masters, checkpoints, and exact continuation."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file
from small_runs import Crash, products, start

from agentgym.models import precision
from agentgym.models.loading import load
from agentgym.models.local_policy import ModelPolicy
from agentgym.models.lora import save_model
from agentgym.models.precision import chosen, compute_in, learned_state, master
from agentgym.trainers.parts import get_algorithm
from agentgym.trainers.run.trainer import Training
from agentgym.trainers.update.learner import Learner, OptimizerConfig


def rounded(small):
    model, tokenizer = small()
    compute_in(model, "bfloat16")
    return model, tokenizer


def test_weights_compute_in_bfloat16_and_their_masters_are_what_was_there(small):
    before, _ = small()
    model, _ = rounded(small)
    assert model.dtype == torch.bfloat16
    for was, weight in zip(before.parameters(), model.parameters(), strict=True):
        assert weight.dtype == torch.bfloat16
        assert master(weight).dtype == torch.float32
        assert torch.equal(master(weight), was)
        assert torch.equal(weight, was.to(torch.bfloat16))
    # rounding what rotary positions turn by would turn far tokens by another angle
    assert torch.equal(model.model.rotary_emb.inv_freq, before.model.rotary_emb.inv_freq)


def test_it_computes_as_a_model_that_was_loaded_in_bfloat16(small, tmp_path):
    model, tokenizer = small()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    compute_in(model, "bfloat16")
    loaded, _ = load(str(tmp_path), dtype="bfloat16")
    ids = torch.tensor([list(range(5, 200))])
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, loaded(input_ids=ids).logits)


def test_what_the_model_says_must_stay_float32_does(small):
    model, _ = small()
    model._keep_in_fp32_modules_strict = ["k_norm"]
    compute_in(model, "bfloat16")
    kept = {name for name, weight in model.named_parameters() if weight.dtype == torch.float32}
    assert kept == {f"model.layers.{n}.self_attn.k_norm.weight" for n in range(2)}
    weights = dict(model.named_parameters())
    assert all(master(weights[name]) is weights[name] for name in kept)


def test_float32_stays_as_it_is(small):
    model, _ = small()
    weights = list(model.parameters())
    compute_in(model, "float32")
    assert all(master(w) is w and w.dtype == torch.float32 for w in weights)
    assert learned_state(model) is None


def test_steps_that_bfloat16_cannot_tell_apart_add_up(small, played):
    """A weight of 0.05 in bfloat16 has a neighbour 2e-4 away: steps of 1e-5 vanish, unless a master remembers them."""
    model, tokenizer = rounded(small)
    episodes = played(ModelPolicy(model, tokenizer, max_new_tokens=4))
    learner = Learner(model, get_algorithm("grpo")(), OptimizerConfig(lr=1e-5))
    weight = model.model.layers[0].mlp.up_proj.weight
    start, learned = weight.detach().clone(), master(weight).detach()
    before = learned.clone()
    moved = []
    for _ in range(8):
        learner.update(episodes)
        moved.append(float((weight != start).float().mean()))
        assert torch.equal(weight, learned.to(torch.bfloat16))
    assert float((learned - before).abs().median()) > 3e-5
    assert moved[0] < moved[-1]
    state = learner.optimizer.state_dict()[0]["state"]
    assert {t.dtype for s in state.values() for n, t in s.items() if n != "step"} == {torch.float32}


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_gradients_of_micro_batches_add_up_in_float32(small, played, name):
    model, tokenizer = rounded(small)
    episodes = played(ModelPolicy(model, tokenizer, max_new_tokens=4))

    def gradients(max_tokens):
        twin = copy.deepcopy(model)
        assert not any(hasattr(w, precision._MASTER) for w in twin.parameters())
        learner = Learner(twin, get_algorithm(name)(), OptimizerConfig(max_tokens=max_tokens, max_grad_norm=1e9))
        seen = []
        weight = twin.model.layers[0].mlp.up_proj.weight
        weight.register_hook(lambda grad: seen.append(grad.clone()))
        learner.optimizer.step = lambda: None
        learner.update(episodes)
        assert all(w.grad is None for w in twin.parameters())
        assert all(w.grad.dtype == torch.float32 for w in learner.optimizer.parameters)
        return seen, master(weight).grad

    seen, total = gradients(20)
    assert len(seen) > 3
    assert {grad.dtype for grad in seen} == {torch.bfloat16}
    exact = seen[0].float()
    for grad in seen[1:]:
        exact += grad
    assert torch.equal(total, exact)
    assert not torch.equal(total, total.to(torch.bfloat16).float())


def test_sft_and_the_updates_share_their_masters(small, played):
    model, tokenizer = rounded(small)
    episodes = played(ModelPolicy(model, tokenizer, max_new_tokens=4))
    first = Learner(model, get_algorithm("grpo")(), OptimizerConfig(lr=1e-5))
    first.update(episodes)
    second = Learner(model, get_algorithm("grpo")(), OptimizerConfig(lr=1e-5))
    assert all(a is b for a, b in zip(first.optimizer.parameters, second.optimizer.parameters, strict=True))


def test_a_model_that_comes_in_bfloat16_is_learned_in_float32_too(small, played):
    model, tokenizer = small()
    episodes = played(ModelPolicy(model, tokenizer, max_new_tokens=4))
    learner = Learner(model.to(torch.bfloat16), get_algorithm("ppo")())
    learner.update(episodes)
    assert {w.dtype for w in learner.optimizer.parameters} == {torch.float32}
    assert learner.values.weight.dtype == torch.float32


def test_a_checkpoint_keeps_masters_and_ties(small, tmp_path):
    model, _ = rounded(small)
    with torch.no_grad():
        for weight in model.parameters():
            master(weight).add_(1e-6)
    save_model(model, tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" not in saved
    assert {w.dtype for w in saved.values()} == {torch.float32}
    weights = dict(model.named_parameters())
    assert saved.keys() == weights.keys()
    assert all(torch.equal(saved[name], master(weights[name])) for name in saved)


RUNS = {
    "full": {"parameters": {"kl": 0.01}},
    "critic": {"algorithm": "ppo", "parameters": {"kl": 0.01}},
    "muon": {"optimizer.name": "muon"},
    "adapters": {"model.lora": 4, "parameters": {"kl": 0.05}},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_in_bfloat16_continues_exactly(name, tmp_path):
    options = {"model.dtype": "bfloat16", "run.updates": 3, "run.checkpoint_every": 1, "optimizer.lr": 1e-4}
    options |= {"eval.every": 0, "eval.episodes": 1, "sft.episodes": 2, **RUNS[name]}
    training = start(tmp_path / "whole", **options)
    assert training.config.model.dtype == "bfloat16"
    seen = []

    def crash(stage, metrics):
        if stage == "update" and len(seen) < 2:
            seen.append(metrics)
            raise Crash

    run = lambda: start(tmp_path / "broken", crash, **options)  # noqa: E731
    for _ in range(3):
        try:
            run()
        except Crash:
            run = Training.resume(tmp_path / "broken", crash).run
    assert len(seen) == 2
    assert products(tmp_path / "broken") == products(tmp_path / "whole")
    model, _ = load(str(training.folder.latest_checkpoint()[1]), dtype="bfloat16")
    frozen = [w for w in model.parameters() if not w.requires_grad]
    learned = [w for w in model.parameters() if w.requires_grad]
    if name == "adapters":
        assert {w.dtype for w in frozen} == {torch.bfloat16}
        assert {w.dtype for w in learned} == {torch.float32}
    else:
        assert {w.dtype for w in learned} == {torch.bfloat16}


def test_what_auto_is(monkeypatch):
    for able, found in (({}, "float32"), ({"avx512_bf16": True}, "bfloat16"), ({"amx_bf16": True}, "bfloat16")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: able, raising=False)
        assert chosen("auto", "cpu") == found
        assert chosen("float32", "cpu") == "float32"
        assert chosen("bfloat16", "cpu") == "bfloat16"
    for able, found in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, able=able: able)
        assert chosen("auto", "cuda:0") == found
    assert chosen("auto", "meta") == "float32"


def test_a_tiny_model_is_loaded_in_float32_wherever_it_is(small, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    model, tokenizer = small()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert load(str(tmp_path))[0].dtype == torch.float32
    del model.config.agentgym_tiny
    model.save_pretrained(tmp_path)
    assert load(str(tmp_path))[0].dtype == torch.bfloat16
