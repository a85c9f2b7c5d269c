"""Every error agentgym raises on purpose.

::

    AgentGymError
    ├── UsageError(ValueError)         a wrong option or argument; the CLI prints its one line and exits with 2
    │   └── UnknownName(LookupError)   a name that is not registered; offers the nearest ones
    ├── MissingExtra(ImportError)      an optional dependency is not installed; says which extra to install
    ├── ContractError(RuntimeError)    an environment broke the contract (see agentgym.check)
    │   └── ForkError                  a running episode could not be copied, or its replay went another way
    ├── ToolError(RuntimeError)        told to the model as the tool's result; never ends an episode
    ├── PolicyError(RuntimeError)      a policy could not answer; ends one episode, never the run
    ├── WorldFault(RuntimeError)       the world broke, not the agent: the episode is replayed once, then left out
    ├── SandboxUnavailable(RuntimeError)  no safe way to run code here; says what to install
    └── StoreError(OSError)            a run folder or an episode file that cannot be read or continued

Add a class only where a caller would handle it differently; each also inherits the standard type it refines.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AgentGymError(Exception):
    """Base of all errors of this package."""


class UsageError(AgentGymError, ValueError):
    """An option or argument that cannot be obeyed. The message names the value, the rule and the next step."""


class UnknownName(UsageError, LookupError):
    """A name that is not registered.

    Args:
        kind: what the name should have been, e.g. ``"algorithm"``.
        name: what was given.
        known: every valid name; the nearest ones are offered.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        super().__init__(f"unknown {kind} {name!r}{nearest(name, self.known)}")


#: What pip calls this package; the name ``agentgym`` belongs to another project there.
DISTRIBUTION = "agentgym-turns"


class MissingExtra(AgentGymError, ImportError):
    """An optional dependency that is needed now and is not installed."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f"{module!r} is not installed; run: pip install '{DISTRIBUTION}[{extra}]'")


class ContractError(AgentGymError, RuntimeError):
    """An environment did what the contract forbids; ``agentgym check ENV`` lists every violation."""


class ForkError(ContractError):
    """A running episode cannot be copied, or replaying its actions did not lead to the same state."""


class ToolError(AgentGymError, RuntimeError):
    """A failure inside a tool that the model should read; it becomes the text of the tool's result."""


class PolicyError(AgentGymError, RuntimeError):
    """A policy that could not answer a request. It ends that episode with ``StopReason.POLICY_ERROR``."""


class WorldFault(AgentGymError, RuntimeError):
    """The world of an environment is at fault and not the agent: a dead process, a server that cannot be reached.

    Raise it in ``reset`` or ``step``. The episode is played once more in a new environment; if that fails too, it ends
    with ``StopReason.WORLD_FAULT``, is left out of every mean, and is counted. Any other exception that ``step`` raises
    is the agent's failure (``StopReason.ACTION_ERROR``): what an action can provoke must not remove an episode.
    """


class SandboxUnavailable(AgentGymError, RuntimeError):
    """No sandbox can run code on this machine; the message says what to install."""


class StoreError(AgentGymError, OSError):
    """A run folder or episode file that is missing, damaged, or belongs to something else."""


class DiskFull(StoreError):
    """There was no room to write something; what had been written before is whole."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: `` - did you mean 'a' or 'b'?``, or all names where none is close."""
    names = list(known)
    lowered = {n.lower(): n for n in names}
    close = [lowered[n] for n in difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)]
    if close:
        return "; did you mean " + " or ".join(map(repr, close)) + "?"
    return "; known: " + ", ".join(names) if names else "; none is registered"
