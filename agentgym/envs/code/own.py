"""The user's own tasks from JSON lines.

A line has ``question`` (or ``problem``, ``prompt``) and either ``answer`` / ``answers`` or, for a program to be
written, ``tests``: a list of ``{"input": ..., "output": ...}``. Optional: ``id``; ``split``; ``files`` (path -> text,
for the session); ``program`` (prints the answer, or is an accepted program; the expert runs it); ``verify``: ``"text"``
(the default), or ``"math"`` to compare by `math-verify <https://github.com/huggingface/Math-Verify>`_.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentgym.env import SPLITS, digest
from agentgym.envs.search.datasets import SPLIT_NAMES
from agentgym.envs.tool_env import Question
from agentgym.errors import UnknownName, UsageError
from agentgym.tools.search.corpus import read_jsonl

VERIFIERS = ("text", "math")
_TEXT = ("question", "problem", "prompt")


def read_tasks(source: str) -> dict[str, tuple[Question, ...]]:
    """The tasks by split; a record's own ``split`` decides, without one a hash of its text: one in five is test.

    Raises:
        UsageError: no such file, or a record that is no task.
    """
    path = Path(source)
    if not path.is_file():
        raise UsageError(f"no file {source!r}; give a JSON-lines file, or 'reasoning-gym:NAME'")
    return _read(source, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _read(source: str, changed: int) -> dict[str, tuple[Question, ...]]:
    name = Path(source).name
    sides: dict[str, str] = {}
    questions: dict[str, Question] = {}
    for number, record in read_jsonl(source):
        where = f"{name}:{number}"
        question = _question(record, where)
        key = digest(question.text, sorted(question.data.get("files", {}).items()))
        if question.id in questions:
            raise UsageError(f"{where}: the id {question.id!r} stands twice; ids must differ")
        if key in sides:
            raise UsageError(f"{where}: its question stands twice; a question belongs to one split")
        sides[key] = _side(record, key, where)
        questions[question.id] = question
    splits = dict(zip(questions, sides.values(), strict=True))
    return {
        split: tuple(question for key, question in questions.items() if splits[key] == split)
        for split in SPLITS
        if split in sides.values()
    }


def _question(record: Mapping[str, Any], where: str) -> Question:
    text = next((record[f] for f in _TEXT if isinstance(record.get(f), str) and record[f].strip()), None)
    if text is None:
        raise UsageError(f"{where} has no 'question'; its fields are {sorted(record)}")
    tests, answers = record.get("tests"), _answers(record)
    if (tests is None) == (not answers):
        raise UsageError(
            f"{where} must have either 'answer' (or 'answers') or 'tests'; its fields are {sorted(record)}"
        )
    data: dict[str, Any] = {"verify": record.get("verify", "text")}
    if data["verify"] not in VERIFIERS:
        raise UnknownName(f"verify of {where},", str(data["verify"]), VERIFIERS)
    if tests is not None:
        data["tests"] = [_test(test, where) for test in tests] if isinstance(tests, list) else []
        if not data["tests"]:
            raise UsageError(f"{where}: 'tests' must be a list of {{'input': ..., 'output': ...}} and not empty")
    if record.get("files") is not None:
        data["files"] = _files(record["files"], where)
    if record.get("program") is not None:
        data["program"] = str(record["program"])
    return Question(text.strip(), answers, id=str(record.get("id", where)), data=data)


def _answers(record: Mapping[str, Any]) -> tuple[str, ...]:
    answers = record.get("answers", record.get("answer"))
    several = answers if isinstance(answers, list) else [] if answers is None else [answers]
    return tuple(text for text in (str(item).strip() for item in several) if text)


def _test(test: object, where: str) -> list[str]:
    if not isinstance(test, dict) or not {"input", "output"} <= set(test):
        raise UsageError(f"{where}: a test is {{'input': ..., 'output': ...}}, got {test!r:.80}")
    return [str(test["input"]), str(test["output"])]


def _files(files: object, where: str) -> dict[str, str]:
    if not isinstance(files, dict) or not all(isinstance(text, str) for text in files.values()):
        raise UsageError(f"{where}: 'files' maps relative paths to texts")
    return dict(files)


def _side(record: Mapping[str, Any], key: str, where: str) -> str:
    named = record.get("split")
    if named is None:
        return "test" if int(key, 16) % 5 == 0 else "train"
    if named not in SPLIT_NAMES:
        raise UnknownName(f"split of {where},", str(named), SPLIT_NAMES)
    return SPLIT_NAMES[named]
