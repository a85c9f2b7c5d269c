"""What the shell offers when Tab is pressed behind an argument; ``agentgym --install-completion`` switches it on.

Nothing here may be slow: no model and no environment is loaded.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path


def env_ids(incomplete: str) -> list[str]:
    """Ids of environments."""
    from agentgym import registry

    return _starting(incomplete, registry.env_ids())


def algorithm_names(incomplete: str) -> list[str]:
    """Names of the built-in algorithms; each is a file, and none is imported."""
    package = import_module("agentgym.trainers.algorithms")
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    return _starting(incomplete, sorted(module.name.rpartition(".")[2] for module in found if not module.ispkg))


def policies(incomplete: str) -> list[str]:
    """Kinds of policies, and the folders of runs."""
    return _starting(incomplete, ["random", "expert", "expert:", "replay:", "model:", *_runs()])


def models(incomplete: str) -> list[str]:
    """The tiny model, and the folders of runs."""
    return _starting(incomplete, ["tiny", *_runs()])


def options(incomplete: str) -> list[str]:
    """Options of a training."""
    from agentgym.cli.console.options import option_rows

    return _starting(incomplete, (f"{name}=" for name, _, _ in option_rows()))


def _runs() -> list[str]:
    return sorted(str(file.parent) for file in Path("runs").glob("*/run.yaml"))


def _starting(incomplete: str, known: Iterable[str]) -> list[str]:
    return [name for name in known if name.startswith(incomplete)]
