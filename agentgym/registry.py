"""Environments by name: Gymnasium's registry, plus the entry-point group ``agentgym.envs``.

A package joins with one line in its ``pyproject.toml``; the built-in environments use the same door::

    [project.entry-points."agentgym.envs"]
    "me/World-v0" = "my_package.world:World"

The strings are registered with Gymnasium; a module is imported only when its environment is made.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points
from types import ModuleType
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, load_env_creator

from agentgym.env import ReplayWrapper, close_quietly
from agentgym.errors import DISTRIBUTION, AgentGymError, ContractError, UnknownName, UsageError

GROUP = "agentgym.envs"
_loaded = False


def register_builtin() -> None:
    """Register the environments that come with agentgym; ``import agentgym`` does this."""
    try:
        _register(e for e in distribution(DISTRIBUTION).entry_points if e.group == GROUP)
    except PackageNotFoundError:  # installed under another name, e.g. by a fork, or not at all
        register_plugins()


def register_plugins() -> None:
    """Register what other installed packages offer in the entry-point group; done once, on the first use by name."""
    global _loaded
    if not _loaded:
        _loaded = True
        _register(entry_points(group=GROUP))


def env_ids() -> list[str]:
    """The ids of every environment that came through the entry-point group, sorted."""
    register_plugins()
    return sorted({e.name for e in entry_points(group=GROUP)} & set(gym.registry))


def find(env_id: str) -> EnvSpec:
    """Gymnasium's specification of an environment.

    Args:
        env_id: an id known to Gymnasium or to the entry-point group; ``module:id`` imports a module first.

    Raises:
        UnknownName: no such id; the nearest ones are offered.
        UsageError: the module cannot be imported.
    """
    name = import_of(env_id)
    if name not in gym.registry:
        register_plugins()
    if name not in gym.registry:
        ours = {e.name for e in entry_points(group=GROUP)}
        raise UnknownName("environment", env_id, ours | {i for i in gym.registry if "/" in i})
    return gym.registry[name]


def make(env_id: str, *, extra_tools: Sequence[str] = (), **kwargs: Any) -> ReplayWrapper:
    """Create an environment by name; like ``gymnasium.make`` without its checker, recorded so that it can be forked.

    Args:
        env_id: see :func:`find`.
        extra_tools: further tools for the agent, ``module:name`` each; for environments with ``add_tools``.
        **kwargs: passed to the environment, e.g. ``split="test"``.

    Raises:
        UnknownName: no such id; the nearest ones are offered.
        UsageError: the environment refused its arguments or a tool, or a module that it needs is not installed.
        ContractError: it tries to end the process.
    """
    spec = find(env_id)
    try:
        env = gym.make(spec, disable_env_checker=True, **kwargs)
        if extra_tools:
            _add_tools(env, spec.id, extra_tools)
        return ReplayWrapper(env)
    except AgentGymError:
        raise
    except ModuleNotFoundError as error:
        raise UsageError(f"{spec.id} needs the module {error.name!r}, which is not installed") from error
    except SystemExit as error:
        raise ContractError(f"{spec.id} cannot be made: it calls sys.exit({error.code!r})") from error
    except TypeError as error:
        # Gymnasium re-raises a constructor's TypeError with the whole id and kwargs; its first sentence says it all.
        raise UsageError(f"{spec.id} cannot be made with {kwargs}: {str(error).splitlines()[0]}") from error


def _add_tools(env: gym.Env[Any, Any], name: str, tools: Sequence[str]) -> None:
    add = getattr(env.unwrapped, "add_tools", None)
    if add is None:
        raise UsageError(f"{name} takes no further tools (it is no ToolEnv); leave out {', '.join(tools)}")
    add([tools] if isinstance(tools, str) else tools)


def takes_split(env_id: str, **kwargs: Any) -> bool:
    """Whether the environment takes ``split=``: by name, or as one of any arguments that it hands on.

    In the second case it is made once with ``kwargs``, and takes a split if it says which ones it has.
    """
    entry = find(env_id).entry_point
    creator = load_env_creator(entry) if isinstance(entry, str) else entry
    if creator is None:
        return False
    parameters = inspect.signature(creator).parameters
    if "split" in parameters or not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return "split" in parameters
    env = make(env_id, **kwargs)
    try:
        return bool(getattr(env.unwrapped, "splits", ()))
    finally:
        close_quietly(env)


def import_of(env_id: str) -> str:
    """Import the module of ``module:id``, if it names one, and return the id.

    Raises:
        UsageError: there is no such module.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        import_named(module)
    return name


def import_named(module: str) -> ModuleType:
    """Import a module that was named by the user, e.g. to let it register its environments.

    Raises:
        UsageError: there is no such module, or it is a script that ends the process.
    """
    if not all(part.isidentifier() for part in module.split(".")):
        raise UsageError(f"cannot import {module!r}: that is no module name")
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name is not None and (module == error.name or module.startswith(f"{error.name}."))
        hint = f"; install it, or run this where {module.partition('.')[0]}.py is" if missing else ""
        raise UsageError(f"cannot import {module!r}: {error}{hint}") from error
    except SystemExit as error:
        raise UsageError(
            f"cannot import {module!r}: it calls sys.exit({error.code!r}); let it do so under if __name__ == '__main__'"
        ) from error


def _register(found: Iterable[EntryPoint]) -> None:
    for entry in found:
        if entry.name in gym.registry:
            continue
        try:
            gym.register(entry.name, entry_point=entry.value, disable_env_checker=True)
        except gym.error.Error as error:
            raise UsageError(f"entry point {entry.name!r} = {entry.value!r} in group {GROUP!r}: {error}") from error
