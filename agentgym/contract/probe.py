"""One look at an environment: everything that others read from its attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gymnasium as gym

from agentgym import keyed_random
from agentgym.contract.subject import Met, agreed, short, some_action
from agentgym.env import close_quietly
from agentgym.errors import AgentGymError, WorldFault
from agentgym.waiting import OutOfTime, Threads, limited

_threads = Threads("agentgym-probe")
_MARK = "4711"
_TURNS = 3  # that are played
_TASKS = 8  # that are tried to begin


@dataclass(frozen=True)
class Probe:
    """What an environment says about itself.

    Attributes:
        env_id: its id, or the name of its class.
        fingerprint: content hash of what decides how an episode looks; empty where it has none.
        instructions: what a model that never saw it must be told.
        num_tasks: how many tasks the split has; None where they are generated without end.
        has_tools: whether calls of tools can be counted and limited.
        permutable_names: sets of names that can be permuted throughout an episode, see :class:`agentgym.TextEnv`.
        answer_markup: what its syntax writes before and after an answer; the usual tags where it has no syntax.
        tool_schemas: JSON schemas of its tools where an endpoint has to be given them, else empty.
        info: what the first ``reset`` that works, of seeds 0 to 7, gave beside the first observation; else empty.
        failure: why none of them works; None where one does.
    """

    env_id: str
    fingerprint: str
    instructions: str
    num_tasks: int | None
    has_tools: bool
    permutable_names: tuple[tuple[str, ...], ...]
    answer_markup: tuple[str, str]
    tool_schemas: list[dict[str, Any]] = field(repr=False)
    info: Mapping[str, Any] = field(repr=False)
    failure: str | None = None


def probe(make_env: Callable[[], gym.Env[str, str]], reset_seconds: float | None = None) -> Probe:
    """Make an environment, look at it, reset it until that works, and close it.

    A world that cannot begin this or that task is no obstacle: its episodes will tell.

    Args:
        make_env: makes it.
        reset_seconds: how long a reset may take; one that hangs is left behind, with the environment. None: any time.
    """
    env = make_env()
    try:
        info, failure = _first_info(env, reset_seconds)
        base: Any = env.unwrapped
        return Probe(
            env_id=env.spec.id if env.spec is not None else type(base).__name__,
            fingerprint=str(getattr(base, "fingerprint", "")),
            instructions=str(getattr(base, "instructions", "")),
            num_tasks=getattr(base, "num_tasks", None),
            has_tools=hasattr(base, "gate") or hasattr(base, "tools"),
            permutable_names=getattr(base, "permutable_names", ()),
            answer_markup=answer_markup(env),
            tool_schemas=base.tools.schemas() if getattr(getattr(base, "syntax", None), "native", False) else [],
            info=info,
            failure=failure,
        )
    finally:
        with suppress(OutOfTime):
            limited(partial(close_quietly, env), reset_seconds, _threads)


def _first_info(env: gym.Env[str, str], seconds: float | None) -> tuple[Mapping[str, Any], str | None]:
    """The info of the first task that can be begun; or nothing, and why not."""
    failure = None
    for seed in range(_TASKS):
        try:
            _, info = limited(partial(env.reset, seed=seed), seconds, _threads)
            if not isinstance(info, Mapping):
                raise TypeError(f"reset gave the info {short(info)}")
        except OutOfTime:  # it may still be in there, so nothing more is asked of it
            return {}, f"reset took longer than {seconds:g} s"
        except (Exception, SystemExit) as error:
            if isinstance(error, AgentGymError) and not isinstance(error, WorldFault):
                raise  # what it refuses
            failure = failure or f"{type(error).__name__}: {error}".removesuffix(": ")
        else:
            return info, None
    return {}, failure


def columns_of(make_env: Callable[[], gym.Env[str, str]]) -> frozenset[str]:
    """Names in ``info["columns"]`` of an environment's first turns, whoever plays them; it may also fail there."""
    env = make_env()
    names: set[str] = set()
    try:
        _, info = env.reset(seed=0)
        for turn in range(_TURNS):
            action = some_action(env, Met("", info=agreed(info)), keyed_random.key("probe", turn))
            _, _, terminated, truncated, info = env.step(action)
            names.update(info.get("columns") or ())
            if terminated or truncated:
                break
    except (Exception, SystemExit):  # what it does to an odd action is not the question here
        return frozenset(names)
    finally:
        close_quietly(env)
    return frozenset(names)


def answer_markup(env: gym.Env[str, str]) -> tuple[str, str]:
    """What an environment's syntax writes before and after an answer; the usual tags where it has no syntax."""
    syntax = getattr(env.unwrapped, "syntax", None)
    if syntax is None:
        return "<answer>", "</answer>"
    opening, _, closing = str(syntax.render(answer=_MARK)).partition(_MARK)
    return opening, closing
