"""A policy that asks a server for every action."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any, Literal, Self

from agentgym.budget.prices import Prices
from agentgym.endpoint.server import ContextFull, Server, UnreadableAnswer
from agentgym.endpoint.wire import (
    Answer,
    WireSampling,
    chat_body,
    completion_body,
    generate_body,
    messages,
    read_chat,
    read_completion,
    read_generate,
)
from agentgym.errors import PolicyError, UnknownName, UsageError
from agentgym.policy import Reply, Request
from agentgym.records import Sample, StopReason, Usage, sampled_ids
from agentgym.waiting import Threads

Api = Literal["chat", "completion", "generate"]


class EndpointPolicy:
    """Asks a server for every action, many at the same time; a context manager.

    Three ways to ask (``api``):

    * ``chat``: the whole episode as messages to ``/chat/completions``, with native tool calls where ``tools`` are
      given. A model's separate reasoning (``reasoning_content``) is not part of its action.
    * ``completion``: token ids in, token ids out, by ``/completions`` (vLLM), so nothing is tokenised twice.
    * ``generate``: the same by SGLang's own ``/generate``.

    What may pass is tried again (:class:`~agentgym.endpoint.server.Server`); what remains is a one-line PolicyError,
    which ends that episode. An episode that does not fit the model's window ends with ``CONTEXT_FULL``. Every request
    carries a seed of its own (``request.key``), so a server that obeys it answers a repeated run in the same way.

    Args:
        url: base address, e.g. ``http://localhost:8000/v1``.
        model: the name that the server knows; left out, the only one it offers.
        api: see above.
        tools: function schemas to offer as native tools (``toolbox.schemas()``); the environment's syntax must then be
            ``native``.
        temperature, top_p: sampling.
        max_tokens: length limit of an action; lowered to what a token budget leaves.
        stop: texts (``chat``) or token ids (the others) that end an action.
        samples: with ``chat``, record token ids and log-probabilities where the server tells them (vLLM does).
        encode: ``encode(request, before) -> ids`` of the whole context, for the other two; ``before`` holds the
            previous context and action as they were.
        decode: ids of an action -> its text, without the end-of-turn token.
        extra: further fields of every request, e.g. ``{"top_k": 20}``.
        prices: price list for the cost in ``usage``.
        concurrency: requests at the same time.
        **server: ``key_variable``, ``timeout``, ``retries``, ``backoff`` of :class:`~agentgym.endpoint.server.Server`.

    Raises:
        UsageError: arguments that do not go together.
    """

    remote = True

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        api: Api = "chat",
        tools: Sequence[Mapping[str, Any]] = (),
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_tokens: int = 512,
        stop: Sequence[str] | Sequence[int] = (),
        samples: bool = False,
        encode: Callable[[Request, Sequence[int]], Sequence[int]] | None = None,
        decode: Callable[[Sequence[int]], str] | None = None,
        extra: Mapping[str, Any] | None = None,
        prices: Prices | None = None,
        concurrency: int = 64,
        **server: Any,
    ) -> None:
        if api not in ("chat", "completion", "generate"):
            raise UnknownName("endpoint api", api, ["chat", "completion", "generate"])
        if api != "chat" and (encode is None or decode is None):
            raise UsageError(f"api={api!r} works on token ids: give encode= and decode=, or use api='chat'")
        if api != "chat" and tools:
            raise UsageError(f"api={api!r} has no native tool calls; use api='chat', or another syntax without tools=")
        if concurrency < 1 or max_tokens < 1:
            raise UsageError(f"concurrency and max_tokens must be at least 1, got {concurrency} and {max_tokens}")
        self.model, self.api, self.tools = model, api, tuple(tools)
        self.server = Server(url, connections=concurrency, **server)
        self._sampling = WireSampling(temperature, top_p, max_tokens, tuple(stop))  # type: ignore[arg-type]
        self._samples, self._encode, self._decode = samples, encode, decode
        self._extra, self._prices = dict(extra or {}), prices or Prices()
        self._lock = threading.Lock()
        self._threads = Threads("agentgym-endpoint", concurrency)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop asking, and close the connections."""
        self._threads.close()
        self.server.close()

    def check(self) -> str:
        """The model that will be asked, once the server has said that it has it.

        A server that is there but fails to list its models is believed to have the one that was named.

        Raises:
            PolicyError: the server cannot be reached, or does not have the model.
        """
        with self._lock:
            try:
                names = self.server.get("/models", _model_names, retries=2)
            except PolicyError:
                if self.model is None or not self.server.reached:
                    raise
                return self.model
            if self.model is None and len(names) == 1:
                self.model = names[0]
            if self.model is None:
                raise PolicyError(f"{self.server.url} offers {len(names)} models; choose one: {', '.join(names)[:300]}")
            if self.model not in names:
                raise PolicyError(f"{self.server.url}: {UnknownName('model', self.model, names)}")
            return self.model

    def submit(self, request: Request) -> Future[Reply]:
        return self._threads.submit(partial(self._reply, request))

    def advance(self) -> bool:
        return False

    def release(self, episode: str) -> None:
        return

    def _reply(self, request: Request) -> Reply:
        before = sampled_ids(request.turns)
        try:
            context, answer = self._asked(request, before)
        except ContextFull:
            return Reply("", stop=StopReason.CONTEXT_FULL)
        cost = self._prices.tokens(self.model or "", answer.prompt_tokens, answer.completion_tokens)
        usage = Usage(answer.prompt_tokens, answer.completion_tokens, cost)
        text = answer.text if self.api == "chat" or self._decode is None else self._decode(answer.action)
        if not context or not answer.action:
            return Reply(text, usage=usage)
        return Reply(text, Sample.behind(before, context, answer.action, logprobs=answer.logprobs), usage)

    def _asked(self, request: Request, before: Sequence[int]) -> tuple[Sequence[int], Answer]:
        """The context's token ids, where they are known, and the answer."""
        how = replace(self._sampling, max_tokens=self._length(request), seed=request.key >> 33)
        if request.sampling.temperature is not None:
            how = replace(how, temperature=request.sampling.temperature)
        if self.api == "chat":
            chat = messages(request, native=bool(self.tools))
            body = chat_body(self._model(), chat, self.tools, how, samples=self._samples)
            answer = self._post("/chat/completions", body, read_chat, request)
            return answer.context, answer
        assert self._encode is not None
        context = list(self._encode(request, before))
        if self.api == "completion":
            body = completion_body(self._model(), context, how)
            return context, self._post("/completions", body, read_completion, request)
        path = self.server.url.removesuffix("/v1") + "/generate"
        return context, self._post(path, generate_body(context, how), read_generate, request)

    def _post(self, path: str, body: dict[str, Any], read: Callable[[Any], Answer], request: Request) -> Answer:
        return self.server.post(path, {**body, **self._extra}, read, key=request.key)

    def _model(self) -> str:
        return self.model if self.model is not None else self.check()

    def _length(self, request: Request) -> int:
        """How long the action may be: a token budget (``info["budget"]``) lowers it, to no less than one token."""
        info: Mapping[str, Any] = request.info
        limit = request.sampling.max_new_tokens or self._sampling.max_tokens
        left = info.get("budget", {}).get("tokens", limit)
        return max(1, min(limit, int(left)))


def _model_names(told: Any) -> list[str]:
    listed = told.get("data") if isinstance(told, dict) else None
    if not isinstance(listed, list) or not all(isinstance(m, dict) and isinstance(m.get("id"), str) for m in listed):
        raise UnreadableAnswer("it does not list models; is the address complete, with its /v1?")
    return [m["id"] for m in listed]
