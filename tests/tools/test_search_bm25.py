"""The embedded index: ranking, hostile queries, files, threads."""

from __future__ import annotations

import gzip
import json
import math
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgym.errors import MissingExtra, StoreError, ToolError, UnknownName, UsageError
from agentgym.tools.search import (
    Bm25Index,
    DenseIndex,
    Passage,
    Retriever,
    build_index,
    open_index,
    search_app,
    sentence_encoder,
)
from agentgym.tools.search.corpus import read_corpus
from agentgym.tools.search.passage import contents, from_contents

ANIMALS = [
    Passage("a", "Fox", "The quick brown fox jumps over the lazy dog."),
    Passage("b", "Dog", "A dog sleeps all day and a dog barks all night."),
    Passage("c", "Cat", "The cat ignores everybody, the fox included, all day."),
    Passage("d", "Café", "Naïve Zoë drinks coffee."),
]


@pytest.fixture(scope="module")
def index() -> Bm25Index:
    return Bm25Index.of(ANIMALS, common=1.0)


def ids(passages: list[Passage]) -> list[str]:
    return [passage.id for passage in passages]


def bm25(query: list[str], corpus: list[list[str]], k1: float = 1.2, b: float = 0.75) -> list[float]:
    """Textbook BM25, slow."""
    mean = sum(map(len, corpus)) / len(corpus)
    scores = []
    for words in corpus:
        score = 0.0
        for term in query:
            holding = sum(term in other for other in corpus)
            idf = math.log(1 + (len(corpus) - holding + 0.5) / (holding + 0.5))
            count = words.count(term)
            score += idf * count * (k1 + 1) / (count + k1 * (1 - b + b * len(words) / mean))
        scores.append(score)
    return scores


def test_scores_are_bm25_of_title_and_text(index: Bm25Index) -> None:
    corpus = [re.findall(r"\w+", f"{p.title} {p.text}".lower()) for p in ANIMALS]
    expected = dict(zip("abcd", bm25(["fox", "day"], corpus), strict=True))
    found = {passage.id: passage.score for passage in index.search("fox day", k=4)}
    assert set(found) == {"a", "b", "c"}
    for name, score in found.items():
        assert score == pytest.approx(expected[name], rel=1e-5)


def test_best_first_and_at_most_k(index: Bm25Index) -> None:
    assert ids(index.search("what does the dog do at night?", k=2))[0] == "b"
    assert len(index.search("the", k=1)) == 1
    assert index.search("zebra") == []
    with pytest.raises(UsageError, match="k must be at least 1, got 0"):
        index.search("fox", k=0)


def test_case_and_accents_do_not_matter(index: Bm25Index) -> None:
    assert ids(index.search("CAFE zoe")) == ["d"]
    assert ids(index.search("NAÏVE")) == ["d"]


def test_equal_scores_keep_the_order_of_the_corpus() -> None:
    same = Bm25Index.of([Passage(str(i), "", "same words here") for i in range(12)])
    assert ids(same.search("words", k=5)) == list("01234")


@pytest.mark.parametrize(
    "query",
    [
        "fox AND (",
        '"',
        "title:fox",
        "fox^",
        "-dog",
        "a" * 1_000_000,
        "\ud800 fox",
        "\x00",
        "",
        "   ",
        "IN [",
        "*",
        "/x/",
    ],
)
def test_no_text_is_a_wrong_query(index: Bm25Index, query: str) -> None:
    assert all(isinstance(passage, Passage) for passage in index.search(query))


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(), max_size=60))
def test_any_text_is_a_query(query: str) -> None:
    found = FUZZED.search(query, k=3)
    assert ids(found) == ids(FUZZED.search(query, k=3))
    assert [p.score for p in found] == sorted((p.score for p in found), reverse=True)


FUZZED = Bm25Index.of(ANIMALS)


def test_common_words_are_left_out_only_beside_rarer_ones() -> None:
    corpus = [Passage(str(i), "", f"the town number{i}") for i in range(2100)]
    index = Bm25Index.of(corpus, common=0.1)
    assert ids(index.search("the number7", k=5)) == ["7"]
    assert ids(index.search("the town", k=2)) == ["0", "1"]
    assert len(Bm25Index.of(corpus, common=1.0).search("the number7", k=5)) == 5
    # In a small corpus no word is common.
    assert len(Bm25Index.of(corpus[:100], common=0.1).search("the number7", k=5)) == 5


def test_common_must_be_a_share() -> None:
    with pytest.raises(UsageError, match=r"common must be in \(0, 1\], got 0"):
        Bm25Index.of(ANIMALS, common=0)


def test_fetch(index: Bm25Index) -> None:
    assert index.fetch("c") == ANIMALS[2]
    with pytest.raises(ToolError, match="no document has the id 'nope'; use an id that a search returned"):
        index.fetch("nope")


def test_an_index_on_disk_finds_the_same(index: Bm25Index, tmp_path: Path) -> None:
    built = build_index(ANIMALS, tmp_path / "index")
    opened = open_index(tmp_path / "index", common=1.0)
    assert len(built) == len(opened) == 4
    for query in ("fox day", "quick cat", "coffee"):
        assert opened.search(query, 3) == index.search(query, 3)
    assert opened.fetch("d") == ANIMALS[3]
    assert isinstance(opened, Retriever)


def test_stemming_is_optional(tmp_path: Path) -> None:
    assert ids(build_index(ANIMALS, tmp_path / "e", analyzer="english").search("sleeping barked")) == ["b"]
    assert build_index(ANIMALS, tmp_path / "p").search("sleeping barked") == []
    assert ids(Bm25Index.of([Passage("1", "", "東京都に行く")], analyzer="bigram").search("東京")) == ["1"]
    with pytest.raises(UnknownName, match="unknown analyzer 'englsh'; did you mean 'english'"):
        build_index(ANIMALS, tmp_path / "x", analyzer="englsh")
    assert not (tmp_path / "x").exists()


def test_a_folder_is_never_overwritten_unasked(tmp_path: Path) -> None:
    build_index(ANIMALS, tmp_path / "index")
    with pytest.raises(UsageError, match="is there already; pass overwrite=True"):
        build_index(ANIMALS, tmp_path / "index")
    assert len(build_index(ANIMALS[:2], tmp_path / "index", overwrite=True)) == 2
    (tmp_path / "photos").mkdir()
    with pytest.raises(UsageError, match="is not a search index"):
        build_index(ANIMALS, tmp_path / "photos", overwrite=True)


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="2 documents have the id 'a'; ids must differ"):
        build_index([*ANIMALS, ANIMALS[0]], tmp_path / "index")
    with pytest.raises(UsageError, match="the corpus is empty"):
        build_index([], tmp_path / "index")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_an_index(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no search index in .*; make one by: agentgym index CORPUS.jsonl"):
        open_index(tmp_path)
    (tmp_path / "agentgym-index.json").write_text('{"format": 99}')
    with pytest.raises(StoreError, match="has index format 99, not 1; build it again"):
        open_index(tmp_path)


def test_one_index_serves_many_threads(tmp_path: Path) -> None:
    corpus = [Passage(str(i), f"Title{i}", f"word{i} word{i + 1} filler") for i in range(500)]
    for index in (Bm25Index.of(corpus), build_index(corpus, tmp_path / "index")):
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda i, ix=index: ids(ix.search(f"title{i} word{i}", 1)), range(500)))
        assert found == [[str(i)] for i in range(500)]


def test_passages_may_be_made_on_the_fly() -> None:
    class Squares(list[Passage]):
        def __len__(self) -> int:
            return 50

        def __getitem__(self, i: int) -> Passage:  # type: ignore[override]
            return Passage(str(i), "", f"square{i * i}")

        def __iter__(self):  # type: ignore[no-untyped-def]
            return (self[i] for i in range(50))

    assert ids(Bm25Index.of(Squares()).search("square49")) == ["7"]


def test_field_names_of_corpora(tmp_path: Path) -> None:
    lines = [
        {"id": "1", "title": "T", "text": "x"},
        {"_id": 2, "contents": '"Quoted title"\nbody'},
        {"doc_id": "3", "contents": "no title\nsecond line"},
        {"text": "no id"},
        {"docid": "5", "title": "P", "paragraph_text": "musique"},
    ]
    text = "\n".join(map(json.dumps, lines)) + "\n\n"
    expected = [
        Passage("1", "T", "x"),
        Passage("2", "Quoted title", "body"),
        Passage("3", "", "no title\nsecond line"),
        Passage("4", "", "no id"),
        Passage("5", "P", "musique"),
    ]
    (tmp_path / "c.jsonl").write_text(text)
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "c.jsonl.zst").write_bytes(zstandard.compress(text.encode()))
    for name in ("c.jsonl", "c.jsonl.gz", "c.jsonl.zst"):
        assert list(read_corpus(tmp_path / name)) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "c.jsonl:2 is not JSON"),
        ("[1]", "c.jsonl:2 is a list; every line must be one object"),
        ('{"id": "7", "titel": "x"}', r"c.jsonl:2 has no text; its fields are \['id', 'titel'\]"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "c.jsonl").write_text(f'{{"text": "fine"}}\n{line}\n')
    with pytest.raises(UsageError, match=message):
        build_index(tmp_path / "c.jsonl", tmp_path / "index")


def test_no_corpus_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no file '.*none.jsonl'; give a JSON-lines file"):
        build_index(tmp_path / "none.jsonl", tmp_path / "index")


@given(st.text(max_size=20).filter(lambda t: "\n" not in t), st.text(max_size=40))
def test_contents_and_back(title: str, text: str) -> None:
    passage = Passage("1", title, text)
    if title or not text.startswith('"'):
        assert from_contents("1", contents(passage)) == passage


@pytest.mark.parametrize(
    ("module", "extra", "use"),
    [
        ("tantivy", "search", lambda: Bm25Index.of(ANIMALS)),
        ("faiss", "dense", lambda: DenseIndex(ANIMALS, lambda texts: np.ones((len(texts), 2), np.float32))),
        ("sentence_transformers", "dense", lambda: sentence_encoder("any")),
        ("fastapi", "serve", lambda: search_app(FUZZED)),
    ],
)
def test_what_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, module: str, extra: str, use: Callable[[], object]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        MissingExtra, match=rf"'{module}' is not installed; run: pip install 'agentgym-turns\[{extra}\]'"
    ):
        use()
