"""One thread that drives a generation engine for requests from everywhere.

A finished request leaves its keys and values behind in its slot, and the next request is put where most of its context
is held already: a client that sends the whole conversation every turn pays for its new part only.
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
from agentgym.models.engines.local import Engine, Generation, TokenSampling, common_prefix


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
        max_context: tokens a slot can hold.
        slots: requests in work at the same time; more wait.

    Attributes:
        engine: touched by the thread only.
    """

    def __init__(self, model: Any, stop: Collection[int], *, max_context: int, slots: int = 64) -> None:
        self._model, self._stop, self._max_context = model.eval(), stop, max_context
        self.slots = slots
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
        self._held: dict[int, list[int]] = {}  # free slot -> what it holds, the least recently used first

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
        while self._waiting and len(self._working) < self.slots:
            job = self._waiting[0]
            slot = self._slot(job.context)
            generation = self.engine.submit(slot, job.context, job.key, job.max_new_tokens, job.sampling)
            self._working[id(generation)] = (job, generation)
            self._waiting.popleft()

    def _slot(self, context: list[int]) -> int:
        """The slot that the context goes on from; where there is none, another one with what is shared copied to it."""
        best = max(self._held, key=lambda slot: common_prefix(self._held[slot], context), default=None)
        shared = common_prefix(self._held[best], context) if best is not None else 0
        if best is not None and 2 * shared >= len(self._held[best]):
            del self._held[best]
            return best
        unused = len(self._held) + len(self._working) < self.slots
        slot = self.engine.open() if unused else next(iter(self._held))
        if best is not None and slot != best:
            self.engine.copy(best, slot, shared)
        self._held.pop(slot, None)
        return slot

    def _answer(self, finished: list[Generation]) -> None:
        for generation in finished:
            job, _ = self._working.pop(id(generation))
            self._held[generation.slot] = [*generation.context, *generation.action[:-1]]
            job.future.set_result(generation)

    def _fail(self, error: Exception) -> None:
        """Everything in work is lost, and the engine with it."""
        failed = [*(job for job, _ in self._working.values()), *self._waiting]
        self._working.clear()
        self._waiting.clear()
        self._fresh()
        for job in failed:
            job.future.set_exception(PolicyError(f"the model failed: {type(error).__name__}: {error}"))
