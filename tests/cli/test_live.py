"""What is drawn while something is played: rarely enough, and in a file only now and then."""

from __future__ import annotations

import io
import itertools

import pytest
from rich.console import Console
from rich.text import Text

from agentgym.cli.console.live import Live, Throttle
from agentgym.rollout import Pace


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("cost", [0.0, 0.001, 0.02, 3.0])
def test_drawing_takes_at_most_a_hundredth_of_the_time(cost: float) -> None:
    time = Clock()
    throttle = Throttle(clock=time)
    drawn: list[float] = []

    def draw() -> None:
        drawn.append(time.now)
        time.now += cost

    while time.now < 3000:
        throttle(draw)
        time.now += 0.01
    assert drawn[0] == 0  # at once
    assert min(b - a for a, b in itertools.pairwise(drawn)) >= 0.25
    assert sum(cost for _ in drawn[1:]) <= 0.01 * drawn[-1]
    assert len(drawn) >= 0.9 * 3000 / max(0.27, 100 * cost)  # and not more rarely than that


def output(*, terminal: bool) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=terminal, width=80, color_system=None, legacy_windows=False), text


def test_a_file_gets_a_line_now_and_then() -> None:
    console, text = output(terminal=False)
    time = Clock()
    live = Live(console, lambda: Text("a table"), clock=time)
    pace = Pace("update 1", 3, clock=time)
    lines_at = []
    for second in range(300):
        time.now = second
        before = text.getvalue()
        live.playing(pace)
        if text.getvalue() != before:
            lines_at.append(second)
    live.close()
    assert lines_at == [10, 30, 70, 130, 190, 250]
    assert text.getvalue().splitlines() == ["update 1: 0 of 3 episodes, 0 turns/s"] * 6
    live.playing(Pace("update 2", 3, clock=time))  # what comes next waits from the beginning
    time.now += 9
    live.playing(Pace("update 3", 3, clock=time))
    assert "update 2" not in text.getvalue()


def test_a_terminal_is_redrawn_below_what_stands_there() -> None:
    console, text = output(terminal=True)
    time = Clock()
    live = Live(console, lambda: Text("a table"), clock=time)
    pace = Pace("[red]update 1\x1b[2J", 3, clock=time)
    live.playing(pace)
    first = text.getvalue()
    assert "a table" in first
    assert "[red]update 1\\x1b[2J: 0 of 3 episodes, 0 turns/s" in first  # no markup, nothing that steers a terminal
    live.playing(pace)
    assert text.getvalue() == first  # it is not time yet
    time.now += 0.3
    live.playing(pace)
    assert text.getvalue().count("a table") == 2
    live.close()
    assert text.getvalue().count("a table") >= 3
    assert "update 1" not in text.getvalue().rpartition("a table")[2]  # the line is gone, the table stays


def test_a_line_alone_goes_when_nothing_is_played() -> None:
    console, text = output(terminal=True)
    live = Live(console)
    live.playing(Pace("update 1", 3))
    assert "update 1" in text.getvalue()
    live.close()
    live.close()
    console.print("done")
    assert text.getvalue().endswith("done\n")
    assert "\x1b[2K" in text.getvalue()  # it was erased
