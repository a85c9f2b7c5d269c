"""Figures of an evaluation as lines of text, as wide as the terminal and not wider."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_GAP = "  "
_NOTHING = ("0", "-", "")
_ALWAYS = 4  # policy, budget, success and its interval are told even where they are 0


def result_lines(header: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """A table of results in which nothing is cut.

    A column without any figure but 0 is left out. Where the others do not fit side by side, the table goes on below,
    with policy and budget again. A policy is named once, in its first row; where its name leaves no room for budget and
    success beside it, on a line of its own.

    Args:
        header: policy, budget, success, its interval, then any figures.
        rows: as many cells each; rows of one policy follow each other.
        width: of the terminal, in characters.
    """
    used = [i for i in range(len(header)) if i < _ALWAYS or any(row[i] not in _NOTHING for row in rows)]
    wide = {i: max(len(cells[i]) for cells in (header, *rows)) for i in used}
    beside = sum(wide[i] + len(_GAP) for i in range(_ALWAYS)) - len(_GAP) <= width
    key = [0, 1] if beside else [1]
    lines: list[str] = []
    for block in _blocks([i for i in used if i > 1], wide, width - sum(wide[i] + len(_GAP) for i in key)):
        lines += [""] if lines else []
        lines.append(_line(header, [*key, *block], wide))
        before = None
        for row in rows:
            first, before = row[0] != before, row[0]
            if first and not beside:
                lines.append(row[0])
            shown = row if first else ["", *row[1:]]
            lines.append(_line(shown, [*key, *block], wide))
    return lines


def _blocks(columns: Iterable[int], wide: dict[int, int], width: int) -> list[list[int]]:
    """Columns that fit beside each other; one that is too wide stands alone."""
    blocks: list[list[int]] = [[]]
    for column in columns:
        taken = sum(wide[i] + len(_GAP) for i in blocks[-1])
        if blocks[-1] and taken + wide[column] > width:
            blocks.append([])
        blocks[-1].append(column)
    return blocks


def _line(cells: Sequence[str], columns: Sequence[int], wide: dict[int, int]) -> str:
    return _GAP.join(cells[i].ljust(wide[i]) for i in columns).rstrip()
