"""What an agent may do on a screen: as a record, and as the text ``click(kd)``, ``type(kd, "Ada")``, ``back``."""

from __future__ import annotations

import re
from typing import NamedTuple

from agentgym.tools.plain import mend

LONGEST = 200  #: characters of a text that is typed
_LONGEST_ACTION = 1000

FORMS = {
    "click": "click(ID)",
    "type": 'type(ID, "TEXT")',
    "select": 'select(ID, "OPTION")',
    "check": "check(ID)",
    "press": "press(Enter) or press(Escape)",
    "scroll": "scroll(down) or scroll(up)",
    "back": "back",
    "open_tab": "open_tab(APPLICATION)",
    "switch_tab": "switch_tab(APPLICATION)",
    "done": 'done or done("ANSWER")',
}
ON_ELEMENT = ("click", "type", "select", "check")
_TEXT_NEEDED = ("type", "select")

_HOW = f"Write one of: {', '.join(FORMS.values())}."
_CALL = re.compile(r"\s*+([A-Za-z_]++)\s*+(?:\((.*)\))?\s*+", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


class Command(NamedTuple):
    """One thing to do.

    Attributes:
        name: one of :data:`FORMS`.
        element: id of the element it is done to; empty for those that need none. An expert writes the element's key.
        text: what is typed, chosen, pressed, opened or answered; the direction of ``scroll``.
    """

    name: str
    element: str = ""
    text: str = ""

    def __str__(self) -> str:
        """The action as it is written; :func:`parse` reads it back."""
        name, element, text = self
        if name in ("click", "check"):
            return f"{name}({element})"
        if name in _TEXT_NEEDED:
            return f"{name}({element}, {quoted(text)})"
        if name == "done":
            return f"done({quoted(text)})" if text else "done"
        return f"{name}({text})" if text else name


class Unreadable(Exception):
    """An action that is none; the message says how one is written."""


def parse(action: str) -> Command:
    """Read an action.

    Raises:
        Unreadable: it is none.
    """
    match = _CALL.fullmatch(action) if len(action) <= _LONGEST_ACTION else None
    if match is None:
        raise Unreadable(f"Not understood. {_HOW}")
    name, body = match[1], match[2]
    if name not in FORMS:
        raise Unreadable(f"There is no action {name[:40]!r}. {_HOW}")
    return command(name, *_arguments(name, body or ""))


def command(name: str, element: str = "", text: str = "") -> Command:
    """A command of these parts; what is typed becomes one line, as a textbox would make of it.

    Raises:
        Unreadable: a part is missing, too much or too long.
    """
    text = " ".join(mend(text).split())
    if len(text) > LONGEST:
        raise Unreadable(f"The text has {len(text)} characters; at most {LONGEST} are allowed.")
    if (name in ON_ELEMENT) != bool(element) or (name in ("press", "scroll", "open_tab", "switch_tab") and not text):
        raise misspelt(name)
    if text and name in ("click", "check", "back"):
        raise misspelt(name)
    return Command(name, element, text)


def misspelt(name: str) -> Unreadable:
    """How the action is written."""
    return Unreadable(f"Not understood. Write: {FORMS[name]}.")


def _arguments(name: str, body: str) -> tuple[str, str]:
    """Element and text of what stands between the brackets."""
    if name not in ON_ELEMENT:
        return "", _unquoted(body)
    element, comma, rest = body.partition(",")
    if name in _TEXT_NEEDED and not comma:
        raise misspelt(name)
    return element.strip(), _unquoted(rest)


def quoted(text: str) -> str:
    """A text as it is written in an action."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _unquoted(text: str) -> str:
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        return _ESCAPED.sub(r"\1", text[1:-1]) if "\\" in text else text[1:-1]
    return text


def click(key: str) -> Command:
    """Click the element with this key; what experts write."""
    return Command("click", key)


def type_in(key: str, text: str) -> Command:
    """Replace what stands in the textbox with this key."""
    return Command("type", key, text)


def select(key: str, option: str) -> Command:
    """Choose an option of the combobox with this key."""
    return Command("select", key, option)


def check(key: str) -> Command:
    """Tick the checkbox with this key, or take its tick away."""
    return Command("check", key)


def done(answer: str = "") -> Command:
    """Say that the task is done."""
    return Command("done", "", answer)
