"""Settings: tabs of switches and choices that act at once, dialogs, and undo."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from agentgym.envs.gui.app import App, Data, State
from agentgym.envs.gui.commands import Command, check, click, select
from agentgym.envs.gui.look import Look
from agentgym.envs.gui.tasks import Task, first, single, template
from agentgym.envs.gui.widgets import Dialog, Screen, Widget, Zone, button, checkbox, combobox, tab, text, textbox
from agentgym.keyed_random import Dice

TABS = ("General", "Privacy", "Notifications", "Display")
SWITCHES: Mapping[str, tuple[str, ...]] = {
    "General": ("Automatic updates", "Start at login", "Spell checking", "Offline mode"),
    "Privacy": ("Location", "Usage statistics", "Read receipts", "Public profile"),
    "Notifications": ("Email alerts", "Sounds", "Weekly summary", "Reminders"),
    "Display": ("Dark mode", "Large text", "Animations", "Line numbers"),
}
CHOICES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "General": ("Language", ("English", "French", "German", "Spanish")),
    "Privacy": ("Lock after", ("1 minute", "5 minutes", "15 minutes", "1 hour")),
    "Notifications": ("Quiet hours", ("at no time", "at night", "at weekends", "always")),
    "Display": ("Theme", ("Forest", "Ocean", "Sand", "Slate")),
}
DEVICES = ("Kitchen tablet", "Office laptop", "Blue phone", "Studio desktop", "Old notebook", "Lab computer")
_TAB_OF = {name: t for t, names in SWITCHES.items() for name in names} | {CHOICES[t][0]: t for t in TABS}
Value = bool | str


class Settings(App):
    """One person's settings; changes act at once and can be undone one by one.

    Args:
        look: how it is worded and arranged.
        values: of every switch and choice.
        device: the device's name.
        history: changes made before, oldest first: name and the value before.
    """

    name = "settings"
    home = "General"
    permutable_names = (*SWITCHES.values(), *(options for _, options in CHOICES.values()))
    words = {
        "reset": ("Reset this tab", "Restore defaults", "Back to factory values"),
        "rename": ("Rename device", "Change device name", "Give device another name"),
        "device": ("Device name", "Name of the device", "Called"),
        "ask": ("Reset all settings of this tab?", "Restore the defaults of this tab?", "Forget what was set here?"),
    }

    def __init__(
        self, look: Look, values: Mapping[str, Value], device: str, history: list[tuple[str, Value]] | None = None
    ) -> None:
        super().__init__(look)
        self._values, self._device, self._history = dict(values), device, history or []

    def data(self) -> Data:
        return {"values": dict(self._values), "device": self._device}

    def memory(self) -> Data:
        return {"undo": [list(change) for change in self._history]}

    def view(self, s: State) -> Screen:
        say, values, here = self.say, s.data["values"], s.route
        choice, options = CHOICES[here]
        items: list[Widget] = [checkbox(f"switch:{n}", n, checked=values[n]) for n in SWITCHES[here]]
        items.append(combobox(f"choose:{choice}", choice, values[choice], options))
        tools = [
            button("undo", say["undo"], off=not s.memory["undo"]),
            button("ask:reset", say["reset"]),
            button("ask:rename", say["rename"]),
        ]
        arrange = self.look.arrange
        zones = [
            Zone("tabs", [tab(f"tab:{t}", t, selected=t == here) for t in arrange(TABS)]),
            *arrange([Zone("form", arrange(items)), Zone("toolbar", arrange(tools))]),
            Zone("text", [text(f"Device: {s.data['device']}")]),
        ]
        return Screen(f"Settings: {here}", zones, self._dialog(s))

    def _dialog(self, s: State) -> Dialog | None:
        say = self.say
        buttons = self.look.arrange(
            [button(s.dialog, say["ok"], shortcut="Enter"), button("dismiss", say["cancel"], shortcut="Escape")]
        )
        if s.dialog == "reset":
            return Dialog(say["ask"], buttons)
        if s.dialog == "rename":
            box = textbox("field:device", say["device"], s.text("device", s.data["device"]))
            return Dialog(say["rename"], [box, *buttons])
        return None

    def on_tab(self, s: State, name: str, value: str) -> None:
        self.enter(s, name)  # a tab is not another page: there is no way back

    def on_switch(self, s: State, name: str, value: str) -> None:
        self._set(s, name, not s.data["values"][name])
        s.note = f"{name} is {'on' if s.data['values'][name] else 'off'}."

    def on_choose(self, s: State, name: str, value: str) -> None:
        if s.data["values"][name] != value:
            self._set(s, name, value)
            s.note = f"{name}: {value}."

    def on_undo(self, s: State, argument: str, value: str) -> None:
        name, before = s.memory["undo"].pop()
        s.data["values"][name] = before
        s.note = f"{name} is as before."

    def on_ask(self, s: State, dialog: str, value: str) -> None:
        s.dialog = dialog
        s.draft.clear()

    def on_reset(self, s: State, argument: str, value: str) -> None:
        s.data["values"].update(defaults(s.route))
        s.memory["undo"].clear()
        s.dialog, s.note = "", "Done."

    def on_rename(self, s: State, argument: str, value: str) -> None:
        name = s.text("device", s.data["device"])
        if not name:
            s.problem = "A device needs a name."
            return
        s.data["device"], s.dialog, s.note = name, "", "Renamed."

    def _set(self, s: State, name: str, value: Value) -> None:
        s.memory["undo"].append([name, s.data["values"][name]])
        s.data["values"][name] = value

    # ---- for experts

    def at(self, s: State, here: str) -> Command | None:
        """Until this tab is shown without a dialog."""
        if s.dialog:
            return click("dismiss")
        return None if s.route == here else click(f"tab:{here}")

    def having(self, s: State, name: str, value: Value) -> Command | None:
        """Until the setting has the value."""
        if s.data["values"][name] == value:
            return None
        change = check(f"switch:{name}") if isinstance(value, bool) else select(f"choose:{name}", value)
        return self.at(s, _TAB_OF[name]) or change

    def all_having(self, s: State, changes: Mapping[str, Value]) -> Command | None:
        """Until every setting has its value."""
        return first(self.having(s, name, value) for name, value in changes.items())

    def kept(self, s: State, data: Data) -> Command | None:
        """Until everything is as in the data."""
        return self.named(s, data["device"]) or self.all_having(s, data["values"])

    def undone(self, s: State, name: str, value: Value) -> Command | None:
        """Until the setting has the value that undoing the last change brings back."""
        if s.data["values"][name] == value:
            return None
        if not s.memory["undo"] or s.memory["undo"][-1][0] != name:
            return self.having(s, name, value)
        return click("dismiss") if s.dialog else click("undo")

    def named(self, s: State, device: str) -> Command | None:
        """Until the device has the name."""
        if s.data["device"] == device:
            return None
        if s.dialog != "rename":
            return click("dismiss" if s.dialog else "ask:rename")
        return self.filled(s, "device", device) or click("rename")

    def reset(self, s: State, here: str) -> Command | None:
        """Until the settings of the tab are as they were at first."""
        first = defaults(here)
        if all(s.data["values"][name] == value for name, value in first.items()):
            return None
        if s.route == here and s.dialog == "reset":
            return click("reset")
        return self.at(s, here) or click("ask:reset")


def defaults(here: str) -> dict[str, Value]:
    """What a tab's settings are at first: every other switch on, the first choice."""
    return {n: i % 2 == 0 for i, n in enumerate(SWITCHES[here])} | {CHOICES[here][0]: CHOICES[here][1][0]}


def _drawn(dice: Dice) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for here in TABS:
        values |= {n: bool(dice.below(2)) for n in SWITCHES[here]}
        values[CHOICES[here][0]] = dice.choice(CHOICES[here][1])
    return values


def _other(dice: Dice, name: str, value: Value) -> Value:
    """Another value of a setting."""
    if isinstance(value, bool):
        return not value
    return dice.choice([v for v in CHOICES[_TAB_OF[name]][1] if v != value])


def _said(name: str, value: Value) -> str:
    """A change in words."""
    if isinstance(value, bool):
        return f"turn {'on' if value else 'off'} {name}"
    return f"set {name} to {value}"


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def _task(app: Settings, sentence: str, changes: Mapping[str, Value], begin: Callable[[State], Command | None]) -> Task:
    """A task that ends with these settings, after what ``begin`` leads to."""
    after = app.data()
    after["values"].update(changes)

    def expert(s: State) -> Command | None:
        return begin(s) or app.all_having(s, changes) or app.kept(s, after)

    return single(app, f"In the settings, {sentence}.", expert, after, texts=DEVICES[:3])


def some_changes(dice: Dice, look: Look, tabs: int) -> tuple[Settings, str, dict[str, Value]]:
    """Settings, and one change in each of so many tabs: in words, and the new values."""
    app = Settings(look, values := _drawn(dice), dice.choice(DEVICES))
    names = [dice.choice((*SWITCHES[here], CHOICES[here][0])) for here in dice.sample(TABS, tabs)]
    changes = {name: _other(dice, name, values[name]) for name in names}
    return app, _listed([_said(n, v) for n, v in changes.items()]), changes


def _several(dice: Dice, look: Look, tabs: int) -> Task:
    """One change in each of so many tabs."""
    app, sentence, changes = some_changes(dice, look, tabs)
    return _task(app, sentence, changes, lambda s: None)


@template("settings")
def switch(dice: Dice, look: Look) -> Task:
    """One switch."""
    app = Settings(look, values := _drawn(dice), dice.choice(DEVICES))
    name = dice.choice(SWITCHES[dice.choice(TABS)])
    changes = {name: not values[name]}
    return _task(app, _said(name, changes[name]), changes, lambda s: None)


@template("settings")
def choose(dice: Dice, look: Look) -> Task:
    """One choice."""
    app = Settings(look, values := _drawn(dice), dice.choice(DEVICES))
    name = CHOICES[dice.choice(TABS)][0]
    changes = {name: _other(dice, name, values[name])}
    return _task(app, _said(name, changes[name]), changes, lambda s: None)


@template("settings")
def several(dice: Dice, look: Look) -> Task:
    """Two changes in two tabs."""
    return _several(dice, look, 2)


@template("settings", unseen=True)
def everywhere(dice: Dice, look: Look) -> Task:
    """A change in every tab."""
    return _several(dice, look, len(TABS))


@template("settings")
def undo(dice: Dice, look: Look) -> Task:
    """The last change, which only the application knows, is undone; another one is made."""
    values, device = _drawn(dice), dice.choice(DEVICES)
    last, other = dice.sample(values, 2)
    before = _other(dice, last, values[last])
    app = Settings(look, values, device, [(last, before)])
    changes = {last: before, other: _other(dice, other, values[other])}
    sentence = f"undo the last change, then {_said(other, changes[other])}"
    return _task(app, sentence, changes, lambda s: app.undone(s, last, before))


@template("settings")
def rename(dice: Dice, look: Look) -> Task:
    """Another name for the device."""
    old, new, *others = dice.sample(DEVICES, 4)
    new = f"{new} {dice.between(2, 9)}"
    app = Settings(look, _drawn(dice), old)
    after = app.data() | {"device": new}
    sentence = f'In the settings, rename the device to "{new}".'
    return single(app, sentence, lambda s: app.kept(s, after), after, texts=(new, *others))


@template("settings")
def reset(dice: Dice, look: Look) -> Task:
    """A tab's settings as they were at first, but for one."""
    here = dice.choice(TABS)
    values = _drawn(dice)
    values[SWITCHES[here][0]] = False  # at least this one is not as it was at first
    app = Settings(look, values, dice.choice(DEVICES))
    other = dice.choice([name for name in values if _TAB_OF[name] != here])
    changes = defaults(here) | {other: _other(dice, other, values[other])}
    sentence = f"reset the tab {here}, then {_said(other, changes[other])}"
    return _task(app, sentence, changes, lambda s: app.reset(s, here))
