"""The engine: it drives the policy, has environments stepped, and hands out episodes as they finish."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from functools import partial
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any, Self

import gymnasium as gym

from agentgym import keyed_random
from agentgym.budget import BudgetedEnv
from agentgym.env import can_fork
from agentgym.errors import ContractError, PolicyError, UsageError, WorldFault
from agentgym.policy import Policy, Reply, Request, Sampling
from agentgym.records import Episode, StopReason, Task
from agentgym.rollout import returned
from agentgym.rollout.branching import Branching, Independent
from agentgym.rollout.garbage import looked_for_less_often
from agentgym.rollout.live_episode import Group, GroupState, LiveEpisode
from agentgym.rollout.pace import Pace
from agentgym.rollout.returned import Stepped
from agentgym.rollout.roots import Roots
from agentgym.rollout.stepping import Call, Kind, Stepping, forking, playing, resetting

MakeEnv = Callable[[], gym.Env[str, str]]
_BROKEN = (StopReason.ACTION_ERROR, StopReason.WORLD_FAULT)
_Answer = tuple[LiveEpisode, Future[Any], float]  # whose request was answered, with what, when


class Rollout:
    """Plays groups of episodes with a policy. A context manager; :meth:`close` closes environments and threads.

    Args:
        make_env: makes one environment; instances are reused for later episodes.
        policy: answers the requests.
        max_concurrent_episodes: how many episodes run at the same time.
        max_turns: cut episodes here (``TURN_LIMIT``), beside the environment's own limit.
        threads: step environments in this many threads; None: as the environment says (``TextEnv.waits``).
        lockstep: handle what threads bring back in rounds, in a fixed order, so that nothing depends on timing; None:
            as the environment says (``TextEnv.lockstep``), unless the policy is ``remote``.
        step_seconds: a step or reset that takes longer fails its episode; None: any time.
        branching: how the episodes of a group come about.
        run_key: first part of every random number's key.
        sampling: how the policy is to draw its actions.

    Attributes:
        policy_calls: requests submitted so far.
        instructions: what the environment tells a model that never saw it.
        num_tasks: how many tasks the environment has, where they are finitely many.
        pace: counts what is played.
    """

    def __init__(
        self,
        make_env: MakeEnv,
        policy: Policy,
        *,
        max_concurrent_episodes: int = 64,
        max_turns: int | None = None,
        threads: int | None = None,
        lockstep: bool | None = None,
        step_seconds: float | None = None,
        branching: Branching | None = None,
        run_key: int = 0,
        sampling: Sampling = Sampling(),
    ) -> None:
        for name, limit in (("max_concurrent_episodes", max_concurrent_episodes), ("max_turns", max_turns)):
            if limit is not None and limit < 1:
                raise UsageError(f"{name} must be at least 1, got {limit}")
        if step_seconds is not None and not step_seconds > 0:
            raise UsageError(f"step_seconds must be positive seconds, or None for no limit; got {step_seconds}")
        self.policy, self.sampling, self.max_turns, self.run_key = policy, sampling, max_turns, run_key
        self.max_concurrent_episodes = max_concurrent_episodes
        self.branching, self.step_seconds = branching or Independent(), step_seconds
        self.policy_calls, self.pace = 0, Pace("", 0)
        self._make_env, first, self._roots = make_env, make_env(), Roots(self.branching)
        if not isinstance(first, gym.Env):
            raise ContractError(f"make_env must give a gymnasium.Env, got {returned.shown(first)}")
        self._idle = [first]
        base = first.unwrapped
        self.env_id = first.spec.id if first.spec else type(base).__name__
        self._fingerprint = str(getattr(base, "fingerprint", ""))
        self.num_tasks: int | None = getattr(base, "num_tasks", None)
        self.instructions = str(getattr(base, "instructions", ""))
        threads = threads if threads is not None else max_concurrent_episodes if getattr(base, "waits", False) else 0
        in_rounds = bool(getattr(base, "lockstep", False)) and not getattr(policy, "remote", False)
        self._events: SimpleQueue[Call | _Answer] = SimpleQueue()
        self._steps = Stepping(self._events.put, threads, lockstep=in_rounds if lockstep is None else lockstep)
        self._order, self._replies = count(), 0  # places in rounds; requests whose answer was not handled yet
        self._ready, self._done = deque[LiveEpisode](), deque[Episode]()  # have to ask the policy; are over
        self._running: dict[int, LiveEpisode] = {}  # by id()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all environments and threads; a call that hangs is left behind."""
        running = [e.env for e in self._running.values() if e.env is not None]
        idle, self._idle, self._running = self._idle, [], {}
        self._steps.close_all((*idle, *running), self.step_seconds)

    def play(self, groups: Iterable[Group]) -> Iterator[Episode]:
        """Play the groups; yields each episode as it finishes.

        Raises:
            ContractError: members of a group met different states at their start.
        """
        self._roots.begin(groups)
        self.branching.begin(self.policy)
        limit = self.max_concurrent_episodes
        with looked_for_less_often():
            while True:
                while not self._done and len(self._running) < limit and (state := self._roots.next()) is not None:
                    self._start(state)
                    self._drive()
                if self._done:
                    yield self._done.popleft()
                elif self._running:
                    self._work()
                else:
                    return

    # Starting ---------------------------------------------------------------------------------------------------------

    def _start(self, state: GroupState) -> None:
        task, root = state.group.task, state.roots
        state.roots += 1
        env = self._idle.pop() if self._idle else None
        episode = state.start(keyed_random.key(self.run_key, state.group.id, root), task, env, self.max_turns)
        self._running[id(episode)] = episode
        self._reset(episode)

    def _reset(self, episode: LiveEpisode) -> None:
        episode.order = next(self._order)
        self._call("reset", episode, resetting(self._make_env, episode.task))

    def _after_reset(self, episode: LiveEpisode, observation: str, info: dict[str, Any]) -> None:
        anchor = info.get("anchor")
        state = episode.state
        if not state.met:
            state.met, state.anchor = True, anchor
        elif state.anchor != anchor:
            raise ContractError(
                f"{self.env_id}: members of group {state.group.id!r} start from different states ({state.anchor!r} and "
                f"{anchor!r}) though all had seed {episode.task.seed}: reset(seed=...) must decide everything"
            )
        episode.task = Task(episode.task.seed, episode.task.options, info.get("task_id") or "")
        episode.answers = tuple(info.get("answers") or ())
        episode.evidence = tuple(info.get("evidence") or ())
        if episode.redone is not None:
            self._met_again(episode, observation, info)
            return
        episode.meet(observation, info)
        self._ready.append(episode)

    # Turns ------------------------------------------------------------------------------------------------------------

    def _drive(self) -> None:
        """Take every episode that can go on as far as it goes without waiting."""
        if self._steps.lockstep and self._steps.running and not self._replies:
            return  # between two rounds: all begin the next one together
        while self._ready:
            episode = self._ready.popleft()
            (self._ask if episode.redone is None else self._redo)(episode)

    def _ask(self, episode: LiveEpisode) -> None:
        request = episode.request(self.instructions)
        request.sampling = self.sampling
        if self.branching.probe and not episode.decided and episode.state.room > 0:
            request.probe, request.probed = self.branching.probe, partial(self._decide, episode)
        self.policy_calls += 1
        episode.order, episode.asked = next(self._order), time.perf_counter()
        try:
            answer = returned.answer(self.policy.submit(request))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._finish(episode, StopReason.POLICY_ERROR, failure=returned.explain(error))
            return
        if isinstance(answer, Reply):
            self._act(episode, answer, time.perf_counter())
        else:
            self._replies += 1
            answer.add_done_callback(lambda done: self._events.put((episode, done, time.perf_counter())))

    def _answered(self, episode: LiveEpisode, future: Future[Any], when: float) -> None:
        self._replies -= 1
        error = CancelledError() if future.cancelled() else future.exception()
        if error is None:
            try:
                reply = returned.reply(future.result())
            except KeyboardInterrupt:
                raise
            except BaseException as nonsense:
                error = nonsense
        if error is not None:
            self._finish(episode, StopReason.POLICY_ERROR, failure=returned.explain(error))
        else:
            self._act(episode, reply, when)

    def _act(self, episode: LiveEpisode, reply: Reply, answered: float) -> None:
        episode.model_seconds, episode.copied_from = answered - episode.asked, None
        if reply.stop is not None:
            self._finish(episode, reply.stop, final=episode.observation)
            return
        self._decide(episode, reply)
        episode.reply = reply
        self._step(episode)

    def _step(self, episode: LiveEpisode) -> None:
        usage = episode.reply.usage
        if episode.meter is not None:
            usage = replace(usage, model_seconds=episode.model_seconds)
        left = episode.meter.seconds_left(usage) if isinstance(episode.meter, BudgetedEnv) else None
        self._call("step", episode, playing(episode.reply.action, usage), left)

    def _decide(self, episode: LiveEpisode, reply: Reply) -> None:
        """Ask about branching, once a turn: when the policy shows the first tokens, else on the reply."""
        if not episode.decided and episode.state.room > 0:
            episode.decided = True
            self._branch(episode, reply)

    def _branch(self, episode: LiveEpisode, reply: Reply) -> None:
        count = min(self.branching.branches(episode, reply), episode.state.room)
        env = episode.env
        assert env is not None
        if count > 0 and not can_fork(env):
            raise ContractError(
                f"{self.env_id} cannot be forked, which branching needs: it has no fork() and no ReplayWrapper; "
                "create it by agentgym.make(id) or write a fork()"
            )
        for _ in range(count):
            twin = episode.branch()
            self._running[id(twin)] = twin
            call = Call("fork", twin, forking(env), limit=self.step_seconds)
            self._steps.inline(call)
            if call.error is not None:
                self._failed(call, f"fork: {returned.explain(call.error)}")
            else:
                twin.env, twin.meter = call.env, call.meter
                self._ready.append(twin)

    def _after_step(self, episode: LiveEpisode, came: Stepped, began: float, ended: float) -> None:
        episode.played(came.reward, came.info, began, ended)
        self.pace.turn(episode.reply.usage.completion_tokens)
        cut = self.max_turns is not None and len(episode.turns) >= self.max_turns
        stop = came.stop or (StopReason.TURN_LIMIT if cut else None)
        if stop is not None:
            self._finish(episode, stop, came.success, came.observation)
        else:
            episode.meet(came.observation, came.info)
            self._ready.append(episode)

    # Failing ----------------------------------------------------------------------------------------------------------

    def _failed(self, call: Call, failure: str) -> None:
        """The environment raised. An action's own error is the agent's failure; the world gets a second try."""
        episode = call.episode
        if call.kind == "step" and not isinstance(call.error, WorldFault):
            episode.broke(failure, call.began, call.ended)
            self._finish(episode, StopReason.ACTION_ERROR, success=False, failure=failure)
        elif episode.fault is not None:
            self._finish(episode, StopReason.WORLD_FAULT, failure=failure)
        else:
            episode.fault = failure
            episode.redone = 0 if call.kind in ("step", "fork") else None
            env, episode.env = episode.env, None
            if env is not None:
                self._put_back(env, broken=True)
            self._reset(episode)

    def _met_again(self, episode: LiveEpisode, observation: str, info: dict[str, Any]) -> None:
        if episode.repeats(observation, info):
            self._ready.append(episode)
        else:
            again = f"{episode.fault}; played again, it met another state after {episode.redone} actions"
            self._finish(episode, StopReason.WORLD_FAULT, failure=again)

    def _redo(self, episode: LiveEpisode) -> None:
        """Play the next recorded action again, at last the one that met the fault."""
        done = episode.redone
        assert done is not None
        if done == len(episode.turns):
            episode.redone = None
            (self._step if episode.replied else self._ask)(episode)
            return
        turn = episode.turns[done]
        episode.redone = done + 1
        self._call("repeated step", episode, playing(turn.action, turn.usage))

    def _finish(
        self,
        episode: LiveEpisode,
        stop: StopReason,
        success: bool | None = None,
        final: str = "",
        failure: str | None = None,
    ) -> None:
        state, behind = episode.state, None
        try:
            request = Request(episode.id, 0, final, {}, episode.turns, self.instructions)
            behind = returned.released(self.policy, request, stop)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if failure is None:
                stop, success, failure = StopReason.POLICY_ERROR, None, f"release: {returned.explain(error)}"
        del self._running[id(episode)], state.living[episode.id]
        known = {"success": success, "final": final, "final_context": behind, "failure": failure}
        done = episode.record(self.env_id, stop, fingerprint=self._fingerprint, **known)
        if self.branching.keeps(state, done):
            state.finished += 1
        else:
            done = replace(done, group="")
            state.claimed -= 1
        self._done.append(done)
        self.pace.episode(done)
        self.branching.ended(done)
        if episode.env is not None:
            self._put_back(episode.env, broken=stop in _BROKEN)
        self._roots.ended(state, done)

    def _put_back(self, env: gym.Env[str, str], *, broken: bool) -> None:
        """Keep an environment for a later episode; forks can leave more than will ever run at once."""
        if broken or len(self._idle) >= self.max_concurrent_episodes:
            self._steps.close_env(env, self.step_seconds)
        else:
            self._idle.append(env)

    # Waiting ----------------------------------------------------------------------------------------------------------

    def _call(
        self, kind: Kind, episode: LiveEpisode, function: Callable[[Call], Any], left: float | None = None
    ) -> None:
        """Have a method called, and handle what it returned once that is there; ``left``: seconds of the budget."""
        call = Call(kind, episode, function, episode.order, self.step_seconds, episode.env, episode.meter)
        if left is not None and (call.limit is None or left < call.limit):
            assert isinstance(call.meter, BudgetedEnv)
            call.limit, call.instead = left, call.meter.out_of_time
        if self._steps.start(call):
            self._returned(call)

    def _returned(self, call: Call) -> None:
        """A call is done: go on with its episode, or end it."""
        episode, came = call.episode, call.read()
        if call.kind == "reset":
            episode.env, episode.meter = call.env, call.meter
        if call.left:
            episode.env = None  # the call may still be using it
        if isinstance(came, str):
            self._failed(call, came)
        elif not isinstance(came, Stepped):
            self._after_reset(episode, *came)
        elif call.kind == "step":
            self._after_step(episode, came, call.began, call.ended)
        elif came.stop is None:
            self._met_again(episode, came.observation, came.info)
        else:
            self._failed(call, f"{episode.fault}; played again, the episode was over after {episode.redone} actions")

    def _work(self) -> None:
        """Let the policy work, or wait, until something happened, and handle it."""
        if self._events.empty():
            if self.policy.advance():
                self._drive()  # branches of replies that the policy showed before they were complete
            elif self._replies or self._steps.running:
                with contextlib.suppress(Empty):
                    self._handle(self._events.get(timeout=self._steps.patience))
            else:
                raise PolicyError("the policy has running episodes but neither answers nor works on them")
        while not self._events.empty():
            self._handle(self._events.get())
            if not self._steps.lockstep:
                self._drive()  # so that this one waits while the next ones are handled
        for call in self._steps.overdue():
            self._returned(call)
        if not self._replies and not self._steps.running:
            for call in self._steps.round():
                self._returned(call)
        self._drive()

    def _handle(self, event: Call | _Answer) -> None:
        if not isinstance(event, Call):
            self._answered(*event)
            return
        for call in self._steps.returned(event):
            self._returned(call)
