"""A call of a tool's function, as a job: run here and now, or started on the background loop or in a thread."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from agentgym.tools.loop import background
from agentgym.waiting import OutOfTime, Threads

_threads = Threads("agentgym-tool")


class Execution:
    """A :class:`~agentgym.waiting.Job`.

    Args:
        function: without parameters; sync, or returning a coroutine.
        limit: seconds that it may take, None for no limit.
    """

    __slots__ = ("_coroutine", "_function", "_value", "began", "ended", "error", "late", "limit")

    def __init__(self, function: Callable[[], Any], limit: float | None = None) -> None:
        self.limit, self.began, self.ended, self.late = limit, 0.0, 0.0, False
        self.error: BaseException | None = None
        self._function, self._value = function, None
        self._coroutine: Future[Any] | None = None

    @property
    def aside(self) -> bool:
        return self.limit is not None or self._is_coroutine

    @property
    def _is_coroutine(self) -> bool:
        return inspect.iscoroutinefunction(getattr(self._function, "func", self._function))

    def run(self) -> None:
        self.began = time.perf_counter()
        self._call(self._function)

    def start(self, done: Callable[[], object]) -> None:
        if not self._is_coroutine:

            def here() -> None:
                self.run()
                done()

            _threads.start(here)
            return
        self.began = time.perf_counter()
        self._coroutine = coroutine = background().submit(self._function())

        def over(_: object) -> None:
            self._call(partial(coroutine.result, 0))
            done()

        coroutine.add_done_callback(over)

    def give_up(self) -> None:
        self.late = True
        if self._coroutine is not None:
            self._coroutine.cancel()

    def result(self) -> Any:
        """What the function returned or raised.

        Raises:
            OutOfTime: it took too long. A coroutine was cancelled; a thread goes on for as long as it wants.
        """
        if self.late:
            raise OutOfTime
        if self.error is not None:
            raise self.error
        return self._value

    @property
    def running(self) -> bool:
        """Whether it still runs; a coroutine that was cancelled does not."""
        return not self.ended and (self._coroutine is None or not self._coroutine.done())

    @property
    def seconds(self) -> float:
        """How long it took, or how long it has been running."""
        return (self.ended or time.perf_counter()) - self.began

    def _call(self, function: Callable[[], Any]) -> None:
        try:
            self._value = function()
        except BaseException as error:  # for whoever waits
            self.error = error
        self.ended = time.perf_counter()
