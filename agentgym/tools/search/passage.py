"""What every retriever speaks: passages in, passages out."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable


class Passage(NamedTuple):
    """One document, or as much of one as the corpus holds under one id."""

    id: str
    title: str
    text: str
    score: float = 0.0  #: how well it fits the query, larger is better; comparable within one result only


@runtime_checkable
class Retriever(Protocol):
    """A searchable corpus. Safe to call from many threads at once."""

    def search(self, query: str, k: int = 3) -> list[Passage]:
        """The ``k`` best passages for a query in natural language, best first; any text is a valid query.

        Raises:
            ToolError: the query could not be answered (remote retrievers only).
            WorldFault: the corpus could not be asked (remote retrievers only).
        """
        ...

    def fetch(self, document_id: str) -> Passage:
        """The whole passage of that id.

        Raises:
            ToolError: there is none, or the corpus could not be asked.
        """
        ...


def contents(passage: Passage) -> str:
    """Title and text as one string, as Search-R1 corpora write it: the quoted title, a line break, the text."""
    return f'"{passage.title}"\n{passage.text}' if passage.title else passage.text


def from_contents(document_id: str, body: str, score: float = 0.0) -> Passage:
    """The inverse of :func:`contents`; a text whose first line is not quoted has no title."""
    first, found, rest = body.partition("\n")
    if found and len(first) > 1 and first[0] == first[-1] == '"':
        return Passage(document_id, first[1:-1], rest, score)
    return Passage(document_id, "", body, score)
