"""A wiki: pages of facts that link to each other, to look up, edit, rename, write and bring back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentgym.envs.gui.app import App, Data, State
from agentgym.envs.gui.apps.people import NAMES
from agentgym.envs.gui.commands import Command, click, type_in
from agentgym.envs.gui.look import Look
from agentgym.envs.gui.tasks import Task, first, single, template
from agentgym.envs.gui.widgets import Dialog, Screen, Widget, Zone, button, link, text, textbox
from agentgym.keyed_random import Dice

FIRST = ("Amber", "Birch", "Cedar", "Dover", "Elm", "Fox", "Grey", "Hazel", "Ivory", "Jade", "Kestrel", "Linden")
KINDS: Mapping[str, tuple[str, ...]] = {
    "Lake": ("depth", "area", "town"),
    "Tower": ("height", "year", "architect", "town"),
    "Town": ("population", "mayor", "year"),
    "Bridge": ("length", "year", "town"),
}
WORDS = ("It is open on Sundays.", "There is a small museum.", "A path leads around it.", "It is painted blue.")
Facts = dict[str, str]


class Wiki(App):
    """Pages that anybody may edit.

    Args:
        look: how it is worded and arranged.
        pages: facts by name, by title.
        past: earlier versions of pages, oldest first, by title.
    """

    name = "wiki"
    home = "list"
    permutable_names = (NAMES, FIRST)
    window = 6
    rows = ("go:page:",)
    words = {
        "history": ("History", "Older versions", "Past"),
        "restore": ("Restore version", "Bring back version", "Return to version"),
        "rename": ("Rename page", "Change title", "Give new title"),
        "write": ("New page", "Write a page", "Begin a page"),
        "title": ("Title", "Name of the page", "Headline"),
        "text": ("Text", "Content", "What it says"),
        "all": ("All pages", "Index", "List of pages"),
    }

    def __init__(self, look: Look, pages: Mapping[str, Facts], past: Mapping[str, list[Facts]] | None = None) -> None:
        super().__init__(look)
        self.pages, self._past = pages, past or {}

    def data(self) -> Data:
        return {title: dict(facts) for title, facts in self.pages.items()}

    def memory(self) -> Data:
        return {title: [dict(facts) for facts in versions] for title, versions in self._past.items()}

    def view(self, s: State) -> Screen:
        kind, _, which = s.route.partition(":")
        if kind == "page":
            return self._page(s, which)
        if kind == "history":
            return self._history(s, which)
        return self._list(s, which) if kind in ("list", "found") else self._form(s, kind, which)

    def _list(self, s: State, query: str) -> Screen:
        say = self.say
        rows = [link(f"go:page:{title}", title) for title in sorted(s.data) if query.casefold() in title.casefold()]
        tools = [
            textbox("field:query", say["search"], s.text("query")),
            button("search", say["search"], shortcut="Enter"),
            button("go:write:", say["write"]),
        ]
        title = f"Wiki: {say['search']} {query}" if query else "Wiki"
        zones = [Zone("toolbar", tools), Zone("list", rows or [text("No page.")], self.window)]
        nav = [Zone("nav", [link("go:list", say["all"])])] if query else []
        return Screen(title, [*nav, *self.look.arrange(zones)])

    def _page(self, s: State, title: str) -> Screen:
        say, arrange = self.say, self.look.arrange
        facts = [
            link(f"go:page:{value}", f"{name}: {value}") if value in s.data else text(f"{name}: {value}")
            for name, value in s.data[title].items()
        ]
        tools = [
            button(f"go:edit:{title}", say["edit"]),
            button(f"go:history:{title}", say["history"]),
            button("ask", say["rename"]),
            button(f"erase:{title}", say["delete"]),
        ]
        dialog = None
        if s.dialog:
            buttons = [
                button("rename", say["ok"], shortcut="Enter"),
                button("dismiss", say["cancel"], shortcut="Escape"),
            ]
            dialog = Dialog(
                say["rename"], [textbox("field:title", say["title"], s.text("title", title)), *arrange(buttons)]
            )
        zones = [Zone("text", arrange(facts)), Zone("toolbar", arrange(tools))]
        nav = Zone("nav", [link("go:list", say["all"])])
        return Screen(f"Wiki: {title}", [nav, *arrange(zones)], dialog)

    def _form(self, s: State, kind: str, which: str) -> Screen:
        say, arrange = self.say, self.look.arrange
        labels = {"title": say["title"], "text": say["text"]} if kind == "write" else {n: n for n in s.data[which]}
        fields: list[Widget] = [textbox(f"field:{n}", labels[n], value) for n, value in self._typed(s).items()]
        tools = [
            button("save", say["save"]),
            button("go:list" if kind == "write" else f"go:page:{which}", say["cancel"]),
        ]
        title = say["write"] if kind == "write" else f"{say['edit']} {which}"
        return Screen(f"Wiki: {title}", arrange([Zone("form", arrange(fields)), Zone("toolbar", arrange(tools))]))

    def _history(self, s: State, title: str) -> Screen:
        say, now = self.say, s.data[title]
        rows = []
        for number, old in enumerate(s.memory.get(title, ()), 1):
            other = ", ".join(f"{name} {value}" for name, value in old.items() if now.get(name) != value)
            rows.append(button(f"restore:{number - 1}", f"{say['restore']} {number}: {other or 'same'}"))
        zones = [Zone("list", rows or [text("No older version.")]), Zone("nav", [link(f"go:page:{title}", title)])]
        return Screen(f"Wiki: {say['history']} {title}", self.look.arrange(zones))

    def _typed(self, s: State) -> Facts:
        """What stands in the form."""
        kind, _, which = s.route.partition(":")
        first = {"title": "", "text": ""} if kind == "write" else s.data[which]
        return {name: s.text(name, value) for name, value in first.items()}

    def enter(self, s: State, route: str) -> None:
        kind, _, which = route.partition(":")
        gone = kind in ("page", "edit", "history") and which not in s.data
        super().enter(s, "list" if gone else route)

    def on_search(self, s: State, argument: str, value: str) -> None:
        if query := s.text("query"):
            self.visit(s, f"found:{query}")
        else:
            s.problem = "Type what to look for."

    def on_save(self, s: State, argument: str, value: str) -> None:
        kind, _, which = s.route.partition(":")
        typed = self._typed(s)
        if empty := next((name for name, value in typed.items() if not value), None):
            s.problem = f"{self.say.get(empty, empty)} is empty."
        elif kind == "write" and typed["title"] in s.data:
            s.problem = f"{typed['title']} exists already."
        else:
            title = typed["title"] if kind == "write" else which
            self._put(s, title, {"text": typed["text"]} if kind == "write" else typed)
            self.visit(s, f"page:{title}")
            s.note = "Saved."

    def on_restore(self, s: State, number: str, value: str) -> None:
        title = s.route.removeprefix("history:")
        self._put(s, title, s.memory[title][int(number)])
        self.visit(s, f"page:{title}")
        s.note = "Restored."

    def on_erase(self, s: State, title: str, value: str) -> None:
        del s.data[title]
        s.memory.pop(title, None)
        self.visit(s, "list")
        s.note = f"{title} is deleted."

    def on_ask(self, s: State, argument: str, value: str) -> None:
        s.dialog = "rename"

    def on_rename(self, s: State, argument: str, value: str) -> None:
        old = s.route.removeprefix("page:")
        new = s.text("title", old)
        if new != old and (not new or new in s.data):
            s.problem = f"{new} exists already." if new else f"{self.say['title']} is empty."
            return
        s.data[new] = s.data.pop(old)
        if old in s.memory:
            s.memory[new] = s.memory.pop(old)
        self.visit(s, f"page:{new}")
        s.note = f"{old} is now {new}."

    def _put(self, s: State, title: str, facts: Facts) -> None:
        if title in s.data and s.data[title] != facts:
            s.memory.setdefault(title, []).append(s.data[title])
        s.data[title] = dict(facts)

    # ---- for experts

    def shown(self, s: State, title: str) -> Command | None:
        """Until the page is shown, without a dialog, if there is one."""
        kind, _, which = s.route.partition(":")
        if title not in s.data or (kind, which, s.dialog) == ("page", title, ""):
            return None
        if s.dialog:
            return click("dismiss")
        listed = kind == "list" or (kind == "found" and which.casefold() in title.casefold())
        return click(f"go:page:{title}") if listed else self._to_list(s)

    def edited(self, s: State, title: str, facts: Mapping[str, str]) -> Command | None:
        """Until the page says so."""
        if title not in s.data or all(s.data[title][name] == value for name, value in facts.items()):
            return None
        if s.route != f"edit:{title}":
            return self.shown(s, title) or click(f"go:edit:{title}")
        return self._written(s, facts)

    def written(self, s: State, title: str, words: str) -> Command | None:
        """Until there is such a page."""
        if title in s.data:
            return None
        if s.route != "write:":
            if s.dialog:
                return click("dismiss")
            return click("go:write:") if s.route.startswith(("list", "found")) else self._to_list(s)
        return self._written(s, {"title": title, "text": words})

    def renamed(self, s: State, old: str, new: str) -> Command | None:
        """Until the page has its new title."""
        if old not in s.data:
            return None
        if s.route != f"page:{old}" or not s.dialog:
            return self.shown(s, old) or click("ask")
        return type_in("field:title", new) if s.text("title", old) != new else click("rename")

    def erased(self, s: State, title: str) -> Command | None:
        """Until the page is gone."""
        return self.shown(s, title) or click(f"erase:{title}") if title in s.data else None

    def restored(self, s: State, title: str, facts: Facts) -> Command | None:
        """Until the page is as in an earlier version."""
        if s.data.get(title, facts) == facts:
            return None
        if s.route != f"history:{title}":
            return self.shown(s, title) or click(f"go:history:{title}")
        return click(f"restore:{s.memory[title].index(facts)}")

    def _to_list(self, s: State) -> Command:
        """Towards the list of all pages, from a page without a dialog."""
        kind, _, which = s.route.partition(":")
        return click(f"go:page:{which}" if kind in ("edit", "history") else "go:list")

    def _written(self, s: State, facts: Mapping[str, str]) -> Command:
        now = self._typed(s)
        wrong = next((name for name, value in facts.items() if now[name] != value), None)
        return click("save") if wrong is None else type_in(f"field:{wrong}", facts[wrong])


def fact(dice: Dice, name: str) -> str:
    """Some value of a fact that is not a town."""
    if name in ("mayor", "architect"):
        return dice.choice(NAMES)
    if name in ("population", "year"):
        return str(dice.between(1100, 1990))
    return f"{dice.between(10, 99)} {'ha' if name == 'area' else 'm'}"


def pages(dice: Dice, count: int) -> dict[str, Facts]:
    """Two towns, and so many other pages that are in one of them."""
    towns = [f"{first} Town" for first in dice.sample(FIRST, 2)]
    others = dice.sample([f"{first} {kind}" for first in FIRST for kind in KINDS if kind != "Town"], count)
    return {
        title: {n: dice.choice(towns) if n == "town" else fact(dice, n) for n in KINDS[title.split(" ")[1]]}
        for title in (*towns, *others)
    }


def some_fact(dice: Dice, listed: Mapping[str, Facts]) -> tuple[str, str]:
    """A page and one of its facts, not the town."""
    title = dice.choice(list(listed))
    return title, dice.choice([name for name in listed[title] if name != "town"])


def other_fact(dice: Dice, name: str, value: str) -> str:
    """Another value of a fact."""
    return next(other for _ in range(1000) if (other := fact(dice, name)) != value)


def _free_titles(dice: Dice, listed: Mapping[str, Facts], kind: str, count: int) -> list[str]:
    return [f"{first} {kind}" for first in dice.sample([f for f in FIRST if f"{f} {kind}" not in listed], count)]


def _editing(app: Wiki, sentence: str, changes: Mapping[str, Facts], texts: Sequence[str], read: str = "") -> Task:
    """A task to edit pages; ``read``: the expert begins by reading this one."""
    after = app.data()
    for title, facts in changes.items():
        after[title].update(facts)

    def expert(s: State) -> Command | None:
        if read and not s.past and s.data != after:
            return app.shown(s, read)
        return first(app.edited(s, title, facts) for title, facts in changes.items())

    return single(app, sentence, expert, after, texts=texts)


@template("wiki")
def edit(dice: Dice, look: Look) -> Task:
    """One fact of a page."""
    app = Wiki(look, listed := pages(dice, dice.between(4, 6)))
    title, name = some_fact(dice, listed)
    value = other_fact(dice, name, listed[title][name])
    sentence = f"On the page {title}, change the {name} to {value}."
    return _editing(app, sentence, {title: {name: value}}, (value, other_fact(dice, name, value)))


@template("wiki")
def ask(dice: Dice, look: Look) -> Task:
    """What a page says."""
    app = Wiki(look, listed := pages(dice, dice.between(4, 7)))
    title, name = some_fact(dice, listed)
    answer = listed[title][name]
    texts = sorted({answer, *(other_fact(dice, name, answer) for _ in range(3))})
    question = f"What does the wiki give as {name} of {title}?"
    return single(app, question, lambda s: app.shown(s, title), answer=answer, texts=texts)


@template("wiki")
def follow(dice: Dice, look: Look) -> Task:
    """What the page says that another page links to."""
    app = Wiki(look, listed := pages(dice, dice.between(4, 7)))
    title = dice.choice([t for t in listed if "town" in listed[t]])
    town, name = listed[title]["town"], dice.choice(KINDS["Town"])
    answer = listed[town][name]
    texts = sorted(
        {answer, *(facts[name] for facts in listed.values() if name in facts), other_fact(dice, name, answer)}
    )

    def expert(s: State) -> Command | None:
        read = s.route == f"page:{town}" or town not in s.data
        return None if read else app.shown(s, title if title in s.data else town) or click(f"go:page:{town}")

    question = f"{title} is in a town. What does the wiki give as {name} of that town?"
    return single(app, question, expert, answer=answer, texts=texts)


@template("wiki")
def restore(dice: Dice, look: Look) -> Task:
    """A page as it was before it was edited last."""
    listed = pages(dice, dice.between(4, 6))
    title, name = some_fact(dice, listed)
    older, old = other_fact(dice, name, listed[title][name]), other_fact(dice, name, listed[title][name])
    past = [listed[title] | {name: value} for value in dict.fromkeys((older, old))]
    app = Wiki(look, listed, {title: past})
    version = dice.choice(past)
    return single(
        app,
        f"Bring back the version of the page {title} with the {name} {version[name]}.",
        lambda s: app.restored(s, title, version),
        app.data() | {title: version},
    )


@template("wiki")
def rename(dice: Dice, look: Look) -> Task:
    """Another title."""
    app = Wiki(look, listed := pages(dice, dice.between(4, 6)))
    old = dice.choice(list(listed))
    new, *others = _free_titles(dice, listed, old.split(" ")[1], 3)
    after = app.data()
    after[new] = after.pop(old)
    return single(
        app, f'Rename the page {old} to "{new}".', lambda s: app.renamed(s, old, new), after, texts=(new, *others)
    )


@template("wiki")
def write(dice: Dice, look: Look) -> Task:
    """A new page."""
    app = Wiki(look, listed := pages(dice, dice.between(3, 6)))
    title, *others = _free_titles(dice, listed, dice.choice(("Mill", "Park", "Inn")), 2)
    words, *more = dice.sample(WORDS, 2)
    return single(
        app,
        f'Write a page "{title}" that says "{words}"',
        lambda s: app.written(s, title, words),
        app.data() | {title: {"text": words}},
        texts=(title, words, *others, *more),
    )


@template("wiki")
def erase(dice: Dice, look: Look) -> Task:
    """A page less."""
    app = Wiki(look, listed := pages(dice, dice.between(4, 7)))
    title = dice.choice(list(listed))
    after = {t: f for t, f in app.data().items() if t != title}
    return single(app, f"Delete the page {title}.", lambda s: app.erased(s, title), after)


@template("wiki", unseen=True)
def copy(dice: Dice, look: Look) -> Task:
    """Two facts of one page on another."""
    app = Wiki(look, listed := pages(dice, 6))
    source, target = [t for t in listed if t.endswith("Town")]
    mayor = listed[source]["mayor"] = other_fact(dice, "mayor", listed[target]["mayor"])
    changes = {target: {"mayor": mayor, "year": listed[source]["year"]}}
    sentence = f"Give {target} the mayor and the year that the page {source} has."
    texts = (mayor, listed[source]["year"], other_fact(dice, "mayor", mayor))
    return _editing(app, sentence, changes, texts, source)
