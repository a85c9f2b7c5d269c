"""What screens are made of. A screen is plain data: the same for the page model, the browser and a test.

Roles are ARIA's. A widget with a ``key`` can be acted on: the key is what the application is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

CHECKED = ("checked",)
DISABLED = ("disabled",)
SELECTED = ("selected",)
INVALID = ("invalid",)


class Widget(NamedTuple):
    """One element of a screen.

    Attributes:
        role: ``button link tab textbox checkbox combobox text status alert``.
        name: its accessible name.
        key: passed to the application when the widget is acted on; empty for a widget that is only read.
        value: what a textbox or combobox holds.
        states: any of ``checked disabled selected invalid``.
        options: what a combobox offers.
        shortcut: the key, Enter or Escape, that clicks it from anywhere on the screen.
    """

    role: str
    name: str
    key: str = ""
    value: str | None = None
    states: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    shortcut: str = ""


class Zone(NamedTuple):
    """Widgets that belong together.

    Attributes:
        kind: ``nav tabs toolbar form list text``: how it is laid out; an agent does not see it.
        widgets: in reading order.
        window: how many of them are on the screen at a time; 0: all. At most one zone of a screen has a window.
    """

    kind: str
    widgets: Sequence[Widget]
    window: int = 0


class Dialog(NamedTuple):
    """A dialog: hides the page behind it until it is closed."""

    title: str
    widgets: Sequence[Widget]


class Screen(NamedTuple):
    """What an application shows. Statuses and alerts are not part of it: they come from its state.

    Attributes:
        title: names the page; another title is another page.
        zones: from top to bottom.
        dialog: the open dialog, if any.
    """

    title: str
    zones: Sequence[Zone]
    dialog: Dialog | None = None


# Screens are built every turn, and this takes half the time of ``Widget(...)``; all seven fields must be given.
_made = tuple.__new__


def button(key: str, name: str, *, off: bool = False, shortcut: str = "") -> Widget:
    """A button, disabled where it is ``off``."""
    return _made(Widget, ("button", name, key, None, DISABLED if off else (), (), shortcut))


def link(key: str, name: str) -> Widget:
    """A link: leads to another page."""
    return _made(Widget, ("link", name, key, None, (), (), ""))


def tab(key: str, name: str, *, selected: bool) -> Widget:
    """One of several tabs inside a page."""
    return _made(Widget, ("tab", name, key, None, SELECTED if selected else (), (), ""))


def textbox(key: str, name: str, value: str, *, invalid: bool = False) -> Widget:
    """A line to type in."""
    return _made(Widget, ("textbox", name, key, value, INVALID if invalid else (), (), ""))


def checkbox(key: str, name: str, *, checked: bool) -> Widget:
    """A box to tick."""
    return _made(Widget, ("checkbox", name, key, None, CHECKED if checked else (), (), ""))


def combobox(key: str, name: str, value: str, options: tuple[str, ...]) -> Widget:
    """A choice of one among some."""
    return _made(Widget, ("combobox", name, key, value, (), options, ""))


def text(name: str) -> Widget:
    """Text to read."""
    return _made(Widget, ("text", name, "", None, (), (), ""))


def status(name: str) -> Widget:
    """What the last action did; it goes with the next one."""
    return _made(Widget, ("status", name, "", None, (), (), ""))


def alert(name: str) -> Widget:
    """Why something was not done."""
    return _made(Widget, ("alert", name, "", None, (), (), ""))
