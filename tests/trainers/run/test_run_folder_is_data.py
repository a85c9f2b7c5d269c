"""A run folder is data: whoever resumes or plays somebody else's runs none of their code."""

from __future__ import annotations

import contextlib
import json
import sys

import pytest

from agentgym.cli import main
from agentgym.errors import UsageError
from agentgym.models.loading import load
from agentgym.registry import import_named
from agentgym.store import RunFolder
from agentgym.trainers.run.build import policy_from_run
from agentgym.trainers.run.config import TrainConfig
from agentgym.trainers.run.run_file import options_of
from agentgym.trainers.run.trainer import Training
from agentgym.trainers.run.trust import Allowed, resuming

HOUSE = "agentgym/Household-v0"
TINY = {"tiny": {"layers": 1, "hidden": 16, "heads": 2}}


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A module beside the run folder, as a downloaded archive would bring it along; says whether it was imported."""
    (tmp_path / "evil_world.py").write_text("open('ran', 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda: (tmp_path / "ran").exists()
    sys.modules.pop("evil_world", None)


def folder(tmp_path, **options):
    values = {"env": HOUSE, "algorithm": "grpo", "model": TINY, "run": {"updates": 1}} | options
    made = RunFolder.create(tmp_path / "run", values)
    with made.checkpoint(1) as path:  # something to play
        (path / "config.json").write_text("{}")
    return made.path


CODE = [
    ({"env": "evil_world:me/World-v0"}, "env=evil_world:me/World-v0", "--allow-import evil_world"),
    ({"algorithm": "evil_world:mine"}, "algorithm=evil_world:mine", "--allow-import evil_world"),
    (
        {"overrides": {"advantage": "chain(episode_return(), evil_world:doubled(2))"}},
        "overrides.advantage=chain(episode_return(), evil_world:doubled(2))",
        "--allow-import evil_world",
    ),
]


@pytest.mark.parametrize(("options", "named", "allowed"), CODE)
def test_a_module_is_imported_only_if_the_user_names_it(tmp_path, evil, options, named, allowed, capsys):
    path = folder(tmp_path, **options)
    for attempt in (lambda: Training.resume(path), lambda: policy_from_run(path)):
        with pytest.raises(UsageError) as refused:
            attempt()
        assert str(refused.value) == (
            f"{path / 'run.yaml'} would import code: {named}; if you trust it, allow it: {allowed}"
        )
    commands = ["train", "--resume", path], ["eval", HOUSE, "--policy", path], ["play", HOUSE, "--policy", path]
    for command in commands:
        with pytest.raises(SystemExit):
            main([*map(str, command)])
        assert f"allow it: {allowed}\n" in capsys.readouterr().err
    assert not evil()
    for command in commands:
        with pytest.raises(SystemExit):
            main([*map(str, command), *allowed.split()])
        assert "would import code" not in capsys.readouterr().err
    assert evil()


@pytest.mark.parametrize("tools", [["evil_world:spy"], "evil_world:spy"])
def test_a_tool_of_a_run_is_code_too(tmp_path, evil, tools):
    path = folder(tmp_path, env="agentgym/Search-v0", env_options={"documents": 400, "extra_tools": tools})
    with pytest.raises(
        UsageError, match=r"would import code: env\.extra_tools=evil_world:spy; .* --allow-import evil_world"
    ):
        Training.resume(path)
    assert not evil()
    training = Training.resume(path, allowed=Allowed({"evil_world"}))
    assert resuming(training.folder, training.config).endswith("--allow-import evil_world")
    with pytest.raises(UsageError, match="'evil_world' has no tool 'spy'"):
        _ = training.probe
    assert evil()


def test_a_module_that_is_imported_already_or_belongs_to_the_package_is_no_new_code(tmp_path, evil):
    import_named("evil_world")
    path = folder(tmp_path, env="evil_world:me/World-v0")
    assert Training.resume(path).config.env == "evil_world:me/World-v0"
    ours = RunFolder.create(tmp_path / "ours", {"env": f"agentgym.envs.household:{HOUSE}", "model": TINY})
    assert Training.resume(ours.path).config.env.endswith(HOUSE)


@pytest.mark.parametrize("unsafe", [{"unsafe_local_python": True}, {"tools": {"unsafe_shell": 1}}])
def test_unsafe_options_are_repeated_or_refused(tmp_path, unsafe, capsys):
    path = folder(tmp_path, env="agentgym/Code-v0", env_options=unsafe)
    name = next(iter(unsafe)) if "unsafe_local_python" in unsafe else "tools.unsafe_shell"
    with pytest.raises(UsageError, match=rf"run\.yaml switches protection off: env\.{name}=.*--unsafe-local-python"):
        Training.resume(path)
    with pytest.raises(SystemExit):
        main(["train", "--resume", str(path)])
    assert "switches protection off" in capsys.readouterr().err
    assert Training.resume(path, allowed=Allowed(unsafe=True)).config.env_options == unsafe


def test_the_command_that_resumes_a_run_allows_what_it_needs(tmp_path):
    options = {"env": "a.b:me/World-v0", "algorithm": "c:mine", "env_options": {"unsafe_local_python": True}}
    run = RunFolder(folder(tmp_path, **options, overrides={"advantage": "c:own", "loss_term": "agentgym.x:y"}))
    told = resuming(run, options_of(run))
    assert told == f"agentgym train --resume {run.path} --allow-import a.b --allow-import c --unsafe-local-python"


def test_a_sound_run_needs_nothing(tmp_path):
    assert Training.resume(folder(tmp_path, env_options={"unsafe_local_python": False})).config.env == HOUSE


def test_a_training_that_starts_may_use_what_its_user_named(tmp_path, evil):
    """Options that a user writes down are the user's own; only a folder's are not."""
    with pytest.raises(UsageError, match="unknown environment"):
        Training.start(TrainConfig.checked({"env": "evil_world:me/World-v0"}), tmp_path / "new")
    assert evil()


@pytest.mark.parametrize("kind", ["config.json", "tokenizer_config.json"])
def test_a_models_own_code_is_never_run(tmp_path, small, kind, monkeypatch):
    """A model's folder may name classes in a file of its own; they are not imported, and nobody is asked."""
    monkeypatch.setattr("builtins.input", lambda question="": "y")
    model, tokenizer = small()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    path = tmp_path / "model" / kind
    named = json.loads(path.read_text())
    named["model_type"] = "unheard_of"
    named["auto_map"] = {
        "AutoConfig": "code.Config",
        "AutoModelForCausalLM": "code.Model",
        "AutoTokenizer": ["code.Slow", "code.Fast"],
    }
    if kind == "tokenizer_config.json":
        named["tokenizer_class"] = "Fast"
    path.write_text(json.dumps(named))
    with contextlib.suppress(UsageError):  # some can be read without it
        load(str(tmp_path / "model"))
    assert not (tmp_path / "ran").exists()
