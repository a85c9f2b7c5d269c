"""A Hugging Face causal language model as a policy."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from agentgym.errors import PolicyError
from agentgym.models.attention import longest_context
from agentgym.models.chat_template import ChatTemplate
from agentgym.models.contexts import Context, full_history
from agentgym.models.engines.local import Engine, Generation, TokenSampling
from agentgym.policy import Reply, Request
from agentgym.records import Sample, StopReason, Usage, sampled_ids


@dataclass(slots=True)
class _Episode:
    """What is kept for a running episode: its KV slot, and the last context and action."""

    kv_slot: int
    context: list[int] = field(default_factory=list)
    action: list[int] = field(default_factory=list)
    before: list[int] = field(default_factory=list)  #: context and action of the turn before
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
        self.chat = ChatTemplate.of(model, tokenizer)
        self.context = context or full_history()
        self.max_new_tokens = max_new_tokens
        self.admissible = admissible
        self._closed = lru_cache(maxsize=65536)(self.chat.closed)
        self._window = longest_context(model)
        self.max_context = min(max_context or self._window, self._window)
        self.version = 0
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
        before = [*state.context, *state.action]
        context = self.context(self.chat, request, before)
        if len(context) >= self.max_context:
            return Reply("", stop=StopReason.CONTEXT_FULL)
        state.before, state.context, state.action = before, context, []
        state.future = Future()
        state.probe, state.probed = request.probe, request.probed
        asked = request.sampling
        drawn = None if asked.temperature is None else TokenSampling(asked.temperature, self.engine.top_p)
        length = asked.max_new_tokens or self.max_new_tokens
        generation = self.engine.submit(state.kv_slot, context, request.key, length, drawn, self._among(request))
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
            self.engine.close(state.kv_slot)

    def updated(self) -> None:
        """The weights changed: count a version and drop all kept keys and values."""
        self.version += 1
        self.engine.forget()

    def context_behind(self, request: Request) -> Sample:
        """The context that would have come after the episode's last turn, as far as it fits the model's window."""
        before = sampled_ids(request.turns)
        return Sample.behind(before, self.context(self.chat, request, before)[: self._window], ())

    def _among(self, request: Request) -> list[list[int]] | None:
        if not self.admissible:
            return None
        actions = request.info.get("admissible")
        if not actions:
            raise PolicyError("rollout.admissible=true needs info['admissible'], which this environment does not give")
        return [self._closed(action) for action in actions]

    def _opened(self, request: Request) -> _Episode:
        """State of an episode seen for the first time: empty, or what its parent or its record says."""
        state = _Episode(self.engine.open())
        parent = self._episodes.get(request.parent) if request.parent else None
        if parent is not None:
            self.engine.copy(parent.kv_slot, state.kv_slot)
        before = sampled_ids(request.turns)
        state.context = before
        return state

    def _answer(self, state: _Episode, done: Generation) -> None:
        state.action, state.probed = done.action, None
        usage = Usage(prompt_tokens=len(state.context), completion_tokens=len(done.action))
        assert state.future is not None
        state.future.set_result(Reply(self.chat.text(done.action), self._sample(state, done), usage))

    def _sample(self, state: _Episode, so_far: Generation) -> Sample:
        return Sample.behind(
            state.before,
            state.context,
            so_far.action,
            logprobs=tuple(so_far.logprobs),
            entropies=tuple(so_far.entropies),
            version=self.version,
            choices=tuple(so_far.choices),
        )
