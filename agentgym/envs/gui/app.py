"""An application: a small state machine whose state is plain data.

A new application is one new file in ``apps/``::

    class Notes(App):
        name = "notes"

        def data(self):
            return {"text": ""}

        def view(self, s):
            return Screen("Notes", [Zone("form", [textbox("field:text", "Note", s.text("text")),
                                                  button("save", self.say["save"])])])

        def on_save(self, s, argument, value):
            s.data["text"] = s.text("text")
            s.note = "Saved."

A widget's key is ``VERB`` or ``VERB:ARGUMENT``; acting on it calls ``on_VERB(state, argument, value)``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar

import orjson

from agentgym.envs.gui.commands import Command, check, select, type_in
from agentgym.envs.gui.look import COMMON, Look, Words
from agentgym.envs.gui.widgets import Screen

_VERB = "on_"
Data = dict[str, Any]  #: JSON: texts, numbers, booleans, lists, and objects with text keys


@dataclass(slots=True)
class State:
    """What changes in an application; JSON values throughout, so that it is cheap to copy and to compare.

    Attributes:
        data: what it keeps: the goal of a task is a matter of this alone.
        route: which page is shown.
        past: the pages before it, oldest first; ``back`` returns to the last.
        draft: what is typed, ticked or chosen and not saved: forms, filters, sort orders, selections; dropped with the
            page.
        memory: kept over pages but part of no goal: what was opened, what can be undone.
        top: the first row that is shown of the list with a window.
        dialog: which dialog is open; empty: none.
        note: what the last action did, and ``problem``: why something was not done; shown until the next action.
    """

    data: Data
    route: str
    past: list[str] = field(default_factory=list)
    draft: Data = field(default_factory=dict)
    memory: Data = field(default_factory=dict)
    top: int = 0
    dialog: str = ""
    note: str = ""
    problem: str = ""

    def copy(self) -> State:
        """An independent state."""
        data, past, draft, memory = orjson.loads(orjson.dumps((self.data, self.past, self.draft, self.memory)))
        return State(data, self.route, past, draft, memory, self.top, self.dialog, self.note, self.problem)

    def text(self, name: str, default: str = "") -> str:
        """The draft of a textbox or combobox."""
        value: str = self.draft.get(name, default)
        return value

    def facts(self) -> tuple[object, ...]:
        """All that decides what happens next."""
        return (self.data, self.route, self.past, self.draft, self.memory, self.top, self.dialog)


Handler = Callable[[Any, State, str, str], None]


class App(ABC):
    """One application with the content of one task; it never changes, only its :class:`State` does.

    Attributes:
        name: what ``open_tab`` calls it.
        home: the route it starts at.
        window: how many rows its lists show at a time; 0: it has none that can be scrolled.
        rows: how the keys of such rows begin.
        words: its own labels, each in three wordings.
        permutable_names: sets of names that can be exchanged for each other without changing the right actions.
        say: the labels of this task.
    """

    name: ClassVar[str]
    home: ClassVar[str] = "home"
    window: ClassVar[int] = 0
    rows: ClassVar[tuple[str, ...]] = ()
    words: ClassVar[Words] = {}
    permutable_names: ClassVar[tuple[tuple[str, ...], ...]] = ()
    _verbs: ClassVar[Mapping[str, Handler]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._verbs = {name.removeprefix(_VERB): getattr(cls, name) for name in dir(cls) if name.startswith(_VERB)}

    def __init__(self, look: Look) -> None:
        self.look = look
        self.say = _labels(type(self), look.wording)

    @abstractmethod
    def data(self) -> Data:
        """What it keeps before the first action; a fresh object each time."""

    @abstractmethod
    def view(self, s: State) -> Screen:
        """What it shows; the state is only read."""

    def memory(self) -> Data:
        """What it remembers before the first action; a fresh object each time."""
        return {}

    def begin(self) -> State:
        """The state before the first action."""
        return State(self.data(), self.home, memory=self.memory())

    def act(self, s: State, key: str, value: str = "") -> None:
        """Act on the element with this key, which must be on the screen and enabled.

        Args:
            s: changed in place.
            key: the widget's.
            value: the text that was typed or the option that was chosen.
        """
        s.note = s.problem = ""
        verb, _, argument = key.partition(":")
        self._verbs[verb](self, s, argument, value)

    def visit(self, s: State, route: str) -> None:
        """Go to another page; drafts are dropped."""
        if route != s.route:
            s.past.append(s.route)
        self.enter(s, route)

    def back(self, s: State) -> None:
        """Go to the page before; there must be one."""
        s.note = s.problem = ""
        self.enter(s, s.past.pop())

    def enter(self, s: State, route: str) -> None:
        """What showing a page does to the state."""
        s.route, s.top, s.dialog = route, 0, ""
        s.draft.clear()

    def on_go(self, s: State, route: str, value: str) -> None:
        """A link to a page."""
        self.visit(s, route)

    def on_field(self, s: State, name: str, value: str) -> None:
        """A textbox or combobox whose value is a draft."""
        s.draft[name] = value

    def on_tick(self, s: State, name: str, value: str) -> None:
        """A checkbox whose tick is a draft."""
        if s.draft.pop(name, False) is False:
            s.draft[name] = True

    def on_dismiss(self, s: State, argument: str, value: str) -> None:
        """The way out of a dialog."""
        s.dialog = ""

    # ---- what experts are made of: the next command towards something, None once it is so

    def filled(self, s: State, name: str, value: str, *, choice: bool = False) -> Command | None:
        """Until the draft ``name`` holds the value."""
        if s.text(name) == value:
            return None
        return select(f"field:{name}", value) if choice else type_in(f"field:{name}", value)

    def ticked(self, s: State, name: str, ticked: bool = True) -> Command | None:
        """Until the tick of the draft ``name`` is as ``ticked`` says."""
        return None if s.draft.get(name, False) == ticked else check(f"tick:{name}")


@cache
def _labels(kind: type[App], wording: int) -> Mapping[str, str]:
    """What each label says in a wording: the common ones, and an application's own."""
    return {key: words[wording] for key, words in {**COMMON, **kind.words}.items()}
