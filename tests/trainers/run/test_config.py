"""The options of a training: in sections, under one name each; what they were called before is refused by name."""

from __future__ import annotations

import re
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_runs import BASE

from agentgym.cli import main
from agentgym.errors import UsageError
from agentgym.store import RunFolder
from agentgym.trainers.run.config import (
    FORMER,
    Model,
    OptimizerOptions,
    Run,
    Tiny,
    TrainConfig,
    nested,
    options,
)
from agentgym.trainers.run.defaults import DEFAULTS
from agentgym.trainers.run.run_file import BESIDE, FREE, ROUNDING, options_of
from agentgym.trainers.run.trainer import Training

#: Every name of the time before there were sections, and what it is called now.
BEFORE = {
    "recipe": "algorithm",
    "replaced": "overrides",
    "model": "model.name",
    "tiny": "model.tiny",
    "lora": "model.lora",
    "device": "model.device",
    "dtype": "model.dtype",
    "max_context": "model.max_context",
    "instructions": "model.instructions",
    "remind": "model.repeat_task",
    "groups": "rollout.groups",
    "group_size": "rollout.group_size",
    "max_turns": "rollout.max_turns",
    "max_new_tokens": "rollout.max_new_tokens",
    "temperature": "rollout.temperature",
    "admissible": "rollout.admissible",
    "slots": "rollout.max_concurrent_episodes",
    "step_seconds": "rollout.step_seconds",
    "lockstep": "rollout.lockstep",
    "max_failed": "rollout.max_failed",
    "budget": "budget.limits",
    "budget_announce": "budget.announce",
    "budget_exhausted": "budget.exhausted",
    "optimizer": "optimizer.name",
    "lr": "optimizer.lr",
    "lr_end": "optimizer.lr_final_fraction",
    "weight_decay": "optimizer.weight_decay",
    "epochs": "optimizer.epochs",
    "minibatches": "optimizer.minibatches",
    "max_tokens": "optimizer.max_tokens_per_microbatch",
    "max_grad_norm": "optimizer.max_grad_norm",
    "warm_start": "sft.episodes",
    "warm_start_epochs": "sft.epochs",
    "warm_start_batch": "sft.batch_size",
    "warm_start_optimizer": "sft.optimizer",
    "warm_start_lr": "sft.lr",
    "warm_start_decay": "sft.weight_decay",
    "warm_start_exchange": "sft.permute_names",
    "warm_start_noise": "sft.expert_noise",
    "eval_every": "eval.every",
    "eval_episodes": "eval.episodes",
    "eval_split": "eval.split",
    "eval_temperature": "eval.temperature",
    "updates": "run.updates",
    "stop_at": "run.stop_at",
    "seed": "run.seed",
    "threads": "run.threads",
    "checkpoint_every": "run.checkpoint_every",
    "keep_checkpoints": "run.keep_checkpoints",
    **{f"tiny.{size}": f"model.tiny.{size}" for size in Tiny.model_fields},
}
PATHS = dict(options())
WORLD = {"env": "letters:tests/Letters-v0"}


def flat(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in values.items():
        path = above + name
        inside = isinstance(value, dict) and any(known.startswith(f"{path}.") for known in PATHS)
        out |= flat(value, f"{path}.") if inside else {path: value}
    return out


# --- what options were called before ----------------------------------------------------------------------------------


def test_every_name_is_accounted_for() -> None:
    assert FORMER == BEFORE
    now = {*PATHS, "model.tiny"}
    assert set(BEFORE.values()) <= now
    assert {path for path in PATHS if path not in BEFORE.values()} == {"env", "env_options", "parameters"}


@pytest.mark.parametrize(("name", "now"), BEFORE.items())
def test_a_former_name_is_refused_with_the_new_one(
    name: str, now: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In Python, on the command line, in a YAML file, and for a run that is resumed."""
    monkeypatch.chdir(tmp_path)
    said = f"{name!r} is now {now!r}; write {now}=VALUE"
    with pytest.raises(UsageError, match=f"^{re.escape(said)}$"):
        TrainConfig.checked(WORLD | {name: "3"})
    with pytest.raises(UsageError, match=f"^{re.escape(said)}$"):  # whatever else is wrong or new
        TrainConfig.checked({"env": 3, "run.updates": -1, "model.lora": "x", name: "3"})
    Path("options.yaml").write_text(yaml.safe_dump(WORLD | {name: "3"}))
    Path("mixed.yaml").write_text(yaml.safe_dump({name: "3"} | WORLD | {"run": {"updates": 3}}))
    RunFolder.create("run", TrainConfig.checked(WORLD).model_dump())
    RunFolder.create("older", WORLD | {name: "3"})
    before = Path("run/run.yaml").read_bytes()
    for arguments, where in (
        ([WORLD["env"], f"{name}=3"], ""),
        (["--config", "options.yaml"], ""),
        (["--config", "mixed.yaml", "model.tiny.layers=1", "--model", "tiny", "optimizer.lr=1", "budget.limits=1"], ""),
        (["--resume", "run", f"{name}=3"], ""),
        (["--resume", "older"], "older/run.yaml: "),
    ):
        with pytest.raises(SystemExit) as end:
            main(["train", *arguments])
        assert (end.value.code, capsys.readouterr().err) == (2, f"agentgym: {where}{said}\n"), arguments
    assert Path("run/run.yaml").read_bytes() == before
    assert not Path("runs").exists()


@pytest.mark.parametrize("name", [name for name in BEFORE if name not in ("recipe", "model")])
def test_a_former_name_as_a_flag_is_told_how_to_write_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", WORLD["env"], f"--{name.replace('_', '-')}", "3"])
    said = f"no such option --{name.replace('_', '-')}; write {BEFORE[name]}=3"
    assert (end.value.code, capsys.readouterr().err) == (2, f"agentgym: {said}\n")


# --- what is unknown --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"updtes": 1}, "unknown option 'updtes'; did you mean 'run.updates'?"),
        ({"run.updats": 1}, "unknown option 'run.updats'; did you mean 'run.updates'"),
        ({"run": {"updats": 1}}, "unknown option 'run.updats'; did you mean 'run.updates'"),
        ({"rum": {"updates": 1}}, "unknown option 'rum'; did you mean 'run'?"),
        ({"rum.updates": 1}, "unknown option 'rum'; did you mean 'run'?"),
        ({"optimiser.lr": 1}, "unknown option 'optimiser'; did you mean 'optimizer'"),
        ({"run.learning_rate_end": 1}, "unknown option 'run.learning_rate_end'; "),
        ({"optimizer.lr_end": 0}, "unknown option 'optimizer.lr_end'; did you mean 'optimizer.lr_final_fraction'?"),
        ({"sft.warm_start_noise": 0}, "unknown option 'sft.warm_start_noise'; did you mean 'sft.expert_noise'"),
        ({"model.tiny.hiden": 9}, "unknown option 'model.tiny.hiden'; did you mean 'model.tiny.hidden'?"),
        ({"model": {"tiny": {"hiden": 9}}}, "unknown option 'model.tiny.hiden'; did you mean 'model.tiny.hidden'?"),
        ({"hiden": 9}, "unknown option 'hiden'; did you mean 'model.tiny.hidden'?"),
        ({"episodes_per_task_xyz": 9}, "unknown option 'episodes_per_task_xyz'; see: agentgym train --help"),
    ],
)
def test_what_is_unknown_offers_the_nearest(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        TrainConfig.checked(WORLD | values)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"run": 3}, "run=3: run is a section; write its options, e.g. run.updates=VALUE"),
        ({"model.tiny": 3}, "model.tiny=3: model.tiny is a section; write its options, e.g. model.tiny.layers=VALUE"),
        ({"model": "some/folder", "model.lora": 4}, "'model' is now 'model.name'; write model.name=VALUE"),
        ({"model.lora": 4, "model": "some/folder"}, "'model' is now 'model.name'; write model.name=VALUE"),
        ({"run": 3, "run.updates": 4}, "run=3: run is a section; "),
        ({"run.updates": 4, "run": 3}, "run=3: run is a section; "),
        ({"parameters": 3, "parameters.discount": 1}, "parameters.discount cannot be set: parameters is 3"),
        ({"run.updates.more": 3}, "run.updates: input should be a valid integer"),
        ({"run.updates": 3, "run.updates.more": 3}, "run.updates.more cannot be set: updates is 3"),
    ],
)
def test_a_value_where_a_section_is_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        TrainConfig.checked(WORLD | values)
    assert str(caught.value).startswith(said)


# --- spellings --------------------------------------------------------------------------------------------------------

DOTTED = {
    "env": "some/World-v0",
    "env_options.turns": 5,
    "parameters.discount": 0.5,
    "overrides.aggregate": "token_mean",
    "model.tiny.layers": 1,
    "model.tiny.hidden": 64,
    "model.lora": 4,
    "rollout.groups": 3,
    "budget.limits": "1,2",
    "optimizer.name": "muon",
    "optimizer.lr": 0.5,
    "sft.episodes": 7,
    "eval.split": "unseen",
    "run.updates": 2,
    "run.seed": 9,
}
NESTED = {
    "env": "some/World-v0",
    "env_options": {"turns": 5},
    "parameters": {"discount": 0.5},
    "overrides": {"aggregate": "token_mean"},
    "model": {"tiny": {"layers": 1, "hidden": 64}, "lora": 4},
    "rollout": {"groups": 3},
    "budget": {"limits": "1,2"},
    "optimizer": {"name": "muon", "lr": 0.5},
    "sft": {"episodes": 7},
    "eval": {"split": "unseen"},
    "run": {"updates": 2, "seed": 9},
}


def test_dotted_and_nested_spellings_are_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig.checked(NESTED)
    assert nested(DOTTED) == NESTED
    assert TrainConfig.checked(DOTTED) == config
    half = {name: NESTED[name] for name in list(NESTED)[::2]}
    other = {path: value for path, value in DOTTED.items() if path.partition(".")[0] not in half}
    assert TrainConfig.checked(half | other) == TrainConfig.checked(other | half) == config
    assert TrainConfig.checked(NESTED | {"model": {"tiny.layers": 1, "tiny": {"hidden": 64}, "lora": 4}}) == config
    assert (config.model.tiny.layers, config.run.seed, config.parameters) == (1, 9, {"discount": 0.5})
    monkeypatch.chdir(tmp_path)
    started: list[TrainConfig] = []

    def start(config: TrainConfig, *_: Any) -> None:
        started.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(Training, "start", start)
    for content in (NESTED, DOTTED):
        Path("options.yaml").write_text(yaml.safe_dump(content))
        with pytest.raises(SystemExit):
            main(["train", "--config", "options.yaml"])
    pairs = [f"{path}={value}" for path, value in DOTTED.items() if path.partition(".")[0] not in ("env", "overrides")]
    pairs = [pair.replace("env_options.", "env.").replace("parameters.discount", "discount") for pair in pairs]
    with pytest.raises(SystemExit):
        main(["train", "some/World-v0", "--algorithm", "gigpo", "--with", "aggregate=token_mean", *pairs])
    assert started[:2] == [config, config]
    assert started[2] == config.model_copy(update={"algorithm": "gigpo"})


def test_of_two_spellings_the_later_wins_and_nothing_beside_it_is_lost() -> None:
    section = {"model": {"tiny": {"layers": 1, "hidden": 64}, "lora": 4}}
    assert nested(section | {"model.tiny.layers": 3}) == {"model": {"tiny": {"layers": 3, "hidden": 64}, "lora": 4}}
    later = nested({"model.tiny.layers": 3, "model.device": "cuda"} | section)
    assert later == {"model": {"tiny": {"layers": 1, "hidden": 64}, "device": "cuda", "lora": 4}}
    assert section == {"model": {"tiny": {"layers": 1, "hidden": 64}, "lora": 4}}  # what was given stays
    assert nested({"run": None, "run.seed": 3}) == nested({"run.seed": 3, "run": None}) == {"run": {"seed": 3}}
    assert TrainConfig.checked(WORLD | {"run": None, "optimizer": None}) == TrainConfig.checked(WORLD)


def test_names_with_dots_in_what_belongs_to_the_environment_stay() -> None:
    config = TrainConfig.checked(WORLD | {"env_options": {"files": {"a.txt": 1}, "b.c": 2}})
    assert config.env_options == {"files": {"a.txt": 1}, "b.c": 2}


# --- defaults ---------------------------------------------------------------------------------------------------------


def test_defaults_are_those_of_the_kind_of_model_in_their_sections() -> None:
    def chosen(config: TrainConfig) -> dict[str, Any]:
        return {path: reduce(getattr, path.split("."), config) for path in DEFAULTS}

    assert set(DEFAULTS) <= set(PATHS)
    tiny = {path: by_model.tiny for path, by_model in DEFAULTS.items()}
    pretrained = {path: by_model.pretrained for path, by_model in DEFAULTS.items()}
    adapters = {path: by_model.adapters for path, by_model in DEFAULTS.items()}
    assert (tiny["optimizer.lr"], pretrained["optimizer.lr"], adapters["optimizer.lr"]) == (3e-4, 1e-6, 1e-5)
    assert len({repr(kind) for kind in (tiny, pretrained, adapters)}) == 3
    hub = {"name": "some/hub-name"}
    assert chosen(TrainConfig(env="x")) == chosen(TrainConfig.checked(WORLD)) == tiny
    for model in (Model(**hub), hub):
        assert chosen(TrainConfig.model_validate({"env": "x", "model": model})) == pretrained
    assert chosen(TrainConfig(env="x", model=Model(name="some/hub-name", lora=4))) == adapters
    assert chosen(TrainConfig.checked(WORLD | {"model": hub | {"lora": 4}})) == adapters
    # what is beside a default in its section, and what is given instead of one, stays
    config = TrainConfig(env="x", model=Model(**hub), optimizer=OptimizerOptions(epochs=3), run=Run(updates=2))
    assert (config.optimizer.epochs, config.run.updates) == (3, 2)
    assert chosen(config) == pretrained
    given = TrainConfig.checked(WORLD | {"model": hub, "optimizer": {"lr": 0.5}, "sft.lr": 0.25})
    assert chosen(given) == pretrained | {"optimizer.lr": 0.5, "sft.lr": 0.25}
    given = TrainConfig(
        env="x", model=Model(name="some/hub-name", instructions=False), optimizer=OptimizerOptions(lr=1)
    )
    assert chosen(given) == pretrained | {"model.instructions": False, "optimizer.lr": 1}


# --- what there is ----------------------------------------------------------------------------------------------------


def test_the_help_lists_every_option_by_its_path(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", "--help"])
    said = capsys.readouterr().out.partition("KEY=VALUE:\n")[2]
    assert (end.value.code, re.findall(r"^  ([a-z][\w.]*)=", said, re.MULTILINE)) == (0, list(PATHS))
    assert set(flat(TrainConfig.checked(WORLD).model_dump())) == set(PATHS)
    assert set(PATHS) >= (FREE | ROUNDING)


def test_run_yaml_can_be_read_back_unchanged(tmp_path: Path) -> None:
    given = BASE | {"budget.limits": "1,inf", "parameters.discount": 0.9, "overrides": {"aggregate": "token_mean"}}
    given |= {"env_options": {"turns": 2}, "run.threads": None, "model.dtype": None, "rollout.max_turns": 2}
    training = Training.start(TrainConfig.checked(given), tmp_path / "run")
    written = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    recorded = {name: value for name, value in written.items() if name not in BESIDE}
    assert set(flat(recorded)) == set(PATHS)
    config = options_of(RunFolder(tmp_path / "run"))
    assert config == training.config == TrainConfig.checked(recorded)
    assert config.model_dump() == recorded
    assert None not in (recorded["run"]["threads"], recorded["model"]["dtype"])  # what was chosen is recorded
    again = Training.start(config, tmp_path / "again")
    assert again.config == config
    assert (tmp_path / "again" / "run.yaml").read_bytes() == (tmp_path / "run" / "run.yaml").read_bytes()
    (tmp_path / "options.yaml").write_text(yaml.safe_dump(recorded))
    assert TrainConfig.checked(yaml.safe_load((tmp_path / "options.yaml").read_text())) == config
