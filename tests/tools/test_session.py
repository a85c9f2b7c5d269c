"""Sessions: tools that name one maker share one object per episode; branches have copies."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from agentgym.errors import ForkError, UsageError
from agentgym.tools.session import Sessions, takes_task
from agentgym.tools.tool import Tool, tool
from agentgym.tools.toolbox import Toolbox


class Cart:
    """Plain data: no fork, no close."""

    def __init__(self) -> None:
        self.items: list[str] = []
        self.same = self.items


def put(session: Any = Cart, name: str = "put", timeout: float | None = None) -> Tool:
    @tool(session=session, name=name, timeout=timeout)
    def put(cart: Any, item: str) -> str:
        """Put.

        Args:
            item: what.
        """
        if item == "slow":
            threading.Event().wait(60)
        items = cart if isinstance(cart, list) else cart.items
        items.append(item)
        return ",".join(items)

    return put


@tool(session=Cart)
def look(cart: Cart) -> str:
    """Look."""
    return ",".join(cart.same)


def results(box: Toolbox, *calls: tuple[str, str]) -> list[str]:
    return [box.call(name, {"item": item} if item else {}).result for name, item in calls]


def test_tools_of_one_maker_share_a_session_in_each_episode() -> None:
    box = Toolbox([put(), look])
    one, two = box.open(), box.open()
    assert results(one, ("put", "a"), ("look", ""), ("put", "b"), ("look", "")) == ["a", "a", "a,b", "a,b"]
    assert results(two, ("look", ""), ("put", "c"), ("look", "")) == ["", "c", "c"]
    assert one.session(Cart).items == ["a", "b"]
    assert box.session_makers == (Cart,)


def test_tools_of_different_makers_do_not() -> None:
    class Other(Cart):
        pass

    box = Toolbox([put(), put(Other, "other"), put(list, "plain")])
    assert results(box, ("put", "a"), ("other", "b"), ("plain", "c"), ("put", "d")) == ["a", "b", "c", "a,d"]
    assert box.session_makers == (Cart, Other, list)


def test_a_branch_has_a_deep_copy() -> None:
    box = Toolbox([put(), look]).open()
    box.call("put", {"item": "a"})
    branch = box.fork()
    assert results(branch, ("put", "b"), ("look", "")) == ["a,b", "a,b"]  # what was one object is one in the copy
    assert results(box, ("look", ""), ("put", "c")) == ["a", "a,c"]
    assert results(branch, ("look", "")) == ["a,b"]


def test_its_own_fork_goes_before_a_deep_copy() -> None:
    class Page:
        def __init__(self, items: tuple[str, ...] = ()) -> None:
            self.items, self.lock = list(items), threading.Lock()

        def fork(self) -> Page:
            return Page((*self.items, "forked"))

    box = Toolbox([put(Page)]).open()
    box.call("put", {"item": "a"})
    assert results(box.fork(), ("put", "b")) == ["a,forked,b"]


def test_what_cannot_be_copied_says_what_to_write() -> None:
    closed: list[str] = []

    class Good(Cart):
        def close(self) -> None:
            closed.append("copy" if self.items == ["a", "copied"] else "other")

        def fork(self) -> Good:
            twin = Good()
            twin.items = [*self.items, "copied"]
            return twin

    class Locked(Cart):
        def __init__(self) -> None:
            super().__init__()
            self.lock = threading.Lock()

    box = Toolbox([put(Good), put(Locked, "locked")]).open()
    results(box, ("put", "a"), ("locked", "b"))
    with pytest.raises(
        ForkError,
        match=r"the session Locked cannot be copied \(TypeError: cannot pickle '_thread.lock' object\); give Locked a "
        r"method fork\(\) that returns an independent copy",
    ):
        box.fork()
    assert closed == ["copy"]  # nothing of the failed fork stays open
    assert results(box, ("put", "c"), ("locked", "d")) == ["a,c", "b,d"]


def test_the_task_is_given_where_it_is_asked_for_and_never_changed() -> None:
    class Stock:
        def __init__(self, task: dict[str, list[str]]) -> None:
            self.items = task["items"]

    box, task = Toolbox([put(Stock)]), {"items": ["x"]}
    one = box.open(task)
    assert results(one, ("put", "a")) == ["x,a"]
    assert results(one.fork(), ("put", "b")) == ["x,a,b"]
    assert results(box.open(task), ("put", "c")) == ["x,c"]
    assert results(box.open(task).fork(), ("put", "d")) == ["x,d"]  # made in the branch
    assert task == {"items": ["x"]}
    assert (takes_task(Stock), takes_task(Cart), takes_task(dict), takes_task(lambda n=1: n)) == (True, *[False] * 3)


def test_all_sessions_are_closed_also_where_one_does_not() -> None:
    closed: list[str] = []

    class Fine(Cart):
        def close(self) -> None:
            closed.append(type(self).__name__)

    class Stubborn(Fine):
        def close(self) -> None:
            super().close()
            raise OSError("no")

    class Last(Fine):
        pass

    sessions = Sessions()
    made = [sessions.of(m) for m in (Fine, Stubborn, Last, Cart)]
    with pytest.raises(OSError, match="no"):
        sessions.close()
    assert sorted(closed) == ["Fine", "Last", "Stubborn"]
    sessions.close()
    assert len(closed) == 3
    assert sessions.of(Fine) is not made[0]


def test_a_late_call_costs_all_tools_their_session() -> None:
    box = Toolbox([put(timeout=0.2), look]).open()
    assert results(box, ("put", "a")) == ["a"]
    error = box.call("put", {"item": "slow"}).error
    assert error == "put timed out after 0.2 s; its session was closed and the next call starts a new one"
    assert results(box, ("look", ""), ("put", "b")) == ["", "b"]


def test_a_maker_must_be_one() -> None:
    with pytest.raises(
        UsageError, match=r"tool 'put': session must be a class or function that makes one, got \[\]; t"
    ):
        put([])
    with pytest.raises(UsageError, match="tools share a session by naming the same one"):
        put({"a": 1})

    class Maker(dict):  # type: ignore[type-arg]
        def __call__(self) -> Cart:
            return Cart()

    with pytest.raises(UsageError, match="session must be a class or function that makes one"):
        put(Maker())


def test_opening_a_session_is_part_of_the_call_that_needs_it() -> None:
    def slow() -> Cart:
        threading.Event().wait(0.05)
        return Cart()

    box = Toolbox([put(slow)])
    assert box.call("put", {"item": "a"}).seconds >= 0.05
    assert box.tally["put"].seconds >= 0.05
