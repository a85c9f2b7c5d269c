"""One real Chromium for many isolated contexts, driven by Playwright on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Self, TypeVar

from agentgym.errors import MissingExtra, SandboxUnavailable
from agentgym.tools.loop import LoopThread

R = TypeVar("R")

EXECUTABLES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HEADLESS = ("chromium-headless-shell", "chrome-headless-shell")  #: without a window these take half the processor time
_START_SECONDS = 60.0
_FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--dns-prefetch-disable",
    # A page must not find a way around its context's proxy by UDP.
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--webrtc-ip-handling-policy=disable_non_proxied_udp",
)


class BrowserGone(Exception):
    """The browser or the page died while it was used; the next use starts another one."""


class Slow(Exception):
    """The work was not done in time, and is given up."""


class Chromium:
    """A Chromium process; started at first use, and again when it has died. Thread-safe.

    Args:
        executable: path of the browser; None looks for one, see :func:`find_chromium`.
        headless: without a window.
        flags: further command-line flags.

    Attributes:
        starts: how often a process was started.
    """

    def __init__(self, *, executable: str | None = None, headless: bool = True, flags: Sequence[str] = ()) -> None:
        self._executable, self._headless, self._flags = executable, headless, tuple(flags)
        self._thread: LoopThread | None = None
        self._driver: Any = None
        self._browser: Any = None
        self._starting: asyncio.Lock | None = None
        self._guard = threading.Lock()
        self.starts = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, work: Callable[[Any], Coroutine[Any, Any, R]], seconds: float) -> R:
        """Run ``work(browser)`` on the browser's loop and wait for it.

        Args:
            work: given Playwright's ``Browser`` of its async interface, connected.
            seconds: how long the work may take, a start of the browser not counted.

        Raises:
            Slow: it took longer.
            BrowserGone: the page or the browser died meanwhile.
            MissingExtra: Playwright is not installed.
            SandboxUnavailable: there is no Chromium, or it does not start.
        """
        error = _playwright().Error
        try:
            return self._loop().submit(self._run(work, seconds)).result()
        except TimeoutError as late:
            raise Slow(f"not done in {seconds:g} s") from late
        except error as problem:
            if is_gone(problem):
                raise BrowserGone(_first_line(problem)) from problem
            raise

    def spawn(self, work: Coroutine[Any, Any, object]) -> None:
        """Start work on the browser's loop without waiting for it; its errors are dropped."""

        async def quiet() -> None:
            with contextlib.suppress(Exception):
                await work

        self._loop().submit(quiet())

    def close(self) -> None:
        """End the process; a later use starts another one."""
        with self._guard:
            thread, self._thread = self._thread, None
        if thread is None or thread.pid != os.getpid():
            return
        with contextlib.suppress(Exception):
            thread.submit(self._stop()).result(20)
        thread.stop()

    def _loop(self) -> LoopThread:
        with self._guard:
            if self._thread is None or self._thread.pid != os.getpid():
                self._thread = LoopThread()
                self._driver = self._browser = self._starting = None
            return self._thread

    async def _run(self, work: Callable[[Any], Coroutine[Any, Any, R]], seconds: float) -> R:
        browser = await self._connected()
        async with asyncio.timeout(seconds):
            return await work(browser)

    async def _connected(self) -> Any:
        if self._starting is None:
            self._starting = asyncio.Lock()
        async with self._starting:
            if self._browser is None or not self._browser.is_connected():
                self._browser = await self._start()
            return self._browser

    async def _start(self) -> Any:
        playwright, path = _playwright(), find_chromium(self._executable, headless=self._headless)
        if self._driver is None:
            self._driver = await playwright.async_playwright().start()
        root = hasattr(os, "geteuid") and os.geteuid() == 0
        try:
            browser = await self._driver.chromium.launch(
                executable_path=path,
                headless=self._headless,
                chromium_sandbox=not root,  # as root its own sandbox cannot be set up
                args=[*_FLAGS, *self._flags],
                timeout=1000 * _START_SECONDS,
                handle_sigint=False,
                handle_sigterm=False,
                handle_sighup=False,
            )
        except playwright.Error as error:
            raise SandboxUnavailable(f"Chromium ({path}) does not start: {_first_line(error)}") from error
        self.starts += 1
        return browser

    async def _stop(self) -> None:
        if self._browser is not None:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._browser.close(), 10)
        if self._driver is not None:
            await self._driver.stop()
        self._browser = self._driver = None


def find_chromium(executable: str | None = None, *, headless: bool = True) -> str:
    """Path of the browser: the one given, or the first of :data:`HEADLESS` and :data:`EXECUTABLES` on the path.

    Raises:
        MissingExtra: Playwright, which drives it, is not installed.
        SandboxUnavailable: there is none.
    """
    _playwright()
    known = (*HEADLESS, *EXECUTABLES) if headless else EXECUTABLES
    path = next(filter(None, map(shutil.which, [executable] if executable else known)), None)
    if path is None:
        sought = repr(executable) if executable else "Chromium"
        raise SandboxUnavailable(f"no {sought} on this machine; run: apt-get install chromium, or pass executable=PATH")
    return path


_shared: dict[bool, Chromium] = {}
_shared_guard = threading.Lock()


def shared_chromium(headless: bool = True) -> Chromium:
    """The process's Chromium, without or with a window: started at first use, ends with the process."""
    with _shared_guard:
        if headless not in _shared:
            _shared[headless] = Chromium(headless=headless)
            atexit.register(_shared[headless].close)
        return _shared[headless]


def _playwright() -> Any:
    try:
        from playwright import async_api
    except ImportError as error:
        raise MissingExtra("playwright", "browser") from error
    return async_api


def is_gone(error: Exception) -> bool:
    """Whether this error of Playwright's says that the page or the browser died."""
    text = str(error)
    return type(error).__name__ == "TargetClosedError" or "crash" in text.lower() or "Connection closed" in text


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
