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
