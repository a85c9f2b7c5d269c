"""What kind of model a name stands for: built on the spot, pre-trained, or with adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from agentgym.errors import StoreError
from agentgym.store import RunFolder

#: In which numbers a model computes. auto: see :func:`agentgym.models.precision.chosen`.
Precision = Literal["auto", "bfloat16", "float32"]


#: ``tiny``: built on the spot, or saved from there; ``adapters``: LoRA on a pre-trained model.
Kind = Literal["tiny", "pre-trained", "adapters"]


#: In the ``config.json`` of models that were built on the spot.
MARK = "agentgym_tiny"


def newest_of(model: str) -> str:
    """Of the folder of a run its newest checkpoint; any other name of a model as it is.

    Raises:
        StoreError: the run has no checkpoint.
    """
    if not (Path(model) / "run.yaml").is_file():
        return model
    run = RunFolder(model)
    if not run.checkpoints():
        raise StoreError(f"{model} has no checkpoint, so there is no model in it; give a run that has saved one")
    return str(list(run.checkpoints().values())[-1])


def kind_of(model: str, *, lora: bool = False) -> Kind:
    """What kind of model a name stands for. Reads small files of local folders only; a hub's models are pre-trained.

    Args:
        model: as for ``--model``; also the folder of a run, for its newest checkpoint.
        lora: whether adapters will be trained.

    Raises:
        StoreError: the folder of a run without a checkpoint.
    """
    if model == "tiny":
        return "tiny"
    folder = Path(newest_of(model))
    adapters = (folder / "adapter_config.json").is_file()
    if _mentions(folder / "base" / "config.json" if adapters else folder / "config.json", MARK):
        return "tiny"
    return "adapters" if adapters or lora else "pre-trained"


def _mentions(file: Path, key: str) -> bool:
    """Whether a file is a JSON object in which the key is true."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get(key) is True
