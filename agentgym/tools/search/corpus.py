"""Reading corpora from JSON lines."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import zstandard

from agentgym.errors import UsageError
from agentgym.tools.search.passage import Passage, from_contents

ID_FIELDS = ("id", "_id", "doc_id", "docid")
TEXT_FIELDS = ("text", "contents", "content", "body", "passage", "paragraph_text")


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of every line of a ``.jsonl`` file (also ``.gz`` and ``.zst``); blank lines are skipped.

    Raises:
        UsageError: no such file, or a line that is not a JSON object; names the line.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"no file {str(path)!r}; give a JSON-lines file")
    with _opened(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise UsageError(f"{path}:{number} is not JSON ({error}); every line must be one object") from error
            if not isinstance(record, dict):
                raise UsageError(f"{path}:{number} is a {type(record).__name__}; every line must be one object")
            yield number, record


def read_corpus(path: str | Path) -> Iterator[Passage]:
    """Passages of a JSON-lines corpus.

    The id is read from ``id``, ``_id``, ``doc_id`` or ``docid`` (the line number where there is none), the title from
    ``title``, the text from ``text``, ``contents`` (Search-R1: a quoted first line is the title), ``content``,
    ``body``, ``passage`` or ``paragraph_text``.

    Raises:
        UsageError: a line without a text.
    """
    for number, record in read_jsonl(path):
        passage = as_passage(record, str(number))
        if passage is None:
            raise UsageError(
                f"{path}:{number} has no text; its fields are {sorted(record)}, one of {TEXT_FIELDS} is needed"
            )
        yield passage


def as_passage(record: dict[str, Any], default_id: str) -> Passage | None:
    """A JSON object as a passage; None where it has no text."""
    name = next((str(record[field]) for field in ID_FIELDS if record.get(field) is not None), default_id)
    body = next((record[field] for field in TEXT_FIELDS if isinstance(record.get(field), str)), None)
    if body is None:
        return None
    title = record.get("title")
    return Passage(name, str(title), body) if title else from_contents(name, body)


def _opened(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    if path.suffix == ".zst":
        return io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(path.open("rb"), closefd=True), "utf-8")
    return path.open(encoding="utf-8")
