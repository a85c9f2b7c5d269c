"""What hangs: a time limit ends the episode, nothing else waits for it, and one Ctrl-C is enough."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentgym.budget import Budget, BudgetedEnv
from agentgym.env import TextEnv
from agentgym.envs.tool_env import Question, ToolEnv
from agentgym.errors import UsageError
from agentgym.policy import Reply, Request, ScriptedPolicy, SyncPolicy
from agentgym.records import Episode, StopReason, Task
from agentgym.rollout import Group, Independent, LiveEpisode, Rollout, stepping
from agentgym.tools.tool import tool

BAD = 2
LIMIT = 0.3
MODES = {"inline": {}, "threads": {"threads": 2}, "lockstep": {"threads": 2, "lockstep": True}}
GO = ScriptedPolicy(lambda request: "go")

pytestmark = pytest.mark.timeout(60)  # what hangs here hangs for longer


class World(TextEnv):
    """Three turns; hangs at ``where``, so many ``times``, in the episode of :data:`BAD`, until it is let go."""

    where, times = "", 0
    go = threading.Event()
    made: list[World] = []

    def __init__(self) -> None:
        super().__init__()
        self.closed = 0
        self.bad = False
        self.made.append(self)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        assert not self.closed, "a closed environment was used"
        self.turn, self.bad = 0, seed == BAD
        self.hang("reset")
        return "begin", {"task_id": str(seed), "anchor": "0"}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        assert not self.closed, "a closed environment was used"
        self.turn += 1
        self.hang(f"step {self.turn}")
        return "go on", 1.0, self.turn == 3, False, {"task_id": "x", "anchor": str(self.turn), "success": True}

    def fork(self) -> World:
        self.hang("fork")
        twin = type(self)()
        twin.turn = self.turn
        return twin

    def close(self) -> None:
        self.closed += 1
        self.hang("close")

    def hang(self, where: str) -> None:
        if self.bad and where == self.where and type(self).times > 0:
            type(self).times -= 1
            self.go.wait(300)


@pytest.fixture
def hangs() -> Iterator[Callable[..., type[World]]]:
    event = threading.Event()

    def make(where: str, times: int = 1) -> type[World]:
        return type("World", (World,), {"where": where, "times": times, "go": event, "made": []})

    yield make
    event.set()


def played(make: Callable[[], Any], size: int = 1, policy: Any = GO, **settings: Any) -> dict[str, Episode]:
    with Rollout(make, policy, max_concurrent_episodes=3, **settings) as rollout:
        return {e.id: e for e in rollout.play(Group(f"{seed}", Task(seed), size) for seed in range(6))}


@pytest.mark.parametrize("mode", MODES)
def test_a_step_that_hangs_is_one_failed_episode(hangs: Callable[..., type[World]], mode: str) -> None:
    world = hangs("step 2")
    episodes = played(world, step_seconds=LIMIT, **MODES[mode])
    bad = episodes.pop(f"{BAD}/0")
    assert (bad.stop, bad.success, bad.failed) == (StopReason.ACTION_ERROR, False, False)
    assert bad.failure == "step took longer than 0.3 seconds (step_seconds); it was left behind"
    assert [(t.action, t.reward, t.error) for t in bad.turns] == [("go", 1.0, None), ("go", 0.0, bad.failure)]
    assert bad.turns[1].usage.tool_seconds >= LIMIT
    assert len(episodes) == 5
    assert all((len(e.turns), e.failure) == (3, None) for e in episodes.values())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("times", "stop"), [(1, StopReason.TERMINATED), (2, StopReason.WORLD_FAULT)])
def test_a_reset_that_hangs_is_tried_once_more(
    hangs: Callable[..., type[World]], mode: str, times: int, stop: StopReason
) -> None:
    episodes = played(hangs("reset", times), step_seconds=LIMIT, **MODES[mode])
    bad = episodes.pop(f"{BAD}/0")
    assert bad.stop is stop
    assert (bad.failure is None) == (times == 1)
    assert all(e.stop is StopReason.TERMINATED for e in episodes.values())


@pytest.mark.parametrize("mode", MODES)
def test_what_comes_back_late_disturbs_nobody(hangs: Callable[..., type[World]], mode: str) -> None:
    """The hung reset comes back while the episode is played in another environment."""
    world = hangs("reset")

    class Releasing(SyncPolicy):
        def submit(self, request: Request) -> Reply:
            if request.episode == f"{BAD}/0":
                world.go.set()
                while not late.closed:  # the environment that was left behind is closed when it comes back
                    time.sleep(0.001)
            return Reply("go")

    late: Any = None

    def make() -> World:
        env = world()

        def noted(where: str, hang: Callable[[str], None] = env.hang) -> None:
            nonlocal late
            if where == "reset" and env.bad and late is None:
                late = env
            hang(where)

        env.hang = noted  # type: ignore[method-assign]
        return env

    episodes = played(make, policy=Releasing(), step_seconds=LIMIT, **MODES[mode])
    assert all((e.stop, len(e.turns)) == (StopReason.TERMINATED, 3) for e in episodes.values())


class OneBranch(Independent):
    def roots(self, size: int) -> int:
        return 1

    def branches(self, episode: LiveEpisode, reply: Reply) -> int:
        return int(len(episode.turns) == 1 and episode.parent is None)


@pytest.mark.parametrize("mode", MODES)
def test_a_fork_that_hangs_is_replaced_by_playing_again(hangs: Callable[..., type[World]], mode: str) -> None:
    want = played(hangs(""), 2, branching=OneBranch())
    assert played(hangs("fork"), 2, branching=OneBranch(), step_seconds=LIMIT, **MODES[mode]) == want


@pytest.mark.parametrize("mode", MODES)
def test_a_close_that_hangs_holds_nobody_up(
    hangs: Callable[..., type[World]], mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Breaking(hangs("close", 9)):  # type: ignore[misc]
        def step(self, action: str) -> Any:
            if self.bad:
                raise RuntimeError("boom")
            return super().step(action)

    episodes = played(Breaking, step_seconds=LIMIT, **MODES[mode])
    assert episodes[f"{BAD}/0"].failure == "RuntimeError: boom"
    assert len(episodes) == 6
    assert [r.getMessage() for r in caplog.records] == [
        "closing Breaking: OutOfTime: it took longer than 0.3 s and was left behind"
    ]


def test_the_others_go_on_while_one_hangs(hangs: Callable[..., type[World]]) -> None:
    """One thread only: the call that hangs in it is given up, and another thread takes its place."""
    episodes = played(hangs("step 1"), step_seconds=LIMIT, threads=1)
    assert sorted(len(e.turns) for e in episodes.values()) == [1, 3, 3, 3, 3, 3]
    assert episodes[f"{BAD}/0"].stop is StopReason.ACTION_ERROR


def test_a_call_that_waits_for_a_thread_uses_no_time() -> None:
    class Slow(World):
        def step(self, action: str) -> Any:
            time.sleep(LIMIT / 3)
            return super().step(action)

    with Rollout(Slow, GO, max_concurrent_episodes=6, threads=1, step_seconds=LIMIT) as rollout:
        episodes = list(rollout.play(Group(f"{seed}", Task(seed)) for seed in range(6)))
    assert [e.failure for e in episodes] == [None] * 6


def test_a_policy_that_works_does_not_hide_what_hangs(hangs: Callable[..., type[World]]) -> None:
    """The limit is looked at between two pieces of the policy's work, too."""

    class Busy(SyncPolicy):
        """Answers the others only after the one that hangs has failed."""

        def __init__(self) -> None:
            self.waiting: list[tuple[Request, Any]] = []
            self.failed = False

        def submit(self, request: Request) -> Any:
            from concurrent.futures import Future

            self.waiting.append((request, Future()))
            return self.waiting[-1][1]

        def advance(self) -> bool:
            if not self.waiting:
                return False
            ready = [w for w in self.waiting if self.failed or w[0].episode == f"{BAD}/0"]
            self.waiting = [w for w in self.waiting if w not in ready]
            for _, future in ready:
                future.set_result(Reply("go"))
            return True

        def release(self, episode: str) -> None:
            self.failed = self.failed or episode == f"{BAD}/0"

    with Rollout(hangs("step 1"), Busy(), max_concurrent_episodes=6, threads=6, step_seconds=LIMIT) as rollout:
        episodes = {e.id: e for e in rollout.play(Group(f"{seed}", Task(seed)) for seed in range(6))}
    assert episodes[f"{BAD}/0"].stop is StopReason.ACTION_ERROR
    assert sum(len(e.turns) for e in episodes.values()) == 1 + 15


def test_closing_does_not_wait_for_what_hangs(
    hangs: Callable[..., type[World]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stepping, "CLOSE_SECONDS", 0.05)
    world = hangs("step 1")
    with Rollout(world, GO, max_concurrent_episodes=2, threads=2) as rollout:
        assert next(rollout.play(Group(f"{seed}", Task(seed)) for seed in (1, BAD))).id == "1/0"
    assert len(world.made) == 2
    deadline = time.monotonic() + 30
    while not all(env.closed for env in world.made) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert all(env.closed for env in world.made)  # closing may be what ends a call


def test_a_call_that_ends_is_waited_for_when_closing() -> None:
    class Slow(World):
        waits = True
        made: list[World] = []
        stepped = 0

        def step(self, action: str) -> Any:
            time.sleep(0.2)
            type(self).stepped += 1
            assert not self.closed
            return super().step(action)

    with Rollout(Slow, GO, max_concurrent_episodes=3) as rollout:
        playing = rollout.play(Group(f"{seed}", Task(seed)) for seed in range(3))
        next(playing)
    assert all(env.closed == 1 for env in Slow.made)


# A budget of seconds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_budget_of_seconds_ends_a_step_that_hangs(hangs: Callable[..., type[World]], mode: str) -> None:
    world = hangs("step 2")
    episodes = played(lambda: BudgetedEnv(world(), Budget(seconds=LIMIT)), **MODES[mode])
    bad = episodes.pop(f"{BAD}/0")
    assert (bad.stop, bad.success, bad.failure, bad.truncated) == (StopReason.BUDGET, False, None, True)
    assert [(t.action, t.reward) for t in bad.turns] == [("go", 1.0), ("go", 0.0)]
    assert bad.final == "The budget of 0.3 seconds is used up; the episode is over."
    assert all((len(e.turns), e.failure, e.stop) == (3, None, StopReason.TERMINATED) for e in episodes.values())


def test_what_is_left_of_a_budget_is_what_counts(hangs: Callable[..., type[World]]) -> None:
    """The policy has used half of the seconds; the step gets the rest of them."""

    class Thinking(SyncPolicy):
        def submit(self, request: Request) -> Reply:
            if request.episode == f"{BAD}/0" and not request.turns:
                time.sleep(LIMIT)
            return Reply("go")

    world = hangs("step 2")
    episodes = played(lambda: BudgetedEnv(world(), Budget(seconds=2 * LIMIT)), policy=Thinking())
    bad = episodes[f"{BAD}/0"]
    assert bad.stop is StopReason.BUDGET
    assert bad.turns[1].usage.tool_seconds < 2 * LIMIT


def test_the_shorter_limit_wins(hangs: Callable[..., type[World]]) -> None:
    world = hangs("step 2")
    episodes = played(lambda: BudgetedEnv(world(), Budget(seconds=100)), step_seconds=LIMIT)
    assert episodes[f"{BAD}/0"].stop is StopReason.ACTION_ERROR


@pytest.mark.parametrize("mode", MODES)
def test_a_tool_that_hangs_costs_its_episode_the_rest_of_the_seconds(mode: str) -> None:
    go = threading.Event()

    @tool
    def look(place: str) -> str:
        """Look.

        Args:
            place: where.
        """
        go.wait(300)
        return "nothing"

    def act(request: Request) -> str:
        return "<look>there</look>" if len(request.turns) < 2 else "<answer>yes</answer>"

    def make() -> BudgetedEnv:
        tasks = {"train": [Question("look")]}
        return BudgetedEnv(ToolEnv([look], tasks, lambda answer, q: 1.0, syntax="tags"), Budget(seconds=LIMIT))

    with Rollout(make, ScriptedPolicy(act), **MODES[mode]) as rollout:
        (episode,) = rollout.play([Group("g", Task(0))])
    go.set()
    assert (episode.stop, episode.success) == (StopReason.TERMINATED, True)
    first, second = (turn.tool_calls[0] for turn in episode.turns[:2])
    assert first.status == "ran"
    assert re.fullmatch(r"look timed out after 0\.\d+ s, which is all that was left of the budget", str(first.error))
    assert second.status == "refused"
    assert second.error == "refused: the budget of 0.3 seconds is used up; go on without it"


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_limits_are_positive(seconds: float) -> None:
    with pytest.raises(UsageError, match=r"step_seconds must be positive seconds, or None for no limit; got"):
        Rollout(World, GO, step_seconds=seconds)


# Ctrl-C ---------------------------------------------------------------------------------------------------------------

MODULE = '''
import socket, time
import gymnasium
from agentgym.env import TextEnv

class Hang(TextEnv):
    """Hangs in its first step."""

    def __init__(self, waits=False, lockstep=False, split="train"):
        super().__init__(split=split)
        self.waits, self.lockstep = waits, lockstep

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return "begin", {"task_id": str(seed), "anchor": str(seed), "admissible": ["go"]}

    def step(self, action):
        print("hanging", flush=True)
        time.sleep(600)

gymnasium.register("t/Hang-v0", entry_point=Hang, disable_env_checker=True)
'''


@contextlib.contextmanager
def started(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    # A shell starts what it puts in the background with Ctrl-C ignored, these tests among it; a child inherits that.
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    finally:
        signal.signal(signal.SIGINT, heard)
    with child as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("how", [["waits=false"], ["waits=true"], ["waits=true", "lockstep=true"]])
def test_one_ctrl_c_ends_what_hangs(how: list[str], tmp_path: Path) -> None:
    (tmp_path / "hang.py").write_text(MODULE)
    command = [sys.executable, "-m", "agentgym", "eval", "hang:t/Hang-v0", *how, "--policy", "random"]
    with started(command, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("hanging")  # several may hang at once
        os.kill(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=40)
    assert process.returncode == 130, err
    assert "Traceback" not in err


def test_one_ctrl_c_ends_the_wait_for_a_server() -> None:
    asked, go = threading.Event(), threading.Event()

    class Silent(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = b'{"data": [{"id": "little"}]}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            asked.set()
            go.wait(300)

        def log_message(self, *args: Any) -> None:
            return

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Silent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        command = [sys.executable, "-m", "agentgym", "eval", "agentgym/Household-v0", "--policy", url]
        with started(command) as process:
            assert asked.wait(50)
            os.kill(process.pid, signal.SIGINT)
            _, err = process.communicate(timeout=40)
        go.set()
        server.shutdown()
    assert process.returncode == 130, err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("limit", "stop"), [(["--step-seconds", "0.3"], "action_error"), (["--budget", "seconds=0.3"], "budget")]
)
def test_an_evaluation_with_a_limit_ends_by_itself(limit: list[str], stop: str, tmp_path: Path) -> None:
    (tmp_path / "hang.py").write_text(MODULE)
    command = [sys.executable, "-m", "agentgym", "eval", "hang:t/Hang-v0", "--policy", "random", "--episodes", "3"]
    done = subprocess.run([*command, *limit, "--json"], cwd=tmp_path, capture_output=True, text=True, timeout=50)
    told = json.loads(done.stdout[done.stdout.index("{") :])
    assert told["policies"][0]["rows"][0]["stops"] == {stop: 3}
