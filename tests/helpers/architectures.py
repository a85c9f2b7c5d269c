"""Models of several architectures, small and random."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf

VOCABULARY = 50
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MIXED = ["sliding_attention", "sliding_attention", "full_attention"]
CONFIGS: dict[str, Any] = {
    "Llama": lambda: hf.LlamaConfig(**SIZES),
    "Qwen3": lambda: hf.Qwen3Config(**SIZES, head_dim=16),
    "Mistral": lambda: hf.MistralConfig(**SIZES, sliding_window=7),
    "Mistral without a window": lambda: hf.MistralConfig(**SIZES, sliding_window=None),
    "Gemma3": lambda: hf.Gemma3TextConfig(**SIZES, head_dim=16, sliding_window=6, layer_types=MIXED),
    "Qwen2 with windows": lambda: hf.Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=5, max_window_layers=1
    ),
    "Cohere2": lambda: hf.Cohere2Config(**SIZES, sliding_window=5, layer_types=MIXED),
    "Phi3": lambda: hf.Phi3Config(**SIZES, sliding_window=8),
    "OLMo3": lambda: hf.Olmo3Config(**SIZES, sliding_window=9, layer_types=MIXED),
}
WITH_A_WINDOW = {"Mistral", "Gemma3", "Qwen2 with windows", "Cohere2", "Phi3", "OLMo3"}


def make(name: str) -> Any:
    """Weights far from uniform, so that an error shows."""
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(CONFIGS[name]()).eval()
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.2)
    return model
