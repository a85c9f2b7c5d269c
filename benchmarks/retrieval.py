"""Retrieval over 100,000 documents: the embedded index against SQLite FTS5 and rank-bm25 on the same corpora.

    python benchmarks/retrieval.py --json retrieval.json

Two corpora: the invented encyclopedia with its 1-hop questions in full sentences, and random text (60 to 140 words,
Zipf vocabulary of 50,000) with queries of eight words of one document. Every engine answers the same queries in a
process of its own, on one thread. Times are CPU seconds (the median of several passes; one pass for the slow engines),
memory is what the process has grown by once the index is built, recall@k is the share of queries whose document is
among the first k.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import re
import resource
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from agentgym.envs.search.questions import Catalogue
from agentgym.envs.search.world import World
from agentgym.tools.search import Bm25Index, Passage, build_index

Search = Callable[[str, int], list[str]]
DEPTH = 10


def encyclopedia(documents: int, queries: int) -> tuple[list[Passage], list[tuple[str, str]]]:
    """The invented world and questions whose one supporting document is to be found."""
    world = World(documents)
    asked = Catalogue(world, "train", hops=[1], kinds=["chain"])
    return list(world), [(asked[i].text, asked[i].evidence[0]) for i in range(queries)]


def zipf(documents: int, queries: int) -> tuple[list[Passage], list[tuple[str, str]]]:
    """Random text; a query is eight words of one document."""
    rng = np.random.default_rng(0)
    share = 1.0 / np.arange(1, 50_001)
    lengths = rng.integers(60, 141, documents)
    words = rng.choice(50_000, int(lengths.sum()), p=share / share.sum())
    texts = np.split(words, np.cumsum(lengths)[:-1])
    corpus = [Passage(str(i), "", " ".join(f"w{word}" for word in text)) for i, text in enumerate(texts)]
    chosen = rng.integers(0, documents, queries)
    return corpus, [(" ".join(f"w{word}" for word in rng.choice(texts[i], 8)), str(i)) for i in chosen]


def on_disk(corpus: list[Passage], folder: Path) -> Search:
    """What ``agentgym index`` makes."""
    index = build_index(corpus, folder / "index")
    return lambda query, k: [passage.id for passage in index.search(query, k)]


def in_memory(corpus: list[Passage], folder: Path) -> Search:
    """What generated corpora use."""
    index = Bm25Index.of(corpus)
    return lambda query, k: [passage.id for passage in index.search(query, k)]


def all_words(corpus: list[Passage], folder: Path) -> Search:
    """The same without leaving common words out."""
    index = Bm25Index.of(corpus, common=1.0)
    return lambda query, k: [passage.id for passage in index.search(query, k)]


def fts5(corpus: list[Passage], folder: Path) -> Search:
    """SQLite's full-text search, any word matches."""
    database = sqlite3.connect(folder / "fts.db")
    database.execute("create virtual table docs using fts5(id unindexed, content)")
    database.executemany("insert into docs values (?, ?)", ((p.id, f"{p.title} {p.text}") for p in corpus))
    database.commit()

    def search(query: str, k: int) -> list[str]:
        either = " OR ".join(f'"{word}"' for word in words_of(query))
        rows = database.execute("select id from docs where docs match ? order by bm25(docs) limit ?", (either, k))
        return [row[0] for row in rows]

    return search


def rank_bm25(corpus: list[Passage], folder: Path) -> Search:
    """The pure Python reference."""
    from rank_bm25 import BM25Okapi

    index = BM25Okapi([words_of(f"{p.title} {p.text}") for p in corpus])

    def search(query: str, k: int) -> list[str]:
        return [corpus[i].id for i in np.argsort(-index.get_scores(words_of(query)), kind="stable")[:k]]

    return search


ENGINES = {"tantivy on disk": on_disk, "tantivy in memory": in_memory, "tantivy, all words": all_words,
           "SQLite FTS5": fts5, "rank-bm25": rank_bm25}  # fmt: skip
CORPORA = {"encyclopedia": encyclopedia, "zipf": zipf}
SLOW = {"SQLite FTS5", "rank-bm25"}


def words_of(text: str) -> list[str]:
    """Lower-case words, for the engines that want them."""
    return re.findall(r"\w+", text.lower())


def resident() -> int:
    """Bytes of this process in memory (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measure(engine: str, corpus_name: str, documents: int, queries: int, passes: int) -> dict[str, Any]:
    """Build and query one engine; run in a fresh process."""
    corpus, asked = CORPORA[corpus_name](documents, queries)
    with tempfile.TemporaryDirectory() as folder:
        gc.collect()
        before = resident()
        begin = time.process_time()
        search = ENGINES[engine](corpus, Path(folder))
        build = time.process_time() - begin
        grown = resident() - before
        disk = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        search(asked[0][0], DEPTH)
        rates, found = [], []
        for _ in range(passes):
            begin = time.process_time()
            found = [search(query, DEPTH) for query, _ in asked]
            rates.append(len(asked) / (time.process_time() - begin))
    recall = {
        k: statistics.mean(gold in ids[:k] for ids, (_, gold) in zip(found, asked, strict=True)) for k in (1, 3, 10)
    }
    return {
        "engine": engine,
        "corpus": corpus_name,
        "documents": documents,
        "queries": len(asked),
        "index_cpu_seconds": round(build, 2),
        "queries_per_cpu_second": round(statistics.median(rates), 1),
        "queries_per_cpu_second_range": [round(min(rates), 1), round(max(rates), 1)],
        "memory_mb": round(grown / 1e6),
        "disk_mb": round(disk / 1e6, 1),
        **{f"recall@{k}": round(value, 4) for k, value in recall.items()},
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| corpus | engine | index, CPU s | queries per CPU s (range) | memory MB | disk MB | recall@1 | @3 | @10 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row["queries_per_cpu_second_range"]
        cells = [row["corpus"], row["engine"], row["index_cpu_seconds"]]
        cells += [f"{row['queries_per_cpu_second']} ({low}–{high})", row["memory_mb"], row["disk_mb"]]
        cells += [f"{row[f'recall@{k}']:.3f}" for k in (1, 3, 10)]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for corpus in CORPORA:
        for engine in ENGINES:
            passes = 1 if engine in SLOW else options.passes
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                task = (engine, corpus, options.documents, options.queries, passes)
                rows.append(pool.apply(measure, task))
            print(json.dumps(rows[-1]), flush=True)
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
