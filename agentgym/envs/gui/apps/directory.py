"""A directory of people: filters, search, and pages of persons to look up and to mark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from agentgym.envs.gui.app import App, Data, State
from agentgym.envs.gui.apps.people import NAMES
from agentgym.envs.gui.commands import Command, check, click, select, type_in
from agentgym.envs.gui.look import Look
from agentgym.envs.gui.tasks import Task, single, template
from agentgym.envs.gui.widgets import Screen, Zone, button, checkbox, combobox, link, text, textbox
from agentgym.keyed_random import Dice

TEAMS = ("Sales", "Design", "Support", "Finance", "Research")
CITIES = ("Oslo", "Rome", "Lima", "Cairo", "Delhi")
ANY = "any"


class Person(NamedTuple):
    """One entry."""

    name: str
    team: str
    city: str
    phone: str
    room: str


class Directory(App):
    """The people of a company.

    Args:
        look: how it is worded and arranged.
        people: in the order in which they are listed.
    """

    name = "directory"
    home = "list"
    permutable_names = (NAMES, TEAMS, CITIES)
    window = 6
    rows = ("go:person:",)
    words = {
        "team": ("Team", "Department", "Works in"),
        "city": ("City", "Place", "Located in"),
        "phone": ("Phone", "Telephone", "Number"),
        "room": ("Room", "Office", "Sits in"),
        "mark": ("Favourite", "Marked", "Keep at hand"),
        "all": ("Everybody", "All people", "Whole list"),
    }

    def __init__(self, look: Look, people: Sequence[Person]) -> None:
        super().__init__(look)
        self.people = {p.name: p for p in people}

    def data(self) -> Data:
        return {"marked": dict.fromkeys(self.people, False)}

    def view(self, s: State) -> Screen:
        kind, _, which = s.route.partition(":")
        return self._person(s, self.people[which]) if kind == "person" else self._list(s)

    def _list(self, s: State) -> Screen:
        say, found = self.say, self._found(s)
        tools = [
            textbox("field:query", say["search"], s.text("query")),
            button("search", say["search"], shortcut="Enter"),
            combobox("field:team", say["team"], s.text("team", ANY), (ANY, *TEAMS)),
            combobox("field:city", say["city"], s.text("city", ANY), (ANY, *CITIES)),
        ]
        rows = [link(f"go:person:{p.name}", p.name) for p in found]
        count = text(f"{len(found)} found")
        zones = [Zone("toolbar", tools), Zone("text", [count]), Zone("list", rows, self.window)]
        return Screen("Directory", self.look.arrange(zones))

    def _person(self, s: State, person: Person) -> Screen:
        say, arrange = self.say, self.look.arrange
        facts = [text(f"{say[name]}: {getattr(person, name)}") for name in ("team", "city", "phone", "room")]
        tools = [
            checkbox(f"mark:{person.name}", say["mark"], checked=s.data["marked"][person.name]),
            link("go:list", say["all"]),
        ]
        return Screen(f"Directory: {person.name}", arrange([Zone("text", arrange(facts)), Zone("toolbar", tools)]))

    def _found(self, s: State) -> list[Person]:
        """Whom the filters and the last search leave."""
        team, city, query = s.text("team", ANY), s.text("city", ANY), s.text("sought").casefold()
        return [
            p
            for p in self.people.values()
            if team in (ANY, p.team) and city in (ANY, p.city) and any(query in v.casefold() for v in p)
        ]

    def on_search(self, s: State, argument: str, value: str) -> None:
        s.draft["sought"] = s.text("query")
        s.top = 0

    def on_mark(self, s: State, name: str, value: str) -> None:
        s.data["marked"][name] = not s.data["marked"][name]

    # ---- for experts

    def shown(self, s: State, name: str) -> Command | None:
        """Until the person's page is shown."""
        if s.route == f"person:{name}":
            return None
        return self._at_list(s) or self._unfiltered(s, self.people[name]) or click(f"go:person:{name}")

    def marked(self, s: State, names: Sequence[str]) -> Command | None:
        """Until these people, and nobody else, are marked."""
        wrong = next((n for n, is_marked in s.data["marked"].items() if is_marked != (n in names)), None)
        return None if wrong is None else self.shown(s, wrong) or check(f"mark:{wrong}")

    def filtered(self, s: State, team: str, city: str, query: str = "") -> Command | None:
        """Until the list shows whom these filters leave."""
        if (command := self._at_list(s)) is not None:
            return command
        if s.text("team", ANY) != team:
            return select("field:team", team)
        if s.text("city", ANY) != city:
            return select("field:city", city)
        if s.text("sought") == query:
            return None
        return type_in("field:query", query) if s.text("query") != query else click("search")

    def _at_list(self, s: State) -> Command | None:
        return None if s.route == "list" else click("go:list")

    def _unfiltered(self, s: State, person: Person) -> Command | None:
        """Until the list has the person."""
        if person in self._found(s):
            return None
        if s.text("team", ANY) not in (ANY, person.team):
            return select("field:team", ANY)
        if s.text("city", ANY) not in (ANY, person.city):
            return select("field:city", ANY)
        return type_in("field:query", "") if s.text("query") else click("search")


def people(dice: Dice, count: int) -> list[Person]:
    """So many people, by name; phones and rooms all differ."""
    phones, rooms = dice.sample(range(1500, 1700), count), dice.sample(range(10, 99), count)
    return [
        Person(name, dice.choice(TEAMS), dice.choice(CITIES), str(7 * phones[i]), f"room {rooms[i]}")
        for i, name in enumerate(sorted(dice.sample(NAMES, count)))
    ]


def one_of_a_kind(dice: Dice, count: int) -> tuple[list[Person], Person]:
    """People, one of whom is the only one of a team in a city; others of the team are elsewhere."""
    listed = people(dice, count)
    only = dice.choice(listed)
    elsewhere = [c for c in CITIES if c != only.city]
    return [
        p if p is only or (p.team, p.city) != (only.team, only.city) else p._replace(city=dice.choice(elsewhere))
        for p in listed
    ], only


@template("directory")
def phone(dice: Dice, look: Look) -> Task:
    """A person's phone number or room."""
    app = Directory(look, listed := people(dice, dice.between(8, 12)))
    person, *others = dice.sample(listed, 3)
    what = dice.choice(("phone", "room"))
    answer = getattr(person, what)
    question = f"What is the phone number of {person.name}?" if what == "phone" else f"In which room is {person.name}?"
    return single(
        app,
        question,
        lambda s: app.shown(s, person.name),
        answer=answer,
        texts=sorted([answer, *(getattr(p, what) for p in others)]),
    )


@template("directory")
def mark(dice: Dice, look: Look) -> Task:
    """One person or two as favourites."""
    app = Directory(look, listed := people(dice, dice.between(8, 12)))
    names = [p.name for p in dice.sample(listed, dice.between(1, 2))]
    after = {"marked": {p.name: p.name in names for p in listed}}
    sentence = f"Mark {' and '.join(names)} as {'favourites' if len(names) > 1 else 'favourite'}."
    return single(app, sentence, lambda s: app.marked(s, names), after)


@template("directory")
def only(dice: Dice, look: Look) -> Task:
    """The only person of a team in a city as a favourite."""
    listed, person = one_of_a_kind(dice, dice.between(9, 12))
    app = Directory(look, listed)
    after = {"marked": {p.name: p is person for p in listed}}

    def expert(s: State) -> Command | None:
        if s.data == after:
            return None
        if s.route == "list" and not any(s.data["marked"].values()):
            return app.filtered(s, person.team, person.city) or click(f"go:person:{person.name}")
        return app.marked(s, [person.name])

    sentence = f"Mark the only person of {person.team} in {person.city} as favourite."
    return single(app, sentence, expert, after)


@template("directory")
def count(dice: Dice, look: Look) -> Task:
    """How many people are of a team, in a city, or both."""
    app = Directory(look, listed := people(dice, dice.between(9, 12)))
    person, how = dice.choice(listed), dice.below(3)
    team, city = (ANY if how == 1 else person.team), (ANY if how == 0 else person.city)
    number = sum(team in (ANY, p.team) and city in (ANY, p.city) for p in listed)
    places = " in ".join(p for p in (team, city) if p != ANY)
    return single(
        app,
        f"How many of the {len(listed)} people work in {places}?",
        lambda s: app.filtered(s, team, city),
        answer=str(number),
        texts=[str(n) for n in range(1, 7)],
    )


@template("directory")
def who(dice: Dice, look: Look) -> Task:
    """Whose phone number or room it is."""
    app = Directory(look, listed := people(dice, dice.between(8, 12)))
    person, *others = dice.sample(listed, 3)
    known = dice.choice((person.phone, person.room))
    texts = sorted([person.name, *(p.name for p in others)])
    return single(
        app,
        f"Who has the phone number {known}?" if known == person.phone else f"Who sits in {known}?",
        lambda s: app.filtered(s, ANY, ANY, known),
        answer=person.name,
        texts=[*texts, known],
    )


@template("directory", unseen=True)
def mark_all(dice: Dice, look: Look) -> Task:
    """Everybody of a team or in a city as favourites."""
    app = Directory(look, listed := people(dice, 11))
    groups: dict[tuple[str, str], list[str]] = {}
    for person in listed:
        groups.setdefault(("team", person.team), []).append(person.name)
        groups.setdefault(("city", person.city), []).append(person.name)
    what, where = dice.choice([group for group, members in groups.items() if 2 <= len(members) <= 4])
    names = groups[what, where]
    after = {"marked": {p.name: p.name in names for p in listed}}
    sentence = f"Mark everybody who works in {where} as favourite."

    def expert(s: State) -> Command | None:
        if s.route == "list" and s.data != after and s.text(what, ANY) != where:
            return select(f"field:{what}", where)
        return app.marked(s, names)

    return single(app, sentence, expert, after)
