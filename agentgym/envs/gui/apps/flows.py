"""Flows: tasks over several applications. What one of them says is to be done in another."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agentgym.envs.gui.app import App, State
from agentgym.envs.gui.apps import calendar, directory, files, forms, mail, settings, shop, wiki
from agentgym.envs.gui.apps.mail import Mail, Message, messages
from agentgym.envs.gui.apps.people import NAMES
from agentgym.envs.gui.commands import Command, done
from agentgym.envs.gui.look import Look
from agentgym.envs.gui.tasks import Task, task, template
from agentgym.envs.gui.world import World
from agentgym.keyed_random import Dice

Step = Callable[[World], Command | None]


def at(app: App, command: Command | None, world: World) -> Command | None:
    """A command in an application: the way to its tab comes first."""
    if command is None or world.here == app.name:
        return command
    return Command("switch_tab" if app.name in world.tabs else "open_tab", "", app.name)


def _read(app: Mail, message: Message) -> Step:
    """A step: a mail is read."""
    i = app.messages.index(message)
    return lambda w: at(app, app.read(w.states[app.name], i), w)


def _seen(app: App, way: Callable[[State], Command | None]) -> Step:
    """A step: an application is opened and shows what the way leads to; it stays there."""

    def step(w: World) -> Command | None:
        command = way(w.states[app.name])
        return None if command is None and app.name in w.tabs else at(app, command or done(), w)

    return step


def _in_turn(steps: Sequence[Step]) -> Callable[[World], Command]:
    """An expert that takes the steps one after the other."""
    return lambda w: next(filter(None, (step(w) for step in steps)), done())


def _mail(dice: Dice, look: Look, text: str, subject: str) -> tuple[Mail, Message]:
    """Mail with a message that was not read yet, among others."""
    message = Message(dice.choice(NAMES), subject, text, unread=True)
    return Mail(look, messages(dice, dice.between(5, 8), [message])), message


def _booking(dice: Dice, look: Look) -> tuple[Mail, Message, calendar.Calendar, str, str, list[str]]:
    """A mail that asks for a meeting at a free time, and the calendar; slot, title, and what may be typed."""
    slot, other = dice.sample([f"{d} {t}" for d in calendar.DAYS for t in calendar.TIMES], 2)
    title, distractor = dice.sample(calendar.TITLES, 2)
    events = calendar.events(dice, 6, {other: distractor}, [slot])
    app = calendar.Calendar(look, {k: e for k, e in events.items() if e[0] != title})
    box, message = _mail(dice, look, f"Please enter {title} {calendar.said(slot)}.", dice.choice(mail.TOPICS))
    return box, message, app, slot, title, [title, distractor, slot.split(" ")[1], other.split(" ")[1]]


@template("flow")
def book(dice: Dice, look: Look) -> Task:
    """The meeting that a mail asks for."""
    box, message, app, slot, title, texts = _booking(dice, look)
    return task(
        f"Enter in the calendar what the mail from {message.sender} asks for.",
        [box, app],
        _in_turn([_read(box, message), lambda w: at(app, app.entered(w.states[app.name], slot, title), w)]),
        goals=[{app.name: app.data() | {slot: [title, False]}}],
        about=message.text,
        texts=texts,
    )


@template("flow", unseen=True)
def book_and_answer(dice: Dice, look: Look) -> Task:
    """The meeting that a mail asks for, and an answer."""
    box, message, app, slot, title, texts = _booking(dice, look)
    words = dice.choice(mail.ANSWERS)
    route = f"reply:{box.messages.index(message)}"
    return task(
        f'Enter in the calendar what the mail from {message.sender} asks for, then answer it with "{words}"',
        [box, app],
        _in_turn(
            [
                _read(box, message),
                lambda w: at(app, app.entered(w.states[app.name], slot, title), w),
                lambda w: at(box, box.sent(w.states[box.name], route, text=words), w),
            ]
        ),
        about=message.text,
        goals=[
            {
                app.name: app.data() | {slot: [title, False]},
                box.name: box.data() | {"sent": [box.letter(route, text=words)]},
            }
        ],
        texts=[*texts, words],
    )


@template("flow")
def answer_if_free(dice: Dice, look: Look) -> Task:
    """Whether a time is free, as an answer."""
    slot = f"{dice.choice(calendar.DAYS)} {dice.choice(calendar.TIMES)}"
    busy = bool(dice.below(2))
    special = {slot: dice.choice(calendar.TITLES)} if busy else {}
    app = calendar.Calendar(look, calendar.events(dice, 8, special, [] if busy else [slot]))
    box, message = _mail(dice, look, f"Are you free {calendar.said(slot)}?", dice.choice(mail.TOPICS))
    words = "No" if busy else "Yes"
    route = f"reply:{box.messages.index(message)}"
    day = slot.split(" ")[0]
    look_up = _seen(app, lambda s: app.shown(s, day))
    return task(
        f'Answer the mail from {message.sender} with "Yes" if the time is free in the calendar, else with "No".',
        [box, app],
        _in_turn([_read(box, message), look_up, lambda w: at(box, box.sent(w.states[box.name], route, text=words), w)]),
        about=message.text,
        goals=[{box.name: box.data() | {"sent": [box.letter(route, text=words)]}}],
        texts=["Yes", "No"],
    )


@template("flow")
def order(dice: Dice, look: Look) -> Task:
    """What a mail asks to order."""
    app = shop.Shop(look, listed := shop.articles(dice, dice.between(6, 9)))
    basket = {shop.some_item(dice, dice.choice(listed)): dice.between(1, 3)}
    box, message = _mail(dice, look, f"Please order {shop.said(basket)}.", dice.choice(mail.TOPICS))
    order = shop.order_of(basket)
    return task(
        f"Order in the shop what the mail from {message.sender} asks for.",
        [box, app],
        _in_turn([_read(box, message), lambda w: at(app, app.ordered(w.states[app.name], order), w)]),
        about=message.text,
        goals=[{app.name: app.data() | {"orders": [order]}}],
    )


@template("flow")
def correct(dice: Dice, look: Look) -> Task:
    """A page of the wiki, as a mail says."""
    app = wiki.Wiki(look, listed := wiki.pages(dice, dice.between(4, 6)))
    title, name = wiki.some_fact(dice, listed)
    value = wiki.other_fact(dice, name, listed[title][name])
    box, message = _mail(dice, look, f"The {name} of {title} is {value}.", dice.choice(mail.TOPICS))
    after = app.data()
    after[title][name] = value
    return task(
        f"Correct the page in the wiki that the mail from {message.sender} is about.",
        [box, app],
        _in_turn([_read(box, message), lambda w: at(app, app.edited(w.states[app.name], title, {name: value}), w)]),
        about=message.text,
        goals=[{app.name: after}],
        texts=[value, wiki.other_fact(dice, name, value)],
    )


@template("flow")
def tell(dice: Dice, look: Look) -> Task:
    """A fact of the wiki, in a mail."""
    app = wiki.Wiki(look, listed := wiki.pages(dice, dice.between(4, 6)))
    title, name = wiki.some_fact(dice, listed)
    value, who = listed[title][name], dice.choice(NAMES)
    box = Mail(look, messages(dice, dice.between(4, 7)))
    parts = {"to": who, "subject": title, "text": value}
    look_up = _seen(app, lambda s: app.shown(s, title))
    return task(
        f'Write to {who} about "{title}": only the {name} that the wiki gives.',
        [app, box],
        _in_turn([look_up, lambda w: at(box, box.sent(w.states[box.name], "write:", **parts), w)]),
        goals=[{box.name: box.data() | {"sent": [box.letter("write:", **parts)]}}],
        texts=[who, title, value, wiki.other_fact(dice, name, value)],
    )


@template("flow")
def set_up(dice: Dice, look: Look) -> Task:
    """The settings that a mail asks for."""
    app, sentence, changes = settings.some_changes(dice, look, dice.between(1, 2))
    box, message = _mail(dice, look, f"Please {sentence} on my device.", dice.choice(mail.TOPICS))
    after = app.data()
    after["values"].update(changes)
    return task(
        f"Do in the settings what the mail from {message.sender} asks for.",
        [box, app],
        _in_turn([_read(box, message), lambda w: at(app, app.all_having(w.states[app.name], after["values"]), w)]),
        about=message.text,
        goals=[{app.name: after}],
    )


@template("flow")
def register(dice: Dice, look: Look) -> Task:
    """A person's phone number, from the directory into a form."""
    people = directory.Directory(look, listed := directory.people(dice, dice.between(8, 11)))
    person, other = dice.sample(listed, 2)
    app = forms.Forms(look, "course")
    entry = app.blank() | {"name": person.name, "phone": person.phone}
    look_up = _seen(people, lambda s: people.shown(s, person.name))
    return task(
        f"Send the course form for {person.name}, with the phone number from the directory, and nothing else.",
        [people, app],
        _in_turn([look_up, lambda w: at(app, app.filled_in(w.states[app.name], entry, "form"), w)]),
        about=person.phone,
        goals=[{app.name: {"entries": [entry]}}],
        texts=[person.name, person.phone, other.name, other.phone],
    )


@template("flow")
def send_file(dice: Dice, look: Look) -> Task:
    """The largest file, attached to a mail."""
    here = dice.choice(files.FOLDERS[:3])
    app = files.Files(look, files.files(dice, here, dice.between(4, 6), elsewhere=2))
    listed = sorted(n for n, file in app.files.items() if file.folder == here)
    largest = max(listed, key=lambda n: app.files[n].size)
    box = Mail(look, messages(dice, dice.between(4, 7)), listed)
    who, words = dice.choice(NAMES), dice.choice(mail.ANSWERS)
    parts = {"to": who, "text": words, "attach": largest}
    look_up = _seen(app, lambda s: app.sorted_by(s, here, "size"))
    return task(
        f'Write to {who}, without a subject, "{words}" and attach the largest of the files in {here}.',
        [app, box],
        _in_turn([look_up, lambda w: at(box, box.sent(w.states[box.name], "write:", **parts), w)]),
        goals=[{box.name: box.data() | {"sent": [box.letter("write:", **parts)]}}],
        texts=[who, words],
    )


@template("flow", unseen=True)
def invite(dice: Dice, look: Look) -> Task:
    """A mail that asks for a meeting in somebody's room: read, look up, and enter."""
    people = directory.Directory(look, listed := directory.people(dice, 9))
    host, other = dice.sample(listed, 2)
    box, message, app, slot, title, texts = _booking(dice, look)
    title = f"{title} in {host.room}"
    message = message._replace(text=f"{message.text[:-1]}: {host.name} gives it, in the usual room.")
    box = Mail(look, [message if m.sender == message.sender else m for m in box.messages])
    look_up = _seen(people, lambda s: people.shown(s, host.name))
    asked = title.partition(" in ")[0]
    return task(
        f"Enter in the calendar what the mail from {message.sender} asks for, with the room of whoever gives it, "
        f'as in "{asked} in room 1".',
        [box, people, app],
        _in_turn([_read(box, message), look_up, lambda w: at(app, app.entered(w.states[app.name], slot, title), w)]),
        goals=[{app.name: app.data() | {slot: [title, False]}}],
        about=message.text,
        texts=[title, f"{asked} in {other.room}", *texts[2:]],
    )
