"""Promise 8 in threads: in lockstep a policy meets its requests in an order that no timing decides."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from agentgym import keyed_random
from agentgym.env import TextEnv
from agentgym.policy import Reply, Request, SyncPolicy
from agentgym.records import Episode, Task
from agentgym.rollout import Group, Independent, LiveEpisode, Rollout


class Uneven(TextEnv):
    """Two to five turns, each of which takes its time, another one in every run."""

    waits = True
    lockstep = True

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        self.turn, self.seed = 0, seed or 0
        time.sleep(random.SystemRandom().random() / 200)
        return "begin", self.told()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.turn += 1
        time.sleep(random.SystemRandom().random() / 200)
        return action, 1.0, self.turn == 2 + self.seed % 4, False, self.told()

    def told(self) -> dict[str, Any]:
        return {"task_id": str(self.seed), "anchor": f"{self.seed}.{self.turn}"}

    def fork(self) -> Uneven:
        twin = type(self)()
        twin.turn, twin.seed = self.turn, self.seed
        return twin


class Model(SyncPolicy):
    """A local model: a token a request at each ``advance``, for all together; actions are one to four tokens long."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, ...]] = []
        self.working: list[tuple[Request, int, Future[Reply]]] = []

    def submit(self, request: Request) -> Future[Reply]:
        future: Future[Reply] = Future()
        self.working.append((request, 1 + int(4 * keyed_random.uniform(request.key)), future))
        return future

    def advance(self) -> bool:
        if not self.working:
            return False
        self.batches.append(tuple(f"{r.episode}:{len(r.turns)}" for r, _, _ in self.working))
        working, self.working = self.working, []
        for request, tokens, future in working:
            if tokens > 1:
                self.working.append((request, tokens - 1, future))
            else:
                future.set_result(Reply(str(keyed_random.choice(range(1000), request.key))))
        return True


class Sometimes(Independent):
    """Two roots; what is forked depends on what was forked before, so on the order in which it is asked."""

    def __init__(self) -> None:
        self.left = 20
        self.heard: list[str] = []

    def roots(self, size: int) -> int:
        return 2

    def branches(self, episode: LiveEpisode, reply: Reply) -> int:
        self.left -= 1
        return int(self.left % 3 == 0 and self.left > 0)

    def ended(self, episode: Episode) -> None:
        self.heard.append(episode.id)


def played(policy: Any, branching: Sometimes | None = None, **settings: Any) -> list[Episode]:
    with Rollout(Uneven, policy, max_concurrent_episodes=5, branching=branching, run_key=1, **settings) as rollout:
        return list(rollout.play(Group(f"g{n}", Task(n), 4) for n in range(8)))


def test_8_a_model_meets_the_same_batches_whatever_the_steps_take() -> None:
    runs = []
    for _ in range(3):
        policy, rule = Model(), Sometimes()
        episodes = played(policy, rule)
        runs.append((episodes, policy.batches, rule.heard))
    assert len(runs[0][0]) == 32
    assert any(e.parent for e in runs[0][0])
    assert runs[0] == runs[1] == runs[2]  # the order in which episodes finish, too
    assert max(map(len, runs[0][1])) >= 5  # new episodes join the others' rounds


def test_8_a_tree_does_not_depend_on_the_order_of_answers() -> None:
    """Answers come from other threads in any order; steps are handled as they were asked for."""

    class Elsewhere(SyncPolicy):
        def __init__(self, pool: ThreadPoolExecutor) -> None:
            self.pool = pool

        def submit(self, request: Request) -> Future[Reply]:
            return self.pool.submit(self.answer, request.key)

        def answer(self, key: int) -> Reply:
            time.sleep(random.SystemRandom().random() / 300)
            return Reply(str(keyed_random.choice(range(1000), key)))

    with ThreadPoolExecutor(5) as pool:
        runs = [[e.id for e in played(Elsewhere(pool))] for _ in range(3)]
    assert runs[0] == runs[1] == runs[2]


def test_8_steps_of_a_round_run_side_by_side_and_beside_the_model() -> None:
    together, began = threading.Barrier(4), threading.Event()
    beside: list[bool] = []

    class Meeting(Uneven):
        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            began.set()
            together.wait(30)  # all four steps run at the same time
            return super().step(action)

    class Watched(Model):
        def submit(self, request: Request) -> Future[Reply]:
            future = super().submit(request)
            self.working[-1] = (request, 1 + int(request.episode[1]), future)  # one to four tokens
            return future

        def advance(self) -> bool:
            if 0 < len(self.working) < 4:  # the first replies are complete, the others are not
                beside.append(began.wait(30))
            return super().advance()

    with Rollout(Meeting, Watched(), max_concurrent_episodes=4) as rollout:
        episodes = list(rollout.play(Group(f"g{n}", Task(0)) for n in range(4)))
    assert [(e.id, e.failure) for e in episodes] == [(f"g{n}/0", None) for n in range(4)]
    assert beside == [True] * 6


@pytest.mark.parametrize(
    ("waits", "says", "remote", "asked", "rounds"),
    [
        (True, True, False, None, True),
        (True, False, False, None, False),
        (True, True, True, None, False),
        (True, True, True, True, True),
        (True, False, False, True, True),
        (True, True, False, False, False),
        (False, True, False, True, False),  # inline there is nothing to wait for
    ],
)
def test_who_decides(waits: bool, says: bool, remote: bool, asked: bool | None, rounds: bool) -> None:
    world = type("World", (Uneven,), {"waits": waits, "lockstep": says})
    policy = Model()
    policy.remote = remote  # type: ignore[attr-defined]
    with Rollout(world, policy, lockstep=asked) as rollout:
        assert rollout._steps.lockstep is rounds


def test_an_endpoint_never_waits_for_a_round() -> None:
    from agentgym.endpoint import EndpointPolicy

    assert EndpointPolicy.remote is True
