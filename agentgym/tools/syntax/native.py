"""The native tool calls of OpenAI-style endpoints: an action is the assistant message as JSON, or plain content.

::

    {"content": "...", "tool_calls": [{"type": "function", "function": {"name": "search", "arguments": "{...}"}}]}

A message without tool calls is the final answer, as these endpoints mean it. The message begins with one of these keys,
``role`` or ``reasoning_content``; anything else is content.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from agentgym.records import ToolCall
from agentgym.tools.syntax.base import (
    THINKING,
    Call,
    Syntax,
    UnreadableError,
    as_call,
    decode_all,
    encode,
    one_line,
    sayable,
    visible,
)

_MESSAGE = re.compile(r'\s*\{\s*"(role|content|tool_calls|reasoning_content)"\s*:')


class Native(Syntax):
    """Calls that an endpoint has already parsed; ``arguments`` may be a JSON text (as endpoints send) or an object."""

    native = True

    def read(self, text: str) -> tuple[list[Call], str | None]:
        if not _MESSAGE.match(text):
            text = visible(text).strip()
        if not _MESSAGE.match(text):
            return [], text or None
        message = decode_all(text)
        content, listed = message.get("content"), message.get("tool_calls")
        if content is not None and not isinstance(content, str):
            raise UnreadableError('"content" of the message must be a text or null')
        if listed is not None and not isinstance(listed, list):
            raise UnreadableError('"tool_calls" of the message must be a list or null')
        calls = [_call(entry, number) for number, entry in enumerate(listed or (), 1)]
        # What is said next to calls is thinking aloud, not an answer.
        return calls, None if calls else (visible(content or "").strip() or None)

    def render(self, calls: Iterable[Call] = (), *, answer: str | None = None) -> str:
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if answer is None else sayable(answer, THINKING),
        }
        listed = [
            {"type": "function", "function": {"name": c.name, "arguments": encode(dict(c.arguments))}} for c in calls
        ]
        if listed:
            message["tool_calls"] = listed
        return encode(message)

    def frame(self, call: ToolCall, text: str) -> str:
        return json.dumps({"role": "tool", "name": call.name, "content": text}, ensure_ascii=False)

    def describe(self) -> str:
        return "\n".join(["You may call these tools:", *map(one_line, self.tools.values()), self.hint])

    @property
    def hint(self) -> str:
        return "Call a tool by a native tool call; when you know the answer, write it as a message without tool calls."


def _call(entry: object, number: int) -> Call:
    """One entry of ``tool_calls``."""
    function = entry.get("function") if isinstance(entry, dict) else None
    try:
        if isinstance(function, dict) and isinstance(text := function.get("arguments"), str):
            function = {**function, "arguments": decode_all(text) if text.strip() else {}}
        return as_call(function)
    except UnreadableError as error:
        raise UnreadableError(f"tool call {number}: {error}") from None


SYNTAX = Native
