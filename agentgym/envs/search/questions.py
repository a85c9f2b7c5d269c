"""Questions about the invented world, with their answers, evidence and the facts that lead there.

A task is a number: the questions of one kind and number of hops form one arithmetic sequence of (path, start), so any
of them is made on its own, no list is kept, and no two tasks are the same question.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from agentgym.envs.search.world import GENERATIONS, MAX_FACTS, TYPE, TYPES, World
from agentgym.envs.tool_env import Question
from agentgym.errors import UnknownName, UsageError

KINDS = ("chain", "comparison", "count")
MAX_HOPS = GENERATIONS - 2  # unseen has one hop more
NUMBER_WORDS = ("zero", "one", "two", "three", "four")


class Fact(NamedTuple):
    """What one document says: ``subject``'s ``relation`` is ``value``; the document's id is ``subject``."""

    subject: str
    relation: str
    value: str


def question_from_facts(name: str, text: str, answers: Sequence[str], facts: Sequence[Fact]) -> Question:
    """The question that these facts answer; ``data["facts"]`` holds them, each after those it builds on."""
    evidence = tuple(dict.fromkeys(fact.subject for fact in facts))
    return Question(text, tuple(answers), evidence, name, {"facts": [list(fact) for fact in facts]})


class Path(NamedTuple):
    """Relations to follow from an entity of type ``start``; the last may lead to a year (column -1)."""

    start: int
    columns: tuple[int, ...]
    relations: tuple[str, ...]
    end: int | None  #: type of the entity at its end, None for a year


class Sheet:
    """All questions of one realm, one kind and one number of hops."""

    def __init__(self, world: World, realm: str, kind: str, hops: int) -> None:
        self._world, self._realm, self._kind, self._hops = world, realm, kind, hops
        self._paths = _usable(kind, hops, world.facts)
        sizes = [len(world.entities(realm, path.start)) for path in self._paths]
        self._begins = np.cumsum([0, *sizes[:-1]])  # where each path's questions begin
        self.count = sum(sizes)
        # Steps of the golden section: neighbouring tasks are far apart, and every question comes once.
        self._step = next(
            s for s in range(int(self.count * 0.618) + 1, 2 * self.count + 2) if math.gcd(s, self.count) == 1
        )

    def question(self, task: int) -> Question:
        """The question of that number, 0 to ``count - 1``."""
        place = task * self._step % self.count
        number = int(np.searchsorted(self._begins, place, side="right")) - 1
        path = self._paths[number]
        entity = int(self._world.entities(self._realm, path.start)[place - int(self._begins[number])])
        name = f"{self._realm}-{self._kind}-{self._hops}-{task}"
        if self._kind == "chain":
            return self._chain(name, path, entity)
        if self._kind == "count":
            return self._counted(name, path, entity)
        return self._compared(name, path, entity)

    def _chain(self, name: str, path: Path, entity: int) -> Question:
        facts, _, answers = self._follow(path, entity)
        who = "Who" if path.end == TYPE["person"] else "What"
        text = f"{who} is {_phrase(path.relations, facts[0].subject)}?"
        return question_from_facts(name, text, answers, facts)

    def _counted(self, name: str, path: Path, entity: int) -> Question:
        facts, end, _ = self._follow(path, entity)
        relation = TYPES[self._world.type[end]].members
        size = len(self._world.members(end))
        last = Fact(self._world.name(end), relation, NUMBER_WORDS[size])
        text = f"How many {relation} does {_phrase(path.relations, self._world.name(entity))} have?"
        return question_from_facts(name, text, (NUMBER_WORDS[size], str(size)), (*facts, last))

    def _compared(self, name: str, path: Path, entity: int) -> Question:
        """The entity and the next one of its type that ends elsewhere, in another year."""
        world = self._world
        facts, end, _ = self._follow(path, entity)
        for other in self._others(path, entity):
            more, rival, _ = self._follow(path, other)
            if world.years[rival] != world.years[end] and (not facts or {end, rival}.isdisjoint((entity, other))):
                break
        else:
            raise LookupError(f"nothing to compare {world.name(entity)!r} with")
        year = TYPES[world.type[end]].year
        dated = [Fact(world.name(e), year, str(world.years[e])) for e in (end, rival)]
        first = end if world.years[end] < world.years[rival] else rival
        sides = [_phrase(path.relations, world.name(e)) for e in (entity, other)]
        if path.columns:
            who = "Who" if path.end == TYPE["person"] else "Which"
            text = f"{who} has the earlier {year}, {sides[0]} or {sides[1]}?"
            answers = world.names(first)
        else:
            text = f"What is the earlier {year}, that of {sides[0]} or that of {sides[1]}?"
            answers = (str(world.years[first]),)
        return question_from_facts(name, text, answers, (*facts, dated[0], *more, dated[1]))

    def _others(self, path: Path, entity: int) -> Iterator[int]:
        """The other entities of the path's first type, those that follow this one first."""
        starts = self._world.entities(self._realm, path.start)
        place = int(np.searchsorted(starts, entity))
        return (int(starts[(place + i) % len(starts)]) for i in range(1, len(starts)))

    def _follow(self, path: Path, entity: int) -> tuple[tuple[Fact, ...], int, tuple[str, ...]]:
        """The facts on the way, the last entity, and the accepted names of the last value."""
        world, facts = self._world, []
        answers = world.names(entity)
        for column, relation in zip(path.columns, path.relations, strict=True):
            subject = world.name(entity)
            if column < 0:
                answers = (str(world.years[entity]),)
            else:
                entity = int(world.links[entity, column])
                answers = world.names(entity)
            facts.append(Fact(subject, relation, answers[0]))
        return tuple(facts), entity, answers


class Catalogue:
    """The tasks of one split: kinds and numbers of hops in turn, as many of each.

    Args:
        realm: the split; ``unseen`` asks for one hop more.
        hops: facts that the longest line of reasoning of a question has, each 1 to 4.
        kinds: ``"chain"`` (the teacher of the author of ...), ``"comparison"`` (who is
            earlier), ``"count"`` (how many).
    """

    def __init__(self, world: World, realm: str, *, hops: Sequence[int], kinds: Sequence[str]) -> None:
        for kind in kinds:
            if kind not in KINDS:
                raise UnknownName("kind of question", kind, KINDS)
        if not hops or not kinds or not all(1 <= h <= MAX_HOPS for h in hops):
            raise UsageError(
                f"hops must be 1 to {MAX_HOPS} and there must be a kind, got {list(hops)} and {list(kinds)}"
            )
        if world.facts < MAX_FACTS and set(kinds) != {"chain"}:
            raise UsageError(f"comparisons and counts need documents with all facts, got facts={world.facts}")
        more = 1 if realm == "unseen" else 0
        self._sheets = [
            Sheet(world, realm, kind, h + more) for h in dict.fromkeys(hops) for kind in dict.fromkeys(kinds)
        ]
        self.count = len(self._sheets) * min(sheet.count for sheet in self._sheets)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, task: int) -> Question:
        if not 0 <= task < self.count:
            raise UsageError(f"task must be 0 to {self.count - 1}, got {task}")
        return self._sheets[task % len(self._sheets)].question(task // len(self._sheets))


@functools.cache
def _usable(kind: str, hops: int, facts: int) -> list[Path]:
    """The paths that questions of this kind start with; one step shorter where a last fact follows."""
    if kind == "chain":
        return _paths(hops, facts, with_years=True)
    shorter = _paths(hops - 1, facts, with_years=False)
    return [path for path in shorter if path.end is not None and (kind == "comparison" or TYPES[path.end].members)]


def _paths(length: int, facts: int, *, with_years: bool) -> list[Path]:
    """All paths over the first ``facts`` facts of each document."""
    paths = [Path(number, (), (), number) for number in range(len(TYPES))]
    for step in range(length):
        longer = []
        for path in paths:
            assert path.end is not None
            kind = TYPES[path.end]
            for column, (relation, target) in enumerate(kind.links[:facts]):
                longer.append(Path(path.start, (*path.columns, column), (*path.relations, relation), TYPE[target]))
            if with_years and step == length - 1 and len(kind.links) < facts:
                longer.append(Path(path.start, (*path.columns, -1), (*path.relations, kind.year), None))
        paths = longer
    return paths


def _phrase(relations: Sequence[str], name: str) -> str:
    return "".join(f"the {relation} of " for relation in reversed(relations)) + name
