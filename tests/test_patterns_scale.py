"""Every pattern of the package takes time linear in the text: found by themselves, attacked with what they are made of.

Nothing is timed. A quadratic pattern needs minutes for one of these texts, and the suite's time limit ends it.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import agentgym
from agentgym.envs.code.scoring import equal
from agentgym.envs.search.scoring import f1
from agentgym.models.contexts import workspace
from agentgym.policy import Request
from agentgym.records import Turn
from agentgym.tools.python.tool import unfenced
from agentgym.tools.syntax import make_syntax, syntaxes

ROOT = Path(agentgym.__file__).parent
LENGTH = 60_000
#: what users, and no model, write: docstrings, options
OURS = {"agentgym.tools.schema._ENTRY", "agentgym.trainers.expressions._QUALIFIED"}


def _patterns() -> Iterator[tuple[str, re.Pattern[str]]]:
    for module in pkgutil.walk_packages(agentgym.__path__, "agentgym."):
        if module.name.endswith("__main__") or ".inside." in module.name:
            continue
        try:
            found = importlib.import_module(module.name)
        except ImportError:  # an extra that is not installed
            continue
        for name, value in vars(found).items():
            listed = value if isinstance(value, tuple) else (value,)
            holder = vars(value).values() if isinstance(value, type) and value.__module__ == module.name else ()
            inner = [v for held in holder for v in (held if isinstance(held, tuple) else (held,))]
            for pattern in (*listed, *inner):
                if isinstance(pattern, re.Pattern) and isinstance(pattern.pattern, str):
                    yield f"{module.name}.{name}", pattern


PATTERNS = {pattern: name for name, pattern in _patterns() if name not in OURS}


@functools.cache
def _source() -> str:
    return "".join(path.read_text() for path in ROOT.rglob("*.py"))


def _operations(name: str) -> set[str]:
    """How it is used; `search`, the dearest, where that cannot be seen."""
    short = name.rpartition(".")[2]
    found = set(re.findall(rf"\b{short}\.(match|fullmatch|search|sub|findall|finditer|split)\(", _source()))
    return {"search" if op in ("sub", "findall", "finditer", "split") else op for op in found} or {"search"}


def _atoms(parsed: Any) -> Iterator[str]:
    """Pieces of what it matches: runs of letters, and one member of each set."""
    run = ""
    for code, value in parsed:
        name = str(code)
        if name == "LITERAL":
            run += chr(value)
            continue
        if run:
            yield run
            run = ""
        if name == "IN":
            for kind, item in value:
                sign = str(kind)
                if sign in ("LITERAL", "RANGE"):
                    yield chr(item if sign == "LITERAL" else item[0])
                else:
                    yield {"CATEGORY_DIGIT": "1", "CATEGORY_SPACE": " "}.get(str(item), "a")
        elif name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            yield from _atoms(value[2])
        elif name == "SUBPATTERN":
            yield from _atoms(value[3])
        elif name in ("ASSERT", "ASSERT_NOT"):
            yield from _atoms(value[1])
        elif name == "ATOMIC_GROUP":
            yield from _atoms(value)
        elif name == "BRANCH":
            for branch in value[1]:
                yield from _atoms(branch)
    if run:
        yield run


def attacks(pieces: list[str]) -> Iterator[str]:
    for first, second in itertools.product(["", *pieces], pieces):
        yield first + second * (LENGTH // len(second)) + "\x01"
        if first != second:
            yield (first + second) * (LENGTH // len(first + second))


@pytest.mark.timeout(90)
@pytest.mark.parametrize("pattern", PATTERNS, ids=PATTERNS.values())
def test_a_pattern_takes_linear_time(pattern: re.Pattern[str]) -> None:
    parsed = importlib.import_module("re._parser").parse(pattern.pattern, pattern.flags)
    pieces = list(dict.fromkeys([" ", *_atoms(parsed), "\n", "1", "a"]))[:8]
    operations = [getattr(pattern, operation) for operation in _operations(PATTERNS[pattern])]
    for text in attacks(pieces):
        for operation in operations:
            operation(text)


MARKUP = [
    *(
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "<tool_call>",
        "</tool_call>",
        "<search>",
        "<report>",
        "</report>",
    ),
    *(
        "Action:",
        "Action Input:",
        "Observation:",
        "\n",
        " ",
        "{",
        "[",
        '"',
        "```",
        "```\n",
        "\\boxed{",
        "\\frac{1}{",
        "}",
    ),
    *("-", "$", "1", "1 ", "½", "^", "<"),
]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", syntaxes())
def test_a_syntax_reads_in_linear_time(name: str) -> None:
    syntax = make_syntax(name)
    for piece in MARKUP:
        for text in (piece * (LENGTH // len(piece)), "<think>" + piece * (LENGTH // len(piece)) + "x"):
            syntax.parse(text)


@pytest.mark.timeout(240)
def test_what_else_reads_a_models_text() -> None:
    context = workspace()

    class Chat:
        def opening(self, instructions: str, observation: str) -> list[int]:
            return [len(observation)]

    for first, piece in itertools.product(["", "```\n", "1", "<report>"], MARKUP):
        text = first + piece * (LENGTH // len(piece)) + "x"
        unfenced(text)
        context(Chat(), Request("e", 0, "o", {}, [Turn("o", text)]), [])  # type: ignore[arg-type]
        f1(text, ["5"])
        equal(text, "5")


@pytest.mark.parametrize(
    ("code", "bare"),
    [
        ("```python\nx = 1\n```", "x = 1"),
        ("  ```\nx\n\n```  \n", "x\n"),
        ("```py \nx```", "x"),
        ("```\n```", ""),
        ("```\nx\n  ```", "x"),
        ("```\na\n```\nb\n```", "a\n```\nb"),
        ("```py```", "```py```"),
        ("``` a b\nx\n```", "``` a b\nx\n```"),
        ("x\n```", "x\n```"),
        ("```\nx", "```\nx"),
        ("```", "```"),
        ("``````", "``````"),
        ("", ""),
    ],
)
def test_fences(code: str, bare: str) -> None:
    assert unfenced(code) == bare


@pytest.mark.parametrize(
    ("actions", "report", "shown"),
    [
        (["<report>a</report>go"], "a", "go"),
        (["<report>a</report>x<report> b </report>y"], "b", "xy"),
        (["<report>a</report>", "<report>no end"], "a", "<report>no end"),
        (["no report"], "nothing yet", "no report"),
        (["</report><report>a</report>"], "a", "</report>"),
        (["<report><report>a</report></report>"], "<report>a", "</report>"),
    ],
)
def test_reports(actions: list[str], report: str, shown: str) -> None:
    seen: list[str] = []

    class Chat:
        def opening(self, instructions: str, observation: str) -> list[int]:
            seen.append(observation)
            return []

    request = Request("e", 0, "now", {}, [Turn("task", action) for action in actions])
    workspace()(Chat(), request, [])  # type: ignore[arg-type]
    assert seen == [f"task\n[report] {report}\n[action] {shown}\n[result] now"]
