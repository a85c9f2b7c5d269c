"""Elements by their names instead of ids, and actions as words: ``click Save``, ``type Title = Gym``.

What ``refer="name"`` changes. A small model can copy a name that it reads in the task or on the page; to find the id
before a name it would have to learn a second step first.
"""

from __future__ import annotations

import re
from typing import Self

from agentgym.envs.gui.commands import ON_ELEMENT, Command, Unreadable, command
from agentgym.envs.gui.snapshot import Backend, Snapshot, described
from agentgym.envs.gui.widgets import Widget

FORMS = {
    "click": "click NAME",
    "type": "type NAME = TEXT",
    "select": "select NAME = OPTION",
    "check": "check NAME",
    "press": "press Enter or press Escape",
    "scroll": "scroll down or scroll up",
    "back": "back",
    "open_tab": "open_tab APPLICATION",
    "switch_tab": "switch_tab APPLICATION",
    "done": "done or done ANSWER",
}
_HOW = f"Write one of: {', '.join(FORMS.values())}."
_ALONE, _OPTIONAL = ("back",), ("done",)
_REST = re.compile(r",|: | = | \*$")


def write(said: Command) -> str:
    """The action as it is written; :func:`parse` reads it back."""
    name, element, text = said
    if name in ("type", "select"):
        return f"{name} {element} = {text}"
    return " ".join(filter(None, (name, element, text)))


def parse(action: str) -> Command:
    """Read an action.

    Raises:
        Unreadable: it is none.
    """
    name, _, rest = action.strip().partition(" ")
    rest = " ".join(rest.split())
    if name not in FORMS:
        raise Unreadable(f"Not understood. {_HOW}")
    element, text = (rest, "") if name in ("click", "check") else ("", rest)
    sign = " = "
    if name in ("type", "select"):
        element, sign, text = f"{rest} ".partition(" = ")
    if not sign or (name in ON_ELEMENT and not element) or (name in _ALONE and text):
        raise Unreadable(f"Not understood. Write: {FORMS[name]}.")
    if name not in (*ON_ELEMENT, *_ALONE, *_OPTIONAL) and not text:
        raise Unreadable(f"Not understood. Write: {FORMS[name]}.")
    return command(name, element, text)


class NamedBackend:
    """A backend whose elements are called by their names.

    A name ends before the first comma or colon, so that a row of a list is called by its first column. Of elements with
    one name, the second is called ``Save 2`` and says so at the beginning of its line.
    """

    __slots__ = ("_backend", "_ids")

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._ids: dict[str, str] = {}  # by name, of the last snapshot

    def snapshot(self) -> Snapshot:
        now = self._backend.snapshot()
        self._ids = {}
        elements: dict[str, Widget] = {}
        lines: dict[str, str] = {}
        for key, line in now.lines.items():
            widget = now.elements.get(key)
            if widget is None:
                lines[key] = line
                continue
            first = _REST.split(widget.name, maxsplit=1)[0].strip() or widget.role
            name, count = first, 1
            while name in self._ids or name in now.lines:
                count += 1
                name = f"{first} {count}"
            self._ids[name], elements[name] = key, widget
            lines[name] = described(widget) if count == 1 else f"{name}: {described(widget)}"
        return now._replace(lines=lines, elements=elements)

    def perform(self, command: Command) -> None:
        self._backend.perform(command._replace(element=self._ids[command.element]) if command.element else command)

    def expert(self) -> Command:
        command = self._backend.expert()
        if not command.element:
            return command
        return command._replace(element=next(name for name, key in self._ids.items() if key == command.element))

    def anchor(self) -> str:
        return self._backend.anchor()

    def solved(self, answer: str) -> bool:
        return self._backend.solved(answer)

    def screenshot(self) -> bytes | None:
        return self._backend.screenshot()

    def fork(self) -> Self:
        twin = type(self)(self._backend.fork())
        twin._ids = self._ids
        return twin

    def close(self) -> None:
        self._backend.close()
