"""A call of a tool's function in flight: started here, on the background loop or in a thread, and waited for."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from agentgym.threads import OutOfTime, Threads
from agentgym.tools.loop import background

_threads = Threads("agentgym-tool")


class Execution:
    """Starts a call; :meth:`result` waits for it, once.

    Args:
        function: without parameters; sync, or returning a coroutine.
        timeout: seconds from now on, None for no limit.
        aside: run it beside the caller even where nothing limits its time. Without that it runs here and now.
    """

    def __init__(self, function: Callable[[], Any], *, timeout: float | None, aside: bool) -> None:
        self._timeout, self._begin = timeout, time.perf_counter()
        self._end: float | None = None
        self._value: Any = None
        self._error: BaseException | None = None
        self._coroutine: Future[Any] | None = None
        self._over: threading.Lock | None = None
        coroutine = inspect.iscoroutinefunction(getattr(function, "func", function))
        if timeout is None and not aside and not coroutine:
            self._run(function)
            if isinstance(self._error, KeyboardInterrupt):
                raise self._error
            return
        self._over = threading.Lock()  # one lock wakes the one that waits; a Future would take three
        self._over.acquire()
        if coroutine:
            self._coroutine = background().submit(function())
            self._coroutine.add_done_callback(lambda done: self._run(partial(done.result, 0)))
        else:
            _threads.start(partial(self._run, function))

    def result(self) -> Any:
        """What the function returns or raises.

        Raises:
            OutOfTime: it took too long. A coroutine was cancelled; a thread goes on for as long as it wants.
        """
        if self._over is not None:
            left = -1.0 if self._timeout is None else max(0.0, self._begin + self._timeout - time.perf_counter())
            if not self._over.acquire(timeout=left):
                if self._coroutine is not None:
                    self._coroutine.cancel()
                raise OutOfTime
        if self._error is not None:
            raise self._error
        return self._value

    @property
    def running(self) -> bool:
        """Whether it still runs; a coroutine that was cancelled does not."""
        return self._end is None and (self._coroutine is None or not self._coroutine.done())

    @property
    def seconds(self) -> float:
        """How long it took, or how long it has been running."""
        return (self._end or time.perf_counter()) - self._begin

    def _run(self, function: Callable[[], Any]) -> None:
        try:
            self._value = function()
        except BaseException as error:  # for whoever waits
            self._error = error
        self._end = time.perf_counter()
        if self._over is not None:
            self._over.release()
