"""What pip calls the package: one name everywhere, and never ``agentgym``, which is another project on PyPI."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distribution, entry_points
from pathlib import Path

import agentgym
from agentgym.errors import DISTRIBUTION, MissingExtra

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_name_is_that_of_the_project_and_of_what_is_installed() -> None:
    assert PROJECT["name"] == DISTRIBUTION != "agentgym"
    installed = distribution(DISTRIBUTION)
    assert installed.version == agentgym.__version__
    assert [e.name for e in installed.entry_points if e.group == "console_scripts"] == ["agentgym"]
    ours = {e.name for e in installed.entry_points if e.group == "agentgym.envs"}
    assert {e.name for e in entry_points(group="agentgym.envs") if e.name.startswith("agentgym/")} == ours


def test_hints_name_it_with_extras_that_there_are() -> None:
    assert str(MissingExtra("x", "train")) == f"'x' is not installed; run: pip install '{DISTRIBUTION}[train]'"
    named = set()
    for file in (ROOT / "agentgym").rglob("*.py"):
        named |= set(re.findall(r'MissingExtra\([^)]*, "(\w+)"\)', file.read_text(encoding="utf-8")))
    assert {"train", "parquet"} <= named <= set(PROJECT["optional-dependencies"])


def test_nothing_says_to_install_the_other_project() -> None:
    other = re.compile(r"""pip install (?:-\S+ )*['"]?agentgym(?![\w-])|pypi\.org/project/agentgym/|"agentgym\[""")
    assert other.search("pip install -U 'agentgym[train]'")
    files = [file for folder in ("agentgym", "docs", "examples", ".ci") for file in (ROOT / folder).rglob("*")]
    for file in [*files, *ROOT.glob("*.*"), ROOT / "Makefile"]:
        if file.is_file():
            assert not other.search(file.read_bytes().decode("utf-8", "replace")), file


def test_requirements_name_one_file_for_everything_that_the_core_needs() -> None:
    """With the version that is tested; `python .ci/requirements.py` writes the file."""
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = {
        m[1]: m[2] for m in (re.fullmatch(r"([a-z0-9.-]+)==(\S+) --hash=sha256:[0-9a-f]{64}", x) for x in lines) if m
    }
    assert len(pinned) == len(lines) > 20
    names = {re.split(r"[<>=\[ ]", wanted)[0].lower() for wanted in PROJECT["dependencies"]}
    assert names <= set(pinned)
    tested = dict(x.lower().split("==") for x in (ROOT / "constraints.txt").read_text().splitlines() if "==" in x)
    tested = {name.replace("_", "-"): version for name, version in tested.items()}
    assert {name: tested[name] for name in pinned if name in tested} == {n: v for n, v in pinned.items() if n in tested}
    assert names <= set(tested)
