"""@tool: signature and docstring make the schema, and what is missing is refused at definition."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from agentgym.errors import UsageError
from agentgym.tools.schema import read_docstring
from agentgym.tools.tool import Tool, tool
from agentgym.tools.toolbox import Toolbox


@tool(price=0.5)
def search(query: str, k: int = 3, kind: Literal["page", "title"] = "page") -> str:
    """Search the encyclopedia.

    Looks in every
    article.

    Args:
        query: what to look for,
            in plain words.
        k (int): how many passages.
        kind: what is searched.

    Returns:
        The passages.
    """
    return f"{query}:{k}:{kind}"


def test_schema_of_a_function() -> None:
    assert search.schema == {
        "type": "function",
        "function": {
            "name": "search",
            "description": "Search the encyclopedia.\nLooks in every article.",
            "parameters": {
                "type": "object",
                "additionalProperties": False,
                "required": ["query"],
                "properties": {
                    "query": {"type": "string", "description": "what to look for, in plain words."},
                    "k": {"type": "integer", "description": "how many passages.", "default": 3},
                    "kind": {
                        "type": "string",
                        "enum": ["page", "title"],
                        "description": "what is searched.",
                        "default": "page",
                    },
                },
            },
        },
    }
    assert (search.first, search.price, search.timeout, search.waits) == ("query", 0.5, None, False)


def test_a_tool_is_still_its_function() -> None:
    assert search("a", k=1) == "a:1:page"


def test_no_parameters() -> None:
    @tool
    def now() -> str:
        """The time."""
        return "noon"

    assert now.parameters == {"type": "object", "additionalProperties": False, "properties": {}}
    assert now.first is None
    assert Toolbox([now]).call("now", {}).result == "noon"
    assert Toolbox([now]).call("now", {"x": 1}).error == "argument 'x' is unknown; it takes none"


class Box(BaseModel):
    left: int
    top: int


Times = Annotated[int, Field(ge=1, description="how often")]


def test_rich_annotations() -> None:
    @tool
    def click(box: Box, times: Times = 1, schema: str | None = None) -> int:
        """Click.

        Args:
            box: where.
            schema: a parameter name that pydantic models do not allow.
        """
        return box.left * times

    box = Toolbox([click])
    assert box.call("click", {"box": {"left": 2, "top": 1}, "times": 3}).result == "6"
    assert box.call("click", {"box": {"left": 2, "top": "x"}}).error == (
        "argument 'box.top': Input should be a valid integer, unable to parse string as an integer, got 'x'"
    )
    assert box.call("click", {"box": {"left": 2, "top": 1}, "times": 0}).error == (
        "argument 'times': Input should be greater than or equal to 1, got 0"
    )


def test_method_and_callable_object() -> None:
    class Index:
        def __init__(self, word: str) -> None:
            self.word = word

        def look(self, n: int) -> str:
            """Look.

            Args:
                n: how often.
            """
            return self.word * n

    class Echo:
        def __call__(self, text: str) -> str:
            """Say it again.

            Args:
                text: what.
            """
            return text

    first, second = tool(Index("a").look), tool(Index("b").look, name="other")
    box = Toolbox([first, second, tool(Echo(), name="echo")])
    assert [box.call("look", {"n": 2}).result, box.call("other", {"n": 1}).result] == ["aa", "b"]
    assert box.call("echo", {"text": "hi"}).result == "hi"


def undocumented(x: int) -> int:
    return x


def half(x: int, y: int) -> int:
    """Add.

    Args:
        x: one.
    """
    return x + y


def untyped(x) -> int:  # type: ignore[no-untyped-def]
    """Add.

    Args:
        x: one.
    """
    return int(x)


def wrong(query: str) -> str:
    """Search.

    Args:
        query: what.
        qury: what else.
    """
    return query


def star(*words: str) -> str:
    """Search.

    Args:
        words: what.
    """
    return " ".join(words)


def unresolved(x: NoSuchName) -> int:  # type: ignore[name-defined]  # noqa: F821
    """Add.

    Args:
        x: one.
    """
    return int(x)


class Opaque:
    pass


def opaque(x: Opaque) -> int:
    """Add.

    Args:
        x: one.
    """
    return 1


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (undocumented, "tool 'undocumented' has no description; write what it does as the function's docstring"),
        (
            half,
            "tool 'half': parameter 'y' has no description; add a line 'y: ...' under 'Args:' in its docstring",
        ),
        (untyped, "tool 'untyped': parameter 'x' has no annotation; write x: TYPE"),
        (wrong, "tool 'wrong' describes 'qury', which is not a parameter; did you mean 'query'?"),
        (star, "tool 'star': parameter 'words' cannot be given by name; spell the parameters out"),
        (unresolved, "has an annotation that cannot be resolved (name 'NoSuchName' is not defined); import it"),
        (opaque, "tool 'opaque': pydantic has no schema for its annotations"),
        (lambda: 1, "tool '<lambda>' has no description"),
    ],
)
def test_refused_at_definition(function: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        tool(function)
    assert message in str(caught.value)


def test_options_out_of_range() -> None:
    with pytest.raises(UsageError, match=r"tool name 'a b' must be 1 to 64 letters, digits, '_' or '-'; pass name="):
        tool(search.function, name="a b")
    with pytest.raises(UsageError, match=r"tool 'search': timeout must be positive seconds or None, got 0"):
        tool(search.function, timeout=0)
    with pytest.raises(UsageError, match=r"tool 'search': price must not be negative, got -1"):
        tool(search.function, price=-1)


def test_docstring_sections_and_indents() -> None:
    text = "Do it.\n\nArgs:\n    a: one\n        note: goes on\n    b: two: three\n\n    c (str, optional): four\n"
    text += "Raises:\n    X: no\n"
    assert read_docstring(text) == ("Do it.", {"a": "one note: goes on", "b": "two: three", "c": "four"})


def test_two_tools_of_one_name() -> None:
    with pytest.raises(UsageError, match="two tools are called 'search'; give one of them another name="):
        Toolbox([search, search])


def test_not_a_tool() -> None:
    with pytest.raises(UsageError, match="is not a tool; decorate the function with @tool"):
        Toolbox([half])  # type: ignore[list-item]
    assert isinstance(search, Tool)
