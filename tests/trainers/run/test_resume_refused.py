"""What a run is not resumed from, what is told when it is, and that refusing changes nothing."""

from __future__ import annotations

import os
import re
import shutil

import letters
import pytest
import yaml
from small_runs import BASE, Crash, products, start

from agentgym.errors import StoreError, UsageError
from agentgym.store import RunFolder
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.run import run_file
from agentgym.trainers.run.config import TrainConfig
from agentgym.trainers.run.trainer import Training


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A run of four updates with the checkpoints 2 and 4."""
    path = tmp_path_factory.mktemp("runs") / "run"
    start(path, **{"run.updates": 4})
    return path


@pytest.fixture
def run(original, tmp_path):
    """A copy to do harm to."""
    return shutil.copytree(original, tmp_path / "run")


def everything(path):
    """Every file but the lock."""
    return {f.relative_to(path): f.read_bytes() for f in path.rglob("*") if f.is_file() and f.name != ".lock"}


def refused(path, error, match):
    """It is refused in one line, twice, and every byte stays."""
    before = everything(path)
    for _ in range(2):
        with pytest.raises(error, match=match) as caught:
            Training.resume(path).run()
        assert "\n" not in str(caught.value)
        assert everything(path) == before


def resumed(path):
    """What is told when it is resumed to its end."""
    told = []
    Training.resume(path, lambda stage, metrics: told.append(stage)).run()
    # how long it will still take is told too, and says nothing of resuming
    stages = ("update", "evaluation", "sft", "tiny model")
    return [line for line in told if line not in stages and not re.search("to go$|^[0-9]+ rollouts? of", line)]


def edited(path, changes):
    file = path / "run.yaml"
    config = yaml.safe_load(file.read_text())
    for name, value in changes.items():
        inside = config
        *above, last = name.split(".")
        for key in above:
            inside = inside[key]
        inside[last] = value
    file.write_text(yaml.safe_dump(config))


# --- without a checkpoint ---------------------------------------------------------------------------------------------


def test_a_history_without_a_checkpoint_is_never_deleted(run):
    shutil.rmtree(run / "checkpoints")
    refused(
        run,
        StoreError,
        r"run has no checkpoint to resume from, and to start again would delete metrics.jsonl, advantages.jsonl, "
        r"timings.jsonl, episodes-train.jsonl.zst; put its checkpoints back, or start a run in another folder$",
    )


def test_one_file_of_the_history_is_enough(run):
    shutil.rmtree(run / "checkpoints")
    for file in run.glob("*.jsonl"):
        file.unlink()
    refused(run, StoreError, r"would delete episodes-train.jsonl.zst; put")


def test_a_checkpoint_under_another_name_is_pointed_at(run):
    (run / "checkpoints" / "update-000002").rename(run / "checkpoints" / "update-2")
    shutil.rmtree(run / "checkpoints" / "update-000004")
    refused(run, StoreError, r"checkpoints/update-2 is not named like one \(update-000003\); put its checkpoints back")


def test_a_run_that_was_stopped_in_fine_tuning_starts_again_and_says_so(run, tmp_path):
    def crash(stage, metrics):
        if stage == "sft":
            raise Crash

    with pytest.raises(Crash):
        start(tmp_path / "broken", crash, **{"run.updates": 4})
    assert not (tmp_path / "broken" / "checkpoints").exists()
    assert resumed(tmp_path / "broken") == [
        "it was stopped before its first checkpoint, nothing is recorded: it starts again",
        "tiny model in float32",
    ]
    assert products(tmp_path / "broken") == products(run)


def test_finished_fine_tuning_is_not_lost(run, tmp_path):
    """Stopped in the evaluation behind it: the checkpoint is there before the first line of history."""

    def crash(stage, metrics):
        if stage == "evaluation":
            raise Crash

    with pytest.raises(Crash):
        start(tmp_path / "broken", crash, **{"run.updates": 4})
    assert list(RunFolder(tmp_path / "broken").checkpoints()) == [0]
    stages = []
    Training.resume(tmp_path / "broken", lambda stage, metrics: stages.append(stage)).run()
    assert "sft" not in stages
    assert products(tmp_path / "broken") == products(run)


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "harm", "said"),
    [
        ("trainer.pt", lambda f: f.write_bytes(b""), "trainer.pt is empty"),
        ("trainer.pt", lambda f: os.truncate(f, f.stat().st_size - 100), "trainer.pt is not what was written"),
        ("model.safetensors", lambda f: os.truncate(f, 4000), "model.safetensors is not what was written"),
        ("model.safetensors", lambda f: f.write_bytes(f.read_bytes()[:-1] + b"!"), "is not what was written"),
        ("tokenizer.json", lambda f: f.unlink(), "tokenizer.json is missing"),
    ],
    ids=["empty", "cut", "cut model", "another byte", "missing"],
)
def test_a_damaged_checkpoint_is_named_and_the_older_one_continues(original, run, file, harm, said):
    newest = run / "checkpoints" / "update-000004"
    harm(newest / file)
    refused(
        run,
        StoreError,
        rf"the checkpoint .*/update-000004 is damaged: .*{said}; delete that folder and update-000002, which is whole",
    )
    shutil.rmtree(newest)
    assert resumed(run) == []
    assert products(run) == products(original)


def test_other_names_beside_the_checkpoints_are_told_and_left_alone(original, run):
    copy = shutil.copytree(run / "checkpoints" / "update-000002", run / "checkpoints" / "update-000002.bak")
    (run / "checkpoints" / "update-9").mkdir()
    (first, second) = resumed(run)
    assert first == f"{copy} is not named like a checkpoint (update-000003): left alone"
    assert "update-9 is not named" in second
    assert copy.exists()
    assert products(run) == products(original)


def test_rubbish_behind_the_episodes_is_kept_aside(original, run):
    shutil.rmtree(run / "checkpoints" / "update-000004")
    episodes = run / "episodes-train.jsonl.zst"
    episodes.write_bytes(episodes.read_bytes() + b"\0" * 700)
    (run / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes() + b"\0\n\0" * 9)
    with pytest.warns(UserWarning, match=r"700 bytes that are not episodes; they were moved to .*damaged-1"):
        resumed(run)
    assert (run / "episodes-train.jsonl.zst.damaged-1").read_bytes() == b"\0" * 700
    assert products(run) == products(original)


def test_lines_that_went_missing_are_not_passed_over(run):
    os.truncate(run / "metrics.jsonl", 300)
    refused(
        run, StoreError, r"metrics.jsonl has 300 bytes, but had \d+ when the checkpoint was written: lines are miss"
    )


# --- run.yaml ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"updtes": 9}, r"run.yaml: unknown option 'updtes'; did you mean 'run.updates'"),
        ({"updates": 9}, r"run.yaml: 'updates' is now 'run.updates'; write run.updates=VALUE$"),
        ({"run.updtes": 9}, r"run.yaml: unknown option 'run.updtes'; did you mean 'run.updates'"),
        ({"model.tiny.hiden": 9}, r"run.yaml: unknown option 'model.tiny.hiden'; did you mean 'model.tiny.hidden'"),
        ({"optimizer.lr": "fast"}, r"run.yaml: optimizer.lr: input should be a valid number"),
        (
            {"run.seed": 7},
            r"run.yaml says run.seed=7, but the run was trained with run.seed=0 up to update 4; put that back",
        ),
        (
            {"model.tiny.hidden": 32},
            r"run.yaml says model.tiny.hidden=32, but the run was trained with model.tiny.hidden=16 up to",
        ),
        ({"parameters.discount": 0.5}, r"run.yaml says parameters.discount=0.5, but .*parameters.discount=0.95"),
        ({"env_options.turns": 9}, r"run.yaml says env_options.turns=9, but .*env_options.turns=None"),
        ({"model.lora": 2}, r"run.yaml says model.lora=2, but the run was trained with model.lora=None"),
        ({"fingerprint": "abc"}, r"has the fingerprint '\w*' now, but .*run.yaml says 'abc': it is not the same world"),
        (
            {"stages.aggregate": "x"},
            r"run.yaml says that aggregate is x, but algorithm gigpo makes it token_mean\(\) now",
        ),
        ({"kind": "sweep"}, r"holds results of `agentgym eval`, not a training run"),
    ],
    ids=str,
)
def test_a_changed_run_file_is_refused(run, changes, said):
    edited(run, changes)
    refused(run, UsageError, said)


def test_an_algorithm_that_changed_its_parts_is_refused(run, monkeypatch):
    monkeypatch.setattr(Algorithm, "as_text", lambda algorithm: {"aggregate": "seq_mean_token_sum()"})
    refused(
        run,
        UsageError,
        r"run.yaml says that aggregate is token_mean\(\), but algorithm gigpo makes it seq_mean_token_sum\(\)",
    )


def test_another_world_under_the_same_name_is_refused(run, monkeypatch):
    monkeypatch.setattr(letters.Letters, "fingerprint", "new words", raising=False)
    refused(
        run, UsageError, r"tests/Letters-v0 has the fingerprint 'new words' now, but .*it is not the same world; put"
    )


def test_parts_that_show_where_they_lie_in_memory_are_no_others():
    class Folder:
        path = run_file.version.__class__  # never read
        config = {"stages": {"context": "<Own object at 0x7f01>"}, "fingerprint": ""}

    run_file.check_unchanged(Folder, {"context": "<Own object at 0x55aa>"}, "")


def test_what_may_change_changes_without_a_word(run):
    changes = {"updates": 5, "stop_at": 2.0, "checkpoint_every": 1, "keep_checkpoints": 4}
    edited(run, {"eval.every": 1, **{f"run.{name}": value for name, value in changes.items()}})
    assert resumed(run) == []
    folder = RunFolder(run)
    assert list(folder.checkpoints()) == [2, 4, 5]
    assert [m["update"] for m in folder.metrics.read() if "event" not in m] == [1, 2, 3, 4, 5]


def test_what_costs_the_last_digits_is_told(run):
    edited(run, {"rollout.max_concurrent_episodes": 3, "optimizer.max_tokens_per_microbatch": 64})
    assert resumed(run) == [
        "rollout.max_concurrent_episodes was 128 up to update 4 and is 3 now: sums may be rounded otherwise",
        "optimizer.max_tokens_per_microbatch was 8192 up to update 4 and is 64 now: sums may be rounded otherwise",
    ]


def test_other_versions_are_told_once_and_recorded(run, monkeypatch):
    now = run_file.versions()
    monkeypatch.setattr(run_file, "versions", lambda: now | {"torch": "9.9", "cpu": "ABACUS"})
    assert resumed(run) == [
        f"torch was {now['torch']} up to update 4 and is 9.9 now: the last digits may differ",
        f"cpu was {now['cpu']} up to update 4 and is ABACUS now: the last digits may differ",
    ]
    config = RunFolder(run).config
    assert config["versions"] == now | {"torch": "9.9", "cpu": "ABACUS"}
    assert config["earlier_versions"] == [{"until_update": 4, **now}]
    assert resumed(run) == []


def test_threads_are_resolved_and_recorded(tmp_path):
    import torch

    before = torch.get_num_threads()
    training = Training.start(TrainConfig.checked(BASE | {"run.threads": None}), tmp_path / "run")
    assert RunFolder(tmp_path / "run").config["run"]["threads"] == training.config.run.threads == before
    try:
        torch.set_num_threads(before + 1)  # another machine's choice
        Training.resume(tmp_path / "run")
        assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(before)


def test_versions_say_what_the_digits_depend_on():
    import platform

    import torch

    now = run_file.versions()
    assert now["torch"] == torch.__version__
    assert now["python"] == platform.python_version()
    assert now["cpu"] == torch.backends.cpu.get_cpu_capability()
    assert all(isinstance(v, str) for v in now.values())
