"""The shape of things: what ``reset`` and ``step`` return, and how an episode ends."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from agentgym import keyed_random
from agentgym.contract.subject import Met, Subject, agreed, expert_action, play, rule, short, some_action, start, step
from agentgym.records import ToolCall


@rule("make", "make gives a gymnasium.Env", "return an instance of gymnasium.Env[str, str], best of agentgym.TextEnv")
def _make(subject: Subject) -> Iterator[str]:
    subject.make()
    yield from ()


@rule(
    "spaces",
    "both spaces contain every text",
    "use agentgym.Text() for observation_space and action_space, as agentgym.TextEnv does",
    "make",
)
def _spaces(subject: Subject) -> Iterator[str]:
    env = subject.make().unwrapped
    for name in ("observation_space", "action_space"):
        space: Any = getattr(env, name, None)
        if space is None or not all(text in space for text in ("", "é 漢\n\x00", "x" * 100_000)):
            yield f"{name} is {short(space)}"


@rule(
    "reset",
    "reset(*, seed=None, options=None) returns (str, dict)",
    "def reset(self, *, seed=None, options=None): super().reset(seed=seed); ...; return observation, info",
    "make",
)
def _reset(subject: Subject) -> Iterator[str]:
    env = subject.make().unwrapped
    for arguments in ({"seed": subject.seeds[0]}, {"seed": None, "options": None}, {"seed": 1, "options": {}}):
        result: Any = env.reset(**arguments)
        if not isinstance(result, tuple) or len(result) != 2:
            yield f"reset({arguments}) returned {short(result)}"
        elif not isinstance(result[0], str) or not isinstance(result[1], dict):
            yield f"reset({arguments}) returned ({type(result[0]).__name__}, {type(result[1]).__name__})"


@rule(
    "close",
    "close() raises nothing, before an episode, in one and twice",
    "catch in close() what goes wrong there; an environment that is closed is not needed any more",
    "reset",
)
def _close(subject: Subject) -> Iterator[str]:
    for begun in (False, True):
        env = subject.make()
        if begun:
            env.reset(seed=subject.seeds[0])
        env.close()
        env.close()
    yield from ()


@rule(
    "step",
    "step(action) returns (str, finite float, bool, bool, dict)",
    "return observation, reward, terminated, truncated, info",
    "reset",
)
def _step(subject: Subject) -> Iterator[str]:
    env = subject.make()
    kinds = (str, numbers.Real, bool | np.bool_, bool | np.bool_, dict)
    names = ("observation", "reward", "terminated", "truncated", "info")
    for seed in subject.seeds:
        observation, info = env.unwrapped.reset(seed=seed)
        met = [Met(observation, info=agreed(info))]
        actions: list[str] = []
        subject.first[seed] = actions, met
        for turn in range(subject.turns):
            action = some_action(env, met[-1], keyed_random.key("check", seed, turn))
            result: Any = env.unwrapped.step(action)
            if not isinstance(result, tuple) or len(result) != 5:
                yield f"seed {seed}, turn {turn}: returned {short(result)}"
                return
            wrong = [f"{n} {short(v)}" for n, v, k in zip(names, result, kinds, strict=True) if not isinstance(v, k)]
            if wrong or not math.isfinite(result[1]):
                yield f"seed {seed}, turn {turn}: returned " + (", ".join(wrong) or f"reward {result[1]}")
                return
            actions.append(action)
            met.append(Met(result[0], float(result[1]), bool(result[2]), bool(result[3]), agreed(result[4])))
            if met[-1].over:
                break


def _infos(subject: Subject) -> Iterator[tuple[int, int, Met]]:
    """(seed, turn, what came back) of some play."""
    env = subject.make()
    for seed in subject.seeds:
        for turn, met in enumerate(play(env, seed, subject.turns)[1]):
            yield seed, turn, met


@rule(
    "task_id",
    "info['task_id'] is a text, the same on every turn",
    "name the task in reset and repeat it in every info",
    "step",
)
def _task_id(subject: Subject) -> Iterator[str]:
    first: object = None
    for seed, turn, met in _infos(subject):
        value = met.known.get("task_id")
        first = value if turn == 0 else first
        if not isinstance(value, str) or not value or value != first:
            yield f"seed {seed}, turn {turn}: {value!r}" + (f", at reset {first!r}" if turn else "")
            return


@rule(
    "anchor",
    "info['anchor'] is a text, and states with one anchor admit the same actions",
    "put agentgym.digest(everything that decides what happens next) into every info",
    "task_id",
)
def _anchor(subject: Subject) -> Iterator[str]:
    admitted: dict[object, object] = {}
    for seed, turn, met in _infos(subject):
        value = met.known.get("anchor")
        if not isinstance(value, str) or not value:
            yield f"seed {seed}, turn {turn}: {value!r}"
            return
        if "admissible" in met.known and not met.over:
            place = (met.known["task_id"], value)
            if set(admitted.setdefault(place, met.known["admissible"])) != set(met.known["admissible"]):  # type: ignore[call-overload]
                yield f"seed {seed}, turn {turn}: anchor {value!r} was met before with other admissible actions"
                return


@rule(
    "info",
    "the other info keys have their types",
    "see agentgym.Info; leave a key out instead of setting it to None",
    "step",
)
def _info(subject: Subject) -> Iterator[str]:
    for seed, turn, met in _infos(subject):
        for name, value in met.known.items():
            if not _typed(name, value):
                yield f"seed {seed}, turn {turn}: info[{name!r}] is {short(value)}"
                return


def _typed(name: str, value: object) -> bool:
    if name == "success":
        return isinstance(value, bool | np.bool_)
    if name == "error":
        return isinstance(value, str) and bool(value)
    if name in ("task_id", "anchor"):
        return True
    if name == "screenshot":
        return isinstance(value, bytes)
    if name in ("columns", "metrics"):
        return isinstance(value, Mapping) and all(isinstance(key, str) and _cell(name, v) for key, v in value.items())
    kind = ToolCall if name == "tool_calls" else str
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(v, kind) for v in value)


def _cell(name: str, value: object) -> bool:
    """A number that is not infinite; in columns also a text."""
    if isinstance(value, str):
        return name == "columns"
    return isinstance(value, bool | np.bool_ | int | float | np.number) and not math.isinf(value)


@rule(
    "end",
    "an episode ends by terminated or by truncated, never by both; stepping on raises gymnasium.error.ResetNeeded",
    "say terminated where the task's own rule ended it; refuse a step without a running episode",
    "step",
)
def _end(subject: Subject) -> Iterator[str]:
    env = subject.make()
    for seed in subject.seeds:
        met = start(env, seed)
        turn = 0
        while not met.over and turn < 500:
            action = expert_action(env)
            met = step(env, action if action is not None else some_action(env, met, keyed_random.key(seed, turn)))
            turn += 1
        if met.terminated and met.truncated:
            yield f"seed {seed}, turn {turn}: terminated and truncated"
        if met.over:
            try:
                env.step("look")
                yield f"seed {seed}: a step after the end of the episode was taken"
            except gym.error.ResetNeeded:
                continue
            except (Exception, SystemExit) as error:
                yield f"seed {seed}: a step after the end raised {type(error).__name__}: {error}"
