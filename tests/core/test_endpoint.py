"""The endpoint policy against a real server process that obeys the protocol, and breaks it where it is told to."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentgym.budget import Budget, BudgetedEnv
from agentgym.budget.prices import ModelPrice, Prices
from agentgym.endpoint import EndpointPolicy, Server
from agentgym.endpoint.server import UnreadableAnswer
from agentgym.endpoint.wire import messages, read_chat, read_completion, read_generate
from agentgym.envs.tool_env import Question, ToolEnv
from agentgym.errors import PolicyError, UsageError
from agentgym.keyed_random import key
from agentgym.policy import Reply, Request
from agentgym.records import Episode, Sample, StopReason, Task, Turn, Usage
from agentgym.rollout import Group, Rollout
from agentgym.tools.tool import tool

STAND_IN = '''
"""Speaks chat/completions (vLLM's fields) and generate (SGLang's). The last message's first word may inject a fault."""
import asyncio, json, sys
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

app, tries, seen = FastAPI(), {}, []

def count(word):
    tries[word] = tries.get(word, 0) + 1
    return tries[word]

def refused(status, text, code=None):
    return JSONResponse({"error": {"message": text, "code": code}}, status, headers={"Retry-After": "0"})

@app.get("/v1/models")
def models():
    return {"object": "list", "data": [{"id": "echo", "object": "model"}]}

@app.get("/seen")
def asked():
    return seen

@app.post("/v1/chat/completions")
async def chat(request: Request):
    body = await request.json()
    seen.append({"body": body, "key": request.headers.get("authorization")})
    text = body["messages"][-1]["content"]
    fault, _, rest = text.partition(" ")
    if fault.startswith("500x"):  # as many times as it says
        if count(rest) <= int(fault[4:]):
            return refused(500, "out of luck")
    if fault == "429" and count(rest) <= 2:
        return refused(429, "slow down")
    if fault == "always":
        return refused(503, "never today")
    if fault == "teapot":
        return refused(418, "key " + str(request.headers.get("authorization")) + "\\nis not tea" + " again" * 100)
    if fault == "long":
        return refused(400, "This model's maximum context length is 64 tokens.")
    if fault == "code":
        return refused(400, "too much", "context_length_exceeded")
    if fault == "garbage" and count(rest) <= 1:
        return Response(b"\\xff<html>", media_type="application/json")
    if fault == "shape" and count(rest) <= 1:
        return {"choices": []}
    if fault == "slow":
        await asyncio.sleep(float(rest))
    if fault == "closed" and count(rest) <= 1:
        raise SystemExit  # ends the connection without an answer
    if body["model"] != "echo":
        return refused(404, "The model `" + body["model"] + "` does not exist.")
    message = {"role": "assistant", "content": text.upper()}
    if body.get("tools"):
        name = body["tools"][0]["function"]["name"]
        if body["messages"][-1]["role"] == "user":
            arguments = json.dumps({"number": 21})
            message = {"role": "assistant", "content": None, "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}]}
    ids = [ord(c) for c in message["content"] or ""]
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    answer = {"choices": [choice], "usage": {"prompt_tokens": 7 * len(body["messages"]), "completion_tokens": len(ids)}}
    if body.get("return_token_ids"):
        answer["prompt_token_ids"] = [ord(c) for m in body["messages"] for c in m["content"]]
        choice["token_ids"] = ids
        choice["logprobs"] = {"content": [{"token": chr(i), "logprob": -i / 8} for i in ids]}
    return answer

@app.post("/v1/completions")
async def completions(request: Request):
    body = await request.json()
    seen.append({"body": body})
    ids = [body["prompt"][-1] + 1, 99]
    return {"choices": [{"text": "?", "token_ids": ids, "logprobs": {"token_logprobs": [-0.5, -0.25]}}],
            "usage": {"prompt_tokens": len(body["prompt"]), "completion_tokens": 2}}

@app.post("/generate")
async def generate(request: Request):
    body = await request.json()
    seen.append({"body": body})
    last = body["input_ids"][-1] + 1
    return {"text": "?", "output_ids": [last, 99], "meta_info": {
        "prompt_tokens": len(body["input_ids"]), "completion_tokens": 2,
        "output_token_logprobs": [[-0.5, last, None], [-0.25, 99, None]]}}

uvicorn.run(app, port=int(sys.argv[1]), log_level="critical")
'''


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(1200):
        try:
            httpx.get(address, timeout=5)
            return
        except httpx.TransportError:
            assert process.poll() is None, "the server has ended"
            time.sleep(0.05)
    raise AssertionError(f"{address} does not answer")


@contextmanager
def stand_in(port: int) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", STAND_IN, str(port)], stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(f"http://127.0.0.1:{port}/v1/models", process)
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    port = free_port()
    with stand_in(port):
        yield f"http://127.0.0.1:{port}/v1"


def asked(url: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(url.removesuffix("/v1") + "/seen").json()
    return found


def request(observation: str, *turns: Turn, **kwargs: Any) -> Request:
    return Request("e/0", key("test"), observation, kwargs.pop("info", {}), turns, **kwargs)


def ask(policy: EndpointPolicy, *args: Any, **kwargs: Any) -> Reply:
    answer = policy.submit(request(*args, **kwargs)).result(30)
    assert isinstance(answer, Reply)
    return answer


def connect(url: str, model: str | None = "echo", **kwargs: Any) -> EndpointPolicy:
    return EndpointPolicy(url, model, **{"backoff": 0.001, "concurrency": 4, **kwargs})


# Chats ----------------------------------------------------------------------------------------------------------------


def test_the_whole_episode_is_sent(url: str) -> None:
    with connect(url, temperature=0.5, max_tokens=9, stop=["\n"], extra={"top_k": 3}) as policy:
        reply = ask(policy, "now", Turn("first", "one"), Turn("second", "two"), instructions="Be brief.")
    assert (reply.action, reply.sample) == ("NOW", None)
    assert reply.usage == Usage(prompt_tokens=42, completion_tokens=3)
    body = asked(url)[-1]["body"]
    roles = [(m["role"], m["content"]) for m in body.pop("messages")]
    assert roles == [
        ("system", "Be brief."),
        ("user", "first"),
        ("assistant", "one"),
        ("user", "second"),
        ("assistant", "two"),
        ("user", "now"),
    ]
    expected = {"model": "echo", "temperature": 0.5, "top_p": 1.0, "max_tokens": 9, "stop": ["\n"], "top_k": 3}
    assert body == {**expected, "seed": key("test") >> 33}


def test_tokens_and_log_probabilities_are_recorded(url: str) -> None:
    with connect(url, samples=True) as policy:
        first = ask(policy, "ab")
        assert first.sample == Sample(0, (97, 98), (65, 66), (-65 / 8, -66 / 8))
        second = ask(policy, "c", Turn("ab", "AB", sample=first.sample))
    assert second.sample is not None
    assert (second.sample.keep, second.sample.context, second.sample.action) == (4, (99,), (67,))


def test_the_price_list_gives_the_cost(url: str) -> None:
    with connect(url, prices=Prices(models={"echo": ModelPrice(1.0, 10.0)})) as policy:
        assert ask(policy, "abc").usage.cost == pytest.approx((7 * 1.0 + 3 * 10.0) / 1e6)


def test_a_token_budget_shortens_the_action(url: str) -> None:
    with connect(url, max_tokens=50) as policy:
        for left, length in ((80, 50), (12, 12), (0, 1)):
            ask(policy, "abc", info={"budget": {"tokens": left}})
            assert asked(url)[-1]["body"]["max_tokens"] == length


def test_any_text_can_be_sent(url: str) -> None:
    with connect(url) as policy:
        assert ask(policy, "é \ud800 \x00 \u2028", Turn("", "\udfff")).action == "É ? \x00 \u2028"


# Native tools ---------------------------------------------------------------------------------------------------------


@tool
def double(number: int) -> str:
    """Double a number.

    Args:
        number: what to double.
    """
    return str(2 * number)


def question_env() -> ToolEnv:
    questions = [Question(f"What is {i} doubled?", answers=["42"]) for i in range(5)]
    return ToolEnv([double], questions, lambda answer, q: answer in q.answers, syntax="native")


@pytest.mark.parametrize(("announce", "last"), [(False, "tool"), (True, "user")])
def test_native_tools_in_a_rollout(url: str, announce: bool, last: str) -> None:
    env = question_env()
    with (
        connect(url, tools=env.tools.schemas()) as policy,
        Rollout(lambda: BudgetedEnv(question_env(), Budget(tool_calls=3), announce=announce), policy) as rollout,
    ):
        episodes = list(rollout.play(Group(f"g{i}", Task(i)) for i in range(4)))
    for episode in episodes:
        assert [c.result for t in episode.turns for c in t.tool_calls][:1] == ["42"]
    chat = asked(url)[-1]["body"]["messages"]
    call = next(m for m in chat if m.get("tool_calls"))
    result = chat[chat.index(call) + 1]
    assert result == {"role": "tool", "tool_call_id": "c1", "content": "42"}
    if not announce:
        assert all((e.stop, e.success) == (StopReason.TERMINATED, True) for e in episodes)
    else:
        assert chat[chat.index(call) + 2] == {"role": "user", "content": "[budget left: 2 tool calls]"}


def native(*names: str, **extra: Any) -> str:
    calls = [{"type": "function", "function": {"name": n, "arguments": "{}"}, **extra} for n in names]
    return json.dumps({"role": "assistant", "content": None, "tool_calls": calls})


def test_every_native_call_gets_a_result() -> None:
    told = '{"role": "tool", "name": "a", "content": "one\\n{two}"}\n{"role": "tool", "name": "b", "content": "2"}'
    chat = messages(request(told, Turn("go", native("a", "b"))), native=True)
    assert [m.get("tool_call_id") for m in chat] == [None, None, "call_0_0", "call_0_1"]
    assert [m["content"] for m in chat[2:]] == ["one\n{two}", "2"]
    assert [c["id"] for c in chat[1]["tool_calls"]] == ["call_0_0", "call_0_1"]
    chat = messages(request("Not understood: too many.", Turn("go", native("a", "b", id="x"))), native=True)
    assert [(m["role"], m["content"]) for m in chat[2:]] == [("tool", "Not understood: too many.")] * 2


@pytest.mark.parametrize("action", ["plain", "{", '{"tool_calls": 3}', '{"tool_calls": [1]}', "[" * 10_000, "7"])
def test_any_action_is_a_message(action: str) -> None:
    said = {"role": "assistant", "content": action}
    assert messages(request("next", Turn("go", action)), native=True)[1] == said
    assert messages(request(action, Turn("go", native("a"))), native=True)[-1]["content"] == action


# Token ids ------------------------------------------------------------------------------------------------------------


def grown(request: Request, before: Any) -> list[int]:
    return [*before, *map(ord, request.observation)]


@pytest.mark.parametrize("api", ["completion", "generate"])
def test_ids_in_ids_out(url: str, api: Any) -> None:
    with connect(url, api=api, encode=grown, decode=lambda ids: "".join(map(chr, ids)), stop=[5]) as policy:
        first = ask(policy, "ab")
        assert (first.action, first.sample) == ("cc", Sample(0, (97, 98), (99, 99), (-0.5, -0.25)))
        second = ask(policy, "x", Turn("ab", "cc", sample=first.sample))
    assert second.sample == Sample(4, (120,), (121, 99), (-0.5, -0.25))
    assert (second.usage.prompt_tokens, second.usage.completion_tokens) == (5, 2)
    body = asked(url)[-1]["body"]
    assert (body.get("prompt") or body["input_ids"]) == [97, 98, 99, 99, 120]
    assert body.get("stop_token_ids") or body["sampling_params"]["stop_token_ids"] == [5]


def test_spelled_ids_and_missing_ids() -> None:
    logprobs = {"tokens": ["token_id:4", "token_id:5"], "token_logprobs": [-1, -2]}
    answer = read_completion({"choices": [{"text": "", "logprobs": logprobs}]})
    assert (answer.action, answer.logprobs, answer.completion_tokens) == ((4, 5), (-1.0, -2.0), 2)
    with pytest.raises(PolicyError, match="carry no token ids"):
        read_completion({"choices": [{"text": "hi", "logprobs": {"tokens": ["h", "i"]}}]})


CHAT = {"choices": [{"message": {"content": "x"}}]}


@pytest.mark.parametrize(
    ("read", "told"),
    [
        (read_chat, None),
        (read_chat, []),
        (read_chat, {}),
        (read_chat, {"choices": [3]}),
        (read_chat, {"choices": [{"message": {"content": 3}}]}),
        (read_chat, {"choices": [{"message": {"content": "x"}, "token_ids": "ab"}]}),
        (read_chat, {"choices": [{"message": {"content": "x"}, "token_ids": [1], "logprobs": {"content": [{}]}}]}),
        (read_chat, {**CHAT, "usage": {"prompt_tokens": "many"}}),
        (read_completion, {"choices": [{"token_ids": [1, 2], "logprobs": {"token_logprobs": [-1]}}]}),
        (read_completion, {"choices": [{"token_ids": [1], "logprobs": {"token_logprobs": [None]}}]}),
        (read_generate, {"text": "x"}),
        (read_generate, {"meta_info": {"output_token_logprobs": [3]}}),
    ],
)
def test_answers_out_of_shape_are_told_apart(read: Any, told: Any) -> None:
    with pytest.raises(UnreadableAnswer):
        read(told)


# Faults ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["500x2 a", "429 b", "garbage c", "shape d", "closed e"])
def test_what_passes_is_tried_again(url: str, fault: str) -> None:
    with connect(url, retries=2) as policy:
        assert ask(policy, fault).action == fault.upper()


@pytest.mark.parametrize(
    ("fault", "kwargs", "message"),
    [
        ("500x9 f", {}, r"answered 500: out of luck \(3 tries\)$"),
        ("always g", {}, r"answered 503: never today \(3 tries\)$"),
        ("slow 20", {"timeout": 0.2}, r"did not answer within 0\.2 s \(3 tries\)$"),
        ("hi", {"model": "ehco"}, r"answered 404: The model `ehco` does not exist\.$"),
    ],
)
def test_what_does_not_pass_is_one_line(url: str, fault: str, kwargs: Any, message: str) -> None:
    with connect(url, retries=2, **kwargs) as policy, pytest.raises(PolicyError, match=message) as raised:
        ask(policy, fault)
    assert "\n" not in str(raised.value)


def test_the_window_is_full(url: str) -> None:
    with connect(url) as policy:
        for fault in ("long", "code"):
            assert ask(policy, fault) == Reply("", stop=StopReason.CONTEXT_FULL)


def test_the_key_is_sent_and_never_shown(url: str, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setenv("MY_KEY", "sk-very-secret\n")
    caplog.set_level(0)
    with connect(url, key_variable="MY_KEY") as policy:
        with pytest.raises(PolicyError) as raised:
            ask(policy, "teapot")
        assert "answered 418: key Bearer *** is not tea again" in str(raised.value)
        assert len(str(raised.value)) < 400
        assert asked(url)[-1]["key"] == "Bearer sk-very-secret"
        shown = f"{raised.value} {policy} {policy.server} {vars(policy)} {caplog.text}"
    assert "sk-very" not in shown
    with pytest.raises(UsageError) as refused:
        connect("http://me:hidden@host/v1", key_variable="MY_KEY")
    assert str(refused.value) == "the address of host holds a password; put it into MY_KEY instead"
    monkeypatch.setenv("MY_KEY", "sk-é")
    with pytest.raises(UsageError, match="the API key in MY_KEY holds characters that cannot be sent"):
        connect(url, key_variable="MY_KEY")


def test_models_are_checked_before_anything_is_played(url: str) -> None:
    with connect(url, model=None) as policy:
        assert policy.check() == policy.model == "echo"
    with connect(url, model=None) as policy:
        assert ask(policy, "hi").action == "HI"
    with (
        connect(url, model="ehco") as policy,
        pytest.raises(PolicyError, match="unknown model 'ehco'; did you mean 'echo'"),
    ):
        policy.check()
    root = url.removesuffix("/v1")  # has no /models
    with connect(root, model=None) as policy, pytest.raises(PolicyError, match="answered 404: Not Found"):
        policy.check()
    with connect(root) as policy:
        assert policy.check() == "echo"
    nowhere = f"http://127.0.0.1:{free_port()}/v1"
    with connect(nowhere) as policy, pytest.raises(PolicyError) as raised:
        policy.check()
    assert str(raised.value).startswith(f"{nowhere} cannot be reached (ConnectError: ")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"url": "localhost:8000"}, "a server's address looks like http://localhost:8000/v1, got 'localhost:8000'"),
        ({"api": "chats"}, "unknown endpoint api 'chats'; did you mean 'chat'?"),
        ({"api": "completion"}, "api='completion' works on token ids: give encode= and decode=, or use api='chat'"),
        ({"concurrency": 0}, "concurrency and max_tokens must be at least 1, got 0 and 512"),
    ],
)
def test_wrong_arguments_are_refused(args: Any, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        connect(**{"url": "http://x/v1", **args})
    assert str(raised.value) == message


def test_waiting_times_grow_and_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(f"http://127.0.0.1:{free_port()}", retries=9, backoff=0.5)
    waits: dict[int, list[float]] = {}
    for number in range(20):
        waits[number] = []
        monkeypatch.setattr(server._closed, "wait", waits[number].append)
        with pytest.raises(PolicyError, match="10 tries"):
            server.post("/x", {}, lambda told: told, key=number)
    for number, tries in enumerate(zip(*waits.values(), strict=True)):
        longest = min(60.0, 0.5 * 2**number)
        assert all(longest / 2 <= wait <= longest for wait in tries)
        assert len(set(tries)) == 20


class Broken(http.server.BaseHTTPRequestHandler):
    """Asks to wait, then closes the connection in the middle of an answer, then sends half a body."""

    count = 0

    def do_POST(self) -> None:
        type(self).count += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.count == 1:
            self.send_response(429)
            self.send_header("Retry-After", "0.05")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.count == 2:
            self.connection.close()
        else:
            self.send_response(200)
            self.send_header("Content-Length", "1000" if self.count == 3 else "2")
            self.end_headers()
            self.wfile.write(b"{}")
        self.close_connection = True

    def log_message(self, *args: Any) -> None:
        return


def test_connections_that_break_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Broken) as broken:
        threading.Thread(target=broken.serve_forever, daemon=True).start()
        server, waits = Server(f"http://127.0.0.1:{broken.server_port}", retries=3, backoff=0.001), []
        monkeypatch.setattr(server._closed, "wait", waits.append)
        assert server.post("/x", {}, lambda told: told, key=1) == {}
        broken.shutdown()
    assert (Broken.count, waits[0], len(waits)) == (4, 0.05, 3)
    server.close()
    with pytest.raises(PolicyError, match="was closed"):
        server.post("/x", {}, lambda told: told, key=1)


def test_a_server_killed_in_the_middle_of_a_run() -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/v1"
    episodes: list[Episode] = []
    with (
        connect(url, tools=question_env().tools.schemas(), retries=1) as policy,
        Rollout(question_env, policy, max_concurrent_episodes=2) as rollout,
    ):
        with stand_in(port) as process:
            play = rollout.play(Group(f"g{i}", Task(i)) for i in range(12))
            episodes += [next(play), next(play)]
            process.kill()
            process.wait()
            episodes += [next(play) for _ in range(4)]
        with stand_in(port):
            episodes += play
    assert len(episodes) == 12
    assert [e.success for e in episodes[:2]] == [True, True]
    broken = [e for e in episodes if e.failed]
    assert 1 <= len(broken) <= 6
    for episode in broken:
        assert episode.stop is StopReason.POLICY_ERROR
        assert str(episode.failure).startswith(f"PolicyError: {url} cannot be reached")
    assert all(e.success for e in episodes if not e.failed)


@pytest.mark.slow
def test_transformers_serve(tmp_path: Path) -> None:
    pytest.importorskip("openai", reason="transformers serve needs: pip install 'transformers[serving]'")
    from agentgym.models.tiny import tiny

    for part in tiny(["What is 2 doubled?", "42", "no"], layers=1, hidden=32, heads=2, vocabulary=300):
        part.save_pretrained(tmp_path / "model")
    port, name = free_port(), str(tmp_path / "model")
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve", name]
    options = ["--device", "cpu", "--port", str(port)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(
        [*command, *options], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process)
            with connect(f"http://127.0.0.1:{port}/v1", name, max_tokens=4, samples=False) as policy:
                assert policy.check() == name  # it cannot list its models without a hub
                with Rollout(question_env, policy, max_concurrent_episodes=2, max_turns=2) as rollout:
                    episodes = list(rollout.play(Group(f"g{i}", Task(i)) for i in range(3)))
        finally:
            process.kill()
    assert [e.failure for e in episodes] == [None] * 3
    for turn in (turn for episode in episodes for turn in episode.turns):
        assert turn.usage.prompt_tokens > 0
        assert 0 < turn.usage.completion_tokens <= 4
