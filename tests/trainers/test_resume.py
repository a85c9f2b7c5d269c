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

from agentgym.trainers.config import TrainConfig
from agentgym.trainers.train import Training, silent

TOOLS = {"env": "letters:tests/LettersWithTools-v0", "warm_start_epochs": 6, "group_size": 4}
STATES = {  # what has to be kept from update to update
    "gigpo": {"kl": 0.01},  # a reference
    "ppo": {"kl": 0.01},  # and a critic with its moments
    "otc": {"fewest": "task"},  # a table of calls
    "arpo": {},  # with the branching below, which remembers returns
    "aepo_agentic": {},
    "igpo": {"kl": 0.01, "by": "reference"},
}


@pytest.mark.parametrize(
    "recipe", [*list(STATES)[:4], *(pytest.param(r, marks=pytest.mark.slow) for r in list(STATES)[4:])]
)
def test_crashes_between_any_two_stages_change_nothing(recipe, tmp_path):
    """An exception at every report in turn: in the warm start, after an update, after an evaluation."""
    options = TOOLS | {"recipe": recipe, "parameters": STATES[recipe], "updates": 4, "checkpoint_every": 1}
    options |= {"lr_end": 0.3, "eval_temperature": 0.5}
    options["replaced"] = {"branching": "spread_branching"} if recipe == "arpo" else {}
    options["admissible"] = recipe == "otc"  # so that some are solved
    start(tmp_path / "whole", **options)
    seen = []

    def crash(stage, figures):
        place = (stage, tuple(figures.items())[:1])
        if stage in ("warm start", "update", "evaluation") and place not in seen:  # other lines tell seconds
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
    start(tmp_path / "whole", updates=4)
    start(tmp_path / "extended", updates=2)
    for _ in range(2):  # the second time there is nothing to do
        training = Training.resume(tmp_path / "extended", updates=4)
        training.run()
        assert training.update == 4
    assert products(tmp_path / "extended") == products(tmp_path / "whole")


@pytest.mark.parametrize(
    ("hidden", "options"),
    [
        (64, {"lora": 4}),
        (64, {"optimizer": "muon"}),
        (96, {"recipe": "ppo", "parameters": {"kl": 0.05}}),
        (128, {"lora": 4, "optimizer": "muon", "warm_start_optimizer": "muon"}),
        (96, {"dtype": "bfloat16", "lr": 1e-4}),
        pytest.param(64, {}, marks=pytest.mark.slow),
        pytest.param(96, {"lora": 4}, marks=pytest.mark.slow),
        pytest.param(128, {"optimizer": "muon"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_loaded_weights_add_up_as_fresh_ones_do(hidden, options, tmp_path):
    """Sums depend on where the operands begin in memory: resumed after every update, at widths where it shows."""
    options = {"updates": 4, "checkpoint_every": 1, "tiny": SMALL | {"hidden": hidden}} | options
    start(tmp_path / "whole", **options)

    def crash(stage, figures):
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
    start(path, updates=2, checkpoint_every=1, recipe="arpo")
    folder = path / "checkpoints"
    named = [number for number, place in enumerate(seen) if place == folder]  # it is synced behind the renaming
    assert len(named) == 3
    last = seen[named[1] + 1 : named[2]]
    written = {f.relative_to(folder / "update-000002") for f in (folder / "update-000002").rglob("*")}
    inside = {place.relative_to(folder / ".update-000002.tmp") for place in last if ".tmp" in str(place)}
    assert inside >= written
    beginning = next(number for number, place in enumerate(last) if ".tmp" in str(place))
    lines = {path / f"{name}.jsonl" for name in ("metrics", "credits", "timings", "branches")}
    assert {*lines, path / "episodes-train.jsonl.zst", path} <= set(last[:beginning])


RESUME = (
    "import sys, letters\n"
    "from agentgym.trainers.train import Training\n"
    "print('ready', flush=True)\n"
    "Training.resume(sys.argv[1]).run()\n"
)


def continued(path, kill_after):
    """Resume in another process, killed after so many seconds of work (None: not); its exit status."""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
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
    options = {"updates": 14, "checkpoint_every": 1, "keep_checkpoints": 1}
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
        {"recipe": "ppo"},
        {"lora": 4},
        {"recipe": "dapo", "optimizer": "muon"},
        TOOLS | {"recipe": "otc", "parameters": {"fewest": "task"}, "lora": 4, "optimizer": "muon"},
        TOOLS | {"recipe": "arpo", "tiny": SMALL | {"hidden": 64}},
    ],
    ids=["ppo", "lora", "dapo muon", "otc lora muon", "arpo"],
)
def test_killed_often(tmp_path, options):
    options = {"updates": 30, "checkpoint_every": 3, **options}
    start(tmp_path / "whole", **options)
    assert killed_and_resumed(tmp_path / "killed", [random.uniform(0.05, 3) for _ in range(8)], **options) >= 3
    assert products(tmp_path / "killed") == products(tmp_path / "whole")


def test_lora_trains_adapters_alone_and_resumes(tmp_path):
    options = {"lora": 4, "updates": 3, "checkpoint_every": 1, "parameters": {"kl": 0.05}}
    training = start(tmp_path / "whole", **options)
    _, path = training.folder.latest_checkpoint()
    assert (path / "adapter_model.safetensors").is_file()
    assert not (path / "model.safetensors").exists()
    seen = []

    def crash(stage, figures):
        if stage == "update" and not seen:
            seen.append(figures)
            raise Crash

    with pytest.raises(Crash):
        start(tmp_path / "broken", crash, **options)
    Training.resume(tmp_path / "broken").run()
    assert products(tmp_path / "broken") == products(tmp_path / "whole")
