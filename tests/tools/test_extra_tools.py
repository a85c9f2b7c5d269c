"""Tools that an environment is given by name, beside its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import agentgym
from agentgym.envs.tool_env import Question, ToolEnv
from agentgym.errors import UsageError
from agentgym.tools.tool import Tool, named, tool
from agentgym.trainers.run.config import TrainConfig
from agentgym.trainers.run.trainer import Training

MODULE = """
from agentgym.tools.tool import tool

@tool(price=2.0)
def double(number: int) -> str:
    '''Twice a number.

    Args:
        number: any.
    '''
    return str(2 * number)

def half(number: int) -> str:
    '''Half a number.

    Args:
        number: an even one.
    '''
    return str(number // 2)

@tool
def search(query: str) -> str:
    '''Search elsewhere.

    Args:
        query: what for.
    '''
    return ""

SIZE = 3
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "extra_tools_of_mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "extra_tools_of_mine", raising=False)


def make(name: str, *tools: str, **options: Any) -> Any:
    return agentgym.make(name, extra_tools=[f"extra_tools_of_mine:{t}" for t in tools], **options)


def test_a_tool_and_a_function_are_named() -> None:
    assert isinstance(named("extra_tools_of_mine:double"), Tool)
    assert named("extra_tools_of_mine:half")(number=4) == "2"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("double", "'double' names no tool; write MODULE:NAME, e.g. my_tools:calculator"),
        ("extra_tools_of_mine:double()", "names no tool"),
        ("extra_tools_of_mine:missing", "'extra_tools_of_mine' has no tool 'missing'; decorate a function"),
        ("extra_tools_of_mine:SIZE", "has no tool 'SIZE'"),
        ("no_such_module:x", "cannot import 'no_such_module'"),
        ("../evil:x", "cannot import '../evil': that is no module name"),
    ],
)
def test_what_names_no_tool_is_refused(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said.replace("(", r"\(").replace(".", r"\.")):
        named(name)


def test_a_python_environment_has_the_tool_beside_its_own() -> None:
    plain, env = agentgym.make("agentgym/Code-v0"), make("agentgym/Code-v0", "double", "half")
    try:
        env.reset(seed=0)
        assert [t.name for t in env.unwrapped.tools.tools] == ["python", "double", "half"]
        assert "Half a number." in env.unwrapped.instructions
        assert "42" in env.step("<double>21</double>")[0]
        assert "7" in env.step("<python>print(3 + 4)</python>")[0]
        assert env.unwrapped.tools.cost == 2.0
        assert env.unwrapped.lockstep is True
        assert env.unwrapped.fingerprint != plain.unwrapped.fingerprint
    finally:
        env.close()
        plain.close()


def test_names_that_are_taken_and_worlds_without_tools_are_refused() -> None:
    with pytest.raises(UsageError, match="two tools are called 'search'; give one of them another name="):
        make("agentgym/Search-v0", "search", documents=400)
    with pytest.raises(
        UsageError, match=r"agentgym/Household-v0 takes no further tools .* leave out extra_tools_of_mine:double"
    ):
        make("agentgym/Household-v0", "double")


def test_a_tool_with_a_session_does_not_hide_the_one_that_is_scored() -> None:
    @tool(session=list)
    def put(items: list[str], item: str) -> str:
        """Put it in.

        Args:
            item: what.
        """
        items.append(item)
        return "ok"

    @tool(session=dict)
    def note(notes: dict[str, str], text: str) -> str:
        """Write it down.

        Args:
            text: what.
        """
        notes[text] = text
        return "ok"

    env = ToolEnv([put], [Question(f"q{n}") for n in range(9)], lambda answer, task, items: len(items), syntax="tags")
    env.add_tools([note])
    env.reset(seed=0)
    env.step("<put>a</put>")
    env.step("<note>b</note>")
    assert env.step("<answer>x</answer>")[1] == 1.0


def test_a_run_trains_with_it_and_says_so(tmp_path: Path) -> None:
    tiny = {"layers": 1, "hidden": 16, "heads": 2, "kv_heads": 1, "vocabulary": 300, "max_context": 4096}
    options = {"documents": 400, "extra_tools": ["extra_tools_of_mine:double"]}
    small = {"run.updates": 1, "rollout.groups": 1, "rollout.group_size": 2, "rollout.max_new_tokens": 2}
    config = {"env": "agentgym/Search-v0", "env_options": options, "model.tiny": tiny, "eval.episodes": 1, **small}
    training = Training.start(TrainConfig.checked(config), tmp_path / "run")
    assert "Twice a number." in training.probe.instructions
    training.run()
    assert "extra_tools_of_mine:double" in (tmp_path / "run" / "run.yaml").read_text()
