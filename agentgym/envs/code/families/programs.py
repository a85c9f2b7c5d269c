"""Programs to write: a chain of steps from input to output, judged by hidden inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from agentgym.envs.code.families.strings import WORDS
from agentgym.envs.code.tasks import Draft, Family, choose, whole

TESTS = 5
EMPTY = "empty"


class Step(NamedTuple):
    """One step: as said, as done here on a list, as Python source that changes ``a``."""

    said: str
    done: Callable[[list[Any]], list[Any]]
    source: str


def _keep(rng: np.random.Generator) -> Step:
    k = whole(rng, 2, 7)
    return Step(
        f"remove the numbers that are divisible by {k}",
        lambda a: list(filter(lambda x: x % k, a)),
        f"a = [x for x in a if x % {k} != 0]",
    )


def _above(rng: np.random.Generator) -> Step:
    k = whole(rng, -20, 20)
    return Step(
        f"keep the numbers that are greater than {k}",
        lambda a: list(filter(lambda x: x > k, a)),
        f"a = [x for x in a if x > {k}]",
    )


def _linear(rng: np.random.Generator) -> Step:
    k, c = whole(rng, 2, 9), whole(rng, 1, 20)
    return Step(
        f"multiply each number by {k} and subtract {c}",
        lambda a: [k * x - c for x in a],
        f"a = [x * {k} - {c} for x in a]",
    )


def _rest(rng: np.random.Generator) -> Step:
    k = whole(rng, 5, 40)
    return Step(
        f"replace each number by its remainder modulo {k} (from 0 to {k - 1})",
        lambda a: [x - x // k * k for x in a],
        f"a = [x % {k} for x in a]",
    )


def _partial(rng: np.random.Generator) -> Step:
    def done(a: list[Any]) -> list[Any]:
        return [sum(a[: i + 1]) for i in range(len(a))]

    said = "replace each number by the sum of all numbers up to and including it"
    return Step(said, done, "a = [t := (t + x if i else x) for i, x in enumerate(a)] if a else []")


def _differences(rng: np.random.Generator) -> Step:
    said = "replace the list by the differences of neighbours (the second minus the first, and so on)"
    return Step(said, lambda a: [a[i + 1] - a[i] for i in range(len(a) - 1)], "a = [y - x for x, y in zip(a, a[1:])]")


def _ascending(rng: np.random.Generator) -> Step:
    return Step("sort from the smallest to the greatest", sorted, "a.sort()")


def _backwards(rng: np.random.Generator) -> Step:
    return Step("reverse the order", lambda a: a[::-1], "a.reverse()")


def _distinct(rng: np.random.Generator) -> Step:
    said = "keep only the first of equal ones"
    return Step(said, lambda a: [x for i, x in enumerate(a) if x not in a[:i]], "a = list(dict.fromkeys(a))")


def _every(rng: np.random.Generator) -> Step:
    k = whole(rng, 2, 3)
    said = f"keep the first, and after it every {'second' if k == 2 else 'third'} one"
    return Step(said, lambda a: [x for i, x in enumerate(a) if i % k == 0], f"a = a[::{k}]")


def _short(rng: np.random.Generator) -> Step:
    k = whole(rng, 5, 6)
    return Step(
        f"remove the words with more than {k} letters",
        lambda a: [w for w in a if len(w) <= k],
        f"a = [w for w in a if not len(w) > {k}]",
    )


def _mirror(rng: np.random.Generator) -> Step:
    return Step("write each word backwards", lambda a: ["".join(reversed(w)) for w in a], "a = [w[::-1] for w in a]")


def _without(rng: np.random.Generator) -> Step:
    letter = choose(rng, "aeio")
    return Step(
        f"delete every '{letter}' inside the words, and drop words that become empty",
        lambda a: [w for w in ("".join(c for c in word if c != letter) for word in a) if w],
        f"a = [w.replace('{letter}', '') for w in a]\na = [w for w in a if w]",
    )


def _by_length(rng: np.random.Generator) -> Step:
    return Step(
        "sort by length, words of equal length by the alphabet",
        lambda a: sorted(sorted(a), key=len),
        "a.sort(key=lambda w: (len(w), w))",
    )


def _double(rng: np.random.Generator) -> Step:
    return Step(
        "put behind each word its number of letters",
        lambda a: [f"{w}{len(w)}" for w in a],
        "a = [w + str(len(w)) for w in a]",
    )


_NUMBERS = (_keep, _above, _linear, _rest, _partial, _differences, _ascending, _backwards, _distinct, _every)
_TEXTS = (_short, _mirror, _without, _by_length, _double, _backwards, _distinct, _every)

_NUMBER_ENDS = (
    Step("print their sum", lambda a: [sum(a)], "a = [sum(a)]"),
    Step("print the greatest minus the smallest", lambda a: [sorted(a)[-1] - sorted(a)[0]], "a = [max(a) - min(a)]"),
    Step("print them separated by spaces", list, ""),
    Step("print how many there are", lambda a: [len(a)], "a = [len(a)]"),
)
_TEXT_ENDS = (
    Step("print them separated by spaces", list, ""),
    Step("print the total number of characters", lambda a: [len("".join(a))], "a = [sum(map(len, a))]"),
    Step("print the last in the alphabet", lambda a: sorted(a)[-1:], "a = [max(a)]"),
)


def number_program(rng: np.random.Generator, level: int) -> Draft:
    """A program for lists of integers."""

    def line() -> str:
        return " ".join(str(whole(rng, -50, 99)) for _ in range(whole(rng, 4, 6 + 3 * level)))

    steps = _steps(rng, _NUMBERS, level)
    return _written(rng, "integers", "int", line, [*steps, choose(rng, _NUMBER_ENDS)])


def text_program(rng: np.random.Generator, level: int) -> Draft:
    """A program for lists of words."""

    def line() -> str:
        return " ".join(choose(rng, WORDS) for _ in range(whole(rng, 4, 6 + 3 * level)))

    steps = _steps(rng, _TEXTS, level)
    return _written(rng, "lower-case words", "str", line, [*steps, choose(rng, _TEXT_ENDS)])


def _steps(rng: np.random.Generator, makers: Sequence[Callable[[np.random.Generator], Step]], level: int) -> list[Step]:
    """1 + level of them, no two neighbours of one kind."""
    chosen: list[Callable[[np.random.Generator], Step]] = []
    while len(chosen) < 1 + level:
        maker = choose(rng, makers)
        if not chosen or maker is not chosen[-1]:
            chosen.append(maker)
    return [maker(rng) for maker in chosen]


def _written(rng: np.random.Generator, what: str, kind: str, line: Callable[[], str], steps: Sequence[Step]) -> Draft:
    convert = int if kind == "int" else str
    inputs = [line() for _ in range(TESTS + 1)]

    def output(stdin: str) -> str:
        values: list[Any] = [convert(part) for part in stdin.split()]
        for step in steps[:-1]:
            values = step.done(values)
        return " ".join(map(str, steps[-1].done(values))) if values else EMPTY

    instructions = "\n".join(f"{i}. {step.said}" for i, step in enumerate(steps, 1))
    text = (
        f"Write a Python program. It reads one line of {what} separated by spaces from standard input and does this:\n"
        f"{instructions}\nIf nothing is left before the last step, it prints {EMPTY} instead. Give the program itself "
        f"as the answer; it is judged with hidden inputs.\nExample input:\n{inputs[0]}\nIts output:\n"
        f"{output(inputs[0])}"
    )
    body = "\n".join(step.source for step in steps[:-1])
    end = steps[-1].source or "pass"
    program = (
        f"a = [{kind}(x) for x in input().split()]\nt = 0\n{body}\nif a:\n    {end}\n    print(*a)\nelse:\n"
        f"    print({EMPTY!r})"
    )
    return Draft(text, program, tests=lambda: [(stdin + "\n", output(stdin)) for stdin in inputs[1:]])


FAMILIES: dict[str, Family] = {"number_program": number_program, "text_program": text_program}
