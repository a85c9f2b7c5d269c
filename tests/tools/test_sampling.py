"""Arguments drawn from a schema are valid, whatever the schema says, and cover what it allows."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from pydantic import BaseModel, Field

from agentgym.errors import ToolError, UsageError
from agentgym.tools.patterns import matching
from agentgym.tools.sampling import WORDS, sample_arguments, sample_call
from agentgym.tools.tool import Tool, tool
from agentgym.tools.toolbox import Toolbox


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Node(BaseModel):
    """A type that holds itself."""

    name: Annotated[str, Field(min_length=2, max_length=4)]
    children: list[Node] = []
    parent: Node | None = None


@tool
def everything(
    text: str,
    count: Annotated[int, Field(ge=3, lt=6)],
    share: Annotated[float, Field(gt=0, lt=0.5)],
    step: Annotated[int, Field(multiple_of=5, gt=0, le=10)],
    half: Annotated[float, Field(multiple_of=0.5, ge=1, le=2)],
    code: Annotated[str, Field(pattern=r"^[A-Z]{2}-\d+$")],
    colour: Colour,
    kind: Literal["page", 3, None],
    flags: list[bool],
    pair: tuple[int, str],
    distinct: Annotated[set[Literal[1, 2, 3]], Field(min_length=2)],
    table: dict[str, int],
    node: Node,
    either: int | str | None = None,
    low: Annotated[int, Field(le=-100)] = -100,
) -> str:
    """Take everything.

    Args:
        text: a.
        count: b.
        share: c.
        step: d.
        half: e.
        code: f.
        colour: g.
        kind: h.
        flags: i.
        pair: j.
        distinct: k.
        table: l.
        node: m.
        either: n.
        low: o.
    """
    return "ok"


def drawn(schema: dict[str, Any], count: int = 200) -> list[Any]:
    rng = np.random.default_rng(0)
    wrapped = {"type": "object", "required": ["x"], "properties": {"x": schema}, "$defs": schema.get("$defs", {})}
    return [sample_arguments(wrapped, rng)["x"] for _ in range(count)]


def test_the_schemas_of_functions_are_obeyed() -> None:
    rng, box = np.random.default_rng(0), Toolbox([everything])
    met = [sample_arguments(everything.parameters, rng) for _ in range(300)]
    assert [box.call("everything", m).error for m in met] == [None] * 300
    assert {m["count"] for m in met} == {3, 4, 5}
    assert {m["step"] for m in met} == {5, 10}
    assert {m["half"] for m in met} == {1.0, 1.5, 2.0}
    assert {m["colour"] for m in met} == {"red", "blue"}
    assert {m["kind"] for m in met} == {"page", 3, None}
    assert {type(m["either"]) for m in met if "either" in m} == {int, str, type(None)}
    assert 50 < sum("low" in m for m in met) < 250  # what is optional comes and goes
    assert any(m["node"].get("children") for m in met)
    assert any(m["table"] for m in met)


SCHEMAS: list[tuple[dict[str, Any], Callable[[Any], bool]]] = [
    ({"type": "integer", "minimum": 2, "exclusiveMaximum": 4}, lambda v: v in (2, 3)),
    ({"type": "integer", "minimum": 2, "maximum": 4, "exclusiveMinimum": True}, lambda v: v in (3, 4)),
    ({"type": "integer", "exclusiveMinimum": 0, "minimum": 0, "maximum": 2}, lambda v: v in (1, 2)),
    ({"type": "integer", "maximum": -5}, lambda v: -15 <= v <= -5),
    ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1e-3}, lambda v: 0 < v < 1e-3),
    ({"minimum": 3}, lambda v: v >= 3),
    ({"type": ["string", "null"]}, lambda v: v is None or isinstance(v, str)),
    ({"const": {"a": 1}}, lambda v: v == {"a": 1}),
    ({"enum": [None, "x", 2]}, lambda v: v in (None, "x", 2)),
    (
        {"oneOf": [{"type": "boolean"}, {"type": "array", "items": {"type": "null"}}]},
        lambda v: isinstance(v, bool | list),
    ),
    (
        {"allOf": [{"properties": {"a": {"const": 1}}, "required": ["a"]}, {"properties": {"b": {"const": 2}}}]},
        lambda v: v in ({"a": 1}, {"a": 1, "b": 2}),
    ),
    ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"const": 7}}}, lambda v: v == 7),
    ({"type": "string", "minLength": 30, "maxLength": 31}, lambda v: 30 <= len(v) <= 31),
    ({"type": "string", "maxLength": 1}, lambda v: len(v) <= 1),
    ({"type": "string", "format": "date"}, lambda v: re.fullmatch(r"\d{4}-\d\d-\d\d", v) is not None),
    ({"type": "string", "examples": ["Oslo"]}, lambda v: isinstance(v, str)),
    ({"type": "array", "minItems": 2, "maxItems": 3, "items": {"type": "integer"}}, lambda v: 2 <= len(v) <= 3),
    ({"type": "array", "prefixItems": [{"const": 1}, {"const": 2}]}, lambda v: v[:2] == [1, 2]),
    ({"type": "array", "prefixItems": [{"const": 1}], "items": False}, lambda v: v == [1]),
    ({"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": True}, lambda v: sorted(v) == sorted(set(v))),
    ({"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 2}, lambda v: len(v) >= 2),
    ({"type": "object", "required": ["a"], "additionalProperties": {"type": "integer"}}, lambda v: type(v["a"]) is int),
    ({}, lambda v: isinstance(v, str)),
]


@pytest.mark.parametrize(("schema", "fits"), SCHEMAS, ids=[str(s)[:60] for s, _ in SCHEMAS])
def test_keywords(schema: dict[str, Any], fits: Callable[[Any], bool]) -> None:
    assert [v for v in drawn(schema) if not fits(v)] == []


def test_every_choice_is_drawn() -> None:
    assert set(drawn({"enum": [None, "x", 2]})) == {None, "x", 2}
    assert set(drawn({"type": "integer", "minimum": 2, "maximum": 4})) == {2, 3, 4}
    assert {len(v) for v in drawn({"type": "array", "items": {}, "minItems": 1, "maxItems": 3})} == {1, 2, 3}
    assert "Oslo" in drawn({"type": "string", "examples": ["Oslo"]})
    assert "Rome" in drawn({"type": "string", "default": "Rome"})


def test_texts_are_made_of_the_words_that_are_given() -> None:
    schema = {"type": "object", "required": ["q"], "properties": {"q": {"type": "string"}}}
    rng = np.random.default_rng(0)
    texts = {sample_arguments(schema, rng, words=("where", "is", "Lima"))["q"] for _ in range(100)}
    assert {"where", "is", "Lima", "where is", "is Lima", "where is Lima"} == texts
    assert {sample_arguments(schema, rng)["q"] for _ in range(200)} >= set(WORDS)


def test_one_seed_draws_the_same() -> None:
    one, two = (
        [sample_arguments(everything.parameters, rng) for _ in range(20)]
        for rng in (np.random.default_rng(5), np.random.default_rng(5))
    )
    assert one == two


@pytest.mark.parametrize(
    "pattern",
    [
        r"^\d{4}-\d{2}$",
        r"[^\s]+@x\.(com|org)",
        r"^(a|b)*c?$",
        r"\w+\s\W",
        "^.{3,8}$",
        "[^a-z]",
        "x(?:yz){2,}?",
        "[À-ÿ]",
    ],
)
def test_patterns(pattern: str) -> None:
    rng = np.random.default_rng(0)
    texts = [matching(pattern, rng) for _ in range(50)]
    assert all(re.search(pattern, text) for text in texts)
    assert len(set(texts)) > 1


def test_patterns_that_cannot_be_drawn() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(UsageError, match=r"pattern '\(' cannot be read"):
        matching("(", rng)
    with pytest.raises(UsageError, match="ASSERT in a pattern cannot be drawn; give examples in the schema"):
        matching("(?=a)a", rng)
    with pytest.raises(UsageError, match=r"no text for pattern 'a\^b' can be drawn"):
        matching("a^b", rng)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"$ref": "http://127.0.0.1:9/x"}, "the schema refers to another document, 'http://127.0.0.1:9/x'"),
        ({"$ref": "#/$defs/none"}, "the schema refers to '#/\\$defs/none', which it does not hold"),
        ({"$ref": "#/properties/x"}, "the schema refers to itself without end"),
        (
            {"type": "array", "minItems": 1, "items": {"$ref": "#/properties/x"}},
            "the schema describes values without end",
        ),
        ({"type": "text"}, "unknown JSON type 'text'"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "no multiple of 1 lies between 3 and 2"),
        (False, "nothing fits the schema False"),
    ],
)
def test_what_cannot_be_drawn(schema: Any, message: str) -> None:
    root = {"type": "object", "required": ["x"], "properties": {"x": schema}}
    with pytest.raises(UsageError, match=message):
        sample_arguments(root, np.random.default_rng(0))
    with pytest.raises(UsageError, match="arguments are drawn from the schema of an object, not of 'string'"):
        sample_arguments({"type": "string"}, np.random.default_rng(0))


def test_a_call_passes_the_tools_own_check() -> None:
    def only(word: str) -> Tool:
        def check(arguments: Any) -> dict[str, Any]:
            if arguments["q"] != word:
                raise ToolError("another word")
            return dict(arguments)

        schema = {"type": "object", "required": ["q"], "properties": {"q": {"type": "string"}}}
        return Tool("ask", "Ask.", schema, check, lambda q: q)

    rng = np.random.default_rng(0)
    assert sample_call(only("Lima"), rng, words=("Lima", "Oslo")) == {"q": "Lima"}
    assert sample_call(only("Rome"), rng, words=("Lima", "Oslo")) is None
    nothing = {"type": "object", "required": ["q"], "properties": {"q": {"type": "string", "pattern": "(?=a)a"}}}
    assert sample_call(Tool("ask", "Ask.", nothing, dict, print), rng) is None
