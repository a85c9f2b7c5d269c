from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from agentgym.cli import main
from agentgym.errors import DISTRIBUTION


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert isinstance(end.value.code, int)
    return end.value.code


def python(folder: Path, installed: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("options", [(), ("--tools",)], ids=["text", "tools"])
def test_a_new_package_installs_passes_its_test_and_is_usable_by_name(
    options: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, installed = tmp_path / "pkg", tmp_path / "site"
    assert run("new-env", "little-world", "--dir", str(target), *options) == 0
    said = capsys.readouterr().out
    assert f"made little-world/LittleWorld-v0 in {target}" in said
    assert f"pip install -e '{target}[test]'" in said
    project = tomllib.loads((target / "pyproject.toml").read_text())["project"]
    assert project["dependencies"] == [DISTRIBUTION]
    assert f"pypi.org/project/{DISTRIBUTION}/" in (target / "README.md").read_text()
    pip = ("-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--disable-pip-version-check")
    python(tmp_path, installed, *pip, "--target", str(installed), str(target))
    assert (installed / "little_world" / "__init__.py").exists()
    tests = python(target, installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "tests")
    assert "2 passed" in tests
    checked = python(tmp_path, installed, "-m", "agentgym", "check", "little-world/LittleWorld-v0", "split=test")
    assert checked.startswith("little-world/LittleWorld-v0: ")
    assert "broken" not in checked
    assert "LittleWorld-v0" in python(tmp_path, installed, "-m", "agentgym", "envs")
    if not options:  # the README's last command, in small
        (command,) = re.findall(r"^agentgym (train .*)$", (target / "README.md").read_text(), re.MULTILINE)
        sizes = [f"model.tiny.{size}" for size in ("layers=1", "hidden=16", "heads=2", "kv_heads=1")]
        small = ["run.updates=1", "rollout.groups=1", "rollout.group_size=2", "rollout.max_turns=2", "eval.episodes=1"]
        trained = python(tmp_path, installed, "-m", "agentgym", *command.split(), *sizes, *small)
        assert "done: 1 updates" in trained
    played = python(tmp_path, installed, "-m", "agentgym", "play", "little-world/LittleWorld-v0", "--policy", "expert")
    assert "solved after" in played
    assert ("with tools that share a cart" in (target / "README.md").read_text()) == bool(options)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("My World", "'My World' cannot name a package; use small letters, digits and hyphens, e.g. my-world"),
        ("../up", "cannot name a package"),
        ("class", "cannot name a package"),
        ("json", "a module 'json' is installed already"),
        ("a--b", "cannot name a package"),
    ],
)
def test_a_name_that_cannot_be_one_is_refused(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("new-env", name) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "precious").write_text("x")
    assert run("new-env", "little-world", "--dir", str(tmp_path)) == 2
    assert "is there already; choose another --dir" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["precious"]
