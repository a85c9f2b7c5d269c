"""Running Python code that a model wrote: safe by default, fast enough for training, with typed results.

>>> with open_sandbox() as sandbox:                                  # doctest: +SKIP
...     sandbox.run("x = 6\\nx * 7").value
'42'
"""

from __future__ import annotations

from typing import Any

from agentgym.errors import SandboxUnavailable, UnknownName
from agentgym.tools.python.protocol import Failure, Limit, Limits, PythonError, Result, Sandbox, Session
from agentgym.tools.python.session import PythonSession

__all__ = [
    "Failure",
    "Limit",
    "Limits",
    "PythonError",
    "PythonSession",
    "Result",
    "Sandbox",
    "Session",
    "open_sandbox",
]

KINDS = ("auto", "bubblewrap", "docker", "unsafe-local")


def open_sandbox(
    kind: str = "auto", *, limits: Limits | None = None, unsafe_local: bool = False, cache: int = 0, **options: Any
) -> Sandbox:
    """A running sandbox; close it, or use it in a ``with`` statement.

    Args:
        kind: ``"bubblewrap"``, ``"docker"``, or ``"auto"``: the first of them that works here. ``"unsafe-local"``
            protects nothing and needs ``unsafe_local=True`` too.
        limits: what one call may use.
        unsafe_local: with ``"auto"``, fall back on the unprotected local runner where nothing else works.
        cache: how many results of equal stateless calls to keep; failures are never kept. 0: none. A program that
            reads a clock or unseeded random numbers then sees the first answer again.
        options: passed to the sandbox's class (``python``, ``packages``, ``image``, ``parallel``, ``worker_slots``).

    Raises:
        SandboxUnavailable: nothing safe works here; one line that says what to install.
    """
    sandbox = _opened(kind, limits, unsafe_local, options)
    if cache:
        from agentgym.tools.python.cache import CachedSandbox

        return CachedSandbox(sandbox, cache)
    return sandbox


def _opened(kind: str, limits: Limits | None, unsafe_local: bool, options: dict[str, Any]) -> Sandbox:
    from agentgym.tools.python.bubblewrap import BubblewrapSandbox
    from agentgym.tools.python.docker import DockerSandbox
    from agentgym.tools.python.local import UnsafeLocalSandbox

    if kind == "bubblewrap":
        return BubblewrapSandbox(limits, **options)
    if kind == "docker":
        return DockerSandbox(limits, **options)
    if kind == "unsafe-local":
        return UnsafeLocalSandbox(limits, unsafe_local=unsafe_local, **options)
    if kind != "auto":
        raise UnknownName("sandbox", kind, KINDS)
    reasons = []
    for choice in (BubblewrapSandbox, DockerSandbox):
        try:
            return choice(limits, **options)
        except (SandboxUnavailable, ImportError) as error:
            reasons.append(f"{choice.kind}: {error}")
    if unsafe_local:
        return UnsafeLocalSandbox(limits, unsafe_local=True, **options)
    raise SandboxUnavailable("no sandbox for Python code here; " + "; ".join(reasons))
