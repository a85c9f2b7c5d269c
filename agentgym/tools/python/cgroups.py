"""Control groups for the worker slots of a bubblewrap sandbox, wherever this user may make some.

Root may, and whoever runs in a delegated group (``systemd-run --user --scope -p Delegate=yes``). The groups are made
and named inside, by :mod:`agentgym.tools.python.inside.cgroup`; here is the folder that they are made in.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path

_PREFIX = "agentgym-"
_PATIENCE = 2.0  #: seconds until the kernel lets go of groups whose processes ended
_START = ["/bin/sh", "-c", 'echo 0 > "$0" && exec "$@"']  # joins a group, then is the program


class Groups:
    """A folder for the groups of one sandbox process, in each hierarchy that has something to say.

    Attributes:
        version: of the kernel's interface, 1 or 2.
        folders: ``"memory"`` and ``"cpu"`` -> folder; without ``"memory"`` only CPU time is counted.
    """

    def __init__(self, version: int, folders: dict[str, Path], owner: int | None) -> None:
        self.version, self.folders = version, folders
        if owner is not None:
            for folder in set(folders.values()):
                for file in (folder, folder / "cgroup.procs", folder / "cgroup.subtree_control"):
                    with contextlib.suppress(FileNotFoundError):
                        os.chown(file, owner, owner)
        self.descriptors = {name: os.open(folder, os.O_RDONLY | os.O_DIRECTORY) for name, folder in folders.items()}

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command that starts ``argv`` where its processes may move to the groups."""
        if self.version == 1:
            return list(argv)
        start = self.folders["cpu"] / "start"
        start.mkdir()
        return [*_START, str(start / "cgroup.procs"), *argv]

    def close(self) -> None:
        """Remove the groups, once everything in them ended."""
        for descriptor in self.descriptors.values():
            os.close(descriptor)
        self.descriptors = {}
        end = time.monotonic() + _PATIENCE
        while not all(map(_removed, {*self.folders.values()})) and time.monotonic() < end:
            time.sleep(0.02)


def make_groups(owner: int | None, *, version: int | None = None) -> Groups | None:
    """Folders for groups; None where none can be made.

    Args:
        owner: user id that is to make groups in them; None: this process's own.
        version: of the kernel's interface; None: the one that counts memory here.
    """
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    own = dict(_own_groups())
    name = f"{_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
    if version != 2:
        folders: dict[str, Path] = {}
        try:
            for part, controller in (("memory", "memory"), ("cpu", "cpuacct")):
                root = next(
                    where for _, where, kind, how, *_ in mounts if kind == "cgroup" and controller in how.split(",")
                )
                folders[part] = _made(Path(root + own[controller]), name)
            return Groups(1, folders, owner)
        except (OSError, KeyError, StopIteration):
            for folder in folders.values():
                _removed(folder)
    with contextlib.suppress(OSError, KeyError, StopIteration):
        if version != 1:
            root = next(where for _, where, kind, *_ in mounts if kind == "cgroup2")
            return _unified(Path(root), own[""], name, owner)
    return None


def _own_groups() -> list[tuple[str, str]]:
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    return [(controller, path.rstrip("/")) for _, controllers, path in lines for controller in controllers.split(",")]


def _unified(root: Path, own: str, name: str, owner: int | None) -> Groups:
    """In the nearest group above this process that lets its children count memory, or else in the nearest at all."""
    here = Path(f"{root}{own}")
    places = [here, *here.parents[: len(here.parts) - len(root.parts)]]
    for place in places:
        with contextlib.suppress(OSError):
            if "memory" in (place / "cgroup.subtree_control").read_text().split():
                folder = _made(place, name)
                (folder / "cgroup.subtree_control").write_text("+memory")
                return Groups(2, {"memory": folder, "cpu": folder}, owner)
    return Groups(2, {"cpu": _made(here, name)}, owner)


def _made(place: Path, name: str) -> Path:
    for left in place.glob(f"{_PREFIX}[0-9]*-*"):  # by a process that was killed
        if not Path("/proc", left.name.split("-")[1]).exists():
            _removed(left)
    folder = place / name
    folder.mkdir()
    return folder


def _removed(folder: Path) -> bool:
    """Whether the groups in a folder, and the folder, are gone now."""
    with contextlib.suppress(OSError):  # something in it still ends
        for inner in [path for path in folder.iterdir() if path.is_dir()]:
            inner.rmdir()
        folder.rmdir()
    return not folder.exists()
