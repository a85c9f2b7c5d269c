"""Answers are bounded in time and size: against a real server that drips, floods, stalls and breaks off."""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpcore
import pytest

from agentgym import http
from agentgym.endpoint import Server
from agentgym.errors import PolicyError, WorldFault
from agentgym.http import AnswerTooLarge, HttpClient, NoAnswer
from agentgym.tools.search import SearchR1Client

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
Serve = Callable[[socket.socket, threading.Event], None]


@contextmanager
def serving(serve: Serve, heads: list[bytes] | None = None, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server that reads the head of a request, then does what ``serve`` says; the event is set at the end."""
    over = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                if tls is not None:
                    self.request = tls.wrap_socket(self.request, server_side=True)
                while True:
                    asked = b""
                    while b"\r\n\r\n" not in asked:
                        if not (more := self.request.recv(1 << 16)):
                            return
                        asked += more
                    if heads is not None:
                        heads.append(asked)
                    serve(self.request, over)

        def finish(self) -> None:
            self.request.close()

    class Threading(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    with Threading(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield f"http{'s' * (tls is not None)}://127.0.0.1:{server.server_address[1]}"
        finally:
            over.set()
            server.shutdown()


def slowly(before: bytes, piece: bytes, every: float = 0.02) -> Serve:
    """Send ``before``, then ``piece`` again and again, soon enough that no read of its own times out."""

    def serve(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(before)
        while not over.wait(every):
            connection.sendall(piece)

    return serve


def flooding(before: bytes, piece: bytes) -> Serve:
    def serve(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(before)
        while not over.is_set():
            connection.sendall(piece)

    return serve


def well(body: bytes, more: bytes = b"") -> Serve:
    answer = HEAD + more + b"Content-Length: %d\r\n\r\n" % len(body) + body
    return lambda connection, over: connection.sendall(answer)


DRIPS = {
    "nothing": slowly(b"", b""),
    "body": slowly(HEAD + b"\r\n", b" "),
    "body of a length": slowly(HEAD + b"Content-Length: 100000\r\n\r\n", b" "),
    "chunks": slowly(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "head": slowly(HEAD + b"X-Long: ", b"x"),
    "headers": slowly(HEAD, b"X: y\r\n"),
    "early hints": slowly(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
}
FLOODS = {
    "body": flooding(HEAD + b"\r\n", b" " * 100_000),
    "body of a length": flooding(HEAD + b"Content-Length: 1000000000\r\n\r\n", b" " * 100_000),
    "chunks": flooding(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"2710\r\n" + b" " * 10_000 + b"\r\n"),
}


@pytest.fixture
def client() -> Iterator[HttpClient]:
    made = HttpClient(most=1_000_000)
    yield made
    made.close()


@pytest.mark.parametrize("name", DRIPS)
def test_a_server_that_drips_is_given_up(client: HttpClient, name: str) -> None:
    with serving(DRIPS[name]) as url, pytest.raises(TimeoutError):
        client.request("GET", url, seconds=0.3)


@pytest.mark.parametrize("name", FLOODS)
def test_a_server_that_floods_is_cut_off(client: HttpClient, name: str) -> None:
    with serving(FLOODS[name]) as url, pytest.raises(AnswerTooLarge, match=r"more than 1 MB"):
        client.request("GET", url, seconds=30)


@pytest.mark.parametrize(
    ("before", "piece", "error"),
    [
        (HEAD, b"X: y\r\n" * 10_000, NoAnswer),
        (HEAD + b"X: ", b"x" * 100_000, NoAnswer),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100, TimeoutError),
    ],
)
def test_a_flood_of_headers_is_an_error_too(
    client: HttpClient, before: bytes, piece: bytes, error: type[Exception]
) -> None:
    with serving(flooding(before, piece)) as url, pytest.raises(error):
        client.request("GET", url, seconds=3)


def test_an_answer_of_just_that_size_is_whole(client: HttpClient) -> None:
    with serving(well(b"x" * 1_000_000)) as url:
        assert client.request("GET", url, seconds=30) == (200, {
            "content-type": "application/json", "content-length": "1000000"
        }, b"x" * 1_000_000)  # fmt: skip
    with serving(well(b"x" * 1_000_001)) as url, pytest.raises(AnswerTooLarge):
        client.request("GET", url, seconds=30)


def test_a_compressed_answer_is_refused(client: HttpClient) -> None:
    bomb = gzip.compress(b" " * 100_000_000)
    with (
        serving(well(bomb, b"Content-Encoding: gzip\r\n")) as url,
        pytest.raises(NoAnswer, match="a compressed answer"),
    ):
        client.request("GET", url, seconds=30)


def test_what_is_sent() -> None:
    heads: list[bytes] = []
    client = HttpClient(headers={"X-Name": "é"}, auth=("me", "pass:word"))
    with serving(well(b"{}"), heads) as url:
        client.request("POST", url + "/a%20b?c=d", b"[1]", seconds=30)
        client.close()
    lines = heads[0].split(b"\r\n")
    assert lines[0] == b"POST /a%20b?c=d HTTP/1.1"
    assert {line.partition(b":")[0].lower(): line.partition(b": ")[2] for line in lines[1:] if b":" in line} == {
        b"host": url.removeprefix("http://").encode(),
        b"accept": b"*/*",
        b"accept-encoding": b"identity",
        b"user-agent": b"agentgym",
        b"x-name": "é".encode(),
        b"authorization": b"Basic bWU6cGFzczp3b3Jk",
        b"content-length": b"3",
    }


def test_a_server_that_does_not_read_is_given_up(client: HttpClient) -> None:
    with serving(lambda connection, over: over.wait(60) and None) as url, pytest.raises(TimeoutError):
        client.request("POST", url, b"x" * 50_000_000, seconds=0.3)


def test_no_server_and_no_http_are_no_answer(client: HttpClient) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(NoAnswer, match=r"^ConnectError: "):
            client.request("GET", f"http://127.0.0.1:{free.getsockname()[1]}", seconds=30)
    mail = serving(lambda connection, over: connection.sendall(b"220 mail\r\n\r\n"))
    with mail as url, pytest.raises(NoAnswer, match=r"^RemoteProtocolError: "):
        client.request("GET", url, seconds=30)


def test_connections_are_kept_and_many_threads_share_them() -> None:
    ports: set[int] = set()
    lock, served, most = threading.Lock(), 0, 0

    def serve(connection: socket.socket, over: threading.Event) -> None:
        nonlocal served, most
        with lock:
            served += 1
            most = max(most, served)
        ports.add(connection.getpeername()[1])
        over.wait(0.002)
        with lock:
            served -= 1
        well(b"{}")(connection, over)

    client = HttpClient(connections=3)
    with serving(serve) as url, ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: client.request("GET", url, seconds=60).body, range(300)))
        client.close()
    assert answers == [b"{}"] * 300
    assert most <= 3
    assert len(ports) < 30


def test_a_request_that_waits_for_a_connection_is_on_its_own_time() -> None:
    client = HttpClient(connections=1)
    with serving(DRIPS["body"]) as url, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.request, "GET", url, seconds=2)
        while client._turn._value:
            time.sleep(0.01)
        with pytest.raises(TimeoutError, match=r"no connection was free within 0\.1 s"):
            client.request("GET", url, seconds=0.1)
        with pytest.raises(TimeoutError, match=r"no answer within 2 s"):
            first.result()
        client.close()


def test_a_client_that_was_closed_opens_new_connections() -> None:
    client = HttpClient()
    with serving(well(b"{}")) as url:
        for _ in range(2):
            assert client.request("GET", url, seconds=30).status == 200
            client.close()
    client.close()


def test_the_proxy_of_the_environment_is_asked(client: HttpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    heads: list[bytes] = []
    with serving(well(b"{}"), heads) as proxy:
        monkeypatch.setenv("http_proxy", proxy.removeprefix("http://"))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert client.request("GET", "http://nowhere.invalid:81/x?y=1", seconds=30).body == b"{}"
        assert heads[-1].startswith(b"GET http://nowhere.invalid:81/x?y=1 HTTP/1.1\r\n")
        client.request("GET", proxy + "/x", seconds=30)
        assert heads[-1].startswith(b"GET /x HTTP/1.1\r\n")


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """Of a server on this machine; clients made from now on trust it."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes certificates, is not installed")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout {key} -out {cert}"
    subprocess.run([*command.split(), "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


def test_encrypted_answers_are_bounded_too(certificate: ssl.SSLContext, client: HttpClient) -> None:
    for serve, expected in ((well(b"{}"), None), (DRIPS["head"], TimeoutError), (FLOODS["chunks"], AnswerTooLarge)):
        with serving(serve, tls=certificate) as url:
            if expected is None:
                assert client.request("GET", url, seconds=30).body == b"{}"
                continue
            with pytest.raises(expected):
                client.request("GET", url, seconds=1 if expected is TimeoutError else 30)


def test_an_unknown_certificate_is_refused(
    certificate: ssl.SSLContext, client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with serving(well(b"{}"), tls=certificate) as url, pytest.raises(NoAnswer, match="CERTIFICATE_VERIFY_FAILED"):
        client.request("GET", url, seconds=30)


def test_a_forked_child_asks_with_connections_of_its_own(client: HttpClient) -> None:
    with serving(well(b"{}")) as url:
        client.request("GET", url, seconds=30)
        if (child := os.fork()) == 0:
            status = 1
            with contextlib.suppress(BaseException):
                status = 0 if client.request("GET", url, seconds=30).body == b"{}" else 2
            os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert client.request("GET", url, seconds=30).body == b"{}"


# Those who ask --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DRIPS)
def test_an_endpoint_that_drips_is_one_line(name: str) -> None:
    with serving(DRIPS[name]) as url:
        server = Server(url, timeout=0.2, retries=1, backoff=0.001)
        with pytest.raises(PolicyError, match=r" did not answer within 0\.2 s \(2 tries\)$"):
            server.post("/x", {}, lambda told: told, key=1)
        server.close()


@pytest.mark.parametrize("name", FLOODS)
def test_an_endpoint_that_floods_is_one_line(name: str) -> None:
    with serving(FLOODS[name]) as url:
        server = Server(url, retries=0)
        with pytest.raises(PolicyError, match=r" sent an answer without end: more than 64 MB$"):
            server.post("/x", {}, lambda told: told, key=1)
        server.close()


@pytest.mark.parametrize("name", DRIPS)
def test_a_search_server_that_drips_is_the_worlds_fault(name: str) -> None:
    with serving(DRIPS[name]) as url:
        client = SearchR1Client(url, timeout=0.2)
        with pytest.raises(WorldFault, match=r" did not answer within 0\.2 s$"):
            client.search("x")
        client.close()


def test_a_connection_with_an_answer_to_read_is_not_taken_for_a_closed_one() -> None:
    """The pool looks whether an idle connection is readable while another thread has just begun to use it."""

    class Readable(httpcore.NetworkStream):
        def get_extra_info(self, info: str) -> bool:
            return True

        def write(self, buffer: bytes, timeout: float | None = None) -> None:
            """Sent."""

    stream = http._Stream(Readable())
    assert stream.get_extra_info("is_readable")
    http._running.request = request = http._Request(time.monotonic() + 60)
    stream.write(b"GET")
    http._running.request = None
    assert not stream.get_extra_info("is_readable")
    assert stream.get_extra_info("socket")
    request.over = True
    assert stream.get_extra_info("is_readable")
