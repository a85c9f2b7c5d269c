"""Arguments that are drawn at random and are valid: what random play and ``agentgym check`` call tools with.

>>> import numpy as np
>>> schema = {"type": "object", "properties": {"k": {"type": "integer", "minimum": 3, "maximum": 3}}, "required": ["k"]}
>>> sample_arguments(schema, np.random.default_rng(0))
{'k': 3}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from agentgym.errors import ToolError, UnknownName, UsageError
from agentgym.tools.patterns import matching
from agentgym.tools.tool import Tool

WORDS = ("apple", "river", "Paris", "book", "red", "one", "7", "a short sentence", "")  #: texts where nobody gives any
TRIES = 50  #: draws before a tool's own check, which may know more than its schema, is taken to refuse them all

_DEEP = 4  # levels after which only what is required is drawn
_TOO_DEEP = 32
_TOO_MANY = 10_000  # values in one draw
_SPAN = 10  # numbers between a bound that is given and one that is not
_MORE = 2  # items of an array beyond the least
_FORMATS = {
    "date": ("2024-02-29", "1999-12-31"),
    "date-time": ("2024-02-29T12:00:00Z", "1999-12-31T23:59:59+01:00"),
    "time": ("12:00:00Z", "23:59:59Z"),
    "duration": ("P1D", "PT15M"),
    "email": ("ada@example.org", "bob@example.org"),
    "hostname": ("example.org", "localhost"),
    "ipv4": ("127.0.0.1", "192.0.2.1"),
    "ipv6": ("::1", "2001:db8::1"),
    "uri": ("https://example.org/a", "https://example.org/b?c=d"),
    "uuid": ("123e4567-e89b-12d3-a456-426614174000", "00000000-0000-4000-8000-000000000000"),
}


def sample_arguments(
    schema: Mapping[str, Any], rng: np.random.Generator, *, words: Sequence[str] = WORDS
) -> dict[str, Any]:
    """Arguments that a JSON schema allows.

    Types, ``enum``, ``const``, bounds, lengths, ``multipleOf``, ``pattern``, ``format``, ``$ref`` inside the schema,
    ``anyOf``, ``oneOf`` and ``allOf`` are obeyed; ``not``, ``if`` and ``dependentRequired`` are not looked at.

    Args:
        schema: of an object, as in :attr:`~agentgym.tools.tool.Tool.parameters`.
        rng: source of the random draws.
        words: what texts are made of where the schema leaves them free, e.g. the words of a question.

    Raises:
        UsageError: no value of it can be drawn (a pattern beyond the usual, a type without end, a foreign ``$ref``).
    """
    value = _Draw(schema, rng, tuple(words) or WORDS).value(schema, 0)
    if not isinstance(value, dict):
        raise UsageError(f"arguments are drawn from the schema of an object, not of {schema.get('type')!r}")
    return value


def sample_call(tool: Tool, rng: np.random.Generator, *, words: Sequence[str] = WORDS) -> dict[str, Any] | None:
    """Arguments that the tool accepts; None where no such arguments were found in :data:`TRIES` draws."""
    for _ in range(TRIES):
        try:
            arguments = sample_arguments(tool.parameters, rng, words=words)
            tool.check(arguments)
        except UsageError:
            return None
        except ToolError:
            continue
        return arguments
    return None


class _Draw:
    """Draws from one schema; the methods take the place in it and how deep that is."""

    def __init__(self, root: Mapping[str, Any], rng: np.random.Generator, words: tuple[str, ...]) -> None:
        self.root, self.rng, self.words = root, rng, words
        self.count = 0
        self.kinds: dict[str, Callable[[Mapping[str, Any], int], Any]] = {
            "object": self.object,
            "array": self.array,
            "string": self.text,
            "integer": self.integer,
            "number": self.number,
            "boolean": lambda schema, depth: bool(rng.random() < 0.5),
            "null": lambda schema, depth: None,
        }

    def value(self, schema: Any, depth: int) -> Any:
        self.count += 1
        if depth > _TOO_DEEP or self.count > _TOO_MANY:
            raise UsageError("the schema describes values without end; give one of its types another choice")
        if schema is True or schema == {}:
            return self.text({}, depth)
        if not isinstance(schema, Mapping):
            raise UsageError(f"nothing fits the schema {schema!r}")
        schema = self.resolved(schema, depth)
        if "const" in schema:
            return schema["const"]
        if choices := schema.get("enum"):
            return self.one(choices)
        hints = [*schema.get("examples", ()), *([schema["default"]] if "default" in schema else ())]
        if hints and self.rng.random() < 0.25:
            return self.one(hints)
        kind = schema.get("type") or _kind(schema)
        if isinstance(kind, list):
            kind = self.one(kind) if depth <= _DEEP or "null" not in kind else "null"
        if kind not in self.kinds:
            raise UnknownName("JSON type", str(kind), self.kinds)
        return self.kinds[kind](schema, depth)

    def one(self, items: Sequence[Any]) -> Any:
        return items[int(self.rng.integers(len(items)))]

    def resolved(self, schema: Mapping[str, Any], depth: int) -> Mapping[str, Any]:
        """The schema without references and with one of its alternatives."""
        for _ in range(_TOO_DEEP):
            if (target := schema.get("$ref")) is not None:
                schema = _merged([self.referred(target), _without(schema, "$ref")])
            elif parts := schema.get("allOf"):
                schema = _merged([*parts, _without(schema, "allOf")])
            elif options := schema.get("anyOf") or schema.get("oneOf"):
                plain = [o for o in options if isinstance(o, Mapping) and "$ref" not in o]
                chosen = self.one(plain if depth > _DEEP and plain else options)
                schema = _merged([_without(schema, "anyOf", "oneOf"), chosen])
            else:
                return schema
        raise UsageError("the schema refers to itself without end")

    def referred(self, target: str) -> Mapping[str, Any]:
        definition: Any = self.root
        if not target.startswith("#"):
            raise UsageError(f"the schema refers to another document, {target!r}; put that into its $defs")
        for part in target.removeprefix("#").strip("/").split("/") if target != "#" else ():
            part = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(definition, Mapping) or part not in definition:
                raise UsageError(f"the schema refers to {target!r}, which it does not hold")
            definition = definition[part]
        return definition if isinstance(definition, Mapping) else {}

    def object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        required = schema.get("required", ())
        properties: Mapping[str, Any] = schema.get("properties", {})
        drawn: dict[str, Any] = {}
        for name, entry in properties.items():
            if name in required or (depth <= _DEEP and self.rng.random() < 0.5):
                drawn[name] = self.value(entry, depth + 1)
        extra = schema.get("additionalProperties", False)
        names = [name for name in required if name not in properties]
        least = max(schema.get("minProperties", 0), len(drawn) + len(names))
        if isinstance(extra, Mapping) and not properties and depth <= _DEEP:
            least += int(self.rng.integers(_MORE + 1))
        names += [f"key{i}" for i in range(least - len(drawn) - len(names))]
        for name in names[: schema.get("maxProperties", len(names))]:
            drawn[name] = self.value(extra or {}, depth + 1)
        return drawn

    def array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        first = list(schema.get("prefixItems", ()))
        rest = schema.get("items", not first)
        least = schema.get("minItems", len(first))
        most = schema.get("maxItems", max(least, len(first)) + (_MORE if depth <= _DEEP else 0))
        if rest is False:
            most = min(most, len(first))
        count = int(self.rng.integers(least, max(least, most), endpoint=True))
        drawn: list[Any] = []
        for place in range(count):
            entry = first[place] if place < len(first) else rest
            for _ in range(TRIES):
                value = self.value(entry, depth + 1)
                if not schema.get("uniqueItems") or value not in drawn:
                    drawn.append(value)
                    break
        return drawn

    def text(self, schema: Mapping[str, Any], depth: int) -> str:
        least, most = schema.get("minLength", 0), schema.get("maxLength", math.inf)
        if (pattern := schema.get("pattern")) is not None:
            return matching(pattern, self.rng)
        if (kind := schema.get("format")) in _FORMATS:
            return str(self.one(_FORMATS[kind]))
        start = int(self.rng.integers(len(self.words)))
        length = 1 + int(self.rng.random() < 0.3) + int(self.rng.random() < 0.1)
        text = " ".join(self.words[start : start + length])
        while len(text) < least:
            text += self.one(self.words) or "x"
        return text if len(text) <= most else text[: int(most)]

    def integer(self, schema: Mapping[str, Any], depth: int) -> int:
        step = schema.get("multipleOf", 1)
        return int(self.multiple(schema, step if float(step).is_integer() else 1))

    def number(self, schema: Mapping[str, Any], depth: int) -> float:
        if (step := schema.get("multipleOf")) is not None:
            return float(self.multiple(schema, step))
        low, high, _, _ = _bounds(schema)
        value = float(self.rng.uniform(math.nextafter(low, high), high))
        short = round(value, 2)
        return short if low < short < high else value

    def multiple(self, schema: Mapping[str, Any], step: float) -> float:
        low, high, above, below = _bounds(schema)
        first = math.floor(low / step) + 1 if above else math.ceil(low / step)
        last = math.ceil(high / step) - 1 if below else math.floor(high / step)
        if first > last:
            raise UsageError(f"no multiple of {step} lies between {low} and {high}; widen the schema's bounds")
        return step * int(self.rng.integers(first, last, endpoint=True))


def _bounds(schema: Mapping[str, Any]) -> tuple[float, float, bool, bool]:
    """The least and the greatest number, and whether these two are themselves excluded."""
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    # Draft 4 says `true` beside minimum and maximum; later drafts give the number.
    if above is not None and not isinstance(above, bool):
        low, above = (above, True) if low is None or above >= low else (low, False)
    if below is not None and not isinstance(below, bool):
        high, below = (below, True) if high is None or below <= high else (high, False)
    if low is None:
        low = min(0, high - _SPAN) if high is not None else 0
    return low, high if high is not None else low + _SPAN, bool(above), bool(below)


def _kind(schema: Mapping[str, Any]) -> str:
    """The type that the other keywords of a schema without ``type`` are about."""
    for kind, words in (
        ("object", ("properties", "required", "additionalProperties")),
        ("array", ("items", "prefixItems", "minItems")),
        ("number", ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
    ):
        if any(word in schema for word in words):
            return kind
    return "string"


def _merged(schemas: Sequence[Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for schema in schemas:
        if not isinstance(schema, Mapping):
            continue
        for word, value in schema.items():
            if word == "properties":
                value = {**merged.get(word, {}), **value}
            elif word == "required":
                value = [*merged.get(word, ()), *value]
            merged[word] = value
    return merged


def _without(schema: Mapping[str, Any], *words: str) -> dict[str, Any]:
    return {word: value for word, value in schema.items() if word not in words}
