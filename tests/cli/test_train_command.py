"""``agentgym train``: how options come together, and what is refused in one line."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from agentgym.cli import main
from agentgym.cli.train import _Console
from agentgym.errors import DiskFull, PolicyError, UsageError
from agentgym.failures import Failures
from agentgym.store import RunFolder
from agentgym.trainers.run.config import Run, TrainConfig, options
from agentgym.trainers.run.trainer import Training

HOUSE = "agentgym/Household-v0"
EXAMPLES = Path(__file__).parents[2] / "examples"
FREE = "eval.every, run.checkpoint_every, run.keep_checkpoints, run.stop_at, run.updates"
TINY = ["model.tiny.layers=1", "model.tiny.hidden=16", "model.tiny.heads=2"]


@pytest.fixture
def started(monkeypatch, tmp_path):
    """The configurations and folders of runs that would have begun."""
    found = []

    def start(config, folder, progress=None):
        found.append((config, folder))
        return SimpleNamespace(folder=SimpleNamespace(path=folder), run=lambda: None, update=0)

    monkeypatch.setattr(Training, "start", start)
    monkeypatch.chdir(tmp_path)
    return found


def run(*arguments):
    with pytest.raises(SystemExit) as left:
        main(["train", *map(str, arguments)])
    return left.value.code


def written(**options):
    path = Path("options.yaml")
    path.write_text(yaml.safe_dump(options))
    return path


def test_settings_are_options_or_parameters_of_the_algorithm(started):
    arguments = ["--algorithm", "gigpo", "discount=0.9", "run.updates=7", "env.max_turns=9", "model.tiny.hidden=64"]
    more = ["--with", "aggregate=token_mean", "optimizer.lr=3e-5", "sft.episodes=3", "algorithm.kl=0.2"]
    assert run(HOUSE, *arguments, *more) == 0
    ((config, folder),) = started
    assert (config.env, config.algorithm, config.run.updates, config.sft.episodes) == (HOUSE, "gigpo", 7, 3)
    assert (config.parameters, config.env_options) == ({"discount": 0.9, "kl": 0.2}, {"max_turns": 9})
    assert (config.overrides, config.optimizer.lr) == ({"aggregate": "token_mean"}, 3e-5)
    assert config.model.tiny.hidden == 64
    assert folder == Path("runs/household-v0-gigpo-1")


def test_a_file_may_name_everything_and_the_command_line_wins(started):
    sections = {"run": {"updates": 5, "seed": 3}, "optimizer": {"lr": "3e-5"}, "model": {"tiny": {"layers": 1}}}
    file = written(env=HOUSE, algorithm="gigpo", parameters={"discount": 0.9, "kl": 0.1}, **sections)
    assert run("--config", file) == 0
    assert run("--config", file, "run.updates=6", "discount=0.8", "--algorithm", "gigpo") == 0
    assert run("--config", file, "other/World-v0", "run.updates=6", "model.tiny.hidden=64") == 0
    first, second, third = (config for config, _ in started)
    assert (first.env, first.algorithm, first.run.updates, first.optimizer.lr) == (HOUSE, "gigpo", 5, 3e-5)
    assert (second.env, second.run.updates, second.parameters) == (HOUSE, 6, {"discount": 0.8, "kl": 0.1})
    assert (third.env, third.run.updates, third.run.seed) == ("other/World-v0", 6, 3)
    assert (third.model.tiny.layers, third.model.tiny.hidden) == (1, 64)


def test_a_file_means_what_it_says(started):
    """A number with an exponent is a number wherever it stands, a quoted one is a text; null is the default."""
    Path("options.yaml").write_text(
        f"env: {HOUSE}\nenv_options: {{rate: 3e-5, name: '3e-5', many: 1E3, text: 3e}}\noverrides:\nsft:\n"
        "optimizer.lr: 3e-5\nrun: {seed: 7}\n"
    )
    assert run("--config", "options.yaml", "--with", "aggregate=token_mean", "env.more=1") == 0
    ((config, _),) = started
    assert config.env_options == {"rate": 3e-5, "name": "3e-5", "many": 1000.0, "text": "3e", "more": 1}
    assert (config.optimizer.lr, config.run.seed, config.overrides) == (3e-5, 7, {"aggregate": "token_mean"})
    assert config.sft == TrainConfig(env=HOUSE).sft


def test_environment_and_algorithm_may_be_settings_too(started):
    assert run(f"env={HOUSE}", "algorithm=gigpo", "discount=0.8", "model.name=tiny") == 0
    ((config, folder),) = started
    assert (config.env, config.algorithm, config.parameters) == (HOUSE, "gigpo", {"discount": 0.8})
    assert folder == Path("runs/household-v0-gigpo-1")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_examples_are_accepted(started, path):
    assert run("--config", path) == 0
    assert started[0][0].env


def test_the_first_free_folder_is_taken(started):
    Path("runs/household-v0-grpo-1").mkdir(parents=True)
    assert run(HOUSE) == 0
    assert started[0][1] == Path("runs/household-v0-grpo-2")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "which environment? e.g. agentgym train agentgym/Household-v0 --algorithm gigpo"),
        (["run.updates=3"], "which environment?"),
        ([HOUSE, "--algorithm", "gigpu"], "unknown algorithm 'gigpu'; did you mean 'gigpo'"),
        (
            [HOUSE, "update=3"],
            "'update' is neither an option nor a parameter of algorithm grpo; did you mean 'run.updates'",
        ),
        (
            [HOUSE, "--algorithm", "gigpo", "discont=3"],
            "'discont' is neither an option nor a parameter of algorithm gigpo; did you mean 'discount'",
        ),
        ([HOUSE, "run.updates"], "'run.updates' is not key=value"),
        ([HOUSE, "run.updates=-1"], "run.updates: input should be greater than or equal to 0 (got -1)"),
        ([HOUSE, "optimizer.name=sgd"], "optimizer.name: input should be 'adamw' or 'muon' (got 'sgd')"),
        ([HOUSE, "--config", "none.yaml"], "none.yaml: No such file or directory"),
        ([HOUSE, "--config", "list.yaml"], "list.yaml must hold a mapping of options"),
        ([HOUSE, "--config", "broken.yaml"], "broken.yaml is not YAML"),
        ([HOUSE, "--config", "odd.yaml"], "unknown option 'True'"),
        ([HOUSE, "--config", "flat.yaml"], "'updates' is now 'run.updates'; write run.updates=VALUE"),
        ([HOUSE, "--config", "text.yaml", "--with", "loss=x"], "overrides.loss cannot be set: overrides is 'x'"),
        (
            [HOUSE, "--resume", "runs/1"],
            "--resume takes everything from the run folder",
        ),
        (["--resume", "runs/1"], "runs/1"),
        (
            ["--resume", "runs/1", "--algorithm", "grpo"],
            "--resume takes everything from the run folder; beside it only",
        ),
        (["--resume", "runs/1", "run.updates=3", "groups"], "'groups' is not key=value"),
        ([HOUSE, "--updates", "5"], "no such option --updates; write run.updates=5"),
        ([HOUSE, "--run.updates", "5"], "no such option --run.updates; write run.updates=5"),
        ([HOUSE, "--warm-start", "3"], "no such option --warm-start; write sft.episodes=3"),
        ([HOUSE, "--recipe", "gigpo"], "no such option --recipe; write algorithm=gigpo"),
        ([HOUSE, "--updates=5"], "no such option --updates; write run.updates=5"),
        ([HOUSE, "--group-size", "5"], "no such option --group-size; write rollout.group_size=5"),
        ([HOUSE, "--lr", "-3e-4"], "no such option --lr; write optimizer.lr=-3e-4"),
        ([HOUSE, "--lr"], "no such option --lr; write optimizer.lr=VALUE"),
        (
            [HOUSE, "--admissible", "--algorithm", "gigpo"],
            "no such option --admissible; write rollout.admissible=VALUE",
        ),
        ([HOUSE, "--tiny.layers", "1"], "no such option --tiny.layers; write model.tiny.layers=1"),
        ([HOUSE, "--algorithm", "gigpo", "--discount", "0.9"], "no such option --discount; write discount=0.9"),
        ([HOUSE, "--discount", "0.9"], "No such option: --discount"),
        ([HOUSE, "--algorithm", "nowhere", "--discount", "0.9"], "No such option: --discount"),
    ],
)
def test_wrong_requests_are_one_line(started, capfd, arguments, said):
    Path("list.yaml").write_text("- 1\n")
    Path("broken.yaml").write_text("{a: 1")
    Path("odd.yaml").write_text("on: 3\n")
    Path("flat.yaml").write_text("updates: 3\n")
    Path("text.yaml").write_text("overrides: x\n")
    assert run(*arguments) == 2
    error = capfd.readouterr().err
    assert error.startswith("agentgym: ")
    assert said in error
    assert error.count("\n") == 1
    assert started == []


def test_the_help_lists_every_option_with_its_default(capsys):
    assert run("--help") == 0
    said = capsys.readouterr().out
    listed = dict(options())
    assert {"env", "model.tiny.layers", "optimizer.lr", "run.updates"} <= set(listed)
    for path, field in listed.items():
        assert re.search(rf"^  {re.escape(path)}=", said, re.MULTILINE), path
        assert field.description, path
        assert " ".join(field.description.split()) in " ".join(said.split()), path
    assert "  rollout.groups=16 " in said
    assert "  optimizer.lr=0.0003 (tiny), 1e-06 (pre-trained), 1e-05 (with adapters)\n" in said


def made(folder):
    """A run folder of a run that has made two updates."""
    made = RunFolder.create(folder, TrainConfig(env="letters:tests/Letters-v0", run=Run(updates=2)).model_dump())
    with made.checkpoint(2) as path:
        (path / "model.safetensors").write_bytes(b"x")
    return made


def test_a_run_is_extended_when_it_is_resumed(monkeypatch, tmp_path):
    found = []
    monkeypatch.setattr(Training, "__init__", lambda self, folder, progress, allowed: setattr(self, "folder", folder))
    monkeypatch.setattr(Training, "run", lambda self: found.append(RunFolder(self.folder.path).config))
    monkeypatch.setattr(Training, "update", 2, raising=False)
    made(tmp_path / "run")
    assert run("--resume", tmp_path / "run", "run.updates=200", "run.stop_at=0.9") == 0
    (config,) = found
    assert (config["run"]["updates"], config["run"]["stop_at"], config["env"]) == (200, 0.9, "letters:tests/Letters-v0")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("optimizer.lr=1", f"--resume can change {FREE}, but not 'optimizer.lr'; start a new run for that"),
        ("updates=9", "'updates' is now 'run.updates'; write run.updates=VALUE"),
        ("run.updates=1", "run.updates=1: the run has made 2 already; give at least as many"),
        ("run.updates=many", "run.updates: input should be a valid integer"),
    ],
)
def test_what_would_be_another_run_is_refused_and_run_yaml_stays(change, said, tmp_path, capfd):
    before = (made(tmp_path / "run").path / "run.yaml").read_bytes()
    assert run("--resume", tmp_path / "run", change) == 2
    assert said in capfd.readouterr().err
    assert (tmp_path / "run" / "run.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("error", "code"),
    [(UsageError("no"), 2), (KeyboardInterrupt(), 130), (PolicyError("no"), 2), (OSError(5, "io"), None)],
)
def test_a_run_that_was_not_played_leaves_no_folder(error, code, monkeypatch, tmp_path, capfd):
    def stop(self):
        (self.folder.path / "metrics.jsonl").touch()
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Training, "_fresh", stop)
    small = [HOUSE, *TINY, "--out", "mine"]
    if code is None:
        with pytest.raises(OSError, match="io"):
            main(["train", *small])
    else:
        assert run(*small) == code
    assert not Path("mine").exists()
    told = capfd.readouterr().err
    assert ("interrupted; nothing was saved yet; give the same command again" in told) == (code == 130)


def test_a_full_disk_leaves_the_folder_and_a_resumed_run_stays(monkeypatch, tmp_path):
    def stop(self):
        raise DiskFull("no room")

    monkeypatch.setattr(Training, "_fresh", stop)
    small = [HOUSE, *TINY, "--out", tmp_path / "mine"]
    assert run(*small) == 2
    assert (tmp_path / "mine").exists()
    monkeypatch.setattr(Training, "_fresh", lambda self: [][0])
    with pytest.raises(IndexError):
        main(["train", "--resume", str(tmp_path / "mine")])
    assert (tmp_path / "mine").exists()


def test_an_interrupted_run_says_how_to_go_on(monkeypatch, tmp_path, capfd):
    def stop(self):
        with self.folder.checkpoint(7) as path:
            (path / "model.safetensors").write_bytes(b"x")
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Training, "_fresh", stop)
    assert run(HOUSE, *TINY, "--out", "my run") == 130
    told = capfd.readouterr().err
    assert told == "\ninterrupted; saved up to update 7; resume with: agentgym train --resume 'my run'\n"
    assert Path("my run/run.yaml").exists()


def test_failed_episodes_are_told_below_their_update_and_evaluation(capsys):
    show = _Console()
    well = Failures(10)._asdict() | {"update": 1, "success": 0.5}
    show("update", well)
    quiet = capsys.readouterr().out
    assert "failed" not in quiet
    assert "None" not in quiet
    show("update", well | Failures(10, 2, "WorldFault: gone", 1, "ValueError: [red]x").as_dict())
    show(
        "evaluation",
        {"update": 1} | {f"eval_{k}": v for k, v in Failures(9, 1, "OSError: no\x1b door")._asdict().items()},
    )
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    told = [line.strip() for line in told if "episodes" in line]
    left_out = "failed in the world or the policy and are left out; the first"
    assert told == [
        f"warning, more than 5 %: 2 of 10 episodes {left_out}: WorldFault: gone",
        "1 of 10 episodes broke the environment by an action and count as failures; the first: ValueError: [red]x",
        f"warning, more than 5 %: 1 of 9 episodes {left_out}: OSError: no\\x1b door",
    ]
