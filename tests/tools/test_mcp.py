"""MCP servers' tools, against real server processes over stdio and streamable HTTP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agentgym.check import check_env
from agentgym.envs.tool_env import Question, ToolEnv
from agentgym.errors import ForkError, UnknownName, UsageError, WorldFault
from agentgym.tools.foreign_schema import checker
from agentgym.tools.mcp import McpTools, mcp_tools
from agentgym.tools.tool import Tool
from agentgym.tools.toolbox import Toolbox

pytest.importorskip("mcp", reason="needs the extra mcp")
SERVER = str(Path(__file__).with_name("mcp_server.py"))
COMMAND = [sys.executable, SERVER]


@pytest.fixture(scope="module")
def http() -> Iterator[Callable[..., tuple[str, subprocess.Popen[bytes]]]]:
    """Starts HTTP servers: URL and process."""
    started = []

    def start(port: int | None = None) -> tuple[str, subprocess.Popen[bytes]]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = port or free.getsockname()[1]
        process = subprocess.Popen([*COMMAND, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        started.append(process)
        while True:
            assert process.poll() is None, "the test server ended"
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return f"http://127.0.0.1:{port}/mcp", process
            except ConnectionRefusedError:
                time.sleep(0.05)

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="module", params=["stdio", "http"])
def tools(request: pytest.FixtureRequest) -> Iterator[McpTools]:
    if request.param == "stdio":
        with mcp_tools(COMMAND, env={"AGENTGYM_TEST": "given"}, price=0.5) as tools:
            yield tools
    else:
        url, _ = request.getfixturevalue("http")()
        with mcp_tools(url, headers={"X-Test": "1"}, price=0.5) as tools:
            yield tools


@pytest.fixture
def box(tools: McpTools) -> Toolbox:
    return Toolbox(tools)


def test_the_server_describes_its_tools(tools: McpTools) -> None:
    assert [t.name for t in tools] == [
        "add",
        "text_echo",
        "environment",
        "picture",
        "wait",
        "fail",
        "pid",
        "die",
        "meet",
    ]
    add = tools[0]
    assert isinstance(add, Tool)
    assert (add.description, add.first, add.price, add.timeout, add.waits) == ("Add two numbers.", "a", 0.5, 30.0, True)
    assert add.parameters["required"] == ["a"]
    assert add.parameters["properties"]["b"]["default"] == 1
    assert [t.name for t in tools[1:3]] == ["text_echo", "environment"]


def test_calls(box: Toolbox) -> None:
    assert [box.call("add", {"a": 1}).result, box.call("add", {"a": 1, "b": 5}).result] == ["2", "6"]
    assert box.call("text_echo", {"text": "é\n<x>"}).result == "é\n<x>"
    assert box.call("picture", {}).result == "look:\n[image image/png]"
    assert box.call("fail", {}).error == "Error executing tool fail: no luck today"
    assert box.cost == 2.5


def test_wrong_arguments_name_the_field(box: Toolbox) -> None:
    assert box.call("add", {"a": "one"}).error == "argument 'a': 'one' is not of type 'integer'"
    assert box.call("add", {"b": 1}).error == "arguments: 'a' is a required property"
    assert box.call("add", [1]).error == "arguments must be an object"
    assert (box.misfits, box.ran) == (3, 0)


def test_many_threads_share_a_connection(box: Toolbox) -> None:
    with ThreadPoolExecutor(8) as pool:
        calls = list(pool.map(lambda n: box.open().call("add", {"a": n, "b": n}), range(40)))
    assert [c.result for c in calls] == [str(2 * n) for n in range(40)]


def test_calls_of_one_action_run_side_by_side() -> None:
    with mcp_tools(COMMAND, only=["meet"], parallel=True) as tools:
        made = Toolbox(tools).call_all([("meet", {"number": 3})] * 3)  # each waits until all three are there
    assert [(c.result, c.error) for c in made] == [("met", None)] * 3


def test_only_some_with_a_prefix_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTGYM_SECRET", "s3cret")
    with mcp_tools(COMMAND, only=["environment"], prefix="sums_", env={"AGENTGYM_TEST": "given"}) as tools:
        assert [t.name for t in tools] == ["sums_environment"]
        box = Toolbox(tools)
        assert box.call("sums_environment", {"name": "AGENTGYM_TEST"}).result == "given"
        assert box.call("sums_environment", {"name": "AGENTGYM_SECRET"}).result == "none"  # not inherited


def test_a_slow_call_is_given_up_and_the_next_one_works() -> None:
    with mcp_tools(COMMAND, timeout=2.0) as tools:
        box = Toolbox(tools)
        assert box.call("wait", {"seconds": 0}).result == "done"
        assert box.call("wait", {"seconds": 600}).error == "wait timed out after 2 s"
        assert box.call("add", {"a": 1}).result == "2"


def test_a_dead_http_server_is_the_worlds_fault(http: Callable[..., tuple[str, subprocess.Popen[bytes]]]) -> None:
    url, process = http()
    with mcp_tools(url) as tools:
        box = Toolbox(tools)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for _ in range(2):
            with pytest.raises(WorldFault, match=r"^cannot connect to the MCP server 'http"):
                box.call("add", {"a": 1})
        http(int(url.split(":")[2].partition("/")[0]))
        assert box.call("add", {"a": 1}).result == "2"


def test_a_hanging_server_is_given_up(http: Callable[[], tuple[str, subprocess.Popen[bytes]]]) -> None:
    url, process = http()
    with mcp_tools(url, timeout=0.5) as tools:
        os.kill(process.pid, signal.SIGSTOP)
        assert Toolbox(tools).call("add", {"a": 1}).error == "add timed out after 0.5 s"
        os.kill(process.pid, signal.SIGCONT)


def test_closing_ends_a_local_server_and_its_tools() -> None:
    tools = mcp_tools(COMMAND)
    box = Toolbox(tools)
    pid = int(box.call("pid", {}).result)
    tools.close()
    tools.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert box.call("add", {"a": 1}).error == "the connection to the MCP server 'Sums' was closed"


def test_what_cannot_be_reached() -> None:
    with pytest.raises(UsageError, match=r"cannot connect to the MCP server \['/nonexistent/x'\]: FileNotFoundError"):
        mcp_tools(["/nonexistent/x"])
    with pytest.raises(UsageError, match="Connection closed; it wrote: sorry"):
        mcp_tools([sys.executable, "-c", "raise SystemExit('sorry')"])
    with pytest.raises(UsageError, match=r"cannot connect to the MCP server 'http://127.0.0.1:9/mcp': ConnectError"):
        mcp_tools("http://127.0.0.1:9/mcp")


def test_options_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match=r"'server.py' is no http\(s\) URL; give a command as a list"):
        mcp_tools("server.py")
    with pytest.raises(UsageError, match="an empty command cannot be started"):
        mcp_tools([])
    with pytest.raises(UsageError, match="headers= is for a URL"):
        mcp_tools(COMMAND, headers={"a": "b"})
    with pytest.raises(UsageError, match="env= is for a server that is started"):
        mcp_tools("http://127.0.0.1:9/mcp", env={"a": "b"})
    with pytest.raises(UnknownName, match="unknown MCP tool 'ad'; did you mean 'add'"):
        mcp_tools(COMMAND, only=["ad"])


def test_a_schema_never_fetches_and_never_breaks_a_call() -> None:
    with pytest.raises(UsageError, match=r"server, tool x: broken schema: 'nothing' is not valid"):
        checker({"type": "nothing"}, "server, tool x")
    check = checker({"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/schema"}}}, "x")
    box = Toolbox([Tool("x", "X.", {"type": "object"}, check, lambda **_: "")])
    error = box.call("x", {"a": 1}).error
    assert error is not None
    assert "Unresolvable" in error


NOTES = [sys.executable, str(Path(__file__).with_name("notes_server.py"))]


def note(box: Toolbox, *texts: str) -> list[str]:
    return [call.error or call.result for call in box.call_all([("note", {"text": text}) for text in texts])]


def process(box: Toolbox) -> int:
    return int(box.call("pid", {"text": ""}).result)


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# --- a server that ends ---------------------------------------------------------------------------------------------


def test_a_call_that_ends_the_server_is_told_and_the_server_started_again() -> None:
    with mcp_tools(NOTES) as tools:
        box = Toolbox(tools)
        first = process(box)
        for _ in range(2):
            (told,) = note(box, "bomb")
            assert (
                told == "the MCP server 'Notes' is gone: calling 'note' like this ends it; it was started again, empty"
            )
            assert note(box, "a") == ["a"]
        assert process(box) != first


def test_a_server_that_died_by_itself_is_the_worlds_fault_and_started_again() -> None:
    with mcp_tools(NOTES) as tools:
        box = Toolbox(tools)
        os.kill(process(box), signal.SIGKILL)
        with pytest.raises(WorldFault, match=r"^the MCP server 'Notes' is gone$"):
            note(box, "a")
        assert note(box, "b") == ["b"]


# --- a server per episode -----------------------------------------------------------------------------------------


def test_episodes_share_a_server_unless_each_has_its_own() -> None:
    with mcp_tools(NOTES) as tools:
        assert [note(Toolbox(tools).open(), "a", "b") for _ in range(2)] == [["a", "a,b"], ["a,b,a", "a,b,a,b"]]
    with mcp_tools(NOTES, per_episode=True) as tools:
        box = Toolbox(tools)
        one, two = box.open(), box.open()
        assert [note(one, "a", "b"), note(two, "c"), note(one, "d")] == [["a", "a,b"], ["c"], ["a,b,d"]]
        pids = {process(b) for b in (one, two, one)}  # the tools of one episode share its server
        assert len(pids) == 2
        one.close()
        two.close()
        assert not any(map(runs, pids))
        assert note(one, "e") == ["e"]


def test_a_branch_has_a_server_in_which_the_calls_were_made_again() -> None:
    with mcp_tools(NOTES, per_episode=True) as tools:
        box = Toolbox(tools).open()
        assert note(box, "a", "nothing") == ["a", "nothing to write down"]
        branch = box.fork()
        assert [note(branch, "b"), note(box, "c"), note(branch.fork(), "d")] == [["a,b"], ["a,c"], ["a,b,d"]]
        note(box, "time")
        message = r"call 4 of 4, 'note', had another result when it was made again: 'a,c,\d+' became 'a,c,\d+'; the MCP"
        with pytest.raises(ForkError, match=message):
            box.fork()
        note(branch, "who")
        with pytest.raises(
            ForkError, match=r"call 4 of 4, 'note', .*: 'error: \d+ does not say' became 'error: \d+ does"
        ):
            branch.fork()
        assert note(branch, "e") == ["a,b,e"]


def test_a_long_result_is_compared_without_being_kept() -> None:
    with mcp_tools(NOTES, per_episode=True) as tools:
        box = Toolbox(tools).open()
        note(box, *["long"] * 3)
        kept = box.session(tools[0].session)._calls  # type: ignore[arg-type]
        assert max(len(call.outcome) for call in kept) < 200
        with pytest.raises(ForkError, match=r"call 1 of 3, 'note', had another result when it was made again: 'x"):
            box.fork()


def test_closing_ends_the_servers_of_all_episodes() -> None:
    tools = mcp_tools(NOTES, per_episode=True)
    box = Toolbox(tools).open()
    note(box, "a")
    pids = {process(box.fork()), process(box)}  # nobody holds the branch any more
    assert len(pids) == 2
    tools.close()
    assert not any(map(runs, pids))
    assert note(box, "a") == ["the connection to the MCP server 'Notes' was closed"]
    assert note(box.open(), "a") == ["the connections to the MCP server were closed"]


def test_a_server_that_starts_no_more_is_the_worlds_fault(tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text(Path(NOTES[1]).read_text())
    with mcp_tools([sys.executable, str(script)], per_episode=True) as tools:
        box = Toolbox(tools)
        assert note(box.open(), "a") == ["a"]
        script.unlink()
        with pytest.raises(WorldFault, match="cannot connect to the MCP server"):
            note(box.open(), "a")


def test_a_call_that_ends_the_episodes_server_is_told() -> None:
    with mcp_tools(NOTES, per_episode=True) as tools:
        box, other = Toolbox(tools).open(), Toolbox(tools).open()
        note(other, "x")
        note(box, "a")
        (told,) = note(box, "bomb")
        assert told.startswith("the MCP server 'Notes' is gone: calling 'note' like this ends it")
        assert note(box, "c") == ["c"]  # without its state
        (told,) = note(box, "time bomb")  # after the next call
        assert told == "c,time bomb"
        (told,) = note(box, "d")
        assert told.startswith("the MCP server 'Notes' is gone: calling")
        assert note(other, "y") == ["x,y"]


def test_an_episodes_server_that_died_by_itself_is_the_worlds_fault() -> None:
    with mcp_tools(NOTES, per_episode=True) as tools:
        box = Toolbox(tools).open()
        note(box, "a")
        os.kill(process(box), signal.SIGKILL)
        with pytest.raises(WorldFault, match=r"^the MCP server 'Notes' is gone$"):
            note(box, "b")
        assert note(box, "c") == ["c"]


def test_a_late_call_costs_the_episode_its_server() -> None:
    with mcp_tools(NOTES, per_episode=True, timeout=5.0) as tools:
        box = Toolbox(tools).open()
        assert note(box, "a") == ["a"]
        assert box.call("wait", {"text": ""}).error == (
            "wait timed out after 5 s; its session was closed and the next call starts a new one"
        )
        assert note(box, "b") == ["b"]


def test_an_environment_with_a_server_per_episode_keeps_the_contract() -> None:
    with mcp_tools(NOTES, only=["note"], per_episode=True) as tools:

        def notebook(split: str = "train") -> ToolEnv:
            tasks = [Question(f"Write down {n} things.") for n in range(10)]
            return ToolEnv(tools, tasks, lambda answer, question: 0.0, split=split)

        report = check_env(notebook, seeds=(0,), turns=4)
    assert report.ok, str(report)
    assert {"determinism", "isolation", "forking"} <= set(report.held)
    with mcp_tools(NOTES, only=["note"]) as tools:
        assert "determinism" in {v.rule for v in check_env(notebook, seeds=(0,), turns=4).violations}


def test_in_an_environment() -> None:
    with mcp_tools(COMMAND, only=["add"]) as tools:
        env = ToolEnv(tools, {"train": [Question("20 + 22?", ["42"])]}, lambda a, q: a in q.answers, syntax="tags")
        assert env.waits
        env.reset()
        assert env.step('<add>{"a": 20, "b": 22}</add>')[0] == "<result>\n42\n</result>"
        assert env.step("<answer>42</answer>")[1] == 1.0
