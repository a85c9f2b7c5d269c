"""What ends the processes of a sandbox: the code's own failure, and nobody else's."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from sandboxes import sandbox_or_skip

from agentgym.envs.code import CodeEnv
from agentgym.envs.code.judge import passed
from agentgym.errors import SandboxUnavailable, WorldFault
from agentgym.policy import ScriptedPolicy
from agentgym.records import StopReason, Task
from agentgym.rollout import Group, Rollout
from agentgym.tools.python import Failure, Limit, Limits, PythonError, Result, open_sandbox
from agentgym.tools.python.sandbox import ProcessSandbox
from agentgym.tools.python.tool import python_tool
from agentgym.tools.toolbox import Toolbox

LIMITS = Limits(wall=5, cpu=5, memory=96 << 20, processes=12, file_size=1 << 20, disk=2 << 20, output=1000)

KILL = """
import os, signal, time
pid = os.getpid()
for _ in range({}):
    pid = int(open(f"/proc/{{pid}}/stat").read().rpartition(")")[2].split()[1])
os.kill(pid, signal.SIGKILL)
time.sleep(30)
"""
MONITOR, SUPERVISOR = KILL.format(2), KILL.format(4)
ENDED = PythonError(Failure.EXITED, message="the code ended the sandbox process that ran it")


@pytest.fixture
def unprotected() -> Iterator[ProcessSandbox]:
    with pytest.warns(RuntimeWarning, match="without a sandbox"):
        made = open_sandbox("unsafe-local", limits=LIMITS, unsafe_local=True, worker_slots=8)
    assert isinstance(made, ProcessSandbox)
    with made:
        yield made


@pytest.mark.parametrize("code", [MONITOR, SUPERVISOR])
def test_code_that_ends_what_watches_it_has_failed(unprotected: ProcessSandbox, code: str) -> None:
    assert unprotected.run(code) == Result(error=ENDED)
    session = unprotected.session()
    session.run("x = 1")
    assert session.run(code) == Result(error=ENDED, lost=True)
    assert session.run("'x' in globals()").value == "False"
    assert passed(unprotected, code, [["", ""], ["", ""]]) == 0
    assert passed(unprotected, "print(input())", [["a", "a"]]) == 1


def test_code_that_ends_the_sandbox_takes_nobody_with_it(
    unprotected: ProcessSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting, working = unprotected.session(seed=3), unprotected.session()
    drawn = waiting.run("import random\nx = random.random()\nx").value
    working.run("y = [1]")
    found: list[Result] = []
    thread = threading.Thread(target=lambda: found.append(working.run("import time; time.sleep(1); y.append(2); y")))
    thread.start()
    time.sleep(0.3)
    assert unprotected.session().run(SUPERVISOR).error == ENDED
    thread.join(60)
    assert found[0].value == working.run("y").value == "[1, 2]"
    monkeypatch.setattr(unprotected, "alone", lambda: pytest.fail("nothing of this session ran when the sandbox died"))
    assert waiting.run("x").value == drawn


def test_a_session_that_cannot_be_brought_back_is_the_worlds_fault(unprotected: ProcessSandbox) -> None:
    session = unprotected.session()
    session.run("import time\ntime.time_ns()")
    unprotected.run(SUPERVISOR)
    with pytest.raises(WorldFault, match=r"the sandbox died, and call 1 of 1 gave another result when played again"):
        session.run("1")
    assert session.run("2").value == "2"


def test_a_sandbox_that_cannot_be_started_again_is_the_worlds_fault(
    unprotected: ProcessSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: int) -> None:
        raise SandboxUnavailable("bubblewrap was uninstalled")

    monkeypatch.setattr(type(unprotected), "_start", gone)
    with pytest.raises(WorldFault, match="the sandbox died and cannot be started again: bubblewrap was uninstalled"):
        unprotected.run(SUPERVISOR)
    with pytest.raises(WorldFault, match="cannot be started again"):
        unprotected.run("1")


UNREADABLE = """
import ctypes, os, time
for _ in range(6):
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: nobody else may look at its memory
        held = bytearray(40 << 20)
        time.sleep(5)
        os._exit(0)
held = bytearray(40 << 20)
time.sleep(5)
"""


@pytest.mark.parametrize("kind", ["bubblewrap", "docker"])
def test_memory_of_unreadable_processes_counts(kind: str) -> None:
    made = sandbox_or_skip(kind, limits=LIMITS, parallel=2, worker_slots=4)
    with made:
        result = made.session().run(UNREADABLE)
        assert result.error is not None
        assert (result.error.kind, Limit.MEMORY in result.limits) == (Failure.MEMORY, True)
        assert passed(made, UNREADABLE, [["", ""]]) == 0


# In an episode --------------------------------------------------------------------------------------------------------


def programming(box: ProcessSandbox) -> CodeEnv:
    """Programs are asked for and judged in this sandbox."""
    env = CodeEnv(families="number_program", sandbox="unsafe-local", unsafe_local_python=True)
    env.sandbox = box
    env.reset(seed=0)
    assert "tests" in env.question.data
    return env


@pytest.mark.filterwarnings("ignore:unsafe_local:RuntimeWarning")
@pytest.mark.parametrize("code", [MONITOR, SUPERVISOR])
def test_an_answer_that_ends_its_judge_is_a_failure(unprotected: ProcessSandbox, code: str) -> None:
    policy = ScriptedPolicy(lambda request: f"<answer>{code}</answer>")
    with Rollout(lambda: programming(unprotected), policy, threads=0) as rollout:
        (episode,) = rollout.play([Group("g", Task(0))])
    assert (episode.stop, episode.success, episode.reward, episode.failed) == (StopReason.TERMINATED, False, 0.0, False)


def test_a_dead_sandbox_ends_the_episode_and_is_no_result_of_a_tool(
    unprotected: ProcessSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: int) -> Any:
        raise SandboxUnavailable("bubblewrap was uninstalled")

    box = Toolbox([python_tool(unprotected)]).open()
    assert box.call("python", {"code": "1"}).result == "1"
    monkeypatch.setattr(type(unprotected), "_start", gone)
    with pytest.raises(WorldFault, match="the sandbox died and cannot be started again"):
        box.call("python", {"code": SUPERVISOR})
