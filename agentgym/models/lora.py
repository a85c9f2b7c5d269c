"""Low-rank adapters (LoRA, 2106.09685) through peft: made, saved, and put back on their model.

A folder with adapters holds them and the name of the model they belong to; for a model that was built on the spot
(``tiny``) the model itself lies in the folder ``base`` inside.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from agentgym.errors import MissingExtra, StoreError, UsageError
from agentgym.models.precision import learned_state
from agentgym.store.checkpoints import SUMS

BASE = "base"
_CONFIG = "adapter_config.json"


def check_lora(rank: int | None, model: str) -> None:
    """Refuse adapters that could not be made, without loading anything.

    Args:
        rank: of the adapters; None: there will be none.
        model: a name as :func:`agentgym.models.loading.load` takes it.

    Raises:
        UsageError: the model has adapters already.
        MissingExtra: peft is not installed.
    """
    if rank is None:
        return
    _peft()
    if base_of(Path(model)) is not None:
        raise UsageError(f"lora={rank}: {model} has adapters already, and they go on learning; leave lora out")


def with_lora(model: Any, rank: int, *, seed: int = 0) -> Any:
    """The model with trainable low-rank adapters on all its linear layers and everything else frozen.

    Args:
        rank: of each adapter; its scale is 2.
        seed: of the adapters' random weights.

    Raises:
        MissingExtra: peft is not installed.
    """
    peft = _peft()
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(seed)
        return peft.get_peft_model(model, config)


def save_model(model: Any, path: Path, home: Path | None = None) -> None:
    """Write the weights as they are learned: all, or the adapters alone where the rest can be loaded by name.

    Args:
        home: where the folder will lie when it is complete, if not there; adapters name the model beside them by it.
    """
    without_bars()
    if not hasattr(model, "peft_config"):
        model.save_pretrained(path, state_dict=learned_state(model))
        return
    base = model.get_base_model()
    name = _lasting(base.config.name_or_path)
    for config in model.peft_config.values():
        config.base_model_name_or_path = name or str((home or path).resolve() / BASE)
        if not isinstance(config.target_modules, str):
            config.target_modules = sorted(config.target_modules)  # a set comes in another order in every process
    model.save_pretrained(path, save_embedding_layers=False)
    if name is None:
        # the layers inside adapters carry other names; saved under the plain ones
        plain = {
            name.replace(".base_layer.", "."): weight
            for name, weight in base.state_dict().items()
            if ".lora_" not in name
        }
        base.save_pretrained(path / BASE, state_dict=plain)


def _lasting(name: str) -> str | None:
    """The name of a model as anybody can load it from anywhere, for as long as it is there; None: there is none.

    The checkpoints of a run are pruned, and only we read a ``.gguf`` file by its name.
    """
    place = Path(name)
    if not name or name.lower().endswith(".gguf") or any((p / SUMS).is_file() for p in (place, place.parent)):
        return None
    return str(place.resolve()) if place.is_dir() else name


def without_bars() -> None:
    """Transformers draws no progress bars from here on; they would fall into our own."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def base_of(path: Path) -> str | None:
    """The model that the adapters in this folder belong to; None where it holds no adapters.

    Raises:
        StoreError: the folder does not say which one, or it is not where it was.
    """
    if not (path / _CONFIG).is_file():
        return None
    if (path / BASE).is_dir():
        return str(path / BASE)
    name = json.loads((path / _CONFIG).read_text()).get("base_model_name_or_path")
    if not name:
        raise StoreError(f"{path / _CONFIG} does not name the model that its adapters belong to")
    if Path(name).is_absolute() and not Path(name).exists():
        raise StoreError(f"the adapters in {path} belong to the model {name}, which is not there any more; put it back")
    return str(name)


def load_adapters(model: Any, path: Path) -> Any:
    """The model with the adapters of a folder, trainable.

    A model that came out of that folder has no name of its own: it will be saved beside the adapters again.

    Raises:
        MissingExtra: peft is not installed.
    """
    peft = _peft()
    if (path / BASE).is_dir():
        model.config.name_or_path = ""
    with _quiet():
        return peft.PeftModel.from_pretrained(model, path, is_trainable=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings that peft and transformers exchange about each other's names."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise MissingExtra("peft", "lora") from error
    return peft
