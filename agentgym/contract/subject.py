"""What rules are made of: the environment under test, how it is played, and the register of rules."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np

from agentgym import keyed_random
from agentgym.env import Info, ReplayWrapper

Env = gym.Env[str, str]
Find = Callable[["Subject"], Iterator[str]]

PHRASES = ("look", "help", "go to table 1", "take book 1 from table 1", "yes", "search: river")


class NotApplicable(Exception):
    """The rule does not concern this environment."""


@dataclass(frozen=True, slots=True)
class Met:
    """What came back from ``reset`` or ``step``, as far as two equal episodes must agree on it."""

    observation: str
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    info: tuple[tuple[str, Any], ...] = ()

    @property
    def over(self) -> bool:
        return self.terminated or self.truncated

    @property
    def known(self) -> dict[str, Any]:
        """The info keys that agentgym reads."""
        return dict(self.info)


@dataclass
class Subject:
    """The environment under test.

    Attributes:
        name: what the report calls it.
        make: makes a fresh instance; keyword arguments go to the environment.
        seeds: what to reset with.
        turns: how far episodes are played.
        spec: Gymnasium's specification, where it has one.
        takes_arguments: whether ``make`` passes keyword arguments on.
        first: the very first episode of each seed, its actions and what came back: later ones must still be equal.
        tasks: how many a policy of the panel plays.
        adversaries: further policies of the panel.
    """

    name: str
    make: Callable[..., ReplayWrapper]
    seeds: Sequence[int]
    turns: int
    spec: gym.envs.registration.EnvSpec | None
    takes_arguments: bool
    first: dict[int, tuple[list[str], list[Met]]] = field(default_factory=dict)
    tasks: int = 0
    adversaries: Sequence[Callable[[Any], str]] = ()

    @functools.cached_property
    def panel(self) -> Sequence[Any]:
        """What the panel played (:class:`agentgym.contract.panel.Played`), chance first."""
        from agentgym.contract.panel import PANEL, play_panel

        return play_panel(self.make, (*PANEL, *self.adversaries), self.tasks, self.turns)


@dataclass(frozen=True)
class Rule:
    """One promise of the contract.

    Attributes:
        name: short and unique.
        promise: what holds for every environment.
        advice: what to do where it does not.
        needs: rules without which this one cannot be judged.
        find: yields violations.
    """

    name: str
    promise: str
    advice: str
    needs: tuple[str, ...]
    find: Find


RULES: dict[str, Rule] = {}


def rule(name: str, promise: str, advice: str, *needs: str) -> Callable[[Find], Find]:
    """Register the decorated function as a rule, judged after the ones it needs."""

    def add(find: Find) -> Find:
        RULES[name] = Rule(name, promise, advice, needs, find)
        return find

    return add


def start(env: Env, seed: int | None, options: dict[str, Any] | None = None) -> Met:
    """What ``reset`` gives."""
    observation, info = env.reset(seed=seed, options=options)
    return Met(observation, info=agreed(info))


def step(env: Env, action: str) -> Met:
    """What ``step`` gives."""
    observation, reward, terminated, truncated, info = env.step(action)
    return Met(observation, float(reward), bool(terminated), bool(truncated), agreed(info))


def play(env: Env, seed: int, turns: int) -> tuple[list[str], list[Met]]:
    """Play with admissible or sampled actions, the expert's and a few arbitrary phrases, chosen by the seed."""
    met, actions = [start(env, seed)], list[str]()
    while len(actions) < turns and not met[-1].over:
        actions.append(some_action(env, met[-1], keyed_random.key("check", seed, len(actions))))
        met.append(step(env, actions[-1]))
    return actions, met


def replay(env: Env, seed: int, actions: Sequence[str]) -> list[Met]:
    """Play the actions, as far as the episode lasts."""
    met = [start(env, seed)]
    for action in actions:
        if met[-1].over:
            break
        met.append(step(env, action))
    return met


def expert_action(env: Env) -> str | None:
    """What the environment's expert would do; None where there is none or it knows nothing."""
    expert = getattr(env.unwrapped, "expert", None)
    return expert() if callable(expert) else None


def sampled_action(env: Env, seed: int) -> str | None:
    """What the environment draws from a new generator; None where it cannot."""
    sample = getattr(env.unwrapped, "sample_action", None)
    return sample(np.random.default_rng(seed)) if callable(sample) else None


def some_action(env: Env, met: Met, key: int) -> str:
    """An action chosen by the key: the expert's, an admissible one, one that the environment samples, or a phrase."""
    admissible: Sequence[str] | None = met.known.get("admissible")
    if keyed_random.uniform(key, "who") < 0.5 and (action := expert_action(env)) is not None:
        return action
    if (
        not admissible
        and keyed_random.uniform(key, "sampled") < 0.8
        and (action := sampled_action(env, key)) is not None
    ):
        return action
    return keyed_random.choice(admissible or PHRASES, key)


def agreed(info: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """The part of ``info`` that equal episodes must agree on."""
    listed = ((k, info[k]) for k in sorted(Info.__annotations__) if k in info)
    return tuple((k, tuple(v) if isinstance(v, list | tuple) else v) for k, v in listed)


def difference(expected: Sequence[Met], seen: Sequence[Met]) -> str | None:
    """Where two episodes part, in words; None if they are equal."""
    for turn, (a, b) in enumerate(zip(expected, seen, strict=False)):
        for name in ("observation", "reward", "terminated", "truncated"):
            if getattr(a, name) != getattr(b, name):
                return f"turn {turn}: {name} {short(getattr(a, name))} became {short(getattr(b, name))}"
        for name in sorted({**a.known, **b.known}):
            if a.known.get(name) != b.known.get(name):
                was, now = a.known.get(name), b.known.get(name)
                return f"turn {turn}: info[{name!r}] {short(was)} became {short(now)}"
    if len(expected) != len(seen):
        return f"{len(expected) - 1} turns became {len(seen) - 1}"
    return None


def short(value: object) -> str:
    """A value for a message."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:60]}...{text[-30:]}"
