"""How fast the sandboxes answer ``print(1)``; the table in ``docs/security.md``.

    python benchmarks/sandbox.py            measure all, rewrite the table (root: CPU time is read from a cgroup)

CPU time is that of everything that takes part: this process, the sandbox with all its short-lived processes, and for
Docker the container, the engine and its shims.
"""

# ruff: noqa: E501
from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from agentgym.errors import MissingExtra, SandboxUnavailable
from agentgym.tools.python import Limits, open_sandbox
from agentgym.tools.python.sandbox import ProcessSandbox

DOCUMENT = Path(__file__).parent.parent / "docs" / "security.md"
BEGIN, END = "<!-- speed: made by benchmarks/sandbox.py -->", "<!-- end of speed -->"
ROUNDS, CALLS, FRESH = 3, 200, 40
EPISODES, BUSY = 64, "sum(i * i for i in range(200_000))"
_ENGINE = ("dockerd", "containerd", "containerd-shim", "containerd-shim-runc-v2")
_CLOCK = os.sysconf("SC_CLK_TCK")


class CpuMeter:
    """CPU seconds of this process, all it ever starts, and a container."""

    def __init__(self) -> None:
        self._group: tuple[Path, float, str] | None = None
        self.container: str | None = None
        for root, name, unit in (
            (Path("/sys/fs/cgroup/cpuacct"), "cpuacct.usage", 1e-9),
            (Path("/sys/fs/cgroup"), "cpu.stat", 1e-6),
        ):
            with suppress(OSError):
                folder = root / f"agentgym-benchmark-{os.getpid()}"
                folder.mkdir()
                (folder / "cgroup.procs").write_text(str(os.getpid()))
                self._group = (folder / name, unit, str(root))
                return

    def read(self) -> float:
        """Seconds so far; not a number where it cannot be measured."""
        if self._group is None:
            return float("nan")
        file, unit, root = self._group
        total = self._seconds(file, unit)
        if self.container is not None:
            for folder in (f"docker/{self.container}", f"system.slice/docker-{self.container}.scope"):
                with suppress(OSError):
                    total += self._seconds(Path(root) / folder / file.name, unit)
            total += engine_seconds()
        return total

    def _seconds(self, file: Path, unit: float) -> float:
        words = file.read_text().split()
        return int(words[1] if words[0] == "usage_usec" else words[0]) * unit


def engine_seconds() -> float:
    """CPU seconds of Docker's own processes, shared with whoever else uses the engine."""
    total = 0.0
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and (entry / "comm").read_text().strip() in {name[:15] for name in _ENGINE}:
                total += sum(map(int, (entry / "stat").read_text().rpartition(")")[2].split()[11:13])) / _CLOCK
    return total


def measure(meter: CpuMeter, function: Callable[[], object], calls: int) -> tuple[float, float]:
    """(median seconds a call, CPU seconds a call)."""
    function()
    seconds, before = [], meter.read()
    for _ in range(calls):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), (meter.read() - before) / calls


def fresh() -> None:
    """What a call costs that starts an interpreter, with no protection."""
    subprocess.run(["/usr/bin/python3", "-c", "print(1)"], capture_output=True, check=True)


def idle_seconds() -> float:
    """Seconds that the machine's cores have had nothing to do."""
    return int(Path("/proc/stat").read_text().split()[4]) / _CLOCK


def crowd(sandbox: ProcessSandbox, meter: CpuMeter) -> tuple[int, float, float, float]:
    """(results lost, cores used, share of the machine left idle, seconds) when many episodes call at once."""
    sessions = [sandbox.session() for _ in range(EPISODES)]
    with ThreadPoolExecutor(EPISODES) as pool:
        list(pool.map(lambda session: session.run("0"), sessions))
        start, before, idle = time.perf_counter(), meter.read(), idle_seconds()
        values = list(pool.map(lambda s: [s.run(BUSY).value for _ in range(5)], sessions))
        seconds, used = time.perf_counter() - start, meter.read() - before
        unused = (idle_seconds() - idle) / seconds / (os.cpu_count() or 1)
    for session in sessions:
        session.close()
    expected = str(sum(i * i for i in range(200_000)))
    return sum(value != expected for five in values for value in five), used / seconds, unused, seconds


def main() -> int:
    """Measure, print, and write the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    meter = CpuMeter()
    sandboxes: dict[str, ProcessSandbox] = {}
    for kind in ("bubblewrap", "docker"):
        try:
            made = open_sandbox(kind, limits=Limits(wall=30, cpu=30, memory=128 << 20, disk=16 << 20))
        except (SandboxUnavailable, MissingExtra) as error:
            print(f"{kind}: skipped, {error}")
            continue
        assert isinstance(made, ProcessSandbox)
        sandboxes[kind] = made
        if kind == "docker":
            meter.container = made.process()._transport._container.id
    rows: dict[str, tuple[Callable[[], object], int]] = {"`python3 -c` afresh, unprotected": (fresh, FRESH)}
    for kind, sandbox in sandboxes.items():
        session = sandbox.session()
        rows[f"{kind}, session"] = (lambda session=session: session.run("print(1)"), CALLS)
        rows[f"{kind}, stateless"] = (lambda sandbox=sandbox: sandbox.run("print(1)"), CALLS)
    cached = open_sandbox(next(iter(sandboxes)), cache=10)
    rows["cached"] = (lambda: cached.run("print(1)"), CALLS * 10)
    rounds = [{name: measure(meter, *row) for name, row in rows.items()} for _ in range(ROUNDS)]
    base = "`python3 -c` afresh, unprotected"
    lines = ["| `print(1)` | median ms (range) | of a fresh start, same round | calls per CPU s |", "|---|---|---|---|"]
    for name in rows:
        wall = sorted(each[name][0] * 1e3 for each in rounds)
        share = statistics.median(each[name][0] / each[base][0] for each in rounds)
        rate = statistics.median(1 / each[name][1] if each[name][1] > 0 else float("inf") for each in rounds)
        lines.append(f"| {name} | {wall[1]:.3g} ({wall[0]:.3g}–{wall[-1]:.3g}) | 1/{1 / share:.3g} | {rate:.3g} |")
    lines += ["", f"{EPISODES} episodes calling at once, 5 calls of about 15 ms each:", ""]
    for kind, sandbox in sandboxes.items():
        lost, cores, unused, seconds = crowd(sandbox, meter)
        lines.append(
            f"- {kind}: {lost} of {EPISODES * 5} results lost; {cores:.2f} of {os.cpu_count()} cores used for {seconds:.2f} s "
            f"beside other work, {max(0.0, unused):.0%} of the machine left idle"
        )
        sandbox.close()
    cached.close()
    text = "\n".join(lines)
    print(text)
    document = DOCUMENT.read_text()
    head, _, rest = document.partition(BEGIN)
    DOCUMENT.write_text(f"{head}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
