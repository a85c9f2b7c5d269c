"""Tasks of `reasoning-gym <https://github.com/open-thought/reasoning-gym>`_, if it is installed.

Its generators make the tasks and its verifiers score the answers, in separate processes that are ended after a few
seconds (:mod:`agentgym.envs.code.verifier_client`). Several of these verifiers pass the answer to ``eval`` or to
SymPy's parser, which evaluates too. Such a verifier only gets an answer that is a literal or plain arithmetic. Two
generators are not offered, because their verifiers accept almost anything (:data:`UNSOUND`).
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from agentgym.envs.code.tasks import side
from agentgym.envs.code.verifier_client import ask
from agentgym.envs.tool_env import Question
from agentgym.errors import MissingExtra, UnknownName, UsageError

PREFIX = "reasoning-gym:"
SUCCESS = 0.99  #: a verifier's score from which an answer counts as right; they give 1, or parts of it
MAX_ANSWER = 4000  #: characters
#: Generators whose verifiers accept almost anything, and what they accept.
UNSOUND = {
    "coin_flip": "'0' for every probability below 1: a number that the right one begins with is right",
    "game_of_life_halting": "every text: it asks whether there is any",
}
_SIZE = 10_000_000  #: tasks of each generator
_TRIES = 500

_EVALUATING = frozenset({"eval", "exec", "parse_expr", "sympify", "S"})
_WORDS = re.compile(r"[A-Za-z0-9_ .#-]{0,100}")
_NAMES = r"(?:sin|cos|tan|exp|log|sqrt|asin|acos|atan|sinh|cosh|tanh|[A-Za-z])"
_POWER = r"\*\*\s*(?:\d{1,2}(?!\d)|\(\s*\d{1,2}\s*(?:/\s*\d{1,2}\s*)?\))(?!\s*\*\*)"
_ARITHMETIC = re.compile(rf"(?:\d{{1,12}}(?:\.\d{{1,12}})?(?![\w.])|{_NAMES}(?![\w.])|{_POWER}|\*(?!\*)|[-+/()=\s])*")


def names_of(source: str) -> list[str]:
    """The generators that ``reasoning-gym:NAME,NAME`` names.

    Raises:
        MissingExtra: reasoning-gym is not installed.
        UnknownName: it has no such generator.
        UsageError: no generator is named, or one whose verifier accepts almost anything.
    """
    known = [name for name in _factory().DATASETS if name not in UNSOUND]
    names = [name.strip() for name in source.removeprefix(PREFIX).split(",") if name.strip()]
    for name in names:
        if name in UNSOUND:
            raise UsageError(
                f"reasoning-gym's {name!r} is not offered, as its verifier accepts {UNSOUND[name]}; name another one"
            )
        if name not in known:
            raise UnknownName("reasoning-gym generator", name, known)
    if not names:
        raise UsageError("name a generator, e.g. 'reasoning-gym:chain_sum'; known: " + ", ".join(sorted(known)))
    return names


def draw(rng: np.random.Generator, split: str, names: Sequence[str]) -> Question:
    """A task of that split; as for our own families the task's own text decides on which side it is."""
    name = names[int(rng.integers(len(names)))]
    for _ in range(_TRIES):
        index = int(rng.integers(_SIZE))
        entry = dataset(name)[index]
        if side(entry["question"], {}) == split:
            answer = entry["answer"]
            return Question(
                entry["question"],
                () if answer is None else (str(answer),),
                id=f"{name}-{index}",
                data={"family": name, "reasoning_gym": {"name": name, "index": index}},
            )
    raise UsageError(f"reasoning-gym's {name!r} has no task in split {split!r}; it knows too few different ones")


def score(answer: str, task: dict[str, Any]) -> float:
    """What the generator's verifier says, 0 to 1; 0 for an answer that it cannot be trusted with."""
    if len(answer) > MAX_ANSWER:
        return 0.0
    if evaluates(task["name"]) and not harmless(answer):
        return 0.0
    reply = ask({"kind": "reasoning_gym", "answer": answer, **task})
    return float(reply) if isinstance(reply, (int, float)) else 0.0


def verified(answer: str, name: str, index: int) -> float:
    """The verifier itself; what it raises over an odd answer counts as wrong."""
    generator = dataset(name)
    try:
        value = float(generator.score_answer(answer, generator[index]))
    except Exception:
        return 0.0
    return min(max(value, 0.0), 1.0) if value == value else 0.0


def harmless(answer: str) -> bool:
    """Whether evaluating the answer can do no more than compute: a literal, or arithmetic with small powers.

    Strings in a literal are plain words, because SymPy evaluates a string that an evaluation gave once more.
    """
    if _ARITHMETIC.fullmatch(answer):
        return True
    try:
        return _plain(ast.literal_eval(answer))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return False


def _plain(value: object) -> bool:
    if isinstance(value, (list, tuple, set)):
        return all(map(_plain, value))
    if isinstance(value, dict):
        return all(map(_plain, value)) and all(map(_plain, value.values()))
    if isinstance(value, str):
        return _WORDS.fullmatch(value) is not None
    return value is None or isinstance(value, (bool, int, float))


@functools.lru_cache(maxsize=256)
def evaluates(name: str) -> bool:
    """Whether the verifier, or a function of its module that it names, evaluates text; read from the source."""
    module = sys.modules[_factory().DATASETS[name][0].__module__]
    functions: dict[str, list[ast.AST]] = {}
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.FunctionDef):
            functions.setdefault(node.name, []).append(node)
    open_, seen = ["score_answer"], set[str]()
    while open_:
        function = open_.pop()
        seen.add(function)
        for node in (inner for body in functions.get(function, ()) for inner in ast.walk(body)):
            named = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
            if named in functions:
                open_ += [named] if named not in seen else []
            elif named in _EVALUATING:
                return True
    return False


@functools.lru_cache(maxsize=256)
def dataset(name: str) -> Any:  # reasoning-gym has no types
    """The generator with its own settings."""
    return _factory().create_dataset(name, seed=1, size=_SIZE)


def _factory() -> Any:
    try:
        from reasoning_gym import factory  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise MissingExtra("reasoning_gym", "reasoning") from error
    return factory
