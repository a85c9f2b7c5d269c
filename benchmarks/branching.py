"""What branching saves: tool calls and rounds of a scripted policy, by rule: ``python benchmarks/branching.py``.

The policy calls a tool with probability ``--p`` while it has calls left (3), else answers; an answer to ``call`` is its
last call's result. 16 tasks, groups of 16 with 8 roots, three seeds, as the released ARPO code was measured: GRPO 27.8
calls a group in 4 rounds, ARPO 20.6 in 8 (p = 0.75).

A round is a turn of everything that runs: all requests at once, one token each a step, replies of ``LENGTH`` = 145
tokens (what the released code generated). Branches start inside their parent's round, as soon as the window of 20
tokens has been seen; "latency" counts that too, in lengths of a reply.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from agentgym import keyed_random
from agentgym.env import TextEnv, digest
from agentgym.policy import Reply, Request
from agentgym.records import Episode, Sample, Task, ToolCall
from agentgym.rollout import Branching, Group, Independent, Rollout
from agentgym.trainers.run.summary import shared_and_played
from agentgym.trainers.sampling.branching import entropy_branching, random_branching, spread_branching

CAP, LENGTH = 3, 145


class Calls(TextEnv):
    """``call`` runs a tool, anything else is the answer."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, object] | None = None
    ) -> tuple[str, dict[str, object]]:
        super().reset(seed=seed)
        self.way: list[str] = [str(seed)]
        return "task", self._info()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, object]]:
        self.way.append(action)
        calls = (ToolCall("call", {}, "result"),) if action == "call" else ()
        done = action != "call"
        reward = float(keyed_random.uniform("paid", *self.way) < 0.3) if done else 0.0
        return "result", reward, done, False, self._info() | {"tool_calls": calls}

    def fork(self) -> Calls:
        return copy.deepcopy(self)

    def _info(self) -> dict[str, object]:
        return {"task_id": self.way[0], "anchor": digest(*self.way)}


@dataclass
class _Work:
    request: Request
    future: Future[Reply]
    tokens: int = 0


class Scripted:
    """Calls with probability ``p``; its entropy after a result is higher on average, as the paper measured."""

    vocabulary = 150_000

    def __init__(self, p: float) -> None:
        self.p, self.steps = p, 0
        self.working: list[_Work] = []

    def submit(self, request: Request) -> Future[Reply]:
        self.working.append(_Work(request, Future()))
        return self.working[-1].future

    def advance(self) -> bool:
        """One token for every request that waits."""
        if not self.working:
            return False
        self.steps += 1
        for work in list(self.working):
            work.tokens += 1
            request = work.request
            if request.probed is not None and work.tokens == request.probe:
                request.probed(Reply("", self._sample(request, work.tokens)))
            if work.tokens == LENGTH:
                self.working.remove(work)
                calls = len(request.turns) < CAP and keyed_random.uniform(request.key, "call") < self.p
                work.future.set_result(Reply("call" if calls else "answer", self._sample(request, LENGTH)))
        return True

    def release(self, episode: str) -> None:
        return

    def _sample(self, request: Request, tokens: int) -> Sample:
        level = 0.5 + 0.7 * bool(request.turns) + keyed_random.uniform(request.key, "entropy")
        return Sample(0, (), (0,) * tokens, (), (level,) * tokens)


def play(rule: Branching, p: float, seed: int, tasks: int = 16, size: int = 16) -> tuple[list[Episode], float]:
    """The episodes, and rounds: steps per length of a reply."""
    policy = Scripted(p)
    with Rollout(
        Calls, policy, max_concurrent_episodes=tasks * size, max_turns=CAP + 1, branching=rule, run_key=seed
    ) as rollout:
        episodes = list(rollout.play(Group(f"{i}", Task(i), size) for i in range(tasks)))
    assert len(episodes) == tasks * size
    return episodes, policy.steps / LENGTH


RULES: dict[str, Callable[[], Branching]] = {
    "GRPO": Independent,
    "ARPO": entropy_branching(8),
    "ARPO, no filling": entropy_branching(8, fill=False),
    "ARPO, beta 0": entropy_branching(8, beta=0.0),
    "random": random_branching(8),
    "spread of returns": spread_branching(8),
    "ARPO, released signal": entropy_branching(8, match_released_code=True, fill=False),
}


def main() -> None:
    """Print a table for each tool probability."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--p", type=float, nargs="*", default=[0.75])
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    for p in given.p:
        print(f"\ntool probability {p}: per group of 16, {given.seeds} seeds x 16 tasks; rounds: most of any seed")
        print(f"{'rule':24} {'calls':>6} {'inherited':>10} {'tokens':>7} {'rounds':>7} {'latency':>8} {'roots':>6}")
        for name, make in RULES.items():
            calls, inherited, tokens, rounds, roots = [], [], [], [], []
            for seed in range(given.seeds):
                episodes, lasted = play(make(), p, seed)
                figures = shared_and_played(episodes)
                calls.append(figures["made_tool_calls"] / 16)
                inherited.append(figures["inherited_tool_calls"] / 16)
                tokens.append(figures["made_action_tokens"] / 16)
                roots.append(16 - figures["branches"] / 16)
                rounds.append(lasted)
            print(
                f"{name:24} {np.mean(calls):6.2f} {np.mean(inherited):10.2f} {np.mean(tokens):7.0f} "
                f"{max(map(math.floor, rounds)):7d} {np.mean(rounds):8.2f} {np.mean(roots):6.2f}"
            )


if __name__ == "__main__":
    main()
