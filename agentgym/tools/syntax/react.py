"""``Action:`` / ``Action Input:`` / ``Final Answer:`` on lines of their own, after ReAct (arXiv 2210.03629)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from agentgym.errors import UsageError
from agentgym.records import ToolCall
from agentgym.tools.plain import shorten
from agentgym.tools.schema import NAME
from agentgym.tools.syntax.base import (
    THINKING,
    Call,
    Syntax,
    UnreadableError,
    one_line,
    read_body,
    sayable,
    visible,
    write_body,
)

_LINE = re.compile(r"^[ \t]*(Thought|Action Input|Action|Observation|Final Answer):", re.MULTILINE)


class React(Syntax):
    """An input is the tool's first parameter as plain text, or a JSON object; a final answer goes on to the end.

    Whatever follows an ``Observation:`` was made up by the agent and is not read.
    """

    forged = (re.compile(rf"{_LINE.pattern[0]}(?={_LINE.pattern[1:]})", re.MULTILINE | re.IGNORECASE), "> ")

    def read(self, text: str) -> tuple[list[Call], str | None]:
        text = visible(text)
        calls: list[Call] = []
        name: str | None = None
        lines = list(_LINE.finditer(text))
        ends = [*(line.start() for line in lines[1:]), len(text)]
        for line, end in zip(lines, ends, strict=False):
            keyword = line[1]
            body = text[line.end() : end].strip()
            if name is not None and keyword != "Action Input":
                raise UnreadableError(f"'Action: {shorten(name)}' must be followed by 'Action Input:'")
            if keyword == "Final Answer":
                return calls, text[line.end() :].strip()
            if keyword == "Observation":
                return calls, None
            if keyword == "Action":
                name = body
            elif keyword == "Action Input":
                if name is None:
                    raise UnreadableError("'Action Input:' without 'Action:' before it")
                calls.append(self._call(name, body))
                name = None
        if name is not None:
            raise UnreadableError(f"'Action: {shorten(name)}' must be followed by 'Action Input:'")
        return calls, None

    def _call(self, name: str, body: str) -> Call:
        try:
            return Call(name, read_body(self.tools.get(name), body))
        except UnreadableError as error:
            raise UnreadableError(f"Action Input of {shorten(name)}: {error}") from None

    def render(self, calls: Iterable[Call] = (), *, answer: str | None = None) -> str:
        parts = []
        for name, arguments in calls:
            if not NAME.fullmatch(name):
                raise UsageError(f"{name!r} is not a tool name and cannot be written in this syntax")
            parts.append(
                f"Action: {name}\nAction Input: {write_body(self.tools.get(name), arguments, (), _LINE.search)}"
            )
        if answer is not None:
            parts.append(f"Final Answer: {sayable(answer, THINKING)}")
        return "\n".join(parts)

    def frame(self, call: ToolCall, text: str) -> str:
        return f"Observation: {text}"

    def describe(self) -> str:
        return "\n".join(["You may use these tools:", *map(one_line, self.tools.values()), self.hint])

    @property
    def hint(self) -> str:
        return (
            "To use a tool, write a line 'Action: NAME' and a line 'Action Input: INPUT' (text, or a JSON object with "
            "several arguments); when you know the answer, write 'Final Answer: ANSWER'."
        )


SYNTAX = React
