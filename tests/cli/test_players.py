"""Models as policies: `--policy` takes what `--model` takes, and plays it with the defaults for its kind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from agentgym import make
from agentgym.cli import main
from agentgym.cli.console.arguments import names_model
from agentgym.cli.console.players import Endpoint, player
from agentgym.errors import StoreError, UnknownName, UsageError
from agentgym.models.kinds import MARK
from agentgym.models.loading import load
from agentgym.models.tiny import tiny
from agentgym.policy import Request, Sampling
from agentgym.records import Task
from agentgym.rollout import Group, Rollout

HOUSE = "agentgym/Household-v0"
SMALLEST = [f"model.tiny.{size}" for size in ("layers=1", "hidden=16", "heads=2", "kv_heads=1", "vocabulary=300")]
TEXTS = ["You are in a room. go to shelf 1. take book 1 from shelf 1. use desklamp 1"] * 3


def saved(folder: Path, **generation: object) -> Path:
    model, tokenizer = tiny(TEXTS, layers=1, hidden=16, heads=2, kv_heads=1, vocabulary=300, max_context=2048)
    for name, value in generation.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """The folder of a model that was not built here."""
    folder = saved(tmp_path / "stranger", eos_token_id=[1, 77])
    config = json.loads((folder / "config.json").read_text())
    assert config.pop(MARK) is True
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def entered(text: str):
    with player(text, Endpoint(), lambda: make(HOUSE)) as (name, policy):
        return name, policy


def first_action(policy, sampling: Sampling, key: int) -> tuple[int, ...]:
    """The tokens of a policy's first action."""
    with Rollout(lambda: make(HOUSE), policy, sampling=sampling, max_turns=1, run_key=key) as rollout:
        (episode,) = rollout.play([Group("g", Task(0))])
    return episode.turns[0].sample.action


def seen(policy) -> str:
    """What a policy is shown at the start of an episode."""
    ids = policy.context(policy.chat, Request("e", 0, "You see a door.", {}, (), "Open every door."), [])
    return policy.tokenizer.decode(ids)


def test_a_model_is_named_as_a_policy_as_it_is_for_training(tmp_path: Path) -> None:
    names = (str(tmp_path), f"model:{tmp_path}", "some/hub-name", "model:gpt2", "x/y/z.gguf", "z.GGUF", "./not-there")
    assert [name for name in names if not names_model(name)] == []
    others = ("random", "expert:0.2", "replay:a/b", "model:", "model", "exprt", "rplay:a/b")
    assert [name for name in others if names_model(name)] == []


def test_a_pretrained_model_plays_as_it_would_be_trained(stranger: Path) -> None:
    for text in (str(stranger), f"model:{stranger}"):
        name, policy = entered(text)
        assert name == text
        assert policy.max_new_tokens == 512
        assert {1, 77} <= policy.chat.ends  # every end token of its generation_config
        assert "Open every door." in seen(policy)
        assert "You see a door." in seen(policy)
        assert policy.engine.temperature == 1.0
    greedy, drawn = Sampling(temperature=0.0, max_new_tokens=7), Sampling(max_new_tokens=7)
    assert len({first_action(policy, greedy, key) for key in range(3)}) == 1
    actions = {first_action(policy, drawn, key) for key in range(3)}
    assert len(actions) == 3
    assert max(len(action) for action in actions) == 7  # another may have ended by itself


def test_a_tiny_model_plays_as_it_was_trained(tmp_path: Path) -> None:
    policy = entered(str(saved(tmp_path / "tiny")))[1]
    assert policy.max_new_tokens == 32
    assert "Open every door." not in seen(policy)


def test_a_checkpoint_plays_as_its_run_does(tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["run.updates=1", "run.checkpoint_every=1", "rollout.groups=1", "rollout.group_size=2", *SMALLEST]
    options += ["rollout.max_turns=2", "rollout.max_new_tokens=5", "model.instructions=true", "eval.episodes=1"]
    with pytest.raises(SystemExit) as end:
        main(["train", HOUSE, "--out", str(run), *options])
    assert end.value.code == 0
    for text in (f"{run}/checkpoints/update-000000", f"model:{run}/checkpoints/update-000000/"):
        name, policy = entered(text)
        assert name == f"{run}@update-0"
        assert policy.max_new_tokens == 5
        assert "Open every door." in seen(policy)
    assert entered(str(run))[0] == f"{run}@update-1"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two checkpoints."""
    run = tmp_path_factory.mktemp("trained") / "run"
    options = ["run.updates=1", "run.checkpoint_every=1", "rollout.groups=1", "rollout.group_size=2", *SMALLEST]
    with pytest.raises(SystemExit) as end:
        main(["train", HOUSE, "--out", str(run), "rollout.max_turns=2", "eval.episodes=1", *options])
    assert end.value.code == 0
    return run


@pytest.mark.parametrize("file", ["model.safetensors", "trainer.pt", "tokenizer.json"])
@pytest.mark.parametrize("how", ["empty", "cut", "flipped"])
def test_a_damaged_checkpoint_is_no_model(trained: Path, file: str, how: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    path = run / "checkpoints" / "update-000001" / file
    content = path.read_bytes()
    at = len(content) // 2
    flipped = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    path.write_bytes({"empty": b"", "cut": content[:at], "flipped": flipped}[how])
    what = (
        f"the checkpoint {path.parent} is damaged: {file} is {'empty' if how == 'empty' else 'not what was written'}; "
    )
    older = "delete that folder and update-000000, which is whole, is the newest"
    for play, then in ((str(run), older), (str(path.parent), "choose another one")):
        with pytest.raises(StoreError) as refused:
            entered(play)
        assert str(refused.value) == what + then
    with pytest.raises(StoreError) as refused:
        load(str(run))  # as train --model does
    assert str(refused.value) == what + older
    assert entered(f"{run}/checkpoints/update-000000")[0] == f"{run}@update-0"


@pytest.mark.parametrize("left", [0, 0.5])
def test_weights_that_cannot_be_read_are_one_line(trained: Path, left: float, tmp_path: Path) -> None:
    shutil.copytree(trained / "checkpoints" / "update-000001", tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(left * len(content))])
    with pytest.raises(UsageError, match=r"^cannot load model '.*': Error while deserializing header: .*"):
        load(str(tmp_path / "model"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("./nowhere", "no model folder './nowhere'"),
        ("/a/b/c", "no model folder '/a/b/c'"),
        ("model:a/b/c", "no model folder 'a/b/c'"),
        ("nowhere.gguf", "no model file 'nowhere.gguf'"),
    ],
)
def test_a_model_that_is_not_there_is_refused_before_anything_is_played(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=f"^{said}$"):
        player(text, Endpoint(), lambda: make(HOUSE))


def test_a_misspelt_policy_is_not_taken_for_a_model() -> None:
    for text in ("exprt", "rplay:a/b"):
        with pytest.raises(UnknownName, match="unknown policy"):
            player(text, Endpoint(), lambda: make(HOUSE))


def test_both_commands_play_a_model(stranger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--max-new-tokens", "3", "--max-turns", "2", "--episodes", "2", "--json")
    with pytest.raises(SystemExit) as end:
        main(["eval", HOUSE, "--policy", str(stranger), *arguments])
    told = json.loads(capsys.readouterr().out)
    assert (end.value.code, told["policies"][0]["policy"]) == (0, str(stranger))
    assert told["policies"][0]["rows"][0]["tokens"]["mean"] <= 6
    with pytest.raises(SystemExit) as end:
        main(["play", HOUSE, "--policy", str(stranger), "--max-turns", "1"])
    assert end.value.code == 0
    assert "after 1 turn, reward 0" in capsys.readouterr().out
