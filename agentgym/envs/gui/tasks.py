"""Tasks: the request, the applications, and when the task is done.

A template is a function of random numbers and a look; it makes the applications with their content, the sentence that
says what to do, and the data that solves it. Templates are found in the modules of ``apps/``.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from agentgym.envs.gui.app import App, Data, State
from agentgym.envs.gui.commands import Command, done
from agentgym.envs.gui.look import Look, draw
from agentgym.keyed_random import Dice

if TYPE_CHECKING:
    from agentgym.envs.gui.world import World

VERSION = 1  #: raise it whenever a seed would give another task
MOST_STEPS = 200  #: an expert that needs more is broken
_TEST_SHARE = 64  # of 256
_DRAWS = 1000
_APPS = "agentgym.envs.gui.apps"


@dataclass(slots=True)
class Task:
    """One task. Templates leave the fields from ``task_id`` on to :func:`from_template`; then only the memo changes.

    Attributes:
        sentence: the request.
        apps: the applications by name; the first is open.
        expert: the next command of somebody who can do it, from any state; its element is a key. Once everything is
            done, or cannot be done any more, ``done``.
        goals: the ways in which it may end: data by application. Of those not named, the data must be as it was.
        answer: what ``done`` must say, in upper or lower case; empty: it may say anything.
        texts: what it may make sense to type or answer; only :func:`~agentgym.envs.gui.snapshot.possible` reads it.
        about: the actual change, where the agent must find it out.
        task_id: ``gui/SPLIT/FAMILY/TEMPLATE/NUMBER``.
        family: of the template.
        first: data of each application before the first action.
        salt: makes its ids its own.
        hints: memo of where in the list of ids a key's is looked for.
    """

    sentence: str
    apps: Mapping[str, App]
    expert: Callable[[World], Command]
    goals: Sequence[Mapping[str, Data]] = ({},)
    answer: str = ""
    texts: Sequence[str] = ()
    about: str = ""
    task_id: str = ""
    family: str = ""
    first: Mapping[str, Data] = field(default_factory=dict)
    salt: int = 0
    hints: dict[str, int] = field(default_factory=dict)


def task(
    sentence: str,
    apps: Sequence[App],
    expert: Callable[[World], Command],
    *,
    goals: Sequence[Mapping[str, Data]] = ({},),
    answer: str = "",
    texts: Sequence[str] = (),
    about: str = "",
) -> Task:
    """What a template returns; see :class:`Task`."""
    return Task(sentence, {app.name: app for app in apps}, expert, goals, answer, tuple(dict.fromkeys(texts)), about)


def single(
    app: App,
    sentence: str,
    expert: Callable[[State], Command | None],
    after: Data | None = None,
    *,
    answer: str = "",
    texts: Sequence[str] = (),
) -> Task:
    """A task in one application.

    Args:
        app: the application.
        sentence: the request.
        expert: the next command; None once all is as it should be.
        after: the data that solves it; None: as it was.
        answer, texts: see :class:`Task`.
    """
    goal: Mapping[str, Data] = {} if after is None else {app.name: after}
    return task(sentence, [app], lambda w: expert(w.state) or done(answer), goals=[goal], answer=answer, texts=texts)


def first(commands: Iterable[Command | None]) -> Command | None:
    """The first that is one."""
    return next(filter(None, commands), None)


Make = Callable[[Dice, Look], Task]


@dataclass(frozen=True, slots=True)
class Template:
    """A kind of task.

    Attributes:
        family: the applications it is about.
        name: unique in the family.
        make: makes one.
        unseen: whether it is kept for ``unseen``.
    """

    family: str
    name: str
    make: Make
    unseen: bool


_TEMPLATES: dict[str, dict[str, Template]] = {}


def template(family: str, *, unseen: bool = False) -> Callable[[Make], Make]:
    """Register the decorated function as a template of the family, named after it."""

    def add(make: Make) -> Make:
        name = make.__name__.strip("_")
        _TEMPLATES.setdefault(family, {})[name] = Template(family, name, make, unseen)
        return make

    return add


@cache
def templates(split: str) -> Mapping[str, tuple[Template, ...]]:
    """The templates of a split by family, in the order of their names."""
    package = import_module(_APPS)
    for module in iter_modules(package.__path__):
        import_module(f"{package.__name__}.{module.name}")
    return {
        family: tuple(known[name] for name in sorted(known) if split == "unseen" or not known[name].unseen)
        for family, known in sorted(_TEMPLATES.items())
    }


@cache
def permutable_names() -> tuple[tuple[str, ...], ...]:
    """Sets of names that can be exchanged for each other in all applications; no name is in two of them."""
    templates("train")  # which imports them
    joined: list[tuple[str, ...]] = []
    for names in (
        names for kind in App.__subclasses__() if kind.__module__.startswith(_APPS) for names in kind.permutable_names
    ):
        common = [known for known in joined if not set(known).isdisjoint(names)]
        joined = [known for known in joined if known not in common]
        joined.append(tuple(dict.fromkeys(itertools.chain(*common, names))))
    return tuple(joined)


def named(split: str, name: str) -> tuple[Template, ...]:
    """The templates of a family, ``mail``, or the one of ``mail/star``; none where there are no such."""
    family, sign, one = name.partition("/")
    return tuple(kind for kind in templates(split).get(family, ()) if not sign or kind.name == one)


def build(split: str, number: int, families: tuple[str, ...] = ()) -> Task:
    """The task of this number, of these families or of all; ``mail/star`` is one template of a family.

    Numbers go through the templates in turn: the first of every family, then the second.
    """
    kinds = _in_turn(split, families)
    return from_template(kinds[number % len(kinds)], split, number)


@cache
def _in_turn(split: str, families: tuple[str, ...]) -> tuple[Template, ...]:
    rounds = itertools.zip_longest(*(named(split, name) for name in families or templates(split)))
    return tuple(kind for one_round in rounds for kind in one_round if kind is not None)


def from_template(kind: Template, split: str, number: int) -> Task:
    """The task of this template and number.

    Splits are disjoint by construction: a hash of the request says whether a task belongs to train or to test, and
    tasks are drawn until one belongs; ``unseen`` has words and arrangements of its own.
    """
    name = f"gui/{split}/{kind.family}/{kind.name}/{number}"
    for attempt in itertools.count():
        dice = Dice(f"{VERSION}/{name}/{attempt}")
        drawn = kind.make(dice, draw(dice, split))
        if split == "unseen" or split_of(drawn) == split:
            break
        assert attempt < _DRAWS, f"no task of {kind.family}/{kind.name} belongs to {split}"
    drawn.task_id, drawn.family, drawn.salt = name, kind.family, dice.below(1 << 16)
    drawn.first = {app.name: app.data() for app in drawn.apps.values()}
    return drawn


def split_of(drawn: Task) -> str:
    """Whether a task belongs to train or to test: decided by a hash of the request."""
    asked = f"{drawn.sentence}\n{drawn.about}".encode()
    return "test" if hashlib.blake2b(asked, digest_size=1).digest()[0] < _TEST_SHARE else "train"


def expert_steps(world: World) -> int:
    """How many actions the expert needs from here, ``done`` included; the world is used up."""
    for step in range(1, MOST_STEPS):
        command = world.expert()
        if command.name == "done":
            return step
        world.perform(command)
    raise AssertionError(f"{world.task.task_id}: the expert finds no end")
