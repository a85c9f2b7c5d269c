"""Running model-written code with no protection at all, for those who insist."""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

from agentgym.errors import SandboxUnavailable
from agentgym.tools.python.protocol import Limits
from agentgym.tools.python.sandbox import ProcessSandbox
from agentgym.tools.python.sandbox_process import ProcessTransport, SandboxProcess, command


class UnsafeLocalSandbox(ProcessSandbox):
    """NO SANDBOX: the code runs as you, with your files, network and processes in reach.

    The limits hold against accidents only. Every opening warns.

    Args:
        unsafe_local: must be True; there is no other way in.

    Raises:
        SandboxUnavailable: ``unsafe_local`` is not True.
    """

    kind = "unsafe-local"

    def __init__(
        self, limits: Limits | None = None, *, unsafe_local: bool, parallel: int | None = None, worker_slots: int = 256
    ) -> None:
        if unsafe_local is not True:
            raise SandboxUnavailable(
                "the local runner protects nothing; install bubblewrap or Docker, or pass unsafe_local=True "
                "(--unsafe-local-python) if a stranger's code may do all that you may do"
            )
        warnings.warn(
            "unsafe_local: model-written Python runs without a sandbox, with all your rights",
            RuntimeWarning,
            stacklevel=2,
        )
        super().__init__(limits, parallel=parallel, worker_slots=worker_slots)
        self._folder = tempfile.TemporaryDirectory(
            prefix="agentgym-unsafe-",
            ignore_cleanup_errors=True,  # what nothing watched any more may still be writing there
        )
        self.process()

    @property
    def interpreter(self) -> str:
        return f"Python {sys.version.split()[0]}"

    def _start(self, worker_slots: int, spares: int) -> SandboxProcess:
        home = str(
            Path(tempfile.mkdtemp(dir=self._folder.name)) / "{worker_slot}"
        )  # a process that died leaves its own behind
        transport = ProcessTransport(command(sys.executable), env={"PYTHONHASHSEED": "0"})
        return SandboxProcess(transport, self.limits, mode="unsafe", home=home, worker_slots=worker_slots, spares=1)

    def close(self) -> None:
        super().close()
        self._folder.cleanup()
