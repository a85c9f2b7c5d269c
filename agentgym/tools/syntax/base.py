"""What every syntax does, and the pieces that they share: thinking, answers, and arguments as JSON or as plain text."""

from __future__ import annotations

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from agentgym.errors import UsageError
from agentgym.records import ToolCall
from agentgym.tools.plain import mend, shorten
from agentgym.tools.tool import Tool

MAX_DEPTH = 64  #: of JSON arguments
THINKING = ("<think>", "</think>")
ANSWER = ("<answer>", "</answer>")
BOTH = "both a tool call and an answer; call first, and answer once the result is there"

_OBJECT = re.compile(r'\{\s*"([^"\\]*)"\s*:')
_SKIP = re.compile(r"\s*")


class Call(NamedTuple):
    """A tool call as it was written; nothing has been checked against the tool yet."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Parsed:
    """What an action says: calls, or an answer, or an error, or (thinking aloud) none of them.

    Attributes:
        calls: in the order written.
        answer: the final answer.
        error: why the text could not be read; then there are neither calls nor an answer.
    """

    calls: tuple[Call, ...] = ()
    answer: str | None = None
    error: str | None = None


class UnreadableError(ValueError):
    """Text that means to be a call or an answer and is not; never leaves :meth:`Syntax.parse`."""


class Syntax(ABC):
    """One way to write calls, answers and results, for some tools.

    ``parse(render(calls)) == Parsed(calls)`` and ``parse(render(answer=a)) == Parsed(answer=a)`` for whatever
    ``render`` accepts; ``parse`` accepts any text and takes time linear in its length. Thinking is not read: neither
    what stands between ``<think>`` and ``</think>``, nor what precedes a ``</think>`` that was opened in the context,
    nor what follows a ``<think>`` that is never closed.

    Attributes:
        native: an endpoint parses the calls itself, so it has to be given the tools' schemas.
    """

    native: bool = False

    def __init__(self, tools: Iterable[Tool] = ()) -> None:
        self.tools = {t.name: t for t in tools}

    def parse(self, action: str) -> Parsed:
        """Read an action; what cannot be read comes back in ``error``."""
        try:
            calls, answer = self.read(mend(action))
        except UnreadableError as error:
            return Parsed(error=str(error))
        if calls and answer is not None:
            return Parsed(error=BOTH)
        return Parsed(tuple(calls), answer)

    @abstractmethod
    def read(self, text: str) -> tuple[Sequence[Call], str | None]:
        """The calls and the answer in an action; thinking is left out by :func:`visible`.

        Raises:
            UnreadableError: says what is wrong.
        """

    @abstractmethod
    def render(self, calls: Iterable[Call] = (), *, answer: str | None = None) -> str:
        """Write calls, or an answer, as an action.

        Raises:
            UsageError: this syntax cannot say it, e.g. an answer that contains the end of an answer.
        """

    #: What in a result would look like the syntax's own marks around results, and what replaces it.
    forged: ClassVar[tuple[re.Pattern[str], str] | None] = None

    def render_result(self, call: ToolCall) -> str:
        """Write what came back from a call, as part of the observation.

        A result is somebody else's text: where it holds a mark with which this syntax frames results, the mark is
        broken, so that no page or document can end its own result and begin another one.
        """
        text = call.result if call.error is None else f"error: {call.error}"
        if self.forged is not None:
            pattern, instead = self.forged
            text = pattern.sub(instead, text)
        return self.frame(call, text)

    @abstractmethod
    def frame(self, call: ToolCall, text: str) -> str:
        """Put the syntax's marks around the text of a result."""

    @abstractmethod
    def describe(self) -> str:
        """Instructions for the prompt: the tools, and how to call them and to answer."""

    @property
    @abstractmethod
    def hint(self) -> str:
        """One sentence on how to call a tool and how to answer."""


def broken_tag(name: str) -> tuple[re.Pattern[str], str]:
    """For :attr:`Syntax.forged`: opening and closing tags of this name, which get a space behind ``<``."""
    return re.compile(rf"<(?=\s{{0,9}}/?\s{{0,9}}{name}\b)", re.IGNORECASE), "< "


def visible(action: str) -> str:
    """The action without its thinking."""
    opened, closed = THINKING
    pieces, position = [], 0
    while (end := action.find(closed, position)) >= 0:
        start = action.find(opened, position, end)
        if start >= 0:
            pieces.append(action[position:start])
        else:
            pieces = []  # opened before the action, in the context: all of it was thinking
        position = end + len(closed)
    pieces.append(action[position:].partition(opened)[0])
    return "".join(pieces)


def read_answer(text: str) -> str | None:
    """The text of the last ``<answer>...</answer>``, or None."""
    opened, closed = ANSWER
    start = text.rfind(opened)
    if start < 0:
        if closed in text:
            raise UnreadableError(f"{closed} without {opened} before it")
        return None
    end = text.find(closed, start)
    if end < 0:
        raise UnreadableError(f"{opened} is never closed; end it with {closed}")
    return text[start + len(opened) : end].strip()


def write_answer(answer: str, markers: Iterable[str] = ()) -> str:
    """The inverse of :func:`read_answer`, where the answer holds none of the syntax's markers."""
    opened, closed = ANSWER
    return f"{opened}{sayable(answer, (*THINKING, *ANSWER, *markers))}{closed}"


def sayable(answer: str, markers: Iterable[str]) -> str:
    """The answer, if it can be told from the syntax around it.

    Raises:
        UsageError: it contains a marker, or begins or ends with white space.
    """
    for marker in markers:
        if marker in answer:
            raise UsageError(f"an answer with {marker!r} in it cannot be written in this syntax; use 'native'")
    if answer != answer.strip():
        raise UsageError(f"an answer cannot begin or end with white space; strip {answer[:40]!r}")
    return answer


def decode(text: str, start: int = 0) -> tuple[Any, int]:
    """The JSON value at ``start`` and where it ends.

    Only what every store can write again is accepted: no NaN, no numbers beyond 64 bits, at most 64 levels.

    Raises:
        UnreadableError: with the reason and the position after ``start``.
    """
    begin = _end_of_space(text, start)
    try:
        value, end = _DECODER.raw_decode(text, begin)
        return _storable(value), end
    except json.JSONDecodeError as error:
        if error.pos >= len(text.rstrip()):
            raise UnreadableError(f"broken JSON: it ends too early, after {error.pos - begin} characters") from None
        raise UnreadableError(f"broken JSON: {error.msg} at character {error.pos - begin}") from None
    except RecursionError:
        raise UnreadableError(f"broken JSON: more than {MAX_DEPTH} levels") from None
    except ValueError as error:  # a number with thousands of digits
        raise UnreadableError(f"broken JSON: {error}") from None


def decode_all(text: str) -> Any:
    """The one JSON value that the text consists of.

    Raises:
        UnreadableError: it is none, or something follows it.
    """
    value, end = decode(text)
    if (rest := _end_of_space(text, end)) < len(text):
        raise UnreadableError(f"broken JSON: something follows its end at character {rest}")
    return value


def encode(value: object, markers: Iterable[str] = ()) -> str:
    """JSON in one line; where a marker of the syntax would occur in it, ``<`` is written as ``\\u003c``.

    Raises:
        UsageError: :func:`decode` would not read it.
    """
    try:
        text = json.dumps(_storable(value), ensure_ascii=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"arguments must be JSON of at most {MAX_DEPTH} levels and 64-bit numbers: {error}") from error
    return text.replace("<", "\\u003c") if any(m in text for m in (*THINKING, *markers)) else text


def as_call(value: object) -> Call:
    """The call that ``{"name": ..., "arguments": {...}}`` means.

    Raises:
        UnreadableError: it is anything else.
    """
    if not isinstance(value, dict):
        raise UnreadableError('a tool call must be an object {"name": ..., "arguments": {...}}')
    name, arguments = value.get("name"), value.get("arguments", {})
    if not isinstance(name, str):
        raise UnreadableError('a tool call needs "name", the name of a tool as a string')
    if not isinstance(arguments, dict):
        raise UnreadableError('"arguments" of a tool call must be an object with the arguments by name')
    return Call(name, arguments)


def read_body(tool: Tool | None, body: str) -> dict[str, Any]:
    """Arguments written as plain text (which is the first parameter) or as a JSON object.

    An object is meant where the text begins as one whose first key is a parameter of the tool; no text, no arguments.
    """
    body = body.strip()
    begin = _OBJECT.match(body)
    known = tool.parameters.get("properties", {}) if tool is not None else {}
    if begin and (tool is None or begin[1] in known):
        arguments: dict[str, Any] = decode_all(body)
        return arguments
    first = tool.first if tool is not None else None
    return {first or "input": body} if body else {}


def write_body(
    tool: Tool | None,
    arguments: Mapping[str, Any],
    markers: Iterable[str],
    unsafe: Callable[[str], object] = lambda text: False,
) -> str:
    """The inverse of :func:`read_body`: plain text where that is read back as the same, a JSON object otherwise.

    Args:
        unsafe: whether plain text would be mistaken for syntax.

    Raises:
        UsageError: the first argument is not a parameter of the tool, so that the object would be read as plain text.
    """
    text: str = next(iter(arguments.values()), "")
    if isinstance(text, str) and not unsafe(text) and not any(m in text for m in (*THINKING, *markers)):
        try:
            if read_body(tool, text) == arguments:
                return text
        except UnreadableError:  # it only looks like an object
            pass
    text = encode(dict(arguments), markers)
    if (read := read_body(tool, text)) != arguments:
        raise UsageError(f"arguments {shorten(text)} would be read as {shorten(repr(read))}; use the tool's parameters")
    return text


def one_line(tool: Tool) -> str:
    """A tool as ``name(parameter: type, ...): description`` with its parameters below."""
    required = tool.parameters.get("required", ())
    lines = [f"{tool.name}: {tool.description}"]
    for name, entry in tool.parameters.get("properties", {}).items():
        kind = _kind(entry, tool.parameters.get("$defs", {}))
        optional = "" if name in required else f", default {json.dumps(entry.get('default'), ensure_ascii=False)}"
        lines.append(f"  {name} ({kind}{optional}): {entry.get('description', '')}".rstrip(": "))
    return "\n".join(lines)


def _kind(entry: Mapping[str, Any], defined: Mapping[str, Any], depth: int = 0) -> str:
    """The type of a parameter, or the values to choose from; a schema that goes around in circles is not followed."""
    entry = defined.get(str(entry.get("$ref", "")).removeprefix("#/$defs/"), entry)
    if "const" in entry or "enum" in entry:
        values = entry.get("enum", [entry.get("const")])
        return " | ".join(json.dumps(value, ensure_ascii=False) for value in values)
    if (options := entry.get("anyOf") or entry.get("oneOf")) and depth < 3:
        return " | ".join(dict.fromkeys(_kind(option, defined, depth + 1) for option in options))
    kind = entry.get("type", "any")
    return " | ".join(kind) if isinstance(kind, list) else str(kind)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def _end_of_space(text: str, start: int) -> int:
    match = _SKIP.match(text, start)
    return match.end() if match else start


def _storable(value: Any, depth: int = 0) -> Any:
    """The value with lone surrogates mended; ValueError or RecursionError for what a store could not write."""
    if isinstance(value, str):
        return mend(value)
    if isinstance(value, (dict, list)):
        if depth >= MAX_DEPTH:
            raise RecursionError
        if isinstance(value, list):
            return [_storable(v, depth + 1) for v in value]
        return {mend(k): _storable(v, depth + 1) for k, v in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number is out of range")
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise ValueError("a number is out of range")
    return value
