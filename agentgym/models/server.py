"""A model behind the part of vLLM's HTTP interface that agents need: completions by token ids, and chats.

``POST /v1/completions``, ``POST /v1/chat/completions``, ``GET /v1/models`` and ``GET /health``, with vLLM's names. As
there, fields that nobody knows are ignored; what vLLM knows and this server does not do is refused, never ignored.

Log-probabilities are those of the distribution at the request's temperature (vLLM: ``--logprobs-mode
processed_logprobs``), before ``top_p``; greedy requests get those at temperature 1. A seed decides the tokens.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from agentgym import keyed_random
from agentgym.endpoint.guard import ServerLimits
from agentgym.endpoint.listen import listen
from agentgym.errors import MissingExtra, PolicyError, UsageError, nearest
from agentgym.models.attention import longest_context
from agentgym.models.chat_template import ChatTemplate
from agentgym.models.engines.engine_thread import EngineThread
from agentgym.models.engines.local import Generation, TokenSampling
from agentgym.models.plain_text import PlainText

MOST_ACTIONS = 256  #: that one request may ask for: its prompts times n
_Ids = list[Annotated[int, Field(strict=True, ge=0)]]
#: what vLLM knows beyond this server, and the values that change nothing
_UNDONE: dict[str, tuple[Any, ...]] = {
    "stream": (False,),
    "stop": ([], ""),
    "tools": ([],),
    "tool_choice": ("none",),
    "response_format": ({"type": "text"},),
    "top_k": (0, -1),
    "min_p": (0,),
    "min_tokens": (0,),
    "top_logprobs": (0,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "ignore_eos": (False,),
    "use_beam_search": (False,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "prompt_logprobs": (),
    "prompt_embeds": (),
    "truncate_prompt_tokens": (),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "chat_template": (),
}
#: fields of a message, beside role and content, that a template could show
_BEYOND_TEXT = ("tool_calls", "function_call", "reasoning_content", "reasoning")


class _Asked(BaseModel):
    """What both kinds of request have in common."""

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    stop_token_ids: _Ids | None = None
    n: Annotated[int, Field(ge=1, le=256)] = 1
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    skip_special_tokens: bool = True


class CompletionRequest(_Asked):
    """What ``POST /v1/completions`` reads; ``prompt`` is a text, a list of token ids, or a list of either."""

    prompt: Any
    max_tokens: Annotated[int, Field(ge=1)] = 16
    logprobs: Annotated[int, Field(ge=0)] | None = None


class ChatRequest(_Asked):
    """What ``POST /v1/chat/completions`` reads."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False


class Refused(Exception):
    """A request that cannot be obeyed; becomes the answer's status and text."""

    def __init__(self, status: int, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status, self.field = status, field


class Service:
    """A model that answers requests; the protocol without HTTP.

    Args:
        model, tokenizer: from :func:`agentgym.models.loading.load`.
        name: what clients call the model.
        max_concurrent_requests: requests in work at the same time; more wait.

    Raises:
        UsageError: the tokenizer has no chat template.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str, *, max_concurrent_requests: int = 64) -> None:
        self.tokenizer, self.name = tokenizer, name
        self._chat_template = ChatTemplate.of(model, tokenizer)
        self._ends = self._chat_template.ends
        self._encoded = PlainText(tokenizer)
        self.window = longest_context(model)
        self._vocabulary = int(model.config.get_text_config().vocab_size)
        self.started = int(time.time())
        self._engine = EngineThread(
            model, self._ends, max_context=self.window, max_concurrent_requests=max_concurrent_requests
        )

    def models(self) -> dict[str, Any]:
        """The answer of ``/v1/models``."""
        card = {"id": self.name, "object": "model", "created": self.started, "owned_by": "agentgym", "root": self.name}
        return {"object": "list", "data": [card | {"parent": None, "max_model_len": self.window}]}

    async def complete(self, asked: CompletionRequest) -> dict[str, Any]:
        """The answer of ``/v1/completions``.

        Raises:
            Refused: it cannot be obeyed.
            PolicyError: the model failed.
        """
        self._check(asked)
        if asked.logprobs:
            raise Refused(400, f"logprobs={asked.logprobs}: only the sampled token's are told; ask for 0", "logprobs")
        given = _prompts(asked.prompt)
        _check_number(len(given), asked.n)
        prompts = await asyncio.to_thread(lambda: [self._tokens(prompt) for prompt in given])
        found = await self._generated(asked, prompts, asked.max_tokens)
        choices = []
        for index, done in enumerate(found):
            choice = self._choice(asked, index, done) | {"text": self._text(asked, done), "logprobs": None}
            if asked.logprobs is not None:
                choice["logprobs"] = self._listed(asked, done)
            choice["prompt_token_ids"] = done.context if asked.return_token_ids else None
            choices.append(choice)
        return self._answer("cmpl", "text_completion", choices, prompts, found)

    async def chat(self, asked: ChatRequest) -> dict[str, Any]:
        """The answer of ``/v1/chat/completions``.

        Raises:
            Refused: it cannot be obeyed.
            PolicyError: the model failed.
        """
        self._check(asked)
        context = await asyncio.to_thread(self._conversation, asked.messages)
        wanted = asked.max_completion_tokens or asked.max_tokens or max(1, self.window - len(context))
        found = await self._generated(asked, [context], wanted)
        choices = []
        for index, done in enumerate(found):
            choice = self._choice(asked, index, done)
            choice["message"] = {"role": "assistant", "content": self._text(asked, done), "tool_calls": []}
            choice["logprobs"] = {"content": self._told(asked, done)} if asked.logprobs else None
            choices.append(choice)
        answer = self._answer("chatcmpl", "chat.completion", choices, [context], found)
        return answer | {"prompt_token_ids": context if asked.return_token_ids else None}

    # Requests ---------------------------------------------------------------------------------------------------------

    def _check(self, asked: _Asked) -> None:
        if asked.model is not None and asked.model != self.name:
            raise Refused(404, f"the model {asked.model!r} does not exist{nearest(asked.model, [self.name])}", "model")
        for field, value in (asked.model_extra or {}).items():
            if field in _UNDONE and value is not None and value not in _UNDONE[field]:
                raise Refused(400, f"{field}={str(value)[:80]!r} is not offered by this server; leave it out", field)

    def _tokens(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            prompt = self._encoded(prompt, special=True)
        if not prompt:
            raise Refused(400, "the prompt is empty; it needs at least one token", "prompt")
        if (beyond := max(prompt)) >= self._vocabulary:
            message = f"token id {beyond} is out of vocabulary; the model's end at {self._vocabulary - 1}"
            raise Refused(400, message, "prompt")
        return prompt

    def _conversation(self, messages: list[dict[str, Any]]) -> list[int]:
        try:
            return self._chat_template.conversation([_message(message) for message in messages])
        except UsageError as error:
            raise Refused(400, str(error), "messages") from error

    async def _generated(self, asked: _Asked, prompts: list[list[int]], wanted: int) -> list[Generation]:
        for prompt in prompts:
            if len(prompt) + wanted > self.window:
                raise Refused(
                    400,
                    f"this model's maximum context length is {self.window} tokens; the prompt has {len(prompt)} and "
                    f"max_tokens={wanted} is asked for",
                    "max_tokens",
                )
        seed = secrets.randbits(63) if asked.seed is None else asked.seed
        how = TokenSampling(asked.temperature, asked.top_p, self._ends | frozenset(asked.stop_token_ids or ()))
        futures = [
            self._engine.submit(prompt, keyed_random.key("serve", seed, number), wanted, how)
            for prompt in prompts
            for number in range(asked.n)
        ]
        return list(await asyncio.gather(*map(asyncio.wrap_future, futures)))

    # Answers ----------------------------------------------------------------------------------------------------------

    def _choice(self, asked: _Asked, index: int, done: Generation) -> dict[str, Any]:
        assert done.sampling is not None
        last = done.action[-1]
        stopped = last in done.sampling.stop
        return {
            "index": index,
            "finish_reason": "stop" if stopped else "length",
            "stop_reason": last if stopped and last not in self._ends else None,
            "token_ids": done.action if asked.return_token_ids else None,
        }

    def _text(self, asked: _Asked, done: Generation) -> str:
        """The action's text, without the token that ended it."""
        assert done.sampling is not None
        ids = done.action[:-1] if done.action[-1] in done.sampling.stop else done.action
        return self._decoded(ids, skip=asked.skip_special_tokens)

    def _decoded(self, ids: list[int], *, skip: bool = False) -> str:
        text = self.tokenizer.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
        return str(text)

    def _spelled(self, asked: _Asked, done: Generation) -> list[str]:
        if asked.return_tokens_as_token_ids:
            return [f"token_id:{i}" for i in done.action]
        return [self._decoded([i]) for i in done.action]

    def _listed(self, asked: _Asked, done: Generation) -> dict[str, Any]:
        tokens = self._spelled(asked, done)
        offsets = [0]
        for token in tokens[:-1]:
            offsets.append(offsets[-1] + len(token))
        told = [{token: logprob} for token, logprob in zip(tokens, done.logprobs, strict=True)]
        return {"tokens": tokens, "token_logprobs": done.logprobs, "text_offset": offsets, "top_logprobs": told}

    def _told(self, asked: _Asked, done: Generation) -> list[dict[str, Any]]:
        return [
            {"token": token, "logprob": logprob, "bytes": list(token.encode()), "top_logprobs": []}
            for token, logprob in zip(self._spelled(asked, done), done.logprobs, strict=True)
        ]

    def _answer(
        self, kind: str, name: str, choices: list[Any], prompts: list[list[int]], found: list[Generation]
    ) -> dict[str, Any]:
        read, written = sum(map(len, prompts)), sum(len(done.action) for done in found)
        usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        about = {"id": f"{kind}-{secrets.token_hex(16)}", "object": name, "created": int(time.time())}
        return {**about, "model": self.name, "choices": choices, "usage": usage}


def model_app(service: Service) -> Any:
    """The ASGI application."""
    try:
        from fastapi import FastAPI
        from fastapi.exceptions import RequestValidationError
        from fastapi.responses import JSONResponse
    except ImportError as error:
        raise MissingExtra("fastapi", "serve") from error
    app = FastAPI(title="agentgym model", docs_url=None, redoc_url=None)

    def problem(status: int, kind: str, message: str, field: str | None = None) -> Any:
        told = {"message": message, "type": kind, "param": field, "code": status}
        return JSONResponse({"error": told}, status_code=status)

    async def refused(_: Any, error: Refused) -> Any:
        return problem(
            error.status, "NotFoundError" if error.status == 404 else "BadRequestError", str(error), error.field
        )

    async def malformed(_: Any, error: Any) -> Any:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return problem(422, "UnprocessableEntityError", "the body is not JSON")
        field = ".".join(str(part) for part in first["loc"][1:])
        return problem(422, "UnprocessableEntityError", f"{field or 'body'}: {first['msg'].lower()}", field or None)

    async def failed(_: Any, error: PolicyError) -> Any:
        return problem(500, "InternalServerError", str(error))

    async def health() -> dict[str, str]:
        return {"status": "ok"}

    async def models() -> dict[str, Any]:
        return service.models()

    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(PolicyError, failed)
    app.add_api_route("/health", health, methods=["GET"])
    app.add_api_route("/v1/models", models, methods=["GET"])
    app.add_api_route("/v1/completions", service.complete, methods=["POST"])
    app.add_api_route("/v1/chat/completions", service.chat, methods=["POST"])
    return app


def serve_model(
    service: Service, host: str = "127.0.0.1", port: int = 8000, limits: ServerLimits | None = None
) -> None:
    """Serve until interrupted; prints the address once it listens. Port 0 takes a free one."""
    listen(model_app(service), "model server", host, port, limits)


def _prompts(given: Any) -> list[str | list[int]]:
    """One prompt or several, each a text or token ids."""
    several = given if isinstance(given, list) and given and isinstance(given[0], list | str) else [given]
    if all(isinstance(p, str) for p in several) or all(_are_ids(p) for p in several):
        return several
    raise Refused(422, "prompt: give a text, a list of token ids (whole numbers from 0), or a list of either", "prompt")


def _check_number(prompts: int, n: int) -> None:
    if prompts * n > MOST_ACTIONS:
        raise Refused(400, f"{prompts} prompts x n={n} are more than {MOST_ACTIONS} actions; ask for fewer", "n")


def _are_ids(given: Any) -> bool:
    return isinstance(given, list) and all(type(i) is int and i >= 0 for i in given)


def _message(message: dict[str, Any]) -> dict[str, str]:
    """Role and text; parts (``[{"type": "text", "text": ...}]``) are joined."""
    role, content = message.get("role"), message.get("content")
    parts = [{"type": "text", "text": content or ""}] if isinstance(content, str | None) else content
    if not isinstance(role, str) or not isinstance(parts, list):
        raise Refused(422, "messages: each needs a role and a content, both texts", "messages")
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    if len(texts) < len(parts) or not all(isinstance(text, str) for text in texts):
        raise Refused(400, "messages: this server reads texts only", "messages")
    if beyond := [name for name in _BEYOND_TEXT if message.get(name)]:
        raise Refused(
            400, f"messages: {beyond[0]} is not offered by this server; write it into the content", "messages"
        )
    return {"role": role, "content": "\n".join(map(str, texts))}
