"""Dense retrieval with FAISS, and the fusion of several rankings.

An encoder is any callable that turns texts into vectors, ``list[str] -> array [n, d]``; :func:`sentence_encoder` makes
one from a sentence-transformers model.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agentgym.errors import MissingExtra, StoreError, ToolError, UnknownName, UsageError
from agentgym.tools.search.passage import Passage, Retriever

Encoder = Callable[[list[str]], NDArray[np.float32]]
KINDS = ("flat", "hnsw")
MANIFEST = "agentgym-dense.json"


def sentence_encoder(model: str, *, device: str | None = None, batch_size: int = 64) -> Encoder:
    """An encoder from a sentence-transformers model (a name on a hub, or a folder)."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingExtra("sentence_transformers", "dense") from error
    encoder = SentenceTransformer(model, device=device, trust_remote_code=False)

    def encode(texts: list[str]) -> NDArray[np.float32]:
        return np.asarray(encoder.encode(texts, batch_size=batch_size, show_progress_bar=False), dtype=np.float32)

    return encode


class DenseIndex:
    """Passages by the cosine of their vectors with the query's.

    Args:
        passages: the corpus.
        encode: turns texts into vectors; vectors are brought to length 1 here.
        kind: ``"flat"`` compares with every document (exact); ``"hnsw"`` walks a graph (approximate, for many).
        vectors: [n, d], where the passages are encoded already.
        batch_size: how many passages are encoded at once.
    """

    def __init__(
        self,
        passages: Iterable[Passage],
        encode: Encoder,
        *,
        kind: Literal["flat", "hnsw"] = "flat",
        vectors: NDArray[np.float32] | None = None,
        batch_size: int = 256,
    ) -> None:
        if kind not in KINDS:
            raise UnknownName("kind of dense index", kind, KINDS)
        self.passages: Sequence[Passage] = list(passages)
        if not self.passages:
            raise UsageError("the corpus is empty; an index needs at least one document")
        self._encode, self.kind = encode, kind
        self._numbers = {passage.id: number for number, passage in enumerate(self.passages)}
        if len(self._numbers) != len(self.passages):
            raise UsageError(
                f"{len(self.passages) - len(self._numbers)} ids stand twice in the corpus; ids must differ"
            )
        self.vectors = _unit(self._encoded(batch_size) if vectors is None else vectors, len(self.passages))
        self._faiss = _graph(self.vectors) if kind == "hnsw" else _exact(self.vectors)
        # Encoders are seldom safe to call from several threads.
        self._lock = threading.Lock()

    def _encoded(self, batch_size: int) -> NDArray[np.float32]:
        texts = [f"{passage.title}\n{passage.text}" for passage in self.passages]
        return np.concatenate([self._encode(texts[i : i + batch_size]) for i in range(0, len(texts), batch_size)])

    def __len__(self) -> int:
        return len(self.passages)

    def search(self, query: str, k: int = 3) -> list[Passage]:
        """The ``k`` passages whose vectors are nearest to the query's."""
        if k < 1:
            raise UsageError(f"k must be at least 1, got {k!r}")
        with self._lock:
            vector = self._encode([query])
        scores, numbers = self._faiss.search(_unit(vector, 1), min(k, len(self.passages)))
        return [
            self.passages[number]._replace(score=float(score))
            for score, number in zip(scores[0], numbers[0], strict=True)
            if number >= 0
        ]

    def fetch(self, document_id: str) -> Passage:
        """The passage of that id.

        Raises:
            ToolError: the corpus has none.
        """
        if document_id not in self._numbers:
            raise ToolError(f"no document has the id {document_id[:80]!r}; use an id that a search returned")
        return self.passages[self._numbers[document_id]]

    def save(self, folder: str | Path) -> None:
        """Write passages and vectors; :meth:`load` needs the same encoder again."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "vectors.npy", self.vectors)
        with (folder / "passages.jsonl").open("w", encoding="utf-8") as lines:
            for passage in self.passages:
                lines.write(json.dumps([passage.id, passage.title, passage.text]) + "\n")
        (folder / MANIFEST).write_text(json.dumps({"kind": self.kind, "documents": len(self.passages)}) + "\n")

    @classmethod
    def load(cls, folder: str | Path, encode: Encoder) -> DenseIndex:
        """Open what :meth:`save` wrote.

        Raises:
            StoreError: there is nothing of the kind in the folder.
        """
        folder = Path(folder)
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            vectors = np.load(folder / "vectors.npy")
            with (folder / "passages.jsonl").open(encoding="utf-8") as lines:
                passages = [Passage(*json.loads(line)) for line in lines]
        except (OSError, ValueError) as error:
            raise StoreError(
                f"no dense index in {str(folder)!r} ({error}); make one by DenseIndex(...).save(folder)"
            ) from error
        return cls(passages, encode, kind=manifest["kind"], vectors=vectors)


class Hybrid:
    """Several rankings as one, by reciprocal rank fusion: a passage scores Σ 1 / (constant + rank), ranks from 1.

    Cormack, Clarke and Büttcher 2009, with their constant of 60. Passages are the same when their ids are.

    Args:
        retrievers: the rankings to join, at least one.
        depth: how many passages are taken of each, k where k is larger.
    """

    def __init__(self, retrievers: Sequence[Retriever], *, constant: float = 60.0, depth: int = 20) -> None:
        if not retrievers:
            raise UsageError("a hybrid needs at least one retriever")
        self._retrievers, self._constant, self._depth = tuple(retrievers), constant, depth

    def search(self, query: str, k: int = 3) -> list[Passage]:
        """The ``k`` passages with the largest sum; ties go to the passage that was met first."""
        passages: dict[str, Passage] = {}
        scores: dict[str, float] = {}
        for retriever in self._retrievers:
            for rank, passage in enumerate(retriever.search(query, max(k, self._depth)), 1):
                passages.setdefault(passage.id, passage)
                scores[passage.id] = scores.get(passage.id, 0.0) + 1.0 / (self._constant + rank)
        best = sorted(scores, key=lambda name: -scores[name])[:k]
        return [passages[name]._replace(score=scores[name]) for name in best]

    def fetch(self, document_id: str) -> Passage:
        """The passage of that id, from the first retriever that has it."""
        for retriever in self._retrievers[:-1]:
            try:
                return retriever.fetch(document_id)
            except ToolError:
                continue
        return self._retrievers[-1].fetch(document_id)


def _unit(vectors: NDArray[np.float32], rows: int) -> NDArray[np.float32]:
    """[rows, d] of length 1; a zero vector stays zero."""
    vectors = np.asarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != rows:
        raise UsageError(f"the encoder made an array of shape {vectors.shape} of {rows} texts; [n, d] is needed")
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    length[np.abs(length - 1.0) < 1e-6] = 1.0  # so that what was saved is loaded unchanged
    return np.ascontiguousarray(np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0))


def _import() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingExtra("faiss", "dense") from error
    return faiss


def _exact(vectors: NDArray[np.float32]) -> Any:
    index = _import().IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index


def _graph(vectors: NDArray[np.float32]) -> Any:
    faiss = _import()
    index = faiss.IndexHNSWFlat(vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 80
    index.hnsw.efSearch = 64
    index.add(vectors)
    return index
