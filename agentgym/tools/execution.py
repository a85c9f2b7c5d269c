"""A call of a tool's function in flight: started here, on the background loop or in a thread, and waited for."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from agentgym.tools.loop import background, in_thread


class OutOfTime(Exception):
    """The call took longer than it may. A coroutine was cancelled; a thread goes on for as long as it wants."""


class Execution:
    """Starts a call; :meth:`result` waits for it.

    Args:
        function: without parameters; sync, or returning a coroutine.
        timeout: seconds from now on, None for no limit.
        aside: run it beside the caller even where nothing limits its time. Without that it runs here and now.
    """

    def __init__(self, function: Callable[[], Any], *, timeout: float | None, aside: bool) -> None:
        self._timeout, self._begin = timeout, time.perf_counter()
        self._end: float | None = None
        self._future = _started(function, inline=timeout is None and not aside)
        self._future.add_done_callback(self._note_end)

    def result(self) -> Any:
        """What the function returns or raises.

        Raises:
            OutOfTime: it took too long.
        """
        left = None if self._timeout is None else max(0.0, self._begin + self._timeout - time.perf_counter())
        try:
            return self._future.result(left)
        except TimeoutError:
            if self._future.done():  # the tool's own TimeoutError
                raise
        self._future.cancel()
        raise OutOfTime

    @property
    def running(self) -> bool:
        """Whether it still runs; a cancelled one does not."""
        return not self._future.done()

    @property
    def seconds(self) -> float:
        """How long it took, or how long it has been running."""
        return (self._end or time.perf_counter()) - self._begin

    def _note_end(self, _: object) -> None:
        self._end = time.perf_counter()


def _started(function: Callable[[], Any], *, inline: bool) -> Future[Any]:
    if inspect.iscoroutinefunction(getattr(function, "func", function)):
        return background().submit(function())
    if not inline:
        return in_thread(function)
    future: Future[Any] = Future()
    try:
        future.set_result(function())
    except (Exception, SystemExit) as error:
        future.set_exception(error)
    return future
