"""The user of a real page: looks at the document, and moves a real mouse, keyboard and wheel."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from agentgym.envs.gui.browser.site import shared_site
from agentgym.envs.gui.commands import Command
from agentgym.envs.gui.page import WorldBackend
from agentgym.envs.gui.snapshot import Snapshot, snapshot
from agentgym.envs.gui.widgets import Widget
from agentgym.envs.gui.world import World
from agentgym.errors import ForkError, WorldFault
from agentgym.tools.browser import BrowserGone, Chromium, Slow

R = TypeVar("R")

_SECONDS = 60.0  #: an action takes milliseconds; whoever waits longer has a browser that hangs
_NOTCH = 300  #: as in page.js
_VIEW = {"width": 960, "height": 640}

#: Pages that no episode uses: an episode ends by giving its page back, and the next one shows its own world in it.
#: Nothing of the one before is left: the page keeps no cookies, no storage and no elements.
_free: WeakKeyDictionary[Chromium, list[Any]] = WeakKeyDictionary()


class ChromiumBackend(WorldBackend):
    """``backend="chromium"``: one page in a context of its own.

    The world stays in this process, and the page asks the server for it, so a fork is a copy of the world with a page
    of its own; what the copy shows is compared with what the original shows.

    Args:
        world: what is shown.
        browser: whose context it is.
    """

    def __init__(self, world: World, browser: Chromium) -> None:
        super().__init__(world)
        self._browser = browser
        self._page: Any = None
        self._address = shared_site().publish(world)
        self._run(self._open)

    def snapshot(self) -> Snapshot:
        async def work(_: Any) -> Any:
            return await self._page.evaluate("snapshot()")

        seen = self._run(work)
        elements = [
            (element, Widget(role, name, "", value, tuple(states), tuple(options), shortcut))
            for element, role, name, value, states, options, shortcut in seen["shown"]
        ]
        return snapshot(
            seen["title"],
            elements,
            dialog=seen["dialog"],
            up=seen["up"],
            down=seen["down"],
            back=seen["back"],
            here=seen["here"],
            tabs=tuple(seen["tabs"]),
            apps=tuple(self._world.task.apps),
        )

    def perform(self, command: Command) -> None:
        self._run(lambda _: self._performed(command))

    def screenshot(self) -> bytes:
        async def work(_: Any) -> bytes:
            picture: bytes = await self._page.screenshot()
            return picture

        return self._run(work)

    def fork(self) -> ChromiumBackend:
        twin = ChromiumBackend(self._world.copy(), self._browser)
        if (twin.anchor(), twin.snapshot()) != (self.anchor(), self.snapshot()):
            twin.close()
            raise ForkError("the page of a fork does not show what the original shows")
        return twin

    def close(self) -> None:
        shared_site().withdraw(self._address)
        page, self._page = self._page, None
        if page is not None:
            _free.setdefault(self._browser, []).append(page)

    async def _open(self, browser: Any) -> None:
        free = _free.setdefault(self._browser, [])
        while free:
            page = free.pop()
            if not page.is_closed() and page.context.browser is browser:
                self._page = page
                await page.evaluate("(address) => attach(address)", self._address)
                return
        context = await browser.new_context(viewport=_VIEW, reduced_motion="reduce", accept_downloads=False)
        self._page = await context.new_page()
        await self._page.goto(self._address)

    async def _performed(self, command: Command) -> None:
        name, element, text = command
        keyboard = self._page.keyboard
        if name in ("click", "check"):
            await self._click(_element(element))
        elif name == "type":
            await self._click(_element(element))
            await keyboard.press("Control+A")
            # A box that stays empty has been typed in all the same.
            await keyboard.insert_text(text or "x")
            if not text:
                await keyboard.press("Backspace")
            await keyboard.press("Tab")
        elif name == "select":
            await self._page.select_option(_element(element), label=text)
        elif name == "press":
            await keyboard.press(text)
        elif name == "scroll":
            x, y = await self._page.evaluate("locate('[data-window]')")
            await self._page.mouse.move(x, y)
            await self._page.mouse.wheel(0, _NOTCH if text == "down" else -_NOTCH)
        elif name == "back":
            await self._click("#back")
        else:
            await self._click(f'[data-app="{text}"]')

    async def _click(self, selector: str) -> None:
        x, y = await self._page.evaluate("(selector) => locate(selector)", selector)
        await self._page.mouse.click(x, y)

    def _run(self, work: Callable[[Any], Coroutine[Any, Any, R]]) -> R:
        try:
            return self._browser.run(work, _SECONDS)
        except (BrowserGone, Slow) as error:
            page, self._page = self._page, None
            if page is not None:  # nobody else shall have it, and a script in it may never end
                self._browser.spawn(page.context.close())
            raise WorldFault(f"Chromium: {error}") from error


def _element(element: str) -> str:
    return f'[data-id="{element}"]'
