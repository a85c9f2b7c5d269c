"""Tab completion, as a shell asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentgym.store import RunFolder

SCRIPT = Path(sys.executable).with_name("agentgym")


def offered(line: str, folder: Path) -> list[str]:
    """What is offered for the last word of a line; a line that ends with a space asks for a new word."""
    asked = {"_AGENTGYM_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    command = [str(SCRIPT)]
    done = subprocess.run(command, env=os.environ | asked, cwd=folder, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("agentgym tr", ["train"]),
        ("agentgym serve-", ["serve-model", "serve-search"]),
        ("agentgym train agentgym/House", ["agentgym/Household-v0"]),
        ("agentgym check agentgym/SearchC", ["agentgym/SearchCode-v0"]),
        ("agentgym train agentgym/Household-v0 --alg", ["--algorithm"]),
        ("agentgym train agentgym/Household-v0 --algorithm gig", ["gigpo"]),
        ("agentgym algorithms dap", ["dapo"]),
        ("agentgym train agentgym/Household-v0 run.upd", ["run.updates="]),
        ("agentgym train agentgym/Household-v0 model.tiny.h", ["model.tiny.hidden=", "model.tiny.heads="]),
        ("agentgym train agentgym/Household-v0 --model ", ["tiny", "runs/mine"]),
        ("agentgym eval agentgym/Household-v0 --policy r", ["random", "replay:", "runs/mine"]),
        ("agentgym play agentgym/Household-v0 --policy e", ["expert", "expert:"]),
    ],
)
def test_what_is_offered(line: str, some: list[str], tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "runs" / "mine", {})
    assert offered(line, tmp_path) == some


def test_it_is_installed_for_the_shell_that_asks(tmp_path: Path) -> None:
    command = ["bash", "-c", f"'{SCRIPT}' --install-completion; exit $?"]
    done = subprocess.run(
        command, env=os.environ | {"HOME": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "bash completion installed" in done.stdout
    assert "_AGENTGYM_COMPLETE" in (tmp_path / ".bash_completions" / "agentgym.sh").read_text()
    assert "agentgym.sh" in (tmp_path / ".bashrc").read_text()
