"""A training run whose disk is full stops with one line, loses nothing, and goes on when there is room."""

from __future__ import annotations

import contextlib
import re
import resource
import subprocess

import pytest
from small_runs import products, start

from agentgym.errors import DiskFull
from agentgym.store import RunFolder
from agentgym.trainers.run.config import nested
from agentgym.trainers.run.trainer import Training

OPTIONS = {"run.updates": 4, "run.checkpoint_every": 1}


@contextlib.contextmanager
def disk_of(size):
    """No file may grow beyond this: to a program the same as a full disk, at a moment that can be chosen."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "whole"
    start(path, **OPTIONS)
    return path


def stopped(path, training=None):
    """Begin or continue a run. Where the disk was full; None: nowhere. One line says how to go on."""
    begun = (path / "run.yaml").exists()
    try:
        (training or Training.resume(path)).run() if begun else start(path, **OPTIONS)
    except DiskFull as error:
        said = str(error)
    else:
        return None
    where = said.split(" cannot")[0].removeprefix(str(path))
    then = "" if where == "/run.yaml" else f"; then: agentgym train --resume {path}"
    assert re.search(
        r" cannot be written: (File too|No space)[\w ]*; make room: what was saved before is whole" + then, said
    )
    assert "\n" not in said
    return where


def test_a_disk_without_room_for_the_run_file_or_a_checkpoint_loses_nothing(whole, tmp_path):
    path = tmp_path / "run"
    sizes = sorted({f.stat().st_size for f in whole.rglob("*") if f.is_file()} - {0, 1})
    where = []
    for size in sizes:
        with disk_of(size - 1):
            where.append(stopped(path))
    assert set(where) >= {"/run.yaml", "/checkpoints/update-000000"}
    assert stopped(path) is None
    assert products(path) == products(whole)


def test_a_disk_that_fills_up_while_training_loses_nothing(whole, tmp_path):
    """From the first report on nothing more fits into files of these sizes."""
    path = tmp_path / "run"
    start(path, **OPTIONS | {"run.updates": 0})
    folder = RunFolder(path)
    folder.rewrite(nested(folder.config | {"run.updates": OPTIONS["run.updates"]}))
    where = []
    for size in (20, 900, 2000, 4000):
        with contextlib.ExitStack() as room:
            training = Training.resume(path, lambda stage, metrics: room.enter_context(disk_of(size)))  # noqa: B023
            where.append(stopped(path, training))
    assert stopped(path) is None
    assert products(path) == products(whole)
    assert where == ["/episodes-train.jsonl.zst"] * 3 + ["/checkpoints/update-000001"]


@pytest.fixture
def disk(tmp_path):
    """A small real disk: its folder, and how to give it so many bytes."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def resize(size, *options):
        settings = ",".join([*options, f"size={size}"])
        subprocess.run(["mount", "-t", "tmpfs", "-o", settings, "tmpfs", folder], check=True, capture_output=True)

    try:
        resize(1 << 16)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no tmpfs can be mounted here: {error}")
    yield folder, lambda size: resize(size, "remount")
    subprocess.run(["umount", folder], check=True)


def test_a_small_disk_that_is_enlarged_little_by_little(whole, disk):
    folder, resize = disk
    path = folder / "run"
    where = []
    for size in range(1 << 16, 1 << 20, 3 << 14):
        resize(size)
        where.append(stopped(path))
        if where[-1] is None:
            break
    assert where[-1] is None
    assert len(where) > 3
    assert products(path) == products(whole)
