"""The same actions as tools, for the syntaxes in which models call them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from agentgym.envs.gui.commands import Command, Unreadable, command
from agentgym.envs.gui.driver import Driver, Impossible
from agentgym.errors import ToolError
from agentgym.tools.syntax.base import Call
from agentgym.tools.tool import tool

# Tools are made once and know no episode; whoever runs a call says whose it is.
_driver: ContextVar[Driver] = ContextVar("driver")


@contextmanager
def acting(driver: Driver) -> Iterator[None]:
    """Calls inside are done by this driver."""
    token = _driver.set(driver)
    try:
        yield
    finally:
        _driver.reset(token)


def _do(name: str, element: str = "", text: str = "") -> str:
    try:
        return _driver.get().do(command(name, element, text))
    except (Unreadable, Impossible) as refusal:
        raise ToolError(str(refusal)) from None


@tool
def click(id: str) -> str:  # noqa: A002  the name that the model writes
    """Click a button, a link or a tab.

    Args:
        id: of the element, e.g. kd.
    """
    return _do("click", id)


@tool(name="type")
def type_in(id: str, text: str) -> str:  # noqa: A002
    """Replace what stands in a textbox.

    Args:
        id: of the textbox.
        text: what to write there.
    """
    return _do("type", id, text)


@tool
def select(id: str, option: str) -> str:  # noqa: A002
    """Choose an option of a combobox.

    Args:
        id: of the combobox.
        option: one that it offers.
    """
    return _do("select", id, option)


@tool
def check(id: str) -> str:  # noqa: A002
    """Tick a checkbox, or take its tick away.

    Args:
        id: of the checkbox.
    """
    return _do("check", id)


@tool
def press(key: str) -> str:
    """Press a key.

    Args:
        key: Enter or Escape.
    """
    return _do("press", "", key)


@tool
def scroll(direction: str) -> str:
    """Move the list.

    Args:
        direction: down or up.
    """
    return _do("scroll", "", direction)


@tool
def back() -> str:
    """Go back to the page before."""
    return _do("back")


@tool
def open_tab(application: str) -> str:
    """Open an application in a new tab.

    Args:
        application: its name.
    """
    return _do("open_tab", "", application)


@tool
def switch_tab(application: str) -> str:
    """Show the tab of an application that is open.

    Args:
        application: its name.
    """
    return _do("switch_tab", "", application)


TOOLS = (click, type_in, select, check, press, scroll, back, open_tab, switch_tab)
_KNOWN = {known.name: list(known.parameters.get("properties", ())) for known in TOOLS}


def as_call(said: Command) -> Call:
    """The tool call that does what a command says; ``done`` is no tool, but the answer of a syntax."""
    parts = [part for part in (said.element, said.text) if part] if said.name != "type" else [said.element, said.text]
    return Call(said.name, dict(zip(_KNOWN[said.name], parts, strict=True)))
