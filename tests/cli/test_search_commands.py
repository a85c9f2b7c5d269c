"""``agentgym index`` and ``agentgym serve-search``."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from agentgym.cli import main

pytest.importorskip("tantivy", reason="needs the extra 'search'")

PASSAGES = [{"id": "1", "title": "Mira Tolen", "text": "A painter."}, {"id": "2", "title": "Keld", "text": "A town."}]


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "world.jsonl"
    path.write_text("".join(json.dumps(p) + "\n" for p in PASSAGES))
    return path


def run(*arguments):
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    return left.value.code


def test_an_index_is_made_beside_the_corpus_and_served(corpus, capfd):
    folder = corpus.with_name("world.index")
    assert run("index", corpus) == 0
    assert capfd.readouterr().out == f"2 passages in {folder}; try: agentgym serve-search {folder}\n"
    command = [sys.executable, "-m", "agentgym", "serve-search", str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            line = server.stdout.readline()
            url = re.fullmatch(r"search server on (http://127\.0\.0\.1:\d+)\n", line)[1]
            reply = httpx.post(f"{url}/retrieve", json={"queries": ["who is Mira?"], "topk": 1}, timeout=30)
            assert reply.json()["result"][0][0]["id"] == "1"
        finally:
            server.send_signal(signal.SIGINT)
            server.communicate(timeout=30)


def test_a_taken_folder_is_kept_unless_told(corpus, capfd):
    folder = corpus.with_name("world.index")
    assert run("index", corpus) == 0
    assert run("index", corpus) == 2
    error = f"agentgym: {folder} is there already; pass --overwrite or choose a folder with --to\n"
    assert capfd.readouterr().err == error
    assert run("index", corpus, "--overwrite", "--analyzer", "english") == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["index", "{}/none.jsonl"], "no file '{}/none.jsonl'; give a JSON-lines file"),
        (["index", "{}/world.jsonl", "--analyzer", "englisch"], "did you mean 'english'?"),
        (["serve-search", "{}"], "no search index in '{}'; make one by: agentgym index CORPUS.jsonl"),
    ],
)
def test_wrong_requests_are_one_line(corpus, capfd, arguments, said):
    place = str(corpus.parent)
    assert run(*(a.replace("{}", place) for a in arguments)) == 2
    error = capfd.readouterr().err
    assert said.replace("{}", place) in error
    assert error.count("\n") == 1


def test_a_port_that_is_taken_is_one_line(corpus):
    run("index", corpus)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [
            sys.executable,
            "-m",
            "agentgym",
            "serve-search",
            f"{corpus.parent}/world.index",
            "--port",
            str(port),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "address already in use" in done.stderr.lower()
