"""What is on the screen, however it got there; and the seam between the environment and its backends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, Self

from agentgym.envs.gui.commands import Command, quoted
from agentgym.envs.gui.widgets import Widget

_MESSAGES = ("status", "alert")


class Snapshot(NamedTuple):
    """What an agent can see and do now.

    Attributes:
        title: of the page.
        dialog: the dialog's title; empty where none is open. What is behind a dialog is not in the snapshot.
        lines: the elements as text, by id; those without an id by their own line. Where elements are called by name,
            names stand for ids, here and in commands.
        messages: lines of statuses and alerts.
        elements: those with an id.
        up, down: whether the list with a window goes on above and below what is shown.
        back: whether there is a page to go back to.
        here: the application shown; ``tabs``: those that are open, in order; ``apps``: all that there are.
    """

    title: str
    dialog: str
    lines: Mapping[str, str]
    messages: Sequence[str]
    elements: Mapping[str, Widget]
    up: bool
    down: bool
    back: bool
    here: str
    tabs: Sequence[str]
    apps: Sequence[str]


class Backend(Protocol):
    """What stands between an agent and the world of its task."""

    def snapshot(self) -> Snapshot:
        """What is on the screen."""

    def perform(self, command: Command) -> None:
        """Do something that the last snapshot shows to be possible; never ``done``."""

    def expert(self) -> Command:
        """The expert's next command, with the element's id."""

    def anchor(self) -> str:
        """Digest of the world's state."""

    def solved(self, answer: str) -> bool:
        """Whether the task is done if the agent ends here with this answer."""

    def screenshot(self) -> bytes | None:
        """The screen as PNG; None where there is no picture."""

    def fork(self) -> Self:
        """An independent copy in the same state."""

    def close(self) -> None:
        """Let go of what it holds."""


def snapshot(
    title: str,
    shown: Iterable[tuple[str, Widget]],
    *,
    dialog: str = "",
    up: bool = False,
    down: bool = False,
    back: bool = False,
    here: str = "",
    tabs: Sequence[str] = (),
    apps: Sequence[str] = (),
) -> Snapshot:
    """The snapshot of a screen.

    Args:
        title: of the page.
        shown: id (empty for what is only read) and widget of every element on the screen, in reading order; of widgets,
            role, name, value, states, options and shortcut count.
        dialog, up, down, back, here, tabs, apps: see :class:`Snapshot`.
    """
    lines: dict[str, str] = {}
    messages: list[str] = []
    elements: dict[str, Widget] = {}
    if len(apps) > 1:
        line = "tabs: " + ", ".join([f"{name} (here)" if name == here else name for name in tabs])
        lines[line] = line
    for element, widget in shown:
        if element:
            elements[element] = widget
            lines[element] = f"{element} {described(widget)}"
        elif widget.role in _MESSAGES:
            messages.append(described(widget))
        else:
            line = described(widget)
            lines[line] = line
    if up or down:
        line = "scroll: " + ("up, down" if up and down else "up" if up else "down")
        lines[line] = line
    return Snapshot(title, dialog, lines, messages, elements, up, down, back, here, tabs, apps)


def described(widget: Widget) -> str:
    """``button Save``, ``textbox Email: "ada@mail"  (invalid)``, ``combobox Size: "M" of S, M, L``."""
    role, name, _, value, states, options, shortcut = widget
    if value is None:
        line = f"{role} {name}"
    elif options:
        line = f'{role} {name}: "{value}" of {", ".join(options)}'
    else:
        line = f'{role} {name}: "{value}"'
    if states:
        line = f"{line} ({', '.join(states)})"
    return f"{line} [{shortcut}]" if shortcut else line


def whole(now: Snapshot) -> str:
    """Everything on the screen."""
    return "\n".join([f"dialog {now.dialog}" if now.dialog else now.title, *now.messages, *now.lines.values()])


def changes(before: Snapshot, now: Snapshot) -> str | None:
    """What is not as it was before on the same page; None where it is better to show everything."""
    was, lines = before.lines, now.lines
    changed = [line for key, line in lines.items() if was.get(key) != line]
    gone = [key for key in was if key not in lines]
    if len(changed) + len(gone) > 0.6 * len(lines):
        return None
    stayed = [key for key in was if key in lines] if gone else list(was)
    if len(stayed) > 1 and stayed != [key for key in lines if key in was]:
        return None
    told = [*now.messages, *changed]
    if gone:
        told.append("gone: " + ", ".join(gone))
    return "\n".join(told)


Write = Callable[[Command], str]


def impossible(now: Snapshot, command: Command, write: Write = str) -> str | None:
    """Why the command cannot be done on this screen; None where it can.

    Args:
        write: writes the actions that it recommends.
    """
    check = _CHECKS.get(command.name)
    return check(now, command, write) if check is not None else None


_TAKES: Mapping[str, tuple[str, str]] = {
    "button": ("click", ""),
    "link": ("click", ""),
    "tab": ("click", ""),
    "textbox": ("type", "TEXT"),
    "checkbox": ("check", ""),
    "combobox": ("select", "OPTION"),
}
_DOES = {"click": ("button", "link", "tab", "checkbox"), "type": ("textbox",), "check": ("checkbox",)}
_DOES |= {"select": ("combobox",)}


def _on_element(now: Snapshot, command: Command, write: Write) -> str | None:
    name, element, text = command
    widget = now.elements.get(element)
    if widget is None:
        return f"There is no element {element[:40]!r} on this screen."
    if widget.role not in _DOES[name]:
        verb, what = _TAKES[widget.role]
        return f"{element} is a {widget.role}: write {write(Command(verb, element, what))}."
    if "disabled" in widget.states:
        return f"{element} is disabled."
    if name == "select" and text not in widget.options:
        return f"{element} has no option {text!r}; it has {', '.join(widget.options)}."
    return None


def _press(now: Snapshot, command: Command, _: Write) -> str | None:
    if shortcut(now, command.text) is None:
        return f"Nothing on this screen answers to the key {command.text[:40]!r}."
    return None


def shortcut(now: Snapshot, key: str) -> str | None:
    """The id of the element that a key clicks."""
    return next((e for e, w in now.elements.items() if w.shortcut == key and "disabled" not in w.states), None)


def _scroll(now: Snapshot, command: Command, write: Write) -> str | None:
    direction = command.text
    if direction not in ("up", "down"):
        down, up, said = (write(Command("scroll", "", where)) for where in ("down", "up", direction[:40]))
        return f"Not understood: {said}. Write {down} or {up}."
    if not (now.up if direction == "up" else now.down):
        return f"There is nothing to scroll {direction} to."
    return None


def _back(now: Snapshot, command: Command, _: Write) -> str | None:
    return None if now.back else "There is no page to go back to."


def _open_tab(now: Snapshot, command: Command, write: Write) -> str | None:
    name = command.text
    if name not in now.apps:
        return f"There is no application {name[:40]!r}; there are: {', '.join(now.apps)}."
    if name in now.tabs:
        switch = "" if name == now.here else f" Write {write(Command('switch_tab', '', name))}."
        return f"{name} is open already.{switch}"
    return None


def _switch_tab(now: Snapshot, command: Command, write: Write) -> str | None:
    name = command.text
    if name == now.here:
        return f"You are in {name} already."
    if name not in now.tabs:
        way = (
            f"Write {write(Command('open_tab', '', name))}" if name in now.apps else f"There are: {', '.join(now.tabs)}"
        )
        return f"There is no tab {name[:40]!r}. {way}."
    return None


_CHECKS = dict.fromkeys(_DOES, _on_element) | {
    "press": _press,
    "scroll": _scroll,
    "back": _back,
    "open_tab": _open_tab,
    "switch_tab": _switch_tab,
}


def possible(now: Snapshot, texts: Sequence[str]) -> list[str]:
    """Every action that can be done on this screen, but ``done``, in a fixed order.

    Args:
        now: the screen.
        texts: what may be typed.
    """
    actions: list[str] = []
    keys: list[str] = []
    written: list[tuple[str, str]] | None = None
    for element, (role, _, _, value, states, options, key) in now.elements.items():
        if states and "disabled" in states:
            continue
        if key and key not in keys:
            keys.append(key)
        if role == "textbox":
            if written is None:
                written = [(text, quoted(text)) for text in texts]
            actions += [f"type({element}, {quote})" for text, quote in written if text != value]
        elif role == "combobox":
            actions += [f"select({element}, {quoted(option)})" for option in options if option != value]
        else:
            actions.append(f"check({element})" if role == "checkbox" else f"click({element})")
    actions += [f"press({key})" for key in keys]
    if now.up:
        actions.append("scroll(up)")
    if now.down:
        actions.append("scroll(down)")
    if now.back:
        actions.append("back")
    if len(now.apps) > 1:
        actions += [f"{'switch' if a in now.tabs else 'open'}_tab({a})" for a in now.apps if a != now.here]
    return actions
