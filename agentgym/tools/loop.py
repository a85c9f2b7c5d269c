"""How a synchronous environment starts what it must wait for: on a background event loop, or in a daemon thread."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

R = TypeVar("R")


class LoopThread:
    """An asyncio event loop that runs in a daemon thread."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="agentgym-loop", daemon=True).start()

    def submit(self, work: Coroutine[Any, Any, R]) -> Future[R]:
        """Start a coroutine on the loop; cancelling the future cancels it."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)


_lock = threading.Lock()
_shared: LoopThread | None = None


def background() -> LoopThread:
    """The process's loop thread, started at first use (again in a forked child, which inherits no threads)."""
    global _shared
    with _lock:
        if _shared is None or _shared.pid != os.getpid():
            _shared = LoopThread()
        return _shared


def in_thread(work: Callable[[], R]) -> Future[R]:
    """Start ``work`` in a daemon thread of its own, which never delays the end of the process as a pool's would."""
    future: Future[R] = Future()

    def body() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # handed to whoever waits
            future.set_exception(error)

    future.set_running_or_notify_cancel()
    threading.Thread(target=body, name="agentgym-tool", daemon=True).start()
    return future
