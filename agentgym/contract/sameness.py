"""One seed, one episode; instances and copies that do not disturb each other."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator
from itertools import combinations

import numpy as np

from agentgym import keyed_random
from agentgym.contract.subject import Env, NotApplicable, Subject, difference, play, replay, rule, start, step
from agentgym.env import ReplayWrapper, close_quietly, fork


@rule(
    "global_random",
    "the global random generators are left alone",
    "draw from self.np_random instead of random or numpy.random",
    "step",
)
def _global_random(subject: Subject) -> Iterator[str]:
    saved = random.getstate(), np.random.get_state()
    try:
        random.seed(20_241)  # a state that an environment would not set itself
        np.random.seed(20_241)
        before = random.getstate(), pickle.dumps(np.random.get_state())
        play(subject.make(), subject.seeds[0], subject.turns)
        if random.getstate() != before[0]:
            yield "an episode moved Python's random"
        if pickle.dumps(np.random.get_state()) != before[1]:
            yield "an episode moved numpy.random"
    finally:
        random.setstate(saved[0])
        np.random.set_state(saved[1])


@rule(
    "determinism",
    "same seed, same episode, byte for byte",
    "let reset(seed=...) decide everything: draw from self.np_random, sort sets, use no clock and no id(); "
    "what tools remember lives in a session",
    "global_random",
    "info",
)
def _determinism(subject: Subject) -> Iterator[str]:
    used = subject.make()
    for seed in subject.seeds:
        actions, expected = play(used, seed, subject.turns)
        replay(used, seed, actions[: len(actions) // 2])  # and from the middle of another episode
        for how, env in (("in the same instance", used), ("in a new instance", subject.make())):
            if parted := difference(expected, replay(env, seed, actions)):
                yield f"seed {seed}, played again {how}: {parted}"
                return
        actions, expected = subject.first[seed]  # what all episodes share may be used up since then
        if parted := difference(expected, replay(subject.make().unwrapped, seed, actions)):
            yield f"seed {seed}, played again after other episodes: {parted}"
            return


@rule(
    "isolation",
    "instances do not disturb each other",
    "keep all state on self, nothing on the class or module; each instance has its own np_random",
    "determinism",
)
def _isolation(subject: Subject) -> Iterator[str]:
    seeds = [*subject.seeds, subject.seeds[0]]
    plays = [(seed, *play(subject.make(), seed, subject.turns)) for seed in seeds]
    envs = [subject.make() for _ in seeds]
    seen = [[start(env, seed)] for env, seed in zip(envs, seeds, strict=True)]
    for turn in range(subject.turns):
        for env, (_, actions, _), met in zip(envs, plays, seen, strict=True):
            if turn < len(actions):
                met.append(step(env, actions[turn]))
    for (seed, _, expected), met in zip(plays, seen, strict=True):
        if parted := difference(expected, met):
            yield f"seed {seed}, played beside others: {parted}"
            return
    for a, b in combinations(envs, 2):
        if a.unwrapped.np_random is b.unwrapped.np_random:
            yield "two instances share one np_random"
            return


@rule(
    "forking",
    "a fork goes on exactly like the original, and leaves it alone",
    "copy everything that changes in fork(), self.np_random included",
    "determinism",
)
def _forking(subject: Subject) -> Iterator[str]:
    if not callable(getattr(subject.make().unwrapped, "fork", None)):
        raise NotApplicable("it has no fork()")
    yield from _copies(subject, fork)


@rule(
    "replaying", "replaying the actions leads to the same state", "let reset(seed=...) decide everything", "determinism"
)
def _replaying(subject: Subject) -> Iterator[str]:
    if subject.make().env.spec is None:
        raise NotApplicable("it has no spec; register it")
    yield from _copies(subject, ReplayWrapper.replay)  # type: ignore[arg-type]


def _copies(subject: Subject, copy: Callable[[Env], Env]) -> Iterator[str]:
    for seed in subject.seeds:
        env = subject.make()
        actions, expected = play(env, seed, subject.turns)
        for turn in sorted({0, int(keyed_random.uniform("check", seed) * len(actions)), max(0, len(actions) - 1)}):
            replay(env, seed, actions[:turn])
            twin = copy(env)
            for who, one in (("the copy", twin), ("the original, after its copy went on", env)):
                rest = [step(one, action) for action in actions[turn:]]
                if parted := difference(expected[turn + 1 :], rest):
                    yield f"seed {seed}, copied before turn {turn}: {who}: {parted}"
                    return
            close_quietly(twin)
