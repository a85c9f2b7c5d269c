"""What a run folder may do beside being read: import nothing and switch no protection off, unless its user says so."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agentgym.errors import UsageError
from agentgym.store import RunFolder
from agentgym.trainers.expressions import modules_in
from agentgym.trainers.run.config import TrainConfig
from agentgym.trainers.run.run_file import options_of

UNSAFE = "unsafe"  #: how options of an environment begin that take protection away


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a user allows a run folder.

    Attributes:
        modules: that its ``run.yaml`` may import. This package's own, and those that are imported already, always may.
        unsafe: whether its environment's ``unsafe...`` options hold.
    """

    modules: Collection[str] = ()
    unsafe: bool = False

    def imports(self, module: str) -> bool:
        return module in self.modules or module in sys.modules or module.partition(".")[0] == "agentgym"


NOTHING = Allowed()


def trusted_options(folder: RunFolder, allowed: Allowed, *, plays: bool = True) -> TrainConfig:
    """The options of a run, refused where its ``run.yaml`` would do more than be read.

    Args:
        allowed: what the user allows it.
        plays: whether its environment will be made; without that, an unsafe option of it means nothing.

    Raises:
        UsageError: it would import a module, or switch protection off, and nobody allowed that.
    """
    config, file = options_of(folder), folder.path / "run.yaml"
    for option, value, modules in _named(config):
        for module in modules:
            if not allowed.imports(module):
                raise UsageError(
                    f"{file} would import code: {option}={value}; if you trust it, allow it: --allow-import {module}"
                )
    for option, value in _unsafe(config.env_options, "env.") if plays and not allowed.unsafe else ():
        raise UsageError(
            f"{file} switches protection off: {option}={value!r}; if you want that, repeat it: --unsafe-local-python"
        )
    return config


def resuming(folder: RunFolder, config: TrainConfig) -> str:
    """The command that resumes a run, with what its user has to allow."""
    modules = dict.fromkeys(m for _, _, named in _named(config) for m in named if m.partition(".")[0] != "agentgym")
    allowing = [f" --allow-import {module}" for module in modules]
    unsafe = [" --unsafe-local-python"] if any(_unsafe(config.env_options, "")) else []
    return "".join([f"agentgym train --resume {shlex.quote(str(folder.path))}", *allowing, *unsafe])


def _named(config: TrainConfig) -> Iterator[tuple[str, str, Collection[str]]]:
    """The options that may name modules, what they say, and the modules."""
    for option, value in (("env", config.env), ("algorithm", config.algorithm)):
        module = value.rpartition(":")[0]
        yield option, value, [module] if module else []
    tools = config.env_options.get("extra_tools", ())
    for tool in map(str, [tools] if isinstance(tools, str) else tools or ()):
        yield "env.extra_tools", tool, [tool.rpartition(":")[0]]
    for stage, part in config.overrides.items():
        yield f"overrides.{stage}", part, modules_in(part)


def _unsafe(options: Mapping[str, Any], above: str) -> Iterator[tuple[str, Any]]:
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _unsafe(value, f"{above}{name}.")
        elif str(name).startswith(UNSAFE) and value:
            yield f"{above}{name}", value
