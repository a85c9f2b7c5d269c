"""Training under budgets: one is drawn for each task, announced, enforced and recorded; evaluations have none."""

from __future__ import annotations

import pytest

from agentgym.errors import UsageError
from agentgym.records import Task
from agentgym.store import RunFolder
from agentgym.trainers.run.budgets import TrainingBudgets
from agentgym.trainers.run.config import TrainConfig
from agentgym.trainers.run.trainer import Training, environment

TINY = {"layers": 1, "hidden": 16, "heads": 2, "kv_heads": 1, "vocabulary": 400, "max_context": 1024}
SEARCH = {
    "env": "agentgym/Search-v0",
    "env_options": {"documents": 400, "hops": 1},
    "algorithm": "otc",
    "model.tiny": TINY,
    "run.updates": 2,
    "rollout.groups": 4,
    "rollout.group_size": 3,
    "rollout.max_new_tokens": 24,
    "sft.episodes": 24,
    "sft.epochs": 12,
    "sft.lr": 5e-3,
    "eval.every": 0,
    "eval.episodes": 4,
    "run.threads": 1,
}
LETTERS = {"env": "letters:tests/Letters-v0", "model.tiny": TINY | {"max_context": 128}}


def budgets(**options):
    config = TrainConfig.checked(LETTERS | options)
    return TrainingBudgets(config, environment(config, "train"))


def test_search_is_trained_under_drawn_budgets(tmp_path):
    pytest.importorskip("tantivy", reason="needs the extra 'search'")
    Training.start(TrainConfig.checked(SEARCH | {"budget.limits": "0,1,inf"}), tmp_path / "run").run()
    folder = RunFolder(tmp_path / "run")
    assert [m["update"] for m in folder.metrics.read() if "event" not in m] == [1, 2]
    episodes = list(folder.episodes())
    assert len(episodes) == 2 * 4 * 3
    told = {}
    for episode in episodes:
        budget = told.setdefault(episode.group, episode.task.options["budget"])
        assert episode.task.options["budget"] == budget  # the members of a group share theirs
        ran = [c for t in episode.turns for c in t.tool_calls if c.status == "ran"]
        if budget == "inf":
            assert "budget left" not in episode.turns[0].observation
        else:
            limit = int(budget.removeprefix("tool_calls="))
            assert f"[budget left: {limit} tool call" in episode.turns[0].observation
            assert len(ran) <= limit
    assert len(set(told.values())) > 1


def test_a_resumed_run_draws_the_same(tmp_path):
    options = LETTERS | {
        "run.updates": 3,
        "rollout.groups": 3,
        "rollout.group_size": 2,
        "rollout.max_new_tokens": 4,
        "budget.limits": "1,2,inf",
    }
    options |= {
        "eval.every": 0,
        "eval.episodes": 2,
        "run.checkpoint_every": 1,
        "run.keep_checkpoints": 4,
        "run.threads": 1,
    }
    drawn = []
    for path in (tmp_path / "whole", tmp_path / "cut"):
        Training.start(TrainConfig.checked(options), path).run()
        if path.name == "cut":
            for update in (2, 3):
                for file in sorted(RunFolder(path).checkpoints()[update].iterdir()):
                    file.unlink()
                RunFolder(path).checkpoints()[update].rmdir()
            Training.resume(path).run()
        drawn.append([(e.id, e.task.options["budget"], len(e.turns)) for e in RunFolder(path).episodes()])
    assert drawn[0] == drawn[1]
    assert len({budget for _, budget, _ in drawn[0]}) > 1


def test_without_one_nothing_is_changed():
    without = budgets()
    tasks = [Task(3), Task(4, {"task": 4})]
    assert without.drawn(tasks, 1) == tasks
    observation, info = without.environment().reset(seed=1)
    assert (observation, "budget" in info) == ("You see blue.", False)


def test_budgets_are_drawn_by_key_and_kept_in_the_options():
    some = budgets(**{"budget.limits": "1,2,3,inf"})
    tasks = [Task(n, {"task": n}) for n in range(40)]
    drawn = some.drawn(tasks, 1)
    assert drawn == some.drawn(tasks, 1)
    assert drawn != some.drawn(tasks, 2)
    assert {t.options["budget"] for t in drawn} == {"turns=1", "turns=2", "turns=3", "inf"}
    assert [(t.seed, t.options["task"]) for t in drawn] == [(n, n) for n in range(40)]
    assert [str(b) for b in budgets(**{"budget.limits": 2}).choices] == [
        "turns=2"
    ]  # a number, as the command line gives it


def test_they_are_announced_unless_told_otherwise():
    assert budgets(**{"budget.limits": "2"}).environment().reset(seed=1)[0] == "You see blue.\n\n[budget left: 2 turns]"
    assert budgets(**{"budget.limits": "2", "budget.announce": False}).environment().reset(seed=1)[0] == "You see blue."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget.limits": "1,x"}, "budget 'turns=x': 'x' is not a number"),
        ({"budget.limits": "tool_calls=1"}, "tests/Letters-v0 has no tools, so tool calls cannot be limited"),
        ({"budget.limits": [1]}, "budget.limits: input should be a valid string"),
        (
            {"budget.limits": "1", "budget.exhausted": "stop"},
            "budget.exhausted: input should be 'refuse' or 'truncate'",
        ),
    ],
)
def test_what_cannot_be_enforced_is_refused_before_there_is_a_folder(tmp_path, options, message):
    with pytest.raises(UsageError) as refused:
        Training.start(TrainConfig.checked(LETTERS | options), tmp_path / "run")
    assert str(refused.value).startswith(message)
    assert not (tmp_path / "run").exists()


def test_what_goes_beyond_its_budget_is_not_imitated(tmp_path):
    with pytest.raises(
        UsageError, match=r"no expert episode stays within budget\.limits=0, so there is nothing to imitate"
    ):
        Training.start(TrainConfig.checked(LETTERS | {"budget.limits": "0", "sft.episodes": 3}), tmp_path / "run").run()
    seen = {}
    training = Training.start(
        TrainConfig.checked(LETTERS | {"budget.limits": "0,1", "sft.episodes": 30, "sft.epochs": 1, "run.updates": 0}),
        tmp_path / "some",
        lambda stage, metrics: seen.setdefault(stage, metrics),
    )
    training.run()
    assert 5 < seen["sft"]["episodes"] < 25
