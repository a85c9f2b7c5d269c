"""A web browser as tools: open, click, type, select, read and back, on an allow-list of origins.

>>> from agentgym.tools.browser import browser_tools
>>> tools = browser_tools(["http://localhost:8000"])                 # doctest: +SKIP

Needs the extra ``browser`` and a Chromium. Each episode has a page in a context of its own; all episodes share one
browser. What a page can do is in ``docs/security.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agentgym.tools.browser.chromium import BrowserGone, Chromium, Slow, find_chromium, shared_chromium
from agentgym.tools.browser.origins import LOCALHOST, AllowList
from agentgym.tools.browser.session import BrowserSession
from agentgym.tools.tool import Tool, tool

__all__ = [
    "LOCALHOST",
    "AllowList",
    "BrowserGone",
    "BrowserSession",
    "Chromium",
    "Slow",
    "browser_tools",
    "find_chromium",
    "shared_chromium",
]

_START = 90.0  # seconds beyond the time limit that a call may take while the browser starts


def browser_tools(
    origins: Sequence[str] = LOCALHOST,
    *,
    seconds: float = 10.0,
    max_characters: int = 8000,
    price: float = 0.0,
    browser: Chromium | None = None,
) -> list[Tool]:
    """The tools ``open``, ``click``, ``type``, ``select``, ``read`` and ``back`` on one page per episode.

    Args:
        origins: what the browser may talk to, e.g. ``https://example.org`` or ``http://localhost:8000``; ``:*`` is any
            port. Names are resolved now, once; one with a private address is refused unless it is ``localhost``.
        seconds: time limit of one call; a page that takes longer is closed.
        max_characters: of a page that the agent sees.
        price: of one call.
        browser: whose contexts are used; None: the one of this process.

    Raises:
        MissingExtra: Playwright is not installed.
        SandboxUnavailable: there is no Chromium.
        UsageError: an origin is none, or leads into a private network.
    """
    allowed = AllowList(origins)
    if browser is None:
        find_chromium()
        browser = shared_chromium()
    chromium = browser

    def session() -> BrowserSession:
        return BrowserSession(chromium, allowed, seconds)

    def open_page(page: BrowserSession, url: str) -> str:
        """Open a web page. Elements of a page have references such as e7.

        Args:
            url: its address.
        """
        return page.open(url)

    def click(page: BrowserSession, element: str) -> str:
        """Click an element of the page.

        Args:
            element: its reference.
        """
        return page.click(element)

    def type_text(page: BrowserSession, element: str, text: str, enter: bool = False) -> str:
        """Replace the text of a text field.

        Args:
            element: its reference.
            text: what it shall hold.
            enter: press Enter behind it.
        """
        return page.fill(element, text, enter)

    def select(page: BrowserSession, element: str, option: str) -> str:
        """Choose an option of a list.

        Args:
            element: the list's reference.
            option: the option's label.
        """
        return page.select(element, option)

    def read(page: BrowserSession) -> str:
        """Look at the page as it is now."""
        return page.read()

    def back(page: BrowserSession) -> str:
        """Go to the page before."""
        return page.back()

    functions: dict[str, Callable[..., str]] = {
        "open": open_page,
        "click": click,
        "type": type_text,
        "select": select,
        "read": read,
        "back": back,
    }
    return [
        tool(
            function,
            name=name,
            session=session,
            timeout=seconds + _START,
            price=price,
            max_characters=max_characters,
        )
        for name, function in functions.items()
    ]
