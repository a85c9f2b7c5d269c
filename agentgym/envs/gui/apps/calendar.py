"""A calendar: one week of days, events that must not meet, and events that repeat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentgym.envs.gui.app import App, Data, State
from agentgym.envs.gui.commands import Command, check, click, select, type_in
from agentgym.envs.gui.look import Look
from agentgym.envs.gui.tasks import Task, single, template
from agentgym.envs.gui.widgets import Dialog, Screen, Zone, button, checkbox, combobox, link, tab, text, textbox
from agentgym.keyed_random import Dice

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
TIMES = tuple(f"{hour}:00" for hour in range(9, 18))
TITLES = (
    *("Standup", "Dentist", "Choir", "Review", "Interview", "Workshop", "Quiz", "Yoga", "Gym", "Planning"),
    *("Class", "Haircut", "Tour", "Rehearsal", "Checkup"),
)
Events = dict[str, tuple[str, bool]]  #: title, and whether it is every week, by "DAY TIME"


class Calendar(App):
    """One person's week.

    Args:
        look: how it is worded and arranged.
        events: what is in it.
    """

    name = "calendar"
    home = "day:Monday"
    permutable_names = (DAYS, TITLES)
    words = {
        "new": ("New event", "Add event", "Enter something"),
        "title": ("Title", "Event", "What"),
        "day": ("Day", "On", "Weekday"),
        "time": ("Time", "At", "Starts"),
        "weekly": ("Every week", "Weekly", "Repeats"),
        "ask": ("Delete this event?", "Remove this event?", "Strike it out?"),
        "free": ("No events.", "Nothing on this day.", "All day is free."),
    }

    def __init__(self, look: Look, events: Events) -> None:
        super().__init__(look)
        self.events = events

    def data(self) -> Data:
        return {slot: list(event) for slot, event in self.events.items()}

    def view(self, s: State) -> Screen:
        kind, _, which = s.route.partition(":")
        return self._day(s, which) if kind == "day" else self._form(s, kind, which)

    def _day(self, s: State, day: str) -> Screen:
        say, arrange = self.say, self.look.arrange
        days = [tab(f"day:{d}", d, selected=d == day) for d in DAYS]
        rows = [
            link(f"go:event:{day} {time}", f"{time} {event[0]}" + (f", {say['weekly']}" if event[1] else ""))
            for time in TIMES
            if (event := s.data.get(f"{day} {time}")) is not None
        ]
        zones = [Zone("list", rows or [text(say["free"])]), Zone("toolbar", [button(f"go:new:{day}", say["new"])])]
        return Screen(f"Calendar: {day}", [Zone("tabs", days), *arrange(zones)])

    def _form(self, s: State, kind: str, which: str) -> Screen:
        say, arrange, now = self.say, self.look.arrange, self._entry(s)
        fields = [
            textbox("field:title", say["title"], now["title"]),
            combobox("field:day", say["day"], now["day"], DAYS),
            textbox("field:time", say["time"], now["time"]),
            checkbox("weekly", say["weekly"], checked=now["weekly"]),
        ]
        tools = [button("save", say["save"]), button(f"go:day:{which.split(' ')[0]}", say["cancel"])]
        dialog = None
        if kind == "event":
            tools.append(button("ask", say["delete"]))
        if s.dialog:
            answers = [
                button("delete", say["ok"], shortcut="Enter"),
                button("dismiss", say["cancel"], shortcut="Escape"),
            ]
            dialog = Dialog(say["ask"], arrange(answers))
        title = say["new"] if kind == "new" else self._own(s)[0]
        return Screen(f"Calendar: {title}", [Zone("form", arrange(fields)), Zone("toolbar", arrange(tools))], dialog)

    def _own(self, s: State) -> tuple[str, bool]:
        """The event whose form is shown."""
        title, weekly = s.data[s.route.removeprefix("event:")]
        return title, weekly

    def _entry(self, s: State) -> Data:
        """What stands in the form: what was entered, else what it begins with."""
        kind, _, which = s.route.partition(":")
        day, _, time = which.partition(" ")
        title, weekly = self._own(s) if kind == "event" else ("", False)
        return {"title": title, "day": day, "time": time, "weekly": weekly, **s.draft}

    def on_day(self, s: State, day: str, value: str) -> None:
        self.enter(s, f"day:{day}")  # a tab is not another page: there is no way back

    def on_weekly(self, s: State, argument: str, value: str) -> None:
        s.draft["weekly"] = not self._entry(s)["weekly"]

    def on_save(self, s: State, argument: str, value: str) -> None:
        now = self._entry(s)
        slot = f"{now['day']} {now['time']}"
        own = s.route.removeprefix("event:")
        if not now["title"]:
            s.problem = f"{self.say['title']} is empty."
        elif now["time"] not in TIMES:
            s.problem = f"{self.say['time']} must be a full hour from {TIMES[0]} to {TIMES[-1]}."
        elif slot in s.data and slot != own:
            s.problem = f"{s.data[slot][0]} is at that time."
        else:
            s.data.pop(own, None)
            s.data[slot] = [now["title"], now["weekly"]]
            self.visit(s, f"day:{now['day']}")
            s.note = f"{now['title']}: {slot}."

    def on_ask(self, s: State, argument: str, value: str) -> None:
        s.dialog = "delete"

    def on_delete(self, s: State, argument: str, value: str) -> None:
        slot = s.route.removeprefix("event:")
        title, _ = s.data.pop(slot)
        self.visit(s, f"day:{slot.split(' ')[0]}")
        s.note = f"{title} is deleted."

    def enter(self, s: State, route: str) -> None:
        kind, _, which = route.partition(":")
        super().enter(s, f"day:{which.split(' ')[0]}" if kind == "event" and which not in s.data else route)

    # ---- for experts

    def shown(self, s: State, day: str) -> Command | None:
        """Until the day is shown."""
        if s.dialog:
            return click("dismiss")
        kind, _, which = s.route.partition(":")
        if kind != "day":
            return click(f"go:day:{which.split(' ')[0]}")
        return None if which == day else click(f"day:{day}")

    def entered(self, s: State, slot: str, title: str, *, weekly: bool = False, instead_of: str = "") -> Command | None:
        """Until the event is in the calendar; another one's slot may be given up for it."""
        if s.data.get(slot) == [title, weekly]:
            return None
        day, time = slot.split(" ")
        begin = instead_of.split(" ")[0] or day
        route = f"event:{instead_of}" if instead_of in s.data else f"new:{begin}"
        if s.route != route or s.dialog:
            return self.shown(s, begin) or click(f"go:{route}")
        now = self._entry(s)
        if now["title"] != title:
            return type_in("field:title", title)
        if now["day"] != day:
            return select("field:day", day)
        if now["time"] != time:
            return type_in("field:time", time)
        return check("weekly") if now["weekly"] != weekly else click("save")

    def cancelled(self, s: State, slot: str) -> Command | None:
        """Until nothing is in the slot."""
        if slot not in s.data:
            return None
        if s.route != f"event:{slot}":
            return self.shown(s, slot.split(" ")[0]) or click(f"go:event:{slot}")
        return click("delete" if s.dialog else "ask")


def events(dice: Dice, count: int, special: Mapping[str, str] | None = None, free: Sequence[str] = ()) -> Events:
    """So many events at different times, of different titles; the special ones, title by slot, are in it.

    Args:
        dice: random numbers.
        count: how many.
        special: must be in it.
        free: slots in which nothing is.
    """
    special = special or {}
    slots = [f"{d} {t}" for d in DAYS for t in TIMES]
    chosen = dice.sample([x for x in slots if x not in special and x not in free], count - len(special))
    titles = dice.sample([t for t in TITLES if t not in special.values()], len(chosen))
    entries = {slot: (title, dice.below(4) == 0) for slot, title in zip(chosen, titles, strict=True)}
    entries |= {slot: (title, False) for slot, title in special.items()}
    return {slot: entries[slot] for slot in slots if slot in entries}


def said(slot: str) -> str:
    """``on Monday at 9:00``."""
    day, time = slot.split(" ")
    return f"on {day} at {time}"


def _slots(dice: Dice, count: int) -> list[str]:
    """Different slots."""
    return dice.sample([f"{d} {t}" for d in DAYS for t in TIMES], count)


def _new(dice: Dice, look: Look, *, weekly: bool) -> Task:
    slot, other = _slots(dice, 2)
    title, *titles = dice.sample(TITLES, 3)
    special = {other: titles[0]}
    app = Calendar(look, {k: e for k, e in events(dice, 7, special, [slot]).items() if e[0] != title})
    after = app.data() | {slot: [title, weekly]}
    return single(
        app,
        f'Enter "{title}" {said(slot)}' + (", every week." if weekly else "."),
        lambda s: app.entered(s, slot, title, weekly=weekly),
        after,
        texts=(title, titles[0], slot.split(" ")[1], other.split(" ")[1]),
    )


@template("calendar")
def create(dice: Dice, look: Look) -> Task:
    """A new event."""
    return _new(dice, look, weekly=False)


@template("calendar")
def repeat(dice: Dice, look: Look) -> Task:
    """A new event for every week."""
    return _new(dice, look, weekly=True)


@template("calendar")
def move(dice: Dice, look: Look) -> Task:
    """An event at another time."""
    old, new, other = _slots(dice, 3)
    title, *titles = dice.sample(TITLES, 2)
    app = Calendar(look, events(dice, 6, {old: title}, [new]))
    after = app.data()
    after[new] = after.pop(old)
    return single(
        app,
        f"Move {title} from {old.split(' ')[0]} to {new.replace(' ', ' at ')}.",
        lambda s: app.entered(s, new, title, instead_of=old),
        after,
        texts=(new.split(" ")[1], other.split(" ")[1], *titles),
    )


@template("calendar")
def cancel(dice: Dice, look: Look) -> Task:
    """An event less."""
    slot = _slots(dice, 1)[0]
    title = dice.choice(TITLES)
    app = Calendar(look, events(dice, 7, {slot: title}))
    after = app.data()
    del after[slot]
    sentence = f"Delete {title} {'on ' + slot.split(' ')[0] if dice.below(2) else said(slot)}."
    return single(app, sentence, lambda s: app.cancelled(s, slot), after)


@template("calendar")
def retitle(dice: Dice, look: Look) -> Task:
    """An event by another name."""
    slot = _slots(dice, 1)[0]
    old, new, other = dice.sample(TITLES, 3)
    app = Calendar(look, {k: e for k, e in events(dice, 7, {slot: old}).items() if e[0] != new})
    return single(
        app,
        f'Rename {old} {said(slot)} to "{new}".',
        lambda s: app.entered(s, slot, new, instead_of=slot),
        app.data() | {slot: [new, False]},
        texts=(new, other, slot.split(" ")[1]),
    )


@template("calendar")
def first_free(dice: Dice, look: Look) -> Task:
    """A new event at the first time that is free."""
    day = dice.choice(DAYS)
    busy = dice.between(1, 3)
    title, *titles = dice.sample(TITLES, busy + 1)
    occupied = {f"{day} {time}": other for time, other in zip(TIMES, titles, strict=False)}
    slot = f"{day} {TIMES[busy]}"
    app = Calendar(look, {k: e for k, e in events(dice, 7, occupied, [slot]).items() if e[0] != title})
    return single(
        app,
        f'Enter "{title}" on {day} at the first full hour from {TIMES[0]} that is free.',
        lambda s: app.entered(s, slot, title),
        app.data() | {slot: [title, False]},
        texts=(title, *TIMES[:5]),
    )


@template("calendar")
def ask(dice: Dice, look: Look) -> Task:
    """When something is."""
    slot = _slots(dice, 1)[0]
    day, time = slot.split(" ")
    title = dice.choice(TITLES)
    app = Calendar(look, events(dice, 8, {slot: title}))
    texts = [time, *dice.sample([t for t in TIMES if t != time], 3)]
    return single(
        app, f"At what time is {title} on {day}?", lambda s: app.shown(s, day), answer=time, texts=sorted(texts)
    )


@template("calendar", unseen=True)
def swap(dice: Dice, look: Look) -> Task:
    """Two events, each at the other's time."""
    one, two, spare = _slots(dice, 3)
    first, second = dice.sample(TITLES, 2)
    app = Calendar(look, events(dice, 6, {one: first, two: second}, [spare]))
    after = app.data()
    after[one], after[two] = after[two], after[one]

    def expert(s: State) -> Command | None:
        if s.data.get(one) == [first, False]:
            return app.entered(s, one, second, instead_of=one)
        return app.entered(s, two, first, instead_of=two)

    return single(
        app,
        f"{first} is {said(one)}, {second} {said(two)}. Let them change places.",
        expert,
        after,
        texts=(first, second),
    )
