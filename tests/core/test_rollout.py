"""The numbered promises of agentgym.rollout, one or more tests each."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from agentgym import keyed_random
from agentgym.env import TextEnv, digest
from agentgym.errors import ContractError, PolicyError, UsageError, WorldFault
from agentgym.policy import Reply, Request, ScriptedPolicy, SyncPolicy
from agentgym.records import Episode, StopReason, Task, Usage
from agentgym.rollout import Group, Independent, LiveEpisode, Rollout
from agentgym.rollout.pace import Pace


class Walk(TextEnv):
    """Ends after ``seed % 5 + 1`` turns; reward is the turn's number; the state is the walked way."""

    def __init__(self, log: list[str] | None = None) -> None:
        super().__init__()
        self.log = log if log is not None else []
        self.closed = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.way: list[str] = []
        self.seed = seed or 0
        self.length = (options or {}).get("length", self.seed % 5 + 1)
        return f"start {seed}", self.info()

    def info(self) -> dict[str, Any]:
        return {
            "task_id": f"walk/{self.seed}",
            "anchor": digest(self.seed, self.way),
            "answers": ("secret",),
            "evidence": ("doc7",),
        }

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.log.append(f"{self.seed}:{len(self.way)}")
        self.way.append(action)
        done = len(self.way) >= self.length
        info = self.info() | ({"success": True} if done else {})
        return f"after {action}", float(len(self.way)), done, False, info

    def fork(self) -> Walk:
        twin = Walk(self.log)
        twin.way, twin.seed, twin.length = list(self.way), self.seed, self.length
        return twin

    def close(self) -> None:
        self.closed += 1


def groups(count: int, size: int = 1, **options: Any) -> list[Group]:
    return [Group(f"g{i}", Task(i, options), size) for i in range(count)]


def play(
    make: Callable[[], Any], policy: Any, todo: list[Group], **settings: Any
) -> tuple[dict[str, Episode], Rollout]:
    with Rollout(make, policy, **settings) as rollout:
        return {e.id: e for e in rollout.play(todo)}, rollout


class Counting(SyncPolicy):
    """Remembers every request, answers with the number of the turn."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, int]] = []
        self.released: list[str] = []

    def submit(self, request: Request) -> Reply | Future[Reply]:
        assert request.episode not in self.released
        self.asked.append((request.episode, len(request.turns), request.key))
        return Reply(str(len(request.turns)))

    def release(self, episode: str) -> None:
        self.released.append(episode)


class Batching(Counting):
    """Answers all requests that wait together, one ``advance`` later, like a local model."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[tuple[Reply, Future[Reply]]] = []
        self.batches: list[int] = []

    def submit(self, request: Request) -> Future[Reply]:
        reply = super().submit(request)
        assert isinstance(reply, Reply)
        future: Future[Reply] = Future()
        self.waiting.append((reply, future))
        return future

    def advance(self) -> bool:
        if not self.waiting:
            return False
        self.batches.append(len(self.waiting))
        waiting, self.waiting = self.waiting, []
        for reply, future in waiting:
            future.set_result(reply)
        return True


# 1 --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [Counting, Batching])
@pytest.mark.parametrize("max_concurrent_episodes", [1, 3, 100])
@pytest.mark.parametrize("threads", [0, 2])
def test_1_a_policy_is_asked_once_per_turn(policy: type[Counting], max_concurrent_episodes: int, threads: int) -> None:
    asked = policy()
    episodes, rollout = play(
        Walk, asked, groups(12, size=2), max_concurrent_episodes=max_concurrent_episodes, threads=threads
    )
    assert len(episodes) == 24
    assert Counter((e, t) for e, t, _ in asked.asked) == Counter(
        (e.id, t) for e in episodes.values() for t in range(e.task.seed % 5 + 1)
    )
    assert rollout.policy_calls == sum(len(e.turns) for e in episodes.values())
    assert sorted(asked.released) == sorted(episodes)


def test_1_what_was_played_is_what_is_recorded() -> None:
    episodes, _ = play(Walk, Counting(), groups(3))
    episode = episodes["g2/0"]
    assert [(t.observation, t.action, t.reward) for t in episode.turns] == [
        ("start 2", "0", 1.0),
        ("after 0", "1", 2.0),
        ("after 1", "2", 3.0),
    ]
    assert [t.anchor for t in episode.turns] == [digest(2, ["0", "1", "2"][:n]) for n in range(3)]
    assert (episode.final, episode.success, episode.stop) == ("after 2", True, StopReason.TERMINATED)
    assert episode.task == Task(2, {}, "walk/2")
    assert (episode.group, episode.member, episode.env) == ("g2", 0, "Walk")


def test_1_max_concurrent_episodes_bounds_how_many_run() -> None:
    policy = Batching()
    play(Walk, policy, groups(30), max_concurrent_episodes=4)
    assert max(policy.batches) == 4


# 2 --------------------------------------------------------------------------------------------------------------------


def test_2_a_fast_episode_does_not_wait_for_a_slow_policy_answer() -> None:
    """Episode g4 (5 turns) finishes while the first answer for g0 (1 turn) is still missing."""
    late: list[Future[Reply]] = []
    finished: list[str] = []

    class OneIsSlow(SyncPolicy):
        def submit(self, request: Request) -> Reply | Future[Reply]:
            if request.episode == "g0/0":
                late.append(Future())
                return late[0]
            return Reply("go")

        def release(self, episode: str) -> None:
            finished.append(episode)
            if len(finished) == 9:
                late[0].set_result(Reply("at last"))

    episodes, _ = play(Walk, OneIsSlow(), groups(10), max_concurrent_episodes=10)
    assert finished[-1] == "g0/0"
    assert len(episodes) == 10


def test_2_a_fast_environment_does_not_wait_for_a_slow_one() -> None:
    others_are_done = threading.Event()

    class Slow(Walk):
        waits = True

        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            if self.seed == 0:
                assert others_are_done.wait(30)
            return super().step(action)

    class Watching(Counting):
        def release(self, episode: str) -> None:
            super().release(episode)
            if len(self.released) == 7:
                others_are_done.set()

    policy = Watching()
    episodes, _ = play(Slow, policy, groups(8), max_concurrent_episodes=2)
    assert len(episodes) == 8
    assert policy.released[-1] == "g0/0"


def test_2_making_an_environment_keeps_nobody_waiting() -> None:
    made = 0
    go = threading.Event()

    def make() -> Walk:
        nonlocal made
        made += 1
        if made == 2:
            assert go.wait(30)
        return Walk()

    class Watching(Counting):
        def release(self, episode: str) -> None:
            super().release(episode)
            if len(self.released) == 5:
                go.set()

    policy = Watching()
    play(make, policy, groups(6), max_concurrent_episodes=2, threads=2)
    assert len(policy.released) == 6


# 3 --------------------------------------------------------------------------------------------------------------------


class Broken(Walk):
    """Breaks in a way that the seed decides, on its second turn."""

    made = 0
    resets = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).made += 1
        self.wrecked = False

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        assert not self.wrecked, "a broken instance was used again"
        if seed == 1:
            type(self).resets += 1
            self.wrecked = True
            raise OSError("no display")
        result = super().reset(seed=seed, options={"length": 3})
        return (3, {}) if seed == 2 else result  # type: ignore[return-value]

    def step(self, action: str) -> Any:
        result = super().step(action)
        broken = {
            3: result[:4],
            4: (result[0], "much", False, False, {}),
            5: (None, 0.0, False, False, {}),
            6: (result[0], float("nan"), False, False, {}),
            7: (result[0], 0.0, False, False, None),
            8: (result[0], 0.0, False, True, {"stop": "whim"}),
        }
        if self.seed == 9 and len(self.way) == 2:
            self.wrecked = True
            raise RuntimeError("boom")
        return broken[self.seed] if self.seed in broken and len(self.way) == 2 else result

    def close(self) -> None:
        if self.wrecked:
            raise OSError("cannot even close")


@pytest.mark.parametrize("threads", [0, 3])
def test_3_a_broken_environment_is_one_failed_episode(threads: int) -> None:
    Broken.made = Broken.resets = 0
    episodes, _ = play(Broken, Counting(), groups(12), max_concurrent_episodes=3, threads=threads)
    assert len(episodes) == 12
    failed = {e.task.seed: e for e in episodes.values() if e.failure is not None}
    assert {seed: e.stop for seed, e in failed.items()} == {
        seed: StopReason.WORLD_FAULT if seed in (1, 2) else StopReason.ACTION_ERROR for seed in range(1, 10)
    }
    assert [seed for seed, e in sorted(failed.items()) if e.failed] == [1, 2]
    assert failed[1].failure == "OSError: no display"
    assert failed[9].failure == "RuntimeError: boom"
    assert Broken.resets == 2  # tried once more
    assert failed[4].failure == (
        "step returned ('after 1', 'much', False, False, {}): the reward must be a finite number, got 'much'"
    )
    assert failed[2].failure == "reset returned (3, {}): the observation must be a text, got 3"
    assert [len(episodes[f"g{i}/0"].turns) for i in (0, 10, 11)] == [3, 3, 3]
    assert Broken.made >= 10  # every broken instance was replaced


def test_3_an_environment_that_cannot_be_made_again_is_one_failed_episode() -> None:
    made = 0

    def make() -> Walk:
        nonlocal made
        made += 1
        if 2 <= made <= 3:
            raise OSError("no container left")
        return Walk()

    episodes, _ = play(make, Batching(), groups(4), max_concurrent_episodes=2)
    failures = [e.failure for e in episodes.values()]
    assert sorted(map(str, failures)) == ["None", "None", "None", "OSError: no container left"]


def test_3_an_action_that_breaks_the_environment_is_a_failure_of_the_agent() -> None:
    episodes, _ = play(Broken, Counting(), groups(10), max_concurrent_episodes=3)
    broken = episodes["g9/0"]
    assert (broken.stop, broken.success, broken.failed, broken.terminated) == (
        StopReason.ACTION_ERROR, False, False, True
    )  # fmt: skip
    first, last = broken.turns
    assert (first.reward, first.error) == (1.0, None)
    assert (last.observation, last.action, last.reward, last.error) == ("after 0", "1", 0.0, "RuntimeError: boom")
    assert last.anchor == digest(9, ["0"])
    assert broken.final == ""


class Faulty(Walk):
    """Five turns; where it stands in ``faults`` (seed, turn), its world breaks so many times."""

    faults: dict[tuple[int, int], int] = {}
    drifts = False
    made: list[Faulty] = []

    def __init__(self, log: list[str] | None = None) -> None:
        super().__init__(log)
        self.paid: list[int] = []
        self.made.append(self)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        result = super().reset(seed=seed, options={"length": 5})
        self.break_at(0)
        return result

    def break_at(self, turn: int) -> None:
        if self.faults.get((self.seed, turn), 0):
            self.faults[self.seed, turn] -= 1
            raise WorldFault("the server is gone")

    def charge(self, usage: Usage) -> None:
        self.paid.append(usage.completion_tokens)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        result = super().step(action)
        self.break_at(len(self.way))
        if self.drifts:
            self.way[-1] += f" in {self.made.index(self)}"
        return (*result[:4], result[4] | self.info())

    def fork(self) -> Faulty:
        twin = type(self)(self.log)
        twin.way, twin.seed, twin.length = list(self.way), self.seed, self.length
        return twin


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> type[Faulty]:
    monkeypatch.setattr(Faulty, "made", [])
    monkeypatch.setattr(Faulty, "faults", {})
    monkeypatch.setattr(Faulty, "drifts", False)
    return Faulty


class Priced(Counting):
    def submit(self, request: Request) -> Reply:
        super().submit(request)
        return Reply(str(len(request.turns)), usage=Usage(completion_tokens=10 + len(request.turns)))


@pytest.mark.parametrize("threads", [0, 2])
def test_3_an_episode_whose_world_fails_is_played_once_more(faulty: type[Faulty], threads: int) -> None:
    want, _ = play(faulty, Priced(), groups(8), max_concurrent_episodes=3)
    faulty.faults = {(1, 0): 1, (2, 1): 1, (3, 3): 1, (4, 5): 1}
    policy = Priced()
    again = faulty.made = []
    episodes, rollout = play(faulty, policy, groups(8), max_concurrent_episodes=3, threads=threads)
    assert episodes == want
    assert rollout.policy_calls == len(policy.asked) == 8 * 5  # the policy is not asked again
    assert sum(faulty.faults.values()) == 0
    assert any(env.paid[-5:] == [10, 11, 12, 13, 14] for env in again)  # a budget counts what the first try used


def test_3_a_world_that_fails_twice_ends_the_episode(faulty: type[Faulty]) -> None:
    faulty.faults = {(1, 0): 2, (2, 2): 2, (3, 2): 1} | {(4, 2): 1, (4, 4): 1}
    episodes, _ = play(faulty, Counting(), groups(6), max_concurrent_episodes=2)
    assert [e.stop for _, e in sorted(episodes.items())] == [
        StopReason.TERMINATED, *[StopReason.WORLD_FAULT] * 2, StopReason.TERMINATED, StopReason.WORLD_FAULT,
        StopReason.TERMINATED,
    ]  # fmt: skip
    assert episodes["g2/0"].failure == "WorldFault: the server is gone"
    assert [len(episodes[f"g{i}/0"].turns) for i in (1, 2, 4)] == [0, 1, 3]
    assert all(e.success is None for e in episodes.values() if e.failed)


def test_3_a_world_that_goes_another_way_when_it_is_played_again_is_left_out(faulty: type[Faulty]) -> None:
    faulty.drifts = True
    faulty.faults = {(1, 3): 1}
    episodes, _ = play(faulty, Counting(), groups(2), max_concurrent_episodes=1)
    assert episodes["g1/0"].stop is StopReason.WORLD_FAULT
    assert episodes["g1/0"].failure == (
        "WorldFault: the server is gone; played again, it met another state after 1 actions"
    )
    assert episodes["g0/0"].stop is StopReason.TERMINATED


def test_3_a_world_that_ends_early_when_it_is_played_again_is_left_out() -> None:
    made: list[Walk] = []

    class Shorter(Walk):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            if len(self.way) == 3 and len(made) == 1:
                raise WorldFault("gone")
            result = super().step(action)
            return (*result[:2], result[2] or len(made) == 2, False, result[4])

    episodes, _ = play(Shorter, Counting(), [Group("g", Task(4))])
    assert episodes["g/0"].stop is StopReason.WORLD_FAULT
    assert str(episodes["g/0"].failure).endswith("played again, the episode was over after 1 actions")


def test_3_a_branch_is_played_again_through_its_parents_turns(faulty: type[Faulty]) -> None:
    want, _ = play(faulty, Counting(), groups(1, size=3), branching=Branchy(1, 2, 2))
    assert {e.fork_turn for e in want.values()} == {None, 2}
    faulty.faults = {(0, 4): 3}  # the root's and both branches' fourth turns
    episodes, rollout = play(faulty, Counting(), groups(1, size=3), branching=Branchy(1, 2, 2))
    assert episodes == want
    assert rollout.policy_calls == 5 + 3 + 3


def test_3_playing_again_is_not_recursive(faulty: type[Faulty], monkeypatch: pytest.MonkeyPatch) -> None:
    class Long(Faulty):
        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
            result = super().reset(seed=seed)
            self.length = 1200
            return result

    monkeypatch.setattr(Long, "faults", {(0, 1100): 1})
    episodes, _ = play(Long, Counting(), groups(1))
    assert (episodes["g0/0"].stop, len(episodes["g0/0"].turns)) == (StopReason.TERMINATED, 1200)


# 4 --------------------------------------------------------------------------------------------------------------------


def test_4_a_policy_that_raises_ends_one_episode() -> None:
    def cancelled() -> Future[Reply]:
        future: Future[Reply] = Future()
        future.cancel()
        future.set_running_or_notify_cancel()
        return future

    class Moody(SyncPolicy):
        def submit(self, request: Request) -> Reply | Future[Reply]:
            if request.info["task_id"] == "walk/1":
                raise PolicyError("I would rather not")
            if request.info["task_id"] == "walk/2":
                future: Future[Reply] = Future()
                future.set_exception(TimeoutError("too slow"))
                return future
            if request.info["task_id"] == "walk/3":
                return cancelled()
            return Reply("go")

    episodes, _ = play(Walk, Moody(), groups(6))
    failures = {i: episodes[f"g{i}/0"].failure for i in range(6)}
    assert failures == {
        0: None,
        1: "PolicyError: I would rather not",
        2: "TimeoutError: too slow",
        3: "CancelledError",
        4: None,
        5: None,
    }
    assert all(episodes[f"g{i}/0"].stop is StopReason.POLICY_ERROR for i in (1, 2, 3))


def test_4_answers_that_come_by_themselves_are_waited_for() -> None:
    class Sleepy(SyncPolicy):
        def submit(self, request: Request) -> Future[Reply]:
            future: Future[Reply] = Future()
            threading.Timer(0.05, future.set_result, [Reply("go")]).start()
            return future

    assert len(play(Walk, Sleepy(), groups(2))[0]) == 2


# 5 --------------------------------------------------------------------------------------------------------------------


class Ending(Walk):
    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        observation, reward, _, _, info = super().step(action)
        ends: dict[int, tuple[bool, bool, dict[str, Any]]] = {
            0: (True, False, {"success": False}),
            1: (False, True, {}),
            2: (False, True, {"stop": "budget", "success": False}),
            3: (False, False, {}),
        }
        terminated, truncated, more = ends[self.seed]
        return observation, reward, terminated, truncated, info | {"success": None} | more


def test_5_terminated_and_truncated_are_kept_apart() -> None:
    episodes, _ = play(Ending, Counting(), groups(4), max_turns=3)
    stops = [episodes[f"g{i}/0"] for i in range(4)]
    assert [e.stop for e in stops] == [
        StopReason.TERMINATED,
        StopReason.TURN_LIMIT,
        StopReason.BUDGET,
        StopReason.TURN_LIMIT,
    ]
    assert [(e.terminated, e.truncated) for e in stops] == [(True, False)] + [(False, True)] * 3
    assert [e.success for e in stops] == [False, None, False, None]
    assert [len(e.turns) for e in stops] == [1, 1, 1, 3]


@pytest.mark.parametrize("stop", [StopReason.CONTEXT_FULL, StopReason.POLICY_STOPPED])
def test_5_a_reply_with_stop_ends_before_the_step(stop: StopReason) -> None:
    log: list[str] = []

    class Stops(SyncPolicy):
        def submit(self, request: Request) -> Reply:
            return Reply("go", stop=stop if len(request.turns) == 2 else None)

    episodes, _ = play(lambda: Walk(log), Stops(), groups(1, length=9))
    episode = episodes["g0/0"]
    assert (episode.stop, len(episode.turns), len(log)) == (stop, 2, 2)
    assert episode.success is None
    assert episode.final == "after go"  # seen, and not answered


# 6 --------------------------------------------------------------------------------------------------------------------


def test_6_members_of_a_group_that_start_differently_are_an_error() -> None:
    class Moving(Walk):
        count = 0

        def info(self) -> dict[str, Any]:
            type(self).count += 1
            return super().info() | {"anchor": f"state {type(self).count}"}

    with Rollout(Moving, Counting()) as rollout:
        assert len(list(rollout.play(groups(1, size=1)))) == 1
        with pytest.raises(ContractError, match=r"Moving: members of group 'g0' start from different states \('state"):
            list(rollout.play(groups(1, size=2)))


# 7 --------------------------------------------------------------------------------------------------------------------


def test_7_answers_never_reach_a_policy_but_are_kept() -> None:
    seen: list[str] = []

    def act(request: Request) -> str:
        seen.append(repr((request.info, request.observation, request.turns)))
        return "go"

    episodes, _ = play(Walk, ScriptedPolicy(act), groups(5))
    assert len(seen) == 15
    assert not any("secret" in text or "doc7" in text for text in seen)
    assert all((e.answers, e.evidence) == (("secret",), ("doc7",)) for e in episodes.values())


# 8 --------------------------------------------------------------------------------------------------------------------


class Dice(Counting):
    def submit(self, request: Request) -> Reply | Future[Reply]:
        super().submit(request)
        return Reply(str(keyed_random.choice(range(1000), request.key)))


class SlowDice(Dice):
    """The same draws, answered by threads in whatever order."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        super().__init__()
        self.pool = pool

    def submit(self, request: Request) -> Reply | Future[Reply]:
        reply = super().submit(request)
        delay = keyed_random.uniform(request.key, "delay") / 200

        def answer() -> Reply:
            time.sleep(delay)
            assert isinstance(reply, Reply)
            return reply

        return self.pool.submit(answer)


def test_8_inline_environments_are_stepped_in_a_fixed_order() -> None:
    logs: list[list[str]] = []
    for _ in range(2):
        log: list[str] = []
        play(lambda log=log: Walk(log), Batching(), groups(20, size=3), max_concurrent_episodes=7)
        logs.append(log)
    assert logs[0] == logs[1]


def test_8_draws_do_not_depend_on_timing_concurrency_or_threads() -> None:
    todo = groups(10, size=3)
    expected, _ = play(Walk, Dice(), todo, run_key=5)
    for settings in ({"max_concurrent_episodes": 1}, {"max_concurrent_episodes": 7, "threads": 3}):
        assert play(Walk, Dice(), todo, run_key=5, **settings)[0] == expected
    with ThreadPoolExecutor(8) as pool:
        assert play(Walk, SlowDice(pool), todo, run_key=5, max_concurrent_episodes=9, threads=2)[0] == expected
    other, _ = play(Walk, Dice(), todo, run_key=6)
    assert other != expected
    actions = {tuple(t.action for t in e.turns) for e in expected.values() if len(e.turns) > 1}
    assert len(actions) == 24  # members of a group draw differently


# 9 --------------------------------------------------------------------------------------------------------------------


class Branchy(Independent):
    """Starts ``roots`` episodes and forks ``count`` copies at turn ``at`` of whatever is no branch itself."""

    def __init__(self, roots: int, at: int, count: int) -> None:
        self._roots, self.at, self.count = roots, at, count

    def roots(self, size: int) -> int:
        return self._roots

    def branches(self, episode: LiveEpisode, reply: Reply) -> int:
        return self.count if len(episode.turns) == self.at and episode.parent is None else 0


@pytest.mark.parametrize(("roots", "at", "count"), [(1, 0, 1), (2, 1, 1), (2, 1, 3), (1, 2, 50), (3, 99, 1), (0, 1, 1)])
@pytest.mark.parametrize("policy", [Counting, Batching])
@pytest.mark.parametrize("threads", [0, 2])
def test_9_a_group_ends_with_its_size(policy: type[Counting], roots: int, at: int, count: int, threads: int) -> None:
    asked = policy()
    todo = groups(4, size=6, length=4)
    episodes, rollout = play(Walk, asked, todo, branching=Branchy(roots, at, count), threads=threads)
    assert Counter(e.group for e in episodes.values()) == {g.id: 6 for g in todo}
    assert sorted(episodes) == sorted(f"{g.id}/{m}" for g in todo for m in range(6))
    shared = sum(e.fork_turn or 0 for e in episodes.values())
    assert rollout.policy_calls == sum(len(e.turns) for e in episodes.values()) - shared


def test_9_a_branch_shares_its_first_turns_and_goes_its_own_way() -> None:
    parents: list[tuple[str, str | None, int]] = []

    class Watching(Dice):
        def submit(self, request: Request) -> Reply | Future[Reply]:
            parents.append((request.episode, request.parent, len(request.turns)))
            return super().submit(request)

    episodes, _ = play(Walk, Watching(), groups(1, size=3, length=5), branching=Branchy(1, 2, 2))
    root, one, two = (episodes[f"g0/{m}"] for m in range(3))
    for branch in (one, two):
        assert (branch.parent, branch.fork_turn) == ("g0/0", 2)
        assert branch.turns[:2] == root.turns[:2]
        assert branch.turns[2].observation == root.turns[2].observation
        assert branch.turns[2].anchor == root.turns[2].anchor
        assert branch.answers == root.answers
    assert len({e.turns[2].action for e in (root, one, two)}) == 3
    # the copied context is announced until the branch's first own reply
    assert [p for p in parents if p[1]] == [("g0/1", "g0/0", 2), ("g0/2", "g0/0", 2)]


def test_9_branches_do_not_pile_up_environments() -> None:
    made: list[Walk] = []

    class Kept(Walk):
        def __init__(self, log: list[str] | None = None) -> None:
            super().__init__(log)
            made.append(self)

        def fork(self) -> Walk:
            twin = Kept()
            twin.way, twin.seed, twin.length = list(self.way), self.seed, self.length
            return twin

    with Rollout(Kept, Counting(), max_concurrent_episodes=2, branching=Branchy(1, 1, 3)) as rollout:
        list(rollout.play(groups(20, size=4, length=2)))
        assert sum(not env.closed for env in made) <= 2
    assert all(env.closed == 1 for env in made)


def test_9_what_cannot_be_forked_is_said() -> None:
    class Rigid(Walk):
        fork = None  # type: ignore[assignment]

    with (
        Rollout(Rigid, Counting(), branching=Branchy(1, 1, 1)) as rollout,
        pytest.raises(ContractError, match=r"Rigid cannot be forked, which branching needs: .* has no fork"),
    ):
        list(rollout.play(groups(1, size=2, length=3)))


def test_9_a_failed_root_that_was_to_branch_is_made_up_for() -> None:
    class FirstFails(Counting):
        def submit(self, request: Request) -> Reply | Future[Reply]:
            if request.episode.endswith("/0"):
                raise PolicyError("no")
            return super().submit(request)

    episodes, _ = play(Walk, FirstFails(), groups(2, size=4, length=3), branching=Branchy(1, 1, 1))
    assert Counter(e.failed for e in episodes.values()) == {True: 2, False: 6}


# 10 and the rest ------------------------------------------------------------------------------------------------------


def test_10_an_environment_is_charged_before_the_action_is_played() -> None:
    log: list[str] = []

    class Charged(Walk):
        def charge(self, usage: Usage) -> None:
            self.log.append(f"{self.seed} pays {usage.completion_tokens}")

    class Costly(SyncPolicy):
        def submit(self, request: Request) -> Reply:
            return Reply("go", usage=Usage(completion_tokens=len(request.turns) + 5))

    play(lambda: Charged(log), Costly(), groups(2))
    assert log == ["0 pays 5", "0:0", "1 pays 5", "1:0", "1 pays 6", "1:1"]


def test_seconds_are_kept_apart() -> None:
    class Slow(Walk):
        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            time.sleep(0.02)
            return super().step(action)

    class Thinking(SyncPolicy):
        def submit(self, request: Request) -> Reply:
            time.sleep(0.05)
            return Reply("go", usage=Usage(10, 3, 0.5))

    episodes, _ = play(Slow, Thinking(), groups(1))
    usage = episodes["g0/0"].turns[0].usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.cost) == (10, 3, 0.5)
    assert usage.model_seconds >= 0.05
    assert usage.tool_seconds >= 0.02
    assert usage.waiting_seconds >= 0


def test_every_environment_is_closed_even_if_play_is_left() -> None:
    made: list[Walk] = []

    def make() -> Walk:
        made.append(Walk())
        return made[-1]

    with Rollout(make, Batching(), max_concurrent_episodes=5) as rollout:
        next(rollout.play(groups(20)))
    assert len(made) == 5
    assert [env.closed for env in made] == [1] * 5


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_concurrent_episodes": 0}, "max_concurrent_episodes must be at least 1"),
        ({"max_turns": 0}, "max_turns must"),
    ],
)
def test_settings_are_checked(settings: dict[str, int], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Rollout(Walk, Counting(), **settings)  # type: ignore[arg-type]


def test_9_branches_are_generated_beside_the_reply_that_a_policy_shows_early() -> None:
    class Early(Batching):
        """Shows a reply one advance before it is complete."""

        def submit(self, request: Request) -> Future[Reply]:
            self.shown = [*getattr(self, "shown", []), request] if request.probed else getattr(self, "shown", [])
            return super().submit(request)

        def advance(self) -> bool:
            shown, self.shown = getattr(self, "shown", []), []
            for request in shown:
                assert request.probed is not None
                request.probed(Reply(""))
            return bool(shown) or super().advance()

    class Probing(Branchy):
        probe = 3

    early, late = Early(), Batching()
    todo = groups(1, size=3, length=4)
    shown, _ = play(Walk, early, todo, branching=Probing(1, 2, 2))
    whole, _ = play(Walk, late, todo, branching=Probing(1, 2, 2))
    assert early.batches == [1, 1, 3, 3]  # the branches are in the same batch as the turn they were forked at
    assert late.batches == [1, 1, 1, 3, 2]
    assert shown == whole


def test_an_episode_whose_step_is_done_goes_on_before_the_next_one_is_handled() -> None:
    """It then waits while the others are handled, instead of all waiting together afterwards."""

    class Waiting(TextEnv):
        waits = True

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
            self.turn = 0
            return "begin", {"task_id": "x", "anchor": "0"}

        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            self.turn += 1
            return "on", 0.0, self.turn == 2, False, {"task_id": "x", "anchor": str(self.turn)}

    log: list[str] = []

    def act(request: Request) -> str:
        log.append(f"ask {request.episode}")
        while len(log) == 3 and rollout._events.qsize() < 2:  # the steps of the first two are done, unhandled
            time.sleep(0.001)
        return "go"

    with Rollout(Waiting, ScriptedPolicy(act), max_concurrent_episodes=3) as rollout:
        rollout.pace = Pace("", 3, watch=lambda pace: log.append("turn"))
        list(rollout.play(Group(str(n), Task(n)) for n in range(3)))
    first = log.index("turn")
    assert log[first + 1].startswith("ask")
    assert log[first + 2] == "turn"
