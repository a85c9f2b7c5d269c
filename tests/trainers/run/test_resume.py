"""A run that was stopped and resumed ends with the bytes of one that was not."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_runs import BASE, SMALL, Crash, products, start

from agentgym.trainers.run.config import TrainConfig
from agentgym.trainers.run.trainer import Training, silent

TOOLS = {"env": "letters:tests/LettersWithTools-v0", "sft.epochs": 6, "rollout.group_size": 4}
STATES = {  # what has to be kept from update to update
    "gigpo": {"kl": 0.01},  # a reference
    "ppo": {"kl": 0.01},  # and a critic with its moments
    "otc": {"fewest": "task"},  # a table of calls
    "arpo": {},  # with the branching below, which remembers returns
    "aepo_agentic": {},
    "igpo": {"kl": 0.01, "by": "reference"},
}


@pytest.mark.parametrize(
    "algorithm", [*list(STATES)[:4], *(pytest.param(a, marks=pytest.mark.slow) for a in list(STATES)[4:])]
)
def test_crashes_between_any_two_stages_change_nothing(algorithm, tmp_path):
    """An exception at every report in turn: in fine-tuning, after an update, after an evaluation."""
    options = TOOLS | {
        "algorithm": algorithm,
        "parameters": STATES[algorithm],
        "run.updates": 4,
        "run.checkpoint_every": 1,
        "optimizer.lr_final_fraction": 0.3,
        "eval.temperature": 0.5,
    }
    options["overrides"] = {"branching": "spread_branching"} if algorithm == "arpo" else {}
    options["rollout.admissible"] = algorithm == "otc"  # so that some are solved
    start(tmp_path / "whole", **options)
    seen = []

    def crash(stage, metrics):
        place = (stage, tuple(metrics.items())[:1])
        if stage in ("sft", "update", "evaluation") and place not in seen:  # other lines tell seconds
            seen.append(place)
            raise Crash

    training = Training.start(TrainConfig.checked(BASE | options), tmp_path / "broken", crash)
    while training.update < 4:
        try:
            training.run()
        except Crash:
            training = Training.resume(tmp_path / "broken", crash)
    assert len(seen) >= 8
    assert products(tmp_path / "broken") == products(tmp_path / "whole")


def test_an_extended_run_is_the_longer_run(tmp_path):
    start(tmp_path / "whole", **{"run.updates": 4})
    start(tmp_path / "extended", **{"run.updates": 2})
    for _ in range(2):  # the second time there is nothing to do
        training = Training.resume(tmp_path / "extended", changes={"run.updates": 4})
        training.run()
        assert training.update == 4
    assert products(tmp_path / "extended") == products(tmp_path / "whole")


@pytest.mark.parametrize(
    ("hidden", "options"),
    [
        (64, {"model.lora": 4}),
        (64, {"optimizer.name": "muon"}),
        (96, {"algorithm": "ppo", "parameters": {"kl": 0.05}}),
        (128, {"model.lora": 4, "optimizer.name": "muon", "sft.optimizer": "muon"}),
        (96, {"model.dtype": "bfloat16", "optimizer.lr": 1e-4}),
        pytest.param(64, {}, marks=pytest.mark.slow),
        pytest.param(96, {"model.lora": 4}, marks=pytest.mark.slow),
        pytest.param(128, {"optimizer.name": "muon"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_loaded_weights_add_up_as_fresh_ones_do(hidden, options, tmp_path):
    """Sums depend on where the operands begin in memory: resumed after every update, at widths where it shows."""
    options = {"run.updates": 4, "run.checkpoint_every": 1, "model.tiny": SMALL | {"hidden": hidden}} | options
    start(tmp_path / "whole", **options)

    def crash(stage, metrics):
        if stage == "update":
            raise Crash

    training = Training.start(TrainConfig.checked(BASE | options), tmp_path / "broken")
    for update in range(5):
        training.progress = crash if update < 4 else silent
        with pytest.raises(Crash) if update < 4 else contextlib.nullcontext():
            training.run()
        training = Training.resume(tmp_path / "broken")
    assert products(tmp_path / "broken") == products(tmp_path / "whole")


def test_everything_is_on_disk_before_a_checkpoint_has_its_name(tmp_path, monkeypatch):
    """After a power cut a checkpoint never knows of lines or episodes that are not there."""
    seen = []
    ordinary = os.fsync

    def fsync(handle):
        seen.append(Path(f"/proc/self/fd/{handle}").readlink())
        ordinary(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    path = tmp_path / "run"
    start(path, algorithm="arpo", **{"run.updates": 2, "run.checkpoint_every": 1})
    folder = path / "checkpoints"
    named = [number for number, place in enumerate(seen) if place == folder]  # it is synced behind the renaming
    assert len(named) == 3
    last = seen[named[1] + 1 : named[2]]
    written = {f.relative_to(folder / "update-000002") for f in (folder / "update-000002").rglob("*")}
    inside = {place.relative_to(folder / ".update-000002.tmp") for place in last if ".tmp" in str(place)}
    assert inside >= written
    beginning = next(number for number, place in enumerate(last) if ".tmp" in str(place))
    lines = {path / f"{name}.jsonl" for name in ("metrics", "advantages", "timings", "branches")}
    assert {*lines, path / "episodes-train.jsonl.zst", path} <= set(last[:beginning])


RESUME = (
    "import sys, letters\n"
    "from agentgym.trainers.run.trainer import Training\n"
    "print('ready', flush=True)\n"
    "Training.resume(sys.argv[1]).run()\n"
)


def continued(path, kill_after):
    """Resume in another process, killed after so many seconds of work (None: not); its exit status."""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "helpers"), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", RESUME, str(path)], env=env, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        if kill_after is not None:
            try:
                return process.wait(kill_after)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
        return process.wait()


def killed_and_resumed(path, moments, **options):
    """A run killed at random moments; how often it was."""
    Training.start(TrainConfig.checked(BASE | options), path)
    kills = 0
    for moment in moments:
        status = continued(path, moment)
        kills += status == -signal.SIGKILL
        if status == 0:
            return kills
    assert continued(path, None) == 0
    return kills


def test_killed_at_random_moments_and_resumed(tmp_path):
    options = {"run.updates": 14, "run.checkpoint_every": 1, "run.keep_checkpoints": 1}
    began = time.perf_counter()
    start(tmp_path / "whole", **options)
    seconds = time.perf_counter() - began
    moments = [seconds * random.uniform(0.1, 0.7) for _ in range(2)]
    print("killed after", moments)  # shown if this fails
    assert killed_and_resumed(tmp_path / "killed", moments, **options) >= 1
    assert products(tmp_path / "killed") == products(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"algorithm": "ppo"},
        {"model.lora": 4},
        {"algorithm": "dapo", "optimizer.name": "muon"},
        TOOLS | {"algorithm": "otc", "parameters": {"fewest": "task"}, "model.lora": 4, "optimizer.name": "muon"},
        TOOLS | {"algorithm": "arpo", "model.tiny": SMALL | {"hidden": 64}},
    ],
    ids=["ppo", "lora", "dapo muon", "otc lora muon", "arpo"],
)
def test_killed_often(tmp_path, options):
    options = {"run.updates": 30, "run.checkpoint_every": 3, **options}
    start(tmp_path / "whole", **options)
    assert killed_and_resumed(tmp_path / "killed", [random.uniform(0.05, 3) for _ in range(8)], **options) >= 3
    assert products(tmp_path / "killed") == products(tmp_path / "whole")


def test_lora_trains_adapters_alone_and_resumes(tmp_path):
    options = {"model.lora": 4, "run.updates": 3, "run.checkpoint_every": 1, "parameters": {"kl": 0.05}}
    training = start(tmp_path / "whole", **options)
    _, path = training.folder.latest_checkpoint()
    assert (path / "adapter_model.safetensors").is_file()
    assert not (path / "model.safetensors").exists()
    seen = []

    def crash(stage, metrics):
        if stage == "update" and not seen:
            seen.append(metrics)
            raise Crash

    with pytest.raises(Crash):
        start(tmp_path / "broken", crash, **options)
    Training.resume(tmp_path / "broken").run()
    assert products(tmp_path / "broken") == products(tmp_path / "whole")
