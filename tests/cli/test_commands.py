from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from agentgym import cli
from agentgym.cli import command_modules, make_app
from agentgym.env import TextEnv
from agentgym.records import Episode, StopReason, Task, ToolCall, Turn
from agentgym.store import EpisodeWriter, RunFolder, read_episodes

HOUSE = "agentgym/Household-v0"


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        assert isinstance(end.value.code, int)
        return Result(end.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def lists_too_much() -> Any:
    """A registered environment that breaks a rule."""

    class Fly(TextEnv):
        """Flies\x1b[31m."""

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
            super().reset(seed=seed)
            return "hello \x1b]0;owned\x07", {"task_id": "t", "anchor": "a"}

        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            raise RuntimeError("no wings")

    gym.register("test/Fly-v0", entry_point=Fly, disable_env_checker=True)
    yield "test/Fly-v0"
    del gym.registry["test/Fly-v0"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["chek"], "No such command 'chek'. Did you mean 'check'?; see: agentgym --help"),
        (["check"], "Missing argument 'env'; see: agentgym check --help"),
        (["check", "--sedes", "3", HOUSE], "No such option: --sedes"),
        (["check", "--seeds", "none", HOUSE], "Invalid value for '--seeds'"),
        (["check", "--seeds", "0", HOUSE], "Invalid value for '--seeds'"),
        (["check", "agentgym/Houshold-v0"], "unknown environment 'agentgym/Houshold-v0'; did you mean 'agentgym/Hou"),
        (["check", "nowhere:x/Y-v0"], "cannot import 'nowhere': No module named 'nowhere'"),
        (["check", HOUSE, "split=tset"], "unknown split 'tset'; did you mean 'test'?"),
        (["check", HOUSE, "rooms=3"], "unexpected keyword argument 'rooms'"),
        (["check", HOUSE, "test"], "'test' is not a setting; write key=value, e.g. split=test"),
        (["check", HOUSE, "a=1", "a=2"], "'a' is set twice; keep one of them"),
        (["check", HOUSE, "split=test", "--split", "test"], "the split is set twice; keep --split or split=, not both"),
        (["check", HOUSE, "a=[1"], "cannot read the value '[1'"),
        (["play", HOUSE, "--policy", "exprt"], "unknown policy 'exprt'; did you mean 'expert'"),
        (["play", HOUSE, "--policy", "expert:2"], "expert:2: the share of random actions must be a number from 0 to 1"),
        (["play", HOUSE, "--policy", "expert:"], "policy 'expert:' ends after its colon"),
        (["play", HOUSE, "--policy", "random:3"], "this policy takes nothing after its name, got '3'"),
        (["play", HOUSE, "--policy", "replay"], "replay needs a run folder or an episode file"),
        (["play", HOUSE, "--policy", "replay:nowhere"], "nowhere does not exist; give a run folder or an episodes-"),
        (["play", HOUSE, "--policy", "model"], "model needs a folder or a hub name"),
        (["play", HOUSE, "max_turns=0", "--policy", "expert"], "max_turns=0: give a positive integer"),
        (["play", HOUSE, "--max-turns", "0"], "Invalid value for '--max-turns'"),
        (["algorithms", "gigppo"], "unknown algorithm 'gigppo'; did you mean 'gigpo'"),
        (["recipes"], "No such command 'recipes'"),
        (["report", "nowhere"], "nowhere is not a folder; give the folder of a run"),
        (["report", "."], ". is not a run folder: it has no run.yaml"),
        (["export", "nowhere"], "nowhere does not exist; give a run folder"),
        (["envs", "nowhere"], "cannot import 'nowhere'"),
        (["envs", "a b"], "cannot import 'a b': that is no module name"),
        (["check", "\x1b[31m\nx\u202e"], r"unknown environment '\\x1b[31m\\nx\\u202e'"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(
    run: Any, arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.code == 2
    assert result.err.startswith("agentgym: ")
    assert result.err.count("\n") == 1
    assert said.replace("\\\\", "\\") in result.err
    assert "Traceback" not in result.err
    assert result.out == ""


def test_python_runs_unprotected_only_on_request_and_with_a_warning(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shared: dict[Any, Any] = {}
    monkeypatch.setattr("agentgym.tools.python.tool._shared", shared)
    play = ["play", "agentgym/Code-v0", "families=powers", "--policy", "expert", "--sandbox", "unsafe-local"]
    refused = run(*play)
    assert refused.code == 2
    assert "--unsafe-local-python" in refused.err
    with pytest.warns(RuntimeWarning, match="runs without a sandbox"):
        played = run(*play, "--unsafe-local-python")
    assert played.code == 0
    assert "solved after 2 turns, reward 1" in played.out
    for sandbox in shared.values():
        sandbox.close()


@pytest.mark.parametrize("command", ["play", "eval", "check", "train"])
def test_the_sandbox_is_an_argument_of_the_environment(run: Any, command: str) -> None:
    more = {"play": ["--policy", "expert"], "eval": ["--policy", "expert"], "check": [], "train": ["--model", "tiny"]}
    result = run(command, HOUSE, *more[command], "--sandbox", "docker", "--unsafe-local-python")
    assert result.code == 2
    assert "cannot be made with" in result.err
    assert "'sandbox': 'docker', 'unsafe_local_python': True" in result.err


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("agentgym.registry.env_ids", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["envs"])


def test_a_file_that_cannot_be_written_is_one_line(run: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run("play", HOUSE, "--policy", "expert", "--save", str(tmp_path / "file" / "x"))
    assert result.code == 2
    assert result.err == f"agentgym: {tmp_path / 'file' / 'x'}: Not a directory\n"


def test_every_command_is_one_file_and_says_what_it_does(run: Any) -> None:
    folder = Path(cli.__file__).parent
    files = {p.stem.replace("_", "-") for p in folder.glob("*.py")} - {"--init--"}
    assert {c.name for c in make_app().registered_commands} == files
    assert {name for name, _ in command_modules()} == files
    assert {"envs", "check", "play", "algorithms", "report", "export", "new-env"} <= files
    assert [p.parent.name for p in folder.rglob("__init__.py")].count("console") == 1  # what they share is apart
    shown = run("--help")
    assert shown.code == 0
    for name in files:
        assert f"  {name} " in shown.out
        page = run(name, "--help")
        assert page.code == 0
        assert page.out.startswith(f"Usage: agentgym {name}")


def test_without_a_command_the_help_is_shown(run: Any) -> None:
    result = run()
    assert result.code == 2
    assert "Usage: agentgym [OPTIONS] COMMAND" in result.out


def test_help_loads_nothing_heavy() -> None:
    code = "import sys; from agentgym.cli import command_modules, make_app; make_app(); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"torch", "transformers", "pydantic", "pyarrow", "jinja2", "httpx", "rich.table", "agentgym.envs.household"}
    assert not heavy & set(modules)


def test_the_module_runs_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "agentgym", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == "0.1.0\n"


def test_a_reader_that_has_gone_is_no_error() -> None:
    code = "import sys; from agentgym.cli import main; sys.stdout.write('x' * 100000); main(['envs'])"
    done = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -c "{code}" | head -c 1; exit ${{PIPESTATUS[0]}}'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr


def test_envs_lists_ids_splits_and_descriptions(run: Any, lists_too_much: str) -> None:
    result = run("envs")
    house = next(line for line in result.out.splitlines() if line.startswith(HOUSE))
    assert "train, test, unseen" in house
    assert "one task in one house" in house
    assert lists_too_much not in result.out  # registered without an entry point


def test_envs_lists_what_a_module_registers(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_listed_world.py").write_text(
        "import gymnasium\n"
        "from agentgym import TextEnv\n"
        "class World(TextEnv):\n    'Small [bold]world[/].\\x1b[31m'\n"
        "gymnasium.register('me/Listed-v0', entry_point='my_listed_world:World', disable_env_checker=True)\n"
        "gymnasium.register('me/Gone-v0', entry_point='my_listed_world:Gone', disable_env_checker=True)\n"
    )
    monkeypatch.chdir(tmp_path)
    try:
        result = run("envs", "my_listed_world")
        assert result.code == 0
        assert r"Small [bold]world[/].\x1b[31m" in result.out
        assert "cannot be imported: module 'my_listed_world' has no attribute 'Gone'" in result.out
        assert run("check", "my_listed_world:me/Listed-v0").code == 1  # it has no reset; named all the same
    finally:
        gym.registry.pop("me/Listed-v0", None)
        gym.registry.pop("me/Gone-v0", None)
        sys.modules.pop("my_listed_world", None)
        sys.path.remove(str(tmp_path))


def test_check_tells_what_holds(run: Any) -> None:
    result = run("check", HOUSE, "--split", "unseen", "--seeds", "1", "--turns", "3")
    assert result.code == 0
    assert result.out.startswith(f"{HOUSE}: ")
    assert "broken" not in result.out


def test_check_exits_with_1_on_violations(run: Any, lists_too_much: str) -> None:
    result = run("check", lists_too_much)
    assert result.code == 1
    assert "raised RuntimeError: no wings" in result.out
    assert "3 broken" in result.out  # it also takes any option, and any step fails


def test_play_shows_and_saves_and_plays_again(run: Any, tmp_path: Path) -> None:
    result = run("play", HOUSE, "--policy", "expert", "--seed", "3", "--split", "test", "--save", str(tmp_path))
    assert result.code == 0
    assert "Your task is to" in result.out
    assert "\n> go to " in result.out
    assert "solved after" in result.out
    (stored,) = read_episodes(tmp_path)
    assert stored.success
    assert stored.task.seed == 3
    again = run("play", HOUSE, "--policy", f"replay:{tmp_path}", "--seed", "3", "split=test")
    assert again.out in result.out
    short = run("play", HOUSE, "--policy", "expert", "--seed", "3", "--max-turns", "2")
    assert "ended after 2 turns, reward 0 (turn limit)" in short.out
    wrong = run("play", HOUSE, "--policy", f"replay:{tmp_path}", "--seed", "4", "split=test")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)
    assert "the policy cannot play this: PolicyError: no recorded episode of task" in wrong.err


def test_a_person_plays(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter(["", "look", "jump"])

    def ask(prompt: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", ask)
    result = run("play", HOUSE)
    assert result.code == 0
    assert result.out.startswith("You act in a house, one action a turn")
    assert "\ninventory\n" in result.out  # the empty line listed the actions
    assert "Not understood" in result.out
    assert "ended after 2 turns, reward 0 (policy stopped)" in result.out


def test_a_failing_environment_is_told_and_exits_with_1(
    run: Any, lists_too_much: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda prompt: "fly")
    result = run("play", lists_too_much)
    assert result.code == 1
    assert "not solved after 1 turn, reward 0 (action error: RuntimeError: no wings)" in result.out
    assert "\x1b" not in result.out
    assert r"hello \x1b]0;owned\x07" in result.out


def test_algorithms_are_listed_with_a_page_each(run: Any) -> None:
    listed = run("algorithms")
    assert listed.code == 0
    names = [line.split()[0] for line in listed.out.splitlines()[1:]]
    assert "gigpo" in names
    page = run("algorithms", "gigpo")
    assert "discount" in page.out
    assert "0.95" in page.out
    assert "agentgym train ENV --algorithm gigpo discount=..." in page.out


def test_report_writes_the_page(run: Any, tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", {"env": HOUSE})
    result = run("report", str(tmp_path / "run"))
    assert (result.code, result.out) == (0, f"{tmp_path / 'run' / 'report.html'}\n")
    assert (tmp_path / "run" / "report.html").read_text().startswith("<!doctype html>")


def test_export_writes_parquet(run: Any, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    call = ToolCall("search", {"query": "é", "k": 3}, "found \ud800", cost=0.5)
    episode = Episode(
        "g/0", "t/T-v0", Task(2**70, {"a": [1]}, "x"), (Turn("o", "a", 1.0, tool_calls=(call,)),), StopReason.BUDGET
    )
    with EpisodeWriter(tmp_path / "episodes-a.jsonl.zst") as writer:
        for _ in range(3):
            writer.append(episode)
    result = run("export", str(tmp_path))
    assert (result.code, result.out) == (0, f"3 episodes in {tmp_path / 'episodes.parquet'}\n")
    assert result.code == 0
    row = parquet.read_table(tmp_path / "episodes.parquet").to_pylist()[2]
    assert row["task"] == {"seed": str(2**70), "options": '{"a": [1]}', "task_id": "x"}
    assert row["turns"][0]["tool_calls"][0]["arguments"] == '{"query": "\\u00e9", "k": 3}'
    assert row["turns"][0]["tool_calls"][0]["result"] == r"found \ud800"
    assert (row["stop"], row["success"], row["reward"], row["tool_calls"]) == ("budget", None, 1.0, 1)
    assert row["turns"][0]["sample"] is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["episodes-a.jsonl.zst", "episodes.parquet"]
