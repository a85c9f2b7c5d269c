"""One thread that drives a generation engine for requests from everywhere.

A finished request leaves its keys and values in its KV slot, and the next request is put where most of its context is
held already: a client that sends the whole conversation every turn pays for its new part only.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Collection
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from agentgym.errors import PolicyError
from agentgym.models.engines.local import Engine, Generation, TokenSampling
from agentgym.records import common_prefix


@dataclass(slots=True)
class _Job:
    context: list[int]
    key: int
    max_new_tokens: int
    sampling: TokenSampling
    future: Future[Generation] = field(default_factory=Future)


class EngineThread:
    """Answers requests by futures, all of them decoding together.

    Args:
        model: as in :class:`~agentgym.models.engines.local.Engine`.
        stop: the token ids that end an action.
        max_context: tokens a KV slot can hold.
        max_concurrent_requests: requests in work at the same time; more wait.

    Attributes:
        engine: touched by the thread only.
    """

    def __init__(
        self, model: Any, stop: Collection[int], *, max_context: int, max_concurrent_requests: int = 64
    ) -> None:
        self._model, self._stop, self._max_context = model.eval(), stop, max_context
        self.max_concurrent_requests = max_concurrent_requests
        self._arrived: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._waiting: deque[_Job] = deque()
        self._working: dict[int, tuple[_Job, Generation]] = {}
        self._fresh()
        self._thread = threading.Thread(target=self._run, name="agentgym-engine", daemon=True)
        self._thread.start()

    def submit(self, context: list[int], key: int, max_new_tokens: int, sampling: TokenSampling) -> Future[Generation]:
        """Ask for one action. The future fails with a PolicyError where the model does."""
        job = _Job(context, key, max_new_tokens, sampling)
        job.future.set_running_or_notify_cancel()  # from here on it is answered, whoever still listens
        self._arrived.put(job)
        return job.future

    def close(self) -> None:
        """Finish what was submitted, then end the thread."""
        self._arrived.put(None)
        self._thread.join()

    def _fresh(self) -> None:
        self.engine = Engine(self._model, self._stop, max_context=self._max_context)
        self._held: dict[int, list[int]] = {}  # free KV slot -> what it holds, the least recently used first

    def _run(self) -> None:
        closed = False
        while not closed or self._waiting or self._working:
            idle = not self._waiting and not self._working
            while idle or not self._arrived.empty():
                job = self._arrived.get()
                idle = False
                if job is None:
                    closed = True
                else:
                    self._waiting.append(job)
            try:
                self._admit()
                self._answer(self.engine.step())
            except Exception as error:  # e.g. out of memory; whoever asks next may ask for less
                self._fail(error)

    def _admit(self) -> None:
        while self._waiting and len(self._working) < self.max_concurrent_requests:
            job = self._waiting[0]
            kv_slot = self._kv_slot(job.context)
            generation = self.engine.submit(kv_slot, job.context, job.key, job.max_new_tokens, job.sampling)
            self._working[id(generation)] = (job, generation)
            self._waiting.popleft()

    def _kv_slot(self, context: list[int]) -> int:
        """The KV slot that holds the context's beginning; if there is none, one that gets a copy of what is shared."""
        best = max(self._held, key=lambda kv_slot: common_prefix(self._held[kv_slot], context), default=None)
        shared = common_prefix(self._held[best], context) if best is not None else 0
        if best is not None and 2 * shared >= len(self._held[best]):
            del self._held[best]
            return best
        unused = len(self._held) + len(self._working) < self.max_concurrent_requests
        kv_slot = self.engine.open() if unused else next(iter(self._held))
        if best is not None and kv_slot != best:
            self.engine.copy(best, kv_slot, shared)
        self._held.pop(kv_slot, None)
        return kv_slot

    def _answer(self, finished: list[Generation]) -> None:
        for generation in finished:
            job, _ = self._working.pop(id(generation))
            self._held[generation.kv_slot] = [*generation.context, *generation.action[:-1]]
            job.future.set_result(generation)

    def _fail(self, error: Exception) -> None:
        """Everything in work is lost, and the engine with it."""
        failed = [*(job for job, _ in self._working.values()), *self._waiting]
        self._working.clear()
        self._waiting.clear()
        self._fresh()
        for job in failed:
            job.future.set_exception(PolicyError(f"the model failed: {type(error).__name__}: {error}"))
