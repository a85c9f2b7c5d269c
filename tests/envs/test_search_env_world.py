"""The invented world: what holds of every question."""

from __future__ import annotations

import re

import numpy as np
import pytest

from agentgym.env import SPLITS
from agentgym.envs.search.questions import KINDS, NUMBER_WORDS, Catalogue
from agentgym.envs.search.scoring import tokens
from agentgym.envs.search.world import GENERATIONS, TYPES, World, shared_world
from agentgym.envs.tool_env import Question
from agentgym.errors import UnknownName, UsageError

WORLD = World(1000, seed=0)
DOCUMENTS = {passage.id: passage.text for passage in WORLD}
FORMS = [(split, kind, hops) for split in SPLITS for kind in KINDS for hops in (1, 2, 3, 4)]


def sample(split: str, kind: str, hops: int, world: World = WORLD, count: int = 150) -> list[Question]:
    catalogue = Catalogue(world, split, hops=[hops], kinds=[kind])
    return [catalogue[task] for task in range(min(count, len(catalogue)))]


def stated(subject: str, relation: str) -> str:
    """What the document of ``subject`` says about the relation."""
    found = re.search(rf"\b[Tt]he {relation} (?:is|are) (.*?)(?:, the | and the |\.$)", DOCUMENTS[subject])
    assert found, (subject, relation, DOCUMENTS[subject])
    return found[1]


def test_as_many_documents_as_asked_for_with_names_of_their_own() -> None:
    for documents in (400, 401, 1234):
        world = World(documents, seed=3)
        names = [name for entity in range(documents) for name in world.names(entity)]
        assert len(world) == len(list(world)) == documents
        assert len(set(names)) == len(names) > documents
        assert all(len(name.split()) == 2 for name in names)


def test_documents_are_short() -> None:
    lengths = [len(passage.text.split()) for passage in WORLD]
    assert min(lengths) >= 15
    assert max(lengths) <= 40


@pytest.mark.parametrize("facts", [1, 2, 3])
def test_documents_state_as_many_facts_as_asked_for(facts: int) -> None:
    world = World(400, seed=0, facts=facts)
    texts = {passage.id: passage.text for passage in world}
    assert all(len(re.findall(r"\b[Tt]he [a-z ]+ (?:is|are) ", text)) == facts for text in texts.values())
    for question in sample("train", "chain", 2, world):
        for subject, relation, value in question.data["facts"]:
            assert re.search(rf"\b[Tt]he {relation} is {value}\b", texts[subject])


def test_fewer_facts_are_the_first_ones_of_the_same_world() -> None:
    for short, whole in zip(World(400, seed=0, facts=2), World(400, seed=0), strict=True):
        beginning = short.text.removesuffix(".").rpartition(" and ")
        assert whole.text.startswith(f"{beginning[0]}, {beginning[2]}")
        assert short.id == whole.id


def test_fewer_facts_leave_chains_only() -> None:
    world = World(400, facts=3)
    assert len(Catalogue(world, "train", hops=[2], kinds=["chain"])) > 0
    for kind in ("comparison", "count"):
        with pytest.raises(UsageError, match="comparisons and counts need documents with all facts, got facts=3"):
            Catalogue(world, "train", hops=[2], kinds=[kind])
    for facts in (0, 5):
        with pytest.raises(UsageError, match=f"facts must be 1 to 4, got {facts}"):
            World(400, facts=facts)


def test_the_seed_decides_everything() -> None:
    assert list(World(500, seed=1)) == list(World(500, seed=1))
    assert {p.id for p in World(500, seed=1)} != {p.id for p in World(500, seed=2)}
    assert WORLD[-1:] == [WORLD[999]]
    with pytest.raises(IndexError):
        WORLD[1000]


def test_size_has_limits() -> None:
    with pytest.raises(UsageError, match="documents must be 400 to 1000000, got 399"):
        World(399)
    with pytest.raises(UsageError, match="documents must be 400 to 1000000, got 1000001"):
        World(1_000_001)


def test_no_link_leaves_its_realm_or_its_next_generation() -> None:
    home = {entity: cell[:2] for cell, entities in WORLD.cells.items() for entity in entities}
    for entity in range(len(WORLD)):
        realm, generation = home[entity]
        assert WORLD.home(entity) == (realm, generation)
        kind = TYPES[WORLD.type[entity]]
        linked = [int(link) for link in WORLD.links[entity, : len(kind.links)]]
        assert [TYPES[WORLD.type[link]].name for link in linked] == [target for _, target in kind.links]
        for other in linked + (WORLD.members(entity) if kind.members else []):
            assert home[other] == (realm, (generation + 1) % GENERATIONS)


@pytest.mark.parametrize(("split", "kind", "hops"), FORMS)
def test_every_fact_stands_in_its_document(split: str, kind: str, hops: int) -> None:
    for question in sample(split, kind, hops):
        for subject, relation, value in question.data["facts"]:
            said = stated(subject, relation)
            if relation in ("members", "guests"):
                assert NUMBER_WORDS[len(re.split(", | and ", said))] == value
            else:
                assert said == value
        assert list(question.evidence) == list(dict.fromkeys(fact[0] for fact in question.data["facts"]))


@pytest.mark.parametrize(("split", "kind", "hops"), FORMS)
def test_facts_lead_from_the_question_to_the_answer(split: str, kind: str, hops: int) -> None:
    more = 1 if split == "unseen" else 0
    for question in sample(split, kind, hops):
        facts = question.data["facts"]
        known = question.text
        for subject, _, value in facts:
            assert subject in known
            known += f" {value}"
        if kind == "comparison":
            left, right = facts[: len(facts) // 2], facts[len(facts) // 2 :]
            assert len(left) == len(right) == hops + more
            assert left[-1][1] == right[-1][1]
            first = min((left[-1], right[-1]), key=lambda fact: int(fact[2]))
            assert left[-1][2] != right[-1][2]
            assert question.answers[0] == (first[2] if hops + more == 1 else first[0])
        else:
            assert len(facts) == len(question.evidence) == hops + more
            assert question.answers[0] == facts[-1][2]


@pytest.mark.parametrize(("split", "kind", "hops"), FORMS)
def test_the_question_does_not_name_the_answer(split: str, kind: str, hops: int) -> None:
    for question in sample(split, kind, hops):
        asked = " " + " ".join(tokens(question.text)) + " "
        assert question.answers
        for answer in question.answers:
            assert f" {' '.join(tokens(answer))} " not in asked


def test_other_names_of_an_answer_are_accepted_and_documented() -> None:
    several = [q for q in sample("train", "chain", 2, count=1000) if len(q.answers) > 1]
    assert len(several) > 50
    for question in several:
        assert f"{question.answers[0]}, also called {question.answers[1]}, is" in DOCUMENTS[question.answers[0]]
    assert sample("train", "count", 1)[0].answers in [(NUMBER_WORDS[n], str(n)) for n in range(1, 5)]


def test_splits_share_no_entity() -> None:
    met: dict[str, set[str]] = {split: set() for split in SPLITS}
    for split, kind, hops in FORMS:
        for question in sample(split, kind, hops):
            met[split].update(question.evidence)
            met[split].update(value for _, _, value in question.data["facts"] if value in DOCUMENTS)
    assert all(met.values())
    assert not met["train"] & met["test"]
    assert not met["train"] & met["unseen"]
    assert not met["test"] & met["unseen"]


@pytest.mark.parametrize("kind", KINDS)
def test_no_task_comes_twice(kind: str) -> None:
    catalogue = Catalogue(World(400), "train", hops=[2], kinds=[kind])
    texts = [catalogue[task].text for task in range(len(catalogue))]
    assert len(set(texts)) == len(texts)


def test_forms_take_turns() -> None:
    catalogue = Catalogue(WORLD, "test", hops=[1, 2], kinds=["chain", "count"])
    assert [catalogue[task].id for task in range(5)] == [
        "test-chain-1-0",
        "test-count-1-0",
        "test-chain-2-0",
        "test-count-2-0",
        "test-chain-1-1",
    ]
    assert len(catalogue) % 4 == 0
    with pytest.raises(UsageError, match=f"task must be 0 to {len(catalogue) - 1}, got {len(catalogue)}"):
        catalogue[len(catalogue)]


def test_wrong_forms() -> None:
    with pytest.raises(UnknownName, match="unknown kind of question 'chian'; did you mean 'chain'"):
        Catalogue(WORLD, "train", hops=[2], kinds=["chian"])
    for hops in ([0], [5], [], [2, 9]):
        with pytest.raises(UsageError, match="hops must be 1 to 4 and there must be a kind"):
            Catalogue(WORLD, "train", hops=hops, kinds=["chain"])


def test_large_worlds_do_not_keep_their_texts() -> None:
    world, index = shared_world(20_001, 0)
    assert shared_world(20_001, 0) == (world, index)
    rng = np.random.default_rng(0)
    for entity in map(int, rng.integers(0, len(world), 50)):
        assert world.name(entity) in [passage.id for passage in index.search(world.name(entity), 2)]
