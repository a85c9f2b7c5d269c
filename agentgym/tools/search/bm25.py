"""The embedded default: BM25 by tantivy, on disk or in memory.

A query is a bag of words, never query syntax, so no text that a model writes can be a syntax error. Words that stand
in more than a given share of the documents are left out of a query that also has rarer ones: they cost almost all of
the time and hardly move the ranking.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from agentgym.errors import MissingExtra, StoreError, ToolError, UnknownName, UsageError
from agentgym.tools.search.corpus import read_corpus
from agentgym.tools.search.passage import Passage

ANALYZERS = ("plain", "english", "bigram")
MANIFEST = "agentgym-index.json"
FORMAT = 1
MAX_QUERY_CHARACTERS = 4_000
MAX_QUERY_WORDS = 64
#: A word in no more documents than this is never too common; small corpora lose nothing.
MIN_COMMON = 2_000
# The writer starts a new segment when this is full; it is a limit, not an allocation.
WRITER_BYTES = 512_000_000
# Documents with equal scores are put in corpus order; so many more than k are looked at.
TIE_MARGIN = 8


class Bm25Index:
    """A searchable corpus; made by :func:`build_index`, :func:`open_index` or :meth:`of`.

    One instance serves any number of threads.

    Args:
        common: words in more than this share of the documents, in (0, 1], do not take part in a query that has rarer
            ones; a word in at most 2,000 documents always does.
    """

    def __init__(self, index: Any, analyzer: str, passages: Sequence[Passage] | None, *, common: float = 0.5) -> None:
        if not 0.0 < common <= 1.0:
            raise UsageError(f"common must be in (0, 1], got {common!r}; 1 keeps every word of a query")
        self._tantivy = _import()
        self._schema = index.schema
        self._searcher = index.searcher()
        self._analyzer = _analyzer(analyzer)
        self._passages = passages
        self._limit = max(MIN_COMMON, int(common * self._searcher.num_docs))

    @classmethod
    def of(cls, passages: Sequence[Passage], *, analyzer: str = "plain", common: float = 0.5) -> Self:
        """An index in memory. It holds no texts: ``passages[i]`` is asked for them, so it may make them on the fly."""
        index = _new_index(analyzer, None)
        _fill(index, passages, stored=False)
        return cls(index, analyzer, passages, common=common)

    def __len__(self) -> int:
        return int(self._searcher.num_docs)

    def search(self, query: str, k: int = 3) -> list[Passage]:
        """The ``k`` best passages by BM25; fewer, or none, where fewer share a word with the query."""
        if k < 1:
            raise UsageError(f"k must be at least 1, got {k!r}")
        words = self._words(query)
        if not words:
            return []
        tantivy = self._tantivy
        either = [(tantivy.Occur.Should, tantivy.Query.term_query(self._schema, "content", word)) for word in words]
        # count=False lets tantivy skip whole blocks of documents that cannot reach the top.
        hits = self._searcher.search(tantivy.Query.boolean_query(either), k + TIE_MARGIN, count=False).hits
        places = [place for _, place in hits]
        numbers = self._searcher.fast_field_values("number", places)
        ranked = sorted(
            ((-score, number, place) for (score, place), number in zip(hits, numbers, strict=True)),
            key=lambda hit: hit[:2],
        )
        return [self._passage(number, place, -minus) for minus, number, place in ranked[:k]]

    def fetch(self, document_id: str) -> Passage:
        """The passage of that id.

        Raises:
            ToolError: the corpus has none.
        """
        query = self._tantivy.Query.term_query(self._schema, "id", _clean(document_id))
        hits = self._searcher.search(query, 1, count=False).hits
        if not hits:
            raise ToolError(f"no document has the id {_clean(document_id)[:80]!r}; use an id that a search returned")
        place = hits[0][1]
        return self._passage(self._searcher.fast_field_values("number", [place])[0], place, 0.0)

    def _words(self, query: str) -> list[str]:
        words = list(dict.fromkeys(self._analyzer.analyze(_clean(query[:MAX_QUERY_CHARACTERS]))))[:MAX_QUERY_WORDS]
        known = {word: self._searcher.doc_freq("content", word) for word in words}
        rare = [word for word in words if 0 < known[word] <= self._limit]
        return rare or words

    def _passage(self, number: int, place: Any, score: float) -> Passage:
        if self._passages is not None:
            return self._passages[number]._replace(score=score)
        stored = self._searcher.doc(place)
        title, text = (bytes(stored[name][0]).decode() for name in ("title", "text"))
        return Passage(stored["id"][0], title, text, score)


def build_index(
    corpus: str | Path | Iterable[Passage],
    index_dir: str | Path,
    *,
    analyzer: str = "plain",
    overwrite: bool = False,
) -> Bm25Index:
    """Build an index on disk and open it.

    It is written next to its place and renamed when complete, so a crash leaves no half index.

    Args:
        corpus: a JSON-lines file (see :func:`agentgym.tools.search.corpus.read_corpus`) or passages.
        analyzer: ``"plain"`` (lower case, accents folded; any language with spaces), ``"english"`` (also stems and
            drops stop words) or ``"bigram"`` (pairs of characters; for scripts without spaces).
        overwrite: replace an index that is there.

    Raises:
        UsageError: the folder is taken, the corpus is empty, or an id stands twice.
    """
    target = Path(index_dir)
    if target.exists() and not overwrite:
        raise UsageError(f"{str(target)!r} is there already; pass overwrite=True or give another folder")
    if overwrite and target.exists() and not (target / MANIFEST).is_file():
        raise UsageError(f"{str(target)!r} is not a search index ({MANIFEST} is missing); it is not replaced")
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        (staging / "tantivy").mkdir()
        index = _new_index(analyzer, staging / "tantivy")
        passages = read_corpus(corpus) if isinstance(corpus, (str, Path)) else corpus
        documents = _fill(index, passages, stored=True)
        manifest = {"format": FORMAT, "analyzer": analyzer, "documents": documents}
        (staging / MANIFEST).write_text(json.dumps(manifest) + "\n", encoding="utf-8")
        if target.exists():
            target.rename(staging.with_name(f"{staging.name}-old"))
        staging.rename(target)
    finally:
        for left in (staging, staging.with_name(f"{staging.name}-old")):
            shutil.rmtree(left, ignore_errors=True)
    return open_index(target)


def open_index(index_dir: str | Path, *, common: float = 0.5) -> Bm25Index:
    """Open an index that :func:`build_index` made.

    Raises:
        StoreError: there is none, or another version wrote it.
    """
    folder = Path(index_dir)
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"no search index in {str(folder)!r}; make one by: agentgym index CORPUS.jsonl") from error
    if manifest.get("format") != FORMAT:
        raise StoreError(f"{str(folder)!r} has index format {manifest.get('format')!r}, not {FORMAT}; build it again")
    try:
        index = _import().Index.open(str(folder / "tantivy"))
    except (OSError, ValueError) as error:
        raise StoreError(f"the search index in {str(folder)!r} is damaged ({error}); build it again") from error
    return Bm25Index(index, manifest["analyzer"], None, common=common)


def _import() -> Any:
    try:
        import tantivy
    except ImportError as error:
        raise MissingExtra("tantivy", "search") from error
    return tantivy


def _analyzer(name: str) -> Any:
    tantivy = _import()
    if name not in ANALYZERS:
        raise UnknownName("analyzer", name, ANALYZERS)
    split = tantivy.Tokenizer.ngram(2, 2) if name == "bigram" else tantivy.Tokenizer.simple()
    builder = tantivy.TextAnalyzerBuilder(split)
    for step in (tantivy.Filter.remove_long(64), tantivy.Filter.lowercase(), tantivy.Filter.ascii_fold()):
        builder = builder.filter(step)
    if name == "english":
        builder = builder.filter(tantivy.Filter.stopword("english")).filter(tantivy.Filter.stemmer("english"))
    return builder.build()


def _new_index(analyzer: str, folder: Path | None) -> Any:
    tantivy = _import()
    words = _analyzer(analyzer)
    on_disk = folder is not None
    schema = tantivy.SchemaBuilder()
    schema.add_integer_field("number", fast=True)
    schema.add_text_field("id", stored=on_disk, tokenizer_name="raw", index_option="basic")
    schema.add_text_field("content", tokenizer_name="agentgym", index_option="freq")
    if on_disk:
        schema.add_bytes_field("title", stored=True)
        schema.add_bytes_field("text", stored=True)
    index = tantivy.Index(schema.build(), path=str(folder) if on_disk else None)
    index.register_tokenizer("agentgym", words)
    return index


def _fill(index: Any, passages: Iterable[Passage], *, stored: bool) -> int:
    document = _import().Document
    # One thread: documents then keep the order of the corpus, and equal scores always rank alike.
    writer = index.writer(heap_size=WRITER_BYTES, num_threads=1)
    count = 0
    for number, passage in enumerate(passages):
        fields: dict[str, Any] = {"number": number, "id": _clean(passage.id)}
        fields["content"] = _clean(f"{passage.title}\n{passage.text}")
        if stored:
            fields["title"], fields["text"] = _clean(passage.title).encode(), _clean(passage.text).encode()
        writer.add_document(document(**fields))
        count += 1
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    if not count:
        raise UsageError("the corpus is empty; an index needs at least one document")
    # A whole scan in tantivy instead of a set of ids in Python, which would not fit for large corpora.
    [(document_id, times)] = index.searcher().terms_with_prefix("id", "", limit=1)
    if times > 1:
        raise UsageError(f"{times} documents have the id {document_id!r}; ids must differ")
    return count


def _clean(text: str) -> str:
    """Without lone surrogates, which have no UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
