"""Mail: folders, search, and letters to read, star, move, answer, forward and write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from agentgym.envs.gui.app import App, Data, State
from agentgym.envs.gui.apps.people import NAMES
from agentgym.envs.gui.commands import Command, check, click, select, type_in
from agentgym.envs.gui.look import Look
from agentgym.envs.gui.tasks import Task, single, template
from agentgym.envs.gui.widgets import Screen, Widget, Zone, button, checkbox, combobox, link, text, textbox
from agentgym.keyed_random import Dice

FOLDERS = ("Inbox", "Work", "Private", "Later", "Bin")
TOPICS = (
    *("budget", "holidays", "invoice", "picnic", "concert", "report", "garden", "training", "printer", "breakfast"),
    *("contract", "visit", "survey", "keys", "parking", "carpet"),
)
LINES = (
    *("Could you have a look at it?", "There is nothing to do for now.", "Please keep this for later."),
    *("Thank you for your help last week.", "We can talk about it tomorrow.", "It went better than we thought."),
)
ANSWERS = ("Yes, gladly.", "No, thank you.", "I will call you.", "Ask me again in May.", "That is fine.")
FILES = ("plan.pdf", "photo.jpg", "notes.txt", "map.png", "offer.pdf", "list.txt")


class Message(NamedTuple):
    """A mail that came in."""

    sender: str
    subject: str
    text: str
    folder: str = "Inbox"
    unread: bool = False


class Mail(App):
    """One person's mail.

    Args:
        look: how it is worded and arranged.
        messages: what came in.
        files: what can be attached.
    """

    name = "mail"
    home = "folder:Inbox"
    permutable_names = (NAMES, TOPICS, FOLDERS[1:4])
    window = 5
    rows = ("open:",)
    words = {
        "write": ("Write", "New mail", "Compose"),
        "reply": ("Reply", "Answer", "Write back"),
        "forward": ("Forward", "Pass on", "Send on"),
        "star": ("Starred", "Important", "Flagged"),
        "folder": ("Folder", "Move to", "Put into"),
        "to": ("To", "Recipient", "Addressee"),
        "subject": ("Subject", "About", "Topic"),
        "text": ("Text", "Message", "Body"),
        "attach": ("Attachment", "Attach", "Enclosed file"),
    }

    def __init__(self, look: Look, messages: Sequence[Message], files: Sequence[str] = ()) -> None:
        super().__init__(look)
        self.messages, self._files = messages, ("none", *files)

    def data(self) -> Data:
        return {
            "folder": [m.folder for m in self.messages],
            "starred": [False for _ in self.messages],
            "sent": [],
        }

    def memory(self) -> Data:
        return {"unread": [m.unread for m in self.messages]}

    def view(self, s: State) -> Screen:
        kind, _, which = s.route.partition(":")
        if kind == "message":
            return self._message(s, int(which))
        if kind == "folder":
            return self._list(s, which, [i for i, folder in enumerate(s.data["folder"]) if folder == which])
        if kind == "found":
            return self._list(s, f"{self.say['search']} {which}", self._found(which))
        return self._letter_form(s, kind)

    def _list(self, s: State, title: str, rows: list[int]) -> Screen:
        say, unread = self.say, s.memory["unread"]
        links = [link(f"open:{i}", self._row(i) + (", unread" if unread[i] else "")) for i in rows]
        tools = [
            textbox("field:query", say["search"], s.text("query")),
            button("search", say["search"], shortcut="Enter"),
            button("go:write:", say["write"]),
        ]
        zones = [self._nav(s), Zone("toolbar", tools), Zone("list", links or [text("No mail.")], self.window)]
        return Screen(f"Mail: {title}", self.look.arrange(zones))

    def _nav(self, s: State) -> Zone:
        return Zone("nav", [link(f"go:folder:{f}", f) for f in FOLDERS if s.route != f"folder:{f}"])

    def _message(self, s: State, i: int) -> Screen:
        say, message = self.say, self.messages[i]
        tools = [
            button(f"go:reply:{i}", say["reply"]),
            button(f"go:forward:{i}", say["forward"]),
            checkbox(f"star:{i}", say["star"], checked=s.data["starred"][i]),
            combobox(f"move:{i}", say["folder"], s.data["folder"][i], FOLDERS),
            button(f"delete:{i}", say["delete"]),
        ]
        arrange = self.look.arrange
        body = Zone("text", [text(f"From {message.sender}"), text(message.text)])
        return Screen(f"Mail: {message.subject}", [self._nav(s), *arrange([body, Zone("toolbar", arrange(tools))])])

    def _letter_form(self, s: State, kind: str) -> Screen:
        say, letter = self.say, self._letter(s)
        fields: list[Widget] = [textbox(f"field:{n}", say[n], letter[n]) for n in ("to", "subject", "text")]
        if len(self._files) > 1:
            fields.append(combobox("field:attach", say["attach"], letter["attach"], self._files))
        tools = [button("send", say["send"]), button("go:folder:Inbox", say["cancel"])]
        zones = [Zone("form", self.look.arrange(fields)), Zone("toolbar", self.look.arrange(tools))]
        return Screen(f"Mail: {say[kind]}", zones)

    def _row(self, i: int) -> str:
        return f"{self.messages[i].sender}: {self.messages[i].subject}"

    def _found(self, query: str) -> list[int]:
        return [i for i in range(len(self.messages)) if query.casefold() in self._row(i).casefold()]

    def _letter(self, s: State) -> Mapping[str, str]:
        """What stands in the form: what was typed, else what a reply or a forward begins with."""
        kind, _, which = s.route.partition(":")
        first = {"to": "", "subject": "", "text": "", "attach": "none"}
        if which:
            message = self.messages[int(which)]
            first["subject"] = f"Re: {message.subject}" if kind == "reply" else f"Fwd: {message.subject}"
            first["to" if kind == "reply" else "text"] = message.sender if kind == "reply" else message.text
        return {name: s.text(name, value) for name, value in first.items()}

    def on_open(self, s: State, which: str, value: str) -> None:
        self.visit(s, f"message:{which}")
        s.memory["unread"][int(which)] = False

    def on_search(self, s: State, argument: str, value: str) -> None:
        if query := s.text("query"):
            self.visit(s, f"found:{query}")
        else:
            s.problem = "Type what to look for."

    def on_star(self, s: State, which: str, value: str) -> None:
        s.data["starred"][int(which)] = not s.data["starred"][int(which)]

    def on_move(self, s: State, which: str, folder: str) -> None:
        s.data["folder"][int(which)] = folder
        s.note = f"Moved to {folder}."

    def on_delete(self, s: State, which: str, value: str) -> None:
        self.visit(s, f"folder:{s.data['folder'][int(which)]}")
        self.on_move(s, which, "Bin")

    def on_send(self, s: State, argument: str, value: str) -> None:
        letter = self._letter(s)
        if letter["to"] not in NAMES:
            s.problem = f"{self.say['to']}: nobody is called so." if letter["to"] else f"{self.say['to']} is empty."
        elif not letter["text"]:
            s.problem = f"{self.say['text']} is empty."
        else:
            s.data["sent"].append(letter)
            self.visit(s, "folder:Inbox")
            s.note = f"Sent to {letter['to']}."

    # ---- for experts

    def opened(self, s: State, i: int) -> Command | None:
        """Until the mail is shown."""
        if s.route == f"message:{i}":
            return None
        folder = s.data["folder"][i]
        return click(f"open:{i}" if s.route == f"folder:{folder}" else self._way(s, folder))

    def read(self, s: State, i: int) -> Command | None:
        """Until the mail was shown once."""
        return self.opened(s, i) if s.memory["unread"][i] else None

    def moved(self, s: State, i: int, folder: str) -> Command | None:
        """Until the mail is in the folder."""
        if s.data["folder"][i] == folder:
            return None
        return self.opened(s, i) or (click(f"delete:{i}") if folder == "Bin" else select(f"move:{i}", folder))

    def kept(self, s: State, data: Data) -> Command | None:
        """Until every mail has the folder and the star that the data says."""
        for i, (folder, starred) in enumerate(zip(data["folder"], data["starred"], strict=True)):
            if s.data["starred"][i] != starred:
                return self.opened(s, i) or check(f"star:{i}")
            if (command := self.moved(s, i, folder)) is not None:
                return command
        return None

    def sent(self, s: State, route: str, **letter: str) -> Command | None:
        """Until a letter that was begun at the route (``write:``, ``reply:3``, ``forward:3``) was sent."""
        target = self.letter(route, **letter)
        if target in s.data["sent"]:
            return None
        if s.route != route:
            kind, _, which = route.partition(":")
            if kind != "write":
                return self.opened(s, int(which)) or click(f"go:{route}")
            listed = s.route.startswith(("folder:", "found:"))
            return click(f"go:{route}" if listed else self._way(s, "Inbox"))
        now = self._letter(s)
        for name, value in target.items():
            if now[name] != value:
                return select(f"field:{name}", value) if name == "attach" else type_in(f"field:{name}", value)
        return click("send")

    def letter(self, route: str, **parts: str) -> dict[str, str]:
        """The letter that was begun at the route, with these parts written."""
        return {**self._letter(State({}, route)), **parts}

    def _way(self, s: State, folder: str) -> str:
        """The key that leads to a folder, or towards it."""
        return "go:folder:Inbox" if s.route.startswith(("write", "reply", "forward")) else f"go:folder:{folder}"


def messages(dice: Dice, count: int, special: Sequence[Message] = ()) -> list[Message]:
    """So many mails in random order, the special ones among them; of the others, at least one is in the inbox.

    Senders and subjects of the others differ from each other's and from those of the special ones.
    """
    used = {m.sender for m in special}, {m.subject for m in special}
    senders = dice.sample([n for n in NAMES if n not in used[0]], count - len(special))
    topics = dice.sample([t for t in TOPICS if t not in used[1]], count - len(special))
    places = ["Inbox", *(dice.choice(FOLDERS[:1] * 7 + FOLDERS[1:]) for _ in senders[1:])]
    others = [
        Message(who, what, dice.choice(LINES), where, bool(dice.below(2)))
        for who, what, where in zip(senders, topics, places, strict=True)
    ]
    return dice.shuffled([*others, *special])


def _about(message: Message, by: int) -> str:
    """A mail in words: by its sender or by its subject."""
    return f"the mail from {message.sender}" if by else f"the mail about the {message.subject}"


def _sorting(app: Mail, sentence: str, which: Sequence[int], **changes: object) -> Task:
    """A task that ends with these folders or stars of some mails."""
    after = app.data()
    for name, value in changes.items():
        for i in which:
            after[name][i] = value
    return single(app, sentence, lambda s: app.kept(s, after), after)


def _edit(dice: Dice, look: Look, sentence: str, **changes: object) -> Task:
    """The same about one mail of the inbox."""
    app = Mail(look, messages(dice, dice.between(6, 9)))
    i = dice.choice([i for i, m in enumerate(app.messages) if m.folder == "Inbox"])
    return _sorting(app, sentence.format(_about(app.messages[i], dice.below(2))), [i], **changes)


def _letter(app: Mail, sentence: str, route: str, parts: Mapping[str, str], texts: Sequence[str]) -> Task:
    """A task to send a letter that begins at the route."""
    after = app.data() | {"sent": [app.letter(route, **parts)]}
    return single(app, sentence, lambda s: app.sent(s, route, **parts) or app.kept(s, after), after, texts=texts)


@template("mail")
def star(dice: Dice, look: Look) -> Task:
    """A star for a mail."""
    return _edit(dice, look, "Give {} a star.", starred=True)


@template("mail")
def move(dice: Dice, look: Look) -> Task:
    """A mail into another folder."""
    folder = dice.choice(FOLDERS[1:4])
    return _edit(dice, look, f"Move {{}} to {folder}.", folder=folder)


@template("mail")
def delete(dice: Dice, look: Look) -> Task:
    """A mail into the bin."""
    return _edit(dice, look, "Delete {}.", folder="Bin")


@template("mail")
def restore(dice: Dice, look: Look) -> Task:
    """A mail out of the bin."""
    lost = Message(dice.choice(NAMES), dice.choice(TOPICS), dice.choice(LINES), "Bin")
    app = Mail(look, messages(dice, dice.between(6, 9), [lost]))
    said = f"Move {_about(lost, dice.below(2))} out of the bin into the inbox."
    return _sorting(app, said, [app.messages.index(lost)], folder="Inbox")


@template("mail")
def reply(dice: Dice, look: Look) -> Task:
    """An answer."""
    app = Mail(look, messages(dice, dice.between(6, 9)))
    i = dice.choice([i for i, m in enumerate(app.messages) if m.folder == "Inbox"])
    words, *others = dice.sample(ANSWERS, 3)
    said = f'Answer {_about(app.messages[i], dice.below(2))} with "{words}"'
    return _letter(app, said, f"reply:{i}", {"text": words}, (words, *others))


@template("mail")
def forward(dice: Dice, look: Look) -> Task:
    """A mail for somebody else."""
    app = Mail(look, messages(dice, dice.between(6, 9)))
    i = dice.choice([i for i, m in enumerate(app.messages) if m.folder == "Inbox"])
    who, *others = dice.sample([n for n in NAMES if n != app.messages[i].sender], 3)
    said = f"Forward {_about(app.messages[i], dice.below(2))} to {who}."
    return _letter(app, said, f"forward:{i}", {"to": who}, (who, *others))


@template("mail")
def write(dice: Dice, look: Look) -> Task:
    """A letter with a file."""
    files = dice.sample(FILES, 3)
    app = Mail(look, messages(dice, dice.between(4, 7)), files)
    who, subject, words = dice.choice(NAMES), dice.choice(TOPICS), dice.choice(ANSWERS)
    said = f'Write to {who} about "{subject}": "{words}" Attach {files[0]}.'
    parts = {"to": who, "subject": subject, "text": words, "attach": files[0]}
    return _letter(app, said, "write:", parts, (who, subject, words))


@template("mail")
def ask(dice: Dice, look: Look) -> Task:
    """What a mail says."""
    rooms = dice.sample([f"room {n}" for n in range(11, 40)], 3)
    sender, topic = dice.choice(NAMES), dice.choice(TOPICS)
    invitation = Message(sender, topic, f"We meet in {rooms[0]}.", unread=True)
    app = Mail(look, messages(dice, dice.between(6, 9), [invitation]))
    i = app.messages.index(invitation)
    said = f"In which room is the meeting that {_about(invitation, dice.below(2))} is about?"
    return single(app, said, lambda s: app.read(s, i), answer=rooms[0], texts=sorted(rooms))


@template("mail", unseen=True)
def clear(dice: Dice, look: Look) -> Task:
    """All mails of one person into a folder."""
    sender, folder = dice.choice(NAMES), dice.choice(FOLDERS[1:4])
    targets = [Message(sender, topic, dice.choice(LINES)) for topic in dice.sample(TOPICS, dice.between(2, 3))]
    app = Mail(look, messages(dice, 8, targets))
    return _sorting(
        app, f"Move every mail from {sender} to {folder}.", [*map(app.messages.index, targets)], folder=folder
    )
