"""The engine: it drives the policy, steps environments inline or in threads, and hands out episodes as they finish."""

from __future__ import annotations

import contextlib
import math
import queue
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, Self

import gymnasium as gym

from agentgym import draws
from agentgym.env import fork
from agentgym.errors import ContractError, PolicyError, UsageError, WorldFault
from agentgym.policy import Policy, Reply
from agentgym.records import Episode, StopReason, Task, Usage
from agentgym.rollout.branching import Branching, Independent
from agentgym.rollout.running import Group, GroupState, Running

MakeEnv = Callable[[], gym.Env[str, str]]
_RESET, _REPLY, _STEP, _REDO = "reset", "reply", "step", "repeated step"
_BROKEN = (StopReason.ACTION_ERROR, StopReason.WORLD_FAULT)
_Event = tuple[str, Running, Future[Any], float]  # what finished, for whom, with what, when


class Rollout:
    """Plays groups of episodes with a policy. A context manager; :meth:`close` closes environments and threads.

    Args:
        make_env: makes one environment; instances are reused for later episodes.
        policy: answers the requests.
        slots: how many episodes run at the same time.
        max_turns: cut episodes here (``TURN_LIMIT``), beside the environment's own limit.
        threads: step environments in this many threads; None: as the environment says (``TextEnv.waits``).
        branching: how the episodes of a group come about.
        run_key: first part of every draw's key.

    Attributes:
        policy_calls: requests submitted so far.
        instructions: what the environment tells a model that never saw it.
        num_tasks: how many tasks the environment has, where they are finitely many.
    """

    def __init__(
        self,
        make_env: MakeEnv,
        policy: Policy,
        *,
        slots: int = 64,
        max_turns: int | None = None,
        threads: int | None = None,
        branching: Branching | None = None,
        run_key: int = 0,
    ) -> None:
        if slots < 1:
            raise UsageError(f"slots must be at least 1, got {slots}")
        if max_turns is not None and max_turns < 1:
            raise UsageError(f"max_turns must be at least 1, got {max_turns}")
        self.policy, self.slots, self.max_turns, self.run_key = policy, slots, max_turns, run_key
        self.branching = branching or Independent()
        self.policy_calls = 0
        self._make_env = make_env
        first = make_env()
        self._idle = [first]
        base = first.unwrapped
        self.env_id = first.spec.id if first.spec else type(base).__name__
        self._fingerprint = str(getattr(base, "fingerprint", ""))
        self.num_tasks: int | None = getattr(base, "num_tasks", None)
        self.instructions = str(getattr(base, "instructions", ""))
        if threads is None:
            threads = slots if getattr(base, "waits", False) else 0
        self._pool = ThreadPoolExecutor(threads, "agentgym-env") if threads else None
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._in_flight = 0  # futures whose event has not been handled yet
        self._roots: deque[GroupState] = deque()  # one entry per root that waits for a slot
        self._ready: deque[Running] = deque()  # have an observation, must ask the policy
        self._done: deque[Episode] = deque()
        self._running: dict[int, Running] = {}  # by id()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all environments and threads."""
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
        running = [e.env for e in self._running.values() if e.env is not None]
        for env in (*self._idle, *running):
            env.close()
        self._idle, self._running = [], {}

    def play(self, groups: Iterable[Group]) -> Iterator[Episode]:
        """Play the groups; yields each episode as it finishes.

        Raises:
            ContractError: members of a group met different states at their start.
        """
        source = iter(groups)
        self.branching.begin(self.policy)
        while True:
            while (
                not self._done and len(self._running) < self.slots and (self._roots or self._open(next(source, None)))
            ):
                self._start(self._roots.popleft())
                self._drive()
            if self._done:
                yield self._done.popleft()
            elif self._running:
                self._work()
            elif not self._roots and not self._open(next(source, None)):
                return

    # Starting ---------------------------------------------------------------------------------------------------------

    def _open(self, group: Group | None) -> bool:
        if group is None:
            return False
        state = GroupState(group)
        self._add_roots(state, self.branching.roots(group.size))
        return True

    def _add_roots(self, state: GroupState, count: int) -> None:
        """Claim room for roots; they start as slots come free, before any later group."""
        count = max(1, min(count, state.room))
        state.claimed += count
        self._roots.extendleft([state] * count)

    def _start(self, state: GroupState) -> None:
        task, root = state.group.task, state.roots
        state.roots += 1
        env = self._idle.pop() if self._idle else None
        episode = state.start(draws.key(self.run_key, state.group.id, root), task, env, self.max_turns)
        self._running[id(episode)] = episode
        self._reset(episode)

    def _reset(self, episode: Running) -> None:
        task = episode.task
        options = dict(task.options) if task.options else None

        def reset() -> Any:
            if episode.env is None:  # made here, so that one that is slow to start keeps nobody waiting
                episode.env = self._make_env()
            return episode.env.reset(seed=task.seed, options=options)

        self._call(_RESET, episode, reset)

    def _after_reset(self, episode: Running, result: tuple[str, dict[str, Any]]) -> None:
        observation, info = result
        if not isinstance(observation, str):
            raise ValueError("the observation must be a text")
        anchor = info.get("anchor")
        state = episode.state
        if not state.met:
            state.met, state.anchor = True, anchor
        elif state.anchor != anchor:
            raise ContractError(
                f"{self.env_id}: members of group {state.group.id!r} start from different states ({state.anchor!r} and "
                f"{anchor!r}) though all had seed {episode.task.seed}: reset(seed=...) must decide everything"
            )
        episode.task = Task(episode.task.seed, episode.task.options, str(info.get("task_id", "")))
        episode.answers = tuple(info.get("answers", ()))
        episode.evidence = tuple(info.get("evidence", ()))
        assert episode.env is not None
        episode.charge = _charge_of(episode.env)
        if episode.redone is not None:
            self._met_again(episode, observation, info)
            return
        episode.meet(observation, info)
        self._ready.append(episode)

    # Turns ------------------------------------------------------------------------------------------------------------

    def _drive(self) -> None:
        """Take every episode that can go on as far as it goes without waiting."""
        while self._ready:
            episode = self._ready.popleft()
            (self._ask if episode.redone is None else self._redo)(episode)

    def _ask(self, episode: Running) -> None:
        request = episode.request(self.instructions)
        if self.branching.probe and not episode.decided and episode.state.room > 0:
            request.probe, request.probed = self.branching.probe, partial(self._decide, episode)
        self.policy_calls += 1
        episode.asked = time.perf_counter()
        try:
            answer = self.policy.submit(request)
        except Exception as error:
            self._finish(episode, StopReason.POLICY_ERROR, failure=_describe(error))
            return
        if isinstance(answer, Reply):
            self._act(episode, answer, time.perf_counter())
        else:
            self._watch(_REPLY, episode, answer)

    def _act(self, episode: Running, reply: Reply, answered: float) -> None:
        episode.model_seconds = answered - episode.asked
        episode.copied_from = None
        if reply.stop is not None:
            self._finish(episode, reply.stop, final=episode.observation)
            return
        self._decide(episode, reply)
        episode.reply = reply
        self._step(episode)

    def _step(self, episode: Running) -> None:
        env, reply = episode.env, episode.reply
        assert env is not None
        if episode.charge is not None:
            episode.charge(replace(reply.usage, model_seconds=episode.model_seconds))
        self._call(_STEP, episode, lambda: env.step(reply.action))

    def _decide(self, episode: Running, reply: Reply) -> None:
        """Ask about branching, once a turn: when the policy shows the first tokens, else on the reply."""
        if not episode.decided and episode.state.room > 0:
            episode.decided = True
            self._branch(episode, reply)

    def _branch(self, episode: Running, reply: Reply) -> None:
        count = min(self.branching.branches(episode, reply), episode.state.room)
        assert episode.env is not None
        for _ in range(count):
            try:
                env = fork(episode.env)
            except Exception as error:
                raise ContractError(f"{self.env_id} cannot be forked, which branching needs: {error}") from error
            twin = episode.branch(env)
            twin.charge = _charge_of(env)
            self._running[id(twin)] = twin
            self._ready.append(twin)

    def _after_step(
        self, episode: Running, started: float, result: tuple[str, Any, bool, bool, dict[str, Any]]
    ) -> None:
        observation, reward, terminated, truncated, info = _checked(result)
        stop = StopReason(info.get("stop", StopReason.TURN_LIMIT)) if truncated else None
        episode.played(reward, info, started)
        if terminated:
            self._finish(episode, StopReason.TERMINATED, info.get("success"), observation)
        elif stop is not None:
            self._finish(episode, stop, info.get("success"), observation)
        elif self.max_turns is not None and len(episode.turns) >= self.max_turns:
            self._finish(episode, StopReason.TURN_LIMIT, info.get("success"), observation)
        else:
            episode.meet(observation, info)
            self._ready.append(episode)

    # Failing ----------------------------------------------------------------------------------------------------------

    def _failed(self, kind: str, episode: Running, failure: str, *, world: bool) -> None:
        """The environment raised. An action's own error is the agent's failure; the world gets a second try."""
        if kind == _STEP and not world:
            episode.broke(failure)
            self._finish(episode, StopReason.ACTION_ERROR, success=False, failure=failure)
        elif episode.fault is not None:
            self._finish(episode, StopReason.WORLD_FAULT, failure=failure)
        else:
            episode.fault = failure
            episode.redone = 0 if kind == _STEP else None
            if episode.env is not None:
                self._put_back(episode.env, broken=True)
                episode.env = None
            self._reset(episode)

    def _met_again(self, episode: Running, observation: str, info: dict[str, Any]) -> None:
        if episode.repeats(observation, info):
            self._ready.append(episode)
        else:
            again = f"{episode.fault}; played again, it met another state after {episode.redone} actions"
            self._finish(episode, StopReason.WORLD_FAULT, failure=again)

    def _redo(self, episode: Running) -> None:
        """Play the next recorded action again, at last the one that met the fault."""
        env, done = episode.env, episode.redone
        assert env is not None
        assert done is not None
        if done == len(episode.turns):
            episode.redone = None
            self._step(episode)
        else:
            turn = episode.turns[done]
            episode.redone = done + 1
            if episode.charge is not None:
                episode.charge(turn.usage)
            self._call(_REDO, episode, lambda: env.step(turn.action))

    def _after_redo(self, episode: Running, result: tuple[str, Any, bool, bool, dict[str, Any]]) -> None:
        observation, _, terminated, truncated, info = _checked(result)
        if terminated or truncated:
            raise ValueError("the episode was not over here before")
        self._met_again(episode, observation, info)

    def _finish(
        self,
        episode: Running,
        stop: StopReason,
        success: bool | None = None,
        final: str = "",
        failure: str | None = None,
    ) -> None:
        state = episode.state
        del self._running[id(episode)], state.living[episode.id]
        state.finished += 1
        done = Episode(
            episode.id,
            self.env_id,
            episode.task,
            tuple(episode.turns),
            stop,
            None if success is None else bool(success),
            state.group.id,
            episode.member,
            episode.parent,
            episode.fork_turn,
            final,
            episode.answers,
            episode.evidence,
            failure,
            self._fingerprint,
        )
        self._done.append(done)
        self.branching.ended(done)
        self.policy.release(episode.id)
        if episode.env is not None:
            self._put_back(episode.env, broken=stop in _BROKEN)
        if state.room > 0 and state.finished == state.claimed:
            self._add_roots(state, self.branching.refill(state, done))

    def _put_back(self, env: gym.Env[str, str], *, broken: bool) -> None:
        """Keep an environment for a later episode; forks can leave more than will ever run at once."""
        if broken:
            with contextlib.suppress(Exception):  # what counts is that it is replaced
                env.close()
        elif len(self._idle) < self.slots:
            self._idle.append(env)
        else:
            env.close()

    # Waiting ----------------------------------------------------------------------------------------------------------

    def _call(self, kind: str, episode: Running, function: Callable[[], Any]) -> None:
        """Run a method of the environment, inline or in a thread."""
        if self._pool is not None:
            self._watch(kind, episode, self._pool.submit(_timed, function))
            return
        started = time.perf_counter()
        try:
            result = function()
        except Exception as error:
            self._failed(kind, episode, _describe(error), world=isinstance(error, WorldFault))
            return
        self._after(kind, episode, started, result)

    def _after(self, kind: str, episode: Running, started: float, result: Any) -> None:
        try:
            if kind == _STEP:
                self._after_step(episode, started, result)
            elif kind == _REDO:
                self._after_redo(episode, result)
            else:
                self._after_reset(episode, result)
        except ContractError:
            raise
        except (TypeError, ValueError, AttributeError) as error:  # what came back is not what the contract says
            self._failed(kind, episode, f"{kind} returned {result!r:.200}: {error}", world=False)

    def _watch(self, kind: str, episode: Running, future: Future[Any]) -> None:
        self._in_flight += 1
        future.add_done_callback(lambda done: self._events.put((kind, episode, done, time.perf_counter())))

    def _work(self) -> None:
        """Wait until something happened, driving the policy meanwhile, and handle it."""
        while self._events.empty():
            if not self.policy.advance():
                if not self._in_flight:
                    raise PolicyError("the policy has running episodes but neither answers nor works on them")
                self._handle(self._events.get())
                break
            self._drive()  # branches of replies that the policy showed before they were complete
        while not self._events.empty():
            self._handle(self._events.get())
        self._drive()

    def _handle(self, event: _Event) -> None:
        kind, episode, future, when = event
        self._in_flight -= 1
        error = CancelledError() if future.cancelled() else future.exception()
        if error is not None:
            if kind == _REPLY:
                self._finish(episode, StopReason.POLICY_ERROR, failure=_describe(error))
            else:
                self._failed(kind, episode, _describe(error), world=isinstance(error, WorldFault))
        elif kind == _REPLY:
            self._act(episode, future.result(), when)
        else:
            self._after(kind, episode, *future.result())


def _charge_of(env: gym.Env[str, str]) -> Callable[[Usage], None] | None:
    """The method ``charge`` of the outermost wrapper that has one (:class:`agentgym.budget.BudgetedEnv`)."""
    while True:
        if (charge := getattr(env, "charge", None)) is not None:
            return charge  # type: ignore[no-any-return]
        if not isinstance(env, gym.Wrapper):
            return None
        env = env.env


def _checked(
    result: tuple[str, Any, bool, bool, dict[str, Any]],
) -> tuple[str, float, bool, bool, dict[str, Any]]:
    """What ``step`` returned.

    Raises:
        ValueError, TypeError: it is not what the contract says.
    """
    observation, reward, terminated, truncated, info = result
    number = float(reward)
    if not math.isfinite(number) or not isinstance(observation, str):
        raise ValueError("the reward must be finite and the observation a text")
    return observation, number, terminated, truncated, info


def _timed(function: Callable[[], Any]) -> tuple[float, Any]:
    return time.perf_counter(), function()


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
