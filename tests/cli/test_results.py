from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from agentgym.cli.console.results import result_lines

HEADER = ["policy", "budget", "success", "95 %", "calls", "tokens", "cost"]
ROWS = [
    ["expert", "tool_calls=1", "50.0 %", "1.0 to 99.0", "1 ±0.5", "0", "-"],
    ["expert", "inf", "100.0 %", "5.0 to 100.0", "2", "0", "-"],
    ["random", "inf", "0.0 %", "0.0 to 95.0", "0", "0", "-"],
]


def test_one_table_names_a_policy_once_and_leaves_out_what_is_all_zero() -> None:
    assert result_lines(HEADER, ROWS, 80) == [
        "policy  budget        success  95 %          calls",
        "expert  tool_calls=1  50.0 %   1.0 to 99.0   1 ±0.5",
        "        inf           100.0 %  5.0 to 100.0  2",
        "random  inf           0.0 %    0.0 to 95.0   0",
    ]


def test_success_stays_where_it_is_all_zero() -> None:
    lines = result_lines(HEADER, [["random", "inf", "0", "-", "0", "0", "0"]], 80)
    assert lines == ["policy  budget  success  95 %", "random  inf     0        -"]


def test_what_does_not_fit_goes_on_below_with_the_budget_again() -> None:
    rows = [["me", "inf", "50.0 %", "1.0 to 99.0", "1 ±0.5", "120 ±3", "7"]]
    assert result_lines(HEADER, rows, 45) == [
        "policy  budget  success  95 %         calls",
        "me      inf     50.0 %   1.0 to 99.0  1 ±0.5",
        "",
        "policy  budget  tokens  cost",
        "me      inf     120 ±3  7",
    ]
    assert len(result_lines(HEADER, rows, 44)) == 5  # exactly as wide as the first block
    assert result_lines(HEADER, rows, 43)[0] == "policy  budget  success  95 %"


def test_a_long_name_stands_on_a_line_of_its_own_and_is_whole() -> None:
    name = "HuggingFaceTB/SmolLM2-135M-Instruct@http://127.0.0.1:8000/v1"
    lines = result_lines(HEADER, [[name, *row[1:]] for row in ROWS[:2]], 80)
    assert lines == [
        "budget        success  95 %          calls",
        name,
        "tool_calls=1  50.0 %   1.0 to 99.0   1 ±0.5",
        "inf           100.0 %  5.0 to 100.0  2",
    ]


@pytest.mark.parametrize("width", [1, 20, 40, 60, 80])
def test_no_cell_is_ever_cut(width: int) -> None:
    said = "\n".join(result_lines(HEADER, ROWS, width))
    for row in ROWS:
        assert all(cell in said for cell in row if cell not in ("-", "0"))


def on_a_terminal(columns: int, *arguments: str) -> str:
    """What a command shows in a window of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")} | {"TERM": "xterm"}
    command = [str(Path(sys.executable).with_name("agentgym")), *arguments]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the other side has ended
                break
            shown += piece
            if not piece:
                break
    os.close(ours)
    assert process.returncode == 0, shown.decode()
    return shown.decode().replace("\r", "")


def test_a_terminal_of_80_columns_shows_policy_budget_and_success_whole() -> None:
    house = ("agentgym/Household-v0", "--policy", "expert", "--policy", "expert:0.25", "--episodes", "5")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", on_a_terminal(80, "eval", *house, "--budget", "4,inf"))
    table = shown[shown.rindex("policy") :].partition("expert: ")[0].splitlines()
    assert max(map(len, table)) <= 80
    assert table[0].split()[:5] == ["policy", "budget", "success", "95", "%"]
    assert [line.split()[0] for line in table[1:5]] == ["expert", "inf", "expert:0.25", "inf"]
    assert "100.0 %" in table[2]
    assert "calls" not in table[0]  # a world without tools
    assert "cost" not in shown
