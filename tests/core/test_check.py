"""One broken environment per rule; exactly that rule must be reported."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from agentgym.check import Report, check_env
from agentgym.contract import RULES
from agentgym.env import TextEnv, digest
from agentgym.envs.tool_env import Question, ToolEnv
from agentgym.errors import ContractError, UnknownName, UsageError, WorldFault
from agentgym.records import ToolCall
from agentgym.tools.syntax import syntaxes
from agentgym.tools.tool import tool

Result = tuple[str, Any, bool, bool, dict[str, Any]]


class Rooms(TextEnv):
    """A sound little world: walk ``left`` and ``right`` until the room with the treasure, say its name."""

    NAMES = ("attic", "cellar", "garden", "kitchen", "library", "stable")
    instructions = "Write left, right, or say NAME."

    def __init__(self, *, split: str = "train") -> None:
        super().__init__(split=split)
        self.over = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        if options:
            raise UsageError(f"unknown options {options}")
        self.treasure = int(self.np_random.integers(6))
        self.house = int(self.np_random.integers(10**9)) * 2 + (self.split == "test")
        self.room, self.turns, self.over = 0, 0, False
        return "You are in a house. Where is the treasure?", self.info()

    def info(self) -> dict[str, Any]:
        return {
            "task_id": f"house {self.house}",
            "anchor": digest(self.house, self.treasure, self.room),
            "admissible": self.admissible(),
            "answers": [self.NAMES[self.treasure]],
            "evidence": [f"room {self.treasure}"],
        }

    def admissible(self) -> list[str]:
        here = [f"say {name}" for name in self.NAMES]
        return here + ["left"] * (self.room > 0) + ["right"] * (self.room < 5)

    def step(self, action: str) -> Result:
        if self.over:
            raise ResetNeeded("call reset() first")
        self.turns += 1
        if action not in self.admissible():
            told = "Not understood. Write left, right, or say NAME."
            return self.done(told, False, {"error": told})
        if action.startswith("say "):
            return self.done("You said it.", True, {})
        self.room += 1 if action == "right" else -1
        return self.done(self.look(), False, {"tool_calls": [ToolCall("walk", {"to": action})]})

    def look(self) -> str:
        return f"The {self.NAMES[self.room]}." + " It glitters!" * (self.room == self.treasure)

    def done(self, observation: str, said: bool, more: dict[str, Any]) -> Result:
        truncated = not said and self.turns >= 20
        info = self.info() | more
        if said or truncated:
            self.over = True
            info["success"] = said and self.room == self.treasure
        return observation, float(info.get("success", False)), said, truncated, info

    def expert(self) -> str | None:
        if self.room == self.treasure:
            return f"say {self.NAMES[self.room]}"
        return "right" if self.room < self.treasure else "left"

    def sample_action(self, rng: np.random.Generator) -> str:
        return f"say {rng.choice(self.NAMES)}"

    def fork(self) -> Rooms:
        twin = type(self)(split=self.split)
        twin.__dict__.update({k: v for k, v in self.__dict__.items() if k not in ("_np_random",)})
        return twin


def test_a_sound_environment_keeps_every_rule() -> None:
    report = check_env(Rooms)
    assert report.ok, str(report)
    assert report.skipped == {
        "replaying": "it has no spec; register it",
        "tasks": "its tasks are generated without end",
        "spec": "it has no spec; register it",
    }
    assert set(report.held) | set(report.skipped) == set(RULES)


def test_columns_metrics_and_screenshots_keep_the_rules() -> None:
    class Tells(Rooms):
        def info(self) -> dict[str, Any]:
            columns = {"doors": 2, "far": 0.5, "room": "attic", "safe": True, "steps": np.int64(3)}
            return super().info() | {"columns": columns, "metrics": {"score": np.float32(0.5)}, "screenshot": b"PNG"}

    check_env(Tells).raise_on_violation()


BROKEN: dict[str, list[type[TextEnv]]] = {}


def breaks(rule: str) -> Callable[[type[TextEnv]], type[TextEnv]]:
    def note(env: type[TextEnv]) -> type[TextEnv]:
        BROKEN.setdefault(rule, []).append(env)
        return env

    return note


@breaks("make")
class CannotBeMade(Rooms):
    def __init__(self, *, split: str = "train") -> None:
        raise OSError("no data file")


@breaks("make")
class LeavesWhenMade(Rooms):
    def __init__(self, *, split: str = "train") -> None:
        raise SystemExit(0)


@breaks("close")
class CannotBeClosed(Rooms):
    def close(self) -> None:
        raise OSError("gone already")


@breaks("close")
class LeavesWhenClosed(Rooms):
    def close(self) -> None:
        raise SystemExit(0)


@breaks("close")
class CannotBeClosedTwice(Rooms):
    def close(self) -> None:
        del self.over


@breaks("step")
class LeavesInAStep(Rooms):
    def step(self, action: str) -> Result:
        raise SystemExit(0)


@breaks("garbage")
class LeavesOverAnOddAction(Rooms):
    def step(self, action: str) -> Result:
        if len(action) > 1000:
            raise SystemExit(0)
        return super().step(action)


@breaks("reset")
class ResetReturnsOnlyText(Rooms):
    def reset(self, **kwargs: Any) -> Any:
        return super().reset(**kwargs)[0]


@breaks("reset")
class ResetReturnsNoText(Rooms):
    def reset(self, **kwargs: Any) -> Any:
        return {"text": super().reset(**kwargs)[0]}, {}


@breaks("reset")
class ResetTakesNoOptions(Rooms):
    def reset(self, *, seed: int | None = None) -> Any:  # type: ignore[override]
        return super().reset(seed=seed)


@breaks("reset")
class ResetNeedsASeed(Rooms):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        assert seed is not None
        return super().reset(seed=seed, options=options)


@breaks("step")
class StepReturnsFour(Rooms):
    def step(self, action: str) -> Any:
        return super().step(action)[:4]


@breaks("step")
class RewardIsNotANumber(Rooms):
    def step(self, action: str) -> Any:
        observation, _, *rest = super().step(action)
        return (observation, float("nan"), *rest)


@breaks("step")
class DoneIsAnInteger(Rooms):
    def step(self, action: str) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, int(terminated), truncated, info


@breaks("task_id")
class TaskIsForgotten(Rooms):
    def step(self, action: str) -> Result:
        result = super().step(action)
        del result[4]["task_id"]
        return result


@breaks("task_id")
class TaskChangesItsName(Rooms):
    def info(self) -> dict[str, Any]:
        return super().info() | {"task_id": f"turn {self.turns}"}


@breaks("anchor")
class NoAnchor(Rooms):
    def info(self) -> dict[str, Any]:
        return super().info() | {"anchor": None}


@breaks("anchor")
class AnchorIgnoresTheState(Rooms):
    def info(self) -> dict[str, Any]:
        return super().info() | {"anchor": digest(self.house)}


@breaks("info")
class ErrorIsNone(Rooms):
    def info(self) -> dict[str, Any]:
        return super().info() | {"error": None}


@breaks("info")
class AnswersIsOneText(Rooms):
    def info(self) -> dict[str, Any]:
        return super().info() | {"evidence": "room 1"}


@breaks("info")
class AColumnIsAList(Rooms):
    def info(self) -> dict[str, Any]:
        return super().info() | {"columns": {"doors": [1, 2]}}


@breaks("info")
class AColumnIsInfinite(Rooms):
    def info(self) -> dict[str, Any]:
        return super().info() | {"columns": {"distance": float("inf")}}


@breaks("info")
class ColumnsHaveNoNames(Rooms):
    def info(self) -> dict[str, Any]:
        return super().info() | {"columns": {1: 2.0}}


@breaks("info")
class AMetricIsAText(Rooms):
    def info(self) -> dict[str, Any]:
        return super().info() | {"metrics": {"distance": "far"}}


@breaks("info")
class TheScreenshotIsAText(Rooms):
    def info(self) -> dict[str, Any]:
        return super().info() | {"screenshot": "PNG"}


@breaks("info")
class CallsAreMappings(Rooms):
    def step(self, action: str) -> Result:
        result = super().step(action)
        result[4]["tool_calls"] = [{"name": "walk"}]
        return result


@breaks("end")
class BothEnds(Rooms):
    def step(self, action: str) -> Result:
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, terminated, info


@breaks("end")
class GoesOnAfterTheEnd(Rooms):
    def step(self, action: str) -> Result:
        self.over = False
        return super().step(action)


@breaks("end")
class FallsOverAfterTheEnd(Rooms):
    def step(self, action: str) -> Result:
        if self.over:
            raise KeyError("room")
        return super().step(action)


@breaks("global_random")
class UsesRandom(Rooms):
    def step(self, action: str) -> Result:
        random.random()
        return super().step(action)


@breaks("global_random")
class SeedsNumpy(Rooms):
    def reset(self, **kwargs: Any) -> Any:
        np.random.seed(0)
        return super().reset(**kwargs)


@breaks("determinism")
class DrawsFromNowhere(Rooms):
    def look(self) -> str:
        return super().look() + f" {random.Random().random()}"


@breaks("determinism")
class RemembersTheLastEpisode(Rooms):
    episodes = 0

    def reset(self, **kwargs: Any) -> Any:
        self.episodes += 1
        return super().reset(**kwargs)

    def look(self) -> str:
        return super().look() + f" {self.episodes}"


class _Shared(Rooms):
    room_of_all: ClassVar[int] = 0

    @property
    def room(self) -> int:
        return type(self).room_of_all

    @room.setter
    def room(self, value: int) -> None:
        type(self).room_of_all = value


@breaks("isolation")
class SharesItsState(_Shared):
    fork = None  # type: ignore[assignment]
    expert = None  # type: ignore[assignment]


@breaks("isolation")
class SharesItsGenerator(Rooms):
    generator = np.random.default_rng(0)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self._np_random = None
        result = super().reset(seed=seed, options=options)
        if seed is not None:
            type(self).generator.bit_generator.state = self._np_random.bit_generator.state  # type: ignore[attr-defined]
            self._np_random = type(self).generator
        return result


@breaks("forking")
class ForkForgetsTheRoom(Rooms):
    def fork(self) -> Rooms:
        twin = super().fork()
        twin.room = 0
        return twin


@breaks("forking")
class ForkIsTheSame(Rooms):
    def fork(self) -> Rooms:
        return self


@breaks("garbage")
class FallsOverNoise(Rooms):
    def step(self, action: str) -> Result:
        action.encode()
        return super().step(action)


@breaks("garbage")
class IgnoresNoise(Rooms):
    def done(self, observation: str, said: bool, more: dict[str, Any]) -> Result:
        return super().done(observation, said, {k: v for k, v in more.items() if k != "error"})


@breaks("garbage")
class SaysNothingToNoise(Rooms):
    def done(self, observation: str, said: bool, more: dict[str, Any]) -> Result:
        return super().done("" if "error" in more else observation, said, more)


@breaks("garbage")
class EchoesNoise(Rooms):
    def step(self, action: str) -> Result:
        observation, *rest = super().step(action)
        return (observation + action, *rest)  # type: ignore[return-value]


@breaks("admissible")
class ListsTooMuch(Rooms):
    def info(self) -> dict[str, Any]:
        info = super().info()
        info["admissible"] = [*info["admissible"], "fly"]
        return info


@breaks("expert")
class ExpertGivesUp(Rooms):
    def expert(self) -> str | None:
        return None if self.room == 1 else super().expert()


@breaks("expert")
class ExpertIsWrong(Rooms):
    def expert(self) -> str | None:
        return "say nothing" if self.room == 1 else super().expert()


@breaks("expert")
class ExpertFails(Rooms):
    def expert(self) -> str | None:
        return f"say {self.NAMES[5 - self.treasure]}"


@breaks("told")
class TellsTheAnswer(Rooms):
    def reset(self, **kwargs: Any) -> Any:
        observation, info = super().reset(**kwargs)
        return f"{observation} (Not in the {info['answers'][0]}.)", info


@breaks("told")
class TellsTheAnswerInAnError(Rooms):
    def step(self, action: str) -> Result:
        observation, *rest = super().step(action)
        return (observation + f" {self.NAMES[self.treasure].upper()}" * ("error" in rest[3]), *rest)  # type: ignore[return-value,operator]


@breaks("told")
class TellsTheAnswerToAnUnknownTool(Rooms):
    def step(self, action: str) -> Result:
        observation, *rest = super().step(action)
        return (observation + f" Try {self.NAMES[self.treasure]}" * ("no_such_tool" in action), *rest)  # type: ignore[return-value]


@breaks("gaming")
class TakesAList(Rooms):
    """Any sentence with the right name in it will do."""

    def step(self, action: str) -> Result:
        if f"say {self.NAMES[self.treasure]}" in action and len(action) > 20:
            self.room, action = self.treasure, f"say {self.NAMES[self.treasure]}"
        return super().step(action)


@breaks("gaming")
class ItsGraderReadsWords(Rooms):
    def step(self, action: str) -> Result:
        if "correct" in action:
            self.room, action = self.treasure, f"say {self.NAMES[self.treasure]}"
        return super().step(action)


@breaks("gaming")
class FallsOverANumber(Rooms):
    def step(self, action: str) -> Result:
        if action.startswith("/"):
            int(action.partition("/")[0])
        return super().step(action)


@breaks("counted")
class BlamesTheWorld(Rooms):
    def step(self, action: str) -> Result:
        if action == "NaN":
            raise WorldFault("the grader died")
        return super().step(action)


@breaks("counted")
class IsNeverTheSameAgain(Rooms):
    poisoned = False

    def reset(self, **kwargs: Any) -> Any:
        if self.poisoned:
            raise ValueError("cannot start")
        return super().reset(**kwargs)

    def step(self, action: str) -> Result:
        self.poisoned = self.poisoned or action.count("say attic") > 100
        return super().step(action) if not self.poisoned else self.done("Too long.", False, {"error": "too long"})


@breaks("counted")
class DoesNotSayThatItFailed(Rooms):
    def done(self, observation: str, said: bool, more: dict[str, Any]) -> Result:
        *rest, info = super().done(observation, said, more)
        return (*rest, info if info.get("success") else {k: v for k, v in info.items() if k != "success"})  # type: ignore[return-value]


@breaks("fingerprint")
class FingerprintOfTheInstance(Rooms):
    @property
    def fingerprint(self) -> str:
        return str(id(self))


@breaks("fingerprint")
class FingerprintOfTheEpisode(Rooms):
    turns = 0

    @property
    def fingerprint(self) -> str:
        return str(self.turns)


@breaks("splits")
class SplitsMeet(Rooms):
    def reset(self, **kwargs: Any) -> Any:
        split, self.split = self.split, "train"
        observation, _ = super().reset(**kwargs)
        self.split = split
        return observation, self.info()


@breaks("tasks")
class TasksAreNotObeyed(Rooms):
    num_tasks = 3

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if unknown := set(options or ()) - {"task"}:
            raise UsageError(f"unknown {unknown}")
        return super().reset(seed=seed)


@breaks("parameters")
class IgnoresItsSplit(Rooms):
    def __init__(self, *, split: str = "train") -> None:
        super().__init__(split=split if split in self.splits else "train")


@breaks("parameters")
class TakesAnything(Rooms):
    def __init__(self, *, split: str = "train", **rest: Any) -> None:
        super().__init__(split=split)


@breaks("parameters")
class IgnoresOptions(Rooms):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=seed)


@breaks("spaces")
class TakesOnlyThreeActions(Rooms):
    def __init__(self, *, split: str = "train") -> None:
        super().__init__(split=split)
        self.action_space = gym.spaces.Discrete(3)  # type: ignore[assignment]


@breaks("spaces")
class SpeaksOnlyEnglish(Rooms):
    def __init__(self, *, split: str = "train") -> None:
        super().__init__(split=split)
        self.observation_space = gym.spaces.Text(1000)  # type: ignore[assignment]


@breaks("gymnasium")
class SeedsSomethingElse(Rooms):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        result = super().reset(seed=seed, options=options)
        self._np_random = np.random.default_rng(0)
        return result


@breaks("sampling")
class SamplesWhatItDoesNotKnow(Rooms):
    def sample_action(self, rng: np.random.Generator) -> str:
        return str(rng.choice(["left", "fly"]))


@breaks("sampling")
class SamplesByItself(Rooms):
    count = 0

    def sample_action(self, rng: np.random.Generator) -> str:
        self.count += 1
        return ("say attic", "say cellar")[self.count % 2]


CASES = [(rule, env) for rule, envs in BROKEN.items() for env in envs]


@pytest.mark.parametrize(("rule", "env"), CASES, ids=[env.__name__ for _, env in CASES])
def test_a_broken_rule_is_reported_and_no_other(rule: str, env: type[TextEnv]) -> None:
    report = check_env(env, panel_tasks=40)
    assert {v.rule for v in report.violations} == {rule}, str(report)
    for violation in report.violations:
        assert violation.seen
        assert violation.advice == RULES[rule].advice
        assert str(violation) in str(report)


class Dusty(Rooms):
    dust = ""

    def look(self) -> str:
        return super().look() + self.dust

    def fork(self) -> Rooms:
        twin = super().fork()
        twin.dust = self.dust  # type: ignore[attr-defined]
        return twin


def test_every_rule_has_its_broken_environment() -> None:
    assert set(RULES) - set(BROKEN) == {"replaying", "spec"}  # these need a registered one; see below


@pytest.fixture
def registered() -> Any:
    made: list[str] = []

    def register(env_id: str, entry_point: Any, **kwargs: Any) -> str:
        gym.register(env_id, entry_point=entry_point, disable_env_checker=True, **kwargs)
        made.append(env_id)
        return env_id

    yield register
    for env_id in made:
        del gym.registry[env_id]


def test_a_registered_environment_is_also_replayed_and_pickled(registered: Any) -> None:
    env_id = registered("test/Rooms-v0", f"{__name__}:Rooms")
    report = check_env(env_id)
    assert report.ok, str(report)
    assert report.skipped == {"tasks": "its tasks are generated without end"}
    instance = gym.make(env_id, disable_env_checker=True)
    assert check_env(instance).ok


def test_a_spec_that_cannot_be_pickled(registered: Any) -> None:
    report = check_env(registered("test/Local-v0", lambda split="train": Rooms(split=split)))
    assert {v.rule for v in report.violations} == {"spec"}, str(report)
    assert "pickle" in report.violations[0].seen


def test_a_replay_that_goes_another_way(registered: Any) -> None:
    env_id = registered("test/Dusty-v0", f"{__name__}:Dusty")

    def factory(split: str = "train") -> gym.Env[str, str]:
        env = gym.make(env_id, disable_env_checker=True, split=split)
        env.unwrapped.dust = " Dust."  # type: ignore[attr-defined]  # what is set later is not in the spec
        return env

    report = check_env(factory)
    assert {v.rule for v in report.violations} == {"replaying"}, str(report)
    assert "became 'The cellar.'" in report.violations[0].seen


def test_all_violations_come_in_one_report() -> None:
    class Bad(ListsTooMuch, TellsTheAnswer, IgnoresOptions):  # type: ignore[misc]
        @property
        def fingerprint(self) -> str:
            return ""

    report = check_env(Bad)
    assert {v.rule for v in report.violations} == {"admissible", "told", "fingerprint", "parameters"}
    with pytest.raises(ContractError, match="4 broken") as told:
        report.raise_on_violation()
    assert "do:   list only actions that step understands and can do" in str(told.value)


CART: list[str] = []


@tool
def add(item: str) -> str:
    """Put something into the cart.

    Args:
        item: what.
    """
    CART.append(item)
    return f"The cart holds {len(CART)}."


@pytest.mark.parametrize("syntax", syntaxes())
def test_state_of_the_module_is_found_without_an_expert(syntax: str) -> None:
    """Tools are called with arguments that their schemas allow, so that what they share shows."""

    def shop(split: str = "train") -> ToolEnv:
        tasks = [Question(f"Buy {n} apples.", answers=[str(n)]) for n in range(10)]
        return ToolEnv([add], tasks, lambda *_: 0.0, syntax=syntax, split=split)

    report = check_env(shop)
    assert "determinism" in {v.rule for v in report.violations}, str(report)
    assert "The cart holds" in str(report)


def test_what_all_episodes_use_up_is_found() -> None:
    """Once the stock is gone, every further episode is like the last one; the first was not."""
    stock = [5]

    @tool
    def take() -> str:
        """Take one."""
        if not stock[0]:
            return "sold out"
        stock[0] -= 1
        return "taken"

    def shop(split: str = "train") -> ToolEnv:
        tasks = [Question(f"Take {n}.", answers=[str(n)]) for n in range(10)]
        return ToolEnv([take], tasks, lambda *_: 0.0, split=split)

    (violation,) = check_env(shop).violations
    assert violation.rule == "determinism"
    assert violation.seen.startswith("seed 0, played again after other episodes: turn 1: observation ")


def test_rules_that_cannot_be_judged_are_named() -> None:
    report = check_env(ResetReturnsOnlyText)
    assert report.skipped["step"] == "needs reset"
    assert report.skipped["determinism"] == "needs global_random"
    assert "not judged: step (needs reset)" in str(report)


def test_an_exception_names_its_place() -> None:
    seen = check_env(FallsOverNoise).violations[0].seen
    assert seen.startswith("a lone surrogate: raised UnicodeEncodeError: ")
    seen = check_env(ResetNeedsASeed).violations[0].seen
    assert "raised AssertionError" in seen
    assert "test_check.py:" in seen


def test_a_question_may_name_its_answer_sometimes() -> None:
    class Compares(Rooms):
        """The first observation names one room; it is the answer in one task of six."""

        def reset(self, **kwargs: Any) -> Any:
            observation, info = super().reset(**kwargs)
            return observation + " Is it the garden or the cellar?", info

    assert check_env(Compares).ok


def test_what_cannot_be_checked_is_refused() -> None:
    with pytest.raises(UsageError, match="has no spec, so it cannot be made again; pass its class"):
        check_env(Rooms())
    with pytest.raises(UnknownName, match="unknown environment 'nowhere/Nothing-v0'"):
        check_env("nowhere/Nothing-v0")
    with pytest.raises(UsageError, match="give at least one seed and turn"):
        check_env(Rooms, seeds=())
    with pytest.raises(UnknownName, match="unknown split 'tset'; did you mean 'test'"):
        check_env(Rooms, split="tset")
    with pytest.raises(UsageError, match="cannot check 3"):
        check_env(3)  # type: ignore[arg-type]


def test_a_factory_without_arguments_is_not_asked_for_splits() -> None:
    report = check_env(lambda: Rooms())
    assert report.ok
    assert report.skipped["splits"] == "its factory takes no split"


def test_instances_are_closed() -> None:
    closed: list[Rooms] = []

    class Closing(Rooms):
        def close(self) -> None:
            closed.append(self)

    made: list[Closing] = []

    def factory(split: str = "train") -> Closing:
        made.append(Closing(split=split))
        return made[-1]

    assert isinstance(check_env(factory), Report)
    assert set(map(id, made)) <= set(map(id, closed))
