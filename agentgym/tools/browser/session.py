"""The state that the browser tools of one episode share: a page in its own context."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NoReturn, TypeVar

from agentgym.errors import ForkError, SandboxUnavailable, ToolError, WorldFault
from agentgym.tools.browser.chromium import BrowserGone, Chromium, Slow, is_gone
from agentgym.tools.browser.origins import AllowList
from agentgym.tools.browser.proxy import OriginProxy

_ELEMENT = re.compile(r"(?:f\d{1,6})?e\d{1,9}")
_WAITING = re.compile(r"(?:\d+ × )?(?:waiting|retrying|attempting|scrolling|done)")  # steps of Playwright's log
_SETTLE = 0.1  # seconds that a page gets to begin a navigation after an action
_MAX_POPUPS = 10
_MAX_NOTES = 10
_CUT = 200
_DOWNLOAD, _NO_DOWNLOAD = "Download is starting", "A download was refused."

R = TypeVar("R")
Work = Callable[[Any], Awaitable[object]]


class BrowserSession:
    """One page of a browser, isolated from every other session: cookies, storage and cache are its own.

    Every action returns what is on the page then: title, address, what was refused, and the accessibility tree with a
    reference (``e7``) for each element.

    Args:
        browser: shared by many sessions.
        allowed: the origins that the page may talk to.
        seconds: time limit of one action.
    """

    def __init__(self, browser: Chromium, allowed: AllowList, seconds: float = 10.0) -> None:
        self._browser, self._allowed, self._seconds = browser, allowed, seconds
        self._context: Any = None
        self._page: Any = None
        self._proxy: OriginProxy | None = None
        self._notes: list[str] = []
        self._popups = 0

    def open(self, url: str) -> str:
        """Go to an address.

        Raises:
            ToolError: as every action: it may not be opened, or it did not work; the session stays usable.
        """
        self._allowed.check(url)
        from playwright.async_api import Error

        async def work(page: Any) -> None:
            try:
                await page.goto(url, timeout=self._milliseconds)
            except Error:
                await self._renew()  # what is left of the attempt would get in the way of the next one
                raise

        return self._do(work, fresh=True)

    def click(self, element: str) -> str:
        """Click an element."""

        async def work(page: Any) -> None:
            await (await _located(page, element)).click(timeout=self._milliseconds)

        return self._do(work)

    def fill(self, element: str, text: str, enter: bool = False) -> str:
        """Replace what stands in a text field; ``enter`` presses Enter behind it."""

        async def work(page: Any) -> None:
            located = await _located(page, element)
            await located.fill(text, timeout=self._milliseconds)
            if enter:
                await located.press("Enter", timeout=self._milliseconds)

        return self._do(work)

    def select(self, element: str, option: str) -> str:
        """Choose an option of a list by its label."""

        async def work(page: Any) -> None:
            await (await _located(page, element)).select_option(label=option, timeout=self._milliseconds)

        return self._do(work)

    def back(self) -> str:
        """Go to the page before."""

        async def work(page: Any) -> None:
            before = page.url
            await page.go_back(timeout=self._milliseconds)
            if page.url == before:
                raise ToolError("there is no page to go back to")

        return self._do(work)

    def read(self) -> str:
        """Look at the page as it is now."""

        async def work(page: Any) -> None:
            return

        return self._do(work)

    def screenshot(self) -> bytes:
        """The page as PNG, for people."""
        page = self._open_page()

        async def work(_: Any) -> bytes:
            picture: bytes = await page.screenshot(timeout=self._milliseconds)
            return picture

        return self._run(work)

    def fork(self) -> NoReturn:
        """Refuse: a page cannot be copied.

        Raises:
            ForkError: always.
        """
        raise ForkError("a page of a browser cannot be copied")

    def close(self) -> None:
        """Close the page and everything that belongs to it; a later action starts with an empty one."""
        context, proxy = self._context, self._proxy
        self._context = self._page = self._proxy = None
        if context is not None:
            self._browser.spawn(context.close())
        if proxy is not None:
            self._browser.spawn(proxy.close())

    @property
    def _milliseconds(self) -> float:
        """Of Playwright's own waits, which end before the action's limit."""
        return 500 * self._seconds

    def _open_page(self) -> Any:
        if self._page is None:
            raise ToolError("no page is open; open one first")
        return self._page

    def _do(self, work: Work, *, fresh: bool = False) -> str:
        if not fresh:
            self._open_page()
        return self._run(lambda browser: self._act(browser, work))

    def _run(self, work: Callable[[Any], Coroutine[Any, Any, R]]) -> R:
        try:
            return self._browser.run(work, self._seconds)
        except Slow:
            self.close()
            raise ToolError(f"the page did not answer in {self._seconds:g} s and was closed; open one again") from None
        except BrowserGone:
            self.close()
            raise ToolError("the page crashed and was closed; open one again") from None
        except SandboxUnavailable as error:
            raise WorldFault(str(error)) from error

    async def _act(self, browser: Any, work: Work) -> str:
        from playwright.async_api import Error

        if self._page is None:
            await self._begin(browser)
        page = self._page
        try:
            await work(page)
        except Error as error:
            raise await self._problem(error) from None
        await asyncio.sleep(_SETTLE)
        with contextlib.suppress(Error):
            await page.wait_for_load_state(timeout=self._milliseconds / 2)
        try:
            tree = await page.aria_snapshot(mode="ai", timeout=self._milliseconds)
        except Error as error:
            raise await self._problem(error) from None
        head = [_line(await page.title()) or "(no title)", _line(page.url), *self._told()]
        return "\n".join([*head, "", tree])

    async def _problem(self, error: Exception) -> Exception:
        """What to raise for an error of Playwright's, once the page gave a sign of life.

        One whose script never ends gives none; the action then runs out of time, which closes the page.
        """
        from playwright.async_api import Error

        if is_gone(error):
            return error
        if _DOWNLOAD in str(error):
            self._note(_NO_DOWNLOAD)
        if self._page is not None:
            with contextlib.suppress(Error):
                await self._page.evaluate("0")
        return ToolError(" ".join(self._told()) or _reason(error))

    async def _begin(self, browser: Any) -> None:
        """A context without permissions, whose only way out is the proxy, and its page."""
        self._proxy = await OriginProxy(self._allowed).start()
        self._context = context = await browser.new_context(
            accept_downloads=False,
            service_workers="block",
            permissions=[],
            locale="en-US",
            timezone_id="UTC",
            viewport={"width": 1280, "height": 800},
            proxy={"server": f"http://127.0.0.1:{self._proxy.port}", "bypass": "<-loopback>"},
        )
        self._popups = 0
        context.on("page", self._refuse_popup)
        await self._renew()

    async def _renew(self) -> None:
        """A new page instead of the one before."""
        self._page = None
        self._page = page = await self._context.new_page()
        page.on("dialog", self._dismiss)
        page.on("download", lambda _: self._note(_NO_DOWNLOAD))
        page.on("request", lambda request: self._look_at(request.url))
        page.on("websocket", lambda socket: self._look_at(socket.url))
        for other in self._context.pages:  # the one before, and what it opened meanwhile
            if other is not page:
                await other.close()

    def _look_at(self, url: str) -> None:
        """Tell the agent of what the proxy refuses."""
        scheme, _, rest = url.partition("://")
        if scheme in ("http", "https", "ws", "wss") and not self._allowed.allows(url):
            self._note(f"Refused, not an allowed origin: {_line(scheme + '://' + rest.partition('/')[0])}.")

    async def _dismiss(self, dialog: Any) -> None:
        self._note(f"A dialog was dismissed: {_line(dialog.message)}")
        with contextlib.suppress(Exception):
            await dialog.dismiss()

    async def _refuse_popup(self, popup: Any) -> None:
        if self._page is None:  # it is the one that is being made
            return
        self._popups += 1
        self._note("A pop-up was closed.")
        if self._popups > _MAX_POPUPS:
            self.close()
        else:
            with contextlib.suppress(Exception):
                await popup.close()

    def _note(self, text: str) -> None:
        if text not in self._notes and len(self._notes) < _MAX_NOTES:
            self._notes.append(text)

    def _told(self) -> list[str]:
        """The notes since they were told last; those of one action may come late and are told with the next."""
        notes, self._notes = self._notes, []
        return notes


async def _located(page: Any, element: str) -> Any:
    if not _ELEMENT.fullmatch(element):
        raise ToolError(f"{element[:40]!r} is not the reference of an element, like e7")
    located = page.locator(f"aria-ref={element}")
    if not await located.count():
        raise ToolError(f"there is no element {element} on this page; read it again")
    return located


def _reason(error: Exception) -> str:
    """Playwright's message in one line: what was tried, and what the last attempt met."""
    said, _, log = str(error).partition("Call log:")
    said = _line(said.partition(" at http")[0].removeprefix("Page.goto: ").removeprefix("Locator."))
    steps = [step.strip(" -\n") for step in log.split("\n")]
    last = next((_line(step) for step in reversed(steps) if step and not _WAITING.match(step)), "")
    return ": ".join(filter(None, [said.rstrip("."), last])) or type(error).__name__


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _CUT else line[: _CUT - 3] + "..."
