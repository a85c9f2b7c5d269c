"""How methods of environments are called: inline, in threads, or in threads by rounds; each call within its time."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import gymnasium as gym

from agentgym.env import can_step_in_parts, close_quietly, fork, step_in_parts
from agentgym.records import Task, Usage
from agentgym.rollout.live_episode import LiveEpisode, Meter, meter_of
from agentgym.rollout.returned import Stepped, after_reset, after_step, environment, explain, jobs, shown
from agentgym.waiting import Job, OutOfTime, Threads, Waiting, limited

CLOSE_SECONDS = 2.0  #: how long closing waits for calls that still run, before it leaves them behind

Kind = Literal["reset", "step", "repeated step", "fork"]
_STEPS = ("step", "repeated step")

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Call:
    """One call of an environment's method, and what came of it.

    Attributes:
        kind: which method.
        episode: whom it is for.
        function: makes the call.
        order: place in its round, where rounds are kept.
        limit: seconds that it may take; None for any time.
        env, meter: the environment, and what in it wants to know what a reply used; ``reset`` and ``fork`` find them.
        instead: what a step returns whose limit is that of a budget, once it is over.
        began, ended: when, by ``time.perf_counter``; 0 before that.
        error: what it raised, or :class:`~agentgym.threads.OutOfTime`; if None, ``value`` is what it returned.
        left: nobody waits for it any more.
        in_parts: ``function`` gives a generator of what is waited for (:mod:`agentgym.waiting`).
        parts, jobs: this generator, once it has begun, and what it waits for now.
    """

    kind: Kind
    episode: LiveEpisode
    function: Callable[[Call], Any]
    order: int = 0
    limit: float | None = None
    env: gym.Env[str, str] | None = None
    meter: Meter | None = None
    instead: Callable[[], Any] | None = None
    began: float = 0.0
    ended: float = 0.0
    value: Any = None
    error: BaseException | None = None
    left: bool = False
    in_parts: bool = False
    parts: Waiting[Any] | None = None
    jobs: Sequence[Job] = ()

    def run(self) -> None:
        """Make the call. Nothing that an environment raises gets out, be it ``SystemExit``."""
        self.began = time.perf_counter()
        value, error = None, None
        try:
            value = self.function(self)
        except BaseException as problem:  # told by whoever waits
            error = problem
        if not self.left:
            self.value, self.error, self.ended = value, error, time.perf_counter()
        elif self.env is not None:
            close_quietly(self.env)

    def go_on(self) -> None:
        """Take a step in parts up to what it waits for next, or to its end."""
        waited, self.jobs = self.jobs, ()
        try:
            if self.parts is None:
                self.began, self.parts = time.perf_counter(), self.function(self)
            self.jobs = jobs(next(self.parts))
            return
        except StopIteration as over:
            self.value = over.value
        except BaseException as problem:
            if isinstance(problem, KeyboardInterrupt) and all(problem is not job.error for job in waited):
                raise  # the user's
            self.error = problem
        self.ended = time.perf_counter()

    @property
    def waits(self) -> bool:
        """Whether a thread is in it, or in what it waits for."""
        if self.in_parts:
            return any(not job.ended and not job.late for job in self.jobs)
        return not self.ended

    def read(self) -> Stepped | tuple[str, dict[str, Any]] | str:
        """What came back of a reset (observation and info) or of a step; a text: why it cannot be used."""
        if isinstance(self.error, OutOfTime) and self.instead is not None:
            return after_step(self.instead())
        if isinstance(self.error, OutOfTime):
            return f"{self.kind} took longer than {self.limit:g} seconds (step_seconds); it was left behind"
        if self.error is not None:
            return explain(self.error)
        try:
            return after_reset(self.value) if self.kind == "reset" else after_step(self.value)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return f"{self.kind} returned {shown(self.value)}: {explain(error)}"


class Stepping:
    """Makes the calls of a rollout.

    * **inline** (``threads`` = 0): one after the other, where the rollout runs.
    * **threads**: side by side; each is handled when it is done. A step that is written in parts runs where the
      rollout runs, and only what it waits for in threads; one that is not runs in a thread of its own.
    * **lockstep**: side by side, by rounds. A round is over when the policy has answered every request and every call
      is done; they are handled in the order in which they were asked for, so nothing depends on timing.

    A call that outlives its limit is over by :class:`~agentgym.threads.OutOfTime`; its thread and its
    environment are left behind. Threads are daemons: what hangs keeps neither :meth:`close` nor the process from
    ending.

    Args:
        done: told of every call made in a thread, there, when it is done.
        threads: calls at the same time; 0: inline.
        lockstep: see above.
    """

    def __init__(self, done: Callable[[Call], None], threads: int, *, lockstep: bool = False) -> None:
        self._done = done
        self.threaded, self.lockstep = threads > 0, lockstep and threads > 0
        self._threads = Threads("agentgym-env", threads or None)
        self._most, self._begun = threads, 0  # steps in parts, and how many of them are under way
        self._waiting: deque[Call] = deque()  # steps in parts that are too many
        self._helpers = Threads("agentgym-env-helper")
        self._calls: dict[int, Call] = {}  # that run, by id()
        self._round: list[Call] = []  # that are done and wait for the end of their round
        self._next_look = math.inf  # when a limit may be over

    @property
    def running(self) -> bool:
        """Whether calls in threads are not done."""
        return bool(self._calls)

    @property
    def patience(self) -> float | None:
        """Seconds until the limit of a call may be over; None: there is no limit."""
        return None if self._next_look == math.inf else max(0.0, self._next_look - time.perf_counter())

    def start(self, call: Call) -> bool:
        """Make a call; whether it is done already, as it is where calls are made inline."""
        if not self.threaded:
            self.inline(call)
            return True
        self._calls[id(call)] = call
        self._look_at(call, time.perf_counter())
        call.in_parts = call.kind in _STEPS and call.env is not None and can_step_in_parts(call.env)
        if not call.in_parts:
            self._threads.start(partial(self._in_thread, call))
        elif self._begun == self._most:
            self._waiting.append(call)
        elif not self._begins(call):
            if not self.lockstep:
                self._over(call)
                return True
            self._done(call)  # its round is not over
        return False

    def inline(self, call: Call) -> None:
        """Make a call where the rollout runs; a call with a limit does run in a thread, but alone."""
        try:
            limited(call.run, call.limit, self._helpers)
        except OutOfTime as late:
            self._leave(call, late)
        if isinstance(call.error, KeyboardInterrupt) and call.limit is None:
            raise call.error  # the user's: only the main thread gets one

    def _in_thread(self, call: Call) -> None:
        call.run()
        self._done(call)

    def returned(self, call: Call) -> list[Call]:
        """Something that was started in a thread for a call is done: the calls to handle now."""
        if id(call) not in self._calls or (call.in_parts and self._goes_on(call)):
            return []  # it was left behind, or is not over
        return self._over(call)

    def overdue(self) -> list[Call]:
        """Calls that are over because time ran out for them, or for what they waited for; to be handled now."""
        now = time.perf_counter()
        if now < self._next_look:
            return []
        self._next_look = math.inf
        over = []
        for call in tuple(self._calls.values()):
            late = [job for job in call.jobs if not job.late and _is_late(job, now)]
            for job in late:
                job.give_up()
            if _is_late(call, now):
                if not call.in_parts:
                    self._threads.lose()
                self._leave(call, OutOfTime())
                over += self._over(call)
            elif late:
                over += self.returned(call)
        for call in self._calls.values():
            self._look_at(call, now)
            for job in call.jobs:
                if not job.late:
                    self._look_at(job, now)
        return over

    def _begins(self, call: Call) -> bool:
        """Begin a step in parts; whether it must wait."""
        self._begun += 1
        return self._goes_on(call)

    def _goes_on(self, call: Call) -> bool:
        """Take a step in parts as far as it goes without waiting; whether it must wait then."""
        while not call.ended:
            for job in call.jobs:
                if not job.ended and not job.late:
                    return True
            call.go_on()
            try:
                for job in call.jobs:
                    self._look_at(job, call.began)
                    job.start(partial(self._done, call))
            except BaseException as problem:  # e.g. the system has no further thread
                if isinstance(problem, KeyboardInterrupt):
                    raise
                self._leave_jobs(call)
                call.error, call.ended = problem, time.perf_counter()
        return False

    def _over(self, call: Call) -> list[Call]:
        """A call is over, and others may begin in its place: the calls to handle now."""
        del self._calls[id(call)]
        over = [call]
        self._begun -= call.in_parts
        while self._waiting and self._begun < self._most:
            if not self._begins(following := self._waiting.popleft()):
                del self._calls[id(following)]
                self._begun -= 1
                over.append(following)
        if not self.lockstep:
            return over
        self._round += over
        return []

    def _look_at(self, timed: Call | Job, now: float) -> None:
        """Not later than when its time may be over."""
        if timed.limit is not None and not timed.ended:
            self._next_look = min(self._next_look, (timed.began or now) + timed.limit)

    def round(self) -> list[Call]:
        """The calls of a round that is over, in the order in which they were asked for."""
        calls, self._round = sorted(self._round, key=lambda call: call.order), []
        return calls

    def _leave(self, call: Call, late: OutOfTime) -> None:
        call.left, call.error, call.ended = True, late, time.perf_counter()
        self._leave_jobs(call)
        if call.env is not None:
            self._helpers.start(partial(close_quietly, call.env))  # which may end the call

    def _leave_jobs(self, call: Call) -> None:
        for job in call.jobs:
            try:
                job.give_up()
            except Exception as error:  # its step is over already
                _log.debug("giving up a job: %s", explain(error))

    def close_all(self, envs: Iterable[gym.Env[str, str]], limit: float | None) -> None:
        """Close environments and threads, without waiting for calls that hang."""
        until = time.perf_counter() + CLOSE_SECONDS
        while time.perf_counter() < until and any(call.waits for call in self._calls.values()):
            time.sleep(0.005)
        used = [call.env for call in (*self._calls.values(), *self._round) if not call.waits and call.env is not None]
        hang = [call for call in self._calls.values() if call.waits]
        for call in hang:
            self._leave(call, OutOfTime())
        left = {id(call.env) for call in hang}
        for env in {id(env): env for env in (*envs, *used)}.values():
            if id(env) not in left:
                self.close_env(env, limit)
        self._calls.clear()
        self._round.clear()
        self._waiting.clear()
        self._threads.close()
        self._helpers.close()

    def close_env(self, env: gym.Env[str, str], limit: float | None) -> None:
        """Close one environment; what goes wrong is logged, the episodes in it are over."""
        try:
            limited(env.close, limit, self._helpers)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            _log.warning("closing %s: %s", type(env.unwrapped).__name__, explain(error))


def _is_late(timed: Call | Job, now: float) -> bool:
    return timed.limit is not None and 0 < timed.began < now - timed.limit and not timed.ended


# What a call does -----------------------------------------------------------------------------------------------------


def resetting(make_env: Callable[[], gym.Env[str, str]], task: Task) -> Callable[[Call], Any]:
    """Start the task; an environment is made where there is none, here, so that a slow start keeps nobody waiting."""
    options = dict(task.options) if task.options else None

    def reset(call: Call) -> Any:
        if call.env is None:
            call.env = environment(make_env())
        call.meter = meter_of(call.env)
        return call.env.reset(seed=task.seed, options=options)

    return reset


def playing(action: str, usage: Usage) -> Callable[[Call], Any]:
    """Play an action, once the environment knows what it has used."""

    def step(call: Call) -> Any:
        assert call.env is not None
        if call.meter is not None:
            call.meter.charge(usage)
        return step_in_parts(call.env, action) if call.in_parts else call.env.step(action)

    return step


def forking(env: gym.Env[str, str]) -> Callable[[Call], None]:
    """Copy an environment for another episode."""

    def copied(call: Call) -> None:
        call.env = environment(fork(env))
        call.meter = meter_of(call.env)

    return copied
