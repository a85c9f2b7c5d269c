"""What environments and policies give back, checked at the door, so that nonsense ends one episode and not the run.

Every function here raises :class:`Unusable`, whose text names what was given and what is expected, or whatever a
strange object raises when it is looked at; the engine takes any exception. Texts that no model could read are cut.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast, get_args

import gymnasium as gym
import numpy as np

from agentgym.env import MAX_OBSERVATION, capped
from agentgym.policy import Policy, Reply, Request
from agentgym.records import CallStatus, Sample, StopReason, ToolCall, Usage
from agentgym.waiting import Job

_CUTS = frozenset({StopReason.TURN_LIMIT, StopReason.BUDGET, StopReason.CONTEXT_FULL})
_UNFINISHED = _CUTS | {StopReason.POLICY_STOPPED}  # something could have followed
_POLICY_STOPS = frozenset({StopReason.CONTEXT_FULL, StopReason.POLICY_STOPPED})
_NUMBERS = (bool, int, float)
_CELLS = (*_NUMBERS, str)  # what a column may hold
_LONGEST_CELL = 10_000
_STATUSES = get_args(CallStatus)
_NOTHING_USED = Reply("").usage
_USED = tuple(field.name for field in fields(Usage))
_PLAIN = frozenset({str, int, float, bool})  # types looked at first: most values have them, and isinstance is slower
_ROWS = (tuple, list)
_DEEPEST = 64  #: levels of a tool call's arguments
_SHOWN = 200  #: characters of a value in a message
_LONGEST = 2000  #: characters of a message


class Unusable(Exception):
    """Something that was given back is not what the contract, or the policy's protocol, says."""


@dataclass(frozen=True, slots=True)
class Stepped:
    """What ``step`` returned."""

    observation: str
    reward: float
    stop: StopReason | None  #: None: the episode goes on
    success: bool | None
    info: dict[str, Any]


def environment(made: object) -> gym.Env[str, str]:
    """An environment that was made or forked."""
    if not isinstance(made, gym.Env):
        raise Unusable(f"expected a gymnasium.Env, got {shown(made)}")
    return made


def after_reset(result: Any) -> tuple[str, dict[str, Any]]:
    """Observation and info, from what ``reset`` returned."""
    if not isinstance(result, _ROWS) or len(result) != 2:
        raise Unusable("expected (observation, info)")
    observation, info = result
    return capped(_text("the observation", observation)), _info(info)


def after_step(result: Any) -> Stepped:
    """Everything that counts of what ``step`` returned."""
    if not isinstance(result, _ROWS) or len(result) != 5:
        raise Unusable("expected (observation, reward, terminated, truncated, info)")
    observation, reward, terminated, truncated, info = result
    observation = capped(_text("the observation", observation))
    if isinstance(reward, (str, bytes)) or not math.isfinite(earned := float(reward)):
        raise Unusable(f"the reward must be a finite number, got {shown(reward)}")
    over, cut = flag("terminated", terminated), flag("truncated", truncated)
    if over and cut:
        raise Unusable("terminated and truncated together; an episode ends by one of them")
    info = _info(info)
    success = info.get("success")
    stop = StopReason.TERMINATED if over else None
    if cut:
        stop = StopReason(info.get("stop", StopReason.TURN_LIMIT))
        if stop not in _CUTS:
            raise Unusable(f"info['stop'] must say what cut the episode off ({_either(_CUTS)}), got {str(stop)!r}")
    return Stepped(observation, earned, stop, None if success is None else flag("info['success']", success), info)


def jobs(given: object) -> Sequence[Job]:
    """What a step in parts waits for."""
    if type(given) not in _ROWS and (isinstance(given, (str, bytes)) or not isinstance(given, Sequence)):
        raise Unusable(f"a step in parts must yield a sequence of jobs, got {shown(given)}")
    waited = cast("Sequence[Job]", given)
    for job in waited:
        if not callable(getattr(job, "start", None)) or not hasattr(job, "ended"):
            raise Unusable(f"a step in parts must yield jobs (agentgym.waiting.Job), got {shown(job)}")
    return waited


def reply(given: object) -> Reply:
    """A policy's answer."""
    if not isinstance(given, Reply):
        raise Unusable(f"the policy must answer with a Reply, got {shown(given)}")
    _text("the action of the reply", given.action)
    if given.stop is not None and (not isinstance(given.stop, StopReason) or given.stop not in _POLICY_STOPS):
        raise Unusable(f"the stop of a reply must be None or {_either(_POLICY_STOPS)}, got {shown(given.stop)}")
    usage = given.usage
    if not isinstance(usage, Usage):
        raise Unusable(f"the usage of the reply must be a Usage, got {shown(usage)}")
    if usage is not _NOTHING_USED:
        for name in _USED:
            _amount(getattr(usage, name), "the usage of the reply: ", name)
    if given.sample is not None:
        _sample(given.sample)
    return given


def answer(given: object) -> Reply | Future[Reply]:
    """What ``submit`` returned."""
    if isinstance(given, Future):
        return cast("Future[Reply]", given)
    if not isinstance(given, Reply):
        raise Unusable(f"the policy must answer with a Reply or a concurrent.futures.Future, got {shown(given)}")
    return reply(given)


def released(policy: Policy, request: Request, stop: StopReason) -> Sample | None:
    """Release an episode; the context of one more turn, where one could follow and the policy shows its contexts."""
    try:
        ask = getattr(policy, "context_behind", None)
        if ask is None or stop not in _UNFINISHED:
            return None
        sample: Sample = ask(request)
        _sample(sample)
        return sample
    finally:
        policy.release(request.episode)


def flag(name: str, value: Any) -> bool:
    """Truth as it is meant: a bool, NumPy's, or a number that is 0 or 1; never the truth of a text."""
    if value is True or value is False:
        return bool(value)
    if isinstance(value, (np.bool_, int, float, np.number)) and (value == 0 or value == 1):
        return bool(value)
    raise Unusable(f"{name} must be True or False, got {shown(value)}")


def shown(value: object) -> str:
    """A value in a message: short, and whatever its ``repr`` does."""
    try:
        text = repr(value)
    except KeyboardInterrupt:
        raise
    except BaseException:  # an object may raise anything there
        text = f"<{type(value).__name__} that cannot be shown>"
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def explain(error: BaseException) -> str:
    """An exception as the failure of an episode; one without a text says where it was raised."""
    name = type(error).__name__
    try:
        text = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException:  # an object may raise anything there
        text = "(its text cannot be shown)"
    if not text and (frames := traceback.extract_tb(error.__traceback__)):
        text = f"raised in {frames[-1].name} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"
    if isinstance(error, Unusable):
        return text
    return f"{name}: {text}"[:_LONGEST] if text else name


def _info(given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise Unusable(f"info must be a dict, got {shown(given)}")
    info: dict[str, Any] = given
    for name in ("task_id", "anchor", "error"):
        if (value := info.get(name)) is not None and not isinstance(value, str):
            raise Unusable(f"info[{name!r}] must be a text, got {shown(value)}")
    for name in ("answers", "evidence", "admissible"):
        if (value := info.get(name)) is not None:
            _texts(name, value)
    if (value := info.get("screenshot")) is not None and not isinstance(value, bytes):
        raise Unusable(f"info['screenshot'] must be the bytes of a PNG, got {shown(value)}")
    for name, kinds in (("columns", _CELLS), ("metrics", _NUMBERS)):
        if (value := info.get(name)) is not None:
            info = {**info, name: _flat(name, value, kinds)}
    calls = info.get("tool_calls")
    if calls is not None:
        if type(calls) not in _ROWS and (isinstance(calls, (str, bytes)) or not isinstance(calls, Sequence)):
            raise Unusable(f"info['tool_calls'] must be a sequence of ToolCall, got {shown(calls)}")
        info = {**info, "tool_calls": tuple(map(_call, calls))}
    if info.get("error") is not None:
        info = {**info, "error": capped(info["error"])}
    return info


def _flat(name: str, value: Any, kinds: tuple[type, ...]) -> dict[str, Any]:
    """A flat dict of finite numbers and, for columns, short texts."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise Unusable(f"info[{name!r}] must be a dict with texts as keys, got {shown(value)}")
    plain = {key: item.item() if isinstance(item, np.generic) else item for key, item in value.items()}
    for key, item in plain.items():
        if not isinstance(item, kinds) or (isinstance(item, float) and math.isinf(item)):
            raise Unusable(f"info[{name!r}][{key!r}] must be a {_either_type(kinds)}, got {shown(item)}")
        if isinstance(item, str) and len(item) > _LONGEST_CELL:
            raise Unusable(f"info[{name!r}][{key!r}] is a text of {len(item):,} characters; at most {_LONGEST_CELL:,}")
    return plain


def _either_type(kinds: tuple[type, ...]) -> str:
    return "number or a short text" if str in kinds else "number"


def _call(call: Any) -> ToolCall:
    if not isinstance(call, ToolCall):
        raise Unusable(f"info['tool_calls'] must hold ToolCall, got {shown(call)}")
    _text("the name of a tool call", call.name)
    _text("the result of a tool call", call.result)
    if call.error is not None:
        _text("the error of a tool call", call.error)
    if type(call.arguments) is not dict and not isinstance(call.arguments, Mapping):
        raise Unusable(f"the arguments of a tool call must be a mapping, got {shown(call.arguments)}")
    _json(call.arguments, 0)
    if call.status not in _STATUSES:
        raise Unusable(f"the status of a tool call must be one of {', '.join(_STATUSES)}, got {shown(call.status)}")
    _amount(call.seconds, "the seconds of a tool call")
    _amount(call.cost, "the cost of a tool call")
    if len(call.result) <= MAX_OBSERVATION and (call.error is None or len(call.error) <= MAX_OBSERVATION):
        return call
    return replace(call, result=capped(call.result), error=None if call.error is None else capped(call.error))


def _sample(sample: Any) -> None:
    if not isinstance(sample, Sample):
        raise Unusable(f"the sample of the reply must be a Sample, got {shown(sample)}")
    size = len(sample.action)
    for name in ("logprobs", "entropies", "choices"):
        if (count := len(getattr(sample, name))) not in (0, size):
            raise Unusable(f"the sample of the reply has {size} tokens in action and {count} in {name}")
    for name in ("context", "action"):
        if not isinstance(sum(getattr(sample, name)), int | np.integer):
            raise Unusable(f"the sample of the reply must have whole numbers in {name}")
    for name in ("logprobs", "entropies"):
        if not math.isfinite(sum(getattr(sample, name))):
            raise Unusable(f"the sample of the reply must have finite numbers in {name}")
    if not isinstance(sample.keep, int | np.integer) or sample.keep < 0:
        raise Unusable(f"the sample of the reply keeps {shown(sample.keep)} tokens")


def _json(value: Any, depth: int) -> None:
    """Whether a value can be stored."""
    if value is None or type(value) in _PLAIN or isinstance(value, (str, int, float, np.generic)):
        return
    if depth >= _DEEPEST:
        raise Unusable(f"the arguments of a tool call are nested more than {_DEEPEST} deep")
    if type(value) is dict or isinstance(value, Mapping):
        for key, item in value.items():
            _text("a key in the arguments of a tool call", key)
            _json(item, depth + 1)
    elif isinstance(value, _ROWS):
        for item in value:
            _json(item, depth + 1)
    else:
        raise Unusable(f"the arguments of a tool call must be JSON values, got {shown(value)}")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise Unusable(f"{name} must be a text, got {shown(value)}")
    return value


def _texts(name: str, value: Any) -> None:
    if type(value) in _ROWS and set(map(type, value)) <= {str}:
        return
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence) or not all(isinstance(v, str) for v in value):
        raise Unusable(f"info[{name!r}] must be a sequence of texts, got {shown(value)}")


def _amount(value: Any, *name: str) -> None:
    if type(value) in (int, float) and 0 <= value < math.inf:
        return
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0:
        raise Unusable(f"{''.join(name)} must be a finite number >= 0, got {shown(value)}")


def _either(stops: frozenset[StopReason]) -> str:
    return " or ".join(sorted(stops))
