"""Forms with validation, on one page or two, and the entries that were sent: to read, correct and withdraw."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from agentgym.envs.gui.app import App, Data, State
from agentgym.envs.gui.apps.people import NAMES
from agentgym.envs.gui.commands import Command, check, click, select, type_in
from agentgym.envs.gui.look import Look
from agentgym.envs.gui.tasks import Task, first, single, template
from agentgym.envs.gui.widgets import Dialog, Screen, Widget, Zone, button, checkbox, combobox, link, text, textbox
from agentgym.keyed_random import Dice


class Field(NamedTuple):
    """One field of a form.

    Attributes:
        name: how a task calls it.
        words: its label in three wordings.
        kind: ``text email phone number choice tick``.
        options: of a choice.
        required: whether it must be filled in, or ticked.
    """

    name: str
    words: tuple[str, str, str]
    kind: str = "text"
    options: tuple[str, ...] = ()
    required: bool = False


_NAME = Field("name", ("Name", "Your name", "Who you are"), required=True)
_EMAIL = Field("email", ("Email", "Email address", "Electronic mail"), "email", required=True)
_PHONE = Field("phone", ("Phone", "Telephone", "Number to call"), "phone")
_RULES = Field("rules", ("I accept the rules", "Rules accepted", "Agreed to the rules"), "tick", required=True)
FORMS: Mapping[str, tuple[Field, ...]] = {
    "club": (
        _NAME,
        _EMAIL,
        _PHONE,
        Field("membership", ("Membership", "Kind of member", "Joins as"), "choice", ("single", "family", "student")),
        Field("newsletter", ("Newsletter", "News by mail", "Wants to hear news"), "tick"),
        _RULES,
    ),
    "course": (
        _NAME,
        _PHONE._replace(required=True),
        Field("course", ("Course", "Subject", "What to learn"), "choice", ("cooking", "drawing", "sailing", "Spanish")),
        Field("level", ("Level", "Grade", "How far along"), "choice", ("beginner", "middle", "expert")),
        Field("lunch", ("Lunch", "With lunch", "Eats with us"), "tick"),
    ),
    "repair": (
        Field("device", ("Device", "What is broken", "Thing"), required=True),
        Field("fault", ("Fault", "Problem", "Trouble"), "choice", ("screen", "battery", "sound", "keys")),
        _EMAIL,
        Field("express", ("Express", "Urgent", "In a hurry"), "tick"),
    ),
    "trip": (
        _NAME,
        Field("seats", ("Seats", "Places", "How many go"), "number", required=True),
        Field("town", ("Town", "Where to", "Destination"), "choice", ("Arles", "Bruges", "Cadiz", "Delft")),
        _EMAIL,
        Field("insurance", ("Insurance", "Insured", "Cover"), "tick"),
        _RULES,
    ),
}
_TWO_PAGES = ("trip",)
_ONE_PAGE = tuple(form for form in FORMS if form not in _TWO_PAGES)
DEVICES = ("tablet", "laptop", "kettle", "radio", "camera", "printer")
_VALID = {
    "email": (re.compile(r"[^@\s]+@[^@\s]+\.[a-z]+"), "must be like ada@post.example"),
    "phone": (re.compile(r"\d{5,}"), "must have at least 5 digits and nothing else"),
    "number": (re.compile(r"[1-9]"), "must be a number from 1 to 9"),
}
Entry = dict[str, str | bool]


class Forms(App):
    """One form, and what was sent with it.

    Args:
        look: how it is worded and arranged.
        form: a key of :data:`FORMS`.
        entries: what was sent before.
    """

    name = "forms"
    home = "form"
    permutable_names = (NAMES,)
    words = {
        "sent": ("Sent entries", "What was sent", "Handed in"),
        "next": ("Next", "Continue", "Go on"),
        "previous": ("Previous", "Back to page 1", "Return"),
        "withdraw": ("Withdraw", "Cancel entry", "Take it back"),
        "ask": ("Withdraw this entry?", "Cancel this entry?", "Should it be taken back?"),
        "form": ("Form", "Empty form", "Fill in another"),
    }

    def __init__(self, look: Look, form: str, entries: Sequence[Entry] = ()) -> None:
        super().__init__(look)
        self.form, self.fields, self.entries = form, FORMS[form], entries
        self.labels = {field.name: field.words[look.wording] for field in self.fields}

    def data(self) -> Data:
        return {"entries": [dict(entry) for entry in self.entries]}

    def view(self, s: State) -> Screen:
        kind, _, which = s.route.partition(":")
        if kind == "sent":
            return self._sent(s)
        return self._entry_page(s, int(which)) if kind == "entry" else self._form(s, kind)

    def _form(self, s: State, kind: str) -> Screen:
        say, now, second = self.say, self._now(s), s.draft.get("second", False)
        tools = [button("send", say["send"] if kind == "form" else say["save"])]
        if self.form in _TWO_PAGES:
            tools = [*tools, button("page", say["previous"])] if second else [button("page", say["next"])]
        if kind == "edit":
            tools.append(button("go:sent", say["cancel"]))
        tried = s.draft.get("tried", False)
        fields = [self._widget(f, now[f.name], tried and self._wrong(f, now) is not None) for f in self._page(s)]
        title = f"Forms: {self.form}" + (", page 2" if second else "") + (", entry" if kind == "edit" else "")
        zones = [Zone("form", self.look.arrange(fields)), Zone("toolbar", tools)]
        if kind == "form":
            zones.append(Zone("nav", [link("go:sent", f"{say['sent']}, {len(s.data['entries'])}")]))
        return Screen(title, self.look.arrange(zones))

    def _widget(self, field: Field, value: str | bool, invalid: bool) -> Widget:
        label = self.labels[field.name] + (" *" if field.required else "")
        if field.kind == "tick":
            return checkbox(f"tick:{field.name}", label, checked=bool(value))
        if field.kind == "choice":
            return combobox(f"field:{field.name}", label, str(value), field.options)
        return textbox(f"field:{field.name}", label, str(value), invalid=invalid)

    def _sent(self, s: State) -> Screen:
        rows = [link(f"go:entry:{i}", _title(entry)) for i, entry in enumerate(s.data["entries"])]
        zones = [Zone("list", rows or [text("None.")]), Zone("nav", [link("go:form", self.say["form"])])]
        return Screen(f"Forms: {self.say['sent']}", self.look.arrange(zones))

    def _entry_page(self, s: State, i: int) -> Screen:
        say, arrange, entry = self.say, self.look.arrange, s.data["entries"][i]
        facts = [text(f"{self.labels[f.name]}: {_shown(entry[f.name])}") for f in self.fields]
        tools = [button(f"go:edit:{i}", say["edit"]), button("ask", say["withdraw"])]
        zones = [
            Zone("text", arrange(facts)),
            Zone("toolbar", arrange(tools)),
            Zone("nav", [link("go:sent", say["sent"])]),
        ]
        dialog = None
        if s.dialog:
            yes, no = (
                button("withdraw", say["ok"], shortcut="Enter"),
                button("dismiss", say["cancel"], shortcut="Escape"),
            )
            dialog = Dialog(say["ask"], arrange([yes, no]))
        return Screen(f"Forms: {_title(entry)}", arrange(zones), dialog)

    def _page(self, s: State) -> Sequence[Field]:
        """The fields that are shown."""
        if self.form not in _TWO_PAGES:
            return self.fields
        half = (len(self.fields) + 1) // 2
        return self.fields[half:] if s.draft.get("second") else self.fields[:half]

    def blank(self) -> Entry:
        """What stands in the form before anything is filled in."""
        return {f.name: False if f.kind == "tick" else f.options[0] if f.options else "" for f in self.fields}

    def _now(self, s: State) -> Entry:
        """What stands in the form."""
        _, _, which = s.route.partition(":")
        first = s.data["entries"][int(which)] if which else self.blank()
        return {name: s.draft.get(name, value) for name, value in first.items()}

    def _wrong(self, field: Field, now: Entry) -> str | None:
        """What is wrong with what stands in a field."""
        label, value = self.labels[field.name], now[field.name]
        if not value:
            return f"{label} is required." if field.required else None
        pattern, rule = _VALID.get(field.kind, (None, ""))
        return f"{label} {rule}." if pattern is not None and not pattern.fullmatch(str(value)) else None

    def _problem(self, s: State, fields: Sequence[Field]) -> str:
        now = self._now(s)
        return next(filter(None, (self._wrong(field, now) for field in fields)), "")

    def on_tick(self, s: State, name: str, value: str) -> None:
        s.draft[name] = not self._now(s)[name]

    def on_page(self, s: State, argument: str, value: str) -> None:
        second = s.draft.get("second", False)
        s.problem = "" if second else self._problem(s, self._page(s))
        s.draft["tried"] = bool(s.problem)
        if not s.problem:
            s.draft["second"] = not second

    def on_send(self, s: State, argument: str, value: str) -> None:
        s.problem = self._problem(s, self.fields)
        if s.problem:
            s.draft["tried"] = True
            return
        _, _, which = s.route.partition(":")
        at = int(which) if which else len(s.data["entries"])
        s.data["entries"][at : at + 1] = [self._now(s)]
        self.visit(s, "sent")
        s.note = "Saved." if which else "Sent. Thank you."

    def on_ask(self, s: State, argument: str, value: str) -> None:
        s.dialog = "withdraw"

    def on_withdraw(self, s: State, argument: str, value: str) -> None:
        del s.data["entries"][int(s.route.partition(":")[2])]
        self.visit(s, "sent")
        s.note = "Withdrawn."

    def enter(self, s: State, route: str) -> None:
        kind, _, which = route.partition(":")
        gone = kind in ("entry", "edit") and int(which) >= len(s.data["entries"])
        super().enter(s, "sent" if gone else route)

    # ---- for experts

    def filled_in(self, s: State, entry: Entry, route: str) -> Command | None:
        """Until the entry was sent from the route: ``form``, or ``edit:0``."""
        if entry in s.data["entries"]:
            return None
        if s.route != route:
            which = route.partition(":")[2]
            return self.at(s, f"entry:{which}" if which else "form") or click(f"go:{route}")
        now = self._now(s)
        for field in self._page(s):
            if now[field.name] != (value := entry[field.name]):
                if field.kind == "tick":
                    return check(f"tick:{field.name}")
                key = f"field:{field.name}"
                return select(key, str(value)) if field.options else type_in(key, str(value))
        if self.form not in _TWO_PAGES or (s.draft.get("second") and now == entry):
            return click("send")
        return click("page")

    def corrected(self, s: State, old: Entry, new: Entry) -> Command | None:
        """Until an entry that was sent says something else, if it is still there."""
        return self.filled_in(s, new, f"edit:{s.data['entries'].index(old)}") if old in s.data["entries"] else None

    def withdrawn(self, s: State, entry: Entry) -> Command | None:
        """Until the entry is gone."""
        if entry not in s.data["entries"]:
            return None
        route = f"entry:{s.data['entries'].index(entry)}"
        return click("withdraw") if s.dialog and s.route == route else self.at(s, route) or click("ask")

    def at(self, s: State, route: str) -> Command | None:
        """Until a page that is no edit form is shown."""
        if s.dialog:
            return click("dismiss")
        if s.route == route:
            return None
        if route == "form":
            return click("go:form" if s.route == "sent" else "go:sent")
        return click(f"go:{route}" if s.route == "sent" else "go:sent")


def _title(entry: Entry) -> str:
    return str(next(iter(entry.values())))


def _shown(value: str | bool) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else value or "none"


def some_entry(dice: Dice, app: Forms, who: str, *, full: bool = True) -> Entry:
    """A valid entry; of what is not required, about half is left as it is, all of it unless ``full``."""
    entry = app.blank()
    for field in app.fields:
        if field.required or (full and dice.below(2)):
            entry[field.name] = _value(dice, field, who)
    return entry


def _value(dice: Dice, field: Field, who: str) -> str | bool:
    if field.kind == "choice":
        return dice.choice(field.options[1:])
    made: Mapping[str, str | bool] = {
        "email": f"{who.lower()}@post.example",
        "phone": str(7 * dice.between(1500, 9000)),
        "number": str(dice.between(2, 9)),
        "tick": True,
    }
    return made.get(field.kind, f"{who}'s {dice.choice(DEVICES)}" if field.name == "device" else who)


def _other_value(dice: Dice, field: Field, value: str | bool) -> str | bool:
    return next(v for _ in range(1000) if (v := _value(dice, field, dice.choice(NAMES))) != value)


def listed(app: Forms, entry: Entry) -> str:
    """An entry in words, as far as it is not as in an empty form: ``name Ada, phone 12345, with lunch``."""
    blank = app.blank()
    said = {name: value for name, value in entry.items() if value != blank[name]}
    return ", ".join(f"with {name}" if value is True else f"{name} {value}" for name, value in said.items())


def _sending(app: Forms, sentence: str, entries: Sequence[Entry]) -> Task:
    after = {"entries": [*app.data()["entries"], *entries]}

    typed = [f.name for f in app.fields if f.kind not in ("choice", "tick")]
    texts = [str(entry[name]) for entry in entries for name in typed if entry[name]]
    return single(app, sentence, lambda s: first(app.filled_in(s, e, "form") for e in entries), after, texts=texts)


def _before(dice: Dice, look: Look, count: int) -> tuple[Forms, list[Entry]]:
    """A form with so many entries sent."""
    form = dice.choice(_ONE_PAGE)
    entries = [some_entry(dice, Forms(look, form), who) for who in dice.sample(NAMES, count)]
    return Forms(look, form, entries), entries


@template("forms")
def fill(dice: Dice, look: Look) -> Task:
    """Everything that is asked for."""
    app = Forms(look, dice.choice(_ONE_PAGE))
    entry = some_entry(dice, app, dice.choice(NAMES))
    return _sending(app, f"Send the {app.form} form: {listed(app, entry)}.", [entry])


@template("forms")
def required(dice: Dice, look: Look) -> Task:
    """Only what is required."""
    app = Forms(look, dice.choice(_ONE_PAGE))
    entry = some_entry(dice, app, dice.choice(NAMES), full=False)
    return _sending(app, f"Send the {app.form} form with only this: {listed(app, entry)}.", [entry])


@template("forms")
def two_pages(dice: Dice, look: Look) -> Task:
    """A form on two pages."""
    app = Forms(look, "trip")
    entry = some_entry(dice, app, dice.choice(NAMES))
    return _sending(app, f"Send the {app.form} form: {listed(app, entry)}.", [entry])


@template("forms")
def correct(dice: Dice, look: Look) -> Task:
    """One field of an entry that was sent."""
    app, entries = _before(dice, look, dice.between(2, 3))
    i = dice.below(len(entries))
    field = dice.choice([f for f in app.fields[1:] if f.kind != "tick"])
    value = _other_value(dice, field, entries[i][field.name])
    entry = entries[i] | {field.name: value}
    after = {"entries": [entry if n == i else e for n, e in enumerate(entries)]}
    texts = [str(value), *(str(e[field.name]) for e in entries if e[field.name])] if not field.options else []
    return single(
        app,
        f"In the entry of {_title(entry)}, change the {field.name} to {value}.",
        lambda s: app.corrected(s, entries[i], entry),
        after,
        texts=texts,
    )


@template("forms")
def withdraw(dice: Dice, look: Look) -> Task:
    """An entry that was sent."""
    app, entries = _before(dice, look, dice.between(2, 4))
    entry = dice.choice(entries)
    after = {"entries": [e for e in entries if e is not entry]}
    return single(app, f"Withdraw the {app.form} entry of {_title(entry)}.", lambda s: app.withdrawn(s, entry), after)


@template("forms")
def ask(dice: Dice, look: Look) -> Task:
    """What an entry says."""
    app, entries = _before(dice, look, dice.between(2, 4))
    i = dice.below(len(entries))
    field = dice.choice([f for f in app.fields[1:] if f.kind not in ("tick",) and entries[i][f.name]])
    answer = str(entries[i][field.name])
    texts = {answer, *field.options, *(str(e[field.name]) for e in entries if e[field.name])}
    return single(
        app,
        f"Which {field.name} is in the {app.form} entry of {_title(entries[i])}?",
        lambda s: app.at(s, f"entry:{i}"),
        answer=answer,
        texts=sorted(texts),
    )


@template("forms", unseen=True)
def twice(dice: Dice, look: Look) -> Task:
    """Two entries."""
    app = Forms(look, dice.choice(_ONE_PAGE))
    entries = [some_entry(dice, app, who, full=False) for who in dice.sample(NAMES, 2)]
    sentence = f"Send the {app.form} form twice: {'; then '.join(listed(app, e) for e in entries)}."
    return _sending(app, sentence, entries)
