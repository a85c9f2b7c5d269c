"""The environment as a whole: its tasks and splits, its parameters, its place in Gymnasium."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import gymnasium as gym

from agentgym.contract.subject import Met, NotApplicable, Subject, play, rule, start
from agentgym.env import ReplayWrapper, close_quietly


@rule(
    "fingerprint",
    "fingerprint is a text that stays the same",
    "hash grammar, prompts and data; not the time, the instance or the running episode",
    "step",
)
def _fingerprint(subject: Subject) -> Iterator[str]:
    env = subject.make()
    first: Any = getattr(env.unwrapped, "fingerprint", None)
    if not isinstance(first, str) or not first:
        yield f"fingerprint is {first!r}; derive from agentgym.TextEnv"
        return
    play(env, subject.seeds[0], subject.turns)
    for when, other in (("after an episode", env), ("in another instance", subject.make())):
        if (now := getattr(other.unwrapped, "fingerprint", None)) != first:
            yield f"{first!r} became {now!r} {when}"


@rule(
    "splits",
    "no task is in two splits",
    "derive the tasks of each split so that they cannot meet, e.g. by a hash of their content",
    "determinism",
    "anchor",
)
def _splits(subject: Subject) -> Iterator[str]:
    names = getattr(subject.make().unwrapped, "splits", ())
    if len(names) < 2 or not subject.takes_arguments:
        raise NotApplicable("it has fewer than two splits" if len(names) < 2 else "its factory takes no split")
    met = {name: _first_tasks(subject.make(split=name)) for name in names}
    for one, two in combinations(names, 2):
        for key in ("task_id", "anchor"):
            common = {m.known[key] for m in met[one]} & {m.known[key] for m in met[two]}
            if common:
                yield f"{one!r} and {two!r} share {len(common)} {key}s among 64 tasks each, e.g. {sorted(common)[0]!r}"
                return


def _first_tasks(env: ReplayWrapper, count: int = 64) -> list[Met]:
    finite = getattr(env.unwrapped, "num_tasks", None)
    if finite is None:
        return [start(env, seed) for seed in range(count)]
    return [start(env, 0, {"task": i}) for i in range(min(finite, count))]


@rule(
    "tasks",
    "num_tasks tasks can be chosen by reset(options={'task': i}), and no more",
    "obey options['task'] from 0 to num_tasks - 1 and refuse others, or leave num_tasks None",
    "determinism",
)
def _tasks(subject: Subject) -> Iterator[str]:
    env = subject.make()
    count = getattr(env.unwrapped, "num_tasks", None)
    if count is None:
        raise NotApplicable("its tasks are generated without end")
    met = _first_tasks(env)
    if len({m.known["task_id"] for m in met}) < len(met):
        yield f"the first {len(met)} tasks have only {len({m.known['task_id'] for m in met})} task ids"
    if _accepts(lambda: start(env, 0, {"task": count})):
        yield f"num_tasks is {count}, but reset(options={{'task': {count}}}) was accepted"


@rule(
    "parameters",
    "a parameter is obeyed or refused, never ignored",
    "raise agentgym.errors.UsageError for a split, argument or option that is not known",
    "reset",
)
def _parameters(subject: Subject) -> Iterator[str]:
    if subject.takes_arguments:
        for argument in ({"split": "no-such-split"}, {"no_such_argument": 1}):
            if _accepts(lambda argument=argument: subject.make(**argument)):  # type: ignore[misc]
                yield f"made with {argument}"
    if _accepts(lambda: subject.make().reset(seed=0, options={"no-such-option": 1})):
        yield "reset with options={'no-such-option': 1}"


def _accepts(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except (Exception, SystemExit):
        return False
    return True


@rule(
    "spec",
    "its spec can be pickled and made again elsewhere",
    "register it with a text, entry_point='module:Class', and plain keyword arguments",
    "make",
)
def _spec(subject: Subject) -> Iterator[str]:
    if subject.spec is None:
        raise NotApplicable("it has no spec; register it")
    close_quietly(gym.make(pickle.loads(pickle.dumps(subject.spec)), disable_env_checker=True))  # noqa: S301  our own bytes
    yield from ()


@rule(
    "gymnasium",
    "gymnasium.utils.env_checker.check_env passes",
    "see its message and https://gymnasium.farama.org",
    "spaces",
    "determinism",
    "garbage",
    "end",
)
def _gymnasium(subject: Subject) -> Iterator[str]:
    from gymnasium.utils.env_checker import check_env

    env = subject.make().unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its advice on boxes and images
        check_env(env, skip_render_check=True, skip_close_check=True)
    yield from ()
