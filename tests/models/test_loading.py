"""A name becomes a model and its tokenizer: folders, adapters, GGUF files; what cannot is refused in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from agentgym.errors import MissingExtra, UsageError
from agentgym.models.loading import load
from agentgym.models.lora import save_model, with_lora
from agentgym.models.tiny import train_tokenizer


def write_gguf(path, *, hidden=16, heads=2):
    """A Llama of one layer with random weights and a small tokenizer; the weights by their names in the file."""
    gguf = pytest.importorskip("gguf")
    tokenizer = train_tokenizer(["take apple 1 from drawer 12", "go to shelf 3"] * 9, 300)
    model = json.loads(tokenizer._tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(hidden)
    writer.add_block_count(1)
    writer.add_feed_forward_length(24)
    writer.add_head_count(heads)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e4)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_eos_token_id(model["vocab"]["<|end|>"])
    writer.add_bos_token_id(model["vocab"]["<|user|>"])
    writer.add_pad_token_id(model["vocab"]["<|pad|>"])
    writer.add_chat_template(tokenizer.chat_template)
    small = hidden // heads
    layer = {"attn_q": (hidden, hidden), "attn_k": (small, hidden), "attn_v": (small, hidden)}
    layer |= {"attn_output": (hidden, hidden), "attn_norm": (hidden,), "ffn_norm": (hidden,)}
    layer |= {"ffn_gate": (24, hidden), "ffn_up": (24, hidden), "ffn_down": (hidden, 24)}
    shapes = {"token_embd.weight": (len(tokens), hidden), "output_norm.weight": (hidden,)}
    shapes |= {f"blk.0.{name}.weight": shape for name, shape in layer.items()}
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    for name, values in weights.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def test_a_gguf_file_is_a_model_like_any_other(tmp_path, capfd):
    """It can be trained and saved, and knows where it came from."""
    weights = write_gguf(tmp_path / "small.gguf")
    model, tokenizer = load(str(tmp_path / "small.gguf"))
    assert capfd.readouterr().err == ""
    for name, values in (
        ("embed_tokens", weights["token_embd.weight"]),
        ("layers.0.mlp.down_proj", weights["blk.0.ffn_down.weight"]),
        ("layers.0.self_attn.v_proj", weights["blk.0.attn_v.weight"]),
    ):
        np.testing.assert_array_equal(model.model.get_submodule(name).weight.detach().numpy(), values)
    assert all(p.requires_grad for p in model.parameters())
    assert tokenizer.eos_token == "<|end|>"
    assert model.config.name_or_path == str(tmp_path / "small.gguf")
    model.save_pretrained(tmp_path / "folder")
    tokenizer.save_pretrained(tmp_path / "folder")
    again, other = load(str(tmp_path / "folder"))
    ids = torch.tensor([tokenizer.encode("go to shelf 3")])
    assert other.encode("go to shelf 3") == ids[0].tolist()
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, again(input_ids=ids).logits)


def test_adapters_of_a_gguf_file_bring_it_along(tmp_path):
    write_gguf(tmp_path / "small.gguf")
    model, tokenizer = load(str(tmp_path / "small.gguf"))
    adapted = with_lora(model, 2)
    save_model(adapted, tmp_path / "adapters")
    tokenizer.save_pretrained(tmp_path / "adapters")
    again, _ = load(str(tmp_path / "adapters"))
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=ids).logits, adapted(input_ids=ids).logits)


def test_adapters_without_a_tokenizer_have_that_of_their_model(small, tmp_path):
    model, tokenizer = small()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    model, tokenizer = load(str(tmp_path / "model"))
    save_model(with_lora(model, 2), tmp_path / "adapters")
    assert load(str(tmp_path / "adapters"))[1].get_vocab() == tokenizer.get_vocab()


def test_a_gguf_file_that_is_not_there_or_cannot_be_read_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"no model file 'nowhere/x\.gguf'"):
        load("nowhere/x.gguf")
    pytest.importorskip("gguf")
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF but not really")
    with pytest.raises(UsageError, match=r"cannot load model .*broken\.gguf") as caught:
        load(str(path))
    assert "\n" not in str(caught.value)
    monkeypatch.setattr("agentgym.models.loading.find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"'gguf' is not installed; run: pip install 'agentgym-turns\[gguf\]'"):
        load(str(path))
