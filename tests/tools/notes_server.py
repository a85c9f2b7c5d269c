"""An MCP server over stdio with a memory, in plain Python: it starts in a moment, so that a test can have many."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
TOOLS = {"note": "Write something down.", "pid": "The server's process.", "wait": "Never answer."}
notes: list[str] = []


def call(name: str, text: str) -> dict[str, Any]:
    if name == "pid":
        return {"content": [{"type": "text", "text": str(os.getpid())}]}
    if text == "who":
        return {"content": [{"type": "text", "text": f"{os.getpid()} does not say"}], "isError": True}
    if text == "nothing":
        return {"content": [{"type": "text", "text": "nothing to write down"}], "isError": True}
    if text == "long":
        return {"content": [{"type": "text", "text": f"{'x' * 300_000}{os.getpid()}{'x' * 300_000}"}]}
    if text == "bomb" or "time bomb" in notes:
        os._exit(3)
    notes.append(str(time.monotonic_ns()) if text == "time" else text)
    return {"content": [{"type": "text", "text": ",".join(notes)}]}


def answer(method: str, given: dict[str, Any]) -> dict[str, Any]:
    if method == "initialize":
        shared = {"capabilities": {"tools": {}}, "serverInfo": {"name": "Notes", "version": "1"}}
        return {"result": {"protocolVersion": given["protocolVersion"], **shared}}
    if method == "tools/list":
        return {"result": {"tools": [{"name": n, "description": d, "inputSchema": TEXT} for n, d in TOOLS.items()]}}
    if method == "tools/call":
        return {"result": call(given["name"], given["arguments"]["text"])}
    return {"error": {"code": -32601, "message": "no such method"}}


for line in sys.stdin:
    message = json.loads(line)
    waits = message["method"] == "tools/call" and message["params"]["name"] == "wait"
    if "id" in message and not waits:
        told = {"jsonrpc": "2.0", "id": message["id"], **answer(message["method"], message.get("params", {}))}
        print(json.dumps(told), flush=True)
