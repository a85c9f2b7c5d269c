"""Checkpoints of adapters load wherever adapters do, whatever became of older checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
import transformers
from small_runs import BASE, start

from agentgym.errors import MissingExtra, UsageError
from agentgym.models.loading import load
from agentgym.models.lora import save_model, with_lora
from agentgym.trainers.run.config import TrainConfig
from agentgym.trainers.run.trainer import Training

# what peft and transformers say about each other's names
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
WORDS = torch.tensor([[70, 71, 72, 260, 100]])


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=WORDS).logits


def config_of(path):
    return json.loads((path / "adapter_config.json").read_text())


def assert_loads(checkpoint, base):
    """By ours, by peft and by transformers, and all three say the same."""
    assert config_of(checkpoint)["base_model_name_or_path"] == str(base)
    assert Path(base).is_dir()
    ours = logits(load(str(checkpoint))[0])
    for auto in (peft.AutoPeftModelForCausalLM, transformers.AutoModelForCausalLM):
        assert torch.equal(logits(auto.from_pretrained(checkpoint)), ours)
    assert transformers.AutoTokenizer.from_pretrained(checkpoint).chat_template
    plain = transformers.AutoModelForCausalLM.from_pretrained(base)
    assert not torch.equal(logits(plain), ours)
    named = peft.PeftModel.from_pretrained(plain, checkpoint)
    assert torch.equal(logits(named), ours)


#: adapters on a model of the user's, learned by one update
ON_TOP = {"model.lora": 2, "model.instructions": False, "sft.episodes": 0, "optimizer.lr": 3e-2, "run.updates": 1}


def lengthen(training, updates):
    config = training.folder.config
    training.folder.rewrite(config | {"run": config["run"] | {"updates": updates}})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Of a model that was built on the spot: resumed three times, and each time the older checkpoint went."""
    path = tmp_path_factory.mktemp("runs") / "run"
    options = {"model.lora": 4, "run.updates": 1, "run.checkpoint_every": 1, "run.keep_checkpoints": 1}
    training = start(path, **options | {"optimizer.lr": 3e-2})
    for updates in (2, 3, 4):
        lengthen(training, updates)
        Training.resume(path).run()
    return path


def test_adapters_of_a_model_without_a_name_load_after_pruning(run):
    (checkpoint,) = (run / "checkpoints").iterdir()
    assert checkpoint.name == "update-000004"
    assert_loads(checkpoint, checkpoint.resolve() / "base")


def test_a_run_that_moved_resumes_and_names_its_new_place(run, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    training = Training.resume(moved)
    lengthen(training, 5)
    Training.resume(moved).run()
    (checkpoint,) = (moved / "checkpoints").iterdir()
    assert_loads(checkpoint, checkpoint.resolve() / "base")


def test_the_model_of_the_adapters_is_another_runs_checkpoint(run, tmp_path):
    """That one will be pruned, so its weights are kept here."""
    whole = start(tmp_path / "whole", **{"run.updates": 0})
    _, origin = whole.folder.latest_checkpoint()
    training = start(tmp_path / "run", **ON_TOP | {"model.name": str(origin), "rollout.max_new_tokens": 4})
    _, checkpoint = training.folder.latest_checkpoint()
    shutil.rmtree(origin)
    assert_loads(checkpoint, checkpoint.resolve() / "base")


def test_a_local_model_is_named_by_its_place_and_missed_when_it_is_gone(small, tmp_path, monkeypatch):
    model, tokenizer = small()
    model.save_pretrained(tmp_path / "models" / "mine")
    tokenizer.save_pretrained(tmp_path / "models" / "mine")
    monkeypatch.chdir(tmp_path)
    options = ON_TOP | {"model.name": "models/mine", "run.updates": 2, "rollout.max_new_tokens": 4}
    training = start(tmp_path / "run", **options | {"run.checkpoint_every": 1, "run.keep_checkpoints": 1})
    _, checkpoint = training.folder.latest_checkpoint()
    assert not (checkpoint / "base").exists()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert_loads(checkpoint, tmp_path / "models" / "mine")
    (tmp_path / "models").rename(tmp_path / "old")
    with pytest.raises(
        UsageError, match=r"belong to the model .*/models/mine, which is not there any more; put it back"
    ):
        Training.resume(tmp_path / "run").run()


def test_nobody_else_reads_a_model_file_so_its_weights_lie_beside_the_adapters(small, tmp_path):
    model, _ = small()
    model.config.name_or_path = str(tmp_path / "mine.gguf")
    save_model(with_lora(model, 2), tmp_path / "saved")
    assert config_of(tmp_path / "saved")["base_model_name_or_path"] == str(tmp_path / "saved" / "base")
    assert (tmp_path / "saved" / "base" / "model.safetensors").is_file()


SAVE = """
import sys, letters
from conftest import TEXTS
from agentgym.models.lora import save_model, with_lora
from agentgym.models.tiny import tiny
model, _ = tiny(TEXTS, layers=1, hidden=16, heads=2, kv_heads=1, vocabulary=300)
save_model(with_lora(model, 2), __import__("pathlib").Path(sys.argv[1]), __import__("pathlib").Path("/home"))
"""


def test_equal_adapters_are_equal_files(tmp_path):
    """Whatever the order that this process has sets in."""
    tests = Path(__file__).parents[1]
    for seed in "123":
        env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tests), str(tests / "helpers")]), "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", SAVE, str(tmp_path / seed)], env=env, check=True)
    first, *others = ({f.name: f.read_bytes() for f in sorted((tmp_path / seed).glob("adapter*"))} for seed in "123")
    assert len(first) == 2
    assert others == [first, first]
    assert config_of(tmp_path / "1")["target_modules"] == sorted(config_of(tmp_path / "1")["target_modules"])


def test_adapters_without_peft_are_refused_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtra, match=r"'peft' is not installed; run: pip install .*\[lora\]"):
        Training.start(TrainConfig.checked(BASE | {"model.lora": 2}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_adapters_on_adapters_are_refused_at_the_start(run, tmp_path):
    (checkpoint,) = (run / "checkpoints").iterdir()
    options = BASE | ON_TOP | {"model.name": str(checkpoint)}
    with pytest.raises(UsageError, match=r"lora=2: .*/update-000004 has adapters already, .* leave lora out") as caught:
        Training.start(TrainConfig.checked(options), tmp_path / "other")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "other").exists()
    training = start(tmp_path / "other", **options | {"model.lora": None})
    _, trained = training.folder.latest_checkpoint()
    assert_loads(trained, trained.resolve() / "base")
