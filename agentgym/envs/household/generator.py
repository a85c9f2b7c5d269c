"""From a split and a number to a house and its task; the same numbers always give the same house.

Splits are disjoint by construction: a hash of the task and the house's receptacles says whether the pair belongs to
train or to test, and houses are drawn until one belongs to the split that is asked for. ``unseen`` has goals that
neither of them has (:data:`~agentgym.envs.household.catalogue.HELD_OUT`), in larger houses.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Sequence

from agentgym.envs.household.catalogue import (
    FAMILIES,
    GOALS,
    LAMP,
    OBJECTS,
    PLACES,
    ROOM_OBJECTS,
    ROOMS,
    UNSEEN_GOALS,
    VERSION,
    Goal,
    ObjectKind,
    PlaceKind,
)
from agentgym.keyed_random import Dice

MAX_PLACES = 20
MAX_ITEMS = 21  # lamp included
SAME_KIND = 3  #: at most so many objects of one kind
_TEST_SHARE = 64  # of 256
#: the places of each object kind, repeated by weight
_SPREAD = {o.name: tuple(p for p, weight in o.prior.items() for _ in range(weight)) for o in OBJECTS.values()}


class House:
    """A house and its task as they are before the first turn; never changed, shared by every episode and branch.

    Receptacles ("places") and objects ("items") are numbered in the order of their names; ``1 << index`` is their bit
    in the masks.

    Args:
        task_id: ``household/SPLIT/FAMILY/NUMBER``.
        goal: what the task asks.
        places: kind of each place, sorted.
        items: kind of each item, sorted.
        starts: the place where each item lies.

    Attributes:
        place_names: e.g. ``"cabinet 1"``.
        contents: the items that lie at each place.
        always_open: mask of the places that cannot be closed.
        goal_places: mask of the places that the task asks for.
        targets: the items of the kind that the task asks for.
        going: the action that goes to each place.
        orders: memo of :func:`~agentgym.envs.household.planner.search_order`.
    """

    __slots__ = (
        "always_open",
        "contents",
        "goal",
        "goal_places",
        "going",
        "item_index",
        "item_kinds",
        "item_names",
        "lamps",
        "orders",
        "place_index",
        "place_kinds",
        "place_names",
        "starts",
        "targets",
        "task_id",
    )

    def __init__(
        self, *, task_id: str, goal: Goal, places: Sequence[str], items: Sequence[str], starts: Sequence[int]
    ) -> None:
        self.task_id, self.goal, self.starts = task_id, goal, starts
        self.place_names, self.item_names = _numbered(places), _numbered(items)
        self.place_kinds: tuple[PlaceKind, ...] = tuple([PLACES[kind] for kind in places])
        self.item_kinds: tuple[ObjectKind, ...] = tuple([OBJECTS[kind] for kind in items])
        self.place_index = dict(zip(self.place_names, range(len(places)), strict=True))
        self.item_index = dict(zip(self.item_names, range(len(items)), strict=True))
        self.targets = tuple([i for i, kind in enumerate(items) if kind == goal.object])
        self.lamps = tuple([i for i, kind in enumerate(items) if kind == LAMP])
        self.going = tuple(["go to " + name for name in self.place_names])
        inside: list[list[int]] = [[] for _ in places]
        for item, place in enumerate(starts):
            inside[place].append(item)
        self.contents = tuple(map(tuple, inside))
        self.always_open = self.goal_places = 0
        for i, kind in enumerate(self.place_kinds):
            if not kind.openable:
                self.always_open |= 1 << i
            if kind.name == goal.place:
                self.goal_places |= 1 << i
        self.orders: dict[str, list[int]] = {}

    @property
    def code(self) -> int:
        """64 bits of what never changes in the episode: receptacles, objects and task, but not where objects lie."""
        goal = self.goal
        content = "/".join((goal.family, goal.object, goal.place, *self.place_names, *self.item_names))
        return int.from_bytes(hashlib.blake2b(content.encode(), digest_size=8).digest(), "big")

    @property
    def overview(self) -> str:
        """What the middle of the room looks like."""
        return f"You are in the middle of a room. Looking quickly around you, you see {listing(self.place_names)}."

    @property
    def introduction(self) -> str:
        """The first observation."""
        return f"{self.overview}\nYour task is to: {self.goal.sentence}"


def listing(names: Sequence[str]) -> str:
    """``"a mug 1"``, ``"a mug 1, and a pen 2"``, ``"a mug 1, a pen 1, and a pen 2"``; ``"nothing"`` where empty."""
    if len(names) < 2:
        return "a " + names[0] if names else "nothing"
    return "a " + ", a ".join(names[:-1]) + ", and a " + names[-1]


def build(split: str, number: int, family: str | None = None) -> House:
    """The house of a task number. Without ``family``, the number decides the family too."""
    if family is None:
        family = FAMILIES[Dice(f"family/{VERSION}/{split}/{number}").below(len(FAMILIES))]
    goals = (UNSEEN_GOALS if split == "unseen" else GOALS)[family]
    for attempt in itertools.count():
        dice = Dice(f"house/{VERSION}/{split}/{family}/{number}/{attempt}")
        goal = goals[dice.below(len(goals))]
        rooms = _rooms(dice, goal, large=split == "unseen")
        places = _furnish(dice, goal, rooms, large=split == "unseen")
        if split == "unseen" or split_of(goal, places) == split:
            break
    items = _stock(dice, goal, rooms, large=split == "unseen")
    starts = _scatter(dice, goal, places, items)
    return House(task_id=f"household/{split}/{family}/{number}", goal=goal, places=places, items=items, starts=starts)


def split_of(goal: Goal, places: Sequence[str]) -> str:
    """Whether a task in a house with these receptacle kinds (sorted) belongs to train or to test: a matter of hash."""
    key = "/".join((goal.family, goal.object, goal.place, *places)).encode()
    return "test" if hashlib.blake2b(key, digest_size=1).digest()[0] < _TEST_SHARE else "train"


def _rooms(dice: Dice, goal: Goal, *, large: bool) -> list[str]:
    """The goal's room, and others: mostly none in a moderate house, else one, one or two in a large one."""
    others = [room for room in ROOMS if room != goal.room]
    count = dice.between(1, 2) if large else dice.below(4) // 3
    return [goal.room, *(others.pop(dice.below(len(others))) for _ in range(count))]


def _furnish(dice: Dice, goal: Goal, rooms: Sequence[str], *, large: bool) -> list[str]:
    """The receptacle kinds of a house, sorted: what its rooms must have, the goal's, some they may have."""
    places: list[str] = []
    extras: list[str] = []
    for room in rooms:
        places += ROOMS[room].required
        extras += ROOMS[room].extras
    if goal.family != "examine" and goal.place not in places:
        places.append(goal.place)
        extras.remove(goal.place)
    smallest, largest = (15, MAX_PLACES) if large else (4 + 2 * len(rooms), 7 + 2 * len(rooms))
    for _ in range(dice.between(smallest, largest) - len(places)):
        places.append(extras.pop(dice.below(len(extras))))
    return sorted(places)


def _stock(dice: Dice, goal: Goal, rooms: Sequence[str], *, large: bool) -> list[str]:
    """The object kinds of a house, sorted: one or more of the goal's kind, any others that belong into its rooms."""
    size = dice.between(13, MAX_ITEMS - 1) if large else dice.between(6, 11)
    goal_count = dice.between(2, SAME_KIND) if goal.family == "two" else dice.between(1, 2)
    counts = Counter({goal.object: goal_count})
    kinds = [kind for room in rooms for kind in ROOM_OBJECTS[room] if kind != goal.object]
    for _ in range(size - goal_count):
        kind = kinds[dice.below(len(kinds))]
        counts[kind] += 1
        if counts[kind] == SAME_KIND:
            kinds = [k for k in kinds if k != kind]
    if goal.family == "examine" or (dice.below(2) and not {"bedroom", "livingroom"}.isdisjoint(rooms)):
        counts[LAMP] = 1
    return sorted(counts.elements())


def _scatter(dice: Dice, goal: Goal, places: Sequence[str], items: Sequence[str]) -> list[int]:
    """A plausible place for each item; one of the goal's kind never lies where the task wants it."""
    where: dict[str, list[int]] = {}
    for index, place in enumerate(places):
        where.setdefault(place, []).append(index)
    starts = []
    last, choices = "", [""]
    for item in items:
        if item != last:
            last = item
            avoid = goal.place if item == goal.object else ""
            choices = [p for p in _SPREAD[item] if p in where and p != avoid]
        options = where[choices[dice.below(len(choices))]]
        starts.append(options[dice.below(len(options))])
    return starts


def _numbered(kinds: Sequence[str]) -> tuple[str, ...]:
    """Sorted kinds with numbers: ``"mug", "mug", "pen"`` -> ``"mug 1", "mug 2", "pen 1"``."""
    names, last, number = [], "", 0
    for kind in kinds:
        number = number + 1 if kind == last else 1
        names.append(f"{kind} {number}")
        last = kind
    return tuple(names)
