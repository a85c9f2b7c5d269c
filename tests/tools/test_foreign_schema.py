"""Schemas that somebody else wrote: what they may cost, and that sound ones mean what they say.

Nothing here is timed. Without its bounds a test of this file would run until the suite's time limit.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from agentgym.errors import ToolError, UsageError
from agentgym.tools.foreign_schema import checker, matcher
from agentgym.tools.mcp import mcp_tools
from agentgym.tools.patterns import matching
from agentgym.tools.sampling import sample_arguments


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def doubling(levels: int, word: str = "anyOf") -> dict[str, Any]:
    """Every level tries the next one twice."""
    defined: dict[str, Any] = {f"d{n}": {word: [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(levels)}
    defined[f"d{levels}"] = {"type": "integer"}
    return {"type": "object", "properties": {"x": {"$ref": "#/$defs/d0"}}, "$defs": defined}


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (nested(2_000), "its schema is nested deeper than 64 levels"),
        ({"type": "object", "enum": list(range(30_000))}, "its schema has more than 20000 values"),
        ({"$ref": "#"}, "its schema takes too long to check anything; does it refer to itself"),
        ({"allOf": [{"$ref": "#"}, {"$ref": "#"}]}, "takes too long to check anything"),
        ({"properties": {"a": {"pattern": "(?=a)b"}}}, r"pattern '\(\?=a\)b' cannot be matched in linear time"),
        ({"patternProperties": {"(a)\\1": {}}}, "cannot be matched in linear time"),
        ({"properties": {"a": {"pattern": "(a{1000}){1000}"}}}, "cannot be matched in linear time"),
        ({"properties": {"a": {"pattern": "a" * 1001}}}, "a pattern has 1001 characters; at most 1000 are read"),
    ],
    ids=["levels", "values", "itself", "itself twice", "look-around", "back-reference", "large", "long"],
)
def test_it_is_refused_when_the_server_is_connected(schema: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^a server, tool 'x': .*{message}") as refused:
        checker(schema, "a server, tool 'x'")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("word", ["anyOf", "oneOf", "allOf"])
def test_work_that_doubles_is_given_up(word: str) -> None:
    check = checker(doubling(30, word), "x")
    with pytest.raises(ToolError, match="take too long to check; give fewer"):
        check({"x": "no number"})
    assert check({"y": 1}) == {"y": 1}  # the next check has steps of its own


def test_items_that_are_compared_with_each_other() -> None:
    check = checker({"properties": {"x": {"uniqueItems": True}}}, "x")
    assert check({"x": [{"n": n} for n in range(1_000)]})
    with pytest.raises(ToolError, match="take too long"):
        check({"x": [{"n": n} for n in range(20_000)]})


@pytest.mark.parametrize("pattern", ["(a+)+$", "^(a|a)*$", "^(([a-z])+.)+[A-Z]([a-z])+$", "(.*a){30}x"])
def test_patterns_cost_linear_time(pattern: str) -> None:
    hostile = "a" * 200_000 + "!"
    check = checker({"properties": {"x": {"pattern": pattern}}}, "x")
    with pytest.raises(ToolError, match="argument 'x': "):
        check({"x": hostile})
    named = checker({"patternProperties": {pattern: {"type": "integer"}}, "additionalProperties": False}, "x")
    with pytest.raises(ToolError, match="additional properties are not allowed"):
        named({hostile: 1})
    assert not matcher(pattern)(hostile)


def test_patterns_that_would_be_drawn_without_end() -> None:
    rng = np.random.default_rng(0)
    for pattern in ("(?:){4000000}", "((a{9}){9}){9}" + "b{3000}{3}", "(((((a{8}){8}){8}){8}){8})"):
        with pytest.raises(UsageError, match=r"too long|linear time|cannot be read"):
            matching(pattern, rng)
    assert matching("^[ab]{3}$", rng) in {f"{a}{b}{c}" for a in "ab" for b in "ab" for c in "ab"}


def test_values_that_would_be_drawn_without_end() -> None:
    defined = {f"d{n}": {"type": "object", "properties": {}, "required": []} for n in range(31)}
    for n in range(30):
        defined[f"d{n}"] = {
            "type": "object",
            "properties": {name: {"$ref": f"#/$defs/d{n + 1}"} for name in "ab"},
            "required": ["a", "b"],
        }
    schema = {"type": "object", "properties": {"x": {"$ref": "#/$defs/d0"}}, "required": ["x"], "$defs": defined}
    with pytest.raises(UsageError, match="the schema describes values without end"):
        sample_arguments(schema, np.random.default_rng(0))


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"pattern": "^x\\d+$"}}, "additionalProperties": False},
        {"patternProperties": {"^a": {"type": "integer"}}, "additionalProperties": {"type": "string"}},
        {"properties": {"a": {"type": ["string", "null"], "minLength": 2}}, "required": ["a"]},
        {"properties": {"a": {"anyOf": [{"type": "integer"}, {"$ref": "#/$defs/t"}]}}, "$defs": {"t": {"const": "t"}}},
        {"properties": {"a": {"items": {"type": "integer"}, "uniqueItems": True}}, "minProperties": 1},
        {"properties": {"a": {}}, "unevaluatedProperties": False},
        {"properties": {"b": {"oneOf": [{"minimum": 1}, {"maximum": 3}]}}, "dependentRequired": {"a": ["b"]}},
    ],
)
def test_sound_schemas_mean_what_jsonschema_says(schema: dict[str, Any]) -> None:
    check, reference = checker(schema, "x"), Draft202012Validator(schema)
    values = ("x12", "y", "t", 3, 2, 7, None, [1, 2], [1, 1], [1, "a"], {})
    for arguments in (
        {},
        *({name: v} for name in ("a", "b", "ab") for v in values),
        {"a": 1, "b": 5},
        {"a": "t", "c": 1},
    ):
        try:
            check(arguments)
            accepted = True
        except ToolError:
            accepted = False
        assert accepted == reference.is_valid(arguments), arguments


def test_a_hostile_server_costs_one_refusal(tmp_path: Path) -> None:
    """A real server whose tool has such a schema: connecting is refused in one line, and nothing is left hanging."""
    (tmp_path / "server.py").write_text(
        "import json, sys\n"
        "schema = json.loads(sys.argv[1])\n"
        "for line in sys.stdin:\n"
        "    asked = json.loads(line)\n"
        "    if 'id' not in asked: continue\n"
        "    result = {'tools': [{'name': 'x', 'inputSchema': schema}]} if asked['method'] == 'tools/list' else {\n"
        "        'protocolVersion': asked.get('params', {}).get('protocolVersion', '2025-06-18'),\n"
        "        'capabilities': {'tools': {}}, 'serverInfo': {'name': 'h', 'version': '1'}}\n"
        "    print(json.dumps({'jsonrpc': '2.0', 'id': asked['id'], 'result': result}), flush=True)\n"
    )
    command = [sys.executable, str(tmp_path / "server.py")]
    sound = '{"type": "object", "properties": {"a": {"pattern": "^(a+)+$"}}}'
    with mcp_tools([*command, sound]) as tools, pytest.raises(ToolError, match="argument 'a'"):
        tools[0].check({"a": "a" * 100_000 + "!"})
    deep = '{"a":' * 300 + "1" + "}" * 300
    for hostile in (
        '{"type": "object", "allOf": [{"$ref": "#"}, {"$ref": "#"}]}',
        '{"properties": {"a": ' + deep + "}}",
    ):
        with pytest.raises(UsageError) as refused:
            mcp_tools([*command, hostile])
        assert "\n" not in str(refused.value).strip()
