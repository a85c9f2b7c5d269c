"""A training run: supervised fine-tuning, then rollout and update in turn; evaluated, recorded, exactly resumable."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from agentgym import keyed_random
from agentgym.contract import Probe, probe
from agentgym.errors import DiskFull, WorldFault
from agentgym.evaluate import evaluate, tasks_of
from agentgym.failures import Failures
from agentgym.models.kinds import kind_of
from agentgym.models.local_policy import ModelPolicy
from agentgym.policy import ExpertPolicy, Sampling
from agentgym.records import Episode
from agentgym.rollout import Group, Pace, Rollout
from agentgym.store import EpisodeWriter, JsonLines, RunFolder
from agentgym.trainers.parts import get_algorithm
from agentgym.trainers.run.budgets import TrainingBudgets
from agentgym.trainers.run.build import build_algorithm, build_learner, build_model, build_policy, precision
from agentgym.trainers.run.checkpoint import restore, save
from agentgym.trainers.run.config import TrainConfig
from agentgym.trainers.run.defaults import WORDS
from agentgym.trainers.run.outlook import Outlook, Progress, silent
from agentgym.trainers.run.requirements import check_run, environment
from agentgym.trainers.run.run_file import (
    as_text,
    change_options,
    changed_options,
    check_unchanged,
    note_versions,
    refuse_to_delete,
    versions,
)
from agentgym.trainers.run.summary import branching_metrics, decisions, in_order, share_solved, summary
from agentgym.trainers.run.tensorboard import TensorBoardLogger
from agentgym.trainers.run.trust import NOTHING, Allowed, resuming, trusted_options
from agentgym.trainers.sft.demonstrations import cut_short
from agentgym.trainers.sft.experts import narrator, playable
from agentgym.trainers.sft.imitation import ImitationConfig, imitate
from agentgym.trainers.update.learner import Learner

_NARRATED = 20  # turns of an episode that is played for its text alone


class Training:
    """One run folder being written. :meth:`start` makes a new one, :meth:`resume` continues one exactly.

    Args:
        folder: the run folder; its ``run.yaml`` is the configuration.
        progress: told what happens.
    """

    def __init__(self, folder: RunFolder, progress: Progress = silent, *, allowed: Allowed = NOTHING) -> None:
        self.folder, self.progress = folder, progress
        self.config = config = trusted_options(folder, allowed)
        if config.run.threads is not None:
            torch.set_num_threads(config.run.threads)
        torch.use_deterministic_algorithms(True, warn_only=True)
        self.algorithm = build_algorithm(config)
        self.branching = self.algorithm.branching()
        self.key = keyed_random.key("train", config.run.seed)
        self.timings = JsonLines(folder.path / "timings.jsonl")
        self.branches = JsonLines(folder.path / "branches.jsonl")
        self.update = 0
        self._recent: list[float] = []
        self._resumed = False
        self._outlook = Outlook(config)

    @classmethod
    def start(cls, config: TrainConfig, path: str | Path, progress: Progress = silent) -> Training:
        """Make the run folder; everything that can be refused is refused before it exists."""
        algorithm = build_algorithm(config)
        found = probe(environment(config, "train"), config.rollout.step_seconds)
        check_run(config, algorithm, found)
        resolved = config.model_dump() | {
            "parameters": get_algorithm(config.algorithm).resolve(**config.parameters),
            "stages": algorithm.as_text(),
            "fingerprint": found.fingerprint,
            "versions": versions(),
        }
        resolved["model"]["dtype"] = precision(config)
        resolved["run"]["threads"] = config.run.threads or torch.get_num_threads()
        return cls(RunFolder.create(path, resolved), progress, allowed=Allowed(unsafe=True))

    @classmethod
    def resume(
        cls, path: str | Path, progress: Progress = silent, changes: Mapping[str, Any] = {}, allowed: Allowed = NOTHING
    ) -> Training:
        """Resume a run from its latest checkpoint; what was written after that is cut off and made again.

        A run that was stopped before its first checkpoint has recorded nothing: it starts again.

        Args:
            path: its folder.
            progress: told what happens.
            changes: options to change, e.g. ``{"run.updates": 200}`` to extend it; see :data:`.run_file.FREE`.
            allowed: what its ``run.yaml`` may do beside being read.

        Raises:
            UsageError: an option that cannot be changed, fewer updates than it has made, or code that is not allowed.
        """
        folder = RunFolder(path)
        if changes:
            change_options(folder, changes)
        training = cls(folder, progress, allowed=allowed)
        training._resumed = True
        return training

    def run(self) -> None:
        """Train to the end; returns at once if it is there already.

        Raises:
            UsageError: ``run.yaml``, the algorithm or the environment is not what a resumed run was trained with.
            StoreError: the latest checkpoint is damaged, or there is none while there is a history, which starting
                again would delete.
            DiskFull: there is no room for what it writes. Nothing is lost: resume it when there is.
        """
        with self.folder.alone():
            try:
                self._run()
            except DiskFull as error:
                raise DiskFull(f"{error}; then: {resuming(self.folder, self.config)}") from error

    def _run(self) -> None:
        resumed = bool(self.folder.checkpoints())
        written, learner, policy = self._restored() if resumed else self._fresh()
        options = self.config.run
        with (
            self.folder.writer(at=written) as writer,
            TensorBoardLogger(self.folder.path / "tensorboard", self.update) as self.board,
            Rollout(
                self.budgets.environment,
                policy,
                branching=self.branching,
                run_key=self.key,
                max_turns=self.config.rollout.max_turns,
                **self._stepping,
            ) as rollout,
        ):
            if not self.board.available:
                self.progress("tensorboard is not installed, metrics.jsonl has it all", {})
            if not resumed:
                self._save(learner, policy, writer)  # before anything is recorded: the fine-tuning is not lost
            if self.update == 0:
                self._evaluate(policy)
            while self.update < options.updates and not self._good_enough():
                self._one(rollout, learner, policy, writer)
                last = self.update == options.updates or self._good_enough()
                if last or (self.config.eval.every and self.update % self.config.eval.every == 0):
                    self._evaluate(policy)
                if last or self.update % options.checkpoint_every == 0:
                    self._save(learner, policy, writer)

    # One update -------------------------------------------------------------------------------------------------------

    def _one(self, rollout: Rollout, learner: Learner, policy: ModelPolicy, writer: EpisodeWriter) -> None:
        began = time.perf_counter()
        calls, generated = rollout.policy_calls, policy.engine.generated
        self.update += 1
        episodes, selected = self._played(rollout)
        rolled_out = time.perf_counter()
        update = learner.update(selected, lr=self.config.learning_rate(self.update))
        policy.updated()
        ended = time.perf_counter()
        own_turns = sum(len(e.own_turns) for e in episodes)
        branch_decisions = decisions(self.branching)
        metrics = (
            {"update": self.update}
            | summary(episodes)
            | {
                "kept_episodes": len(selected),
                "calls_per_turn": (rollout.policy_calls - calls) / max(1, own_turns),
                "generated_tokens": policy.engine.generated - generated,
            }
            | branching_metrics(episodes, branch_decisions)
            | update.metrics
        )
        self._recent = [*self._recent[-2:], share_solved(episodes)]
        for episode in episodes:
            writer.append(episode)
        for episode_id, advantage in update.advantages.items():
            self.folder.advantages.append({"update": self.update, "episode": episode_id, "advantage": advantage})
        for decision in branch_decisions:
            self.branches.append({"update": self.update} | asdict(decision))
        self._record(metrics)
        seconds = {"rollout_seconds": rolled_out - began, "update_seconds": ended - rolled_out}
        self.timings.append({"update": self.update} | seconds)
        self.progress("update", metrics | seconds)
        for line in self._outlook.updated(self.update, ended - began, episodes, update.metrics):
            self.progress(line, {})

    def _played(self, rollout: Rollout) -> tuple[list[Episode], list[Episode]]:
        """All episodes of this update, and those that are learned from; rolls out again while groups are missing."""
        selection = self.algorithm.selection
        options = self.config.rollout
        episodes: list[Episode] = []
        selected: list[list[Episode]] = []
        for attempt in range(getattr(selection.function, "rollouts", 1)):
            key = keyed_random.key(self.key, "attempt", attempt) if attempt else self.key
            tasks = self.algorithm.sampler(key, self.update, options.groups, rollout.num_tasks)
            tasks = self.budgets.drawn(tasks, keyed_random.key(key, self.update))
            first = attempt * options.groups
            groups = [Group(f"{self.update}.{first + i}", t, options.group_size) for i, t in enumerate(tasks)]
            self._show(rollout, f"update {self.update} of {self.config.run.updates}", groups, made=self.update - 1)
            played = in_order(rollout.play(groups))
            episodes += played
            for group in groups:
                members = [e for e in played if e.group == group.id and not e.failed]
                if len(selected) < options.groups and members and selection(members):
                    selected.append(members)
            self._stop_if_failing(episodes, f"update {self.update}")
            if len(selected) == options.groups:
                break
        return episodes, [e for group in selected for e in group]

    def _stop_if_failing(self, episodes: Sequence[Episode], what: str) -> None:
        """What is left of a failing world is a biased sample: neither learned from nor taken for a result."""
        failures = Failures.of(episodes)
        limit = self.config.rollout.max_failed
        if failures.share > limit or failures.failed == failures.episodes > 0:
            raise WorldFault(
                f"{what}: {failures.failed} of {failures.episodes} episodes failed in the world or the policy, more "
                f"than rollout.max_failed={limit:g} allows; the first: {failures.failure}; mend it, then resume "
                f"with --resume {self.folder.path}"
            )

    def _record(self, metrics: Mapping[str, Any]) -> None:
        self.folder.metrics.append(metrics)
        self.board.add(self.update, metrics)

    def _good_enough(self) -> bool:
        target = self.config.run.stop_at
        return target is not None and len(self._recent) == 3 and min(self._recent) >= target

    def _evaluate(self, policy: ModelPolicy) -> None:
        """Play tasks of the evaluation split, cut where training cuts."""
        began = time.perf_counter()
        options = self.config.eval
        curve = evaluate(
            environment(self.config, options.split),
            policy,
            tasks=lambda count: [
                Group(f"eval.{self.update}.{i}", task) for i, task in enumerate(tasks_of(count, options.episodes))
            ],
            name=self._outlook.heading("evaluation", self.update),
            max_turns=self.config.rollout.max_turns,
            run_key=keyed_random.key(self.key, "eval", self.update),
            sampling=Sampling(temperature=options.temperature),
            watch=getattr(self.progress, "playing", None),
            **self._stepping,
        )
        episodes = list(curve.episodes[0])
        self._stop_if_failing(episodes, f"the evaluation after update {self.update}")
        metrics = {f"eval_{name}": value for name, value in summary(episodes).items()}
        self._record({"update": self.update, "event": "eval", "split": options.split} | metrics)
        self.timings.append({"update": self.update, "eval_seconds": (seconds := time.perf_counter() - began)})
        self.progress("evaluation", {"update": self.update} | metrics)
        for line in self._outlook.evaluated(self.update, seconds, len(episodes)):
            self.progress(line, {})

    def _show(self, rollout: Rollout, what: str, groups: Sequence[Group], *, made: int) -> None:
        """Let whoever shows the progress know how far the rollout is that comes now, after so many updates."""
        watch, size = getattr(self.progress, "playing", None), sum(group.size for group in groups)
        rollout.pace = Pace(self._outlook.heading(what, made), size, watch)

    # Starting and resuming --------------------------------------------------------------------------------------------

    def _restored(self) -> tuple[int, Learner, ModelPolicy]:
        """Everything as the latest checkpoint has it, and how many bytes of episodes it knows of."""
        update, path = self.folder.latest_checkpoint()
        model, tokenizer, state = restore(path, self.config.model.device, precision(self.config))
        notes = changed_options(self.config, state["run"], update)
        self._check_unchanged()
        policy = build_policy(self.config, self.algorithm, model, tokenizer)
        learner = build_learner(self.config, self.algorithm, policy, self.probe)
        learner.load_state_dict(state["learner"])
        policy.version = update
        self.update, self._recent = update, list(state["recent"])
        if state["branching"]:
            self.branching.load_state_dict(state["branching"])
        self._begin_after(update, state["lines"], notes)
        return state["episodes"], learner, policy

    def _fresh(self) -> tuple[int, Learner, ModelPolicy]:
        refuse_to_delete(self.folder, [lines.path for lines in self._lines])
        notes = []
        if self._resumed:
            self._check_unchanged()
            notes = ["it was stopped before its first checkpoint, nothing is recorded: it starts again"]
        self._begin_after(0, {}, notes)
        self._tell_options()
        config = self.config
        expert = ExpertPolicy(config.sft.expert_noise)
        demonstrations = self._demonstrations(expert)
        model, tokenizer = build_model(config, demonstrations)
        policy = build_policy(config, self.algorithm, model, tokenizer)
        if config.sft.episodes:
            if line := cut_short(demonstrations, policy.chat, policy.max_new_tokens):
                self.progress(line, {})
            own = config.sft.model_dump(include={"optimizer", "lr", "weight_decay", "epochs", "batch_size"})
            microbatch = config.optimizer.max_tokens_per_microbatch
            for metrics in imitate(
                model,
                policy,
                self.budgets.within(demonstrations),
                ImitationConfig(max_tokens_per_microbatch=microbatch, seed=config.run.seed, **own),
                instructions=self.probe.instructions if config.model.instructions else "",
                noise=expert.noise,
                permutable_names=self.probe.permutable_names if config.sft.permute_names else (),
            ):
                self.progress("sft", metrics)
        return 0, build_learner(config, self.algorithm, policy, self.probe), policy

    def _tell_options(self) -> None:
        """Show what the run does where the default depends on the model."""
        config = self.config
        chosen = {"optimizer.lr": config.optimizer.lr, "rollout.max_new_tokens": config.rollout.max_new_tokens}
        if config.sft.episodes:
            chosen["sft.lr"] = config.sft.lr
        kind = kind_of(config.model.name, lora=config.model.lora is not None)
        self.progress(f"{WORDS[kind]} in {precision(config)}", chosen)

    def _check_unchanged(self) -> None:
        check_unchanged(self.folder, self.algorithm.as_text(), self.probe.fingerprint)

    def _begin_after(self, update: int, sizes: Mapping[str, int], notes: Iterable[str]) -> None:
        """Drop what was written after an update, when the files of lines had these sizes."""
        for lines in self._lines:
            lines.cut(sizes.get(lines.path.name, 0))
        odd = [f"{path} is not named like a checkpoint (update-000003): left alone" for path in self.folder.saved.odd()]
        for note in (*notes, *note_versions(self.folder, update), *odd):
            self.progress(note, {})

    @property
    def _lines(self) -> tuple[JsonLines, ...]:
        return self.folder.metrics, self.folder.advantages, self.timings, self.branches

    def _demonstrations(self, expert: ExpertPolicy) -> list[Episode]:
        """Expert episodes to imitate; the tiny model's tokenizer is trained on their text even without."""
        config = self.config
        count = config.sft.episodes or (200 if config.model.name == "tiny" else 0)
        if not count:
            return []
        key = keyed_random.key(self.key, "warm start")
        player = expert if config.sft.episodes else narrator(expert, self.budgets.environment)
        limit = None if player is expert else config.rollout.max_turns or _NARRATED
        with Rollout(self.budgets.environment, player, max_turns=limit, **self._stepping) as rollout:
            tasks = self.budgets.drawn(self.algorithm.sampler(key, 0, count, rollout.num_tasks), key)
            groups = [Group(f"warm.{i}", task) for i, task in enumerate(tasks)]
            self._show(rollout, "demonstrations", groups, made=0)
            episodes = in_order(rollout.play(groups))
        played, failure = playable(episodes)
        if failure is not None:
            missing, kind = len(episodes) - len(played), "expert " * (player is expert)
            self.progress(f"{missing} of {count} {kind}episodes failed and are not imitated; the first: {failure}", {})
        return played

    @functools.cached_property
    def probe(self) -> Probe:
        """What the training environment says about itself."""
        return probe(environment(self.config, "train"), self.config.rollout.step_seconds)

    @functools.cached_property
    def budgets(self) -> TrainingBudgets:
        """Of training episodes and demonstrations; evaluations have none."""
        return TrainingBudgets(self.config, environment(self.config, "train"))

    @property
    def _stepping(self) -> dict[str, Any]:
        """How environments are stepped, in training, evaluations and demonstrations."""
        options = self.config.rollout
        return {
            "max_concurrent_episodes": options.max_concurrent_episodes,
            "step_seconds": options.step_seconds,
            "lockstep": options.lockstep,
        }

    def _save(self, learner: Learner, policy: ModelPolicy, writer: EpisodeWriter) -> None:
        state = {
            "run": as_text(self.folder.config),
            "learner": learner.state_dict(),
            "branching": self.branching.state_dict(),
            "recent": self._recent,
            "episodes": writer.flush(),
            "lines": {lines.path.name: lines.saved() for lines in self._lines},
        }
        save(self.folder, self.update, policy.model, policy.tokenizer, state)
        self.folder.saved.prune(self.config.run.keep_checkpoints)
