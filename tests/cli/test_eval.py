"""``agentgym eval``: the table, the files, resuming after kill -9, and what is refused."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from agentgym.cli import main
from agentgym.store import RunFolder, read_episodes

HOUSE = "agentgym/Household-v0"

TOY = '''
"""A question that the expert answers after as many calls as its seed says (1, 2 or 3), twice asking the same."""
import gymnasium
from agentgym.envs.tool_env import Call, Question, ToolEnv
from agentgym.tools.tool import tool

@tool(price=0.5)
def step(number: int) -> str:
    """Go on.

    Args:
        number: which step.
    """
    return "ok"

def expert(env):
    needed = int(env.question.answers[0])
    done = sum(call.error is None for call in env.calls)
    if len(env.calls) < needed:
        return Call("step", {"number": 1})
    return str(needed) if done == needed else "0"

class Toy(ToolEnv):
    def __init__(self, syntax="tags", split="train"):
        tasks = [Question(f"needs {i % 3 + 1} steps ({i})", answers=[str(i % 3 + 1)]) for i in range(9)]
        super().__init__([step], {"train": tasks[:3], "test": tasks[3:]}, lambda answer, q: answer in q.answers,
                         expert=expert, syntax=syntax, split=split)

gymnasium.register("toy/Toy-v0", entry_point=Toy, disable_env_checker=True)

def hands_on(**options):
    return Toy(**options)

gymnasium.register("toy/HandsOn-v0", entry_point=hands_on, disable_env_checker=True)

def alone():
    return ToolEnv([step], [Question(f"needs {i}") for i in range(9)], lambda answer, q: 0.0)

gymnasium.register("toy/Alone-v0", entry_point=alone, disable_env_checker=True)
'''


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["eval", *arguments])
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "module"
    folder.mkdir()
    (folder / "toy_eval_world.py").write_text(TOY)
    monkeypatch.syspath_prepend(folder)
    return "toy_eval_world:toy/Toy-v0"


def test_every_figure_of_a_small_sweep(toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sweep"
    assert run(toy, "--policy", "expert", "--budget", "0,1,2,inf", "--out", str(out), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert {**json.loads((out / "result.json").read_text()), "timing": told["timing"]} == told
    assert json.loads((out / "timing.json").read_text()) == told["timing"]
    assert (told["env"], told["options"]) == ("toy/Toy-v0", {"split": "test"})
    (curve,) = told["policies"]
    # Six tasks that need 1, 2, 3, 1, 2, 3 calls. A refused call is asked for, and not made.
    assert [r["budget"] for r in curve["rows"]] == ["tool_calls=0", "tool_calls=1", "tool_calls=2", "inf"]
    assert [r["episodes"] for r in curve["rows"]] == [6] * 4
    assert [r["successes"] for r in curve["rows"]] == [0, 2, 4, 6]
    assert [r["calls"]["mean"] for r in curve["rows"]] == [0, 1, 10 / 6, 2]
    assert [r["refused"] for r in curve["rows"]] == [12, 6, 2, 0]
    assert [r["repeats"] for r in curve["rows"]] == [0, 0, 4, 6]
    assert [r["wasted"] for r in curve["rows"]] == [0, 0, 4, 6]
    assert [r["productivity"] for r in curve["rows"]] == [None, 2 / 6, 4 / 10, 6 / 12]
    assert [r["cost"]["mean"] for r in curve["rows"]] == pytest.approx([0, 0.5, 5 / 6, 1.0])
    assert [r["cost_of_pass"] for r in curve["rows"]] == [None, *map(pytest.approx, (1.5, 1.25, 1.0))]
    assert [r["stops"] for r in curve["rows"]] == [{"terminated": 6}] * 4
    assert (curve["limit"], curve["sufficient_budget"]) == ("tool_calls", None)
    # log2(1 + b) = 0, 1, 1.585: 1/6 + .585 * (1/3 + 2/3) / 2
    assert curve["area"] == pytest.approx(1 / 6 + 0.5849625 / 2)
    circles = ElementTree.parse(out / "success.svg").getroot().iter("{http://www.w3.org/2000/svg}circle")
    assert len(list(circles)) == 4


def test_two_policies_are_played_and_compared(toy: str, capsys: pytest.CaptureFixture[str]) -> None:
    policies = ("--policy", "expert", "--policy", "expert:0")
    arguments = (*policies, "--budget", "per_tool.step=2,3;inf", "--on-exhausted", "truncate")
    assert run(toy, *arguments) == 0
    said = capsys.readouterr().out
    rows = [line.split() for line in said.splitlines()]
    assert rows[1][:4] == ["expert", "per_tool.step=2", "66.7", "%"]
    assert "expert: 95 % of the unlimited success from per_tool.step=3 on; area" in said
    assert "expert against expert:0, on the same tasks:" in said
    assert "  inf: success +0.0 points (+0.0 to +0.0), p = 1.0000; calls +0.00 (+0.00 to +0.00); 6 tasks" in said


def test_where_no_task_was_played_by_both_nothing_is_compared(
    toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(toy, "split=train", "--policy", "expert", "--out", str(tmp_path / "a")) == 0
    capsys.readouterr()
    assert run(toy, "--policy", "expert", "--policy", f"replay:{tmp_path / 'a'}") == 1
    said = capsys.readouterr().out
    assert "against" not in said
    assert "nan" not in said
    assert "expert, inf: warning" not in said
    assert "every episode ended in an error, so nothing is known about the policy" in said


FAILING = '''
"""Ends at once, solved; of the tasks of the test split some break in the world and some by the action."""
import gymnasium
from agentgym.env import TextEnv
from agentgym.errors import WorldFault

class Failing(TextEnv):
    def __init__(self, world=0, action=0, split="test"):
        super().__init__(split=split)
        self.world, self.action = world, action

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.number = seed
        return "go", {"task_id": str(seed), "anchor": str(seed), "admissible": ["go"]}

    def step(self, action):
        if self.number < self.world:
            raise WorldFault("the server is gone")
        if self.number < self.world + self.action:
            raise ZeroDivisionError("Fraction(5, 0)")
        return "done", 1.0, True, False, {"task_id": str(self.number), "anchor": "end", "success": True}

gymnasium.register("toy/Failing-v0", entry_point=Failing, disable_env_checker=True)
'''


@pytest.fixture
def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "failing_eval_world.py").write_text(FAILING)
    monkeypatch.syspath_prepend(tmp_path)
    return "failing_eval_world:toy/Failing-v0"


WORLD = "episodes failed in the world or the policy and are left out; the first: WorldFault: the server is gone"
ACTION = (
    "episodes broke the environment by an action and count as failures; the first: ZeroDivisionError: Fraction(5, 0)"
)
NOTHING = "random, inf: every episode ended in an error, so nothing is known about the policy"


@pytest.mark.parametrize(
    ("world", "action", "code", "said", "success"),
    [
        (1, 2, 0, [f"random, inf: 1 of 20 {WORLD}", f"random, inf: 2 of 20 {ACTION}"], 17 / 19),
        (2, 0, 0, [f"random, inf: warning, more than 5 %: 2 of 20 {WORLD}"], 1.0),
        (20, 0, 1, [f"random, inf: warning, more than 5 %: 20 of 20 {WORLD}", NOTHING], None),
        (0, 20, 1, [f"random, inf: 20 of 20 {ACTION}", NOTHING], 0.0),
        (0, 0, 0, [], 1.0),
    ],
)
def test_failed_episodes_are_told_with_their_first_reason(
    failing: str, capsys: pytest.CaptureFixture[str], world: int, action: int, code: int, said: list[str], success: Any
) -> None:
    options = (f"world={world}", f"action={action}", "--policy", "random", "--episodes", "20")
    assert run(failing, *options) == code
    table, *lines = capsys.readouterr().out.rstrip().rsplit("\n", len(said)) if said else [capsys.readouterr().out]
    assert lines == said
    columns = table.splitlines()[0]
    assert ("failed" in columns, "action errors" in columns) == (world > 0, action > 0)
    assert run(failing, *options, "--json") == code
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-len(said) :] == said if said else NOTHING not in printed.err
    (row,) = json.loads(printed.out)["policies"][0]["rows"]
    assert (row["failed"], row["action_errors"], row["success"]) == (world, action, success)


def test_calls_are_not_compared_where_there_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(HOUSE, "--policy", "expert", "--policy", "expert:0", "--episodes", "2") == 0
    said = capsys.readouterr().out
    assert "  inf: success +0.0 points (+0.0 to +0.0), p = 1.0000; 2 tasks" in said


def test_a_policy_that_cannot_play_is_refused_before_any_episode(
    toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--policy", "expert", "--policy", "expert:0.5", "--policy", "random", "--episodes", "3")
    assert run(toy, *arguments) == 0  # tools are called with arguments that fit their schemas
    capsys.readouterr()
    RunFolder.create(tmp_path / "empty", {"env": "x"})
    assert run(toy, "--policy", "expert", "--policy", str(tmp_path / "empty")) == 2
    refused = capsys.readouterr()
    assert (refused.out, "empty has no checkpoint" in refused.err) == ("", True)
    alone = toy.replace("Toy-v0", "Alone-v0")
    told = "agentgym: toy/Alone-v0 has no expert, or one without an action for any of 8 tasks; "
    assert run(alone, "--policy", "random", "--policy", "expert", "--out", str(tmp_path / "out")) == 2
    refused = capsys.readouterr()
    assert (refused.out, refused.err.startswith(told)) == ("", True)
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit) as end:
        main(["play", alone, "--policy", "expert"])
    refused = capsys.readouterr()
    assert (end.value.code, refused.out, refused.err.startswith(told)) == (2, "", True)


def test_without_tools_a_number_limits_turns(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(HOUSE, "--policy", "expert", "--budget", "3", "--episodes", "2", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["policies"][0]["rows"][0]["budget"] == "turns=3"
    assert told["policies"][0]["rows"][0]["stops"] == {"budget": 2}
    assert told["options"] == {"split": "test"}


def test_an_evaluation_without_a_budget_has_one_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(HOUSE, "split=train", "--policy", "expert", "--episodes", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].split()[:3] == ["expert", "inf", "100.0"]


def test_price_lists_count(toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("tools: {step: 2}")
    assert run(toy, "--policy", "expert", "--prices", str(prices), "--budget", "cost=3.5,inf", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["policies"][0]["rows"]
    assert [r["cost"]["mean"] for r in rows] == [2, 4]
    assert [r["successes"] for r in rows] == [2, 6]


def test_recordings_are_played_again(toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(toy, "--policy", "expert", "--out", str(tmp_path / "a")) == 0
    assert run(toy, "--policy", f"replay:{tmp_path / 'a'}", "--json") == 0
    told = capsys.readouterr().out
    assert json.loads(told[told.index("{") :])["policies"][0]["rows"][0]["successes"] == 6


def test_a_finished_evaluation_is_not_played_again(toy: str, tmp_path: Path) -> None:
    arguments = (toy, "--policy", "expert", "--budget", "1,inf", "--out", str(tmp_path / "a"))
    assert run(*arguments) == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    assert run(*arguments) == 0
    assert {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()} == before
    assert run(*arguments, "--budget", "1,2,inf") == 0  # adding a budget plays only that
    assert len(list(read_episodes(tmp_path / "a"))) == 18


def test_an_evaluation_that_was_not_played_leaves_no_folder(toy: str, tmp_path: Path) -> None:
    for policy in ("http://127.0.0.1:9/v1", f"model:{tmp_path}"):
        assert run(toy, "--policy", policy, "--out", str(tmp_path / "a")) == 2
        assert not (tmp_path / "a").exists()
    (tmp_path / "file").touch()
    assert run(toy, "--policy", "expert", "--out", str(tmp_path / "file" / "a")) == 2
    assert run(toy, "--policy", "expert", "--out", str(tmp_path / "a"), "--seed", "1") == 0


@pytest.mark.parametrize(
    ("played", "out", "said"),
    [
        (2, (), "nothing was kept: with --out FOLDER an evaluation can be resumed"),
        (2, ("--out", "kept"), "what was played is kept in kept; give the same command again to resume"),
        (0, ("--out", "kept"), "nothing was played yet; give the same command again"),
    ],
)
def test_an_interrupted_evaluation_says_how_to_resume(
    played: int,
    out: tuple[str, ...],
    said: str,
    toy: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(self: object, budget: object, episodes: Collection[object]) -> None:
        if len(episodes) == played:
            raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("agentgym.cli.console.screen.Screen.row", interrupt)
    assert run(toy, "--policy", "expert", *out) == 130
    assert f"interrupted; {said}\n" in capsys.readouterr().err
    assert (tmp_path / "kept").exists() == bool(played and out)
    assert not (played and out) or len(list(read_episodes(tmp_path / "kept"))) == 2


def test_kill_9_loses_nothing(tmp_path: Path) -> None:
    def start(folder: Path) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-c",
            "from agentgym.cli import main; main()",
            "eval",
            HOUSE,
            "--policy",
            "expert:0.2",
        ]
        options = ["--budget", "2,8,inf", "--episodes", "60", "--out", str(folder)]
        return subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)

    def count() -> int:
        return len(list(read_episodes(killed))) if list(killed.glob("*.zst")) else 0

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole).wait() == 0
    kept = 0
    for more in (20, 70):
        with start(killed) as process:
            while count() < kept + more and process.poll() is None:
                time.sleep(0.005)
            os.kill(process.pid, signal.SIGKILL)
        assert count() >= kept + more
        kept = count()
    assert start(killed).wait() == 0
    assert count() == 180
    assert (killed / "result.json").read_bytes() == (whole / "result.json").read_bytes()
    assert (killed / "success.svg").read_bytes() == (whole / "success.svg").read_bytes()


class ChatServer(http.server.BaseHTTPRequestHandler):
    """Calls ``step`` twice with a native call, then answers; fails for the tasks in ``broken``."""

    broken: tuple[str, ...] = ()

    def do_GET(self) -> None:
        self.answer({"data": [{"id": "little"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        chat = body["messages"]
        if any(f"({n})" in chat[1]["content"] for n in self.broken):
            self.answer({"error": {"message": "no\nluck"}}, 400)
            return
        message: dict[str, Any] = {"role": "assistant", "content": "2"}
        if sum(m["role"] == "tool" for m in chat) < 2:
            call = {"id": "x", "type": "function", "function": {"name": "step", "arguments": '{"number": 1}'}}
            message = (
                {"role": "assistant", "content": None, "tool_calls": [call]} if "tools" in body else {"content": "?"}
            )
        self.answer({"choices": [{"message": message}], "usage": {"prompt_tokens": 100, "completion_tokens": 10}})

    def answer(self, told: object, status: int = 200) -> None:
        content = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        return


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(ChatServer, "broken", ())
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), ChatServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def test_a_server_plays_with_native_tools(
    toy: str, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("models: {little: {prompt: 1000, completion: 10000}}")
    assert run(toy, "syntax=native", "--policy", url, "--prices", str(prices), "--budget", "1,inf", "--json") == 0
    (curve,) = json.loads(capsys.readouterr().out)["policies"]
    assert curve["policy"] == f"little@{url}"
    limited, free = curve["rows"]
    assert (free["successes"], free["tokens"]["mean"], free["prompt_tokens"]["mean"]) == (2, 30, 300)
    assert free["cost"]["mean"] == pytest.approx(2 * 0.5 + 3 * (0.1 + 0.1))
    assert (limited["calls"]["mean"], limited["refused"]) == (1, 6)


def test_failed_episodes_are_told(
    toy: str, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ChatServer, "broken", ("4", "8"))
    assert run(toy, "syntax=native", "--policy", url) == 0
    said = capsys.readouterr().out
    assert "2 of 6 episodes failed in the world or the policy and are left out; the first: PolicyError: " in said
    assert "answered 400: no luck" in said
    monkeypatch.setattr(ChatServer, "broken", tuple("345678"))
    assert run(toy, "syntax=native", "--policy", url) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [HOUSE],
            "name each policy once: --policy random, expert, expert:0.2, replay:FILE, a run's folder, a model's",
        ),
        ([HOUSE, "--policy", "expert", "--policy", "expert"], "name each policy once: "),
        ([HOUSE, "--policy", "expert", "--policy", "exprt"], "unknown policy 'exprt'; did you mean 'expert'"),
        ([HOUSE, "--policy", "person"], "a person cannot be evaluated; use: agentgym play ENV"),
        ([HOUSE, "--policy", "expert", "--budget", "tool_calls=4"], f"{HOUSE} has no tools, so tool calls cannot be"),
        ([HOUSE, "--policy", "expert", "--budget", "4,x"], "budget 'turns=x': 'x' is not a number"),
        ([HOUSE, "--policy", "expert", "--on-exhausted", "stop"], "unknown way to handle an exhausted budget 'stop'"),
        ([HOUSE, "--policy", "http://127.0.0.1:9/v1"], "http://127.0.0.1:9/v1 cannot be reached (ConnectError"),
        (
            [HOUSE, "--policy", "expert", "--out", "/proc"],
            "/proc exists and is not a run folder; choose another folder",
        ),
    ],
)
def test_what_cannot_be_done_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"agentgym: {message}")
    assert told.count("\n") == 1


def test_another_evaluation_is_not_mixed_in(toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(toy, "--policy", "expert", "--out", str(tmp_path / "a")) == 0
    assert run(toy, "--policy", "expert", "--out", str(tmp_path / "a"), "--seed", "1") == 2
    assert "holds results with seed=0, not 1; choose another folder" in capsys.readouterr().err


def test_the_help_says_what_a_number_means(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "tool calls where the environment has tools, else turns" in said


@pytest.mark.slow
def test_a_run_folder_plays_its_newest_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    options = ["run.updates=0", "rollout.max_turns=3", "eval.episodes=2"]
    options += [f"model.tiny.{size}" for size in ("layers=1", "hidden=32", "heads=2")]
    with pytest.raises(SystemExit) as end:
        main(["train", HOUSE, "--out", str(folder), *options])
    assert end.value.code == 0
    for policy in (str(folder), f"model:{folder}"):
        capsys.readouterr()
        arguments = ("--budget", "2", "--episodes", "3", "--max-new-tokens", "4", "--temperature", "0", "--json")
        assert run(HOUSE, "--policy", policy, *arguments) == 0
        (curve,) = json.loads(capsys.readouterr().out)["policies"]
        assert curve["policy"] == f"{folder}@update-0"
        assert curve["rows"][0]["tokens"]["mean"] <= 8


ODD = '''
import sys
import time
import gymnasium
from agentgym.env import TextEnv


class World(TextEnv):
    """One turn; something is wrong with it."""

    def __init__(self, wrong=""):
        super().__init__()
        self.wrong = wrong
        if wrong == "made":
            sys.exit(0)

    def reset(self, *, seed=None, options=None):
        if self.wrong == "reset":
            raise RuntimeError("no room")
        if self.wrong == "reset leaves":
            sys.exit(0)
        if self.wrong == "reset hangs":
            time.sleep(3600)
        if self.wrong == "reset of some" and seed % 2 == 0:
            raise RuntimeError("no room")
        if self.wrong == "reset gives nothing":
            return None
        return "go", {"task_id": str(seed), "anchor": "0", "admissible": ["yes"]}

    def step(self, action):
        return "done", 1.0, True, False, {"task_id": "x", "anchor": "1", "success": True}

    def expert(self):
        if self.wrong == "expert":
            sys.exit(0)
        return "yes"

    def close(self):
        if self.wrong == "close":
            raise OSError("stuck")
        if self.wrong == "close leaves":
            sys.exit(0)


gymnasium.register("odd/World-v0", entry_point=World, disable_env_checker=True)
'''


@pytest.fixture
def odd_worlds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "odd_worlds.py").write_text(ODD)
    monkeypatch.syspath_prepend(tmp_path)
    yield "odd_worlds:odd/World-v0"
    gymnasium.registry.pop("odd/World-v0", None)
    sys.modules.pop("odd_worlds", None)


@pytest.mark.parametrize(
    ("wrong", "policy", "code", "said"),
    [
        ("reset", "random", 1, "4 of 4 episodes failed in the world or the policy and are left out; the first: Run"),
        ("reset", "expert", 1, "every episode ended in an error, so nothing is known about the policy"),
        ("reset leaves", "expert", 1, "the first: SystemExit: 0"),
        ("reset gives nothing", "random", 1, "every episode ended in an error"),
        ("reset of some", "expert", 0, "2 of 4 episodes failed in the world or the policy"),
        ("expert", "expert", 1, "the first: SystemExit: 0"),
        ("close", "expert", 0, "100.0 %"),
        ("close leaves", "random", 0, "100.0 %"),
    ],
)
def test_a_world_that_is_broken_from_the_start_is_counted(
    odd_worlds: str, wrong: str, policy: str, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What an environment does before the first episode is no traceback, and ``sys.exit(0)`` in it is no success."""
    assert run(odd_worlds, f"wrong={wrong}", "--policy", policy, "--episodes", "4") == code
    assert said in capsys.readouterr().out


def test_a_world_whose_every_reset_hangs_is_counted(odd_worlds: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The time limit holds from the first reset on, which is made before any episode."""
    given = ("wrong=reset hangs", "--policy", "random", "--episodes", "2", "--step-seconds", "0.2")
    assert run(odd_worlds, *given) == 1
    assert "reset took longer than 0.2 seconds (step_seconds)" in capsys.readouterr().out


def test_a_world_that_ends_the_process_when_it_is_made_is_refused(
    odd_worlds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(odd_worlds, "wrong=made", "--policy", "random") == 2
    assert capsys.readouterr().err == "agentgym: odd/World-v0 cannot be made: it calls sys.exit(0)\n"


def test_a_module_that_is_a_script_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "odd_script.py").write_text("import sys; sys.exit(0)")
    monkeypatch.syspath_prepend(tmp_path)
    assert run("odd_script:odd/World-v0", "--policy", "random") == 2
    assert capsys.readouterr().err == (
        "agentgym: cannot import 'odd_script': it calls sys.exit(0); let it do so under if __name__ == '__main__'\n"
    )


def test_a_function_that_hands_its_arguments_on_is_evaluated_on_its_test_split(
    toy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = []
    for more in ([], ["--split", "train"], ["split=train"]):
        assert run(toy.replace("Toy-v0", "HandsOn-v0"), *more, "--policy", "expert", "--json") == 0
        told.append(json.loads(capsys.readouterr().out))
    assert [result["options"]["split"] for result in told] == ["test", "train", "train"]
    assert [result["policies"][0]["rows"][0]["episodes"] for result in told] == [6, 3, 3]
