"""A server of ours against clients that send too much, too slowly, or from somebody's browser."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

pytest.importorskip("uvicorn", reason="needs the extra 'serve'")

SERVE = """
import json
from agentgym.endpoint.guard import ServerLimits
from agentgym.endpoint.listen import listen

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d" % len(body)})

listen(app, "test server", "127.0.0.1", 0, ServerLimits(body=1000, seconds=1.0, connections=20, hosts=("my.name",)))
"""


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    with subprocess.Popen([sys.executable, "-c", SERVE], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.fullmatch(r"test server on http://(127\.0\.0\.1):(\d+)\n", process.stdout.readline())
            assert found is not None
            yield found[1], int(found[2])
        finally:
            process.kill()


def exchanged(address: tuple[str, int], *pieces: bytes, pause: float = 0.0, wait: float = 30.0) -> bytes:
    """What comes back until the server hangs up; b"" where it does that without a word."""
    with socket.create_connection(address, timeout=wait) as connection:
        for piece in pieces:
            try:
                connection.sendall(piece)
            except OSError:
                break
            time.sleep(pause)
        answer = bytearray()
        while True:
            try:
                received = connection.recv(65536)
            except ConnectionResetError:
                return bytes(answer)
            if not received:
                return bytes(answer)
            answer += received


def post(address: tuple[str, int], **options: object) -> httpx.Response:
    return httpx.post(f"http://{address[0]}:{address[1]}/", timeout=30, **options)  # type: ignore[arg-type]


def test_a_body_of_the_largest_size_comes_through_and_no_larger_one(address: tuple[str, int]) -> None:
    assert post(address, content=b"x" * 1000).text == "1000"
    reply = post(address, content=b"x" * 1001)
    assert (reply.status_code, reply.json()["detail"]) == (
        413,
        "a request has at most 1000 bytes; send less at once",
    )


def test_a_body_that_does_not_say_its_size_is_cut_too(address: tuple[str, int]) -> None:
    assert post(address, content=(b"x" * 100 for _ in range(5))).text == "500"
    chunk = b"64\r\n" + b"x" * 100 + b"\r\n"
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert b" 413 " in exchanged(address, head, *[chunk] * 50)
    announced = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + b"9" * 19 + b"\r\n\r\n"
    assert b" 413 " in exchanged(address, announced)


def test_headers_and_bodies_that_drip_are_given_up(address: tuple[str, int]) -> None:
    assert exchanged(address) == b""  # a connection on which nothing comes
    assert exchanged(address, b"POST / HTTP/1.1\r\n", *[b"X: y\r\n"] * 40, pause=0.1) == b""
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\n"
    assert b" 408 " in exchanged(address, head, *[b"x"] * 40, pause=0.1)
    whole = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx"
    second = exchanged(address, whole, b"POST / HTTP/1.1\r\n", *[b"X: y\r\n"] * 40, pause=0.1)
    assert second.count(b"HTTP/1.1 200") == 1  # the first request of a connection is answered, the dripping one is not
    assert post(address, content=b"still there").text == "11"


@pytest.mark.parametrize(
    ("host", "served"),
    [
        ("127.0.0.1:80", True),
        ("localhost", True),
        ("LOCALHOST:8000", True),
        ("[::1]:8000", True),
        ("my.name", True),
        (socket.gethostname(), True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example:80", False),
        ("", False),
        ("[::1", False),
    ],
)
def test_a_page_in_a_browser_does_not_reach_it_by_a_name_of_its_own(
    address: tuple[str, int], host: str, served: bool
) -> None:
    reply = post(address, headers={"Host": host})
    assert reply.status_code == (200 if served else 421)
    if not served:
        assert "start it with --allow-host to add a name" in reply.json()["detail"]


def test_clients_that_only_connect_do_not_lock_the_others_out(address: tuple[str, int]) -> None:
    idle = [socket.create_connection(address) for _ in range(60)]
    over = threading.Event()
    over.wait(1.5)  # they are closed after a second
    try:
        assert post(address, content=b"abc").text == "3"
    finally:
        for connection in idle:
            connection.close()
