"""What a training run keeps in a checkpoint: the model in Hugging Face's format, and the trainer's state beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from agentgym.errors import StoreError
from agentgym.models.loading import load_to_learn, realigned
from agentgym.models.lora import save_model
from agentgym.models.precision import compute_in
from agentgym.store import RunFolder

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


def restore(path: Path, device: str, precision: Literal["bfloat16", "float32"]) -> tuple[Any, Any, dict[str, Any]]:
    """Model, tokenizer and state, with every tensor where a fresh one would lie.

    Raises:
        StoreError: the state is no such file, or holds more than tensors, numbers and texts, which is never executed.
    """
    model, tokenizer = load_to_learn(str(path), precision, device)
    compute_in(model, precision)
    try:
        state = torch.load(path / _STATE, weights_only=True)
    except Exception as error:  # a reader of pickles fails over odd bytes in many ways
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise StoreError(f"{path / _STATE} cannot be read: {reason}; resume from another checkpoint") from error
    return model, tokenizer, realigned(state)
