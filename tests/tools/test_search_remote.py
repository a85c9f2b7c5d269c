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

from agentgym.errors import ToolError, UsageError, WorldFault
from agentgym.tools.search import ElasticClient, Passage, SearchR1Client, build_index, search_tool
from agentgym.tools.toolbox import Toolbox

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


def test_the_server_bounds_what_one_request_asks_for(server: str) -> None:
    body = {"queries": ["dog"] * 21, "topk": 1000}
    reply = httpx.post(f"{server}/retrieve", json=body)
    assert (reply.status_code, reply.json()["detail"]) == (
        413,
        "21 queries x topk 1000 are 21000 passages; at most 20000",
    )
    assert httpx.post(f"{server}/retrieve", json=body | {"topk": 900}).status_code == 200
    assert httpx.get(f"{server}/health", headers={"Host": "evil.example"}).status_code == 421


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
        with pytest.raises(WorldFault, match=rf"^the search server {url} cannot be reached \("):
            tools.call("search", {"query": "fox"})


def test_a_server_that_comes_back_is_asked_again() -> None:
    port = None
    for _ in range(2):
        with misbehaving(reply(200, b'{"result": [[{"id": "1", "title": "T", "text": "x"}]]}'), port) as (url, _):
            if port is None:
                client = SearchR1Client(url, pause=0.001)
            port = int(url.rpartition(":")[2])
            assert client.search("x")[0].id == "1"
        with pytest.raises(WorldFault, match="cannot be reached"):
            client.search("x")


@pytest.mark.parametrize("status", [400, 404, 500])
@pytest.mark.parametrize("method", ["search", "fetch"])
def test_what_only_fails_for_one_query_is_told_to_the_model(status: int, method: str) -> None:
    """A query that makes a server stumble must not remove its episode."""

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        if "odd" in str(asked[-1]):
            reply(status, b"oops")(request)
        else:
            reply(200, b'{"result": [[]]}')(request)

    with misbehaving(answer) as (url, asked):
        client = SearchR1Client(url, pause=0.001)
        with pytest.raises(WorldFault if (status, method) == (404, "search") else ToolError):
            getattr(client, method)("odd")


Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@contextmanager
def misbehaving(answer: Answer, port: int | None = None) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
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

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port or 0), Handler)
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
        (reply(500, b"oops"), "answered with status 500$", 3),
        (reply(503, b""), "answered with status 503$", 3),
        (reply(400, b"no such field"), "refused the request with status 400: 'no such field'", 1),
        (reply(200, b"<html>"), "sent something that is not JSON: '<html>'", 3),
        (reply(200, b"\xff\xfe\x00"), "sent something that is not JSON", 3),
        (reply(200, b'{"hits": []}'), "sent JSON that is not what was asked for: ", 3),
        (reply(200, b'{"result": [[{"document": 3}]]}'), "sent JSON that is not", 3),
        (reply(200, b'{"result": [[{"document": {"id": 1, "contents": "x"}, "score": "?"}]]}'), "sent JSON that is", 3),
        (reply(200, b'{"result": []}'), "sent JSON that is not", 3),
        *(
            (reply(200, b'{"result": [[%s]]}' % item), "sent JSON that is not", 3)
            for item in (
                b'{"document": {"id": {}, "contents": "x"}}',
                b'{"document": {"id": true, "contents": "x"}}',
                b'{"document": {"id": "1", "contents": ["x"]}}',
                b'{"document": {"id": "1", "text": "x", "title": 3}}',
                b'{"document": {"id": "1", "contents": "x"}, "score": NaN}',
                b'{"document": {"id": "1", "contents": "x"}, "score": true}',
                b'{"document": {"id": "1", "contents": "x"}, "score": %s}' % (b"9" * 400),
            )
        ),
        (reply(200, b'{"result": {"0": []}}'), "sent JSON that is not", 3),
        (reply(200, b'{"result": ["abc"]}'), "sent JSON that is not", 3),
        (squeezed, r"cannot be reached \(a compressed answer, which was not asked for\)", 3),
        (reply(200, b"[" * 100_000), "sent something that is not JSON", 3),
        (lambda request: request.connection.close(), "cannot be reached", 3),
    ],
)
def test_a_broken_server_is_the_worlds_fault_in_one_sentence(answer: Answer, message: str, times: int) -> None:
    with misbehaving(answer) as (url, asked), pytest.raises(WorldFault, match=f"^the search server {url} {message}"):
        SearchR1Client(url, pause=0.001).search("x")
    assert len(asked) == times + 1  # a plain query fails too


def test_a_server_of_another_kind_is_named_with_what_to_do() -> None:
    with (
        misbehaving(reply(404, b"")) as (url, _),
        pytest.raises(WorldFault, match=f"^{url} has no /retrieve; give the URL of a Search-R1 server"),
    ):
        SearchR1Client(url).search("x")


def test_an_answer_out_of_shape_is_asked_for_again() -> None:
    good = b'{"result": [[{"document": {"id": "1", "contents": "T\\nx"}, "score": 1}]]}'
    bodies = iter([b"<html>", b'{"result": 3}', good])
    with misbehaving(lambda request: reply(200, next(bodies))(request)) as (url, asked):
        assert [p.text for p in SearchR1Client(url, pause=0.001).search("x")] == ["T\nx"]
    assert len(asked) == 3


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
            with pytest.raises(WorldFault, match=rf"the search server {url} did not answer within 0\.3 s"):
                SearchR1Client(url, timeout=0.3, pause=0.001).search("x")
            released.set()


def test_an_endless_answer_is_cut() -> None:
    def flood(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        while True:
            request.wfile.write(b" " * 1_000_000)

    with misbehaving(flood) as (url, _), pytest.raises(WorldFault, match="sent more than 16 MB"):
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
        with pytest.raises(WorldFault, match=f"^{url} has no index 'other'; check its name"):
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
    [
        (b"{}", "sent JSON that is not"),
        (b"[]", "sent JSON that is not"),
        (b"x", "is not JSON"),
        (b'{"hits": {"hits": [{"_id": "1", "_score": 1e999, "_source": {"text": "x"}}]}}', "sent JSON that is not"),
        (b'{"hits": {"hits": [{"_id": "1", "_score": 1, "_source": {"text": {}}}]}}', "sent JSON that is not"),
        (b'{"hits": {"hits": [{"_id": [], "_score": 1, "_source": {"text": "x"}}]}}', "sent JSON that is not"),
    ],
)
def test_garbage_from_a_cluster(body: bytes, message: str) -> None:
    with misbehaving(reply(200, body)) as (url, _), pytest.raises(WorldFault, match=message):
        ElasticClient(url, "docs").search("x")
