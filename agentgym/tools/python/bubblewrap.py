"""The embedded default: bubblewrap, no daemon, no image, no root needed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from agentgym.errors import SandboxUnavailable
from agentgym.tools.python.cgroups import make_groups
from agentgym.tools.python.protocol import Limits
from agentgym.tools.python.sandbox import ProcessSandbox
from agentgym.tools.python.sandbox_process import ProcessTransport, SandboxProcess, command, last_line

_NOBODY = "65534"
_PACKAGES = "/packages/{}"  #: where a folder of packages is seen inside

_PROBE = """
import json, os, sys, sysconfig
import ctypes, hashlib, sqlite3, ssl, decimal, zlib, bz2, lzma, uuid
libraries = {os.path.dirname(line.split()[-1]) for line in open("/proc/self/maps") if ".so" in line.split()[-1]}
paths = sysconfig.get_paths()
print(json.dumps({"executable": os.path.realpath(sys.executable), "version": sys.version.split()[0],
    "folders": sorted(libraries | {paths["stdlib"], paths["platstdlib"]})}))
"""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python on this machine: its program, version, and the folders it cannot run without."""

    executable: str
    version: str
    folders: tuple[str, ...]


class BubblewrapSandbox(ProcessSandbox):
    """Python code in bubblewrap: no network, a read-only root with the interpreter alone, nothing in the environment.

    Args:
        limits, parallel, worker_slots: see :class:`~agentgym.tools.python.sandbox.ProcessSandbox`.
        python: the interpreter; None: ``/usr/bin/python3``, else the one that runs this.
        packages: folders with packages the code may import, bound read-only; they must fit that interpreter.
        cgroups: give each worker slot a control group, wherever this user may make some.

    Raises:
        SandboxUnavailable: bubblewrap is not installed, or the kernel does not let it work.
    """

    kind = "bubblewrap"

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        parallel: int | None = None,
        worker_slots: int = 256,
        python: str | None = None,
        packages: Sequence[str] = (),
        cgroups: bool = True,
    ) -> None:
        super().__init__(limits, parallel=parallel, worker_slots=worker_slots)
        self.packages = tuple(str(Path(folder).resolve()) for folder in packages)
        self.cgroups = cgroups
        require_bubblewrap()
        self._python = probe(python or default_python())
        self.process()

    @property
    def interpreter(self) -> str:
        return " ".join(("Python", self._python.version, *self.packages))

    def _start(self, worker_slots: int, spares: int) -> SandboxProcess:
        argv = [*_as_nobody(), require_bubblewrap(), *_isolation_options(self._python, self.packages), "--"]
        groups = make_groups(int(_NOBODY) if os.geteuid() == 0 else None) if self.cgroups else None
        transport = ProcessTransport([*argv, *command(self._python.executable)], {"PATH": os.defpath}, groups)
        return SandboxProcess(
            transport,
            self.limits,
            mode="namespaces",
            home="/tmp",  # noqa: S108  # inside, a file system of the worker slot's own
            worker_slots=worker_slots,
            spares=spares,
            groups=groups,
            packages=[_PACKAGES.format(number) for number in range(len(self.packages))],
        )


def require_bubblewrap() -> str:
    """The path of ``bwrap``.

    Raises:
        SandboxUnavailable: it (or setpriv, for root) is missing; says how to get it.
    """
    if not sys.platform.startswith("linux"):
        raise SandboxUnavailable(f"bubblewrap needs Linux, this is {sys.platform}; use the Docker sandbox")
    path = shutil.which("bwrap")
    if path is None:
        raise SandboxUnavailable("bubblewrap is not installed; run: apt-get install bubblewrap (or use Docker)")
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        raise SandboxUnavailable("setpriv is not installed; run: apt-get install util-linux")
    return path


def default_python() -> str:
    """An interpreter that an unprivileged user can read."""
    return "/usr/bin/python3" if Path("/usr/bin/python3").exists() else os.path.realpath(sys.executable)


@lru_cache
def probe(python: str) -> Interpreter:
    """Ask an interpreter what it needs.

    Raises:
        SandboxUnavailable: it does not run.
    """
    try:
        done = subprocess.run([python, "-I", "-S", "-c", _PROBE], capture_output=True, timeout=60, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        said = last_line(error.stderr or b"") if isinstance(error, subprocess.CalledProcessError) else str(error)
        raise SandboxUnavailable(
            f"the interpreter {python!r} does not run: {said}; name another by python=..."
        ) from None
    facts = json.loads(done.stdout)
    return Interpreter(facts["executable"], facts["version"], tuple(facts["folders"]))


def _as_nobody() -> list[str]:
    """Root would be exempt from the process limit, inside too."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--reuid", _NOBODY, "--regid", _NOBODY, "--clear-groups", "--"]


def _isolation_options(python: Interpreter, packages: Sequence[str]) -> list[str]:
    argv = ["--unshare-all", "--cap-drop", "ALL", "--new-session", "--die-with-parent", "--hostname", "sandbox"]
    argv += ["--clearenv", "--setenv", "PYTHONHASHSEED", "0"]
    for link in ("/bin", "/lib", "/lib32", "/lib64", "/sbin"):
        if Path(link).is_symlink():
            argv += ["--symlink", str(Path(link).readlink()), link]
    loaders = [folder for folder in ("/lib64", "/usr/lib64") if not Path(folder).is_symlink()]
    readable = [*python.folders, *loaders, "/usr/share/zoneinfo"]
    for folder in _outermost(os.path.realpath(path) for path in readable if Path(path).is_dir()):
        argv += ["--ro-bind", folder, folder]
    argv += ["--ro-bind", python.executable, python.executable]
    for number, folder in enumerate(packages):
        argv += ["--ro-bind", folder, _PACKAGES.format(number)]
    for device in ("null", "full", "random", "urandom"):  # no /dev/zero: memory shared through it is in nobody's sum
        argv += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    argv += ["--symlink", "/tmp", "/dev/shm", "--proc", "/proc", "--dir", "/tmp", "--chdir", "/"]  # noqa: S108
    return [*argv, "--remount-ro", "/"]


def _outermost(folders: Iterable[str]) -> list[str]:
    """Each folder once, none inside another."""
    kept: list[str] = []
    for folder in sorted(set(folders)):
        if not any(folder == other or folder.startswith(other + "/") for other in kept):
            kept.append(folder)
    return kept
