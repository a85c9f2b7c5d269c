"""``agentgym envs``: what can be played."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from agentgym.cli.console.printing import print_table


def command(
    modules: Annotated[list[str] | None, typer.Argument(help="Modules that register further environments.")] = None,
) -> None:
    """List the environments that can be named: built-in ones and those of installed packages."""
    import gymnasium as gym

    from agentgym import registry

    before = set(gym.registry)
    for module in modules or ():
        registry.import_named(module)
    ids = sorted({*registry.env_ids(), *(set(gym.registry) - before)})
    print_table(("environment", "splits", "what it is"), ((env_id, *_described(env_id)) for env_id in ids))


def _described(env_id: str) -> tuple[str, str]:
    """Splits and first docstring line of an environment's class."""
    from gymnasium.envs.registration import load_env_creator, registry

    entry = registry[env_id].entry_point
    try:
        made: Any = load_env_creator(entry) if isinstance(entry, str) else entry
    except (ImportError, AttributeError) as error:  # an extra is missing, or the package is broken
        return "", f"cannot be imported: {error}"
    return ", ".join(getattr(made, "splits", ())), (made.__doc__ or "").strip().split("\n")[0].replace("``", "")
