from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from agentgym.errors import UsageError
from agentgym.models.attention import planned_attention
from agentgym.trainers.prefix_tree.attention import TreePlan
from agentgym.trainers.prefix_tree.blocks import MicroBatch
from agentgym.trainers.prefix_tree.scoring import Scorer, _TokenLogprobs
from agentgym.trainers.prefix_tree.tree import Row, TokenTree

VOCABULARY = 50
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "attn_implementation": "sdpa",
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LAYERS = ["sliding_attention", "full_attention"]
CONFIGS: dict[str, Any] = {
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=16),
    "llama": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "qwen2, every head its keys": Qwen2Config(**{**SIZES, "num_key_value_heads": 4}),
    "qwen2, window of 5 tokens in layer 1": Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=5, max_window_layers=1
    ),
    "gemma3, soft-capped logits": Gemma3TextConfig(
        **SIZES, head_dim=16, final_logit_softcapping=3.0, sliding_window=6, layer_types=LAYERS
    ),
    "granite, scaled logits": GraniteConfig(**SIZES, logits_scaling=4.0),
}
CLASSES = {
    "qwen2": Qwen2ForCausalLM,
    "qwen3": Qwen3ForCausalLM,
    "llama": LlamaForCausalLM,
    "gemma3_text": Gemma3ForCausalLM,
    "granite": GraniteForCausalLM,
}


class Norm(torch.nn.Module):
    """RMSNorm in the precision of its input; Transformers' own computes in float32 whatever comes in."""

    def __init__(self, weight: torch.nn.Parameter, offset: float) -> None:
        super().__init__()
        self.weight, self.offset = weight, offset

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * (self.weight + self.offset)


def make(name: str = "qwen2", dtype: torch.dtype = torch.float64) -> Any:
    torch.manual_seed(0)
    config = copy.deepcopy(CONFIGS[name])
    model = CLASSES[config.model_type](config).to(dtype)
    for parameter in model.parameters():  # far from uniform, so that an error shows
        torch.nn.init.normal_(parameter, std=0.3)
    if dtype is torch.float64:
        for path, module in list(model.named_modules()):
            if type(module).__name__.endswith("RMSNorm"):
                parent, _, child = path.rpartition(".")
                setattr(
                    model.get_submodule(parent), child, Norm(module.weight, float("Gemma" in type(module).__name__))
                )
    return model


def rows_of() -> list[Row]:
    """Two prompts with completions, a windowed pair, turns of one episode, copies, prefixes, answers beside turns."""
    rng = np.random.default_rng(0)
    first, second, episode = rng.integers(0, VOCABULARY, (3, 40))
    rows = [
        Row(np.concatenate([first[:17], rng.integers(0, VOCABULARY, n)]), np.arange(17, 17 + n)) for n in (9, 3, 14)
    ]
    rows += [Row(np.concatenate([first[:17], second[:5]]), np.array([18, 21])), Row(second, np.array([4, 30, 39]), "s")]
    rows += [Row(episode[:end], np.arange(end - 3, end), "e") for end in (9, 20, 40)]
    rows += [Row(np.concatenate([episode[:end], [7, 8, 9]]), np.array([end + 1, end + 2])) for end in (6, 9, 20)]
    return [*rows, rows[0], Row(np.array([3]), np.array([], np.int64)), Row(np.array([3, 4]), np.array([1]), "s")]


@st.composite
def random_rows(draw: st.DrawFn) -> list[Row]:
    rows: list[Row] = []
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.sampled_from(rows)).tokens.tolist() if rows and draw(st.booleans()) else []
        start = start[: draw(st.integers(0, len(start)))]
        tokens = start + draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=0 if start else 1, max_size=15))
        scored = [j for j in range(1, len(tokens)) if draw(st.booleans())]
        key = draw(st.sampled_from([None, "a"]))
        rows.append(Row(np.array(tokens), np.array(scored, np.int64), key))
    return rows


def reference(model: Any, rows: list[Row], temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy of every scored token, one row at a time."""
    logprobs, entropies = [torch.zeros(0, dtype=model.dtype)], [torch.zeros(0, dtype=model.dtype)]
    for row in rows:
        ids, at = torch.from_numpy(np.asarray(row.tokens)).long(), torch.from_numpy(row.scored)
        logits = model(ids[None], use_cache=False).logits[0, at - 1] / temperature
        full = torch.log_softmax(logits, -1)
        logprobs.append(full.gather(1, ids[at][:, None])[:, 0])
        entropies.append(-(full.exp() * full).sum(-1))
    return torch.cat(logprobs), torch.cat(entropies)


def check(
    model: Any, rows: list[Row], limit: int | None, *, rtol: float, temperature: float = 1.0, **options: Any
) -> None:
    """Log-probabilities, entropies, a loss over the rows and every gradient equal those of the untouched model."""
    ordinary = copy.deepcopy(model)
    rng = np.random.default_rng(1)
    tree = TokenTree.build(rows)
    by_logprob, by_entropy = (torch.from_numpy(x).to(model.dtype) for x in rng.normal(size=(2, len(tree.target))))
    logprob, entropy = reference(ordinary, rows, temperature)
    loss = (logprob * by_logprob + entropy * by_entropy).sum()
    if len(logprob):
        loss.backward()
    scorer = Scorer(model, **options)
    total = 0.0
    for batch in tree.batches(limit):
        scores = scorer.score(batch, entropy=True, temperature=temperature)
        assert scores.entropy is not None
        torch.testing.assert_close(scores.logprob, logprob[batch.scored], rtol=rtol, atol=rtol)
        torch.testing.assert_close(scores.entropy, entropy[batch.scored], rtol=rtol, atol=rtol)
        part = (scores.logprob * by_logprob[batch.scored] + scores.entropy * by_entropy[batch.scored]).sum()
        part.backward()
        total += part.item()
    assert total == pytest.approx(loss.item(), rel=rtol * 10, abs=rtol * 10)
    for (name, got), expected in zip(model.named_parameters(), ordinary.parameters(), strict=True):
        if expected.grad is None:
            assert got.grad is None or not got.grad.any(), name
        else:
            scale = float(expected.grad.abs().max())
            torch.testing.assert_close(got.grad, expected.grad, rtol=rtol, atol=rtol * max(scale, 1e-3), msg=name)


@pytest.mark.parametrize("limit", [None, 60, 1])
@pytest.mark.parametrize("name", CONFIGS)
def test_equals_row_by_row(name: str, limit: int | None) -> None:
    check(make(name), rows_of(), limit, rtol=1e-9)


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "llama"])
def test_equals_row_by_row_in_float32(name: str) -> None:
    check(make(name, torch.float32), rows_of(), 60, rtol=1e-4)


@settings(max_examples=25, deadline=None)
@given(random_rows(), st.one_of(st.none(), st.integers(1, 40)), st.sampled_from(["qwen2", "qwen3", "llama"]))
def test_equals_row_by_row_on_random_trees(rows: list[Row], limit: int | None, name: str) -> None:
    check(make(name), rows, limit, rtol=1e-9, probe=False)


def test_equals_row_by_row_at_another_temperature_and_in_chunks_of_logits() -> None:
    check(make(), rows_of(), None, rtol=1e-9, temperature=0.6, chunk_logits=3 * VOCABULARY)


@pytest.mark.filterwarnings("ignore:.*checkpointing:FutureWarning")
def test_equals_row_by_row_under_gradient_checkpointing() -> None:
    model = make()
    model.gradient_checkpointing_enable()
    model.train()
    check(model, rows_of(), None, rtol=1e-9)


def test_a_large_chain_with_answers_beside_it() -> None:
    rng = np.random.default_rng(0)
    episode = rng.integers(0, VOCABULARY, 1500)
    rows = [Row(episode, np.arange(1, 1500, 7))]
    rows += [Row(np.concatenate([episode[:end], [5, 6]]), np.array([end, end + 1])) for end in range(50, 1500, 290)]
    check(make(), rows, None, rtol=1e-9)


def whole(rows: list[Row]) -> MicroBatch:
    (batch,) = TokenTree.build(rows).batches()
    return batch


def test_equal_tokens_after_equal_prefixes_share_one_value_and_add_up_their_gradients() -> None:
    model = make()
    row = Row(np.array([1, 2, 3]), np.array([2]))
    once = Scorer(model).score(whole([row])).logprob
    twice = Scorer(model).score(whole([row, row])).logprob
    assert twice.tolist() == once.tolist() * 2
    gradient = [torch.autograd.grad(x.sum(), model.model.layers[0].mlp.up_proj.weight)[0] for x in (once, twice)]
    torch.testing.assert_close(gradient[1], 2 * gradient[0])


@pytest.mark.parametrize("name", ["qwen2", "gemma3, soft-capped logits"])
def test_values_are_read_where_the_token_is_predicted(name: str) -> None:
    model = make(name)
    rows = rows_of()[:3]
    head = torch.nn.Linear(32, 1, dtype=torch.float64)
    expected = []
    for row in rows:
        hidden = model.model(torch.from_numpy(row.tokens)[None], use_cache=False).last_hidden_state[0]
        expected.append(head(hidden)[row.scored - 1, 0])
    value = Scorer(model).score(whole(rows), values=head).value
    assert value is not None
    torch.testing.assert_close(value, torch.cat(expected), rtol=1e-9, atol=1e-9)


def test_only_what_is_asked_for_is_computed() -> None:
    scores = Scorer(make()).score(whole(rows_of()))
    assert scores.entropy is None
    assert scores.value is None


def test_logits_exist_only_where_something_is_predicted() -> None:
    model = make()
    scorer = Scorer(model)
    sizes: list[int] = []
    model.lm_head.register_forward_hook(lambda _, args, __: sizes.append(args[0].shape[0]))
    scorer.score(whole([Row(np.arange(30), np.array([10, 20, 29])), Row(np.arange(21), np.array([20]))]))
    assert sizes == [3]


def test_half_precision_is_summed_in_single() -> None:
    model = make("qwen2", torch.bfloat16)
    scores = Scorer(model).score(whole(rows_of()), entropy=True)
    assert scores.logprob.dtype == torch.float32
    assert scores.entropy is not None
    assert scores.entropy.dtype == torch.float32


@pytest.mark.parametrize("entropy", [True, False])
def test_the_gradient_of_token_logprobs(entropy: bool) -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    parent, token = torch.tensor([0, 0, 2, 3]), torch.tensor([1, 5, 0, 0])
    assert torch.autograd.gradcheck(lambda x: _TokenLogprobs.apply(x, parent, token, entropy), (logits,))


def test_a_forbidden_token_has_entropy_zero_and_a_finite_gradient() -> None:
    logits = torch.tensor([[0.0, 0.0, -torch.inf]], requires_grad=True)
    logprob, entropy = _TokenLogprobs.apply(logits, torch.tensor([0]), torch.tensor([1]), True)
    assert logprob.item() == pytest.approx(-np.log(2))
    assert entropy.item() == pytest.approx(np.log(2))
    (logprob + entropy).sum().backward()
    assert logits.grad is not None
    # d log p_1 = [-1/2, 1/2, 0]; the entropy is at its maximum
    assert logits.grad.tolist() == [[pytest.approx(-0.5), pytest.approx(0.5), 0.0]]


@pytest.mark.parametrize(
    ("changes", "direct"),
    [({}, True), ({"final_logit_softcapping": 30.0}, False), ({"final_logit_softcapping": 1000.0}, False)],
)
def test_soft_capping_is_seen_even_where_logits_are_small(changes: dict[str, float], direct: bool) -> None:
    config = copy.deepcopy(CONFIGS["gemma3, soft-capped logits"])
    config.update({"final_logit_softcapping": None, "tie_word_embeddings": False, **changes})
    model = Gemma3ForCausalLM(config)
    torch.nn.init.normal_(model.lm_head.weight, std=1e-4)
    assert Scorer(model)._direct is direct


def test_generation_is_as_before() -> None:
    model = make("qwen2", torch.float32).eval()
    ids = torch.tensor([[0, 0, 5, 6, 7], [1, 2, 3, 4, 5]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])

    def generate() -> list[list[int]]:
        out = model.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=False, pad_token_id=0)
        return out.tolist()  # type: ignore[no-any-return]

    before = generate()
    Scorer(model)
    assert generate() == before


def test_the_model_keeps_its_mode_and_a_second_scorer_agrees() -> None:
    model = make().train()
    first, second = Scorer(model), Scorer(model)
    assert model.training
    batch = whole(rows_of())
    assert first.score(batch).logprob.tolist() == second.score(batch).logprob.tolist()


@pytest.mark.filterwarnings("ignore:.*checkpointing:FutureWarning")
@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["up_proj", "lm_head"]])
def test_a_peft_model_is_scored_with_its_adapter(targets: list[str]) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=targets, init_lora_weights=False)
    wrapped = peft.get_peft_model(make(), config).double()
    rows = rows_of()
    expected, _ = reference(wrapped, rows)
    expected.sum().backward()
    gradients = {n: p.grad.clone() for n, p in wrapped.named_parameters() if p.grad is not None}
    assert gradients
    wrapped.zero_grad()
    got = Scorer(wrapped).score(whole(rows)).logprob
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    got.sum().backward()
    for name, parameter in wrapped.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-9, atol=1e-9)
    with wrapped.disable_adapter():
        assert not torch.allclose(Scorer(wrapped).score(whole(rows)).logprob, expected)


@pytest.mark.filterwarnings("ignore:.*checkpointing:FutureWarning")
def test_virtual_tokens_are_refused() -> None:
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    with pytest.raises(UsageError, match="PromptTuningConfig puts virtual tokens before every row; use LoRA"):
        Scorer(peft.get_peft_model(make("qwen2", torch.float32), config))


def test_another_attention_is_refused() -> None:
    model = make()
    model.set_attn_implementation("eager")
    with pytest.raises(
        UsageError, match=r"Qwen2ForCausalLM has attn_implementation='eager'; .*load the model with .*sdpa"
    ):
        Scorer(model)


def test_soft_capped_attention_is_refused() -> None:
    x = torch.zeros(1, 4, 3, 8)
    plan = TreePlan(whole([Row(np.arange(4), np.array([3]))]), torch.device("cpu"))
    with pytest.raises(UsageError, match="Identity uses softcap in its attention, which cannot be computed here"):
        planned_attention(torch.nn.Identity(), x, x, x, None, plan=plan, softcap=50.0)


def test_a_model_that_keeps_its_own_attention_is_refused() -> None:
    class Stubborn(Qwen2ForCausalLM):
        def set_attn_implementation(self, attn_implementation: Any, allow_all_kernels: bool = False) -> None:
            pass

    with pytest.raises(
        UsageError, match="Stubborn: 0 of 2 layers compute attention through Transformers' attention interface"
    ):
        Scorer(Stubborn(copy.deepcopy(CONFIGS["qwen2"])))


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(UsageError, match="Qwen2Model has no decoder and head apart; give a causal language model"):
        Scorer(make().model)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_refused(temperature: float) -> None:
    with pytest.raises(UsageError, match=r"temperature=.* must be > 0; 1.0 scores the model's own distribution"):
        Scorer(make()).score(whole(rows_of()), temperature=temperature)


def with_choices(rows: list[Row], seed: int) -> list[Row]:
    """Some tokens of some rows drawn among themselves and up to three others."""
    rng = np.random.default_rng(seed)
    out = []
    for r, row in enumerate(rows):
        own = row.tokens[row.scored].tolist()
        others = [rng.choice(VOCABULARY, int(rng.integers(4)), replace=False).tolist() for _ in own]
        sets = [sorted({t, *more}) if rng.random() < 0.7 else [] for t, more in zip(own, others, strict=True)]
        out.append(replace(row, choices=sets if r % 3 else None))
    return out


@settings(max_examples=25, deadline=None)
@given(random_rows(), st.one_of(st.none(), st.integers(1, 40)), st.integers(0, 99), st.sampled_from([1.0, 0.6]))
def test_tokens_that_were_drawn_among_some_equal_row_by_row(
    rows: list[Row], limit: int | None, seed: int, temperature: float
) -> None:
    model = make("qwen2")
    rows = with_choices(rows, seed)
    expected: list[torch.Tensor] = []
    for row in rows:
        logits = model(input_ids=torch.from_numpy(row.tokens)[None], use_cache=False).logits[0] / temperature
        for j, ids in zip(row.scored, row.choices or [[]] * len(row.scored), strict=True):
            kept = sorted(ids) or list(range(VOCABULARY))
            among = torch.log_softmax(logits[j - 1, kept], -1)
            expected += [among[kept.index(row.tokens[j])], -(among.exp() * among).sum()]
    if not expected:
        return
    want = torch.stack(expected).reshape(-1, 2)
    weights = torch.linspace(-1, 1, want.numel(), dtype=torch.float64).reshape(-1, 2)
    (want * weights).sum().backward()
    slow = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    tree = TokenTree.build(rows)
    scorer = Scorer(model, chunk_logits=VOCABULARY * 5, probe=False)
    for micro in tree.batches(limit):
        scores = scorer.score(micro, entropy=True, temperature=temperature)
        assert scores.entropy is not None
        got = torch.stack([scores.logprob, scores.entropy], -1)
        torch.testing.assert_close(got, want[micro.scored], atol=1e-9, rtol=0)
        (got * weights[micro.scored]).sum().backward()
        assert torch.equal(scorer.score(micro, temperature=temperature).logprob, scores.logprob)
    for p, grad in zip(model.parameters(), slow, strict=True):
        torch.testing.assert_close(p.grad, grad, atol=1e-9, rtol=0)


def test_a_token_outside_its_choices_is_impossible() -> None:
    row = Row(np.array([1, 2, 3]), np.array([1, 2]), choices=[[4, 5], [3, 4]])
    assert Scorer(make()).score(whole([row])).logprob.isneginf().tolist() == [True, False]
