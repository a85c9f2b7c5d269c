"""Policies that play by themselves, from text: those of every command, run folders, and servers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentgym.budget.prices import Prices
from agentgym.cli.console.arguments import names_model, parse_policy
from agentgym.errors import MissingExtra, UsageError
from agentgym.models.kinds import newest_of
from agentgym.policy import HumanPolicy, Policy, check_playable
from agentgym.store import RunFolder

if TYPE_CHECKING:
    import gymnasium as gym

PLAYER_HELP = (
    "random, expert, expert:0.2, replay:FILE, a run's folder, a model's folder or hub name, or http://HOST:PORT/v1"
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What servers need beyond their address."""

    model: str | None = None
    key_variable: str = "OPENAI_API_KEY"
    concurrency: int = 64
    tools: Sequence[Mapping[str, Any]] = ()
    prices: Prices = field(default_factory=Prices)


def player(
    text: str,
    endpoint: Endpoint,
    make_env: Callable[[], gym.Env[str, str]],
    modules: Collection[str] = (),
    step_seconds: float | None = None,
) -> contextlib.AbstractContextManager[tuple[str, Policy]]:
    """The policy that a text names, and its name in results; models are loaded, servers connected to, on entering.

    Args:
        modules: that the ``run.yaml`` of a run may import.
        step_seconds: what hangs for so long while a policy looks at an environment is left to the episodes to tell.

    Entering raises PolicyError where a server cannot be reached or does not have the model.

    Raises:
        UsageError: no such policy, no such model, one that cannot play by itself, or one that cannot play these
            environments.
        StoreError: a run without a checkpoint.
    """
    if text.startswith(("http://", "https://")):
        return _served(text, endpoint)
    folder = Path(text.removeprefix("model:"))
    if (folder / "run.yaml").exists():
        newest_of(str(folder))
        return _trained(folder, modules)
    if (update := _update_of(folder)) is not None:
        return _trained(folder.parent.parent, modules, update)
    make = parse_policy(text)
    if make is HumanPolicy:
        raise UsageError("a person cannot be evaluated; use: agentgym play ENV")
    if names_model(text):
        _check_model(text.removeprefix("model:"))
        return _loaded(text, make)
    policy = make()
    check_playable(policy, make_env(), step_seconds)
    return contextlib.nullcontext((text, policy))


def _update_of(folder: Path) -> int | None:
    """Of a run's checkpoint, the update; None: it is none."""
    run = folder.parent.parent
    if folder.parent.name != "checkpoints" or not (run / "run.yaml").exists():
        return None
    return next((update for update, path in RunFolder(run).checkpoints().items() if path == folder), None)


def _check_model(name: str) -> None:
    try:
        from agentgym.models.loading import check_model
    except ModuleNotFoundError as error:
        raise MissingExtra(str(error.name), "train") from error
    check_model(name, "cpu")


@contextlib.contextmanager
def _loaded(text: str, make: Callable[[], Policy]) -> Iterator[tuple[str, Policy]]:
    yield text, make()


@contextlib.contextmanager
def _served(url: str, endpoint: Endpoint) -> Iterator[tuple[str, Policy]]:
    from agentgym.endpoint import EndpointPolicy

    with EndpointPolicy(
        url,
        endpoint.model,
        tools=endpoint.tools,
        prices=endpoint.prices,
        concurrency=endpoint.concurrency,
        key_variable=endpoint.key_variable,
    ) as policy:
        yield f"{policy.check()}@{url.rstrip('/')}", policy


@contextlib.contextmanager
def _trained(path: Path, modules: Collection[str], update: int | None = None) -> Iterator[tuple[str, Policy]]:
    """The latest checkpoint of a run, or that of an update, seeing what it was trained to see."""
    try:
        from agentgym.trainers.run.build import policy_from_run
        from agentgym.trainers.run.trust import Allowed
    except ModuleNotFoundError as error:
        raise MissingExtra(str(error.name), "train") from error
    policy = policy_from_run(path, update, allowed=Allowed(modules))
    yield f"{path}@update-{policy.version}", policy
