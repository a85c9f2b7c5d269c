"""An invented world and its encyclopedia: one short document for each person, place, work, organisation and event.

Everything follows from (documents, seed). The world consists of three *realms*, one for each split, between which there
are no links: a question of one split meets no entity of another. Inside a realm every entity belongs to a *generation*
and its links lead to the next one, so a path of fewer steps than there are generations never returns to where it was.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from agentgym.env import SPLITS
from agentgym.errors import UsageError
from agentgym.tools.search import Bm25Index, Passage

GENERATIONS: Final = 6
SHARES: Final = {"train": 0.70, "test": 0.15, "unseen": 0.15}  #: of the entities, by realm
MIN_DOCUMENTS: Final = 400
MAX_DOCUMENTS: Final = 1_000_000
YEARS: Final = (200, 400)
ALIAS_SHARE: Final = 0.2
MAX_LIST: Final = 4
MAX_FACTS: Final = 4


class Type(NamedTuple):
    """What the encyclopedia says about one type of entity; every entity of the type has every relation."""

    name: str
    share: float  #: of all entities
    kinds: tuple[str, ...]  #: what it is called, drawn at random
    links: tuple[tuple[str, str], ...]  #: relation, type of its value
    year: str  #: relation whose value is a year
    members: str = ""  #: relation whose value is a list of persons


TYPES: Final = (
    Type(
        "person",
        0.4,
        ("painter", "poet", "sailor", "baker"),
        (("birthplace", "place"), ("teacher", "person"), ("employer", "organisation")),
        "birth year",
    ),
    Type("place", 0.15, ("town", "port", "village"), (("mayor", "person"), ("neighbour", "place")), "charter year"),
    Type(
        "work", 0.15, ("novel", "song", "play"), (("author", "person"), ("publisher", "organisation")), "release year"
    ),
    Type(
        "organisation",
        0.15,
        ("guild", "school", "bank"),
        (("founder", "person"), ("seat", "place")),
        "founding year",
        "members",
    ),
    Type("event", 0.15, ("fair", "race", "siege"), (("venue", "place"), ("winner", "person")), "event year", "guests"),
)
TYPE: Final = {kind.name: number for number, kind in enumerate(TYPES)}


class World(Sequence[Passage]):
    """The encyclopedia as a sequence of passages, written when they are asked for.

    Args:
        documents: how many, 400 to 1,000,000.
        seed: another seed, another world.
        facts: how many facts a document states at most: its type's links first, then its year, then its list.

    Attributes:
        words: the first words of names, and the second; any of the one with any of the other may be a name.
    """

    def __init__(self, documents: int = 1000, seed: int = 0, facts: int = MAX_FACTS) -> None:
        if not MIN_DOCUMENTS <= documents <= MAX_DOCUMENTS:
            raise UsageError(f"documents must be {MIN_DOCUMENTS} to {MAX_DOCUMENTS}, got {documents!r}")
        if not 1 <= facts <= MAX_FACTS:
            raise UsageError(f"facts must be 1 to {MAX_FACTS}, got {facts!r}")
        self.documents, self.seed, self.facts = documents, seed, facts
        rng = np.random.default_rng([seed, documents])
        self.type, self.cells = _layout(documents)  # [n], {(realm, generation, type): range of entities}
        self._entities = {
            (realm, number): np.concatenate([np.arange(c.start, c.stop) for c in self._column(realm, number)])
            for realm in SPLITS
            for number in range(len(TYPES))
        }
        self.links = self._draw_links(rng)  # [n, 3], -1 where the type has fewer
        self.years = rng.integers(*YEARS, documents)  # [n]
        self._kinds = rng.integers(0, 12, documents)
        self._lists = rng.integers(1, MAX_LIST + 1, documents)
        self._list_seed = rng.integers(0, 2**31, documents)
        self._name(rng)

    def _column(self, realm: str, number: int) -> list[range]:
        return [self.cells[realm, generation, number] for generation in range(GENERATIONS)]

    def _name(self, rng: np.random.Generator) -> None:
        aliased = rng.random(self.documents) < ALIAS_SHARE
        count = self.documents + int(aliased.sum())
        size = math.isqrt(3 * count) + 1
        words = _words(2 * size, rng)
        self.words = tuple(words[:size]), tuple(words[size:])
        pairs = rng.choice(size * size, count, replace=False)
        self._names = pairs[: self.documents]
        self._aliases = np.full(self.documents, -1)
        self._aliases[aliased] = pairs[self.documents :]

    def _draw_links(self, rng: np.random.Generator) -> NDArray[np.int32]:
        links = np.full((self.documents, max(len(kind.links) for kind in TYPES)), -1, dtype=np.int32)
        for (realm, generation, number), cell in self.cells.items():
            for column, (_, target) in enumerate(TYPES[number].links):
                goal = self.cells[realm, (generation + 1) % GENERATIONS, TYPE[target]]
                links[cell.start : cell.stop, column] = rng.integers(goal.start, goal.stop, len(cell))
        return links

    def __len__(self) -> int:
        return self.documents

    @overload
    def __getitem__(self, number: int) -> Passage: ...
    @overload
    def __getitem__(self, number: slice) -> list[Passage]: ...
    def __getitem__(self, number: int | slice) -> Passage | list[Passage]:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(self.documents))]
        if not 0 <= number < self.documents:
            raise IndexError(number)
        name = self.name(number)
        return Passage(name, name, self._text(number, name))

    def __iter__(self) -> Iterator[Passage]:
        return (self[number] for number in range(self.documents))

    def name(self, entity: int) -> str:
        """The name of an entity, which is also its document's id."""
        return self._pair(int(self._names[entity]))

    def names(self, entity: int) -> tuple[str, ...]:
        """All names of an entity, the usual one first."""
        alias = int(self._aliases[entity])
        return (self.name(entity),) if alias < 0 else (self.name(entity), self._pair(alias))

    def entities(self, realm: str, number: int) -> NDArray[np.int64]:
        """All entities of one type in a realm, in ascending order."""
        return self._entities[realm, number]

    def members(self, entity: int) -> list[int]:
        """The persons on the list of an organisation or event."""
        rng = np.random.default_rng(int(self._list_seed[entity]))
        realm, generation = self.home(entity)
        cell = self.cells[realm, (generation + 1) % GENERATIONS, TYPE["person"]]
        size = min(int(self._lists[entity]), len(cell))
        return [int(person) for person in rng.choice(len(cell), size, replace=False) + cell.start]

    def home(self, entity: int) -> tuple[str, int]:
        """Realm and generation of an entity."""
        for (realm, generation, _), cell in self.cells.items():
            if entity in cell:
                return realm, generation
        raise IndexError(entity)

    def _pair(self, pair: int) -> str:
        first, second = self.words
        return f"{first[pair // len(second)]} {second[pair % len(second)]}"

    def _text(self, entity: int, name: str) -> str:
        kind = TYPES[self.type[entity]]
        alias = "".join(f", also called {other}," for other in self.names(entity)[1:])
        what = kind.kinds[self._kinds[entity] % len(kind.kinds)]
        facts = [
            f"the {relation} is {self.name(int(self.links[entity, i]))}" for i, (relation, _) in enumerate(kind.links)
        ]
        facts.append(f"the {kind.year} is {self.years[entity]}")
        if kind.members:
            facts.append(f"the {kind.members} are {_listed([self.name(person) for person in self.members(entity)])}")
        return f"{name}{alias} is a {what}. {_sentence(facts[: self.facts])}."


@functools.lru_cache(maxsize=4)
def shared_world(documents: int, seed: int, facts: int = MAX_FACTS) -> tuple[World, Bm25Index]:
    """The world and its index, one of each for all environments of this process."""
    world = World(documents, seed, facts)
    # Small encyclopedias are kept as text; large ones write a passage when it is found.
    return world, Bm25Index.of(list(world) if documents <= 20_000 else world)


def _layout(documents: int) -> tuple[NDArray[np.int8], dict[tuple[str, int, int], range]]:
    """Entities in contiguous cells of one realm, generation and type; at least two in each."""
    cells: dict[tuple[str, int, int], range] = {}
    types = np.zeros(documents, dtype=np.int8)
    start = 0
    for realm in SPLITS:
        size = documents - start if realm == SPLITS[-1] else int(documents * SHARES[realm])
        for generation in range(GENERATIONS):
            here = size // GENERATIONS + (generation < size % GENERATIONS)
            counts = [max(2, int(here * kind.share)) for kind in TYPES]
            counts[0] += here - sum(counts)
            for number, count in enumerate(counts):
                cells[realm, generation, number] = range(start, start + count)
                types[start : start + count] = number
                start += count
    return types, cells


ONSETS: Final = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z")
VOWELS: Final = ("a", "e", "i", "o", "u")
CODAS: Final = ("", "", "n", "r", "l", "s")


def _words(count: int, rng: np.random.Generator) -> list[str]:
    """Distinct invented words of two syllables, none of which the encyclopedia uses otherwise."""
    used = {word for kind in TYPES for word in (*kind.kinds, *(name for name, _ in kind.links), kind.members)}
    words: dict[str, None] = {}
    while len(words) < count:
        a, b = (ONSETS[i] for i in rng.integers(0, len(ONSETS), 2))
        x, y = (VOWELS[i] for i in rng.integers(0, len(VOWELS), 2))
        word = f"{a}{x}{b}{y}{CODAS[rng.integers(0, len(CODAS))]}"
        if word not in used:
            words[word.capitalize()] = None
    return list(words)


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _sentence(facts: list[str]) -> str:
    text = _listed(facts) if len(facts) > 1 else facts[0]
    return text[0].upper() + text[1:]
