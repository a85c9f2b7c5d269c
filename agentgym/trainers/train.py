"""A training run: warm start, then rollout and update in turn, evaluated, recorded, and resumable to the byte."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Protocol

import gymnasium as gym
import torch

from agentgym import draws
from agentgym.errors import DiskFull, StoreError, UsageError, WorldFault
from agentgym.failures import Failures
from agentgym.policy import ExpertPolicy, Policy, RandomPolicy, ScriptedPolicy, check_playable
from agentgym.records import Episode, Task
from agentgym.registry import import_of, make, takes_split
from agentgym.rollout import Group, Pace, Rollout
from agentgym.rollout.pace import clock
from agentgym.store import PATTERN, EpisodeWriter, JsonLines, RunFolder
from agentgym.trainers.algorithm import Algorithm, get_recipe, slots
from agentgym.trainers.attention import longest_context
from agentgym.trainers.beliefs import Beliefs, answer_markup
from agentgym.trainers.board import Board
from agentgym.trainers.branching import decisions, tree_figures
from agentgym.trainers.budgets import TrainingBudgets
from agentgym.trainers.checkpoint import restore, save
from agentgym.trainers.config import TrainConfig
from agentgym.trainers.contexts import Context, full_history
from agentgym.trainers.defaults import WORDS, kind_of
from agentgym.trainers.demonstrations import cut_short
from agentgym.trainers.imitation import imitate
from agentgym.trainers.learner import Learner, Optimisation
from agentgym.trainers.lora import check_lora, with_lora
from agentgym.trainers.model import ModelPolicy, check_model, load_to_learn
from agentgym.trainers.outlook import Outlook
from agentgym.trainers.parts import with_part
from agentgym.trainers.precision import chosen, compute_in
from agentgym.trainers.recorded import (
    as_text,
    change_options,
    changed_options,
    check_unchanged,
    note_versions,
    options_of,
    versions,
)
from agentgym.trainers.requirements import check_environment
from agentgym.trainers.summary import in_order, summary
from agentgym.trainers.tiny import tiny

_NARRATED = 20  # turns of an episode that is played for its text alone


class Progress(Protocol):
    """Is told what happens; the command line draws it."""

    def __call__(self, stage: str, figures: Mapping[str, Any]) -> None:
        """``stage``: ``warm start``, ``update`` or ``evaluation``; any other text is a message.

        An object that also has a method ``playing(pace)`` is told after every turn how far a rollout is.
        """


def silent(stage: str, figures: Mapping[str, Any]) -> None:
    """Show nothing."""


class Training:
    """One run folder being written. :meth:`start` makes a new one, :meth:`resume` continues one exactly.

    Args:
        folder: the run folder; its ``run.yaml`` is the configuration.
        progress: told what happens.
    """

    def __init__(self, folder: RunFolder, progress: Progress = silent) -> None:
        self.folder, self.progress = folder, progress
        self.config = config = options_of(folder)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        torch.use_deterministic_algorithms(True, warn_only=True)
        self.algorithm = build_algorithm(config)
        self.branching = self.algorithm.branching()
        self.key = draws.key("train", config.seed)
        self.timings = JsonLines(folder.path / "timings.jsonl")
        self.forks = JsonLines(folder.path / "branches.jsonl")
        self.update = 0
        self._recent: list[float] = []
        self._resumed = False
        self._outlook = Outlook(config)

    @classmethod
    def start(cls, config: TrainConfig, path: str | Path, progress: Progress = silent) -> Training:
        """Make the run folder; everything that can be refused is refused before it exists."""
        algorithm = build_algorithm(config)
        check_model(config.model, config.device)
        check_lora(config.lora, config.model)
        environment(config, config.eval_split)().close()
        env = environment(config, "train")()
        check_environment(env, algorithm.needs)
        TrainingBudgets(config, environment(config, "train"))
        if config.warm_start:
            check_playable(ExpertPolicy(config.warm_start_noise), environment(config, "train")())
        if config.warm_start_exchange and not _interchangeable(config):
            raise UsageError(f"warm_start_exchange: {config.env} names no interchangeable words")
        if config.admissible and not env.reset(seed=0)[1].get("admissible"):
            raise UsageError(f"admissible=true: {config.env} gives no info['admissible']; leave it out")
        resolved = config.model_dump() | {
            "dtype": chosen(config.dtype, config.device),
            "parameters": get_recipe(config.recipe).resolve(**config.parameters),
            "threads": config.threads or torch.get_num_threads(),
            "algorithm": slots(algorithm),
            "fingerprint": str(getattr(env.unwrapped, "fingerprint", "")),
            "versions": versions(),
        }
        env.close()
        return cls(RunFolder.create(path, resolved), progress)

    @classmethod
    def resume(cls, path: str | Path, progress: Progress = silent, **changes: Any) -> Training:
        """Continue a run from its newest checkpoint; what was written after that is cut off and made again.

        A run that was stopped before its first checkpoint, in the warm start, has recorded nothing: it begins anew.

        Args:
            path: its folder.
            progress: told what happens.
            changes: options to change, e.g. ``updates=200`` to extend it; see :data:`.recorded.FREE`.

        Raises:
            UsageError: an option that cannot be changed, or fewer updates than the run has made.
        """
        folder = RunFolder(path)
        if changes:
            change_options(folder, changes)
        training = cls(folder, progress)
        training._resumed = True
        return training

    def run(self) -> None:
        """Train to the end; returns at once if it is there already.

        Raises:
            UsageError: ``run.yaml``, the algorithm or the environment is not what a resumed run was trained with.
            StoreError: the newest checkpoint is damaged, or there is none while there is a history, which beginning
                anew would delete.
            DiskFull: there is no room for what it writes. Nothing is lost: resume it when there is.
        """
        with self.folder.alone():
            try:
                self._run()
            except DiskFull as error:
                raise DiskFull(f"{error}; then: agentgym train --resume {self.folder.path}") from error

    def _run(self) -> None:
        begun = bool(self.folder.checkpoints())
        written, learner, policy = self._restored() if begun else self._fresh()
        with (
            self.folder.writer(at=written) as writer,
            Board(self.folder.path / "tensorboard", self.update) as self.board,
            Rollout(
                self.budgets.environment,
                policy,
                slots=self.config.slots,
                max_turns=self.config.max_turns,
                branching=self.branching,
                run_key=self.key,
                **self._stepping,
            ) as rollout,
        ):
            if not self.board.available:
                self.progress("tensorboard is not installed, metrics.jsonl has it all", {})
            if not begun:
                self._save(learner, policy, writer)  # before anything is recorded: the warm start is not lost
            if self.update == 0:
                self._evaluate(policy)
            while self.update < self.config.updates and not self._good_enough():
                self._one(rollout, learner, policy, writer)
                last = self.update == self.config.updates or self._good_enough()
                if last or (self.config.eval_every and self.update % self.config.eval_every == 0):
                    self._evaluate(policy)
                if last or self.update % self.config.checkpoint_every == 0:
                    self._save(learner, policy, writer)

    # One update -------------------------------------------------------------------------------------------------------

    def _one(self, rollout: Rollout, learner: Learner, policy: ModelPolicy, writer: EpisodeWriter) -> None:
        began = time.perf_counter()
        calls, generated = rollout.policy_calls, policy.engine.generated
        self.update += 1
        episodes, kept = self._played(rollout)
        rolled_out = time.perf_counter()
        done = learner.update(kept, lr=self.config.learning_rate(self.update))
        policy.updated()
        ended = time.perf_counter()
        useful = sum(len(e.own_turns) for e in episodes)
        nodes = decisions(self.branching)
        metrics = (
            {"update": self.update}
            | summary(episodes)
            | {
                "kept_episodes": len(kept),
                "calls_per_turn": (rollout.policy_calls - calls) / max(1, useful),
                "generated_tokens": policy.engine.generated - generated,
            }
            | tree_figures(episodes, nodes)
            | done.metrics
        )
        self._recent = [*self._recent[-2:], _share_solved(episodes)]
        for episode in episodes:
            writer.append(episode)
        for episode_id, credit in done.credits.items():
            self.folder.credits.append({"update": self.update, "episode": episode_id, "credit": credit})
        for node in nodes:
            self.forks.append({"update": self.update} | asdict(node))
        self._record(metrics)
        seconds = {"rollout_seconds": rolled_out - began, "update_seconds": ended - rolled_out}
        self.timings.append({"update": self.update} | seconds)
        self.progress("update", metrics | seconds)
        for line in self._outlook.updated(self.update, ended - began, episodes, done.metrics):
            self.progress(line, {})

    def _played(self, rollout: Rollout) -> tuple[list[Episode], list[Episode]]:
        """All episodes of this update, and those that are learned from; rolls out again while groups are missing."""
        select = self.algorithm.select
        episodes: list[Episode] = []
        kept: list[list[Episode]] = []
        for attempt in range(select.rollouts):
            key = draws.key(self.key, "attempt", attempt) if attempt else self.key
            tasks = self.algorithm.sampling(key, self.update, self.config.groups, rollout.num_tasks)
            tasks = self.budgets.drawn(tasks, draws.key(key, self.update))
            first = attempt * self.config.groups
            groups = [Group(f"{self.update}.{first + i}", t, self.config.group_size) for i, t in enumerate(tasks)]
            self._show(rollout, f"update {self.update} of {self.config.updates}", groups, made=self.update - 1)
            played = in_order(rollout.play(groups))
            episodes += played
            for group in groups:
                members = [e for e in played if e.group == group.id and not e.failed]
                if len(kept) < self.config.groups and members and select.keep(members):
                    kept.append(members)
            self._stop_if_failing(episodes, f"update {self.update}")
            if len(kept) == self.config.groups:
                break
        return episodes, [e for group in kept for e in group]

    def _stop_if_failing(self, episodes: Sequence[Episode], what: str) -> None:
        """What is left of a failing world is a biased sample: neither learned from nor taken for a result."""
        found = Failures.of(episodes)
        if found.share > self.config.max_failed or found.failed == found.episodes > 0:
            raise WorldFault(
                f"{what}: {found.failed} of {found.episodes} episodes failed in the world or the policy, more "
                f"than max_failed={self.config.max_failed:g} allows; the first: {found.failure}; mend it, then go on "
                f"with --resume {self.folder.path}"
            )

    def _record(self, metrics: Mapping[str, Any]) -> None:
        self.folder.metrics.append(metrics)
        self.board.add(self.update, metrics)

    def _good_enough(self) -> bool:
        target = self.config.stop_at
        return target is not None and len(self._recent) == 3 and min(self._recent) >= target

    def _evaluate(self, policy: ModelPolicy) -> None:
        """Play tasks of the evaluation split, cut where training cuts."""
        began = time.perf_counter()
        engine = policy.engine
        trained, engine.temperature = engine.temperature, self.config.eval_temperature
        with Rollout(
            environment(self.config, self.config.eval_split),
            policy,
            slots=self.config.slots,
            max_turns=self.config.max_turns,
            run_key=draws.key(self.key, "eval", self.update),
            **self._stepping,
        ) as rollout:
            count = rollout.num_tasks or self.config.eval_episodes
            chosen = range(min(count, self.config.eval_episodes))
            finite = rollout.num_tasks is not None
            tasks = [Task(i, {"task": i}) if finite else Task(i) for i in chosen]
            groups = [Group(f"eval.{self.update}.{i}", t) for i, t in enumerate(tasks)]
            self._show(rollout, "evaluation", groups, made=self.update)
            episodes = in_order(rollout.play(groups))
        engine.temperature = trained
        self._stop_if_failing(episodes, f"the evaluation after update {self.update}")
        figures = {f"eval_{name}": value for name, value in summary(episodes).items()}
        self._record({"update": self.update, "event": "eval", "split": self.config.eval_split} | figures)
        seconds = time.perf_counter() - began
        self.timings.append({"update": self.update, "eval_seconds": seconds})
        self.progress("evaluation", {"update": self.update} | figures)
        for line in self._outlook.evaluated(self.update, seconds, len(episodes)):
            self.progress(line, {})

    def _show(self, rollout: Rollout, what: str, groups: Sequence[Group], *, made: int) -> None:
        """Let whoever shows the progress know how far the rollout is that comes now, after so many updates."""
        if left := self._outlook.seconds_left(made):
            what += f" ({clock(left)} to go)"
        rollout.pace = Pace(what, sum(group.size for group in groups), getattr(self.progress, "playing", None))

    # Beginning and continuing -----------------------------------------------------------------------------------------

    def _restored(self) -> tuple[int, Learner, ModelPolicy]:
        """Everything as the newest checkpoint has it, and how many bytes of episodes it knows of."""
        update, path = self.folder.latest_checkpoint()
        model, tokenizer, state = restore(path, self.config.device, self.precision)
        notes = changed_options(self.config, state["run"], update)
        self._check_unchanged()
        policy = self._policy(model, tokenizer)
        learner = self._learner(policy)
        learner.load_state_dict(state["learner"])
        policy.version = update
        self.update, self._recent = update, list(state["recent"])
        if state["branching"]:
            self.branching.load_state_dict(state["branching"])
        self._begin_after(update, state["lines"], notes)
        return state["episodes"], learner, policy

    def _fresh(self) -> tuple[int, Learner, ModelPolicy]:
        history = [lines.path for lines in self._lines] + sorted(self.folder.path.glob(PATTERN))
        kept = [path.name for path in history if path.exists() and path.stat().st_size]
        if kept:
            odd = [
                f"checkpoints/{path.name} is not named like one (update-000003); " for path in self.folder.saved.odd()
            ]
            raise StoreError(
                f"{self.folder.path} has no checkpoint to continue from, and to begin anew would delete "
                f"{', '.join(kept)}; {''.join(odd[:1])}put its checkpoints back, or start a run in another folder"
            )
        notes = []
        if self._resumed:
            self._check_unchanged()
            notes = ["it was stopped before its first checkpoint, nothing is recorded: it begins anew"]
        self._begin_after(0, {}, notes)
        self._tell_options()
        expert = ExpertPolicy(self.config.warm_start_noise)
        demonstrations, instructions = self._demonstrations(expert)
        model, tokenizer = self._model(demonstrations)
        policy = self._policy(model, tokenizer)
        if self.config.warm_start:
            if line := cut_short(demonstrations, policy.chat, policy.max_new_tokens):
                self.progress(line, {})
            exchange = _interchangeable(self.config) if self.config.warm_start_exchange else ()
            for metrics in imitate(
                model,
                policy,
                self.budgets.within(demonstrations),
                config=self.config,
                instructions=instructions if self.config.instructions else "",
                noise=expert.noise,
                exchange=exchange,
            ):
                self.progress("warm start", metrics)
        return 0, self._learner(policy), policy

    def _tell_options(self) -> None:
        """Show what the run does where the default depends on the model."""
        names = ["lr", "max_new_tokens", *(["warm_start_lr"] if self.config.warm_start else [])]
        kind = kind_of(self.config.model, lora=self.config.lora is not None)
        self.progress(f"{WORDS[kind]} in {self.precision}", {name: getattr(self.config, name) for name in names})

    def _check_unchanged(self) -> None:
        env = environment(self.config, "train")()
        env.close()
        check_unchanged(self.folder, slots(self.algorithm), str(getattr(env.unwrapped, "fingerprint", "")))

    def _begin_after(self, update: int, sizes: Mapping[str, int], notes: Iterable[str]) -> None:
        """Drop what was written after an update, when the files of lines had these sizes."""
        for lines in self._lines:
            lines.cut(sizes.get(lines.path.name, 0))
        odd = [f"{path} is not named like a checkpoint (update-000003): left alone" for path in self.folder.saved.odd()]
        for note in (*notes, *note_versions(self.folder, update), *odd):
            self.progress(note, {})

    @property
    def _lines(self) -> tuple[JsonLines, ...]:
        return self.folder.metrics, self.folder.credits, self.timings, self.forks

    def _demonstrations(self, expert: ExpertPolicy) -> tuple[list[Episode], str]:
        """Expert episodes for the warm start, and the environment's instructions.

        The tiny model's tokenizer is trained on their text even without a warm start.
        """
        wanted = self.config.warm_start or (200 if self.config.model == "tiny" else 0)
        if not wanted:
            return [], ""
        key = draws.key(self.key, "warm start")
        player = expert if self.config.warm_start else self._narrator(expert)
        limit = None if player is expert else self.config.max_turns or _NARRATED
        with Rollout(self.budgets.environment, player, max_turns=limit, **self._stepping) as rollout:
            tasks = self.budgets.drawn(self.algorithm.sampling(key, 0, wanted, rollout.num_tasks), key)
            groups = [Group(f"warm.{i}", task) for i, task in enumerate(tasks)]
            self._show(rollout, "demonstrations", groups, made=0)
            episodes = in_order(rollout.play(groups))
        played = [e for e in episodes if e.failure is None]
        if len(played) < len(episodes):
            first = next(e.failure for e in episodes if e.failure is not None)
            if not played:
                raise UsageError(f"no episode could be played before the training: {first}")
            missing, kind = len(episodes) - len(played), "expert " * (player is expert)
            self.progress(f"{missing} of {wanted} {kind}episodes failed and are not imitated; the first: {first}", {})
        return played, rollout.instructions

    def _narrator(self, expert: ExpertPolicy) -> Policy:
        """Who plays what a tokenizer is trained on: the expert, else random actions, else somebody who says nothing."""
        for policy in (expert, RandomPolicy()):
            with contextlib.suppress(UsageError):
                check_playable(policy, self.budgets.environment())
                return policy
        return ScriptedPolicy(lambda request: "")

    def _model(self, demonstrations: Iterable[Episode]) -> tuple[Any, Any]:
        config = self.config
        if config.model != "tiny":
            model, tokenizer = load_to_learn(config.model, self.precision, config.device, lora=config.lora is not None)
        else:
            texts = [text for e in demonstrations for t in e.turns for text in (t.observation, t.action)]
            model, tokenizer = tiny(texts, seed=config.seed, **config.tiny.model_dump())
            model.to(config.device)
        model = with_lora(model, config.lora, seed=config.seed) if config.lora else model
        compute_in(model, self.precision)
        return model, tokenizer

    @property
    def precision(self) -> Literal["bfloat16", "float32"]:
        """What the model computes in."""
        return chosen(self.config.dtype, self.config.device)

    def _policy(self, model: Any, tokenizer: Any) -> ModelPolicy:
        return ModelPolicy(
            model,
            tokenizer,
            context=self.context,
            temperature=self.config.temperature,
            max_new_tokens=self.config.max_new_tokens,
            max_context=self.config.max_context,
            entropies=bool(self.algorithm.needs & {"entropy", "sampled_entropy"}),
            admissible=self.config.admissible,
        )

    def _learner(self, policy: ModelPolicy) -> Learner:
        names = ("optimizer", "lr", "weight_decay", "epochs", "minibatches", "max_tokens", "max_grad_norm")
        how = Optimisation(temperature=self.config.temperature, **{n: getattr(self.config, n) for n in names})
        return Learner(policy.model, self.algorithm, how, policy.after, self._beliefs(policy))

    def _beliefs(self, policy: ModelPolicy) -> Beliefs:
        env = environment(self.config, "train")()
        markup, instructions = answer_markup(env), str(getattr(env.unwrapped, "instructions", ""))
        env.close()
        return Beliefs(
            policy.chat,
            policy.context,
            self.algorithm.belief,
            markup=markup,
            instructions=instructions,
            limit=longest_context(policy.model),
        )

    @functools.cached_property
    def budgets(self) -> TrainingBudgets:
        """Of training episodes and demonstrations; evaluations have none."""
        return TrainingBudgets(self.config, environment(self.config, "train"))

    @property
    def _stepping(self) -> dict[str, Any]:
        """How environments are stepped, in training, evaluations and demonstrations."""
        return {"step_seconds": self.config.step_seconds, "lockstep": self.config.lockstep}

    @property
    def context(self) -> Context:
        """What the policy of this run sees."""
        return self.algorithm.context or full_history(instructions=self.config.instructions, remind=self.config.remind)

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
        self.folder.saved.prune(self.config.keep_checkpoints)


def _share_solved(episodes: Sequence[Episode]) -> float:
    """Share of all episodes that was solved. One that failed was not: a run must not be good by what is left out."""
    return sum(not e.failed and e.solved for e in episodes) / max(1, len(episodes))


def build_algorithm(config: TrainConfig) -> Algorithm:
    """The recipe with its parameters and replaced slots; the environment's module, which may define it, comes first."""
    import_of(config.env)
    algorithm = get_recipe(config.recipe)(**config.parameters)
    for slot, part in config.replaced.items():
        algorithm = with_part(algorithm, slot, part)
    algorithm.check()
    return algorithm


def _interchangeable(config: TrainConfig) -> tuple[tuple[str, ...], ...]:
    """Sets of words that the environment says can be exchanged for each other."""
    env = environment(config, "train")()
    env.close()
    return getattr(env.unwrapped, "interchangeable", ())


def environment(config: TrainConfig, split: str) -> Callable[[], gym.Env[str, str]]:
    """Makes environments of a split."""
    options = dict(config.env_options)
    if takes_split(config.env):
        options["split"] = split
    return functools.partial(make, config.env, **options)
