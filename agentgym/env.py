"""The environment contract: plain Gymnasium with text on both sides, a few ``info`` keys, and fork.

An environment is ``gymnasium.Env[str, str]``. :class:`TextEnv` only saves the lines that every one of them would
repeat. ``agentgym check ENV`` (:mod:`agentgym.check`) tests what is promised here.
"""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, TypedDict

import gymnasium as gym
from gymnasium.wrappers import OrderEnforcing

from agentgym.errors import ForkError, UnknownName
from agentgym.records import ToolCall
from agentgym.space import Text
from agentgym.waiting import Waiting

_log = logging.getLogger(__name__)

__all__ = ["SPLITS", "Info", "ReplayWrapper", "Text", "TextEnv", "digest", "fork"]

SPLITS = ("train", "test", "unseen")
StepResult = tuple[str, Any, bool, bool, dict[str, Any]]
MAX_OBSERVATION = 1_000_000  #: characters of an observation; more than any model reads


class Info(TypedDict, total=False):
    """The ``info`` keys that agentgym reads; all but the first two are optional."""

    task_id: str  #: name of the problem instance, the same on every turn of an episode
    anchor: str  #: digest of the true state that the *next* action meets; equal anchors are the same state
    admissible: Sequence[str]  #: every valid action, where they can be enumerated
    screenshot: bytes  #: a picture of the state, PNG; kept with the turn and shown in the report
    tool_calls: Sequence[ToolCall]  #: the calls run in this turn
    error: str  #: why the action was not understood; absent when it was
    success: bool  #: on the last turn: whether the task was solved
    answers: Sequence[str]  #: accepted answers; for rewards and advantages only, never part of an observation
    evidence: Sequence[str]  #: ids of the documents that support the answer
    columns: Mapping[str, float | str]  #: of this turn: numbers, ids, short texts that rewards and advantages may read
    metrics: Mapping[str, float]  #: on the last turn: numbers of the whole episode


class TextEnv(gym.Env[str, str]):
    """Base class of text environments: spaces, split check, and fingerprint.

    Subclasses write ``reset`` and ``step`` as in Gymnasium, and optionally

    * ``step_in_parts(action)``: the step as a generator that yields what it waits for (:mod:`agentgym.waiting`), so
      that many of them wait at little cost; ``step`` is then ``finish(self.step_in_parts(action))``. What it does
      between two waits must be quick: it keeps every other episode waiting, and no time limit ends it;
    * ``expert() -> str | None``: a good next action, None where it knows none;
    * ``fork() -> Self``: an independent copy of the running episode;
    * ``num_tasks``: how many tasks the split has; ``reset(options={"task": i})`` then starts the i-th. None (the
      default) where tasks are generated without end, one for each ``reset(seed=...)``.

    Args:
        split: ``"train"``, ``"test"`` or, where the environment has one, ``"unseen"``. Tasks of different splits never
            meet.

    Attributes:
        splits: the splits this environment has.
        instructions: what a model that never saw this environment must be told, e.g. the grammar of its actions.
            Contexts put it before the first observation; it is not part of an observation.
        permutable_names: sets of words that can be exchanged for each other throughout an episode and every good action
            stays good, e.g. kinds of objects. Supervised fine-tuning may permute them, so that they can only be copied.
        waits: True where ``step`` waits on something outside the process (sockets, subprocesses, a browser); a rollout
            then steps it in a thread instead of inline.
        lockstep: with ``waits``, True where every wait is short and its result does not depend on when it comes, as in
            a sandbox on this machine. A rollout then handles the steps of all episodes in rounds and in a fixed order,
            so that training is reproducible to the byte; with False a fast step never waits for a slow one.
    """

    metadata: dict[str, Any] = {"render_modes": []}
    splits: tuple[str, ...] = ("train", "test")
    instructions: str = ""
    permutable_names: tuple[tuple[str, ...], ...] = ()
    waits: bool = False
    lockstep: bool = False
    num_tasks: int | None = None

    def __init__(self, *, split: str = "train") -> None:
        if split not in self.splits:
            raise UnknownName("split", split, self.splits)
        self.split = split
        self.observation_space = Text()
        self.action_space = Text()
        self.render_mode = None

    @property
    def fingerprint(self) -> str:
        """Content hash of everything that decides what an episode looks like: grammar, prompts, data.

        The base class hashes the class name and :attr:`instructions`; add data files and generator tables to it.
        """
        return digest(type(self).__qualname__, self.instructions)


def capped(text: str, limit: int = MAX_OBSERVATION) -> str:
    """The text, or its first ``limit`` characters and a note to the agent that says how many there are."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}\n[cut: {limit:,} of {len(text):,} characters are shown; ask for less at a time]"


def digest(*parts: object) -> str:
    """A short stable content hash (64 bits, hex) of the parts' ``repr``; the usual way to make an anchor."""
    return hashlib.blake2b("\x1f".join(map(repr, parts)).encode(), digest_size=8).hexdigest()


class ReplayWrapper(gym.Wrapper[str, str, str, str]):
    """Remembers how the running episode came about, so that it can be replayed where it cannot be copied.

    ``agentgym.make`` puts it outside every other wrapper.
    """

    def __init__(self, env: gym.Env[str, str]) -> None:
        super().__init__(env)
        self._reset_args: tuple[int | None, Mapping[str, Any] | None] | None = None
        self._actions: list[str] = []
        self._anchor: str | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._reset_args = (seed, options)
        self._actions = []
        self._anchor = info.get("anchor")
        return observation, info

    def step(self, action: str) -> StepResult:
        return self._noted(action, self.env.step(action))

    def step_in_parts(self, action: str) -> Waiting[StepResult]:
        return self._noted(action, (yield from step_in_parts(self.env, action)))

    def _noted(self, action: str, result: StepResult) -> StepResult:
        self._actions.append(action)
        self._anchor = result[4].get("anchor")
        return result

    def replay(self) -> ReplayWrapper:
        """A new environment in which the recorded actions were played again.

        Raises:
            ForkError: it was never reset, was reset without a seed, has no spec, or the replay met another state.
        """
        if self._reset_args is None:
            raise ForkError("fork before reset: call env.reset(seed=...) first")
        seed, options = self._reset_args
        if seed is None:
            raise ForkError("cannot replay an episode that was reset without a seed; pass reset(seed=...)")
        if self.env.spec is None:
            raise ForkError("cannot replay an environment without a spec; create it by agentgym.make(id)")
        twin = ReplayWrapper(gym.make(self.env.spec, disable_env_checker=True))
        _, info = twin.reset(seed=seed, options=dict(options) if options is not None else None)
        for action in self._actions:
            _, _, _, _, info = twin.step(action)
        if info.get("anchor") != self._anchor:
            raise ForkError(
                f"replaying {len(self._actions)} actions of {self.env.spec.id} from seed {seed} met anchor "
                f"{info.get('anchor')!r} instead of {self._anchor!r}: the environment is not deterministic; "
                "give it a fork() of its own"
            )
        return twin


def fork(env: gym.Env[str, str]) -> gym.Env[str, str]:
    """An independent copy of the running episode: same wrappers, same state, nothing shared.

    The environment's own ``fork()`` is used where it has one; otherwise the recorded actions are replayed from the same
    seed (for environments from :func:`agentgym.make`, which carry a :class:`ReplayWrapper`). The state of wrappers
    around that, e.g. what a budget has counted, is copied.

    Raises:
        ForkError: it can be neither copied nor replayed to the same anchor.
    """
    if can_fork(env):
        return _copied(env)
    raise ForkError(f"{env} has no fork() and no ReplayWrapper; create it by agentgym.make(id) or write a fork()")


def can_fork(env: gym.Env[str, str]) -> bool:
    """Whether :func:`fork` has a way to copy it: the environment's own ``fork()``, or a :class:`ReplayWrapper`."""
    if callable(getattr(env.unwrapped, "fork", None)):
        return True
    while isinstance(env, gym.Wrapper) and not isinstance(env, ReplayWrapper):
        env = env.env
    return isinstance(env, ReplayWrapper)


def close_quietly(env: gym.Env[str, str]) -> None:
    """Close an environment that is not needed any more; what goes wrong is logged, and nobody's failure."""
    try:
        env.close()
    except KeyboardInterrupt:
        raise
    except BaseException:
        _log.debug("closing %s", type(env.unwrapped).__name__, exc_info=True)


def can_step_in_parts(env: gym.Env[str, str]) -> bool:
    """Whether :func:`step_in_parts` does what ``env.step`` does: it is written so, in all wrappers too."""
    while True:
        if type(env) is not OrderEnforcing and not _is_in_parts(env):
            return False
        if not isinstance(env, gym.Wrapper):
            return True
        env = env.env


def step_in_parts(env: gym.Env[str, str], action: str) -> Waiting[StepResult]:
    """``env.step(action)`` as a generator of what it waits for; of nothing, where it is not written in parts."""
    if not can_step_in_parts(env):
        return env.step(action)
    while isinstance(env, OrderEnforcing):  # it only asks whether there was a reset
        env = env.env
    result: StepResult = yield from env.step_in_parts(action)  # type: ignore[attr-defined]
    return result


def _is_in_parts(env: gym.Env[str, str]) -> bool:
    """Whether nothing that is more special than its ``step_in_parts`` is a ``step``."""
    for place in chain((env,), type(env).__mro__):
        if "step_in_parts" in vars(place):
            return True
        if "step" in vars(place):
            return False
    return False


def _copied(env: gym.Env[str, str]) -> gym.Env[str, str]:
    """Copy the wrappers' own state around a copy, or a replay, of the environment inside."""
    if not isinstance(env, gym.Wrapper):
        twin: gym.Env[str, str] = env.fork()  # type: ignore[attr-defined]
        if not isinstance(twin, gym.Env):
            raise ForkError(f"{type(env).__name__}.fork() must give a gymnasium.Env, got {type(twin).__name__}")
        twin.spec = twin.spec or env.spec
        return twin
    if isinstance(env, ReplayWrapper) and not callable(getattr(env.unwrapped, "fork", None)):
        return env.replay()
    outer = copy.copy(env)
    outer.__dict__ = {k: v if k in ("env", "_cached_spec") else copy.deepcopy(v) for k, v in env.__dict__.items()}
    outer.env = _copied(env.env)
    return outer
