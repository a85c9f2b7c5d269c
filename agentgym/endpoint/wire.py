"""What goes over the wire: requests built from an episode, answers read into one shape."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentgym.endpoint.server import UnreadableAnswer
from agentgym.errors import PolicyError
from agentgym.policy import Request

_LARGEST = 2**31  # ids and counts stay below
_ROUNDING = 1e-3


@dataclass(frozen=True, slots=True)
class WireSampling:
    """How an action is to be sampled; ``stop`` holds texts for chats and token ids for the others."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 512
    stop: tuple[str, ...] | tuple[int, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """An action, and what the server told about it.

    Attributes:
        text: the action; empty where only ids came.
        context, action, logprobs: token ids read and written, log-probabilities; empty where the server does not tell.
        prompt_tokens, completion_tokens: how many were read and written.
    """

    text: str
    context: tuple[int, ...] = ()
    action: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0


# Requests -------------------------------------------------------------------------------------------------------------


def messages(request: Request, *, native: bool) -> list[dict[str, Any]]:
    """The episode so far as a chat: instructions as the system message, observations as the user's, actions as the
    assistant's.

    Args:
        native: actions that are messages with tool calls, and the observations that answer them, are written as
            such (:mod:`agentgym.tools.syntax.native`).
    """
    chat: list[dict[str, Any]] = []
    if request.instructions:
        chat.append({"role": "system", "content": request.instructions})
    asked: list[str] = []
    for number, turn in enumerate(request.turns):
        chat += _heard(turn.observation, asked)
        said: dict[str, Any] = _said(turn.action, number) if native else {"role": "assistant", "content": turn.action}
        asked = [call["id"] for call in said.get("tool_calls", ())]
        chat.append(said)
    return chat + _heard(request.observation, asked)


def _said(action: str, number: int) -> dict[str, Any]:
    try:
        message = json.loads(action)
    except (ValueError, RecursionError):
        message = None
    calls = message.get("tool_calls") if isinstance(message, dict) else None
    if not isinstance(calls, list) or not calls or not all(isinstance(call, dict) for call in calls):
        return {"role": "assistant", "content": action}
    named = [{**call, "id": str(call.get("id") or f"call_{number}_{i}")} for i, call in enumerate(calls)]
    return {"role": "assistant", "content": message.get("content"), "tool_calls": named}


def _heard(observation: str, asked: Sequence[str]) -> list[dict[str, Any]]:
    """An observation; where calls were asked for, each must get a result, or servers refuse the chat."""
    if not asked:
        return [{"role": "user", "content": observation}]
    results: list[str] = []
    others: list[str] = []
    for line in observation.split("\n"):
        result = _tool_result(line)
        if result is None:
            others.append(line)
        else:
            results.append(result)
    if len(results) != len(asked):  # the action was not understood: no call was run
        results, others = [observation] * len(asked), []
    heard = [{"role": "tool", "tool_call_id": i, "content": r} for i, r in zip(asked, results, strict=True)]
    rest = "\n".join(others).strip()
    return [*heard, {"role": "user", "content": rest}] if rest else heard


def _tool_result(line: str) -> str | None:
    if not line.startswith("{"):
        return None
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        return None
    content = told.get("content") if isinstance(told, dict) and told.get("role") == "tool" else None
    return content if isinstance(content, str) else None


def chat_body(
    model: str,
    chat: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    how: WireSampling,
    *,
    samples: bool,
) -> dict[str, Any]:
    """A request to ``/chat/completions``; with ``samples``, vLLM is asked for token ids and log-probabilities."""
    body: dict[str, Any] = {
        "model": model,
        "messages": list(chat),
        "temperature": how.temperature,
        "top_p": how.top_p,
        "max_tokens": how.max_tokens,
        "seed": how.seed,
    }
    if how.stop:
        body["stop"] = list(how.stop)
    if tools:
        body["tools"] = list(tools)
    if samples:
        body |= {"logprobs": True, "return_token_ids": True}
    return body


def completion_body(model: str, context: Sequence[int], how: WireSampling) -> dict[str, Any]:
    """A request to ``/completions`` with token ids (vLLM)."""
    return {
        "model": model,
        "prompt": list(context),
        "temperature": how.temperature,
        "top_p": how.top_p,
        "max_tokens": how.max_tokens,
        "seed": how.seed,
        "stop_token_ids": list(how.stop),
        "logprobs": 0,
        "return_token_ids": True,
    }


def generate_body(context: Sequence[int], how: WireSampling) -> dict[str, Any]:
    """A request to SGLang's ``/generate``, which takes no seed."""
    params = {"temperature": how.temperature, "top_p": how.top_p, "max_new_tokens": how.max_tokens}
    return {
        "input_ids": list(context),
        "sampling_params": {**params, "stop_token_ids": list(how.stop)},
        "return_logprob": True,
    }


# Answers --------------------------------------------------------------------------------------------------------------


def read_chat(told: Any) -> Answer:
    """The answer of ``/chat/completions``. Tool calls come as the message in JSON, as the ``native`` syntax reads it.

    Raises:
        UnreadableAnswer: it is not one.
    """
    choice = _choice(told)
    message = _get(choice, "message", dict)
    content, calls = message.get("content"), message.get("tool_calls")
    if content is not None and not isinstance(content, str):
        raise UnreadableAnswer("the message's content is not a text")
    if calls is not None and not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        raise UnreadableAnswer("the message's tool_calls are not a list of calls")
    text = content or ""
    if calls:
        text = json.dumps({"role": "assistant", "content": content, "tool_calls": calls}, ensure_ascii=False)
    listed = _optional(_optional(choice, "logprobs", dict), "content", list)
    logprobs = [_get(entry, "logprob", (int, float)) for entry in listed]
    return _answer(text, told, told.get("prompt_token_ids"), choice.get("token_ids"), logprobs)


def read_completion(told: Any) -> Answer:
    """The answer of ``/completions`` to token ids.

    Raises:
        UnreadableAnswer: it is not one.
        PolicyError: the server does not tell token ids.
    """
    choice = _choice(told)
    logprobs = _optional(choice, "logprobs", dict)
    ids = choice.get("token_ids")
    if ids is None and (tokens := _optional(logprobs, "tokens", list)):
        ids = _spelled_ids(tokens)
    if ids is None:
        raise PolicyError("the server's completions carry no token ids (vLLM does from 0.10.2 on); use api='chat'")
    return _answer("", told, None, ids, _optional(logprobs, "token_logprobs", list))


def read_generate(told: Any) -> Answer:
    """The answer of SGLang's ``/generate``.

    Raises:
        UnreadableAnswer: it is not one.
    """
    if isinstance(told, list) and len(told) == 1:
        told = told[0]
    about = _get(told, "meta_info", dict)
    try:
        pairs = [(entry[0], entry[1]) for entry in _get(about, "output_token_logprobs", list)]
    except (TypeError, LookupError) as error:
        raise UnreadableAnswer("output_token_logprobs does not list (log-probability, id)") from error
    logprobs, ids = [logprob for logprob, _ in pairs], [i for _, i in pairs]
    return _answer("", {"usage": about}, None, told.get("output_ids") or ids, logprobs)


def _answer(text: str, told: Mapping[str, Any], context: Any, action: Any, logprobs: Sequence[Any]) -> Answer:
    context, action = _ids(context), _ids(action)
    if logprobs and len(logprobs) != len(action):
        if action:
            raise UnreadableAnswer(f"{len(action)} tokens came with {len(logprobs)} log-probabilities")
        logprobs = ()
    usage = _optional(told, "usage", dict)
    read, written = usage.get("prompt_tokens", len(context)), usage.get("completion_tokens", len(action))
    if not _whole(read) or not _whole(written):
        raise UnreadableAnswer("its usage does not count tokens")
    text = text.encode("utf-8", "replace").decode()  # JSON can hold half a surrogate pair, no file can
    return Answer(text, context, action, tuple(map(_logprob, logprobs)), read, written)


def _logprob(value: Any) -> float:
    """A log-probability; what rounding lifted over 0 is 0."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _LARGEST
    if not number or value > _ROUNDING:
        raise UnreadableAnswer("a log-probability is not a number up to 0")
    return min(float(value), 0.0)


def _whole(value: Any) -> bool:
    """Whether it is a count or an id."""
    return type(value) is int and 0 <= value < _LARGEST


def _choice(told: Any) -> dict[str, Any]:
    choices = _get(told, "choices", list)
    if not choices or not isinstance(choices[0], dict):
        raise UnreadableAnswer("it has no choices")
    first: dict[str, Any] = choices[0]
    return first


def _get(told: Any, name: str, kind: type | tuple[type, ...]) -> Any:
    if not isinstance(told, dict) or not isinstance(told.get(name), kind):
        raise UnreadableAnswer(f"{name!r} is missing or not what it should be, in {json.dumps(told)[:80]}")
    return told[name]


def _optional(told: Any, name: str, kind: type) -> Any:
    """As :func:`_get`; empty where it is missing or null."""
    return kind() if isinstance(told, dict) and told.get(name) is None else _get(told, name, kind)


def _ids(listed: Any) -> tuple[int, ...]:
    if listed is None:
        return ()
    if not isinstance(listed, (list, tuple)) or not all(map(_whole, listed)):
        raise UnreadableAnswer("token ids are not a list of whole numbers")
    return tuple(listed)


def _spelled_ids(tokens: Any) -> list[int] | None:
    """Ids written as ``token_id:17`` (vLLM's ``return_tokens_as_token_ids``)."""
    if not all(isinstance(token, str) and token.startswith("token_id:") for token in tokens):
        return None
    try:
        return [int(token.removeprefix("token_id:")) for token in tokens]
    except ValueError as error:
        raise UnreadableAnswer("a token id is not a number") from error
