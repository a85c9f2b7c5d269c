"""The user's own questions: JSON lines or Hugging Face datasets, with the field names of the usual collections.

Understood: HotpotQA and 2Wiki (``supporting_facts``, ``context``), MuSiQue (``answer_aliases``, ``paragraphs``),
NQ-open (``answer`` as a list), Search-R1 (``golden_answers``), TriviaQA (``answer`` with ``value`` and ``aliases``),
PopQA (``possible_answers`` as JSON) and plain ``question``, ``answer`` or ``answers``, ``evidence``.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from agentgym.env import SPLITS
from agentgym.envs.search.scoring import tokens
from agentgym.envs.tool_env import Question
from agentgym.errors import MissingExtra, UsageError
from agentgym.tools.search import Passage
from agentgym.tools.search.corpus import read_jsonl

HUB = "hf:"
TEST_SHARE = 0.2
#: How public collections call their splits.
SPLIT_NAMES = {"train": "train", "dev": "test", "validation": "test", "test": "test", "unseen": "unseen"}


def read_questions(source: str, split: str) -> tuple[Question, ...]:
    """The questions of one split.

    A record's own ``split`` decides; without one, questions with the same first answer go to the same side, one answer
    in five to ``test``, so that no answer is in both.

    Args:
        source: a JSON-lines file, or ``hf:NAME`` for a Hugging Face dataset (``hf:NAME@CONFIG:SPLIT+SPLIT``
            for one configuration and some of its splits).

    Raises:
        UsageError: no such file, a record without question or answer, or no question in the split.
    """
    return _read(source, split, changed(source))


def changed(source: str) -> int:
    """When a file was last written, so that cached questions are read again afterwards; 0 for a dataset of a hub."""
    path = Path(source)
    return path.stat().st_mtime_ns if path.is_file() else 0


@functools.lru_cache(maxsize=8)
def _read(source: str, split: str, changed: int) -> tuple[Question, ...]:
    questions = [_question(record, where) for where, record in records(source) if _side(record) == split]
    if not questions:
        raise UsageError(
            f"{source!r} has no question in split {split!r}; a record's 'split' field decides, if it has one"
        )
    ids = {question.id for question in questions}
    if len(ids) != len(questions):
        raise UsageError(f"{len(questions) - len(ids)} question ids stand twice in {source!r}; ids must differ")
    return tuple(questions)


def records(source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each record stands, and the record."""
    if source.startswith(HUB):
        yield from _from_hub(source)
        return
    for number, record in read_jsonl(source):
        yield f"{Path(source).name}:{number}", record


def context_passages(source: str) -> list[Passage]:
    """The passages that the records bring along (HotpotQA, 2Wiki, MuSiQue), each title and text once.

    Raises:
        UsageError: they bring none.
    """
    passages: dict[str, Passage] = {}
    for _, record in records(source):
        for title, text, _ in _contexts(record):
            name = _passage_id(title, text)
            passages.setdefault(name, Passage(name, title, text))
    if not passages:
        raise UsageError(f"the questions of {source!r} bring no passages; give corpus=")
    return list(passages.values())


def _question(record: Mapping[str, Any], where: str) -> Question:
    text = record.get("question") or record.get("query")
    answers = tuple(dict.fromkeys(_answers(record)))
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"{where} has no 'question'; its fields are {sorted(record)}")
    if not answers:
        raise UsageError(f"{where} has no 'answer', 'answers', 'golden_answers' or 'possible_answers'")
    name = next(
        (record[field] for field in ("id", "_id", "qid", "question_id") if record.get(field) is not None), where
    )
    return Question(text.strip(), answers, tuple(dict.fromkeys(_evidence(record))), str(name))


def _answers(record: Mapping[str, Any]) -> Iterator[str]:
    for field in ("answer", "answers", "golden_answers", "possible_answers", "answer_aliases"):
        yield from _texts(record.get(field))


def _texts(value: Any) -> Iterator[str]:
    """Every text inside a value that may be a text, a number, a list, JSON of a list, or TriviaQA's mapping."""
    if isinstance(value, Mapping):
        for field in ("value", "aliases", "text"):
            yield from _texts(value.get(field))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        if value.startswith("["):
            try:
                yield from _texts(json.loads(value))
                return
            except ValueError:
                pass  # an answer that begins with a bracket
        if value.strip():
            yield value.strip()
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield str(value)


def _evidence(record: Mapping[str, Any]) -> Iterator[str]:
    ids = record.get("evidence") or record.get("supporting_ids")
    if isinstance(ids, (list, tuple)) and all(isinstance(item, (str, int)) for item in ids):
        yield from map(str, ids)
        return
    titles = _supporting_titles(record.get("supporting_facts"))
    for title, text, supports in _contexts(record):
        if supports or title in titles:
            yield _passage_id(title, text)


def _supporting_titles(facts: Any) -> set[str]:
    """HotpotQA writes them as [[title, sentence], ...], its Hugging Face copy as {"title": [...], "sent_id": [...]}."""
    if isinstance(facts, Mapping):
        return {str(title) for title in facts.get("title", ())}
    return {str(fact[0]) for fact in facts or ()}


def _contexts(record: Mapping[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """Title, text, and whether it is marked as supporting."""
    context = record.get("context")
    if isinstance(context, Mapping):
        pairs: Iterable[tuple[Any, Any]] = zip(context.get("title", ()), context.get("sentences", ()), strict=True)
    else:
        pairs = ((entry[0], entry[1]) for entry in context or () if isinstance(entry, (list, tuple)))
    for title, sentences in pairs:
        yield str(title), sentences if isinstance(sentences, str) else "".join(sentences).strip(), False
    for paragraph in record.get("paragraphs") or ():
        yield str(paragraph["title"]), str(paragraph["paragraph_text"]), bool(paragraph.get("is_supporting"))


def _passage_id(title: str, text: str) -> str:
    """The title where it is the whole key, with a short hash of the text because titles may come with several texts."""
    return f"{title}#{hashlib.blake2b(text.encode(), digest_size=3).hexdigest()}"


def _side(record: Mapping[str, Any]) -> str:
    named = record.get("split")
    if named is not None:
        if named not in SPLIT_NAMES:
            raise UsageError(f"split {named!r} of a question is none of {sorted(SPLIT_NAMES)}")
        return SPLIT_NAMES[named]
    first = " ".join(tokens(next(_answers(record), "")))
    place = int.from_bytes(hashlib.blake2b(first.encode(), digest_size=4).digest()) / 2**32
    return SPLITS[1] if place < TEST_SHARE else SPLITS[0]


def _from_hub(source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("datasets", "hub") from error
    name, _, parts = source.removeprefix(HUB).partition(":")
    name, _, config = name.partition("@")
    try:
        loaded = datasets.load_dataset(name, config or None)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot load the dataset {name!r} ({error}); is a hub reachable, and the name right?"
        ) from error
    for part in parts.split("+") if parts else loaded:
        if part not in loaded:
            raise UsageError(f"dataset {name!r} has no split {part!r}; it has {sorted(loaded)}")
        for number, record in enumerate(loaded[part]):
            yield f"{name}:{part}:{number}", {"split": part, **record}
