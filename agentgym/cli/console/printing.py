"""Writing to a terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence

# C0 and C1 controls but tab and newline, bidirectional overrides, lone surrogates: all can fool or break a terminal.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with what could steer a terminal shown as an escape, e.g. ``\\x1b``; text may come from a model."""
    return _UNSAFE.sub(_escaped, text)


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


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
