"""The GUI world in a real Chromium: whether it says what the page model says, what a turn costs, what an episode takes.

    python benchmarks/gui_browser.py parity --random 500 --expert 200
    python benchmarks/gui_browser.py speed
    python benchmarks/gui_browser.py memory

Parity plays every episode in both backends at once and compares observation, reward, end and all of ``info``, the
anchor among it, on every turn; it stops at the first difference. CPU seconds of speed are those of this process and of
everything below it: Playwright's driver and every process of the browser. Memory is the proportional set size (PSS) of
the browser's processes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

from agentgym.envs.gui import GUIEnv, tasks

SPLITS = ("train", "test", "unseen")
TICKS = os.sysconf("SC_CLK_TCK")


def act(env: GUIEnv, info: dict[str, Any], dice: random.Random | None) -> str:
    """The expert's action, or one at random that leaves ``done`` for the end."""
    if dice is None:
        return str(env.expert())
    actions = info["admissible"]
    return str(dice.choice(actions[:-1] or actions))


def parity(episodes: int, *, expert: bool) -> dict[str, Any]:
    """Play so many episodes in both; every family of every split takes its turn."""
    kinds = [(split, family) for split in SPLITS for family in tasks.templates(split)]
    turns, templates = 0, Counter[str]()
    environments = {
        (split, observe, backend): GUIEnv(split=split, observe=observe, backend=backend)
        for split, observe, backend in itertools.product(SPLITS, ("diff", "full"), ("page", "chromium"))
    }
    for number in range(episodes):
        split, family = kinds[number % len(kinds)]
        observe = "full" if number % 5 == 0 else "diff"
        pair = [environments[split, observe, backend] for backend in ("page", "chromium")]
        dice = None if expert else random.Random(number)
        seen: list[Any] = [env.reset(seed=number // len(kinds), options={"family": family}) for env in pair]
        templates["/".join(seen[0][1]["task_id"].split("/")[2:4])] += 1
        over = False
        while not over:
            assert seen[0] == seen[1], f"{split} {family} {number}: {seen}"
            action = act(pair[0], seen[0][-1], dice)
            seen = [env.step(action) for env in pair]
            turns += 1
            over = seen[0][2] or seen[0][3]
        assert seen[0] == seen[1], f"{split} {family} {number}: {seen}"
    return {"episodes": episodes, "turns": turns, "templates": len(templates), "different": 0}


def below(pid: int) -> list[int]:
    """Processes below this one."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                above = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(above, []).append(int(entry.name))
    found, ahead = [], [pid]
    while ahead:
        found += (now := children.get(ahead.pop(), []))
        ahead += now
    return found


def cpu_seconds() -> float:
    """Of this process and everything that lives below it, ended children included."""
    ticks = 0
    for pid in (os.getpid(), *below(os.getpid())):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(map(int, fields[11:15]))
    return ticks / TICKS


def speed(episodes: int, rounds: int) -> dict[str, Any]:
    """Turns per CPU second, resets counted, by the expert and at random."""
    env = GUIEnv(backend="chromium")
    rates: dict[str, list[float]] = {"expert": [], "random": []}
    for number in range(rounds + 1):
        for policy, found in rates.items():
            began, turns = cpu_seconds(), 0
            for seed in range(episodes):
                dice = None if policy == "expert" else random.Random(seed)
                _, info = env.reset(seed=seed)
                over = False
                while not over:
                    _, _, terminated, truncated, info = env.step(act(env, info, dice))
                    over = terminated or truncated
                    turns += 1
            time.sleep(1)  # contexts close behind the last turn; that is part of the cost
            if number:
                found.append(turns / (cpu_seconds() - began))
    env.close()
    return {
        policy: {"turns_per_cpu_second": statistics.median(found), "min": min(found), "max": max(found)}
        for policy, found in rates.items()
    }


def memory_mib() -> float:
    """PSS of everything below this process."""
    total = 0
    for pid in below(os.getpid()):
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total / 1024


def memory(episodes: int) -> dict[str, Any]:
    """What one episode takes, and what each further one does."""
    environments, found = [], []
    for seed in range(episodes):
        env = GUIEnv(backend="chromium")
        environments.append(env)
        env.reset(seed=seed)
        env.step(str(env.expert()))
        time.sleep(1)
        found.append(memory_mib())
    for env in environments:
        env.close()
    return {"first": found[0], "further": (found[-1] - found[0]) / (episodes - 1), "episodes": episodes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=["parity", "speed", "memory"])
    parser.add_argument("--random", type=int, default=500, help="episodes of parity at random")
    parser.add_argument("--expert", type=int, default=200, help="episodes of parity by the expert")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    figures: dict[str, Any] = {}
    for what in chosen.what:
        if what == "parity":
            for policy, count in (("expert", chosen.expert), ("random", chosen.random)):
                figures[f"parity {policy}"] = parity(count, expert=policy == "expert")
                print(policy, figures[f"parity {policy}"], flush=True)
        else:
            figures[what] = speed(20, chosen.rounds) if what == "speed" else memory(6)
            print(what, figures[what], flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
