"""Retrieval behind one protocol: ``search(query, k) -> [Passage]`` and ``fetch(id) -> Passage``.

>>> from agentgym.tools.search import Bm25Index, Passage
>>> index = Bm25Index.of([Passage("1", "Mira Tolen", "A painter."), Passage("2", "Keld", "A town.")])
>>> index.search("who is Mira?", k=1)[0].id
'1'
"""

from __future__ import annotations

from agentgym.tools.search.bm25 import Bm25Index, build_index, open_index
from agentgym.tools.search.dense import DenseIndex, Hybrid, sentence_encoder
from agentgym.tools.search.passage import Passage, Retriever
from agentgym.tools.search.remote import ElasticClient, SearchR1Client
from agentgym.tools.search.server import search_app, serve_search
from agentgym.tools.search.tools import fetch_tool, search_tool

__all__ = [
    "Bm25Index",
    "DenseIndex",
    "ElasticClient",
    "Hybrid",
    "Passage",
    "Retriever",
    "SearchR1Client",
    "build_index",
    "fetch_tool",
    "open_index",
    "search_app",
    "search_tool",
    "sentence_encoder",
    "serve_search",
]
