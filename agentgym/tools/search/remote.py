"""Retrievers behind HTTP: servers that speak Search-R1's ``/retrieve``, and Elasticsearch or OpenSearch.

Both keep their connections open, repeat what may be repeated with growing pauses, and give up at a deadline. What the
model reads then is one plain sentence (:class:`agentgym.errors.ToolError`); it never waits for ever.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx

from agentgym.errors import ToolError, UsageError
from agentgym.tools.search.passage import Passage, from_contents

RETRIED = frozenset({429, 500, 502, 503, 504})
MAX_ANSWER_BYTES = 16_000_000
REMEMBERED = 10_000


class JsonClient:
    """JSON over HTTP with pooled connections, retries and one deadline for a call with all its retries.

    Args:
        url: where the server is, ``http://host:port`` with any path.
        timeout: seconds one call may take, all retries included.
        tries: how often a call is made before it fails: connection refused or lost, or status 429, 500, 502, 503, 504.
        pause: seconds before the second try; doubled before each further one, with up to half of it added at random.
        connections: how many may be open at once.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 10.0,
        tries: int = 3,
        pause: float = 0.2,
        connections: int = 64,
        headers: Mapping[str, str] | None = None,
        auth: tuple[str, str] | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"a search server's URL starts with http:// or https://, got {url!r}")
        if timeout <= 0 or tries < 1:
            raise UsageError(f"timeout must be positive and tries at least 1, got {timeout!r} and {tries!r}")
        self.url = url.rstrip("/")
        self._timeout, self._tries, self._pause = timeout, tries, pause
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._http = httpx.Client(limits=limits, headers=headers, auth=auth, timeout=timeout)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The decoded answer; None for status 404.

        Raises:
            ToolError: no usable answer before the deadline or within the tries.
        """
        deadline = time.monotonic() + self._timeout
        problem = ""
        for attempt in range(self._tries):
            if attempt:
                wait = self._pause * 2 ** (attempt - 1) * (1.0 + random.random() / 2)
                if time.monotonic() + wait >= deadline:
                    break
                time.sleep(wait)
            try:
                status, raw = self._once(method, self.url + path, body, deadline)
            except (httpx.TimeoutException, TimeoutError):
                problem = f"did not answer within {self._timeout:g} s"
                continue
            except httpx.TransportError as error:
                problem = f"cannot be reached ({error})"
                continue
            except httpx.DecodingError as error:
                problem = f"sent a broken answer ({error})"
                continue
            if status in RETRIED:
                problem = f"answered with status {status}"
                continue
            return self._decoded(status, raw)
        raise ToolError(f"the search server {problem}; search again later or answer without it")

    def _once(self, method: str, url: str, body: Mapping[str, Any] | None, deadline: float) -> tuple[int, bytes]:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        chunks, size = [], 0
        with self._http.stream(method, url, json=body, timeout=left) as response:
            # httpx limits the wait for each piece; a server that drips has to be stopped here.
            for chunk in response.iter_bytes():
                size += len(chunk)
                if time.monotonic() > deadline:
                    raise TimeoutError
                if size > MAX_ANSWER_BYTES:
                    raise ToolError(
                        f"the search server sent more than {MAX_ANSWER_BYTES // 1_000_000} MB; ask for less"
                    )
                chunks.append(chunk)
            return response.status_code, b"".join(chunks)

    def _decoded(self, status: int, raw: bytes) -> Any:
        if status == 404:
            return None
        if status >= 400:
            raise ToolError(f"the search server refused the request with status {status}: {_start_of(raw)}")
        try:
            return json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise ToolError(f"the search server sent something that is not JSON: {_start_of(raw)}") from error


class SearchR1Client:
    """A server with Search-R1's wire format: ``POST /retrieve {"queries": [...], "topk": k, "return_scores": true}``.

    :meth:`fetch` asks ``GET /document/{id}``, which :func:`agentgym.tools.search.serve_search` offers; with other
    servers it knows the documents that its own searches returned (the last 10,000).

    Args:
        url: the server, with or without ``/retrieve`` at the end.
        options: see :class:`JsonClient`.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self._client = JsonClient(url.rstrip("/").removesuffix("/retrieve"), **options)
        self._seen: OrderedDict[str, Passage] = OrderedDict()
        self._lock = threading.Lock()

    def search(self, query: str, k: int = 3) -> list[Passage]:
        """The ``k`` best passages, as the server ranks them."""
        answer = self._client.call("POST", "/retrieve", {"queries": [_clean(query)], "topk": k, "return_scores": True})
        if answer is None:
            raise ToolError("the search server has no /retrieve; give the URL of a Search-R1 server")
        try:
            passages = [_search_r1_passage(item) for item in answer["result"][0][:k]]
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise ToolError('the search server sent JSON without {"result": [[{"document": ...}]]}') from error
        with self._lock:
            for passage in passages:
                self._seen[passage.id] = passage
                self._seen.move_to_end(passage.id)
            while len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
        return passages

    def fetch(self, document_id: str) -> Passage:
        """The document of that id."""
        answer = self._client.call("GET", f"/document/{quote(_clean(document_id), safe='')}")
        if answer is None:
            with self._lock:
                seen = self._seen.get(document_id)
            if seen is None:
                raise ToolError(f"no document has the id {document_id[:80]!r}; use an id that a search returned")
            return seen._replace(score=0.0)
        try:
            return _search_r1_passage(answer)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ToolError("the search server sent JSON that is not a document") from error

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class ElasticClient:
    """An Elasticsearch or OpenSearch index, asked by a ``multi_match`` query, which has no syntax to get wrong.

    Args:
        url: the cluster, e.g. ``https://host:9200``.
        index: the index's name.
        title_field, text_field: where the documents have their title and text.
        api_key: sent as ``Authorization: ApiKey ...``.
        options: see :class:`JsonClient` (``auth=(user, password)`` among them).
    """

    def __init__(
        self,
        url: str,
        index: str,
        *,
        title_field: str = "title",
        text_field: str = "text",
        api_key: str | None = None,
        **options: Any,
    ) -> None:
        if api_key is not None:
            options["headers"] = {**(options.get("headers") or {}), "Authorization": f"ApiKey {api_key}"}
        self._client = JsonClient(url, **options)
        self._index, self._title, self._text = quote(index, safe=""), title_field, text_field

    def search(self, query: str, k: int = 3) -> list[Passage]:
        """The ``k`` best passages by the cluster's own score."""
        match = {"query": _clean(query), "fields": [f"{self._title}^2", self._text]}
        body = {"size": k, "query": {"multi_match": match}, "_source": [self._title, self._text]}
        answer = self._client.call("POST", f"/{self._index}/_search", body)
        if answer is None:
            raise ToolError("the search cluster has no such index; check its name")
        try:
            return [self._passage(hit, float(hit["_score"])) for hit in answer["hits"]["hits"][:k]]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ToolError("the search cluster sent JSON without hits.hits") from error

    def fetch(self, document_id: str) -> Passage:
        """The document of that id."""
        answer = self._client.call("GET", f"/{self._index}/_doc/{quote(_clean(document_id), safe='')}")
        if answer is None or (isinstance(answer, dict) and answer.get("found") is False):
            raise ToolError(f"no document has the id {document_id[:80]!r}; use an id that a search returned")
        try:
            return self._passage(answer, 0.0)
        except (KeyError, TypeError, AttributeError) as error:
            raise ToolError("the search cluster sent JSON that is not a document") from error

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _passage(self, hit: Mapping[str, Any], score: float) -> Passage:
        source = hit["_source"]
        return Passage(str(hit["_id"]), str(source.get(self._title) or ""), str(source[self._text]), score)


def _search_r1_passage(item: Mapping[str, Any]) -> Passage:
    """One entry of a result list: a document with its score, or (without ``return_scores``) the bare document."""
    document = item.get("document", item)
    score = float(item.get("score", 0.0))
    body = document.get("contents")
    if body is None:
        return Passage(str(document["id"]), str(document.get("title", "")), str(document["text"]), score)
    return from_contents(str(document["id"]), str(body), score)


def _start_of(raw: bytes) -> str:
    return repr(raw[:120].decode("utf-8", "replace"))


def _clean(text: str) -> str:
    """Without lone surrogates, which have no UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")
