"""Equal stateless calls answered from memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Self

from agentgym.tools.python.protocol import Limits, Result, Sandbox, Session

_Key = tuple[str, str, tuple[tuple[str, str | bytes], ...]]


class CachedSandbox:
    """Another sandbox, with its last ``size`` good results kept. A result with an error or a limit is never kept."""

    def __init__(self, sandbox: Sandbox, size: int) -> None:
        self.sandbox, self.size = sandbox, size
        self.kind: str = sandbox.kind
        self.limits: Limits = sandbox.limits
        self.hits = self.misses = 0
        self._results: OrderedDict[_Key, Result] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def fingerprint(self) -> str:
        return self.sandbox.fingerprint

    def run(
        self,
        code: str,
        *,
        stdin: str = "",
        files: Mapping[str, str | bytes] | None = None,
        session: Session | None = None,
    ) -> Result:
        if session is not None:
            return session.run(code, stdin=stdin, files=files)
        key = (code, stdin, tuple(sorted((files or {}).items())) if files else ())
        with self._lock:
            if (known := self._results.get(key)) is not None:
                self._results.move_to_end(key)
                self.hits += 1
                return known
        result = self.sandbox.run(code, stdin=stdin, files=files)
        with self._lock:
            self.misses += 1
            if result.error is None and not result.limits:
                self._results[key] = result
                while len(self._results) > self.size:
                    self._results.popitem(last=False)
        return result

    def session(self, *, seed: int | None = None) -> Session:
        """A session of the sandbox inside; sessions have state and are never cached."""
        return self.sandbox.session(seed=seed)

    def close(self) -> None:
        self.sandbox.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
