"""``agentgym new-env``: a package with a working environment to start from."""

from __future__ import annotations

import importlib.util
import keyword
import re
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from agentgym.errors import DISTRIBUTION, UsageError

_FOLDER = Path(__file__).parent / "console" / "new_env"
_FILES = {
    "pyproject.toml.txt": "pyproject.toml",
    "README.md.txt": "README.md",
    "test_conformance.py.txt": "tests/test_conformance.py",
}
_ENV = "{package}/__init__.py"
_TEXT = {"env.py.txt": _ENV}, "find a number, told whether it is higher or lower"
_TOOLS = {"tool_env.py.txt": _ENV}, "buy what is asked for, with tools that share a cart"


def command(
    name: Annotated[str, typer.Argument(help="Name of the package, e.g. my-world.")],
    folder: Annotated[Path | None, typer.Option("--dir", help="Where to make it; by default ./NAME.")] = None,
    tools: Annotated[bool, typer.Option("--tools", help="One whose agent calls tools that share a session.")] = False,
) -> None:
    """Make a package with a working environment, its entry point and a conformance test."""
    package = _package(name)
    target = folder or Path(name)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} is there already; choose another --dir")
    cls = "".join(word.capitalize() for word in package.split("_")) + "Env"
    env_id = f"{name}/{cls.removesuffix('Env')}-v0"
    files, game = _TOOLS if tools else _TEXT
    for source, path in (_FILES | files).items():
        file = target / path.format(package=package)
        file.parent.mkdir(parents=True, exist_ok=True)
        text = Template((_FOLDER / source).read_text(encoding="utf-8"))
        filled = text.substitute(name=name, package=package, cls=cls, id=env_id, game=game, distribution=DISTRIBUTION)
        file.write_text(filled, encoding="utf-8")
    print(f"made {env_id} in {target}\n\nnext:")
    print(f"  pip install -e '{target}[test]'\n  pytest {target}\n  agentgym play {env_id}")


def _package(name: str) -> str:
    """The import name of a new package.

    Raises:
        UsageError: it cannot be one.
    """
    package = name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name) or keyword.iskeyword(package):
        raise UsageError(f"{name!r} cannot name a package; use small letters, digits and hyphens, e.g. my-world")
    if importlib.util.find_spec(package) is not None:
        raise UsageError(f"a module {package!r} is installed already; choose another name")
    return package
