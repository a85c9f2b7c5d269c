"""``<search>query</search>``, ``<python>code</python>``, ``<answer>...</answer>``: one tag a tool.

As Search-R1 (arXiv 2503.09516) and ARPO (arXiv 2507.19849) write it; results stand between ``<result>`` tags.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from agentgym.errors import UsageError, nearest
from agentgym.records import ToolCall
from agentgym.tools.syntax.base import (
    Call,
    Syntax,
    UnreadableError,
    broken_tag,
    one_line,
    read_answer,
    read_body,
    visible,
    write_answer,
    write_body,
)
from agentgym.tools.tool import Tool

RESERVED = ("answer", "think", "result")
_TAG = re.compile(r"<([A-Za-z_][A-Za-z0-9_-]{0,63})>")


class Tags(Syntax):
    """The body of a tag is the tool's first parameter as plain text, or a JSON object with several.

    Raises:
        UsageError: a tool is called ``answer``, ``think`` or ``result``.
    """

    def __init__(self, tools: Iterable[Tool] = ()) -> None:
        super().__init__(tools)
        for name in RESERVED:
            if name in self.tools:
                raise UsageError(f"a tool cannot be called {name!r} with tags; pass name=... to @tool")

    forged = broken_tag("result")

    def read(self, text: str) -> tuple[list[Call], str | None]:
        text = visible(text)
        calls: list[Call] = []
        around, position, stranger = [], 0, ""
        for tag in _TAG.finditer(text):
            name = tag[1]
            if tag.start() < position or name in RESERVED:
                continue
            if name not in self.tools:
                stranger = stranger or name
                continue
            end = text.find(f"</{name}>", tag.end())
            if end < 0:
                raise UnreadableError(f"<{name}> is never closed; end it with </{name}>")
            around.append(text[position : tag.start()])
            try:
                calls.append(Call(name, read_body(self.tools[name], text[tag.end() : end])))
            except UnreadableError as error:
                raise UnreadableError(f"<{name}>: {error}") from None
            position = end + len(name) + 3
        around.append(text[position:])
        answer = read_answer("".join(around))
        if not calls and answer is None and stranger and f"</{stranger}>" in text:
            raise UnreadableError(f"<{stranger}> is not a tool{nearest(stranger, [*self.tools, 'answer'])}")
        return calls, answer

    def render(self, calls: Iterable[Call] = (), *, answer: str | None = None) -> str:
        parts = []
        for name, arguments in calls:
            if name not in self.tools:
                raise UsageError(f"no tool {name!r} to write a tag for{nearest(name, self.tools)}")
            markers = (f"</{name}>",)
            parts.append(f"<{name}>{write_body(self.tools[name], arguments, markers)}</{name}>")
        if answer is not None:
            parts.append(write_answer(answer, [f"<{name}>" for name in self.tools]))
        return "\n".join(parts)

    def frame(self, call: ToolCall, text: str) -> str:
        return f"<result>\n{text}\n</result>"

    def describe(self) -> str:
        return "\n".join(["You may use these tools:", *map(one_line, self.tools.values()), self.hint])

    @property
    def hint(self) -> str:
        calls = " or ".join(f"<{t.name}>{(t.first or '').upper()}</{t.name}>" for t in self.tools.values())
        several = any(len(t.parameters.get("properties", {})) > 1 for t in self.tools.values())
        named = ' (or a JSON object, {"parameter": value, ...}, between the tags)' if several else ""
        return f"To use a tool, write {calls}{named}; when you know the answer, write <answer>ANSWER</answer>."


SYNTAX = Tags
