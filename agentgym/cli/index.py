"""``agentgym index``: make a corpus searchable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    corpus: Annotated[Path, typer.Argument(help="JSON lines, one passage each: id, title, text; also .gz and .zst.")],
    to: Annotated[Path | None, typer.Option(help="The folder to make; by default CORPUS.index beside it.")] = None,
    analyzer: Annotated[str, typer.Option(help="How text becomes words: plain, english or bigram.")] = "plain",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an index that is there.")] = False,
) -> None:
    """Make a BM25 index of a corpus, for the search world and serve-search (needs the extra 'search')."""
    from agentgym.errors import UsageError
    from agentgym.tools.search import build_index

    target = to or corpus.with_name(f"{corpus.name.partition('.')[0]}.index")
    if target.exists() and not overwrite:
        raise UsageError(f"{target} is there already; pass --overwrite or choose a folder with --to")
    index = build_index(corpus, target, analyzer=analyzer, overwrite=overwrite)
    print(f"{len(index)} passages in {target}; try: agentgym serve-search {target}")
