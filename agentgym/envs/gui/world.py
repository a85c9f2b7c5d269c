"""The applications of one task, with tabs, histories and ids: what both backends drive."""

from __future__ import annotations

import hashlib
import zlib
from typing import NamedTuple

import orjson

from agentgym.envs.gui.app import App, State
from agentgym.envs.gui.commands import Command
from agentgym.envs.gui.tasks import Task
from agentgym.envs.gui.widgets import Screen, Widget, Zone, alert, status

_CONSONANTS = "bcdfghjklmnpqrstvwxz"
HINTS = tuple(a + b for a in _CONSONANTS for b in _CONSONANTS)  #: every id that there is
_IDS = len(HINTS)


class Rendered(NamedTuple):
    """What is shown.

    Attributes:
        screen: what the application shows.
        top: the first row shown of the zone with a window.
        messages: what the last action did or why it did not, above everything else.
    """

    screen: Screen
    top: int
    messages: list[Widget]

    def shown(self) -> list[Widget]:
        """The widgets that are on the screen now, in reading order."""
        screen = self.screen
        if screen.dialog is not None:
            return [*self.messages, *screen.dialog.widgets]
        widgets = self.messages.copy()
        for _, listed, window in screen.zones:
            widgets += listed[self.top : self.top + window] if window else listed
        return widgets

    def windowed(self) -> Zone | None:
        """The zone with a window, where one can be scrolled."""
        if self.screen.dialog is not None:
            return None
        return next((zone for zone in self.screen.zones if zone.window), None)


class World:
    """The running applications of a task.

    Args:
        task: the request and the applications; the first is open.

    Attributes:
        states: the state of each application, by name.
        tabs: the applications that are open, in the order of opening.
        here: the one that is shown.
    """

    __slots__ = ("_ids", "_rendered", "here", "states", "tabs", "task")

    def __init__(self, task: Task) -> None:
        self.task = task
        self.states = {app.name: app.begin() for app in task.apps.values()}
        self.here = next(iter(task.apps))
        self.tabs = [self.here]
        self._rendered: Rendered | None = None
        self._ids: dict[str, str] | None = None

    @property
    def app(self) -> App:
        """The application that is shown."""
        return self.task.apps[self.here]

    @property
    def state(self) -> State:
        """The state of the application that is shown."""
        return self.states[self.here]

    def copy(self) -> World:
        """An independent world; the applications, which never change, are shared."""
        twin = object.__new__(World)
        twin.task, twin.here, twin.tabs = self.task, self.here, self.tabs.copy()
        twin.states = {name: state.copy() for name, state in self.states.items()}
        twin._rendered, twin._ids = self._rendered, self._ids
        return twin

    def render(self) -> Rendered:
        """What is shown now."""
        if self._rendered is None:
            state = self.state
            screen = self.app.view(state)
            self._rendered = Rendered(screen, _top(screen, state), _messages(state))
        return self._rendered

    def ids(self) -> dict[str, str]:
        """The id of every key: also of what is behind a dialog, and of the rows outside a list's window.

        It is found by a hash of the task and the key; where two meet on a screen, the later one has the next that is
        free.
        """
        if self._ids is None:
            self._ids = self._identified(self.render().screen)
        return self._ids

    def _changing(self) -> None:
        """What was rendered holds no more."""
        self._rendered = self._ids = None

    def act(self, key: str, value: str = "") -> None:
        """Act on the element with this key, which must be on the screen and enabled."""
        self._changing()
        self.app.act(self.state, key, value)

    def scroll(self, direction: str) -> None:
        """Move the list by its window, ``"up"`` or ``"down"``, as far as it goes."""
        zone = self.render().windowed()
        assert zone is not None
        state = self.state
        state.note = state.problem = ""
        state.top += zone.window if direction == "down" else -zone.window  # put right when it is rendered
        self._changing()

    def back(self) -> None:
        """Go to the page before, which there must be."""
        self._changing()
        self.app.back(self.state)

    def show(self, name: str) -> None:
        """Show an application; it is opened where it is not yet."""
        self._changing()
        if name not in self.tabs:
            self.tabs.append(name)
        self.here = name
        self.state.note = self.state.problem = ""

    def perform(self, command: Command) -> None:
        """Carry out a command that is possible on the screen; its element is a key."""
        name, key, text = command
        if name in ("click", "check", "type", "select"):
            self.act(key, text)
        elif name == "press":
            self.act(next(w.key for w in self.render().shown() if w.shortcut == text and "disabled" not in w.states))
        elif name == "scroll":
            self.scroll(text)
        elif name == "back":
            self.back()
        else:
            self.show(text)

    def expert(self) -> Command:
        """The expert's next command; its element is a key that is on the screen."""
        command = self.task.expert(self)
        if not command.element.startswith(self.app.rows):
            return command
        rendered = self.render()
        zone = rendered.windowed()
        if zone is not None:
            for row, widget in enumerate(zone.widgets):
                if widget.key == command.element:
                    if row < rendered.top:
                        return Command("scroll", "", "up")
                    if row >= rendered.top + zone.window:
                        return Command("scroll", "", "down")
        return command

    def code(self) -> str:
        """Digest of the task and of all that decides what happens next."""
        self.render()  # puts the list's position right
        facts = {name: state.facts() for name, state in self.states.items()}
        content = orjson.dumps((self.task.task_id, self.here, self.tabs, facts), option=orjson.OPT_SORT_KEYS)
        return hashlib.blake2b(content, digest_size=8).hexdigest()

    def solved(self, answer: str) -> bool:
        """Whether the data is as it should be, everywhere, and the answer is the one that is asked for, if any."""
        task = self.task
        if task.answer and answer.casefold() != task.answer.casefold():
            return False
        return any(
            all(state.data == goal.get(name, task.first[name]) for name, state in self.states.items())
            for goal in task.goals
        )

    def _identified(self, screen: Screen) -> dict[str, str]:
        known, ids, used = self.task.hints, dict[str, str](), set[int]()
        groups = [zone.widgets for zone in screen.zones]
        if screen.dialog is not None:
            groups.append(screen.dialog.widgets)
        for widgets in groups:
            for widget in widgets:
                if key := widget.key:
                    hint = known.get(key)
                    if hint is None:
                        hint = known[key] = zlib.crc32(key.encode(), self.task.salt) % _IDS
                    while hint in used:
                        hint = (hint + 1) % _IDS
                    used.add(hint)
                    ids[key] = HINTS[hint]
        return ids


def _messages(state: State) -> list[Widget]:
    messages = [status(state.note)] if state.note else []
    return [*messages, alert(state.problem)] if state.problem else messages


def _top(screen: Screen, state: State) -> int:
    """The first row shown; the state is put right where it is beyond the list's ends."""
    for zone in screen.zones:
        if zone.window:
            state.top = max(0, min(state.top, len(zone.widgets) - zone.window))
            return state.top
    return 0
