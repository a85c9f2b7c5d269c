"""What it costs to wait for tools, and to show how far it is.

    python benchmarks/waiting.py --json waiting.json

Episodes whose tool sleeps 50 ms, so many at the same time: wall-clock seconds against the latency bound (turns · 50 ms,
what it would take if nothing else took any time), and CPU seconds a turn. The bound can be met only on a machine that
has a processor to spare. Then an evaluation of ten thousand short episodes with its table redrawn on a terminal against
the same one into a file: CPU seconds, and the share of them that went into drawing.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from measure import compare, options, spread, table, write

from agentgym.budget import UNLIMITED
from agentgym.cli.console.live import Live
from agentgym.cli.console.screen import Screen
from agentgym.env import TextEnv
from agentgym.envs.tool_env import Question, ToolEnv
from agentgym.evaluate import evaluate
from agentgym.policy import Request, ScriptedPolicy
from agentgym.records import Task
from agentgym.rollout import Group, Rollout
from agentgym.tools.tool import tool

SLEEP, TURNS, EPISODES = 0.05, 40, 10_000


@tool(timeout=5)
def wait(number: int) -> str:
    """Wait.

    Args:
        number: any.
    """
    time.sleep(SLEEP)
    return "done"


def world() -> ToolEnv:
    """Calls of :func:`wait`, then an answer."""
    tasks = {"train": [Question("wait")]}
    return ToolEnv([wait], tasks, lambda answer, question: 1.0, syntax="tags", max_turns=TURNS + 1)


def act(request: Request) -> str:
    """One call a turn."""
    return "<wait>1</wait>" if len(request.turns) < TURNS else "<answer>done</answer>"


def waiting(concurrent: int, rounds: int) -> dict[str, Any]:
    """So many episodes side by side."""
    ratios, cpu = [], []
    for _ in range(rounds):
        with Rollout(world, ScriptedPolicy(act), max_concurrent_episodes=concurrent) as rollout:
            began, used = time.perf_counter(), time.process_time()
            episodes = list(rollout.play(Group(f"g{n}", Task(n)) for n in range(concurrent)))
            ratios.append((time.perf_counter() - began) / (TURNS * SLEEP))
            cpu.append((time.process_time() - used) / sum(len(e.turns) for e in episodes))
        assert all(e.solved for e in episodes)
    print(
        f"  {concurrent:>4} episodes{statistics.median(ratios):8.2f} x the latency bound ({min(ratios):.2f} to "
        f"{max(ratios):.2f}){1e6 * statistics.median(cpu):8.0f} CPU µs per turn"
    )
    return {"ratio": spread(ratios), "cpu_seconds_per_turn": spread(cpu)}


class Short(TextEnv):
    """Two turns of nothing."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self._turn = 0
        return "begin", {"task_id": "short", "anchor": "0"}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self._turn += 1
        return "go on", 1.0, self._turn == 2, False, {"task_id": "short", "anchor": "0", "success": True}


@contextmanager
def output(terminal: bool) -> Iterator[None]:
    """Standard output goes nowhere, and says that it is a terminal, or that it is not."""
    before = sys.stdout
    os.environ["FORCE_COLOR" if terminal else "NO_COLOR"] = "1"
    with Path(os.devnull).open("w") as sys.stdout:
        try:
            yield
        finally:
            sys.stdout = before
            os.environ.pop("FORCE_COLOR", None)
            os.environ.pop("NO_COLOR", None)


class Drawing:
    """CPU seconds in :meth:`Live.draw`, and in everything, of one evaluation on a terminal."""

    def __init__(self) -> None:
        self._draw, self.seconds, self.total = Live.draw, 0.0, -time.process_time()

    def __enter__(self) -> Drawing:
        def draw(live: Live) -> None:
            began = time.process_time()
            self._draw(live)
            self.seconds += time.process_time() - began

        Live.draw = draw  # type: ignore[method-assign]
        return self

    def __exit__(self, *problem: object) -> None:
        Live.draw = self._draw  # type: ignore[method-assign]
        self.total += time.process_time()


def shown(terminal: bool) -> None:
    """An evaluation as ``agentgym eval`` makes it, without its statistics."""
    with output(terminal), Screen(to_stderr=False, budgets=[UNLIMITED], count=EPISODES) as screen:
        screen.begin("scripted")
        evaluate(
            Short,
            ScriptedPolicy(lambda request: "go"),
            tasks=range(EPISODES),
            progress=screen.row,
            watch=screen.playing,
        )


def main() -> None:
    """Both."""
    given = options(__doc__, rounds=5).parse_args()
    print(f"\na tool that takes {1000 * SLEEP:.0f} ms, {TURNS} turns")
    figures: dict[str, Any] = {f"waiting_{n}": waiting(n, given.rounds) for n in (1, 64, 256)}
    seconds = compare({"into a file": lambda: shown(False), "on a terminal": lambda: shown(True)}, given.rounds)
    figures["shown"] = table(f"an evaluation of {EPISODES:,} episodes", seconds)
    figures["paired"] = paired = spread([b / a for a, b in zip(*seconds.values(), strict=True)])
    print(f"  round by round {paired['median']:.3f} x ({paired['min']:.3f} to {paired['max']:.3f})")
    shares = []
    for _ in range(given.rounds):
        with Drawing() as drawing:
            shown(True)
        shares.append(drawing.seconds / drawing.total)
    figures["drawing"] = share = spread(shares)
    print(f"  {share['median']:.2%} of the CPU seconds are drawing ({share['min']:.2%} to {share['max']:.2%})")
    write(given.json, figures)


if __name__ == "__main__":
    main()
