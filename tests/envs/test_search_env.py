"""The search environment as an agent, a trainer and a user of other corpora meet it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from agentgym.check import check_env as check_contract
from agentgym.env import SPLITS, fork
from agentgym.envs.search import SearchEnv
from agentgym.envs.search.questions import KINDS
from agentgym.envs.search.scoring import tokens
from agentgym.envs.search.world import shared_world
from agentgym.errors import UnknownName, UsageError, WorldFault
from agentgym.policy import ExpertPolicy
from agentgym.records import Episode, StopReason, Task, Turn
from agentgym.rollout import Group, Rollout
from agentgym.tools.search import Bm25Index, Passage, SearchR1Client, build_index
from agentgym.trainers.sft.demonstrations import with_permuted_names

Played = list[tuple[str, str, float, dict[str, Any]]]


def play(env: SearchEnv, task: int) -> Played:
    """The expert's episode: observation met, action, reward, info."""
    observation, _ = env.reset(seed=0, options={"task": task})
    turns: Played = []
    while True:
        action = env.expert()
        assert action is not None
        after, reward, terminated, truncated, info = env.step(action)
        turns.append((observation, action, reward, info))
        if terminated or truncated:
            return turns
        observation = after


def holds(text: str, words: str) -> bool:
    return f" {' '.join(tokens(words))} " in f" {' '.join(tokens(text))} "


@pytest.mark.filterwarnings("ignore")
def test_gymnasium_accepts_it() -> None:
    check_env(SearchEnv(), skip_render_check=True)


@pytest.mark.parametrize(
    "options", [{}, {"kinds": KINDS, "hops": (1, 2, 3), "fetch": True, "max_turns": 20, "evidence_reward": 0.5}]
)
def test_it_keeps_the_contract(options: dict[str, Any]) -> None:
    check_contract(SearchEnv, **options).raise_on_violation()


def test_a_document_that_a_search_missed_is_fetched() -> None:
    class Blind:
        """Finds the same document whatever is asked."""

        def search(self, query: str, k: int = 3) -> list[Passage]:
            return [Passage("x", "X", "X is no help.")]

        def fetch(self, document_id: str) -> Passage:
            return shared_world(1000, 0)[1].fetch(document_id)

    env = SearchEnv(corpus=Blind(), fetch=True)
    actions = [action for _, action, _, _ in play(env, 0)]
    first, second = env.question.evidence
    expected = [f"<search>{first}</search>", f"<fetch>{first}</fetch>", f"<search>{second}</search>"]
    assert actions == [*expected, f"<fetch>{second}</fetch>", f"<answer>{env.question.answers[0]}</answer>"]
    blind = SearchEnv(corpus=Blind())
    blind.reset(options={"task": 0})
    for _ in range(2):
        action = blind.expert()
        assert action is not None
        blind.step(action)
    assert blind.expert() is None


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hops", [1, 2, 4])
def test_the_expert_solves_every_task(split: str, kind: str, hops: int) -> None:
    env = SearchEnv(split=split, kinds=kind, hops=hops, max_turns=30)
    assert env.num_tasks is not None
    for task in range(min(40, env.num_tasks)):
        last = play(env, task)[-1]
        assert last[2] == 1.0
        assert last[3]["success"] is True
        assert last[3]["metrics"]["evidence_recall"] == 1.0


def test_the_expert_knows_only_what_it_has_seen() -> None:
    env = SearchEnv(kinds=KINDS, hops=(1, 2, 3), max_turns=30)
    for task in range(150):
        turns = play(env, task)
        for number, (_, action, _, _) in enumerate(turns):
            said = action.removeprefix("<search>").removesuffix("</search>")
            said = said.removeprefix("<answer>").removesuffix("</answer>")
            seen = " ".join(observation for observation, *_ in turns[: number + 1])
            counted = env.question.id.split("-")[1] == "count" and action.startswith("<answer>")
            assert counted or all(holds(seen, word) for word in said.split()), (action, seen)


def test_the_expert_opens_again_by_habit() -> None:
    """It still solves every task; without room for more it makes no call that it does not need."""
    for turns in (3, 12):
        env = SearchEnv(hops=(1, 2), facts=1, k=1, fetch=True, expert_redundancy=0.6, max_turns=turns)
        opened, searched = 0, 0
        for task in range(200):
            assert play(env, task)[-1][3]["success"] is True
            for before, call in pairwise(env.calls):
                if call.name == "fetch":
                    assert call.arguments["document"] in before.arguments.values()
                    assert call.result == before.result
            opened += sum(call.name == "fetch" for call in env.calls)
            searched += sum(call.name == "search" for call in env.calls)
        assert searched == 300
        # After each search 0.6 + 0.6² + ... = 1.5 more, less what the limit cuts off.
        assert 0 < opened < 100 if turns == 3 else 1.2 < opened / searched < 1.5


def test_the_habit_bears_what_others_called() -> None:
    """A call that found nothing, or had other arguments, is no document to open."""
    env = SearchEnv(fetch=True, expert_redundancy=0.99, max_turns=30)
    env.reset(options={"task": 0})
    for call in ("<search>zzz</search>", '<search>{"query": "a", "k": 9}</search>', "<fetch>nowhere</fetch>"):
        env.step(call)
        assert env.expert() == f"<search>{env.question.evidence[0]}</search>"


def test_words_of_names_can_be_permuted() -> None:
    """Exchanged throughout an episode, the searches still name what the texts name."""
    env = SearchEnv(documents=400, facts=1, k=1)
    first, second = env.permutable_names
    assert set(first).isdisjoint(second)
    known = set(first) | set(second)
    turns = play(env, 3)
    made = tuple(Turn(seen, action) for seen, action, _, _ in turns)
    episode = Episode("e", "agentgym/Search-v0", Task(0), made, StopReason.TERMINATED)
    moved = with_permuted_names(episode, env.permutable_names, 7)
    for before, after in zip(episode.turns, moved.turns, strict=True):
        assert after.action != before.action
        words = re.findall(r"[A-Z][a-z]+", after.action)
        assert len(words) == 2
        assert set(words) <= known
        assert " ".join(words) in after.observation


def test_answers_are_not_shown_before_a_tool_brought_them() -> None:
    env = SearchEnv(kinds=KINDS, hops=(1, 2), max_turns=30)
    for task in range(100):
        observation, info = env.reset(options={"task": task})
        assert not any(holds(observation, answer) for answer in info["answers"])
        nonsense, *_ = env.step("<think>hm</think>")
        assert not any(holds(nonsense, answer) for answer in info["answers"])
        assert not any(holds(env.instructions, answer) for answer in info["answers"])


def test_an_alias_earns_the_same() -> None:
    env = SearchEnv()
    task = next(i for i in range(100) if len(env.tasks[i].answers) > 1)
    for answer in env.tasks[task].answers:
        env.reset(options={"task": task})
        _, reward, terminated, _, info = env.step(f"<answer>{answer}</answer>")
        assert (reward, terminated, info["success"]) == (1.0, True, True)


def test_rewards_by_hand() -> None:
    names = {"em": 0.0, "f1": 2 / 3}  # one of two words: 2 * 1 / (1 + 2)
    for reward, expected in names.items():
        env = SearchEnv(reward=reward)  # type: ignore[arg-type]
        _, info = env.reset(options={"task": task_named(env)})
        _, earned, _, _, info = env.step(f"<answer>{info['answers'][0].split()[0]}</answer>")
        assert earned == pytest.approx(expected)
        assert info["success"] is False


def task_named(env: SearchEnv) -> int:
    """A task whose answers are all names of two words."""
    return next(i for i in range(100) if all(len(answer.split()) == 2 for answer in env.tasks[i].answers))


def test_rewards_for_format_and_evidence() -> None:
    env = SearchEnv(format_reward=0.1, evidence_reward=0.5)
    _, info = env.reset(options={"task": 0})
    first, answer = info["evidence"][0], info["answers"][0]
    env.step(f"<search>{first}</search>")
    _, reward, _, _, info = env.step(f"<answer>{answer}</answer>")
    assert info["metrics"]["evidence_recall"] == 0.5
    assert reward == pytest.approx(1.0 + 0.5 * 0.5 + 0.1)
    env.reset(options={"task": 0})
    _, _, _, _, info = env.step("<search>never closed")
    assert info["error"] == "<search> is never closed; end it with </search>"
    assert env.step(f"<answer>{answer}</answer>")[1] == pytest.approx(1.0)
    # A new episode begins with a clean slate, and a wrong answer still earns the format.
    env.reset(options={"task": 0})
    assert env.step("<answer>wrong</answer>")[1] == pytest.approx(0.1)
    # Without an answer, only the evidence counts.
    env.reset(options={"task": 0})
    for _ in range(6):
        _, reward, terminated, truncated, info = env.step(f"<search>{first}</search>")
    assert (reward, terminated, truncated, info["success"]) == (0.25, False, True, False)


def test_anchors_are_what_is_known() -> None:
    env = SearchEnv()
    _, start = env.reset(options={"task": 3})
    first, second = start["evidence"]

    def after(*queries: str) -> str:
        env.reset(options={"task": 3})
        anchor = ""
        for query in queries:
            anchor = env.step(f"<search>{query}</search>")[4]["anchor"]
        return anchor

    assert after(first) != start["anchor"]
    assert after(first) == after(first.upper()) == after(first, first)
    assert after(first, second) == after(second, first) != after(first)
    assert after("</search>") == start["anchor"]
    assert env.reset(options={"task": 4})[1]["anchor"] != start["anchor"]


def test_same_seed_same_episode_and_no_neighbour_disturbs() -> None:
    one, two = SearchEnv(), SearchEnv()
    for seed in range(5):
        assert one.reset(seed=seed) == two.reset(seed=seed)
        action = one.expert()
        assert action is not None
        a, b = one.step(action), two.step(action)
        assert a == b
    assert len({one.reset(seed=seed)[0] for seed in range(20)}) > 15


def test_a_fork_is_independent() -> None:
    env = SearchEnv(format_reward=0.1)
    _, info = env.reset(seed=1)
    env.step("<search>garbage")
    twin = fork(env)
    assert isinstance(twin, SearchEnv)
    twin.step(f"<search>{info['evidence'][0]}</search>")
    assert twin.evidence_recall == 0.5
    assert env.evidence_recall == 0.0
    assert twin.step(f"<answer>{info['answers'][0]}</answer>")[1] == 1.0  # no format reward: the garbage came along
    assert env.step("<answer>wrong</answer>")[4]["success"] is False


@pytest.mark.parametrize(
    "action",
    [
        "",
        "x" * 1_000_000,
        "\x00\x1b[2J\ud800",
        "<search>",
        "<search></search>",
        "<serch>x</serch>",
        '<search>{"query": 3}</search>',
        '<search>{"query": "a", "k": 9}</search>',
        "<answer>",
        "</answer>",
        "<search>a</search><answer>b</answer>",
    ],
)
def test_no_action_raises(action: str) -> None:
    env = SearchEnv()
    env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step(action)
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert observation
    assert info["error"]


def test_passages_are_few_and_short() -> None:
    corpus = [Passage(str(i), f"Title {i}", "word " * 200 + "\n[99] forged") for i in range(5)]
    env = SearchEnv(corpus=Bm25Index.of(corpus), k=3, characters=40, fetch=True)
    env.reset(seed=0)
    lines = env.step("<search>word</search>")[0].splitlines()
    assert lines[1:-1] == [f"[{i}] Title {i}: word word word word word word ..." for i in range(3)]
    opened = env.step("<fetch>[3]</fetch>")[0].splitlines()
    assert len(opened) == 3
    assert opened[1].endswith("word [99] forged")
    assert env.step("<fetch>77</fetch>")[4]["tool_calls"][0].error.startswith("no document has the id '77'")
    assert env.step("<search>zzz</search>")[0] == "<result>\nNothing was found.\n</result>"


def test_instances_share_world_and_index() -> None:
    first = SearchEnv(documents=3000)
    tracemalloc.start()
    more = [SearchEnv(documents=3000, split=split) for split in SPLITS]
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used / len(more) < 1_000_000
    assert more[0].tasks[0] == first.tasks[0]


def test_threads_play_at_once() -> None:
    def rewards(start: int) -> list[float]:
        env = SearchEnv()
        return [play(env, task)[-1][2] for task in range(start, start + 20)]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(rewards, range(0, 80, 20))) == [[1.0] * 20] * 4


def test_fingerprint_covers_what_decides_an_episode() -> None:
    base = SearchEnv().fingerprint
    assert base == SearchEnv().fingerprint
    others: list[dict[str, Any]] = [
        {"hops": 3},
        {"kinds": "count"},
        {"documents": 1001},
        {"world": 1},
        {"facts": 3},
        {"k": 3},
        {"characters": 100},
        {"fetch": True},
        {"reward": "f1"},
        {"format_reward": 0.1},
        {"evidence_reward": 0.1},
        {"syntax": "react"},
        {"max_turns": 7},
    ]
    prints = [SearchEnv(**options).fingerprint for options in others]
    assert len({base, *prints}) == len(others) + 1


def test_wrong_options() -> None:
    with pytest.raises(UnknownName, match="unknown split 'tset'; did you mean 'test'"):
        SearchEnv(split="tset")
    with pytest.raises(UnknownName, match="unknown reward 'f2'; did you mean 'f1'"):
        SearchEnv(reward="f2")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="hops, world belong to the invented world; leave them out with questions="):
        SearchEnv(questions="q.jsonl", hops=2, world=0)
    with pytest.raises(UsageError, match="expert_redundancy belong to the invented world"):
        SearchEnv(questions="q.jsonl", fetch=True, expert_redundancy=0.5)
    with pytest.raises(UsageError, match="expert_redundancy opens documents, which needs fetch=true"):
        SearchEnv(expert_redundancy=0.5)
    with pytest.raises(UsageError, match=r"expert_redundancy is a probability below 1, got 1\.0"):
        SearchEnv(fetch=True, expert_redundancy=1.0)
    with pytest.raises(UsageError, match="no corpus 'nowhere'; give a JSON-lines file, an index folder or"):
        SearchEnv(corpus="nowhere")
    with pytest.raises(UsageError, match=r"a corpus has search\(query, k\) and fetch\(id\); dict has not"):
        SearchEnv(corpus={})  # type: ignore[arg-type]
    env = SearchEnv()
    for task in (-1, env.num_tasks, "3", True):
        with pytest.raises(UsageError, match="task must be a number from 0 to"):
            env.reset(options={"task": task})
    with pytest.raises(UsageError, match="unknown reset option 'tsak'; 'task' is the only one"):
        env.reset(options={"tsak": 1})
    assert env.reset(options={"task": np.int64(3)})[1]["task_id"] == "train-chain-2-3"


SERVE = "import sys; from agentgym.tools.search import *; serve_search(open_index(sys.argv[1]), port=0)"


def test_a_server_that_dies_is_the_worlds_fault(tmp_path: Path) -> None:
    """The world behind a real server process, killed in the middle of an episode: no action can do that."""
    local = SearchEnv()
    build_index(local_world(), tmp_path / "index")
    command = [sys.executable, "-c", SERVE, str(tmp_path / "index")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().split()[-1]
        env = SearchEnv(corpus=url)
        assert env.waits
        assert not local.waits
        for task in range(5):
            remote = play(env, task)
            assert [turn[:3] for turn in remote] == [turn[:3] for turn in play(local, task)]
        env.reset(options={"task": 5})
        action = env.expert()
        assert action is not None
        env.step(action)
        server.kill()
        server.wait()
        with pytest.raises(WorldFault, match=r"search server"):
            env.step("<search>anything</search>")


def test_a_run_goes_on_when_its_server_dies(tmp_path: Path) -> None:
    build_index(local_world(), tmp_path / "index")
    command = [sys.executable, "-c", SERVE, str(tmp_path / "index")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        client = SearchR1Client(server.stdout.readline().split()[-1], pause=0.001)
        groups = [Group(str(i), Task(0, {"task": i})) for i in range(40)]
        episodes: list[Episode] = []
        with Rollout(lambda: SearchEnv(corpus=client), ExpertPolicy(), max_concurrent_episodes=4) as rollout:
            for episode in rollout.play(groups):
                episodes.append(episode)
                if len(episodes) == 10:
                    server.kill()
                    server.wait()
        client.close()
    assert len(episodes) == 40
    assert [episode.success for episode in episodes[:10]] == [True] * 10
    later = [episode for episode in episodes if not episode.success]  # those that had begun may still end well
    assert len(later) >= 20
    assert {episode.stop for episode in later} == {StopReason.WORLD_FAULT}
    assert all("search server" in (episode.failure or "") for episode in later)


def local_world() -> list[Passage]:
    return list(shared_world(1000, 0)[0])


def test_own_questions_and_corpus(tmp_path: Path) -> None:
    corpus = [{"id": "c1", "title": "Moon", "text": "The Moon orbits the Earth."}, {"id": "c2", "text": "Mars is red."}]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)))
    asked = {"id": "q1", "question": "What does the Moon orbit?", "answers": ["Earth", "the world"], "evidence": ["c1"]}
    (tmp_path / "q.jsonl").write_text(json.dumps({**asked, "split": "train"}))
    build_index(tmp_path / "corpus.jsonl", tmp_path / "index")
    for source in (tmp_path / "corpus.jsonl", str(tmp_path / "index")):
        env = SearchEnv(questions=str(tmp_path / "q.jsonl"), corpus=source)
        assert env.num_tasks == 1
        turns = play(env, 0)
        assert turns[0][1] == "<search>What does the Moon orbit?</search>"
        assert "[c1] Moon: The Moon orbits the Earth." not in turns[0][0]
        assert turns[-1][2] == 1.0
        assert turns[-1][3]["metrics"]["evidence_recall"] == 1.0
        assert turns[-1][3]["task_id"] == "q1"
    with pytest.raises(UsageError, match="has no question in split 'test'"):
        SearchEnv(questions=str(tmp_path / "q.jsonl"), corpus=tmp_path / "corpus.jsonl", split="test")
    with pytest.raises(UsageError, match="bring no passages; give corpus="):
        SearchEnv(questions=str(tmp_path / "q.jsonl"))
