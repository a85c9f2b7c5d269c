"""The browser tool, against real pages in a real Chromium, friendly and hostile ones."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hostile_site import Site
from processes import browsers, descendants, left_of, renderers

from agentgym.errors import ForkError, MissingExtra, SandboxUnavailable, ToolError, UsageError
from agentgym.tools.browser import AllowList, BrowserSession, Chromium, browser_tools, find_chromium
from agentgym.tools.browser.proxy import OriginProxy
from agentgym.tools.loop import background
from agentgym.tools.syntax.base import Call
from agentgym.tools.toolbox import Toolbox


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site() as running:
        yield running


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with Chromium() as running:
        yield running


@pytest.fixture
def page(chromium: Chromium, site: Site) -> Iterator[BrowserSession]:
    with closing(BrowserSession(chromium, AllowList([site.origin]), 8.0)) as session:
        yield session


def reference(text: str, role_and_name: str) -> str:
    """The reference of an element in what an action returned."""
    found = re.search(re.escape(role_and_name) + r".*?\[ref=(\w+)\]", text)
    assert found is not None, text
    return found[1]


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(ToolError) as caught:
        action()
    return str(caught.value)


# Where it may go ------------------------------------------------------------------------------------------------------


def test_origins_are_read_and_others_refused() -> None:
    allowed = AllowList(
        ["http://localhost:8000", "https://example.org", "http://127.0.0.1:*", "http://10.1.2.3"],
        resolve={"localhost": "127.0.0.1", "example.org": "93.184.216.34"}.__getitem__,
    )
    assert str(allowed) == "http://localhost:8000, https://example.org, http://127.0.0.1:*, http://10.1.2.3"
    assert allowed.address("http", "LOCALHOST", 8000) == "127.0.0.1"
    assert allowed.address("https", "example.org", 443) == "93.184.216.34"
    assert allowed.address(None, "example.org", 443) == "93.184.216.34"
    assert allowed.address("http", "127.0.0.1", 12345) == "127.0.0.1"
    assert allowed.address("http", "10.1.2.3", 80) == "10.1.2.3"
    refused = [("http", "localhost", 8001), ("https", "localhost", 8000), ("http", "example.org", 80)]
    refused += [("http", "sub.example.org", 80), ("http", "10.1.2.3", 81), ("https", "127.0.0.1", 443)]
    assert [allowed.address(*place) for place in refused] == [None] * len(refused)
    assert allowed.allows("ws://localhost:8000/socket")
    for url in ("ws://localhost:8001", "http://user@localhost:8000/", "http://[bad", "file:///etc/passwd", "http:x"):
        assert not allowed.allows(url), url


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        ("localhost", "'localhost' is not an origin; write it like https://example.org or http://localhost:8000"),
        ("ftp://a.b", "'ftp://a.b' is not an origin"),
        ("http://a.b/path", "'http://a.b/path' is not an origin"),
        ("http://me@a.b", "'http://me@a.b' is not an origin"),
        ("http://a.b:x", "'http://a.b:x' is not an origin"),
        ("http://inside", "'inside' has the address 192.168.1.7, which is not public; list the address itself"),
        ("http://metadata", "'metadata' has the address 169.254.169.254, which is not public; list the address itself"),
        ("http://nowhere", "the host 'nowhere' cannot be resolved: no such name; list its address, or leave it out"),
    ],
)
def test_origins_that_are_none_or_lead_into_private_networks(origin: str, message: str) -> None:
    def resolve(host: str) -> str:
        if host == "nowhere":
            raise OSError("no such name")
        return {"inside": "192.168.1.7", "metadata": "169.254.169.254"}[host]

    with pytest.raises(UsageError, match=re.escape(message)):
        AllowList([origin], resolve=resolve)


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(UsageError, match="needs at least one origin"):
        AllowList([])


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("file:///etc/passwd", "must begin with http:// or https://"),
        ("javascript:alert(1)", "must begin with http:// or https://"),
        ("http://10.0.0.1/", "may not be opened; allowed are http://localhost:1"),
        ("http://localhost:2/", "may not be opened"),
        ("http://localhost:1@evil.example/", "may not be opened"),
        ("http://[", "may not be opened"),
    ],
)
def test_addresses_that_an_agent_must_not_open(url: str, message: str) -> None:
    assert message in refusal(lambda: AllowList(["http://localhost:1"]).check(url))


# The proxy, without a browser -----------------------------------------------------------------------------------------


def ask(port: int, text: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(text.encode())
        received = b""
        while data := connection.recv(65536):
            received += data
        return received


def proxied(allowed: AllowList, *requests: str, max_bytes: int = 2**20) -> list[bytes]:
    proxy = background().submit(OriginProxy(allowed, max_bytes=max_bytes).start()).result(5)
    try:
        return [ask(proxy.port, request) for request in requests]
    finally:
        background().submit(proxy.close()).result(5)


def test_the_proxy_forwards_to_listed_origins_only(site: Site) -> None:
    host = site.origin.removeprefix("http://")
    answers = proxied(
        AllowList([site.origin]),
        f"GET {site.origin}/two HTTP/1.1\r\nHost: {host}\r\nProxy-Connection: keep-alive\r\n\r\n",
        f"GET http://127.0.0.1:{host.partition(':')[2]}/two HTTP/1.1\r\n\r\n",
        f"GET https://{host}/two HTTP/1.1\r\n\r\n",
        "GET http://example.org/ HTTP/1.1\r\n\r\n",
        "CONNECT example.org:443 HTTP/1.1\r\n\r\n",
        "GET /two HTTP/1.1\r\nHost: " + host + "\r\n\r\n",
        "nonsense\r\n\r\n",
    )
    assert answers[0].startswith(b"HTTP/1.0 200")
    assert b"the second page" in answers[0]
    assert answers[1:] == [b""] * 6


def test_the_proxy_tunnels_to_listed_origins(site: Site) -> None:
    host = site.origin.removeprefix("http://")
    request = f"CONNECT {host} HTTP/1.1\r\n\r\nGET /two HTTP/1.0\r\n\r\n"
    (answer,) = proxied(AllowList([site.origin]), request)
    assert answer.startswith(b"HTTP/1.1 200 Connection established\r\n\r\n")
    assert b"the second page" in answer


def test_the_proxy_connects_to_the_address_that_was_resolved_at_first(site: Site) -> None:
    """A name that means something else later (rebinding) does not matter: it is never resolved again."""
    port = site.origin.rpartition(":")[2]
    answers = iter(["93.184.216.34", "127.0.0.1"])
    allowed = AllowList([f"http://rebound.example:{port}"], resolve=lambda host: next(answers))
    assert allowed.address("http", "rebound.example", int(port)) == "93.184.216.34"
    assert allowed.address("http", "rebound.example", int(port)) == "93.184.216.34"


def test_the_proxy_says_that_a_server_is_not_there(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    (answer,) = proxied(AllowList([f"http://localhost:{port}"]), f"GET http://localhost:{port}/ HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 502")


def test_the_proxy_cuts_an_answer_that_floods(site: Site) -> None:
    site.extra["/flood"] = "x" * 500_000
    request = f"GET {site.origin}/flood HTTP/1.1\r\n\r\n"
    short, full = (proxied(AllowList([site.origin]), request, max_bytes=n)[0] for n in (100_000, 2**20))
    assert len(short) <= 100_000 < len(full)


# Friendly pages -------------------------------------------------------------------------------------------------------


@pytest.mark.chromium
def test_open_type_select_click_back_and_read(page: BrowserSession, site: Site) -> None:
    text = page.open(f"{site.origin}/")
    assert text.startswith(f"Shop\n{site.origin}/\n\n")
    assert 'heading "Shop"' in text
    text = page.fill(reference(text, 'textbox "Name"'), "Ada")
    assert ": Ada" in text
    text = page.fill(reference(text, 'textbox "Name"'), "Eve", enter=True)
    assert text.startswith("entered Eve\n")
    text = page.select(reference(text, 'combobox "Size"'), "M")
    assert 'option "M" [selected]' in text
    text = page.click(reference(text, 'button "Buy"'))
    assert text.startswith("bought\n")
    text = page.click(reference(text, 'link "second page"'))
    assert text.startswith("Two\n")
    assert "the second page" in text
    assert page.back().startswith("Shop\n")
    assert page.read().startswith("Shop\n")
    assert page.screenshot().startswith(b"\x89PNG")


@pytest.mark.chromium
def test_what_cannot_be_done_is_said(page: BrowserSession, site: Site) -> None:
    assert refusal(page.read) == "no page is open; open one first"
    text = page.open(f"{site.origin}/")
    assert refusal(lambda: page.click("body > a")) == "'body > a' is not the reference of an element, like e7"
    assert refusal(lambda: page.click("e99")) == "there is no element e99 on this page; read it again"
    assert "did not find some options" in refusal(lambda: page.select(reference(text, "combobox"), "XXL"))
    page.open(f"{site.origin}/two")
    assert page.back().startswith("Shop\n")
    assert page.back().startswith("(no title)\nabout:blank")
    assert refusal(page.back) == "there is no page to go back to"


@pytest.mark.chromium
def test_sessions_share_nothing(chromium: Chromium, site: Site) -> None:
    allowed = AllowList([site.origin])
    one, two = BrowserSession(chromium, allowed), BrowserSession(chromium, allowed)
    with closing(one), closing(two):
        assert one.open(f"{site.origin}/cookie").startswith("none\n")
        assert two.open(f"{site.origin}/cookie").startswith("none\n")
        assert one.open(f"{site.origin}/cookie").startswith("a=1\n")
    assert chromium.starts == 1


@pytest.mark.chromium
def test_many_sessions_in_threads_at_once(chromium: Chromium, site: Site) -> None:
    texts: dict[int, str] = {}

    def play(number: int) -> None:
        with closing(BrowserSession(chromium, AllowList([site.origin]), 30)) as session:
            text = session.open(f"{site.origin}/")
            texts[number] = session.fill(reference(text, "textbox"), f"name {number}")

    threads = [threading.Thread(target=play, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(f"name {n}" in texts[n] for n in range(6))


@pytest.mark.chromium
def test_a_session_cannot_be_forked(page: BrowserSession) -> None:
    with pytest.raises(ForkError, match="a page of a browser cannot be copied"):
        page.fork()


@pytest.mark.chromium
def test_as_tools_of_an_episode(chromium: Chromium, site: Site) -> None:
    tools = browser_tools([site.origin], seconds=8, max_characters=300, price=2.0, browser=chromium)
    assert [t.name for t in tools] == ["open", "click", "type", "select", "read", "back"]
    with closing(Toolbox(tools).open()) as toolbox:
        call = toolbox.call("open", {"url": f"{site.origin}/"})
        assert call.result.startswith("Shop\n")
        assert call.cost == 2.0
        typed = toolbox.call("type", {"element": reference(call.result, "textbox"), "text": "Ada"})
        assert "Ada" in typed.result
        long = toolbox.call("open", {"url": f"{site.origin}/big"})
        assert len(long.result) < 500
        assert toolbox.call("open", {"url": "http://10.0.0.1/"}).error == (
            f"'http://10.0.0.1/' may not be opened; allowed are {site.origin}"
        )


@pytest.mark.chromium
def test_the_environment_of_the_docs_is_played_on_a_local_site(site: Site) -> None:
    """The block of docs/guides/browser_and_mcp.md, on a port that is free here."""
    text = (Path(__file__).parents[2] / "docs" / "guides" / "browser_and_mcp.md").read_text()
    block = next(b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if b.startswith("# museum.py"))
    site.extra["/"] = "<title>Museum</title><p>Friday: from 10. Sunday: from 12.</p>"
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gymnasium.register", lambda *_, **__: None)
        exec(block.replace("http://localhost:8000", site.origin), names)
    env = names["museum"](syntax="hermes")
    try:
        question, _ = env.reset(seed=0)
        opening = "10" if "Friday" in question else "12"
        seen, *_ = env.step(env.syntax.render([Call("open", {"url": site.origin})]))
        assert "Sunday: from 12." in seen
        _, reward, terminated, _, _ = env.step(env.syntax.render(answer=opening))
        assert (reward, terminated) == (1.0, True)
    finally:
        env.close()
        del site.extra["/"]


# Hostile pages: the rows of docs/security.md -------------------------------------------------------------------------


@pytest.mark.chromium
def test_a_pop_up_is_closed_and_told(page: BrowserSession, site: Site) -> None:
    text = page.open(f"{site.origin}/popup")
    told = page.click(reference(text, "button")) + page.read()  # it may open late
    assert "A pop-up was closed." in told
    assert told.startswith("Popup\n")
    assert len(page._context.pages) == 1


@pytest.mark.chromium
def test_pop_ups_without_end_cost_the_page(page: BrowserSession, site: Site) -> None:
    button = reference(page.open(f"{site.origin}/popups"), "button")
    try:
        page.click(button)
        page.read()
    except ToolError:
        pass
    else:
        assert len(page._context.pages) == 1
    assert page.open(f"{site.origin}/two").startswith("Two\n")


@pytest.mark.chromium
def test_a_download_is_refused(page: BrowserSession, site: Site, tmp_path: Path) -> None:
    assert refusal(lambda: page.open(f"{site.origin}/download")) == "A download was refused."
    assert page.open(f"{site.origin}/two").startswith("Two\n")


@pytest.mark.chromium
@pytest.mark.parametrize("place", ["http://other.example", "http://10.0.0.1", "http://127.0.0.1:9", "https://[::1]"])
def test_redirects_to_other_origins_are_refused(page: BrowserSession, site: Site, place: str) -> None:
    told = refusal(lambda: page.open(f"{site.origin}/redirect?{place}/secret"))
    assert told == f"Refused, not an allowed origin: {place}."
    assert page.open(f"{site.origin}/two").startswith("Two\n")


@pytest.mark.chromium
def test_redirects_links_and_frames_to_files_show_nothing(page: BrowserSession, site: Site) -> None:
    assert "UNSAFE_REDIRECT" in refusal(lambda: page.open(f"{site.origin}/redirect?file:///etc/passwd"))
    text = page.open(f"{site.origin}/to-file")
    assert "root:" not in text
    text = page.click(reference(text, "link"))
    assert "root:" not in text
    assert text.startswith("Files\n")


@pytest.mark.chromium
def test_images_of_private_addresses_are_not_fetched(page: BrowserSession, site: Site) -> None:
    text = page.open(f"{site.origin}/private")
    assert "Refused, not an allowed origin: http://10.0.0.1." in text
    assert "Refused, not an allowed origin: http://169.254.169.254." in text
    assert "text" in text


@pytest.mark.chromium
def test_sockets_and_peers_reach_nobody(page: BrowserSession, site: Site) -> None:
    """Neither a web socket nor a fetch (TCP) nor a peer connection (UDP) gets past the allow-list."""
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
    ):
        udp.bind(("127.0.0.1", 0))
        tcp.settimeout(0.2)
        udp.settimeout(0.2)
        there, peer = tcp.getsockname()[1], udp.getsockname()[1]
        site.extra["/sockets"] = f"""<title>Sockets</title><p>text</p><script>
            new WebSocket("ws://127.0.0.1:{there}/");
            fetch("http://127.0.0.1:{there}/", {{mode: "no-cors"}}).catch(() => 0);
            navigator.sendBeacon("http://127.0.0.1:{there}/", "x");
            const peer = new RTCPeerConnection({{iceServers: [{{urls: "stun:127.0.0.1:{peer}"}}]}});
            peer.createDataChannel("x"); peer.createOffer().then((offer) => peer.setLocalDescription(offer));
            </script>"""
        assert "not an allowed origin" in page.open(f"{site.origin}/sockets") + page.read()
        time.sleep(1.0)
        with pytest.raises(TimeoutError):
            tcp.accept()
        with pytest.raises(TimeoutError):
            udp.recv(100)


@pytest.mark.chromium
def test_permissions_are_not_granted(page: BrowserSession, site: Site) -> None:
    text = page.open(f"{site.origin}/permissions")
    deadline = time.monotonic() + 20
    while not text.startswith("asked") and time.monotonic() < deadline:
        text = page.read()
    assert text.startswith("asked denied denied denied denied\n"), text


@pytest.mark.chromium
@pytest.mark.parametrize("path", ["/endless", "/endless-at-once"])
def test_an_endless_script_costs_one_call(chromium: Chromium, site: Site, path: str) -> None:
    with closing(BrowserSession(chromium, AllowList([site.origin]), 4.0)) as page:
        others = renderers()
        with pytest.raises(ToolError, match=r"did not answer in 4 s and was closed|Timeout"):
            page.click(reference(page.open(site.origin + path), "button"))
        if page._page is None:
            assert not left_of(renderers() - others)  # though the session is still open
        else:
            page.read()  # there is another page already, and it answers
        deadline = time.monotonic() + 90
        while True:  # on a busy machine four seconds may be short for a page, too
            try:
                assert page.open(f"{site.origin}/two").startswith("Two\n")
                break
            except ToolError:
                assert time.monotonic() < deadline


@pytest.mark.chromium
def test_dialogs_are_dismissed_and_told(page: BrowserSession, site: Site) -> None:
    text = page.click(reference(page.open(f"{site.origin}/dialogs"), "button"))
    assert text.startswith("after\n")
    assert "A dialog was dismissed: pay 5" in text


@pytest.mark.chromium
def test_text_that_looks_like_a_tool_result_arrives_as_data(chromium: Chromium, site: Site) -> None:
    from agentgym.tools.syntax import make_syntax

    tools = browser_tools([site.origin], browser=chromium)
    with closing(Toolbox(tools).open()) as toolbox:
        call = toolbox.call("open", {"url": f"{site.origin}/injection"})
    shown = make_syntax("hermes", tools).render_result(call)
    assert "The answer is 7." in shown
    assert shown.count("<tool_response>") == shown.count("</tool_response>") == 1


@pytest.mark.chromium
def test_a_page_that_crashes_costs_one_call(page: BrowserSession, site: Site) -> None:
    page.open(f"{site.origin}/two")

    async def crash(_: object) -> None:
        session = await page._context.new_cdp_session(page._page)
        await asyncio.wait_for(session.send("Page.crash"), 2)

    with pytest.raises(Exception):  # noqa: B017 (the crash ends whatever waits for it)
        page._browser.run(crash, 5)
    assert refusal(page.read) == "the page crashed and was closed; open one again"
    assert page.open(f"{site.origin}/two").startswith("Two\n")


@pytest.mark.chromium
def test_a_browser_that_is_killed_is_started_again(site: Site) -> None:
    with Chromium() as chromium, closing(BrowserSession(chromium, AllowList([site.origin]))) as page:
        page.open(f"{site.origin}/two")
        for pid in browsers():
            os.kill(pid, signal.SIGKILL)
        assert refusal(page.read) == "the page crashed and was closed; open one again"
        assert page.open(f"{site.origin}/two").startswith("Two\n")
        assert chromium.starts == 2


@pytest.mark.chromium
def test_no_process_is_left_behind(site: Site) -> None:
    """Neither after an orderly end nor after kill -9 of the process that drives the browser."""
    program = f"""
import os, signal, sys
from agentgym.tools.browser import AllowList, BrowserSession, shared_chromium
page = BrowserSession(shared_chromium(), AllowList([{site.origin!r}]), 60)
page.open({site.origin!r} + "/two")
print("ready", flush=True)
sys.stdin.read()
"""
    for kill in (False, True):
        with subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ}
        ) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            assert process.stdout.readline() == b"ready\n"
            below = descendants(process.pid)
            assert below
            if kill:
                process.kill()
            else:
                process.stdin.close()
        assert not left_of(below)


# Without a browser ----------------------------------------------------------------------------------------------------


def test_without_chromium_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("playwright")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        SandboxUnavailable,
        match=re.escape("no Chromium on this machine; run: apt-get install chromium, or pass executable=PATH"),
    ):
        browser_tools()
    with pytest.raises(SandboxUnavailable, match="no '/none' on this machine"):
        find_chromium("/none")


def test_without_playwright_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "playwright", None)
    with pytest.raises(MissingExtra, match=r"'playwright' is not installed; run: pip install '.*\[browser\]'"):
        browser_tools()
