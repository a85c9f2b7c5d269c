"""Promises 3 and 4, kind by kind: whatever an environment or a policy does wrong ends one episode, and nothing else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest

from agentgym.env import TextEnv
from agentgym.errors import ContractError, UsageError
from agentgym.policy import Reply, Request, ScriptedPolicy, SyncPolicy
from agentgym.records import Episode, Sample, StopReason, Task, ToolCall, Usage
from agentgym.rollout import Group, Independent, LiveEpisode, Rollout
from agentgym.store import decode, encode

BAD = 2  #: the seed of the episode in which it happens
MODES = {"inline": {}, "threads": {"threads": 3}, "lockstep": {"threads": 3, "lockstep": True}}


class Boom(BaseException):
    """No ``Exception``."""


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Shy:
    """Raises wherever it is looked at."""

    def __repr__(self) -> str:
        raise RuntimeError("do not look")

    def __float__(self) -> float:
        raise RuntimeError("no number either")


class Trap(dict[str, Any]):
    def get(self, key: str, default: Any = None) -> Any:
        raise RuntimeError("caught")


def raises(error: BaseException | type[BaseException]) -> Callable[..., Any]:
    def act(result: Any) -> Any:
        raise error

    return act


def forever(result: Any) -> Any:
    return forever(result)


def info(**told: Any) -> Callable[..., Any]:
    """``info`` with these keys."""
    return lambda result: (*result[:-1], result[-1] | told)


def at(place: int, value: Any) -> Callable[..., Any]:
    """Something else at one place of what is returned."""
    return lambda result: tuple(value if n == place % len(result) else one for n, one in enumerate(result))


def calls(**fields: Any) -> Callable[..., Any]:
    return info(tool_calls=[ToolCall(**{"name": "look", **fields})])


def cycle() -> dict[str, Any]:
    round_and_round: dict[str, Any] = {}
    round_and_round["again"] = round_and_round
    return round_and_round


RAISED = {
    "error": (RuntimeError("boom"), "RuntimeError: boom"),
    "error without a text": (ValueError(), "ValueError: raised in act (test_rollout_nonsense.py, line "),
    "error whose text raises": (Speechless(), "Speechless: (its text cannot be shown)"),
    "error with a long text": (OSError("x" * 100_000), "OSError: xxx"),
    "error with half a character": (OSError("\ud800"), "OSError: \ud800"),
    "sys.exit()": (SystemExit(), "SystemExit: raised in act"),
    "sys.exit(text)": (SystemExit("bye"), "SystemExit: bye"),
    "GeneratorExit": (GeneratorExit(), "GeneratorExit: raised in act"),
    "StopIteration": (StopIteration(3), "StopIteration: 3"),
    "asyncio.CancelledError": (asyncio.CancelledError(), "CancelledError: raised in act"),
    "CancelledError": (CancelledError("no"), "CancelledError: no"),
    "TimeoutError": (TimeoutError("the server"), "TimeoutError: the server"),
    "MemoryError": (MemoryError(), "MemoryError: raised in act"),
    "no Exception": (Boom("!"), "Boom: !"),
    "ContractError": (ContractError("not so"), "ContractError: not so"),
}
TEXTS = {
    "task_id is a number": (info(task_id=7), "info['task_id'] must be a text, got 7"),
    "anchor is a list": (info(anchor=[1]), "info['anchor'] must be a text, got [1]"),
    "error is a number": (info(error=404), "info['error'] must be a text, got 404"),
    "admissible is a text": (info(admissible="go"), "info['admissible'] must be a sequence of texts, got 'go'"),
    "admissible holds numbers": (info(admissible=[1]), "info['admissible'] must be a sequence of texts, got [1]"),
    "answers is a text": (info(answers="Paris"), "info['answers'] must be a sequence of texts, got 'Paris'"),
    "answers is a number": (info(answers=4), "info['answers'] must be a sequence of texts, got 4"),
    "evidence is a set": (info(evidence={"d1"}), "info['evidence'] must be a sequence of texts, got {'d1'}"),
    "info is None": (at(-1, None), "info must be a dict, got None"),
    "info is a list": (at(-1, []), "info must be a dict, got []"),
    "info is a trap": (at(-1, Trap()), "RuntimeError: caught"),
}
RETURNED_BY_RESET = {
    "None": (lambda result: None, "reset returned None: expected (observation, info)"),
    "observation alone": (lambda result: result[0], "reset returned 'begin': expected (observation, info)"),
    "three things": (lambda result: (*result, 0), "expected (observation, info)"),
    "a text of two": (lambda result: "hi", "expected (observation, info)"),
    "observation is bytes": (at(0, b"begin"), "the observation must be a text, got b'begin'"),
    "endless recursion": (forever, "RecursionError: maximum recursion depth exceeded"),
    **TEXTS,
}
RETURNED_BY_STEP = {
    "None": (lambda result: None, "step returned None: expected (observation, reward, terminated, truncated, info)"),
    "four things": (lambda result: result[:4], "expected (observation, reward, terminated, truncated, info)"),
    "a text of five": (lambda result: "hello", "expected (observation, reward, terminated, truncated, info)"),
    "cannot be shown": (lambda result: Shy(), "step returned <Shy that cannot be shown>: expected"),
    "endless recursion": (forever, "RecursionError: maximum recursion depth exceeded"),
    "observation is None": (at(0, None), "the observation must be a text, got None"),
    "reward is a text": (at(1, "1.0"), "the reward must be a finite number, got '1.0'"),
    "reward is None": (at(1, None), "TypeError: float() argument must be"),
    "reward is nan": (at(1, float("nan")), "the reward must be a finite number, got nan"),
    "reward is infinite": (at(1, float("inf")), "the reward must be a finite number, got inf"),
    "reward is too large": (at(1, 10**400), "OverflowError: int too large to convert to float"),
    "reward is complex": (at(1, 1j), "TypeError: float() argument must be"),
    "reward raises": (at(1, Shy()), "RuntimeError: no number either"),
    "terminated is a text": (at(2, "no"), "terminated must be True or False, got 'no'"),
    "truncated is None": (at(3, None), "truncated must be True or False, got None"),
    "terminated and truncated": (lambda r: (*r[:2], True, True, r[4]), "terminated and truncated together"),
    "stop is unknown": (lambda r: (*r[:3], True, r[4] | {"stop": "whim"}), "'whim' is not a valid StopReason"),
    "stop is no cut": (lambda r: (*r[:3], True, r[4] | {"stop": "terminated"}), "info['stop'] must say what cut"),
    "stop is a list": (lambda r: (*r[:3], True, r[4] | {"stop": []}), "[] is not a valid StopReason"),
    "success is a text": (info(success="False"), "info['success'] must be True or False, got 'False'"),
    "success is a half": (info(success=0.5), "info['success'] must be True or False, got 0.5"),
    "calls are a text": (info(tool_calls="look"), "info['tool_calls'] must be a sequence of ToolCall, got 'look'"),
    "calls are a number": (info(tool_calls=3), "info['tool_calls'] must be a sequence of ToolCall, got 3"),
    "calls are dicts": (info(tool_calls=[{"name": "look"}]), "info['tool_calls'] must hold ToolCall, got {'name'"),
    "call without a name": (calls(name=None), "the name of a tool call must be a text, got None"),
    "call's result is a dict": (calls(result={}), "the result of a tool call must be a text, got {}"),
    "call's error is True": (calls(error=True), "the error of a tool call must be a text, got True"),
    "call's arguments are a list": (calls(arguments=[1]), "the arguments of a tool call must be a mapping, got [1]"),
    "call's argument is an object": (calls(arguments={"a": {1}}), "must be JSON values, got {1}"),
    "call's argument has a number's key": (calls(arguments={"a": {1: 2}}), "a key in the arguments of a tool call"),
    "call's arguments never end": (calls(arguments=cycle()), "nested more than 64 deep"),
    "call's seconds are nan": (calls(seconds=float("nan")), "the seconds of a tool call must be a finite number >= 0"),
    "call's cost is negative": (calls(cost=-1.0), "the cost of a tool call must be a finite number >= 0, got -1.0"),
    "call's status is unknown": (calls(status="perhaps"), "the status of a tool call must be one of ran, refused, ma"),
    "call's cost is a text": (calls(cost="free"), "the cost of a tool call must be a finite number >= 0, got 'free'"),
    **TEXTS,
}


class World(TextEnv):
    """Three turns; ``wrong`` turns what ``where`` returns into something else, once, in the episode of :data:`BAD`."""

    def __init__(self, where: str = "", wrong: Callable[..., Any] = lambda result: result) -> None:
        super().__init__()
        self.where, self.wrong = where, wrong
        self.broken, self.drift = False, ""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        assert not self.broken, "an instance that failed was used again"
        self.turn, self.bad = 0, seed == BAD
        return self._made("reset", ("begin", {"task_id": str(seed), "anchor": "0"}))

    def step(self, action: str) -> Any:
        self.turn += 1
        told = {"task_id": "x", "anchor": f"{self.turn}{self.drift}", "success": True}
        return self._made(f"step {self.turn}", ("go on", 1.0, self.turn == 3, False, told))

    def charge(self, usage: Usage) -> None:
        self._made("charge", None)

    def fork(self) -> Any:
        twin = World()
        twin.turn, twin.bad = self.turn, False
        return self._made("fork", twin)

    def close(self) -> None:
        self._made("close", None)

    def _made(self, where: str, result: Any) -> Any:
        if self.where == where and self.bad:
            self.broken = where != "fork"
            return self.wrong(result)
        return result


def played(make: Callable[[], Any], policy: Any, size: int = 1, **settings: Any) -> dict[str, Episode]:
    with Rollout(make, policy, max_concurrent_episodes=3, **settings) as rollout:
        episodes = {e.id: e for e in rollout.play(Group(f"{seed}", Task(seed), size) for seed in range(6))}
    for episode in episodes.values():
        assert decode(encode(episode)) == episode  # whatever came is a record
    return episodes


def one_failed(episodes: dict[str, Episode], said: str, stop: StopReason) -> Episode:
    """The one episode that failed; the others went on to their end."""
    (failed,) = (e for e in episodes.values() if e.failure is not None)
    assert failed.stop is stop
    assert failed.task.seed == BAD
    assert said in str(failed.failure)
    assert len(str(failed.failure)) <= 2500
    assert all((len(e.turns), e.reward, e.success) == (3, 3.0, True) for e in episodes.values() if e is not failed)
    return failed


# Environments ---------------------------------------------------------------------------------------------------------

KINDS = [
    *[(where, kind, raises(e), said) for where in ("reset", "step 2") for kind, (e, said) in RAISED.items()],
    *[("reset", kind, wrong, said) for kind, (wrong, said) in RETURNED_BY_RESET.items()],
    *[("step 2", kind, wrong, said) for kind, (wrong, said) in RETURNED_BY_STEP.items()],
    ("charge", "charge raises", raises(RuntimeError("no money")), "RuntimeError: no money"),
    ("charge", "charge leaves", raises(SystemExit("poor")), "SystemExit: poor"),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("where", "wrong", "said"), [(w, f, s) for w, _, f, s in KINDS], ids=[f"{w}: {k}" for w, k, _, _ in KINDS]
)
def test_3_one_failed_episode(where: str, wrong: Callable[..., Any], said: str, mode: str) -> None:
    episodes = played(lambda: World(where, wrong), ScriptedPolicy(lambda request: "go"), **MODES[mode])
    failed = one_failed(episodes, said, StopReason.WORLD_FAULT if where == "reset" else StopReason.ACTION_ERROR)
    assert len(episodes) == 6
    rewards = {"reset": [], "charge": [0.0], "step 2": [1.0, 0.0]}
    assert [t.reward for t in failed.turns] == rewards[where]  # what the world's fault is has no turn
    assert where == "reset" or (failed.turns[-1].error, failed.success) == (failed.failure, False)


@pytest.mark.parametrize("mode", ["threads", "lockstep"])
@pytest.mark.parametrize("where", ["reset", "step 2"])
def test_3_ctrl_c_that_an_environment_makes_up_in_a_thread_is_one_failed_episode(where: str, mode: str) -> None:
    wrong = raises(KeyboardInterrupt())
    episodes = played(lambda: World(where, wrong), ScriptedPolicy(lambda request: "go"), **MODES[mode])
    stop = StopReason.WORLD_FAULT if where == "reset" else StopReason.ACTION_ERROR
    one_failed(episodes, "KeyboardInterrupt: raised in act", stop)


def test_ctrl_c_inline_is_the_users() -> None:
    with pytest.raises(KeyboardInterrupt):
        played(lambda: World("step 2", raises(KeyboardInterrupt())), ScriptedPolicy(lambda request: "go"))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (raises(OSError("no container left")), "OSError: no container left"),
        (raises(SystemExit("no licence")), "SystemExit: no licence"),
        (lambda _: None, "expected a gymnasium.Env, got None"),
        (lambda _: "World", "expected a gymnasium.Env, got 'World'"),
        (lambda _: World, "expected a gymnasium.Env, got <class"),
    ],
)
def test_3_an_environment_that_cannot_be_made(make: Callable[..., Any], said: str, mode: str) -> None:
    made = threading.Lock()
    count = [0]

    def once() -> Any:
        with made:
            count[0] += 1
            now = count[0]
        return make(None) if 2 <= now <= 3 else World()

    episodes = played(once, Together(), **MODES[mode])
    failed = [e for e in episodes.values() if e.failed]
    assert len(failed) == 1 or mode != "inline"  # in threads two episodes may each have met it once
    assert all(e.stop is StopReason.WORLD_FAULT and said in str(e.failure) for e in failed)
    assert len(episodes) == 6


def test_the_first_environment_that_cannot_be_made_is_told_at_once() -> None:
    with pytest.raises(ContractError, match=r"make_env must give a gymnasium\.Env, got None"):
        Rollout(lambda: None, ScriptedPolicy(lambda request: "go"))  # type: ignore[arg-type, return-value]


class Together(SyncPolicy):
    """Answers all requests that wait at once, so that as many episodes run as may."""

    def __init__(self) -> None:
        self.waiting: list[Future[Reply]] = []

    def submit(self, request: Request) -> Future[Reply]:
        self.waiting.append(Future())
        return self.waiting[-1]

    def advance(self) -> bool:
        waiting, self.waiting = self.waiting, []
        for future in waiting:
            future.set_result(Reply("go"))
        return bool(waiting)


class OneBranch(Independent):
    """One root, forked once, at its second turn."""

    def roots(self, size: int) -> int:
        return 1

    def branches(self, episode: LiveEpisode, reply: Reply) -> int:
        return int(len(episode.turns) == 1 and episode.parent is None)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (raises(OSError("no room")), "fork: OSError: no room"),
        (raises(SystemExit()), "fork: SystemExit: raised in act"),
        (raises(Boom("!")), "fork: Boom: !"),
        (lambda twin: None, "fork: ForkError: World.fork() must give a gymnasium.Env, got NoneType"),
        (lambda twin: (twin,), "fork: ForkError: World.fork() must give a gymnasium.Env, got tuple"),
    ],
)
@pytest.mark.parametrize("drifts", [False, True])
def test_3_a_fork_that_fails_is_played_again_or_is_one_failed_branch(
    wrong: Callable[..., Any], said: str, drifts: bool, mode: str
) -> None:
    made: list[World] = []

    def make() -> World:
        made.append(World("fork", wrong))
        made[-1].drift = str(len(made)) if drifts else ""
        return made[-1]

    want = played(World, Together(), 2, branching=OneBranch())
    episodes = played(make, Together(), 2, branching=OneBranch(), **MODES[mode])
    assert len(episodes) == 12
    if not drifts:
        assert episodes == want
        return
    again = "; played again, it met another state after 1 actions"
    failed = one_failed(episodes, said + again if "raised in" not in said else again, StopReason.WORLD_FAULT)
    assert (failed.parent, failed.fork_turn, len(failed.turns)) == (f"{BAD}/0", 1, 1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("error", [OSError("stuck"), SystemExit(3), Boom(), Speechless()])
def test_3_a_close_that_raises_stops_nothing(error: BaseException, mode: str, caplog: pytest.LogCaptureFixture) -> None:
    closed: list[int] = []

    class Sticky(World):
        def close(self) -> None:
            closed.append(1)
            raise error

    episodes = played(lambda: Sticky("step 2", raises(RuntimeError("boom"))), Together(), **MODES[mode])
    one_failed(episodes, "RuntimeError: boom", StopReason.ACTION_ERROR)
    assert len(closed) == 4  # the one that failed, and three at the end
    assert len(caplog.records) == 4
    assert caplog.records[0].getMessage().startswith(f"closing Sticky: {type(error).__name__}")


# Policies -------------------------------------------------------------------------------------------------------------


def sampled(**fields: Any) -> Reply:
    return Reply("go", Sample(**{"keep": 0, "context": (1, 2), "action": (3, 4), **fields}))


def spent(**fields: Any) -> Reply:
    return Reply("go", usage=Usage(**fields))


NONSENSE: dict[str, tuple[Any, str]] = {
    "None": (None, "got None"),
    "a text": ("go", "got 'go'"),
    "a tuple": (("go",), "got ('go',)"),
    "a dict": ({"action": "go"}, "got {'action': 'go'}"),
    "the class": (Reply, "got <class"),
    "what cannot be shown": (Shy(), "got <Shy that cannot be shown>"),
    "no action": (Reply(None), "the action of the reply must be a text, got None"),  # type: ignore[arg-type]
    "a number for an action": (Reply(3), "the action of the reply must be a text, got 3"),  # type: ignore[arg-type]
    "bytes": (Reply(b"go"), "the action of the reply must be a text, got b'go'"),  # type: ignore[arg-type]
    "stop is a text": (Reply("", stop="context_full"), "must be None or context_full or policy_stopped"),  # type: ignore[arg-type]
    "stop is unknown": (Reply("", stop="tired"), "policy_stopped, got 'tired'"),  # type: ignore[arg-type]
    "stop is the task's": (Reply("", stop=StopReason.TERMINATED), "policy_stopped, got <StopReason.TERMINATED"),
    "stop is an error": (Reply("", stop=StopReason.POLICY_ERROR), "policy_stopped, got <StopReason.POLICY_ERROR"),
    "stop is True": (Reply("", stop=True), "policy_stopped, got True"),  # type: ignore[arg-type]
    "no usage": (Reply("go", usage=None), "the usage of the reply must be a Usage, got None"),  # type: ignore[arg-type]
    "usage is a dict": (Reply("go", usage={}), "the usage of the reply must be a Usage, got {}"),  # type: ignore[arg-type]
    "negative tokens": (spent(completion_tokens=-1), "completion_tokens must be a finite number >= 0, got -1"),
    "tokens in words": (spent(prompt_tokens="two"), "prompt_tokens must be a finite number >= 0, got 'two'"),
    "cost is nan": (spent(cost=float("nan")), "cost must be a finite number >= 0, got nan"),
    "endless seconds": (spent(model_seconds=float("inf")), "model_seconds must be a finite number >= 0, got inf"),
    "sample is a list": (Reply("go", [1, 2]), "the sample of the reply must be a Sample, got [1, 2]"),  # type: ignore[arg-type]
    "a log-probability too few": (sampled(logprobs=(-1.0,)), "has 2 tokens in action and 1 in logprobs"),
    "an entropy too many": (sampled(entropies=(1.0, 1.0, 1.0)), "has 2 tokens in action and 3 in entropies"),
    "choices of no token": (sampled(choices=((3,),)), "has 2 tokens in action and 1 in choices"),
    "log-probability is nan": (sampled(logprobs=(float("nan"), -1.0)), "must have finite numbers in logprobs"),
    "log-probabilities in words": (sampled(logprobs=("a", "b")), "TypeError: unsupported operand"),
    "tokens are texts": (sampled(action=("a", "b")), "TypeError: unsupported operand"),
    "tokens are fractions": (sampled(context=(0.5,)), "must have whole numbers in context"),
    "tokens are missing": (sampled(action=None), "TypeError: object of type 'NoneType' has no len()"),
    "keeps less than nothing": (sampled(keep=-1), "the sample of the reply keeps -1 tokens"),
    "keeps everything": (sampled(keep="all"), "the sample of the reply keeps 'all' tokens"),
}


class Odd(SyncPolicy):
    """Answers the second request of the episode of :data:`BAD` in another way."""

    def __init__(self, odd: Callable[[Request], Any]) -> None:
        self.odd = odd

    def submit(self, request: Request) -> Any:
        return self.odd(request) if request.info["task_id"] == str(BAD) else Reply("go")


class Names(World):
    """Tells the seed on every turn."""

    def _made(self, where: str, result: Any) -> Any:
        if where.startswith("step"):
            result[4]["task_id"] = str(BAD) if self.bad else "x"
        return result


def later(result: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(result)
    return future


def failing(error: BaseException) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


def cancelled() -> Future[Any]:
    future: Future[Any] = Future()
    future.cancel()
    return future


ANSWERS: list[tuple[str, Callable[[Request], Any], str]] = [
    *[(f"at once: {kind}", lambda request, given=given: given, said) for kind, (given, said) in NONSENSE.items()],
    *[(f"later: {kind}", lambda request, given=given: later(given), said) for kind, (given, said) in NONSENSE.items()],
    *[(f"raises: {kind}", raises(error), said) for kind, (error, said) in RAISED.items()],
    *[
        (f"later raises: {kind}", lambda request, error=error: failing(error), said.partition(": raised")[0])
        for kind, (error, said) in RAISED.items()
        if kind != "StopIteration"  # a Future takes everything but that
    ],
    ("endless recursion", forever, "RecursionError: maximum recursion depth exceeded"),
    ("a future of a future", lambda request: later(later(Reply("go"))), "must answer with a Reply, got <Future"),
    ("cancelled", lambda request: cancelled(), "CancelledError"),
    (
        "another future",
        lambda request: asyncio.Future(loop=LOOP),
        "a Reply or a concurrent.futures.Future, got <Future",
    ),
]
LOOP = asyncio.new_event_loop()


@pytest.fixture(scope="module", autouse=True)
def _loop() -> Any:
    yield
    LOOP.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("odd", "said"), [(o, s) for _, o, s in ANSWERS], ids=[kind for kind, _, _ in ANSWERS])
def test_4_one_failed_episode(odd: Callable[[Request], Any], said: str, mode: str) -> None:
    def second(request: Request) -> Any:
        return odd(request) if request.turns else Reply("go")

    failed = one_failed(played(Names, Odd(second), **MODES[mode]), said, StopReason.POLICY_ERROR)
    assert len(failed.turns) == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("error", [KeyError("slot"), SystemExit(), Boom("!")])
def test_4_a_release_that_raises_is_one_failed_episode(error: BaseException, mode: str) -> None:
    class Clumsy(Odd):
        def release(self, episode: str) -> None:
            if episode == f"{BAD}/0":
                raise error

    failed = one_failed(
        played(Names, Clumsy(lambda request: Reply("go")), **MODES[mode]),
        f"release: {type(error).__name__}",
        StopReason.POLICY_ERROR,
    )
    assert len(failed.turns) == 3


def test_4_what_the_work_for_all_raises_is_told() -> None:
    class Falls(SyncPolicy):
        def submit(self, request: Request) -> Future[Reply]:
            return Future()

        def advance(self) -> bool:
            raise MemoryError("the model does not fit")

    with pytest.raises(MemoryError, match="the model does not fit"):
        played(World, Falls())


def test_groups_have_members() -> None:
    with Rollout(World, ScriptedPolicy(lambda request: "go")) as rollout, pytest.raises(UsageError, match="has size 0"):
        list(rollout.play([Group("g", Task(0), 0)]))


def test_there_are_about_fifty_kinds_of_each() -> None:
    assert len({kind for _, kind, _, _ in KINDS}) >= 50
    assert len(ANSWERS) >= 48
