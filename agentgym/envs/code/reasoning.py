"""Tasks of `reasoning-gym <https://github.com/open-thought/reasoning-gym>`_, if it is installed.

Its generators make the tasks and its verifiers score the answers. Several of these verifiers pass the answer to
``eval`` or to SymPy's parser, which evaluates too. Such a verifier is only shown an answer that is a literal or plain
arithmetic, and only in a process of its own that is given up after a few seconds (:mod:`agentgym.envs.code.verifier`).
"""

from __future__ import annotations

import ast
import functools
import inspect
import json
import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from agentgym.envs.code.tasks import side
from agentgym.envs.code.verifier import ask
from agentgym.envs.tool_env import Question
from agentgym.errors import MissingExtra, UnknownName, UsageError

PREFIX = "reasoning-gym:"
SUCCESS = 0.99  #: a verifier's score from which an answer counts as right; they give 1, or parts of it
MAX_ANSWER = 4000  #: characters
_SIZE = 10_000_000  #: tasks of each generator
_TRIES = 500

_EVALUATING = frozenset({"eval", "exec", "parse_expr", "sympify", "S"})
_NAMES = r"(?:sin|cos|tan|exp|log|sqrt|asin|acos|atan|sinh|cosh|tanh|[A-Za-z])"
_POWER = r"\*\*\s*(?:\d{1,2}|\(\s*\d{1,2}\s*(?:/\s*\d{1,2}\s*)?\))(?!\s*\*\*)"
_ARITHMETIC = re.compile(rf"(?:\d{{1,12}}(?:\.\d{{1,12}})?(?![\w.])|{_NAMES}(?![\w.])|{_POWER}|\*(?!\*)|[-+/()=\s])*")


def names_of(source: str) -> list[str]:
    """The generators that ``reasoning-gym:NAME,NAME`` names.

    Raises:
        MissingExtra: reasoning-gym is not installed.
        UnknownName: it has no such generator.
    """
    known = _factory().DATASETS
    names = [name.strip() for name in source.removeprefix(PREFIX).split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise UnknownName("reasoning-gym generator", name, known)
    if not names:
        raise UsageError("name a generator, e.g. 'reasoning-gym:chain_sum'; known: " + ", ".join(sorted(known)))
    return names


def draw(rng: np.random.Generator, split: str, names: Sequence[str]) -> Question:
    """A task of that split; as for our own families the task's own text decides on which side it is."""
    name = names[int(rng.integers(len(names)))]
    harder = split == "unseen"
    for _ in range(_TRIES):
        index = int(rng.integers(_SIZE))
        entry = dataset(name, harder)[index]
        if side(entry["question"], {}) == split:
            answer = entry["answer"]
            task = {"name": name, "harder": harder, "index": index}
            return Question(
                entry["question"],
                () if answer is None else (str(answer),),
                id=f"{name}-{index}{'-harder' if harder else ''}",
                data={"family": name, "reasoning_gym": task},
            )
    raise UsageError(f"reasoning-gym's {name!r} has no task in split {split!r}; it knows too few different ones")


def score(answer: str, task: dict[str, Any]) -> float:
    """What the generator's verifier says, 0 to 1; 0 for an answer that it cannot be trusted with."""
    if len(answer) > MAX_ANSWER:
        return 0.0
    if not evaluates(task["name"]):
        return verified(answer, **task)
    if not harmless(answer):
        return 0.0
    reply = ask({"kind": "reasoning_gym", "answer": answer, **task})
    return float(reply) if isinstance(reply, (int, float)) else 0.0


def verified(answer: str, name: str, harder: bool, index: int) -> float:
    """The verifier itself; what it raises over an odd answer counts as wrong."""
    made = dataset(name, harder)
    try:
        value = float(made.score_answer(answer, made[index]))
    except Exception:
        return 0.0
    return min(max(value, 0.0), 1.0) if value == value else 0.0


def harmless(answer: str) -> bool:
    """Whether evaluating the answer can do no more than compute: a literal, or arithmetic with small powers."""
    if _ARITHMETIC.fullmatch(answer):
        return True
    for read in (ast.literal_eval, json.loads):
        try:
            read(answer)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        return True
    return False


@functools.lru_cache(maxsize=256)
def evaluates(name: str) -> bool:
    """Whether anything in the generator's module evaluates text; read from its source, so also when in doubt."""
    module = sys.modules[_factory().DATASETS[name][0].__module__]
    tree = ast.parse(inspect.getsource(module))
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in _EVALUATING - own:
                return True
    return False


@functools.lru_cache(maxsize=256)
def dataset(name: str, harder: bool) -> Any:  # reasoning-gym has no types
    """The generator with its own settings; ``harder``: with its curriculum two levels up."""
    factory = _factory()
    if not harder:
        return factory.create_dataset(name, seed=1, size=_SIZE)
    if not factory.has_curriculum(name):
        raise UsageError(f"reasoning-gym's {name!r} has no curriculum, so no 'unseen' split; use train or test")
    curriculum = factory.create_curriculum(name)
    for _ in range(2):
        curriculum.increment_global_level()
    config = curriculum.generate_configuration({"seed": 2, "size": _SIZE})
    return factory.DATASETS[name][0](config)


def _factory() -> Any:
    try:
        from reasoning_gym import factory
    except ImportError as error:
        raise MissingExtra("reasoning_gym", "reasoning") from error
    return factory
