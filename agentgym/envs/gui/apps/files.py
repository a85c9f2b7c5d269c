"""Files in folders: a table to sort, select and rename in, and to move and delete from in bulk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from agentgym.envs.gui.app import App, Data, State
from agentgym.envs.gui.commands import Command, check, click, select
from agentgym.envs.gui.look import Look
from agentgym.envs.gui.tasks import Task, single, template
from agentgym.envs.gui.widgets import Dialog, Screen, Zone, button, checkbox, combobox, link, text, textbox
from agentgym.keyed_random import Dice

FOLDERS = ("Home", "Reports", "Photos", "Music", "Archive", "Drafts")
STEMS = (
    *("report", "letter", "plan", "photo", "song", "map", "budget", "poster", "recipe", "speech", "sketch", "ticket"),
    *("survey", "contract", "diary", "guide"),
)
KINDS = ("pdf", "txt", "jpg", "csv", "tmp")
SORTS = ("name", "size", "age")
NEW_FOLDERS = ("Garden", "School", "Travel", "Taxes", "Recipes", "Old things")


class File(NamedTuple):
    """A file: where it is, how large, and how many days old."""

    folder: str
    size: int
    age: int


class Files(App):
    """One person's files, each with a name of its own.

    Args:
        look: how it is worded and arranged.
        files: by name.
    """

    name = "files"
    home = "folder:Home"
    permutable_names = (FOLDERS[1:], STEMS, KINDS, NEW_FOLDERS)
    window = 6
    rows = ("tick:",)
    words = {
        "sort": ("Sort by", "Order by", "Arrange by"),
        "rename": ("Rename", "Change name", "Give new name"),
        "folder": ("New folder", "Create folder", "Make a folder"),
        "into": ("Move to", "Put into", "Send to folder"),
        "ask": ("Delete the selected files?", "Remove what is selected?", "Throw these away?"),
        "empty": ("No files.", "This folder is empty.", "Nothing here."),
        "choose": ("choose", "select one", "where to?"),
    }

    def __init__(self, look: Look, files: Mapping[str, File]) -> None:
        super().__init__(look)
        self.files = files
        self.folders = [f for f in FOLDERS if f == "Home" or any(file.folder == f for file in files.values())]

    def data(self) -> Data:
        return {"in": {name: file.folder for name, file in self.files.items()}, "folders": list(self.folders), "as": {}}

    def view(self, s: State) -> Screen:
        say, here, arrange = self.say, s.route.removeprefix("folder:"), self.look.arrange
        names, chosen = self._listed(s, here), self._chosen(s)
        rows = [checkbox(f"tick:{name}", self._row(s, name), checked=name in chosen) for name in names]
        others = tuple(f for f in s.data["folders"] if f != here)
        nothing = not chosen
        tools = [
            combobox("field:sort", say["sort"], s.text("sort", "name"), SORTS),
            button("ask:rename", say["rename"], off=len(chosen) != 1),
            button("ask:delete", say["delete"], off=nothing),
            button("ask:folder", say["folder"]),
        ]
        if others and chosen:
            tools.append(combobox("move", say["into"], say["choose"], (say["choose"], *others)))
        zones = [Zone("toolbar", arrange(tools)), Zone("list", rows or [text(say["empty"])], self.window)]
        nav = Zone("nav", [link(f"go:folder:{f}", f) for f in others])
        return Screen(f"Files: {here}", [nav, *arrange(zones)], self._dialog(s))

    def _dialog(self, s: State) -> Dialog | None:
        if not s.dialog:
            return None
        say = self.say
        buttons = [button(s.dialog, say["ok"], shortcut="Enter"), button("dismiss", say["cancel"], shortcut="Escape")]
        if s.dialog == "delete":
            return Dialog(say["ask"], self.look.arrange(buttons))
        box = textbox("field:name", say["name"], s.text("name", self._chosen(s)[0] if s.dialog == "rename" else ""))
        return Dialog(say[s.dialog], [box, *self.look.arrange(buttons)])

    def _listed(self, s: State, folder: str) -> list[str]:
        """Names of the files of a folder, in the order that is chosen."""
        names = sorted(name for name, where in s.data["in"].items() if where == folder)
        by = s.text("sort", "name")
        if by == "size":
            names.sort(key=lambda name: -self._file(s, name).size)
        elif by == "age":
            names.sort(key=lambda name: -self._file(s, name).age)
        return names

    def _file(self, s: State, name: str) -> File:
        return self.files[s.data["as"].get(name, name)]

    def _row(self, s: State, name: str) -> str:
        file = self._file(s, name)
        return f"{name}, {file.size} KB, {file.age} days"

    def _chosen(self, s: State) -> list[str]:
        """Names of the files that are selected."""
        return sorted(name for name in s.data["in"] if s.draft.get(name))

    def on_move(self, s: State, argument: str, folder: str) -> None:
        if folder == self.say["choose"]:
            return
        chosen = self._chosen(s)
        for name in chosen:
            s.data["in"][name] = folder
        self._deselect(s)
        s.note = f"{_counted(len(chosen))} moved to {folder}."

    def on_ask(self, s: State, dialog: str, value: str) -> None:
        s.dialog = dialog
        s.draft.pop("name", None)

    def on_delete(self, s: State, argument: str, value: str) -> None:
        chosen = self._chosen(s)
        for name in chosen:
            del s.data["in"][name]
            s.data["as"].pop(name, None)
        self._deselect(s)
        s.note = f"{_counted(len(chosen))} deleted."

    def on_rename(self, s: State, argument: str, value: str) -> None:
        old = self._chosen(s)[0]
        new = s.text("name", old)
        if new != old:
            if not new or new in s.data["in"]:
                s.problem = f"{new} exists already." if new else "A file needs a name."
                return
            s.data["in"][new] = s.data["in"].pop(old)
            if (was := s.data["as"].pop(old, old)) != new:
                s.data["as"][new] = was
        self._deselect(s)
        s.note = f"{old} is now {new}."

    def on_folder(self, s: State, argument: str, value: str) -> None:
        name = s.text("name")
        if not name or name in s.data["folders"]:
            s.problem = f"{name} exists already." if name else "A folder needs a name."
            return
        s.data["folders"].append(name)
        s.dialog, s.note = "", f"{name} is made."

    def _deselect(self, s: State) -> None:
        sort = s.draft.get("sort")
        s.draft.clear()
        s.dialog = ""
        if sort is not None:
            s.draft["sort"] = sort

    # ---- for experts

    def shown(self, s: State, folder: str) -> Command | None:
        """Until the folder is shown without a dialog."""
        if s.dialog:
            return click("dismiss")
        return None if s.route == f"folder:{folder}" else click(f"go:folder:{folder}")

    def selected(self, s: State, names: Sequence[str]) -> Command | None:
        """Until these files, all in one folder, and no others are selected."""
        if (command := self.shown(s, s.data["in"][names[0]])) is not None:
            return command
        wrong = set(self._chosen(s)) ^ set(names)
        return (
            check("tick:" + next(n for n in self._listed(s, s.data["in"][names[0]]) if n in wrong)) if wrong else None
        )

    def moved(self, s: State, names: Sequence[str], folder: str) -> Command | None:
        """Until the files, which are in one folder now, are in another."""
        left = [n for n in names if s.data["in"].get(n, folder) != folder]
        if not left or folder not in s.data["folders"]:
            return None
        left = [n for n in left if s.data["in"][n] == s.data["in"][left[0]]]
        return self.selected(s, left) or select("move", folder)

    def removed(self, s: State, names: Sequence[str]) -> Command | None:
        """Until the files are gone."""
        left = [n for n in names if n in s.data["in"]]
        left = [n for n in left if s.data["in"][n] == s.data["in"][left[0]]]
        if not left:
            return None
        if s.dialog == "delete" and self._chosen(s) == sorted(left):
            return click("delete")
        return self.selected(s, left) or click("ask:delete")

    def renamed(self, s: State, old: str, new: str) -> Command | None:
        """Until the file has its new name."""
        if old not in s.data["in"] or new in s.data["in"]:
            return None
        if s.dialog == "rename" and self._chosen(s) == [old]:
            return self.filled(s, "name", new) or click("rename")
        return self.selected(s, [old]) or click("ask:rename")

    def made(self, s: State, folder: str) -> Command | None:
        """Until there is such a folder."""
        if folder in s.data["folders"]:
            return None
        if s.dialog == "folder":
            return self.filled(s, "name", folder) or click("folder")
        return click("dismiss" if s.dialog else "ask:folder")

    def sorted_by(self, s: State, folder: str, by: str) -> Command | None:
        """Until the folder is shown in this order."""
        if (command := self.shown(s, folder)) is not None:
            return command
        return None if s.text("sort", "name") == by else select("field:sort", by)


def _counted(count: int) -> str:
    return f"{count} file" + ("s" if count != 1 else "")


def files(dice: Dice, here: str, count: int, kinds: Sequence[str] = KINDS, *, elsewhere: int = 3) -> dict[str, File]:
    """So many files in a folder, some in others; sizes and ages all differ."""
    stems = dice.sample(STEMS, count + elsewhere)
    sizes, ages = dice.sample(range(2, 98), count + elsewhere), dice.sample(range(1, 60), count + elsewhere)
    others = dice.sample([f for f in FOLDERS if f not in (here, "Home")], 2)
    return {
        f"{stem}.{dice.choice(kinds)}": File(here if i < count else others[i % 2], sizes[i], ages[i])
        for i, stem in enumerate(stems)
    }


def _begin(dice: Dice, look: Look, low: int = 4, high: int = 9) -> tuple[Files, str, list[str]]:
    """An application, one of its folders, and the files that are in it, in random order."""
    here = dice.choice(FOLDERS[:3])
    app = Files(look, files(dice, here, dice.between(low, high)))
    return app, here, dice.shuffled(n for n, file in app.files.items() if file.folder == here)


@template("files")
def rename(dice: Dice, look: Look) -> Task:
    """Another name."""
    app, here, names = _begin(dice, look)
    old, ending = names[0], names[0].rpartition(".")[2]
    stems = [s for s in STEMS if not any(n.startswith(s) for n in app.files)]
    new, *others = [f"{stem}.{ending}" for stem in dice.sample(stems, 3)]
    after = app.data()
    after["in"][new] = after["in"].pop(old)
    after["as"][new] = old
    return single(
        app,
        f'Rename the file {old} in {here} to "{new}".',
        lambda s: app.renamed(s, old, new),
        after,
        texts=(new, *others),
    )


def _gone(app: Files, sentence: str, names: Sequence[str], first: Sequence[str] = ()) -> Task:
    """A task to delete files; ``first``: folder and order in which the expert finds them."""
    after = app.data()
    for name in names:
        del after["in"][name]

    def expert(s: State) -> Command | None:
        if first and not s.dialog and names[0] in s.data["in"]:
            return app.sorted_by(s, *first) or app.removed(s, names)
        return app.removed(s, names)

    return single(app, sentence, expert, after)


@template("files")
def delete(dice: Dice, look: Look) -> Task:
    """One file less."""
    app, here, names = _begin(dice, look)
    return _gone(app, f"Delete the file {names[0]} in {here}.", names[:1])


@template("files")
def delete_kind(dice: Dice, look: Look) -> Task:
    """All files of a kind in a folder."""
    app, here, names = _begin(dice, look, 5, 8)
    kind = names[0].rpartition(".")[2]
    return _gone(app, f"Delete every {kind} file in {here}.", [n for n in names if n.endswith(f".{kind}")])


@template("files")
def delete_largest(dice: Dice, look: Look) -> Task:
    """The largest file of a folder."""
    app, here, names = _begin(dice, look, 5, 9)
    by, most = dice.choice((("size", "largest"), ("age", "oldest")))
    name = max(names, key=lambda n: getattr(app.files[n], by))
    count = len(names)
    return _gone(app, f"Delete the {most} of the {count} files in {here}.", [name], (here, by))


@template("files")
def move(dice: Dice, look: Look) -> Task:
    """A file or two into another folder."""
    app, here, names = _begin(dice, look)
    target = dice.choice([f for f in app.folders if f != here])
    moving = names[: dice.between(1, 2)]
    after = app.data()
    after["in"].update(dict.fromkeys(moving, target))
    return single(
        app, f"Move {' and '.join(moving)} from {here} to {target}.", lambda s: app.moved(s, moving, target), after
    )


@template("files")
def new_folder(dice: Dice, look: Look) -> Task:
    """A new folder, and a file in it."""
    app, here, names = _begin(dice, look)
    folder, *others = dice.sample(NEW_FOLDERS, 3)
    after = app.data()
    after["folders"].append(folder)
    after["in"][names[0]] = folder
    return single(
        app,
        f'Make the folder "{folder}" and move {names[0]} from {here} into it.',
        lambda s: app.made(s, folder) or app.moved(s, names[:1], folder),
        after,
        texts=(folder, *others),
    )


@template("files")
def ask(dice: Dice, look: Look) -> Task:
    """The largest or oldest file."""
    app, here, names = _begin(dice, look, 5, 9)
    by, most = dice.choice((("size", "largest"), ("age", "oldest")))
    name = max(names, key=lambda n: getattr(app.files[n], by))
    return single(
        app,
        f"Which of the {len(names)} files in {here} is the {most}?",
        lambda s: app.sorted_by(s, here, by),
        answer=name,
        texts=sorted({name, *names[:4]}),
    )


@template("files", unseen=True)
def tidy(dice: Dice, look: Look) -> Task:
    """Files of one kind are moved, files of another deleted."""
    drawn = (_begin(dice, look, 6, 8) for _ in range(1000))
    app, here, names = next(found for found in drawn if len(_kinds(found[2])) > 1)
    keep, drop = dice.sample(_kinds(names), 2)
    target = dice.choice([f for f in app.folders if f != here])
    moving = [n for n in names if n.endswith(f".{keep}")]
    dropped = [n for n in names if n.endswith(f".{drop}")]
    after = app.data()
    after["in"] = {n: target if n in moving else f for n, f in after["in"].items() if n not in dropped}
    return single(
        app,
        f"Move every {keep} file from {here} to {target}, then delete every {drop} file in {here}.",
        lambda s: app.moved(s, moving, target) or app.removed(s, dropped),
        after,
    )


def _kinds(names: Sequence[str]) -> list[str]:
    return sorted({name.rpartition(".")[2] for name in names})
