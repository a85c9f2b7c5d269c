"""Whole runs on a small text world: deterministic, resumable to the byte, refused in one line when they cannot work."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from small_runs import BASE, Crash, products, start

from agentgym import registry
from agentgym.errors import UnknownName, UsageError
from agentgym.models.loading import load
from agentgym.records import Episode, StopReason, Task, Turn
from agentgym.store import RunFolder
from agentgym.trainers.run.config import OptimizerOptions, Run, TrainConfig
from agentgym.trainers.run.summary import in_order, summary
from agentgym.trainers.run.trainer import Training
from agentgym.trainers.update.learner import Learner


def test_failed_expert_episodes_are_told_and_not_imitated(tmp_path, monkeypatch):
    import letters

    told = []
    monkeypatch.setattr(letters.Letters, "expert", lambda env: env.word if env.word != "red" else [][0])
    start(
        tmp_path / "run",
        lambda stage, metrics: told.append((stage, dict(metrics))),
        **{"run.updates": 0, "sft.episodes": 30},
    )
    (failed,) = (stage for stage, _ in told if "failed" in stage)
    assert failed.endswith(
        "expert episodes failed and are not imitated; the first: IndexError: list index out of range"
    )
    number = int(failed.split(" of 30 ")[0])
    assert 0 < number < 30
    assert [f["episodes"] for stage, f in told if stage == "sft" and "epoch" in f] == [30 - number]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted run."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    start(path)
    return path


def test_a_run_writes_what_it_promises(whole):
    folder = RunFolder(whole)
    metrics = folder.metrics.read()
    updates = [m for m in metrics if "event" not in m]
    evals = [m for m in metrics if m.get("event") == "eval"]
    assert [m["update"] for m in updates] == [1, 2, 3, 4, 5]
    assert [m["update"] for m in evals] == [0, 2, 4, 5]
    assert all(m["calls_per_turn"] == 1.0 for m in updates)
    assert all(m["episodes"] == 6 and m["kept_episodes"] == 6 for m in updates)
    assert list(folder.checkpoints()) == [4, 5]
    episodes = list(folder.episodes())
    assert len(episodes) == 30
    assert [e.id for e in episodes[:6]] == ["1.0/0", "1.0/1", "1.0/2", "1.1/0", "1.1/1", "1.1/2"]
    assert {t.sample.version for e in episodes[:6] for t in e.turns} == {0}
    assert {t.sample.version for e in episodes[-6:] for t in e.turns} == {4}
    advantages = {line["episode"]: line["advantage"] for line in folder.advantages.read()}
    assert {e.id: len(e.turns) for e in episodes} == {k: len(v) for k, v in advantages.items()}
    assert folder.config["stages"]["aggregate"] == "token_mean()"
    assert folder.config["parameters"]["discount"] == 0.95
    assert folder.config["model"]["tiny"]["numbered"] is True
    assert len({e.fingerprint for e in episodes} | {folder.config["fingerprint"]}) == 1


def test_the_checkpoint_is_a_hugging_face_model(whole):
    _, path = RunFolder(whole).latest_checkpoint()
    model, tokenizer = load(str(path))
    assert model.config.hidden_size == 16
    text = "You see red. 3 <|end|>"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text


def test_two_runs_are_equal(whole, tmp_path):
    start(tmp_path / "again")
    assert products(tmp_path / "again") == products(whole)


def test_another_seed_is_another_run(whole, tmp_path):
    start(tmp_path / "other", **{"run.seed": 1})
    assert products(tmp_path / "other")[0] != products(whole)[0]


def test_finished_runs_stay_as_they_are(whole):
    before = products(whole)
    Training.resume(whole).run()
    assert products(whole) == before


# --- adapters ---------------------------------------------------------------------------------------------------------


def test_lora_moves_nothing_but_adapters(tmp_path):
    first = start(tmp_path / "run", **{"model.lora": 4, "run.updates": 1, "run.keep_checkpoints": 9})
    paths = list(first.folder.checkpoints().values())
    before, after = ((p / "base" / "model.safetensors").read_bytes() for p in paths)
    assert before == after
    adapters = [(p / "adapter_model.safetensors").read_bytes() for p in paths]
    assert adapters[0] != adapters[1]


def test_adapters_load_as_a_model(tmp_path):
    """``model:DIR`` and the folder of a run play what was trained."""
    training = start(tmp_path / "run", **{"model.lora": 4, "run.updates": 1, "eval.every": 0})
    _, path = training.folder.latest_checkpoint()
    model, tokenizer = load(str(path))
    assert any("lora_" in name for name, p in model.named_parameters() if p.requires_grad)
    assert all(("lora_" in name) == p.requires_grad for name, p in model.named_parameters())
    moved = [p for name, p in model.named_parameters() if "lora_B" in name]
    assert any(bool(p.any()) for p in moved)
    with torch.no_grad():
        ids = torch.tensor([tokenizer.encode("You see red.", add_special_tokens=False)])
        with_adapters = model(input_ids=ids).logits
        with model.disable_adapter():
            without = model(input_ids=ids).logits
    assert not torch.equal(with_adapters, without)


# --- TensorBoard ------------------------------------------------------------------------------------------------------


def test_metrics_go_to_tensorboard_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    seen = []

    def crash(stage, metrics):
        if stage == "update" and metrics["update"] == 3 and not seen:
            seen.append(1)
            raise Crash

    with pytest.raises(Crash):
        start(tmp_path / "run", crash)
    Training.resume(tmp_path / "run").run()
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    metrics = RunFolder(tmp_path / "run").metrics.read()
    for name, key, group in (("train/loss", "loss", None), ("eval/success", "eval_success", "eval")):
        told = [(m["update"], m[key]) for m in metrics if m.get("event") == group]
        assert [(e.step, pytest.approx(e.value, abs=1e-6)) for e in board.Scalars(name)] == told


def test_training_goes_on_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    told = []
    start(tmp_path / "run", lambda stage, metrics: told.append(stage), **{"run.updates": 1})
    assert "tensorboard is not installed, metrics.jsonl has it all" in told
    assert not (tmp_path / "run" / "tensorboard").exists()


# --- rolling out ------------------------------------------------------------------------------------------------------


def test_the_learning_rate_falls_in_equal_steps_to_its_share_at_the_last_update(tmp_path, monkeypatch):
    def schedule(updates, **options):
        return TrainConfig(
            env="x", run=Run(updates=updates), optimizer=OptimizerOptions(lr=0.4, **options)
        ).learning_rate

    halved = schedule(updates=5, lr_final_fraction=0.5)
    assert [halved(u) for u in range(1, 6)] == pytest.approx([0.4, 0.35, 0.3, 0.25, 0.2])
    assert [schedule(updates=u, lr_final_fraction=0.0)(u) for u in (1, 2, 9)] == [0.4, 0.0, 0.0]
    assert [schedule(updates=9)(u) for u in (1, 5, 9)] == [0.4] * 3
    rates = []
    original = Learner.update

    def update(learner, episodes, *, lr=None):
        done = original(learner, episodes, lr=lr)
        rates.append({g["lr"] for o in learner.optimizer._all for g in o.param_groups})
        return done

    monkeypatch.setattr(Learner, "update", update)
    start(
        tmp_path / "run",
        **{
            "run.updates": 3,
            "optimizer.lr": 0.01,
            "optimizer.lr_final_fraction": 0.5,
            "sft.episodes": 0,
            "eval.every": 0,
        },
    )
    assert [rate for (rate,) in rates] == pytest.approx([0.01, 0.0075, 0.005])


def test_groups_without_spread_are_replaced(tmp_path):
    """DAPO: what is learned from has spread; later attempts play other tasks under other names."""
    training = start(
        tmp_path / "run", algorithm="dapo", parameters={"rollouts": 3}, **{"run.updates": 3, "rollout.group_size": 2}
    )
    episodes = list(training.folder.episodes())
    credited = {line["episode"] for line in training.folder.advantages.read()}
    groups = {}
    for e in episodes:
        groups.setdefault(e.group, []).append(e)
    assert len(episodes) == len({e.id for e in episodes})
    assert len(groups) > 6  # some had to be replaced
    for members in groups.values():
        kept = {e.id for e in members} & credited
        assert not kept or len({e.reward for e in members}) > 1
    for m in training.folder.metrics.read():
        if "event" not in m:
            assert m["kept_episodes"] <= 4 < m["episodes"] + 1


def test_actions_drawn_among_the_admissible_ones_are_learned_from_as_they_were_drawn(tmp_path):
    """At the first step the weights are those that sampled: probabilities agree, at another temperature too."""
    start(tmp_path, **{"rollout.admissible": True, "rollout.temperature": 0.7, "run.updates": 2})
    folder = RunFolder(tmp_path)
    turns = [t for e in folder.episodes() for t in e.turns]
    assert {t.action for t in turns} <= {"red", "blue", "green"}
    assert all(len(t.sample.choices) == len(t.sample.action) for t in turns)
    updates = [m for m in folder.metrics.read() if "event" not in m]
    assert all(abs(m["approx_kl"]) < 1e-6 for m in updates)


def test_stop_at(tmp_path):
    training = start(tmp_path / "run", **{"run.stop_at": 0.0, "run.updates": 50})
    assert training.update == 3
    assert list(training.folder.checkpoints())[-1] == 3
    Training.resume(tmp_path / "run").run()
    assert [m["update"] for m in training.folder.metrics.read()][-1] == 3


def episode(group, member, rewards, stop=StopReason.TERMINATED, success=None, failure=None):
    turns = tuple(Turn("o", "a", r, error="what?" if r < 0 else None) for r in rewards)
    return Episode(
        f"{group}/{member}", "e", Task(0), turns, stop, success=success, group=group, member=member, failure=failure
    )


def test_summary_leaves_failed_episodes_out():
    found = summary([
        episode("1.0", 0, [0.0, 1.0], success=True),
        episode("1.0", 1, [-1.0], StopReason.TURN_LIMIT, success=False),
        episode("1.0", 2, [5.0], StopReason.WORLD_FAULT, failure="boom"),
    ])  # fmt: skip
    assert found == {
        "episodes": 3, "reward": 0.0, "success": 0.5, "episode_turns": 1.5, "tool_calls": 0.0,
        "invalid_action_rate": 1 / 3,
        "truncated": 0.5, "refused_calls": 0.0, "malformed_calls": 0.0,
        "failed": 1, "failure": "boom", "action_errors": 0, "action_error": None,
    }  # fmt: skip
    assert summary([])["reward"] == 0.0
    assert summary([episode("g", 0, [0.5])])["success"] == 1.0  # where the environment does not say: paid at all


def test_in_order():
    names = ["2.10", "2.9", "10.0", "eval.1", "2.9"]
    given = [episode(name, 4 - n, [0.0]) for n, name in enumerate(names)]
    assert [e.id for e in in_order(given)] == ["2.9/0", "2.9/3", "2.10/4", "10.0/2", "eval.1/1"]


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"updtes": 3}, "unknown option 'updtes'; did you mean 'run.updates'"),
        ({"run.updates": -1}, r"run.updates: input should be greater than or equal to 0 \(got -1\)"),
        ({"optimizer.lr": "fast"}, r"optimizer.lr: input should be a valid number.* \(got 'fast'\)"),
        ({"rollout.groups": 0}, r"rollout.groups: input should be greater than 0 \(got 0\)"),
        ({"optimizer.name": "sgd"}, r"optimizer.name: input should be 'adamw' or 'muon' \(got 'sgd'\)"),
        ({"model.tiny": {"layer": 3}}, "unknown option 'model.tiny.layer'; did you mean 'model.tiny.layers'"),
        ({"model.tiny": {"hidden": 30, "heads": 4}}, r"model.tiny: .*hidden must be a multiple of 2·heads"),
        (
            {"model.tiny": {"vocabulary": 10}},
            r"model\.tiny\.vocabulary: input should be greater than or equal to 261 \(got 10\)",
        ),
    ],
)
def test_wrong_options_are_one_line(options, message):
    with pytest.raises(UsageError, match=message) as caught:
        TrainConfig.checked(BASE | options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"sft.permute_names": True},
            "sft.permute_names: letters:tests/Letters-v0 has no permutable_names; leave it out",
        ),
        (
            {"env": "agentgym/Search-v0", "rollout.admissible": True},
            r"rollout.admissible: agentgym/Search-v0 gives no info",
        ),
        ({"env": "letters:tests/Leters-v0"}, "unknown environment .*did you mean 'tests/Letters-v0'"),
        ({"algorithm": "gipgo"}, "unknown algorithm 'gipgo'; did you mean 'gigpo'"),
        ({"parameters": {"discont": 1}}, "algorithm gigpo has no parameter 'discont'; did you mean 'discount'"),
        ({"overrides": {"agregate": "token_mean"}}, "unknown stage 'agregate'; did you mean 'aggregate'"),
        ({"overrides": {"advantage": "gae()"}}, "nothing trains a critic"),
        ({"env_options": {"turn": 3}}, r"cannot be made with .*turn"),
        ({"eval.split": "tset"}, "unknown split 'tset'; did you mean 'test'"),
        ({"model.name": "./nowhere"}, r"no model folder '\./nowhere'"),
        ({"model.device": "gpu0"}, "device='gpu0' cannot be used"),
        ({"algorithm": "grpo", "overrides": {"reward": "information_gain()"}}, r"no info\['answers'\]"),
    ],
)
def test_what_cannot_work_is_refused_before_the_folder_exists(options, message, tmp_path):
    with pytest.raises(UsageError, match=message) as caught:
        start(tmp_path / "run", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_unknown_names_offer_the_nearest(tmp_path):
    with pytest.raises(UnknownName):
        start(tmp_path / "run", algorithm="gipgo")
    assert registry.takes_split("tests/Letters-v0")


def test_a_folder_that_holds_a_run_is_not_overwritten(whole):
    with pytest.raises(OSError, match="already holds a run; continue it with --resume"):
        Training.start(TrainConfig.checked(BASE), whole)


def test_records_say_how_episodes_were_made(whole):
    """An episode that is played again by its tokens has the same text."""
    episodes = list(RunFolder(whole).episodes())
    _, path = RunFolder(whole).latest_checkpoint()
    tokenizer = load(str(path))[1]
    for e in episodes:
        for turn in e.turns:
            ids = [i for i in turn.sample.action if i != tokenizer.eos_token_id]
            assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == turn.action
    assert replace(episodes[0]) == episodes[0]
