"""Search and reading as tools.

Results have one passage a line, ``[id] title: text``; the title is left out where the text begins with it. So a
document was shown if a line of the result begins with its id in brackets, and can be cited and fetched by that id.
"""

from __future__ import annotations

from dataclasses import replace

from agentgym.errors import UsageError
from agentgym.tools.search.passage import Passage, Retriever
from agentgym.tools.tool import Tool, tool

NOTHING = "Nothing was found."


def search_tool(
    retriever: Retriever,
    *,
    k: int = 3,
    characters: int = 400,
    name: str = "search",
    timeout: float | None = None,
    price: float = 0.0,
) -> Tool:
    """A tool that shows the ``k`` best passages for a query, each cut to so many characters.

    Args:
        timeout: seconds; leave it out for an index in this process. With one, searches of one action run side by side.
    """
    if k < 1 or characters < 1:
        raise UsageError(f"k and characters must be at least 1, got {k!r} and {characters!r}")

    def search(query: str) -> str:
        """Search the encyclopedia.

        Args:
            query: what to look for.
        """
        return show(retriever.search(query, k), characters)

    made = tool(search, name=name, timeout=timeout, price=price, parallel=timeout is not None)
    return replace(made, shows=shows)


def fetch_tool(
    retriever: Retriever,
    *,
    characters: int = 4000,
    name: str = "fetch",
    timeout: float | None = None,
    price: float = 0.0,
) -> Tool:
    """A tool that opens one document by its id, cut to so many characters; ``timeout`` as for :func:`search_tool`."""
    if characters < 1:
        raise UsageError(f"characters must be at least 1, got {characters!r}")

    def fetch(document: str) -> str:
        """Open a document that a search returned.

        Args:
            document: its id, as it stands in brackets.
        """
        return show([retriever.fetch(document.strip().removeprefix("[").removesuffix("]"))], characters)

    made = tool(fetch, name=name, timeout=timeout, price=price, parallel=timeout is not None)
    return replace(made, shows=shows)


def show(passages: list[Passage], characters: int) -> str:
    """Passages as an agent reads them, one a line."""
    return "\n".join(_line(passage, characters) for passage in passages) or NOTHING


def shows(result: str, document_id: str) -> bool:
    """Whether a result that :func:`show` wrote contains that document."""
    start = f"[{_one_line(document_id)}] "
    return result.startswith(start) or f"\n{start}" in result


def _line(passage: Passage, characters: int) -> str:
    text = _one_line(passage.text)
    if passage.title and not text.startswith(passage.title):
        text = f"{_one_line(passage.title)}: {text}"
    if len(text) > characters:
        text = text[:characters].rsplit(" ", 1)[0] + " ..."
    return f"[{_one_line(passage.id)}] {text}"


def _one_line(text: str) -> str:
    # A line break inside a document must not look like the start of another one.
    return " ".join(text.split()) if not text.isprintable() else text
