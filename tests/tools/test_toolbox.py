"""Toolbox: every call comes back as a record, whatever happens; counters and sessions belong to one episode."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgym.errors import ToolError, UsageError
from agentgym.records import ToolCall
from agentgym.tools import toolbox as toolbox_module
from agentgym.tools.plain import mend, shorten, without_paths
from agentgym.tools.tool import Tool, tool
from agentgym.tools.toolbox import MAX_STUCK, Tally, Toolbox


@tool(price=0.25)
def repeat(text: str, times: int = 1) -> str:
    """Repeat a text.

    Args:
        text: what.
        times: how often.
    """
    if times < 0:
        raise ToolError("times must not be negative")
    if times == 99:
        raise FileNotFoundError(2, "No such file or directory", "/etc/secret/key")
    if times == 98:
        raise ValueError("bad file /home/someone/data/x.txt in http://host/a/b")
    if times == 97:
        raise SystemExit(3)
    return text * times


@tool
def keys() -> dict[str, Any]:
    """Some JSON."""
    return {"é": [1, None, float("nan")]}


@pytest.fixture
def box() -> Toolbox:
    return Toolbox([repeat, keys])


def test_a_call(box: Toolbox) -> None:
    call = box.call("repeat", {"text": "ab", "times": "2"})
    assert call == ToolCall("repeat", {"text": "ab", "times": "2"}, "abab", None, cost=0.25)
    assert call.seconds > 0
    assert box.call("keys", {}).result == '{"é":[1,null,NaN]}'


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("repeet", {"text": "a"}, "unknown tool 'repeet'; did you mean 'repeat'?"),
        ("x" * 200, {}, f"unknown tool '{'x' * 80}... (200 characters)'; known: keys, repeat"),
        (["repeat"], {}, "unknown tool \"['repeat']\"; did you mean 'repeat'?"),
        ("repeat", {}, "argument 'text' is missing"),
        ("repeat", {"text": "a", "times_": 2}, "argument 'times_' is unknown; did you mean 'times'?"),
        ("repeat", {"text": 7}, "argument 'text': Input should be a valid string, got 7"),
        ("repeat", ["a"], "arguments must be an object with 'text', 'times', not ['a']"),
        ("repeat", None, "arguments must be an object with 'text', 'times', not None"),
        (
            "repeat",
            {"times": "many", "a": 1, "b": 2, "c": 3},
            (
                "argument 'text' is missing; argument 'times': Input should be a valid integer, unable to parse string "
                "as an integer, got 'many'; argument 'a' is unknown; known: text, times; and 2 more"
            ),
        ),
    ],
)
def test_a_misfit_names_the_field_and_costs_nothing(box: Toolbox, name: Any, arguments: Any, error: str) -> None:
    call = box.call(name, arguments)
    assert (call.error, call.result, call.cost, call.seconds) == (error, "", 0.0, 0.0)
    assert (box.misfits, box.ran, box.cost) == (1, 0, 0.0)


@pytest.mark.parametrize(
    ("times", "error"),
    [
        (-1, "times must not be negative"),
        (99, "FileNotFoundError: No such file or directory"),
        (98, "ValueError: bad file <path> in http://host/a/b"),
        (97, "SystemExit: 3"),
    ],
)
def test_whatever_a_tool_raises_is_told(box: Toolbox, times: int, error: str) -> None:
    call = box.call("repeat", {"text": "a", "times": times})
    assert (call.error, call.result, call.cost) == (error, "", 0.25)
    assert box.tally["repeat"].calls == box.tally["repeat"].errors == box.ran == 1


def test_counters_and_prices(box: Toolbox) -> None:
    for times in (1, 2, -1):
        box.call("repeat", {"text": "a", "times": times})
    box.call("keys", {"x": 1})
    box.call("nothing", {})
    tally = {name: (t.calls, t.errors, t.cost) for name, t in box.tally.items()}
    assert tally == {"repeat": (3, 1, 0.75), "keys": (0, 1, 0.0)}
    assert (box.cost, box.ran, box.misfits) == (0.75, 3, 2)
    assert box.tally["repeat"].seconds > 0


def test_episodes_share_tools_but_no_counters(box: Toolbox) -> None:
    one, two = box.open(), box.open()
    one.call("repeat", {"text": "a"})
    assert (one.ran, two.ran, box.ran) == (1, 0, 0)
    branch = one.fork()
    branch.call("repeat", {"text": "a"})
    branch.call("x", {})
    assert (one.ran, one.cost, one.misfits) == (1, 0.25, 0)
    assert (branch.ran, branch.cost, branch.misfits) == (2, 0.5, 1)
    assert two.tally["repeat"] == Tally()


def test_the_gate_sees_valid_calls_with_their_price(box: Toolbox) -> None:
    asked: list[ToolCall] = []

    def gate(call: ToolCall) -> str | None:
        asked.append(call)
        return "the budget is used up" if len(asked) > 1 else None

    arguments = {"text": "a"}
    calls = [box.call("repeat", a, gate=gate) for a in (arguments, {}, arguments)]
    assert asked == [ToolCall("repeat", arguments, cost=0.25)] * 2
    assert [c.error for c in calls] == [None, "argument 'text' is missing", "the budget is used up"]
    assert [c.cost for c in calls] == [0.25, 0.0, 0.0]
    assert (box.ran, box.misfits, box.tally["repeat"].errors) == (1, 1, 2)


# --- time ---------------------------------------------------------------------------------------------------------


def test_a_slow_call_is_given_up() -> None:
    release = threading.Event()

    @tool(timeout=0.05)
    def wait(seconds: float) -> str:
        """Wait.

        Args:
            seconds: how long.
        """
        if seconds < 0:
            raise TimeoutError("the socket timed out")
        release.wait(seconds)
        return "done"

    box = Toolbox([wait])
    assert wait.waits
    assert box.call("wait", {"seconds": 0}).result == "done"
    assert box.call("wait", {"seconds": -1}).error == "TimeoutError: the socket timed out"
    call = box.call("wait", {"seconds": 60})
    assert (call.error, call.result) == ("wait timed out after 0.05 s", "")
    assert call.seconds >= 0.05
    assert box.tally["wait"].calls == 3
    release.set()


def test_stuck_calls_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolbox_module, "MAX_STUCK", 2)
    assert MAX_STUCK > 2
    release = threading.Event()
    ended: list[int] = []

    @tool(timeout=0.01)
    def hang() -> None:
        """Hang."""
        release.wait(60)
        ended.append(1)

    box = Toolbox([hang])
    errors = [box.open().call("hang", {}).error for _ in range(3)]
    assert errors[1] == "hang timed out after 0.01 s"
    assert errors[2] == "2 calls that ran out of time are still running; hang takes no more"
    release.set()
    while len(ended) < 2:
        threading.Event().wait(0.01)
    assert box.call("hang", {}).error is None


def test_async_tools_are_cancelled_when_late() -> None:
    cancelled = threading.Event()

    @tool(timeout=0.05)
    async def wait(seconds: float) -> str:
        """Wait.

        Args:
            seconds: how long.
        """
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return "done"

    box = Toolbox([wait])
    assert box.call("wait", {"seconds": 0}).result == "done"
    assert box.call("wait", {"seconds": 60}).error == "wait timed out after 0.05 s"
    assert cancelled.wait(10)


def test_async_without_timeout() -> None:
    @tool
    async def soon() -> str:
        """Soon."""
        await asyncio.sleep(0)
        return "now"

    assert soon.waits
    assert Toolbox([soon]).call("soon", {}).result == "now"


# --- state --------------------------------------------------------------------------------------------------------


class Counter:
    """A session that counts, and remembers every instance."""

    made: list[Counter]

    def __init__(self, value: int = 0) -> None:
        self.value, self.closed = value, False
        type(self).made.append(self)

    def fork(self) -> Counter:
        return Counter(self.value)

    def close(self) -> None:
        self.closed = True


def counting(timeout: float | None = None) -> Tool:
    Counter.made = []

    @tool(session=Counter, timeout=timeout)
    def count(counter: Counter, by: int = 1) -> int:
        """Count.

        Args:
            by: how much.
        """
        if by == 13:
            threading.Event().wait(60)
        counter.value += by
        return counter.value

    return count


def test_a_session_belongs_to_an_episode() -> None:
    count = counting()
    assert list(count.parameters["properties"]) == ["by"]
    one, two = Toolbox([count]).open(), Toolbox([count]).open()
    assert Counter.made == []  # nothing is opened before it is needed
    assert [one.call("count", {}).result for _ in range(3)] == ["1", "2", "3"]
    assert two.call("count", {"by": 10}).result == "10"
    branch = one.fork()
    assert [branch.call("count", {}).result, one.call("count", {"by": 5}).result] == ["4", "8"]
    one.close()
    assert [c.closed for c in Counter.made] == [True, False, False]
    assert branch.call("count", {}).result == "5"
    assert one.call("count", {}).result == "1"


def test_a_late_call_loses_its_session() -> None:
    box = Toolbox([counting(timeout=0.05)])
    box.call("count", {"by": 7})
    assert box.call("count", {"by": 13}).error == (
        "count timed out after 0.05 s; its session was closed and the next call starts a new one"
    )
    assert Counter.made[0].closed
    assert box.call("count", {"by": 1}).result == "1"


def test_a_session_that_does_not_open_is_told() -> None:
    def broken() -> Counter:
        raise OSError(12, "Cannot allocate memory")

    box = Toolbox([dataclasses.replace(counting(), session=broken)])
    assert box.call("count", {}).error == "OSError: Cannot allocate memory"


# --- hostile text -------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    name=st.sampled_from(["repeat", "keys"]) | st.text(max_size=12) | JSON,
    arguments=JSON | st.fixed_dictionaries({}, optional={"text": JSON, "times": st.integers(-9, 9) | JSON, "x": JSON}),
)
def test_no_call_raises(name: Any, arguments: Any) -> None:
    box = Toolbox([repeat, keys])
    call = box.call(name, arguments)
    assert isinstance(call, ToolCall)
    assert isinstance(call.name, str)
    if call.error is None:
        assert name in ("repeat", "keys")
        call.result.encode()
    elif name == "repeat" and isinstance(arguments, dict):
        assert "text" in call.error or "times" in call.error or any(repr(k)[1:-1] in call.error for k in arguments)


@given(st.text(st.characters()))
def test_mended_text_is_utf8(text: str) -> None:
    assert mend(text).encode().decode() == mend(text)
    assert mend("a" + text) == "a" + mend(text)


def test_mend_shorten_without_paths() -> None:
    assert mend("é\ud800x\U0001f600") == "é\ufffdx\U0001f600"
    assert shorten("abcdef", 3) == "abc... (6 characters)"
    assert shorten("abc", 3) == "abc"
    assert (
        without_paths("open('/usr/lib/x.py') </b> 1/2 C:\\Users\\me\\x /one") == "open('<path>') </b> 1/2 <path> /one"
    )


# --- size ---------------------------------------------------------------------------------------------------------


@tool(max_characters=10)
def flood(kind: str, size: int) -> Any:
    """Flood.

    Args:
        kind: of what.
        size: how much.
    """
    if kind == "refusal":
        raise ToolError("x" * size)
    if kind == "failure":
        raise ValueError("x" * size)
    return {"text": "é" * size, "list": ["a"] * size, "surrogates": "\ud800" * size}[kind]


@pytest.mark.parametrize(
    ("kind", "size", "text"),
    [
        ("text", 10, "é" * 10),
        ("text", 12345, "é" * 10 + "\n[cut: 10 of 12,345 characters are shown; ask for less at a time]"),
        ("list", 1000, '["a","a","\n[cut: 10 of 4,001 characters are shown; ask for less at a time]'),
        ("surrogates", 11, "\ufffd" * 10 + "\n[cut: 10 of 11 characters are shown; ask for less at a time]"),
        ("refusal", 11, "x" * 10 + "\n[cut: 10 of 11 characters are shown; ask for less at a time]"),
        ("failure", 10**6, f"ValueError: {'x' * 500}... (1000000 characters)"),
    ],
)
def test_what_is_too_long_is_cut_and_the_agent_is_told(kind: str, size: int, text: str) -> None:
    call = Toolbox([flood]).call("flood", {"kind": kind, "size": size})
    assert (call.error or call.result) == text


def test_results_are_cut_where_the_tool_says_nothing() -> None:
    call = Toolbox([repeat]).call("repeat", {"text": "ab", "times": 10_001})
    assert call.result == "ab" * 10_000 + "\n[cut: 20,000 of 20,002 characters are shown; ask for less at a time]"
    assert Toolbox([repeat]).call("repeat", {"text": "ab", "times": 10_000}).result == "ab" * 10_000


def test_a_flood_takes_no_memory() -> None:
    text = "x" * 20_000_000

    @tool
    def page() -> str:
        """A page."""
        return text

    box = Toolbox([page])
    tracemalloc.start()
    try:
        calls = [box.call("page", {}) for _ in range(20)]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert {len(call.result) for call in calls} == {len(calls[0].result)}
    assert peak < 2_000_000


@pytest.mark.parametrize("wrong", [0, -1, 1.5, None])
def test_a_length_out_of_range(wrong: Any) -> None:
    with pytest.raises(UsageError, match="tool 'flood': max_characters must be a whole number from 1 up, got"):
        tool(flood.function, max_characters=wrong)
