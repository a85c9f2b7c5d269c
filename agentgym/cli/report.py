"""``agentgym report``: the page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    run: Annotated[Path, typer.Argument(help="The run folder.")],
    episodes: Annotated[int, typer.Option(min=0, help="How many stored episodes to show.")] = 48,
) -> None:
    """Write report.html into a run folder: curves, configuration, and episodes with the advantage of each turn."""
    from agentgym.report import make_report

    print(make_report(run, episodes=episodes))
