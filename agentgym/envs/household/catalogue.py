"""What a house is made of: kinds of places and objects, rooms, where things usually lie, and what may be asked.

Everything here is constant. The tables are part of the environment's fingerprint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

VERSION = 1  #: raise it whenever a seed would give another house
LAMP = "desklamp"
FAMILIES = ("put", "examine", "clean", "heat", "cool", "two")
TOOLS: Mapping[str, str] = MappingProxyType({"sinkbasin": "clean", "microwave": "heat", "fridge": "cool"})
HELD_OUT_EVERY = 5  #: every fifth (object, place) pair is a goal in the ``unseen`` split only


@dataclass(frozen=True, slots=True)
class PlaceKind:
    """A kind of receptacle. ``tool`` is the verb it serves: ``"clean"``, ``"heat"``, ``"cool"`` or empty."""

    name: str
    preposition: str
    openable: bool
    tool: str


@dataclass(frozen=True, slots=True)
class ObjectKind:
    """A kind of object.

    Attributes:
        rooms: where it belongs.
        abilities: what can be done to it or asked of it: ``clean heat cool two examine``; everything can be put.
        prior: place kind -> weight of finding it there; the keys are also the places it may be asked to be put.
        fixed: whether it can never be carried.
    """

    name: str
    rooms: tuple[str, ...]
    abilities: frozenset[str]
    prior: Mapping[str, int]
    fixed: bool = False


@dataclass(frozen=True, slots=True)
class Room:
    """Receptacle kinds of a room: those it always has, and those it may have besides (repeated up to their number)."""

    required: tuple[str, ...]
    extras: tuple[str, ...]


def _places(preposition: str, names: str, *, openable: bool = False) -> dict[str, PlaceKind]:
    return {n: PlaceKind(n, preposition, openable, TOOLS.get(n, "")) for n in names.split()}


def _counted(text: str) -> dict[str, int]:
    words = text.split()
    return {name: int(count) for name, count in zip(words[::2], words[1::2], strict=True)}


def _room(required: str, extras: str) -> Room:
    return Room(tuple(required.split()), tuple(n for n, count in _counted(extras).items() for _ in range(count)))


PLACES: Mapping[str, PlaceKind] = MappingProxyType(
    _places("in", "bathtubbasin coffeemachine garbagecan sinkbasin toaster")
    | _places("in", "cabinet drawer fridge laundryhamper microwave safe", openable=True)
    | _places("on", "armchair bed coffeetable countertop desk diningtable dresser shelf sidetable sofa")
    | _places("on", "stoveburner toilet towelholder tvstand")
)

#: kinds of places that differ in nothing but the name: in, in and openable, on
STORES = tuple(
    tuple(p.name for p in PLACES.values() if not p.tool and (p.preposition, p.openable) == preposition_and_openable)
    for preposition_and_openable in (("in", False), ("in", True), ("on", False))
)

ROOMS: Mapping[str, Room] = MappingProxyType(
    {
        "kitchen": _room(
            "cabinet countertop fridge microwave sinkbasin",
            "cabinet 3 countertop 1 drawer 3 shelf 2 diningtable 1 stoveburner 2 coffeemachine 1 garbagecan 1",
        ),
        "bathroom": _room(
            "cabinet countertop sinkbasin toilet",
            "cabinet 2 drawer 2 shelf 2 bathtubbasin 1 towelholder 1 garbagecan 1",
        ),
        "bedroom": _room(
            "bed desk drawer sidetable",
            "drawer 3 shelf 3 sidetable 1 desk 1 dresser 1 armchair 1 safe 1 laundryhamper 1 garbagecan 1",
        ),
        "livingroom": _room(
            "coffeetable drawer sidetable sofa",
            "drawer 2 shelf 3 cabinet 2 armchair 2 sidetable 1 tvstand 1 dresser 1 diningtable 1 garbagecan 1",
        ),
    }
)

_ANY = "clean heat cool two"
_CUTLERY = "clean two"
_SMALL = "two examine"

_OBJECTS = (
    ("apple", "kitchen", _ANY, "countertop 5 fridge 4 diningtable 4 sinkbasin 2 garbagecan 1 microwave 1"),
    ("bread", "kitchen", "heat cool two", "countertop 6 diningtable 4 fridge 3 toaster 2 microwave 1 garbagecan 1"),
    ("egg", "kitchen", _ANY, "fridge 6 countertop 4 diningtable 2 sinkbasin 2 microwave 1 garbagecan 1"),
    ("lettuce", "kitchen", "clean cool two", "fridge 5 countertop 4 diningtable 3 sinkbasin 3 garbagecan 1"),
    ("potato", "kitchen", _ANY, "countertop 5 sinkbasin 3 fridge 3 diningtable 2 microwave 1 garbagecan 1"),
    ("tomato", "kitchen", _ANY, "countertop 5 fridge 4 sinkbasin 3 diningtable 3 microwave 1 garbagecan 1"),
    ("bowl", "kitchen", _ANY, "cabinet 5 countertop 4 diningtable 3 shelf 3 sinkbasin 2 fridge 1"),
    ("cup", "kitchen", _ANY, "cabinet 5 countertop 4 sinkbasin 3 shelf 3 microwave 1 diningtable 2"),
    ("mug", "kitchen", _ANY, "coffeemachine 5 countertop 4 cabinet 4 shelf 3 sinkbasin 2 microwave 1"),
    ("plate", "kitchen", _ANY, "cabinet 5 diningtable 4 countertop 4 shelf 3 sinkbasin 2 microwave 1"),
    ("pan", "kitchen", "clean cool two", "stoveburner 6 countertop 4 cabinet 3 sinkbasin 2 diningtable 1"),
    ("pot", "kitchen", "clean cool two", "stoveburner 6 countertop 3 cabinet 4 shelf 2 sinkbasin 2"),
    ("kettle", "kitchen", "clean", "stoveburner 6 countertop 4 cabinet 3 shelf 2 sinkbasin 1"),
    ("knife", "kitchen", _CUTLERY, "drawer 5 countertop 5 diningtable 3 sinkbasin 3"),
    ("fork", "kitchen", _CUTLERY, "drawer 6 countertop 4 diningtable 4 sinkbasin 3"),
    ("spoon", "kitchen", _CUTLERY, "drawer 6 countertop 4 diningtable 3 sinkbasin 3"),
    ("spatula", "kitchen", _CUTLERY, "drawer 5 countertop 5 diningtable 2 sinkbasin 3 stoveburner 2"),
    ("saltshaker", "kitchen", "two", "countertop 5 cabinet 4 shelf 3 diningtable 3 drawer 2"),
    ("peppershaker", "kitchen", "two", "countertop 5 cabinet 4 shelf 3 diningtable 3 drawer 2"),
    ("winebottle", "kitchen", "cool", "cabinet 5 fridge 4 countertop 4 shelf 2 diningtable 2 garbagecan 1"),
    ("dishsponge", "kitchen", "clean two", "sinkbasin 6 countertop 4 cabinet 2 drawer 2"),
    ("soapbottle", "kitchen bathroom", "two", "countertop 5 sinkbasin 3 cabinet 4 toilet 2 shelf 2 garbagecan 1"),
    ("cloth", "bathroom", "clean two", "bathtubbasin 4 countertop 4 cabinet 4 drawer 3 sinkbasin 2 toilet 1"),
    ("soapbar", "bathroom", "clean two", "sinkbasin 5 bathtubbasin 4 countertop 3 toilet 3 cabinet 2 drawer 2"),
    ("handtowel", "bathroom", "two", "towelholder 8 countertop 3 cabinet 3 shelf 2 bathtubbasin 1"),
    ("spraybottle", "bathroom", "two", "cabinet 5 toilet 4 countertop 4 shelf 3 garbagecan 1 drawer 1"),
    ("toiletpaper", "bathroom", "two", "toilet 6 cabinet 5 countertop 3 drawer 3 shelf 2 garbagecan 1"),
    ("candle", "bathroom", "two", "countertop 5 shelf 4 toilet 4 cabinet 3 bathtubbasin 2 drawer 2"),
    ("tissuebox", "bathroom livingroom", "two", "toilet 4 coffeetable 4 countertop 3 shelf 3 sidetable 3 cabinet 2"),
    ("alarmclock", "bedroom", _SMALL, "sidetable 6 desk 4 shelf 3 dresser 3 bed 1"),
    ("book", "bedroom livingroom", _SMALL, "desk 5 coffeetable 4 bed 4 sofa 3 shelf 4 sidetable 3 drawer 2"),
    ("cd", "bedroom", _SMALL, "desk 5 drawer 4 shelf 4 sidetable 2 safe 2 dresser 2 garbagecan 1"),
    ("cellphone", "bedroom livingroom", _SMALL, "desk 4 sidetable 4 sofa 4 bed 4 coffeetable 3 drawer 2 dresser 2"),
    (
        "creditcard",
        "bedroom livingroom",
        _SMALL,
        "drawer 4 coffeetable 4 desk 4 sidetable 4 armchair 2 shelf 2 dresser 2",
    ),
    ("keychain", "bedroom livingroom", _SMALL, "sidetable 5 drawer 4 coffeetable 4 desk 3 safe 3 armchair 2 sofa 1"),
    ("laptop", "bedroom livingroom", _SMALL, "desk 6 coffeetable 4 bed 4 sofa 4 armchair 2 diningtable 2 sidetable 1"),
    (
        "newspaper",
        "livingroom",
        _SMALL,
        "coffeetable 6 sofa 5 armchair 4 sidetable 3 diningtable 2 drawer 1 garbagecan 1",
    ),
    ("pen", "bedroom", _SMALL, "desk 6 drawer 4 sidetable 3 shelf 3 dresser 2 garbagecan 1"),
    ("pencil", "bedroom", _SMALL, "desk 6 drawer 4 shelf 4 sidetable 2 dresser 2 garbagecan 1"),
    ("pillow", "bedroom livingroom", _SMALL, "bed 6 sofa 6 armchair 4 laundryhamper 1 sidetable 1"),
    ("remotecontrol", "livingroom", _SMALL, "sofa 6 coffeetable 5 tvstand 5 armchair 4 sidetable 2 drawer 1"),
    ("statue", "livingroom", _SMALL, "shelf 5 tvstand 4 coffeetable 4 sidetable 4 dresser 3 diningtable 2 cabinet 1"),
    ("vase", "livingroom", _SMALL, "shelf 5 coffeetable 4 diningtable 4 sidetable 4 dresser 3 cabinet 2 safe 1"),
    ("watch", "bedroom livingroom", _SMALL, "sidetable 4 dresser 4 safe 3 drawer 3 coffeetable 3 desk 3 shelf 2"),
)

OBJECTS: Mapping[str, ObjectKind] = MappingProxyType(
    {
        name: ObjectKind(name, tuple(rooms.split()), frozenset(abilities.split()), MappingProxyType(_counted(prior)))
        for name, rooms, abilities, prior in _OBJECTS
    }
    | {
        LAMP: ObjectKind(
            LAMP,
            ("bedroom", "livingroom"),
            frozenset(),
            MappingProxyType(_counted("sidetable 6 desk 5 dresser 3 coffeetable 2 shelf 1")),
            fixed=True,
        )
    }
)

#: the carriable object kinds of each room
ROOM_OBJECTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {room: tuple(o.name for o in OBJECTS.values() if room in o.rooms and not o.fixed) for room in ROOMS}
)


@dataclass(frozen=True, slots=True)
class Goal:
    """What a task asks: do ``family`` to an ``object`` that ends in a ``place`` (both kinds); ``room`` has both."""

    family: str
    object: str
    place: str
    room: str

    @property
    def count(self) -> int:
        """How many objects of the kind are asked for."""
        return 2 if self.family == "two" else 1

    @property
    def sentence(self) -> str:
        """The task as the agent reads it."""
        if self.family == "examine":
            return f"look at {self.object} under the {LAMP}."
        what = {"put": "a", "two": "two", "clean": "a clean", "heat": "a hot", "cool": "a cool"}[self.family]
        return f"put {what} {self.object} {PLACES[self.place].preposition} {self.place}."


def _goals(family: str) -> list[Goal]:
    """Every sensible goal of a family; the place that serves as its tool is never the goal."""
    goals = []
    for room, kinds in ROOMS.items():
        present = {*kinds.required, *kinds.extras}
        if family in TOOLS.values() and not any(TOOLS.get(p) == family for p in kinds.required):
            continue
        for name in ROOM_OBJECTS[room]:
            kind = OBJECTS[name]
            if family != "put" and family not in kind.abilities:
                continue
            if family == "examine":
                goals.append(Goal(family, name, LAMP, room))
            else:
                places = [p for p in kind.prior if p in present and TOOLS.get(p) != family]
                goals += [Goal(family, name, place, room) for place in places]
    return goals


_ALL_GOALS = {family: _goals(family) for family in FAMILIES}
_PAIRS = sorted({(g.place, g.object) for goals in _ALL_GOALS.values() for g in goals})

#: (object, place) pairs that are goals in the ``unseen`` split only
HELD_OUT = frozenset((kind, place) for place, kind in _PAIRS[HELD_OUT_EVERY // 2 :: HELD_OUT_EVERY])
#: goals of train and test, by family
GOALS: Mapping[str, tuple[Goal, ...]] = MappingProxyType(
    {f: tuple(g for g in goals if (g.object, g.place) not in HELD_OUT) for f, goals in _ALL_GOALS.items()}
)
#: goals of unseen, by family
UNSEEN_GOALS: Mapping[str, tuple[Goal, ...]] = MappingProxyType(
    {f: tuple(g for g in goals if (g.object, g.place) in HELD_OUT) for f, goals in _ALL_GOALS.items()}
)
