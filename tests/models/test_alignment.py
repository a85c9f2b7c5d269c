"""Loaded tensors lie where fresh ones would."""

from __future__ import annotations

import itertools

import pytest
import torch
from safetensors.torch import load_file, save_file

from agentgym.models.loading import load, realign, realigned
from agentgym.models.lora import save_model, with_lora

ALIGNMENT = 64  # bytes; of everything that torch allocates on a CPU


def odd(values):
    """The same numbers four bytes behind an aligned address."""
    room = torch.empty(values.numel() + 1, dtype=values.dtype)
    room[1:] = values.flatten()
    return room[1:].view_as(values)


def misplaced(tensors):
    return [t for t in tensors if t.data_ptr() % ALIGNMENT]


@pytest.mark.parametrize("lora", [None, 3])
def test_a_loaded_model_lies_in_memory_of_its_own(small, tmp_path, lora):
    model, tokenizer = small()
    if lora:
        model = with_lora(model, lora)
    save_model(model, tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (file,) = tmp_path.rglob("model.safetensors")  # of the base, with adapters
    weights = load_file(file)
    save_file({"a": torch.zeros(1), **weights}, file, metadata={"format": "pt"})  # all others move by four bytes
    assert misplaced(load_file(file).values())
    loaded, _ = load(str(tmp_path))
    assert not misplaced(itertools.chain(loaded.parameters(), loaded.buffers()))
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, loaded.state_dict()[name]), name


def test_weights_that_are_tied_stay_tied(small):
    model, _ = small()
    weight = model.get_input_embeddings().weight
    weight.data = odd(weight.data)
    before = weight.detach().clone()
    assert misplaced([weight])
    realign(model)
    assert not misplaced(model.parameters())
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight is weight
    assert torch.equal(weight, before)


def test_a_tree_of_state_is_copied_as_it_is():
    tree = {"a": [odd(torch.arange(5.0)), {"b": (odd(torch.ones(2, 2)), 3, "text", None)}], 1: 0.5}
    copy = realigned(tree)
    assert not misplaced([copy["a"][0], copy["a"][1]["b"][0]])
    assert torch.equal(copy["a"][0], torch.arange(5.0))
    assert copy["a"][1]["b"][1:] == (3, "text", None)
    assert copy[1] == 0.5
    copy["a"][0][0] = 9.0
    assert tree["a"][0][0] == 0.0
