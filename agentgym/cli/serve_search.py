"""``agentgym serve-search``: an index for several processes or machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    index: Annotated[Path, typer.Argument(help="A folder made by `agentgym index`.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for other machines.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A name that clients may call this server by; repeat it.")
    ] = None,
) -> None:
    """Serve an index in Search-R1's wire format until interrupted (needs the extras 'search' and 'serve')."""
    from agentgym.endpoint.guard import ServerLimits
    from agentgym.tools.search import open_index, serve_search

    serve_search(open_index(index), host, port, ServerLimits(hosts=allow_host or ()))
