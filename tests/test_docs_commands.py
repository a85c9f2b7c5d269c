"""The commands of README.md and docs/*.md run as they are written, through the installed command, in an empty folder.

Python blocks that begin with a file's name are written to that file first. What is replaced is said here, and no more:

* placeholders stand for something: ``ENV`` is the household world, ``NAME`` the algorithm grpo, ``DIR`` the tiny model;
* a training makes one update of one group with a model of one layer, an evaluation plays two tasks;
* a person who plays answers once and leaves; ``examples/`` is that of the repository.

``AGENTGYM_SCRIPT`` names another installed ``agentgym``, e.g. that of a fresh environment.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = os.environ.get("AGENTGYM_SCRIPT") or str(Path(sys.executable).with_name("agentgym"))
HOUSE = "agentgym/Household-v0"
STANDS_FOR = {"ENV": HOUSE, "NAME": "grpo", "DIR": "tiny", "[KEY=VALUE]...": ""}
SMALL = ["rollout.groups=1", "rollout.group_size=2", "rollout.max_new_tokens=4", "eval.episodes=2", "sft.epochs=1"]
SMALL += [f"model.tiny.{size}" for size in ("layers=1", "hidden=16", "heads=2", "kv_heads=1", "vocabulary=300")]
SMALL += ["run.threads=1"]


def files(page: str) -> dict[str, str]:
    """Python blocks that begin with a name, by that name."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    return {named[1]: block for block in blocks if (named := re.match(r"# (\w+\.py)\n", block))}


def commands(page: str) -> list[str]:
    """Lines of shell blocks, and what stands in a line of text, if it is a command of ours and complete."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
    found = [line for line in blocks.splitlines() if line.startswith("agentgym ")]
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    inline = re.findall(r"`(agentgym [\w-]+ [^-`][^`]*)`", prose)
    whole = [c for c in inline if not re.search(r"\b[A-Z]+\b|http|\.\.\.", c) and "serve-" not in c]
    return found + whole


def arguments(command: str) -> list[str]:
    """Of a command line; placeholders and sizes replaced, see above."""
    words = [STANDS_FOR.get(word, word) for word in shlex.split(command, comments=True)[1:]]
    words = [word for word in words if word]
    updates = next((i for i, word in enumerate(words) if word.startswith("run.updates=")), None)
    if words[0] == "train" and "--resume" in words:
        if updates is not None:
            words[updates] = "run.updates=2"
    elif words[0] == "train":
        if updates is not None:
            del words[updates]
        words += ["run.updates=1", "sft.episodes=2" if "--config" in words else "sft.episodes=0", *SMALL]
    elif words[0] == "eval":
        words += ["--episodes", "2"]
    return words


class Walk:
    """The commands of a page in their order, in a folder with the page's files; each is run once."""

    def __init__(self, page: str, folder: Path) -> None:
        self.folder, self.commands, self.next = folder, commands(page), 0
        for name, code in files(page).items():
            (folder / name).write_text(code, encoding="utf-8")

    def to(self, number: int) -> None:
        """Run those that are left up to this one; whichever fails fails the test that asked first."""
        while self.next <= number:
            self.next += 1
            run(self.commands[self.next - 1], self.folder)


def run(command: str, folder: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [SCRIPT, *arguments(command)],
        input="<answer>Paris</answer>\n",
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{shlex.join(arguments(command))}\n{done.stdout}{done.stderr}"


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Walk]:
    """The walk through a page; the page about evaluation goes on where the one about training ends."""

    @functools.cache
    def walk(page: str) -> Walk:
        if page == "docs/evaluation.md":
            training = walk("docs/training.md")
            training.to(len(training.commands) - 1)
            return Walk(page, training.folder)
        folder = tmp_path_factory.mktemp("empty")
        if page == "docs/training.md":
            (folder / "examples").symlink_to(ROOT / "examples")
        return Walk(page, folder)

    return walk


SLOW = ("docs/training.md", "docs/evaluation.md")  # many short trainings, and what they leave behind
REST = {f"docs/{path.name}" for path in ROOT.glob("docs/*.md")} - {*SLOW, "docs/results.md"}  # that one takes hours
PAGES = ["README.md", *SLOW, *sorted(REST)]
CASES = [
    pytest.param(page, number, id=f"{page}: {command[:60]}", marks=[pytest.mark.slow] if page in SLOW else [])
    for page in PAGES
    for number, command in enumerate(commands(page))
]


@pytest.mark.parametrize(("page", "number"), CASES)
def test_a_command_runs(page: str, number: int, walks: Callable[[str], Walk]) -> None:
    walks(page).to(number)


def test_pages_have_the_commands_that_they_are_tested_by() -> None:
    """A page that is written otherwise is not silently without a test."""
    assert [c.split()[1] for c in commands("README.md")][:4] == ["check", "play", "train", "eval"]
    assert "agentgym new-env my-world" in commands("README.md")
    assert len(commands("docs/training.md")) >= 9
    assert set(files("docs/environments.md")) >= {"shop.py", "notes.py"}
    assert set(files("docs/training.md")) == {"mine.py", "careful.py"}
    words = arguments("agentgym train ENV [KEY=VALUE]... --algorithm NAME --model DIR run.updates=50  # a word")
    assert words[:8] == ["train", HOUSE, "--algorithm", "grpo", "--model", "tiny", "run.updates=1", "sft.episodes=0"]
    assert arguments("agentgym train --resume RUN run.updates=400") == ["train", "--resume", "RUN", "run.updates=2"]
