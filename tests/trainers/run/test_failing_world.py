"""Training in worlds that fail: what is counted, what is learned from, and when a run stops."""

from __future__ import annotations

import re

import letters
import pytest

from agentgym.errors import WorldFault
from agentgym.records import StopReason
from agentgym.store import RunFolder
from agentgym.trainers.run.config import TrainConfig
from agentgym.trainers.run.trainer import Training

RUN = {
    "env": "letters:tests/Letters-v0",
    "algorithm": "gigpo",
    "model.tiny": {"layers": 1, "hidden": 16, "heads": 2, "kv_heads": 1, "vocabulary": 300, "max_context": 128},
    "run.updates": 2,
    "rollout.groups": 10,
    "rollout.group_size": 1,
    "rollout.max_new_tokens": 4,
    "eval.every": 0,
    "eval.episodes": 5,
    "run.checkpoint_every": 1,
    "run.threads": 1,
}
GONE = WorldFault("the server is gone")
EVALUATION = -1


@pytest.fixture
def breaking(monkeypatch):
    """``breaking(training, when, error)``: ``step`` raises where ``when(update, task, turn)`` says so.

    Tasks are numbered as they are first met in an update; 0 is the update of the demonstrations, and evaluations have
    ``EVALUATION`` for their update.
    """

    def install(training, when, error):
        reset, step, met = letters.Letters.reset, letters.Letters.step, {}

        def numbered_reset(self, *, seed=None, options=None):
            self.update = training.update if seed >= 1000 else EVALUATION
            self.number = met.setdefault(self.update, {}).setdefault(seed, len(met[self.update]))
            return reset(self, seed=seed, options=options)

        def breaking_step(self, action):
            if when(self.update, self.number, self.turn):
                raise error
            return step(self, action)

        monkeypatch.setattr(letters.Letters, "reset", numbered_reset)
        monkeypatch.setattr(letters.Letters, "step", breaking_step)

    return install


def started(path, **options):
    told = []
    config = TrainConfig.checked(RUN | options)
    return Training.start(config, path, lambda stage, metrics: told.append((stage, dict(metrics)))), told


def updates(path):
    return [m for m in RunFolder(path).metrics.read() if "event" not in m]


def test_what_an_action_breaks_is_an_episode_with_reward_0_that_is_learned_from(tmp_path, breaking):
    training, _ = started(tmp_path / "run", **{"rollout.groups": 2, "rollout.group_size": 5})
    broken_tasks = {(1, 1), (2, 0), *((EVALUATION, task) for task in range(5))}
    breaking(
        training, lambda update, task, turn: turn == 1 and (update, task) in broken_tasks, ValueError("no such door")
    )
    training.run()
    lines = updates(tmp_path / "run")
    assert [(m["action_errors"], m["action_error"]) for m in lines] == [(5, "ValueError: no such door")] * 2
    assert [(m["episodes"], m["failed"], m["failure"], m["kept_episodes"]) for m in lines] == [(10, 0, None, 10)] * 2
    episodes = list(RunFolder(tmp_path / "run").episodes())
    broken = [e for e in episodes if e.stop is StopReason.ACTION_ERROR]
    assert [e.group for e in broken] == ["1.1"] * 5 + ["2.0"] * 5
    assert all(e.turns[-1].reward == 0.0 and e.turns[-1].sample is not None and not e.solved for e in broken)
    advantages = {line["episode"]: line["advantage"] for line in RunFolder(tmp_path / "run").advantages.read()}
    assert all(len(advantages[e.id]) == len(e.turns) == 2 for e in broken)
    assert lines[0]["success"] == sum(e.solved for e in episodes[:10]) / 10
    evaluations = [m for m in RunFolder(tmp_path / "run").metrics.read() if "event" in m]
    assert all((m["eval_action_errors"], m["eval_failed"]) == (5, 0) for m in evaluations)


def test_what_the_world_breaks_is_left_out_and_counted(tmp_path, breaking):
    training, _ = started(tmp_path / "run")
    breaking(training, lambda update, task, turn: update > 0 and turn == 1 and task in (2, 5, 7), GONE)
    training.run()
    lines = updates(tmp_path / "run")
    told = [(m["episodes"], m["failed"], m["failure"], m["action_errors"], m["kept_episodes"]) for m in lines]
    assert told == [(10, 3, "WorldFault: the server is gone", 0, 7)] * 2
    episodes = list(RunFolder(tmp_path / "run").episodes())
    assert [e.group for e in episodes if e.stop is StopReason.WORLD_FAULT][:3] == ["1.2", "1.5", "1.7"]
    advantages = {line["episode"] for line in RunFolder(tmp_path / "run").advantages.read()}
    assert advantages == {e.id for e in episodes if not e.failed}
    played = [e for e in episodes[:10] if not e.failed]
    assert lines[0]["success"] == sum(e.solved for e in played) / 7


@pytest.mark.parametrize("options", [{}, {"rollout.max_failed": 0.59}])
def test_training_stops_where_too_many_episodes_fail(tmp_path, breaking, options):
    training, _ = started(tmp_path / "run", **options)
    broken = [True]
    breaking(training, lambda update, task, turn: broken[0] and update == 2 and task < 6, GONE)
    said = (
        r"^update 2: 6 of 10 episodes failed in the world or the policy, more than rollout\.max_failed=0\.59? allows; "
        r"the first: WorldFault: the server is gone; mend it, then resume with --resume "
        rf"{re.escape(str(tmp_path / 'run'))}$"
    )
    with pytest.raises(WorldFault, match=said):
        training.run()
    assert [m["update"] for m in updates(tmp_path / "run")] == [1]  # nothing was learned from what was left
    broken[0] = False
    Training.resume(tmp_path / "run").run()
    assert [(m["update"], m["failed"]) for m in updates(tmp_path / "run")] == [(1, 0), (2, 0)]


@pytest.mark.parametrize(("share", "failing"), [(0.5, 5), (0.6, 6), (1.0, 9)])
def test_training_goes_on_where_as_many_may_fail(tmp_path, breaking, share, failing):
    training, _ = started(tmp_path / "run", **{"run.updates": 1, "rollout.max_failed": share})
    breaking(training, lambda update, task, turn: update == 1 and task < failing, GONE)
    training.run()
    assert [m["failed"] for m in updates(tmp_path / "run")] == [failing]


def test_training_stops_where_every_episode_fails_whatever_is_allowed(tmp_path, breaking):
    training, _ = started(tmp_path / "run", **{"rollout.max_failed": 1.0})
    breaking(training, lambda update, task, turn: update == 1, GONE)
    with pytest.raises(WorldFault, match=r"^update 1: 10 of 10 episodes failed"):
        training.run()


def test_training_stops_where_an_evaluation_fails(tmp_path, breaking):
    training, _ = started(tmp_path / "run")
    breaking(training, lambda update, task, turn: update == EVALUATION, GONE)
    with pytest.raises(WorldFault, match=r"^the evaluation after update 0: 5 of 5 episodes failed"):
        training.run()


@pytest.mark.parametrize(("failing", "last"), [(3, 6), (2, 3)])
def test_a_run_is_not_good_enough_by_what_is_left_out(tmp_path, breaking, monkeypatch, failing, last):
    """Every episode that does not fail is solved; where three of ten fail, 0.8 is not reached."""
    monkeypatch.setattr("agentgym.records.Episode.solved", property(lambda episode: True))
    training, _ = started(tmp_path / "run", **{"run.updates": 6, "run.stop_at": 0.8})
    breaking(training, lambda update, task, turn: update > 0 and task < failing, GONE)
    training.run()
    assert [(m["failed"], m["success"]) for m in updates(tmp_path / "run")] == [(failing, 1.0)] * last


def test_a_demonstration_that_broke_the_world_is_not_imitated(tmp_path, breaking):
    training, told = started(
        tmp_path / "run", **{"run.updates": 0, "sft.episodes": 10, "sft.epochs": 1, "eval.episodes": 1}
    )
    breaking(training, lambda update, task, turn: update == 0 and task % 2 == 0, ValueError("no such door"))
    training.run()
    (said,) = (stage for stage, _ in told if "not imitated" in stage)
    assert said == "5 of 10 expert episodes failed and are not imitated; the first: ValueError: no such door"
    assert {f["episodes"] for stage, f in told if stage == "sft" and "epoch" in f} == {5}
