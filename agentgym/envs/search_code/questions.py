"""Questions whose facts stand in the invented encyclopedia and whose answer must be computed from them.

Every question is drawn from one realm of the world, and the realms have no entity in common; so no question of one
split meets a fact of another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from agentgym.env import SPLITS, digest
from agentgym.envs.code.families.dates import day_number
from agentgym.envs.code.tasks import choose, whole
from agentgym.envs.search.questions import Fact
from agentgym.envs.search.world import GENERATIONS, TYPE, TYPES, World
from agentgym.envs.tool_env import Question

MAX_HOPS = GENERATIONS - 3  #: unseen has one more, lists and final years take steps too
_LISTED = tuple(kind for kind in TYPES if kind.members)


class Problem(NamedTuple):
    """A question, its answer, the facts behind it (each after those it builds on), and a program that computes it."""

    text: str
    answer: str
    facts: list[Fact]
    program: str


class Drawing:
    """Draws questions about one realm of a world.

    Args:
        hops: relations to follow before the facts that are computed with.
    """

    def __init__(self, world: World, realm: str, hops: int) -> None:
        self.world, self.realm, self.hops = world, realm, hops

    def entity(self, rng: np.random.Generator, number: int | None = None) -> int:
        """Some entity, of one type or of any."""
        of = number if number is not None else int(rng.integers(len(TYPES)))
        return int(choose(rng, self.world.entities(self.realm, of)))  # type: ignore[arg-type]

    def walk(self, rng: np.random.Generator, hops: int, end: Sequence[int] = ()) -> tuple[str, int, list[Fact]]:
        """How to call an entity by ``hops`` relations from another, the entity, and the facts on the way.

        ``end``: types that the walk may end in; any if empty.
        """
        while True:
            at = self.entity(rng)
            phrase, facts = self.world.name(at), list[Fact]()
            for _ in range(hops):
                links = TYPES[self.world.type[at]].links
                column = int(rng.integers(len(links)))
                following = int(self.world.links[at, column])
                facts.append(Fact(self.world.name(at), links[column][0], self.world.name(following)))
                phrase, at = f"the {links[column][0]} of {phrase}", following
            if not end or self.world.type[at] in end:
                return phrase, at, facts

    def year(self, entity: int) -> Fact:
        """The year that an entity's document gives."""
        return Fact(self.world.name(entity), TYPES[self.world.type[entity]].year, str(self.world.years[entity]))

    def listed(self, rng: np.random.Generator) -> tuple[str, list[Fact], list[int]]:
        """A list of persons by its name, e.g. "the members of the employer of X", the way there, and the persons."""
        phrase, at, facts = self.walk(rng, self.hops, [TYPE[kind.name] for kind in _LISTED])
        relation = TYPES[self.world.type[at]].members
        persons = self.world.members(at)
        names = ", ".join(self.world.name(person) for person in persons)
        return f"the {relation} of {phrase}", [*facts, Fact(self.world.name(at), relation, names)], persons


def days(rng: np.random.Generator, drawing: Drawing) -> Problem:
    """Days from one date to another, whose years must be looked up."""
    (one, a, first), (two, b, second) = drawing.walk(rng, drawing.hops), drawing.walk(rng, drawing.hops)
    years = sorted((drawing.year(a), drawing.year(b)), key=lambda fact: int(fact.value))
    ends = [(whole(rng, 1, 12), whole(rng, 1, 28)) for _ in range(2)]
    said = [
        f"{day:02d}.{month:02d}. of the {drawing.year(e).relation} of {phrase}"
        for (month, day), e, phrase in zip(ends, (a, b), (one, two), strict=True)
    ]
    dates = [(int(drawing.year(e).value), *day) for e, day in zip((a, b), ends, strict=True)]
    gap = abs(day_number(dates[0]) - day_number(dates[1]))
    text = (
        f"How many days lie between {said[0]} and {said[1]} (day.month., Gregorian calendar, "
        "the later date minus the earlier one)?"
    )
    program = f"from datetime import date\nprint(abs((date{dates[0]!r} - date{dates[1]!r}).days))"
    return Problem(text, str(gap), [*first, *second, *years], program)


def squares(rng: np.random.Generator, drawing: Drawing) -> Problem:
    """Sum of the squares of the birth years of the persons on a list."""
    phrase, facts, persons = drawing.listed(rng)
    years = [int(drawing.world.years[person]) for person in persons]
    modulus = whole(rng, 101, 997)
    text = f"Take the birth years of {phrase}. What is the sum of their squares modulo {modulus}?"
    result = 0
    for year in years:
        result = (result + year * year) % modulus
    program = f"print(sum(y * y for y in {years!r}) % {modulus})"
    return Problem(text, str(result), [*facts, *map(drawing.year, persons)], program)


def product(rng: np.random.Generator, drawing: Drawing) -> Problem:
    """Some birth years of a list added up, times another year."""
    phrase, facts, persons = drawing.listed(rng)
    other, at, way = drawing.walk(rng, drawing.hops)
    limit, divisor = drawing.year(at), whole(rng, 2, 3)
    years = [int(drawing.world.years[person]) for person in persons]
    text = (
        f"Add up the birth years of those of {phrase} who were born in a year that is not divisible by {divisor}, "
        f"and multiply the sum by the {limit.relation} of {other}. What is the result?"
    )
    kept = [year for year in years if year % divisor]
    program = f"years = {years!r}\nprint(sum(y for y in years if y % {divisor}) * {limit.value})"
    return Problem(text, str(sum(kept) * int(limit.value)), [*facts, *way, *map(drawing.year, persons), limit], program)


def power(rng: np.random.Generator, drawing: Drawing) -> Problem:
    """A looked-up year to the power of another, reduced."""
    (one, a, first), (two, b, second) = drawing.walk(rng, drawing.hops), drawing.walk(rng, drawing.hops)
    facts = [drawing.year(a), drawing.year(b)]
    x, y = (int(fact.value) for fact in facts)
    modulus = whole(rng, 1009, 9973)
    text = (
        f"What is x to the power of y modulo {modulus}, where x is the {facts[0].relation} of {one} and "
        f"y is the {facts[1].relation} of {two}?"
    )
    result = 1
    for _ in range(y):
        result = result * x % modulus
    return Problem(text, str(result), [*first, *second, *facts], f"print(pow({x}, {y}, {modulus}))")


#: Every kind of question by its name.
KINDS = {"days": days, "squares": squares, "product": product, "power": power}


def draw(rng: np.random.Generator, split: str, world: World, kinds: Sequence[str], hops: Sequence[int]) -> Question:
    """A question about the split's realm; ``unseen`` follows one relation more."""
    kind = choose(rng, kinds)
    steps = choose(rng, hops) + (split == SPLITS[-1])
    problem = KINDS[kind](rng, Drawing(world, split, steps))
    evidence = tuple(dict.fromkeys(fact.subject for fact in problem.facts))
    data = {"facts": [list(fact) for fact in problem.facts], "program": problem.program, "family": kind, "level": steps}
    return Question(problem.text, (problem.answer,), evidence, f"{split}-{kind}-{steps}-{digest(problem.text)}", data)
