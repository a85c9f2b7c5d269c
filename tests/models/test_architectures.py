"""Models of several architectures, small and random: sampling and scoring equal plain forward passes, or are refused.

Contexts are several times as long as the sliding windows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from architectures import CONFIGS, MIXED, SIZES, VOCABULARY, WITH_A_WINDOW, make

from agentgym import keyed_random
from agentgym.errors import UsageError
from agentgym.models.attention import CachePlan
from agentgym.models.engines.local import Engine
from agentgym.models.local_policy import ModelPolicy
from agentgym.trainers.prefix_tree.scoring import Scorer
from agentgym.trainers.prefix_tree.tree import Row, TokenTree


def plain(model: Any, ids: list[int]) -> torch.Tensor:
    """Log-probabilities of the next token after each, by transformers alone."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return torch.log_softmax(logits.double(), -1)


def played(model: Any) -> list[Any]:
    """Three episodes of three turns on kept keys and values, one of them a branch of another; every action."""
    engine, done = Engine(model, []), []
    kv_slots = [engine.open() for _ in range(2)]
    contexts = [[3 + keyed_random.key(n, i) % 40 for i in range(25 + 4 * n)] for n in range(2)]
    for turn in range(3):
        if turn == 1:
            kv_slots.append(engine.open())
            contexts.append(contexts[0])
            engine.copy(kv_slots[0], kv_slots[2])
        for kv_slot, context in zip(kv_slots, contexts, strict=True):
            engine.submit(kv_slot, context, keyed_random.key(kv_slot, turn), 5 + kv_slot)
        finished = []
        while engine.busy:
            finished += engine.step()
        finished.sort(key=lambda g: g.kv_slot)
        done += finished
        contexts = [[*g.context, *g.action, 7, 8 + turn, 9] for g in finished]
    return done


@pytest.mark.parametrize("name", CONFIGS)
def test_sampling_equals_plain_forward_passes(name):
    model = make(name)
    ordinary = make(name)
    done = played(model)
    assert len(done) == 8
    for g in done:
        expected = plain(ordinary, [*g.context, *g.action])[len(g.context) - 1 : -1]
        got = torch.tensor(g.logprobs, dtype=torch.float64)
        torch.testing.assert_close(got, expected[range(len(g.action)), g.action], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_scoring_equals_plain_forward_passes(name):
    model = make(name)
    ordinary = make(name)
    ids = np.array([3 + keyed_random.key("scored", i) % 40 for i in range(60)])
    branch = np.concatenate([ids[:30], ids[45:]])
    rows = [Row(ids, np.arange(20, 60)), Row(branch, np.arange(28, 45))]
    (batch,) = TokenTree.build(rows).batches()
    with torch.no_grad():
        got = Scorer(model).score(batch).logprob.double()
    expected = [plain(ordinary, row.tokens.tolist())[row.scored - 1, row.tokens[row.scored]] for row in rows]
    torch.testing.assert_close(got, torch.cat(expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", sorted(WITH_A_WINDOW))
def test_windows_decide_what_is_sampled_here(name, monkeypatch):
    """Without its windows each of these models gives other log-probabilities: the tests above see them."""
    right = [g.logprobs for g in played(make(name))]
    ordinary = CachePlan.mask
    monkeypatch.setattr(CachePlan, "mask", lambda plan, _: ordinary(plan, None))
    wrong = [g.logprobs for g in played(make(name))]
    assert max(abs(a - b) for x, y in zip(right, wrong, strict=True) for a, b in zip(x, y, strict=False)) > 0.01


def test_a_context_is_no_longer_than_a_model_computes_in_one_way(small):
    """Phi-3's long contexts turn all positions by other angles, those of kept keys too."""
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 64}
    rope |= {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    config = hf.Phi3Config(**{**SIZES, "vocab_size": 291}, original_max_position_embeddings=64, rope_parameters=rope)
    model = hf.AutoModelForCausalLM.from_config(config)
    policy = ModelPolicy(model, small()[1])
    assert policy.max_context == policy.engine.max_context == 64
    assert ModelPolicy(make("Llama"), small()[1]).max_context == 256


EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
REFUSED: dict[str, tuple[Any, str]] = {
    "a window that attention is not told": (
        lambda: hf.Qwen2MoeConfig(
            **SIZES, **EXPERTS, use_sliding_window=True, sliding_window=5, layer_types=MIXED, max_window_layers=3
        ),
        r"Qwen2MoeForCausalLM: layer 0 sees a window of 5 tokens by its mask, but its attention is told no window",
    ),
    "chunked attention": (
        lambda: hf.Llama4TextConfig(
            **SIZES, intermediate_size_mlp=48, num_local_experts=1, attention_chunk_size=8, head_dim=8
        ),
        r"Llama4ForCausalLM: layer 0 sees a window of 8 tokens by its mask|no decoder and head apart",
    ),
    "linear attention": (
        lambda: hf.Qwen3NextConfig(
            **SIZES,
            **EXPERTS,
            head_dim=16,
            linear_num_value_heads=4,
            linear_num_key_heads=2,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
            layer_types=["linear_attention", "linear_attention", "full_attention"],
        ),
        r"Qwen3NextForCausalLM: 1 of 3 layers compute attention through Transformers' attention interface",
    ),
    "no attention": (
        lambda: hf.MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4),
        r"MambaForCausalLM has attn_implementation='eager'",
    ),
    "attention that is not told its options": (
        lambda: hf.StableLmConfig(**SIZES),
        r"StableLmForCausalLM: 0 of 3 layers compute attention through Transformers' attention interface",
    ),
    "biases on positions": (
        lambda: hf.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4),
        r"BloomForCausalLM has attn_implementation='eager'",
    ),
    "soft-capped attention": (
        lambda: hf.Gemma2Config(**SIZES, head_dim=16, sliding_window=6),
        r"Gemma2ForCausalLM has attn_implementation='eager'",
    ),
}


@pytest.mark.parametrize("build", [lambda m: Engine(m, []), Scorer], ids=["sampling", "scoring"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_computed_is_refused_by_name(name, build):
    config, message = REFUSED[name]
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(config())
    with pytest.raises(UsageError, match=message):
        build(model)
