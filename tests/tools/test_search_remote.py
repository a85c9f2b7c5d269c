"""The HTTP clients, against a real server process and against servers that misbehave."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentgym.errors import ToolError, UsageError
from agentgym.tools.search import ElasticClient, Passage, SearchR1Client, build_index, search_tool
from agentgym.tools.tool import Toolbox

CORPUS = [
    Passage("a/1", "Fox", "The quick brown fox jumps over the lazy dog."),
    Passage("b", "", "A dog sleeps all day, without a title."),
    Passage("ç #3?", "Café", "Zoë drinks coffee."),
]
SERVE = "import sys; from agentgym.tools.search import *; serve_search(open_index(sys.argv[1]), port=0)"


@contextmanager
def served(index_dir: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A search server in a process of its own."""
    command = [sys.executable, "-c", SERVE, str(index_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("search server on http://127.0.0.1:")
            yield line.split()[-1], process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("corpus") / "index"
    build_index(CORPUS, folder)
    with served(folder) as (url, _):
        yield url


def test_the_client_finds_what_the_index_finds(server: str, tmp_path: Path) -> None:
    index = build_index(CORPUS, tmp_path / "index")
    for url in (server, server + "/", server + "/retrieve"):
        client = SearchR1Client(url)
        for query in ("lazy dog", "coffee?", "fox AND (", "\ud800 dog", "zebra", ""):
            assert client.search(query, 2) == index.search(query, 2)
        client.close()


def test_documents_by_id(server: str) -> None:
    client = SearchR1Client(server)
    for passage in CORPUS:
        assert client.fetch(passage.id) == passage
    with pytest.raises(ToolError, match="no document has the id 'nope'"):
        client.fetch("nope")
    client.close()


def test_the_wire_format_is_search_r1s(server: str) -> None:
    asked = {"queries": ["coffee", "dog sleeps"], "topk": 1, "return_scores": True}
    result = httpx.post(server + "/retrieve", json=asked).json()["result"]
    assert result[0][0]["document"] == {"id": "ç #3?", "contents": '"Café"\nZoë drinks coffee.'}
    assert result[1][0]["document"] == {"id": "b", "contents": "A dog sleeps all day, without a title."}
    assert result[0][0]["score"] > 0
    plain = httpx.post(server + "/retrieve", json={"queries": ["coffee"]}).json()["result"]
    assert plain == [[{"id": "ç #3?", "contents": '"Café"\nZoë drinks coffee.'}]]
    assert httpx.post(server + "/retrieve", json={"queries": ["x"], "topk": 0}).status_code == 422
    assert httpx.get(server + "/health").json() == {"status": "ok"}


def test_many_threads_share_one_client(server: str) -> None:
    client = SearchR1Client(server)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: client.search("quick fox", 1)[0].id, range(64)))
    assert found == ["a/1"] * 64
    client.close()


def test_server_killed_between_two_searches(tmp_path: Path) -> None:
    build_index(CORPUS, tmp_path / "index")
    with served(tmp_path / "index") as (url, process):
        tools = Toolbox([search_tool(SearchR1Client(url, pause=0.01), timeout=20)])
        assert tools.tools[0].parallel
        assert "[a/1] Fox: The quick brown" in tools.call("search", {"query": "fox"}).result
        process.kill()
        process.wait()
        call = tools.call("search", {"query": "fox"})
    assert call.result == ""
    assert call.error is not None
    assert call.error.startswith("the search server cannot be reached (")
    assert call.error.endswith("; search again later or answer without it")


Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@contextmanager
def misbehaving(answer: Answer) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """A server that treats every request by ``answer``; also what it was asked."""
    asked: list[tuple[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            answer(self)

        def do_GET(self) -> None:
            asked.append((self.path, None))
            answer(self)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Silence."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


def reply(status: int, body: bytes) -> Answer:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


def squeezed(request: http.server.BaseHTTPRequestHandler) -> None:
    """Says it is compressed and is not."""
    request.send_response(200)
    request.send_header("Content-Encoding", "gzip")
    request.send_header("Content-Length", "4")
    request.end_headers()
    request.wfile.write(b"oops")


@pytest.mark.parametrize(
    ("answer", "message", "times"),
    [
        (reply(500, b"oops"), "the search server answered with status 500; search again later", 3),
        (reply(503, b""), "the search server answered with status 503", 3),
        (reply(400, b"no such field"), "refused the request with status 400: 'no such field'", 1),
        (reply(404, b""), "the search server has no /retrieve", 1),
        (reply(200, b"<html>"), "sent something that is not JSON: '<html>'", 1),
        (reply(200, b"\xff\xfe\x00"), "sent something that is not JSON", 1),
        (reply(200, b'{"hits": []}'), r'sent JSON without \{"result"', 1),
        (reply(200, b'{"result": [[{"document": 3}]]}'), r'sent JSON without \{"result"', 1),
        (reply(200, b'{"result": [[{"document": {"id": 1, "contents": "x"}, "score": "?"}]]}'), "sent JSON without", 1),
        (reply(200, b'{"result": []}'), "sent JSON without", 1),
        (squeezed, "the search server sent a broken answer", 3),
        (reply(200, b"[" * 100_000), "sent something that is not JSON", 1),
        (lambda request: request.connection.close(), "the search server cannot be reached", 3),
    ],
)
def test_a_broken_server_is_one_plain_sentence(answer: Answer, message: str, times: int) -> None:
    with misbehaving(answer) as (url, asked), pytest.raises(ToolError, match=message):
        SearchR1Client(url, pause=0.001).search("x")
    assert len(asked) == times


def test_what_passes_is_retried_until_it_works() -> None:
    states = iter([500, 503, 200])

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        reply(next(states), b'{"result": [[{"id": "1", "title": "T", "text": "bare document"}]]}')(request)

    with misbehaving(answer) as (url, asked):
        found = SearchR1Client(url, pause=0.001).search("what?", 2)
    assert found == [Passage("1", "T", "bare document", 0.0)]
    assert asked == [("/retrieve", {"queries": ["what?"], "topk": 2, "return_scores": True})] * 3


def test_a_slow_server_is_given_up_at_the_deadline() -> None:
    released = threading.Event()

    def never(request: http.server.BaseHTTPRequestHandler) -> None:
        released.wait(30)

    def drip(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        while not released.wait(0.05):
            request.wfile.write(b" ")

    for answer in (never, drip):
        released.clear()
        with misbehaving(answer) as (url, _):
            with pytest.raises(ToolError, match=r"the search server did not answer within 0\.3 s"):
                SearchR1Client(url, timeout=0.3, pause=0.001).search("x")
            released.set()


def test_an_endless_answer_is_cut() -> None:
    def flood(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        while True:
            request.wfile.write(b" " * 1_000_000)

    with misbehaving(flood) as (url, _), pytest.raises(ToolError, match="sent more than 16 MB"):
        SearchR1Client(url).search("x")


def test_fetch_from_a_server_without_documents_knows_what_was_found() -> None:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        if request.path == "/retrieve":
            body = json.dumps({"result": [[{"document": {"id": 7, "contents": '"T"\nbody'}, "score": 2.5}]]})
            reply(200, body.encode())(request)
        else:
            reply(404, b"")(request)

    with misbehaving(answer) as (url, _):
        client = SearchR1Client(url)
        with pytest.raises(ToolError, match="no document has the id '7'"):
            client.fetch("7")
        assert client.search("x") == [Passage("7", "T", "body", 2.5)]
        assert client.fetch("7") == Passage("7", "T", "body", 0.0)


def test_wrong_options() -> None:
    with pytest.raises(UsageError, match="starts with http:// or https://, got 'localhost:8000'"):
        SearchR1Client("localhost:8000")
    with pytest.raises(UsageError, match="timeout must be positive and tries at least 1, got 0 and 3"):
        SearchR1Client("http://localhost", timeout=0)


def elastic(request: http.server.BaseHTTPRequestHandler) -> None:
    """What Elasticsearch answers, for one document."""
    source = {"name": "Fox", "body": "A quick fox."}
    if request.path == "/my%20docs/_search":
        body: dict[str, Any] = {"hits": {"hits": [{"_id": "1", "_score": 1.5, "_source": source}]}}
        return reply(200, json.dumps(body).encode())(request)
    if request.path == "/my%20docs/_doc/1":
        return reply(200, json.dumps({"_id": "1", "found": True, "_source": source}).encode())(request)
    return reply(404, b'{"found": false}')(request)


def test_elastic_asks_without_query_syntax() -> None:
    with misbehaving(elastic) as (url, asked):
        client = ElasticClient(url, "my docs", title_field="name", text_field="body", api_key="k")
        assert client.search('fox AND "', 4) == [Passage("1", "Fox", "A quick fox.", 1.5)]
        assert client.fetch("1") == Passage("1", "Fox", "A quick fox.", 0.0)
        with pytest.raises(ToolError, match=r"no document has the id '2/\.\.'"):
            client.fetch("2/..")
        with pytest.raises(ToolError, match="the search cluster has no such index"):
            ElasticClient(url, "other").search("x")
        client.close()
    assert asked[0] == (
        "/my%20docs/_search",
        {
            "size": 4,
            "query": {"multi_match": {"query": 'fox AND "', "fields": ["name^2", "body"]}},
            "_source": ["name", "body"],
        },
    )
    assert asked[2][0] == "/my%20docs/_doc/2%2F.."


@pytest.mark.parametrize(
    ("body", "message"),
    [(b"{}", "sent JSON without hits.hits"), (b"[]", "sent JSON without hits.hits"), (b"x", "is not JSON")],
)
def test_garbage_from_a_cluster(body: bytes, message: str) -> None:
    with misbehaving(reply(200, body)) as (url, _), pytest.raises(ToolError, match=message):
        ElasticClient(url, "docs").search("x")
