"""Hugging Face causal language models: loaded by name, and as policies."""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

from agentgym.errors import MissingExtra, PolicyError, UsageError
from agentgym.policy import Reply, Request
from agentgym.records import Episode, Sample, StopReason, Usage
from agentgym.trainers.admission import admit
from agentgym.trainers.attention import longest_context
from agentgym.trainers.chat import Chat
from agentgym.trainers.contexts import Context, full_history
from agentgym.trainers.defaults import Precision, kind_of, newest_of
from agentgym.trainers.generation import Engine, Generation, common_prefix
from agentgym.trainers.lora import base_of, load_adapters, without_bars
from agentgym.trainers.memory import realign
from agentgym.trainers.precision import chosen
from agentgym.trainers.rows import sampled_ids


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
        StoreError: the folder of a run without a checkpoint.
        MissingExtra: a ``.gguf`` file, or adapters, without the package that reads them.
    """
    name = newest_of(name)
    check_model(name, device)
    without_bars()
    precision = "float32" if dtype == "auto" and kind_of(name) == "tiny" else chosen(dtype, device)
    try:
        base = None if _is_gguf(name) else base_of(Path(name))
        own_tokenizer = base is None or (Path(name) / "tokenizer_config.json").is_file()
        tokenizer = _tokenizer(name if own_tokenizer else str(base))
        model = _weights(base or name, precision)
    except (OSError, ValueError, LookupError, struct.error) as error:
        first = str(error).splitlines()[0]
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
    """As :func:`load`, with what will be learned in float32; see :func:`~agentgym.trainers.precision.compute_in`.

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
        return AutoModelForCausalLM.from_pretrained(place, dtype=dtype)
    with contextlib.redirect_stderr(io.StringIO()):  # a bar that nothing else turns off
        model = AutoModelForCausalLM.from_pretrained(place, dtype=dtype, **options)
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
    return (PreTrainedTokenizerFast if generic else AutoTokenizer).from_pretrained(place, **options)


@dataclass(slots=True)
class _Episode:
    """What is kept for a running episode: its slot, and the last context and action."""

    slot: int
    context: list[int] = field(default_factory=list)
    action: list[int] = field(default_factory=list)
    keep: int = 0
    future: Future[Reply] | None = None
    probe: int = 0  #: show the first so many tokens, by calling ``probed``
    probed: Callable[[Reply], None] | None = None


class ModelPolicy:
    """A local model that answers all running episodes together (continuous batching, keys and values kept).

    Args:
        model, tokenizer: from :func:`load` or :func:`tiny`.
        context: what the policy sees.
        temperature: 1 for training; 0 is greedy.
        top_p: nucleus sampling, for evaluation only.
        max_new_tokens: length limit of an action.
        max_context: an episode whose next context does not fit ends with ``CONTEXT_FULL``.
        entropies: record them with every sample.
        admissible: draw every action among ``info["admissible"]``: token by token from the model's distribution over
            what can still become one of them. The samples then say what each token was drawn among.
        version: number of updates behind the weights; written into the samples.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        context: Context | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_new_tokens: int = 64,
        max_context: int | None = None,
        entropies: bool = False,
        admissible: bool = False,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.chat = Chat.of(model, tokenizer)
        self.context = context or full_history()
        self.max_new_tokens = max_new_tokens
        self.admissible = admissible
        self._closed = lru_cache(maxsize=65536)(self.chat.closed)
        self._window = longest_context(model)
        self.max_context = min(max_context or self._window, self._window)
        self.version = 0
        self._instructions = ""
        self.engine = Engine(
            model,
            self.chat.ends,
            temperature=temperature,
            top_p=top_p,
            entropies=entropies,
            max_context=self.max_context,
        )
        self._episodes: dict[str, _Episode] = {}
        self._working: dict[int, tuple[str, Generation]] = {}

    @property
    def vocabulary(self) -> int:
        """How many tokens a distribution is over; ln of it is the largest entropy."""
        return int(self.model.config.get_text_config().vocab_size)

    def submit(self, request: Request) -> Reply | Future[Reply]:
        state = self._episodes.get(request.episode)
        if state is None:
            state = self._episodes[request.episode] = self._opened(request)
        self._instructions = request.instructions
        before = [*state.context, *state.action]
        context = self.context(self.chat, request, before)
        if len(context) >= self.max_context:
            return Reply("", stop=StopReason.CONTEXT_FULL)
        state.keep = common_prefix(before, context)
        state.context, state.action = context, []
        state.future = Future()
        state.probe, state.probed = request.probe, request.probed
        generation = self.engine.submit(
            state.slot, context, request.key, self.max_new_tokens, among=self._among(request)
        )
        self._working[id(generation)] = (request.episode, generation)
        return state.future

    def advance(self) -> bool:
        if not self.engine.busy:
            return False
        self.model.eval()
        for generation in self.engine.step():
            episode, _ = self._working.pop(id(generation))
            self._answer(self._episodes[episode], generation)
        for episode, generation in list(self._working.values()):
            state = self._episodes[episode]
            if state.probed is not None and len(generation.action) >= state.probe:
                probed, state.probed = state.probed, None
                probed(Reply("", self._sample(state, generation)))
        return True

    def release(self, episode: str) -> None:
        state = self._episodes.pop(episode, None)
        if state is not None:
            self.engine.close(state.slot)

    def updated(self) -> None:
        """The weights changed: count a version and drop all kept keys and values."""
        self.version += 1
        self.engine.forget()

    def after(self, episode: Episode) -> list[int]:
        """The context that would have come after the episode's last turn, as far as it fits the model's window."""
        request = Request(episode.id, 0, episode.final, {}, episode.turns, self._instructions)
        return self.context(self.chat, request, sampled_ids(episode.turns))[: self._window]

    def _among(self, request: Request) -> list[list[int]] | None:
        if not self.admissible:
            return None
        actions = request.info.get("admissible")
        if not actions:
            raise PolicyError("admissible=true needs info['admissible'], which this environment does not give")
        return [self._closed(action) for action in actions]

    def _opened(self, request: Request) -> _Episode:
        """State of an episode seen for the first time: empty, or what its parent or its record says."""
        state = _Episode(self.engine.open())
        parent = self._episodes.get(request.parent) if request.parent else None
        if parent is not None:
            self.engine.copy(parent.slot, state.slot)
        before = sampled_ids(request.turns)
        state.context = before
        return state

    def _answer(self, state: _Episode, done: Generation) -> None:
        state.action, state.probed = done.action, None
        usage = Usage(prompt_tokens=len(state.context), completion_tokens=len(done.action))
        assert state.future is not None
        state.future.set_result(Reply(self.chat.text(done.action), self._sample(state, done), usage))

    def _sample(self, state: _Episode, so_far: Generation) -> Sample:
        return Sample(
            state.keep,
            tuple(state.context[state.keep :]),
            tuple(so_far.action),
            tuple(so_far.logprobs),
            tuple(so_far.entropies),
            self.version,
            tuple(so_far.choices),
        )
