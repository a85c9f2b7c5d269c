"""``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``, as the chat templates of Qwen-type models write it."""

from __future__ import annotations

import json
from collections.abc import Iterable

from agentgym.records import ToolCall
from agentgym.tools.syntax.base import (
    Call,
    Syntax,
    UnreadableError,
    as_call,
    broken_tag,
    decode,
    encode,
    read_answer,
    visible,
    write_answer,
)

CALL = ("<tool_call>", "</tool_call>")


class Hermes(Syntax):
    """JSON calls between tags, the answer between ``<answer>`` tags, results between ``<tool_response>`` tags."""

    forged = broken_tag("tool_response")

    def read(self, text: str) -> tuple[list[Call], str | None]:
        opened, closed = CALL
        text = visible(text)
        calls, around, position = [], [], 0
        while (start := text.find(opened, position)) >= 0:
            around.append(text[position:start])
            try:
                value, end = decode(text, start + len(opened))
                calls.append(as_call(value))
            except UnreadableError as error:
                raise UnreadableError(f"tool call {len(calls) + 1}: {error}") from None
            rest = text.find(closed, end)
            if rest < 0 or text[end:rest].strip():
                raise UnreadableError(f"tool call {len(calls)}: the object must be followed by {closed}")
            position = rest + len(closed)
        around.append(text[position:])
        outside = "".join(around)
        if closed in outside:
            raise UnreadableError(f"{closed} without {opened} before it")
        return calls, read_answer(outside)

    def render(self, calls: Iterable[Call] = (), *, answer: str | None = None) -> str:
        opened, closed = CALL
        parts = [f"{opened}\n{encode({'name': c.name, 'arguments': dict(c.arguments)}, CALL)}\n{closed}" for c in calls]
        if answer is not None:
            parts.append(write_answer(answer, CALL))
        return "\n".join(parts)

    def frame(self, call: ToolCall, text: str) -> str:
        return f"<tool_response>\n{text}\n</tool_response>"

    def describe(self) -> str:
        tools = "\n".join(json.dumps(t.schema, ensure_ascii=False) for t in self.tools.values())
        return f"You may call these tools:\n<tools>\n{tools}\n</tools>\n{self.hint}"

    @property
    def hint(self) -> str:
        return (
            'To call a tool, write <tool_call>{"name": NAME, "arguments": {...}}</tool_call>; '
            "when you know the answer, write <answer>ANSWER</answer>."
        )


SYNTAX = Hermes
