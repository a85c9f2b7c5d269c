"""Policies: whatever answers a request with an action.

A policy gets one :class:`Request` a turn and answers at once with a :class:`Reply`, or with a future of one. Policies
here need no torch; a local model is :class:`agentgym.models.local_policy.ModelPolicy`, a server
:class:`agentgym.endpoint.EndpointPolicy`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

from agentgym import keyed_random
from agentgym.env import Info, close_quietly
from agentgym.errors import PolicyError, UsageError
from agentgym.records import Episode, Sample, StopReason, Turn, Usage
from agentgym.waiting import OutOfTime, Threads, limited


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the tokens of an action are drawn. None is what the policy itself was made with.

    Attributes:
        temperature: 0 takes the most probable token.
        max_new_tokens: length limit of the action.
    """

    temperature: float | None = None
    max_new_tokens: int | None = None


@dataclass(slots=True)
class Request:
    """What a policy is told when it must act.

    Attributes:
        episode: id of the running episode; a policy may keep state (a cache) under it until ``release``.
        key: 64-bit key of this turn; the answer's random numbers are derived from it (:mod:`agentgym.keyed_random`).
        observation: the text that is new this turn.
        info: what the environment returned beside it; ``answers`` and ``evidence`` are never in it.
        turns: the finished turns before this one.
        instructions: what a model that never saw the environment must be told.
        env: the running environment, for policies that look inside (the expert).
        parent: the episode this one was forked from, while its context still equals that one's.
        probe, probed: a policy that generates token by token may call ``probed`` once, from :meth:`Policy.advance`,
            when ``probe`` tokens of the answer are there, with a reply that holds only their sample.
        sampling: how to draw the action.
    """

    episode: str
    key: int
    observation: str
    info: Info
    turns: Sequence[Turn]
    instructions: str = ""
    env: gym.Env[str, str] | None = None
    parent: str | None = None
    probe: int = 0
    probed: Callable[[Reply], None] | None = None
    sampling: Sampling = Sampling()


@dataclass(frozen=True, slots=True)
class Reply:
    """A policy's answer.

    ``stop`` ends the episode without a step: ``CONTEXT_FULL`` or ``POLICY_STOPPED``; the action is then not played.
    ``calls`` are an endpoint's native tool calls, already rendered into ``action``; kept for the record only.
    """

    action: str
    sample: Sample | None = None
    usage: Usage = field(default=Usage())
    stop: StopReason | None = None


class Policy(Protocol):
    """Maps requests to actions.

    A policy whose answers come from elsewhere at times of their own has an attribute ``remote`` = True; a rollout then
    never makes it wait for a round of steps to be complete. A policy that shows its contexts has a method
    ``context_behind(request) -> Sample``: the context of one more turn, without an action. It is asked for the record
    of an episode that something could follow, before ``release``.
    """

    def submit(self, request: Request) -> Reply | Future[Reply]:
        """Answer at once, or with a future. An exception, raised or in the future, ends that one episode."""

    def advance(self) -> bool:
        """Do a piece of work in the caller's thread, e.g. one decoding step for every running request.

        Returns:
            Whether there was anything to do. Policies whose futures complete by themselves return False.
        """

    def release(self, episode: str) -> None:
        """The episode has ended; whatever was kept for it can go."""


class SyncPolicy:
    """Base of policies that answer at once and keep nothing."""

    def advance(self) -> bool:
        return False

    def release(self, episode: str) -> None:
        return


_NO_RANDOM = "random actions need info['admissible'] or sample_action(rng)"


_threads = Threads("agentgym-require")


def check_playable(policy: Policy, env: gym.Env[str, str], seconds: float | None = None) -> None:
    """Let a policy refuse an environment before the first episode, by its own ``require(env)`` if it has one.

    Args:
        policy: who is to play.
        env: one made for this; it is reset, and closed in the end.
        seconds: how long that may take; an environment that hangs is left behind, and its episodes will tell. None: any
            time.

    Raises:
        UsageError: the policy cannot play it.
    """

    def ask() -> None:
        try:
            if (require := getattr(policy, "require", None)) is not None:
                require(env)
        finally:
            close_quietly(env)

    with suppress(OutOfTime):
        limited(ask, seconds, _threads)


def random_action(request: Request) -> str:
    """An action drawn at random: one of ``info["admissible"]``, else of the environment's ``sample_action(rng)``.

    Raises:
        PolicyError: the environment has neither.
    """
    if admissible := request.info.get("admissible"):
        return keyed_random.choice(admissible, request.key)
    sample = getattr(request.env.unwrapped, "sample_action", None) if request.env is not None else None
    if sample is None:
        raise PolicyError(f"{_NO_RANDOM}, and this environment has neither")
    return str(sample(np.random.default_rng(request.key)))


def _name(env: gym.Env[str, str]) -> str:
    return env.spec.id if env.spec is not None else "this environment"


class RandomPolicy(SyncPolicy):
    """Any admissible action; where they are not listed, what the environment's ``sample_action`` draws."""

    def submit(self, request: Request) -> Reply:
        return Reply(random_action(request))

    def require(self, env: gym.Env[str, str]) -> None:
        """Refuse an environment without random actions."""
        try:
            admissible = env.reset(seed=0)[1].get("admissible")
        except (Exception, SystemExit):  # its episodes will tell
            return
        if not admissible and getattr(env.unwrapped, "sample_action", None) is None:
            raise UsageError(f"{_NO_RANDOM}, and {_name(env)} has neither; add one, or choose a policy without chance")


_TASKS = 8  # tasks that an expert is asked about before it is taken to know none


class ExpertPolicy(SyncPolicy):
    """The environment's own ``expert()``, with noise.

    Args:
        epsilon: with this probability something else is played: half of the time a random action, half of the time a
            mistake, an action that was admissible earlier in the episode and is not now.

    Attributes:
        noise: (episode, turn) of every action that was not the expert's; what imitates it leaves them out.
    """

    def __init__(self, epsilon: float = 0.0) -> None:
        self.epsilon = epsilon
        self.noise: set[tuple[str, int]] = set()
        self._seen: dict[str, dict[str, None]] = {}

    def submit(self, request: Request) -> Reply:
        expert = getattr(request.env.unwrapped, "expert", None) if request.env is not None else None
        if expert is None:
            raise PolicyError("this environment has no expert()")
        if self.epsilon:
            mistake = self._mistake(request)
            if keyed_random.uniform(request.key, "epsilon") < self.epsilon:
                return self._stray(request, mistake)
        action = expert()
        if action is None:
            return Reply("", stop=StopReason.POLICY_STOPPED)
        return Reply(action)

    def release(self, episode: str) -> None:
        self._seen.pop(episode, None)

    def require(self, env: gym.Env[str, str]) -> None:
        """Refuse an environment whose expert knows nothing, or whose noise could not be drawn."""
        if self.epsilon:
            RandomPolicy().require(env)
        expert: Callable[[], str | None] = getattr(env.unwrapped, "expert", None) or (lambda: None)
        for seed in range(_TASKS):
            try:
                env.reset(seed=seed)
                known = expert() is not None
            except (Exception, SystemExit):  # its episodes will tell
                return
            if known:
                return
        raise UsageError(
            f"{_name(env)} has no expert, or one without an action for any of {_TASKS} tasks; write its expert(), or "
            "do without: another policy, and no fine-tuning"
        )

    def _stray(self, request: Request, mistake: str | None) -> Reply:
        drawn = random_action(request)
        self.noise.add((request.episode, len(request.turns)))
        return Reply(mistake if mistake is not None and keyed_random.uniform(request.key, "stale") < 0.5 else drawn)

    def _mistake(self, request: Request) -> str | None:
        """An action that was admissible before and is not now, its first word drawn first; None where there is none."""
        admissible = request.info.get("admissible") or ()
        seen = self._seen.setdefault(request.episode, {})
        stale = [action for action in seen if action not in admissible]
        seen.update(dict.fromkeys(admissible))
        if not stale:
            return None
        verb = keyed_random.choice(list(dict.fromkeys(a.split(" ", 1)[0] for a in stale)), request.key, "mistake")
        return keyed_random.choice([a for a in stale if a.split(" ", 1)[0] == verb], request.key)


class ReplayPolicy(SyncPolicy):
    """Plays recorded episodes again: each request is answered from a recording of the same task.

    Args:
        episodes: recordings. One with the request's episode id and task is preferred, then the first of the task.
    """

    def __init__(self, episodes: Iterable[Episode]) -> None:
        self._actions: dict[tuple[str, str], list[str]] = {}
        for episode in episodes:
            actions = [t.action for t in episode.turns]
            self._actions.setdefault((episode.id, episode.task.task_id), actions)
            self._actions.setdefault(("", episode.task.task_id), actions)

    def submit(self, request: Request) -> Reply:
        task = str(request.info.get("task_id", ""))
        actions = self._actions.get((request.episode, task), self._actions.get(("", task)))
        if actions is None:
            raise PolicyError(f"no recorded episode of task {task!r}")
        turn = len(request.turns)
        if turn >= len(actions):
            return Reply("", stop=StopReason.POLICY_STOPPED)
        return Reply(actions[turn])


class ScriptedPolicy(SyncPolicy):
    """A function of the request, for tests and quick experiments."""

    def __init__(self, act: Callable[[Request], str]) -> None:
        self._act = act

    def submit(self, request: Request) -> Reply:
        return Reply(self._act(request))


class HumanPolicy(SyncPolicy):
    """A person at the terminal. An empty line lists the actions, end of input leaves."""

    def __init__(self, ask: Callable[[str], str] = input, show: Callable[[str], Any] = print) -> None:
        self._ask, self._show = ask, show

    def submit(self, request: Request) -> Reply:
        self._show(f"\n{request.observation}")
        while True:
            try:
                action = self._ask("> ").strip()
            except (EOFError, KeyboardInterrupt):
                return Reply("", stop=StopReason.POLICY_STOPPED)
            if action:
                return Reply(action)
            admissible = request.info.get("admissible") or ()
            self._show("\n".join(admissible) if admissible else "(this environment does not list its actions)")
