"""``agentgym export``: episodes for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    run: Annotated[Path, typer.Argument(help="A run folder or an episode file.")],
    to: Annotated[Path | None, typer.Option(help="The file to write; by default episodes.parquet beside it.")] = None,
) -> None:
    """Write the stored episodes as one parquet file, one row an episode (needs the extra 'parquet')."""
    from agentgym.store.parquet import export

    target = to or (run if run.is_dir() else run.parent) / "episodes.parquet"
    count = export(run, target)
    print(f"{count} episodes in {target}")
