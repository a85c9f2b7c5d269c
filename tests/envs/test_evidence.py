"""What an environment says about the documents that support the answer: found, and cited."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agentgym.envs.search_code import SearchCodeEnv
from agentgym.envs.tool_env import Question, ToolEnv
from agentgym.errors import UsageError
from agentgym.records import Episode, StopReason, Task, Turn
from agentgym.tools.search import fetch_tool, search_tool
from agentgym.tools.search.passage import Passage
from agentgym.tools.tool import tool
from agentgym.trainers.advantage import TurnTable
from agentgym.trainers.rewards.rubrics import rubrics
from agentgym.trainers.run.config import TrainConfig
from agentgym.trainers.run.trainer import Training


@tool
def echo(text: str) -> str:
    """Say it again.

    Args:
        text: what to say.
    """
    return text


class Shelf:
    """Finds the documents that the query names, whatever they say."""

    texts: ClassVar = {"a": "about a", "b": "about b\n[z] about z", "z": "about z"}

    def search(self, query: str, k: int = 3) -> list[Passage]:
        return [self.fetch(name) for name in query.split()]

    def fetch(self, document_id: str) -> Passage:
        return Passage(document_id, "", self.texts[document_id])


def reader(evidence: Sequence[str] = ("a", "b"), tools: Any = None, **options: Any) -> ToolEnv:
    tools = [search_tool(Shelf()), fetch_tool(Shelf()), echo] if tools is None else tools
    tasks = [Question(f"question {n}", answers=["x"], evidence=evidence) for n in range(40)]
    env = ToolEnv(tools, tasks, lambda answer, question: answer in question.answers, **{"syntax": "tags"} | options)
    env.reset(seed=0)
    return env


def test_evidence_counts_when_it_is_shown_and_cited_when_it_was_read() -> None:
    env = reader()
    actions = (
        "<search>a z</search>",
        "see [a] [b] <search>none</search>",
        "<echo>[b] b</echo>",
        "[a] [b] <fetch>b</fetch>",
    )
    infos = [env.step(action)[4] for action in actions]
    assert [info["columns"]["evidence_recall"] for info in infos] == [0.5, 0.5, 0.5, 1.0]
    assert [info["columns"]["evidence_cited"] for info in infos] == [0.0, 0.5, 0.0, 0.5]
    assert not any("metrics" in info for info in infos)
    assert env.documents_shown(["z", "b"]) == ["z", "b"]
    twin = env.fork()
    *_, info = env.step("as [a] and [b] say <answer>x</answer>")
    assert (info["columns"], info["metrics"]) == (
        {"evidence_recall": 1.0, "evidence_cited": 1.0}, {"evidence_recall": 1.0})  # fmt: skip
    assert twin.step("<answer>x</answer>")[4]["columns"]["evidence_cited"] == 0.0


def test_a_call_of_no_tool_shows_nothing() -> None:
    env = reader(syntax="hermes")
    *_, info = env.step('<tool_call>\n{"name": "nobody", "arguments": {}}\n</tool_call>')
    assert (info["tool_calls"][0].status, info["columns"]["evidence_recall"]) == ("malformed", 0.0)


def test_a_document_inside_another_is_not_shown() -> None:
    env = reader(("z", "z"))
    assert env.step("<search>b</search>")[4]["columns"]["evidence_recall"] == 0.0
    assert env.step("<search>z</search>")[4]["columns"]["evidence_recall"] == 1.0


def test_an_episode_that_is_cut_off_says_what_it_found() -> None:
    *_, truncated, info = reader(max_turns=1).step("<search>b</search>")
    assert (truncated, info["columns"]["evidence_recall"], info["metrics"]) == (True, 0.5, {"evidence_recall": 0.5})


def test_without_named_evidence_or_a_tool_that_shows_documents_there_are_no_such_columns() -> None:
    for env, action in ((reader(()), "<search>a</search>"), (reader(tools=[echo]), "<echo>[a] a</echo>")):
        assert "columns" not in env.step(action)[4]
        assert "metrics" not in env.step("<answer>x</answer>")[4]
    assert reader(()).evidence_recall == 1.0


def test_what_python_prints_was_not_searched_for() -> None:
    env = SearchCodeEnv(kinds="power")
    _, info = env.reset(seed=0)
    first = info["evidence"][0]
    *_, info = env.step(f"<python>print('[{first}] I say')</python>")
    assert (info["tool_calls"][0].error, info["columns"]["evidence_recall"]) == (None, 0.0)
    env.close()


SMALL = {
    "model.tiny": {"layers": 1, "hidden": 16, "heads": 2, "kv_heads": 1, "vocabulary": 300, "max_context": 4096},
    "run.updates": 1,
    "rollout.groups": 1,
    "rollout.group_size": 2,
    "rollout.max_new_tokens": 2,
    "eval.episodes": 1,
}


def test_an_algorithm_that_reads_evidence_is_refused_where_the_environment_has_no_such_column(tmp_path: Path) -> None:
    config = SMALL | {"env": "agentgym/Household-v0", "algorithm": "c_grpo"}
    said = (
        r"reads 'evidence_recall', which is neither computed nor in info\['columns'\] of this environment's .*\(none\)"
    )
    with pytest.raises(UsageError, match=said):
        Training.start(TrainConfig.checked(config), tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    config |= {"env": "agentgym/Search-v0", "env_options": {"documents": 400}, "parameters": {"support": "cited"}}
    training = Training.start(TrainConfig.checked(config), tmp_path / "run")
    training.run()
    assert any("env_evidence_recall" in line for line in training.folder.metrics.read())


def test_an_update_in_which_no_task_names_evidence_keeps_its_rewards() -> None:
    turn = Turn("", "x", 1.0)
    episodes = [Episode(f"e{n}", "test", Task(0), (turn,), StopReason.TERMINATED, group="g") for n in range(2)]
    turns = TurnTable.from_episodes(episodes, columns={"evidence_recall"})
    assert rubrics(0.3)(turns, turns.reward).tolist() == [1.0, 1.0]
    with pytest.raises(UsageError, match="no column 'evidence_recall'"):
        rubrics(0.3)(TurnTable.from_episodes(episodes), turns.reward)
