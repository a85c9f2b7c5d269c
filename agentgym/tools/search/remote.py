"""Retrievers behind HTTP: servers that speak Search-R1's ``/retrieve``, and Elasticsearch or OpenSearch.

Both keep their connections open, repeat what may be repeated with growing pauses, and give up at a deadline. Where a
query fails and a plain one is answered, the model reads one sentence about it (:class:`agentgym.errors.ToolError`);
where the plain one fails too, the server is at fault and not the query (:class:`agentgym.errors.WorldFault`).
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

from agentgym.errors import ToolError, UsageError, WorldFault
from agentgym.http import AnswerTooLarge, HttpClient, NoAnswer
from agentgym.tools.search.passage import Passage, from_contents

RETRIED = frozenset({429, 500, 502, 503, 504})
MAX_ANSWER_BYTES = 16_000_000
REMEMBERED = 10_000
_LARGEST_SCORE = 1e30

_T = TypeVar("_T")
_Body = Mapping[str, Any] | None


class _NoUsableAnswer(Exception):
    """What the server did instead of answering, in words that follow its name."""


class _Malformed(_NoUsableAnswer):
    """It answered with something else; a proxy may have done that in its place, so it is asked again."""


class JsonClient:
    """JSON over HTTP with pooled connections, retries and one deadline for a call with all its retries.

    Args:
        url: where the server is, ``http://host:port`` with any path.
        plain: method, path, body and ``read`` (as for :meth:`call`) of a request that a working server answers,
            whatever it holds.
        timeout: seconds one call may take, all retries included; a server that drips is given up too. The plain request
            that may follow has as long.
        tries: how often a call is made before it fails: connection refused or lost, or status 429, 500, 502, 503, 504.
        pause: seconds before the second try; doubled before each further one, with up to half of it added at random.
        connections: how many may be open at once.
    """

    def __init__(
        self,
        url: str,
        plain: tuple[str, str, _Body, Callable[[Any], object]],
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
        self._plain, self._timeout, self._tries, self._pause = plain, timeout, tries, pause
        headers = {"Content-Type": "application/json", **(headers or {})}
        self._http = HttpClient(headers=headers, auth=auth, connections=connections, most=MAX_ANSWER_BYTES)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def call(self, method: str, path: str, body: _Body, read: Callable[[Any], _T]) -> _T | None:
        """What ``read`` makes of the decoded answer; None for status 404.

        Args:
            read: raises KeyError, IndexError, TypeError, ValueError or AttributeError where it is something else.

        Raises:
            ToolError: no usable answer before the deadline or within the tries, though a plain request gets one.
            WorldFault: a plain request gets none either.
        """
        try:
            return self._answered(method, path, body, read, self._tries)
        except _NoUsableAnswer as problem:
            if not self._works():
                raise WorldFault(f"the search server {self.url} {problem}") from problem
            raise ToolError(f"the search server {problem}; ask something else or answer without it") from problem

    def _works(self) -> bool:
        """Whether the server answers a plain request; the query that failed is at fault then."""
        try:
            return self._answered(*self._plain, 1) is not None
        except _NoUsableAnswer:
            return False

    def _answered(self, method: str, path: str, body: _Body, read: Callable[[Any], _T], tries: int) -> _T | None:
        deadline = time.monotonic() + self._timeout
        content = None if body is None else json.dumps(body).encode()
        problem = ""
        for attempt in range(tries):
            if attempt:
                wait = self._pause * 2 ** (attempt - 1) * (1.0 + random.random() / 2)
                if time.monotonic() + wait >= deadline:
                    break
                time.sleep(wait)
            try:
                left = deadline - time.monotonic()
                status, _, raw = self._http.request(method, self.url + path, content, seconds=left)
            except TimeoutError:
                problem = f"did not answer within {self._timeout:g} s"
                continue
            except AnswerTooLarge as error:
                raise _NoUsableAnswer(f"sent {error}") from error
            except NoAnswer as error:
                problem = f"cannot be reached ({error})"
                continue
            if status in RETRIED:
                problem = f"answered with status {status}"
                continue
            try:
                return None if status == 404 else _read(status, raw, read)
            except _Malformed as error:
                problem = str(error)
        raise _NoUsableAnswer(problem)


def _read(status: int, raw: bytes, read: Callable[[Any], _T]) -> _T:
    if status >= 400:
        raise _NoUsableAnswer(f"refused the request with status {status}: {_start_of(raw)}")
    try:
        answer = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise _Malformed(f"sent something that is not JSON: {_start_of(raw)}") from error
    try:
        return read(answer)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise _Malformed(f"sent JSON that is not what was asked for: {_start_of(raw)}") from error


class SearchR1Client:
    """A server with Search-R1's wire format: ``POST /retrieve {"queries": [...], "topk": k, "return_scores": true}``.

    :meth:`fetch` asks ``GET /document/{id}``, which :func:`agentgym.tools.search.serve_search` offers; with other
    servers it knows the documents that its own searches returned (the last 10,000).

    Args:
        url: the server, with or without ``/retrieve`` at the end.
        options: see :class:`JsonClient`.
    """

    def __init__(self, url: str, **options: Any) -> None:
        plain = {"queries": ["a"], "topk": 1, "return_scores": True}
        probe = ("POST", "/retrieve", plain, lambda answer: _search_r1_passages(answer, 1))
        self._client = JsonClient(url.rstrip("/").removesuffix("/retrieve"), probe, **options)
        self._seen: OrderedDict[str, Passage] = OrderedDict()
        self._lock = threading.Lock()

    def search(self, query: str, k: int = 3) -> list[Passage]:
        """The ``k`` best passages, as the server ranks them."""
        body = {"queries": [_clean(query)], "topk": k, "return_scores": True}
        passages = self._client.call("POST", "/retrieve", body, lambda answer: _search_r1_passages(answer, k))
        if passages is None:
            raise WorldFault(f"{self._client.url} has no /retrieve; give the URL of a Search-R1 server")
        with self._lock:
            for passage in passages:
                self._seen[passage.id] = passage
                self._seen.move_to_end(passage.id)
            while len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
        return passages

    def fetch(self, document_id: str) -> Passage:
        """The document of that id."""
        path = f"/document/{quote(_clean(document_id), safe='')}"
        result = self._client.call("GET", path, None, _search_r1_passage)
        if result is not None:
            return result
        with self._lock:
            seen = self._seen.get(document_id)
        if seen is None:
            raise ToolError(f"no document has the id {document_id[:80]!r}; use an id that a search returned")
        return seen._replace(score=0.0)

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
        self._index, self._title, self._text = quote(index, safe=""), title_field, text_field
        probe = ("POST", f"/{self._index}/_search", self._query("a", 1), lambda answer: self._passages(answer, 1))
        self._client = JsonClient(url, probe, **options)

    def search(self, query: str, k: int = 3) -> list[Passage]:
        """The ``k`` best passages by the cluster's own score."""
        path, body = f"/{self._index}/_search", self._query(query, k)
        result = self._client.call("POST", path, body, lambda answer: self._passages(answer, k))
        if result is None:
            raise WorldFault(f"{self._client.url} has no index {self._index!r}; check its name")
        return result

    def fetch(self, document_id: str) -> Passage:
        """The document of that id."""
        path = f"/{self._index}/_doc/{quote(_clean(document_id), safe='')}"
        result = self._client.call(
            "GET", path, None, lambda answer: None if answer.get("found") is False else self._passage(answer, 0.0)
        )
        if result is None:
            raise ToolError(f"no document has the id {document_id[:80]!r}; use an id that a search returned")
        return result

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _query(self, query: str, k: int) -> dict[str, Any]:
        match = {"query": _clean(query), "fields": [f"{self._title}^2", self._text]}
        return {"size": k, "query": {"multi_match": match}, "_source": [self._title, self._text]}

    def _passages(self, answer: Any, k: int) -> list[Passage]:
        return [self._passage(hit, _score(hit["_score"])) for hit in _listed(answer["hits"]["hits"])[:k]]

    def _passage(self, hit: Mapping[str, Any], score: float) -> Passage:
        source = hit["_source"]
        title = source.get(self._title)
        return Passage(_id(hit["_id"]), "" if title is None else _text(title), _text(source[self._text]), score)


def _search_r1_passages(answer: Any, k: int) -> list[Passage]:
    """Of ``{"result": [[{"document": ...}]]}``."""
    return [_search_r1_passage(item) for item in _listed(_listed(answer["result"])[0])[:k]]


def _search_r1_passage(item: Mapping[str, Any]) -> Passage:
    """One entry of a result list: a document with its score, or (without ``return_scores``) the bare document."""
    document = item.get("document", item)
    score = _score(item.get("score", 0.0))
    body = document.get("contents")
    if body is None:
        return Passage(_id(document["id"]), _text(document.get("title", "")), _text(document["text"]), score)
    return from_contents(_id(document["id"]), _text(body), score)


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return _clean(value)


def _id(value: Any) -> str:
    """Ids are texts; some servers count their documents."""
    return str(value) if type(value) is int else _text(value)


def _score(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST_SCORE:
        raise TypeError("not a finite number")
    return float(value)


def _start_of(raw: bytes) -> str:
    return repr(raw[:120].decode("utf-8", "replace"))


def _clean(text: str) -> str:
    """Without lone surrogates, which have no UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")
