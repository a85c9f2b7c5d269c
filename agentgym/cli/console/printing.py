"""Writing to a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from agentgym.space import escape


def printable(text: str) -> str:
    """The text with what could steer a terminal, hide or reorder shown as an escape, e.g. ``\\x1b``."""
    return escape(text)


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns without a frame, as wide as the terminal (piped: a line a row); cells are plain text, without markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for number, name in enumerate(header):
        table.add_column(name, no_wrap=number == 0)  # what one copies stays whole
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else 240).print(table)
