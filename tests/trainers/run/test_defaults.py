"""Options whose default depends on the model: a pre-trained one is not moved as a model of random weights is."""

from __future__ import annotations

import json
from operator import attrgetter
from pathlib import Path

import pytest
import torch
import yaml
from small_runs import BASE, start

from agentgym.errors import StoreError
from agentgym.models.kinds import MARK, kind_of, newest_of
from agentgym.models.loading import load
from agentgym.models.precision import chosen
from agentgym.store import RunFolder
from agentgym.trainers.run.build import build_model
from agentgym.trainers.run.config import TrainConfig
from agentgym.trainers.run.defaults import DEFAULTS

RANDOM = {
    "optimizer.lr": 3e-4,
    "sft.lr": 2e-3,
    "rollout.max_new_tokens": 32,
    "model.instructions": False,
    "model.dtype": "float32",
}
PRECISION = chosen("auto", "cpu")
TRAINED = {
    "optimizer.lr": 1e-6,
    "sft.lr": 1e-5,
    "rollout.max_new_tokens": 512,
    "model.instructions": True,
    "model.dtype": "auto",
}
ADAPTED = TRAINED | {"optimizer.lr": 1e-5}


def options(**given):
    config = TrainConfig.checked({"env": "some/World-v0"} | given)
    return {name: attrgetter(name)(config) for name in RANDOM}


def value(recorded, name):
    section, option = name.split(".")
    return recorded[section][option]


@pytest.fixture
def stranger(small, tmp_path):
    """The folder of a model that was not built here."""
    model, tokenizer = small()
    path = tmp_path / "stranger"
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    config = json.loads((path / "config.json").read_text())
    assert config.pop(MARK) is True
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_a_pretrained_model_has_other_options_than_a_tiny_one(stranger):
    assert set(RANDOM) <= set(DEFAULTS)
    assert options() == options(**{"model.name": "tiny"}) == options(**{"model.lora": 4}) == RANDOM
    assert options(**{"model.name": str(stranger)}) == options(**{"model.name": "some/hub-name"}) == TRAINED
    assert (
        options(**{"model.name": str(stranger), "model.lora": 4})
        == options(**{"model.name": "some/hub-name", "model.lora": 4})
        == ADAPTED
    )


def test_what_is_given_wins_and_null_is_not_given(stranger):
    given = {
        "model.dtype": "bfloat16",
        "optimizer.lr": 0.5,
        "sft.lr": 0.25,
        "rollout.max_new_tokens": 7,
        "model.instructions": False,
    }
    for model in ("tiny", str(stranger)):
        assert options(**given, **{"model.name": model}) == given
        assert options(**dict.fromkeys(given), **{"model.name": model}) == options(**{"model.name": model})


def test_saved_tiny_models_stay_tiny(small, tmp_path):
    """A checkpoint's, an adapter's beside its model, and the folder of a run."""
    for name, lora in (("run", None), ("adapted", 4)):
        training = start(tmp_path / name, **{"run.updates": 0, "sft.episodes": 0, "model.lora": lora})
        checkpoint = training.folder.latest_checkpoint()[1]
        for model in (checkpoint, training.folder.path):
            assert kind_of(str(model)) == "tiny"
            assert options(**{"model.name": str(model)}) == RANDOM
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for content in ("{", "[1]", '{"agentgym_tiny": "yes"}'):
        (damaged / "config.json").write_text(content)
        assert kind_of(str(damaged)) == "pre-trained"


def test_a_run_records_and_shows_what_it_does(stranger, tmp_path):
    told = []
    free = dict.fromkeys(RANDOM)
    small = {
        "run.updates": 1,
        "rollout.max_turns": 1,
        "rollout.groups": 1,
        "rollout.group_size": 2,
        "eval.episodes": 1,
        "model.max_context": 64,
    }
    options = small | free | {"model.name": str(stranger), "sft.episodes": 2}
    training = start(tmp_path / "run", lambda stage, metrics: told.append((stage, dict(metrics))), **options)
    assert told[0] == (
        "pre-trained model in " + PRECISION,
        {"optimizer.lr": 1e-6, "rollout.max_new_tokens": 512, "sft.lr": 1e-5},
    )
    recorded = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    assert {name: value(recorded, name) for name in TRAINED} == TRAINED | {"model.dtype": PRECISION}
    assert training.config.optimizer.lr == 1e-6
    episodes = list(RunFolder(tmp_path / "run").episodes())
    text = build_model(training.config, [])[1].decode(episodes[0].contexts()[0])
    assert "Write the colour that you see." in text


def test_the_tiny_model_of_a_run_keeps_its_own(tmp_path):
    told = []
    free = dict.fromkeys(RANDOM)
    start(tmp_path / "run", lambda *event: told.append(event), **free, **{"run.updates": 0, "sft.episodes": 0})
    assert told[0] == ("tiny model in float32", {"optimizer.lr": 3e-4, "rollout.max_new_tokens": 32})
    assert BASE["optimizer.lr"] == 1e-3  # what other tests ask for is not what is the default


def test_a_run_is_the_model_that_it_saved_last(tmp_path):
    first = start(tmp_path / "first", **{"run.updates": 1, "run.checkpoint_every": 1}).folder
    newest = str(first.latest_checkpoint()[1])
    second = start(tmp_path / "second", **{"run.updates": 0, "model.name": str(first.path), "sft.episodes": 0})
    assert second.config.model.name == newest == newest_of(str(first.path))
    assert yaml.safe_load((second.folder.path / "run.yaml").read_text())["model"]["name"] == newest
    name = "model.safetensors"
    assert (second.folder.latest_checkpoint()[1] / name).read_bytes() == (Path(newest) / name).read_bytes()
    weights = load(newest)[0].state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in load(str(first.path))[0].state_dict().items())


@pytest.mark.parametrize(
    "use", [lambda run: TrainConfig.checked({"env": "x", "model.name": run}), load, newest_of, kind_of]
)
def test_a_run_that_has_saved_nothing_is_no_model(use, tmp_path):
    RunFolder.create(tmp_path / "run", {"env": "x"})
    with pytest.raises(StoreError, match=r"run has no checkpoint, so there is no model in it"):
        use(str(tmp_path / "run"))
