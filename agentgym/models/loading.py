"""Hugging Face causal language models, loaded by name."""

from __future__ import annotations

import contextlib
import io
import itertools
import struct
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from agentgym.errors import MissingExtra, UsageError
from agentgym.models.admission import admit
from agentgym.models.kinds import Precision, kind_of, newest_of
from agentgym.models.lora import base_of, load_adapters, without_bars
from agentgym.models.precision import chosen
from agentgym.store import RunFolder


def check_model(name: str, device: str) -> None:
    """Refuse what can be seen to be wrong without loading anything.

    Raises:
        UsageError: a path that is not there, or a device that is not there.
    """
    path = Path(name)
    if _is_gguf(name):
        if not path.is_file():
            raise UsageError(f"no model file {name!r}")
    elif name != "tiny" and not path.is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise UsageError(f"no model folder {name!r}")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without the device
        raise UsageError(f"device={device!r} cannot be used: {str(error).splitlines()[0]}") from error


def load(name: str, *, dtype: Precision = "auto", device: str = "cpu") -> tuple[Any, Any]:
    """The model of a name, and its tokenizer: what ``--model`` and ``--policy`` take.

    Args:
        name: a local folder in Hugging Face format, one of LoRA adapters (which brings its model along), a hub name,
            a run's folder (its newest checkpoint), or a ``.gguf`` file, whose weights are dequantised.
        dtype: of the weights, but of adapters: these are float32. ``auto`` is bfloat16 for a pre-trained model on a
            device that computes it natively, else float32.

    Raises:
        UsageError: neither a model nor reachable by that name, or no such device.
        StoreError: the folder of a run without a checkpoint, or whose newest one is damaged.
        MissingExtra: a ``.gguf`` file, or adapters, without the package that reads them.
    """
    if (newest := newest_of(name)) != name:
        RunFolder(name).latest_checkpoint()  # every byte of it is as it was written
        name = newest
    check_model(name, device)
    without_bars()
    precision = "float32" if dtype == "auto" and kind_of(name) == "tiny" else chosen(dtype, device)
    try:
        base = None if _is_gguf(name) else base_of(Path(name))
        own_tokenizer = base is None or (Path(name) / "tokenizer_config.json").is_file()
        tokenizer = _tokenizer(name if own_tokenizer else str(base))
        model = _weights(base or name, precision)
    except (OSError, ValueError, LookupError, EOFError, struct.error, SafetensorError, UnpicklingError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"cannot load model {name!r}: {first} (give a local folder, a hub name, or 'tiny')") from error
    model = model.to(device)
    if base is not None:
        model = load_adapters(model, Path(name))
    realign(model)
    admit(model)
    return model, tokenizer


def load_to_learn(
    name: str, precision: Literal["bfloat16", "float32"], device: str, *, lora: bool = False
) -> tuple[Any, Any]:
    """As :func:`load`, with what will be learned in float32; see :func:`~agentgym.models.precision.compute_in`.

    Args:
        precision: what it will compute in; weights that are frozen under adapters come in it.
        lora: whether adapters will be put on it.
    """
    frozen = lora or kind_of(name) == "adapters"
    return load(name, dtype=precision if frozen else "float32", device=device)


def _is_gguf(name: str) -> bool:
    return name.lower().endswith(".gguf")


def _place(name: str) -> tuple[str, dict[str, str]]:
    """Where transformers finds a model, and under which options."""
    if not _is_gguf(name):
        return name, {}
    if find_spec("gguf") is None:
        raise MissingExtra("gguf", "gguf")
    return str(Path(name).parent), {"gguf_file": Path(name).name}


def _weights(name: str, precision: Literal["bfloat16", "float32"]) -> Any:
    from transformers import AutoModelForCausalLM

    dtype = getattr(torch, precision)
    place, options = _place(name)
    if not options:
        return AutoModelForCausalLM.from_pretrained(place, dtype=dtype, trust_remote_code=False)
    with contextlib.redirect_stderr(io.StringIO()):  # a bar that nothing else turns off
        model = AutoModelForCausalLM.from_pretrained(place, dtype=dtype, trust_remote_code=False, **options)
    return _unquantised(model, name)


def _unquantised(model: Any, name: str) -> Any:
    """The same weights in a model that knows nothing of the file's quantisation: it can be trained and saved."""
    config, generation = model.config, model.generation_config
    del config.quantization_config
    config.name_or_path = name
    plain = type(model)(config)
    plain.load_state_dict(model.state_dict(), assign=True)  # of whichever precision; buffers stay as they are
    plain.tie_weights()
    plain.generation_config = generation
    return plain.eval()


def _tokenizer(name: str) -> Any:
    """The tokenizer as it was saved. By the model's type alone, transformers would split a generic one's words anew."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    place, options = _place(name)
    kind = None if options else get_tokenizer_config(name).get("tokenizer_class")
    generic = kind in ("TokenizersBackend", "PreTrainedTokenizerFast")
    return (PreTrainedTokenizerFast if generic else AutoTokenizer).from_pretrained(
        place, trust_remote_code=False, **options
    )


def realign(model: nn.Module) -> None:
    """Move every weight and buffer into fresh memory; tied weights stay tied.

    A matrix product may add up in another order when its operands begin at other addresses, so equal numbers at unequal
    alignment are not enough for an exact continuation. A loaded tensor often lies inside the bytes of a file, at any
    address; every tensor that torch itself allocates begins at a multiple of 64.
    """
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        tensor.data = tensor.data.clone()


def realigned(tree: Any) -> Any:
    """A copy of nested dicts, lists and tuples with every tensor in fresh memory; see :func:`realign`."""
    if isinstance(tree, Tensor):
        return tree.clone()
    if isinstance(tree, dict):
        return {key: realigned(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(map(realigned, tree))
    return tree
