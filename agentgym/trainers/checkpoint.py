"""What a training run keeps in a checkpoint: the model in Hugging Face's format, and the trainer's state beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from agentgym.store import RunFolder
from agentgym.trainers.lora import save_model
from agentgym.trainers.memory import realigned
from agentgym.trainers.model import load

_STATE = "trainer.pt"


def save(folder: RunFolder, update: int, model: Any, tokenizer: Any, state: dict[str, Any]) -> None:
    """Write the checkpoint of an update.

    Args:
        state: nested dicts and lists of tensors, numbers and texts.

    Raises:
        DiskFull: there is no room; earlier checkpoints are as they were.
    """
    with folder.checkpoint(update) as path:
        save_model(model, path, home=folder.saved.folder(update))
        tokenizer.save_pretrained(path)
        with (path / _STATE).open("wb") as file:  # torch tells a full disk only through a file of ours
            torch.save(state, file)


def restore(path: Path, device: str) -> tuple[Any, Any, dict[str, Any]]:
    """Model, tokenizer and state, with every tensor where a fresh one would lie."""
    model, tokenizer = load(str(path), device=device)
    return model, tokenizer, realigned(torch.load(path / _STATE, weights_only=True))
