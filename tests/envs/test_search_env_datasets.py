"""Question files with the field names of public collections."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentgym.envs.search import SearchEnv
from agentgym.envs.search.datasets import context_passages, read_questions
from agentgym.errors import UsageError

HOTPOT = {
    "_id": "h1",
    "question": "Which came first?",
    "answer": "Alpha",
    "supporting_facts": [["Alpha", 0], ["Beta", 1]],
    "context": [["Alpha", ["Alpha began. ", "In 1900."]], ["Beta", ["Beta began in 1950."]], ["Gamma", ["No matter."]]],
}
HOTPOT_HUB = {
    **HOTPOT,
    "id": "h1",
    "supporting_facts": {"title": ["Alpha", "Beta"], "sent_id": [0, 1]},
    "context": {
        "title": ["Alpha", "Beta", "Gamma"],
        "sentences": [["Alpha began. ", "In 1900."], ["Beta began in 1950."], ["No matter."]],
    },
}
MUSIQUE = {
    "id": "2hop__1_2",
    "question": "Who wed the maker?",
    "answer": "Ann",
    "answer_aliases": ["Anna", "Ann"],
    "paragraphs": [
        {"idx": 0, "title": "Maker", "paragraph_text": "Bob made it.", "is_supporting": True},
        {"idx": 1, "title": "Maker", "paragraph_text": "Another maker.", "is_supporting": False},
        {"idx": 2, "title": "Bob", "paragraph_text": "Bob wed Ann.", "is_supporting": True},
    ],
}


def write(folder: Path, *records: dict[str, Any], name: str = "q.jsonl") -> str:
    path = folder / name
    path.write_text("\n".join(json.dumps({"split": "train", **record}) for record in records))
    return str(path)


@pytest.mark.parametrize("record", [HOTPOT, HOTPOT_HUB])
def test_hotpotqa(tmp_path: Path, record: dict[str, Any]) -> None:
    source = write(tmp_path, record)
    [question] = read_questions(source, "train")
    passages = {passage.id: passage for passage in context_passages(source)}
    assert question.id == "h1"
    assert question.answers == ("Alpha",)
    assert [passages[name].title for name in question.evidence] == ["Alpha", "Beta"]
    assert passages[question.evidence[0]].text == "Alpha began. In 1900."
    assert len(passages) == 3


def test_musique(tmp_path: Path) -> None:
    source = write(tmp_path, MUSIQUE)
    [question] = read_questions(source, "train")
    passages = {passage.id: passage for passage in context_passages(source)}
    assert question.answers == ("Ann", "Anna")
    assert [passages[name].text for name in question.evidence] == ["Bob made it.", "Bob wed Ann."]
    assert len(passages) == 3  # two paragraphs share a title and stay two documents


@pytest.mark.parametrize(
    ("record", "answers"),
    [
        ({"answer": ["1999", "in 1999"]}, ("1999", "in 1999")),  # NQ-open
        ({"golden_answers": ["x", "y"], "id": "train_0"}, ("x", "y")),  # Search-R1
        ({"answer": {"value": "Bond", "aliases": ["007", "Bond"]}, "question_id": "t"}, ("Bond", "007")),  # TriviaQA
        ({"possible_answers": '["poet", "writer"]'}, ("poet", "writer")),  # PopQA
        ({"answer": 7, "aliases": ["seven"]}, ("7",)),
        ({"answer": "[Bracketed"}, ("[Bracketed",)),
        ({"answer": " yes "}, ("yes",)),
    ],
)
def test_answers(tmp_path: Path, record: dict[str, Any], answers: tuple[str, ...]) -> None:
    [question] = read_questions(write(tmp_path, {"question": " Q? ", **record}), "train")
    assert question.text == "Q?"
    assert question.answers == answers


def test_splits_without_names_share_no_answer(tmp_path: Path) -> None:
    lines = [json.dumps({"question": f"q{i}?", "answer": f"The Answer {i // 3}"}) for i in range(300)]
    (tmp_path / "q.jsonl").write_text("\n".join(lines))
    train, test = (read_questions(str(tmp_path / "q.jsonl"), split) for split in ("train", "test"))
    assert len(train) + len(test) == 300
    assert 30 <= len(test) <= 90
    assert not {q.answers for q in train} & {q.answers for q in test}
    assert train[0].id.startswith("q.jsonl:")


def test_split_names_of_public_collections(tmp_path: Path) -> None:
    records = [
        {"question": f"{name}?", "answer": "a", "split": name} for name in ("train", "dev", "validation", "unseen")
    ]
    source = write(tmp_path, *records)
    assert [q.text for q in read_questions(source, "test")] == ["dev?", "validation?"]
    assert [q.text for q in read_questions(source, "unseen")] == ["unseen?"]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{"answer": "a"}], r"q.jsonl:1 has no 'question'; its fields are \['answer', 'split'\]"),
        ([{"question": "q?"}], "q.jsonl:1 has no 'answer', 'answers', 'golden_answers' or 'possible_answers'"),
        ([{"question": "q?", "answer": "a", "split": "trial"}], r"split 'trial' of a question is none of \['dev'"),
        ([{"question": "q?", "answer": "a", "id": 1}] * 2, "1 question ids stand twice"),
    ],
)
def test_wrong_records_are_named(tmp_path: Path, records: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_questions(write(tmp_path, *records), "train")


def test_the_environment_over_passages_that_come_along(tmp_path: Path) -> None:
    env = SearchEnv(questions=write(tmp_path, MUSIQUE), reward="f1")
    observation, info = env.reset(seed=0)
    assert observation == "Who wed the maker?"
    env.step("<search>who made it</search>")
    shown = env.step("<search>Bob wed</search>")[0]
    assert "Bob wed Ann." in shown
    _, reward, _, _, info = env.step("<answer>Anna</answer>")
    assert reward == 1.0
    assert info["metrics"]["evidence_recall"] == 1.0


def test_the_expert_over_own_questions(tmp_path: Path) -> None:
    env = SearchEnv(questions=write(tmp_path, MUSIQUE), k=1)
    env.reset(seed=0)
    actions = []
    while (action := env.expert()) is not None:
        actions.append(action)
        if env.step(action)[2]:
            break
    assert actions[0] == "<search>Who wed the maker?</search>"
    lost = SearchEnv(questions=write(tmp_path, {**MUSIQUE, "answer": "Zed", "answer_aliases": []}, name="z.jsonl"))
    lost.reset(seed=0)
    for _ in range(3):
        if (action := lost.expert()) is None:
            break
        lost.step(action)
    assert lost.expert() is None  # nothing that it saw says Zed


def test_hugging_face_datasets(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="needs the package 'datasets'")
    folder = tmp_path / "my_dataset"
    folder.mkdir()
    (folder / "train.jsonl").write_text(json.dumps({"question": "a?", "golden_answers": ["1"]}) + "\n")
    (folder / "validation.jsonl").write_text(json.dumps({"question": "b?", "golden_answers": ["2"]}) + "\n")
    assert [q.text for q in read_questions(f"hf:{folder}", "train")] == ["a?"]
    assert [q.text for q in read_questions(f"hf:{folder}", "test")] == ["b?"]
    assert [q.text for q in read_questions(f"hf:{folder}:validation", "test")] == ["b?"]
    with pytest.raises(UsageError, match=r"has no split 'dev'; it has \['train', 'validation'\]"):
        read_questions(f"hf:{folder}:dev", "test")
    with pytest.raises(UsageError, match=r"cannot load the dataset .* is a hub reachable, and the name right\?"):
        read_questions(f"hf:{folder}/nowhere", "train")
