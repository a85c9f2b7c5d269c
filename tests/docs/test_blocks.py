"""Blocks and commands of README.md and docs/ run as they are written, through the installed command, from nothing.

A page is a session: its files, Python blocks and commands run in their order, each once. Pages are found by walking.
What is replaced in a command is said here, and no more:

* placeholders stand for something: ``ENV`` is the household world, ``NAME`` the algorithm grpo, ``DIR`` the tiny model,
  ``RUN`` a run that was made before;
* a training makes one update of one group with a model of one layer, an evaluation plays two tasks;
* a person who plays answers once and leaves; ``examples/`` is that of the repository;
* a server runs beside the rest of its page, at a free port in place of 8000.

``AGENTGYM_SCRIPT`` names another installed ``agentgym``, e.g. that of a fresh environment.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import blocks
import pytest
import yaml
from blocks import ROOT, Session, Step, pages, shell_lines, steps

SCRIPT = os.environ.get("AGENTGYM_SCRIPT") or str(Path(sys.executable).with_name("agentgym"))
HOUSE = "agentgym/Household-v0"
STANDS_FOR = {"ENV": HOUSE, "NAME": "grpo", "DIR": "tiny", "[KEY=VALUE]...": ""}
SMALL = ["rollout.groups=1", "rollout.group_size=2", "rollout.max_new_tokens=4", "eval.episodes=2", "sft.epochs=1"]
SMALL += [f"model.tiny.{size}" for size in ("layers=1", "hidden=16", "heads=2", "kv_heads=1", "vocabulary=300")]
SMALL += ["run.threads=1"]
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}

#: Pages whose commands take hours, and what the repository's own folder is needed for.
RECORDS = ("docs/results.md", "docs/security.md", *(p for p in pages() if p.startswith("docs/notes/")))
#: `make test` runs these alone; `make wheel` runs the steps of every page, by the wheel in an environment of its own.
FAST = ("README.md", "docs/quickstart.md", "docs/concepts/update.md", "docs/guides/environment.md")


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def arguments(command: str, run: str = "RUN") -> list[str]:
    """Of a command line; placeholders and sizes replaced, see above."""
    stands_for = {**STANDS_FOR, "RUN": run}
    words = [stands_for.get(word, word) for word in shlex.split(command, comments=True)[1:]]
    words = [word for word in words if word]
    updates = next((i for i, word in enumerate(words) if word.startswith("run.updates=")), None)
    if words[0] == "train" and "--resume" in words:
        if updates is not None:
            words[updates] = "run.updates=2"
    elif words[0] == "train":
        words = [w for w in words if not re.match(r"run\.updates=|sft\.episodes=|rollout\.group(s|_size)=", w)]
        words += ["run.updates=1", "sft.episodes=2" if "--config" in words else "sft.episodes=0", *SMALL]
    elif words[0] == "eval":
        words += ["--episodes", "2"]
    return words


def agentgym(words: list[str], folder: Path, seconds: float = 280) -> None:
    done = subprocess.run(
        [SCRIPT, *words],
        input="<answer>Paris</answer>\n",
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"


class Walk:
    """A page's steps in their order, in a folder of its own; each is run once."""

    def __init__(self, page: str, folder: Path, make_run: Callable[[], Path]) -> None:
        self.folder, self.steps, self.next, self._make_run = folder, steps(read(page)), 0, make_run
        (folder / "examples").symlink_to(ROOT / "examples")
        self._session: Session | None = None
        self._server: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = str(free.getsockname()[1])

    def to(self, number: int) -> None:
        """Run those that are left up to this one; whichever fails fails the test that asked first."""
        while self.next <= number:
            self.next += 1
            self._run(self.steps[self.next - 1])

    def _run(self, step: Step) -> None:
        if step.kind == "file":
            (self.folder / step.name).write_text(step.text, encoding="utf-8")
        elif step.kind == "python":
            if self._session is None:
                self._session = Session(str(Path(SCRIPT).with_name("python")), self.folder, ENVIRONMENT)
            printed = self._session.run(step.text)
            assert step.output in (None, printed), f"run: python docs/blocks.py PAGE\n{printed}"
        else:
            run = str(self._make_run()) if re.search(r"\bRUN\b", step.text) else ""
            words = arguments(step.text.replace("localhost:8000", f"localhost:{self._port}"), run)
            if words[0].startswith("serve-"):
                self._serve(words)
            else:
                agentgym(words, self.folder)

    def _serve(self, words: list[str]) -> None:
        self._server = subprocess.Popen([SCRIPT, *words, "--port", self._port], cwd=self.folder, env=ENVIRONMENT)
        until = time.monotonic() + 120
        while time.monotonic() < until and self._server.poll() is None:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", int(self._port))) == 0:
                    return
            time.sleep(0.2)
        pytest.fail(f"{shlex.join(words)} did not answer")

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
        if self._server is not None:
            self._server.terminate()
            self._server.wait()


@pytest.fixture(scope="session")
def a_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """A small run, made when the first page needs it."""

    @functools.cache
    def make() -> Path:
        folder = tmp_path_factory.mktemp("run")
        agentgym(arguments(f"agentgym train {HOUSE} --algorithm gigpo --out RUN"), folder)
        return folder / "RUN"

    return make


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory, a_run: Callable[[], Path]) -> Iterator[Callable[[str], Walk]]:
    begun: dict[str, Walk] = {}

    def walk(page: str) -> Walk:
        if page not in begun:
            begun[page] = Walk(page, tmp_path_factory.mktemp("empty"), a_run)
        return begun[page]

    yield walk
    for known in begun.values():
        known.close()


CASES = [
    pytest.param(
        page, number, id=f"{page}: {step.name or step.text[:60]}", marks=[] if page in FAST else [pytest.mark.slow]
    )
    for page in pages()
    if page not in RECORDS
    for number, step in enumerate(steps(read(page)))
]


@pytest.mark.parametrize(("page", "number"), CASES)
def test_a_step_of_a_page_runs(page: str, number: int, walks: Callable[[str], Walk]) -> None:
    walks(page).to(number)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_readmes_training_learns_as_it_is_written(tmp_path: Path) -> None:
    """By about as much as the table below the command says."""
    for step in steps(read("README.md")):
        if step.kind == "file":
            (tmp_path / step.name).write_text(step.text, encoding="utf-8")
    (command,) = (s.text for s in steps(read("README.md")) if s.text.startswith("agentgym train capitals"))
    agentgym(shlex.split(command, comments=True)[1:], tmp_path, seconds=850)
    lines = [json.loads(line) for line in (tmp_path / "runs/capitals/metrics.jsonl").read_text().splitlines()]
    held_out = [line["eval_success"] for line in lines if line.get("split") == "test"]
    training = [line["success"] for line in lines if "success" in line]
    assert held_out[-1] >= held_out[0] + 0.3
    assert sum(training[-5:]) / 5 >= 0.85


def test_every_block_is_run_or_checked() -> None:
    """No page has a block in a language, or a line of a shell, that nothing here looks at."""
    other = re.compile(
        r"agentgym |pip install |python3? -m (venv|pip|http\.server)|make |python (docs|benchmarks|tests|\w+\.py)"
        r"|cd |git clone |source |apt-get |tensorboard |export |gpg |OMP_NUM_THREADS="
    )
    for page in pages():
        languages = {found[1] for found in blocks.FENCE.finditer(read(page))}
        assert languages <= {"bash", "python", "text", "yaml", "toml"}, page
        assert [line for line in shell_lines(read(page)) if not other.match(line.removeprefix("$ "))] == [], page
        assert read(page).count("\n```") % 2 == 0, page


@pytest.mark.parametrize("page", pages())
def test_yaml_and_toml_can_be_read(page: str) -> None:
    import tomllib

    for text in blocks.blocks(read(page), "yaml"):
        assert isinstance(yaml.safe_load(text), dict)
    for text in blocks.blocks(read(page), "toml"):
        assert tomllib.loads(text)


def test_what_a_page_prints_is_compared(tmp_path: Path, a_run: Callable[[], Path]) -> None:
    text = (
        "```python\nx = 1\nprint(x)\n```\n\n```text\n2\n```\n\nand\n\n```python\nprint(x + 1)\n```\n\n```text\n2\n```\n"
    )
    found = steps(text)
    assert [(step.kind, step.output) for step in found] == [("python", "2\n"), ("python", "2\n")]
    assert blocks.with_outputs(text) == text.replace("2", "1", 1)
    session = Session(sys.executable, tmp_path)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        session.run("1 / 0")


def test_pages_have_the_steps_that_they_are_tested_by() -> None:
    """A page that is written otherwise is not silently without a test."""
    readme = [step.text.split()[1] for step in steps(read("README.md")) if step.kind == "command"]
    assert readme == ["play", "train", "report", "check", "play", "train", "eval", "new-env"]
    tested = {page: [step.kind for step in steps(read(page))] for page in pages()}
    assert all(tested[f"docs/{page}.md"] for page in ("quickstart", "concepts/update", "guides/python"))
    assert all(kinds for page, kinds in tested.items() if page.startswith("docs/guides/"))
    words = arguments("agentgym train ENV [KEY=VALUE]... --algorithm NAME --model DIR run.updates=50  # a word")
    assert words[:8] == ["train", HOUSE, "--algorithm", "grpo", "--model", "tiny", "run.updates=1", "sft.episodes=0"]
    assert arguments("agentgym train --resume RUN run.updates=400", "x") == ["train", "--resume", "x", "run.updates=2"]
