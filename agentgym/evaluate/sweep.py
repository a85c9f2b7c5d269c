"""The sweep: the same tasks under every budget; what was played is kept, so a sweep that was killed goes on."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym

from agentgym.budget import UNLIMITED, Budget, BudgetedEnv, under
from agentgym.budget.prices import Prices
from agentgym.env import digest
from agentgym.errors import StoreError, UsageError
from agentgym.evaluate.statistics import Curve, Row, compare, row
from agentgym.policy import Policy, Sampling
from agentgym.records import Episode, Task
from agentgym.rollout import Group, MakeEnv, Pace, Rollout
from agentgym.store import EpisodeWriter, RunFolder, atomic_write, read_episodes

Progress = Callable[[Budget, Collection[Episode]], None]
Tasks = Iterable[int | Task | Group]


class SweepFolder:
    """Where a sweep keeps its episodes: one file for each policy and budget, beside ``run.yaml``.

    A folder that holds a sweep is continued: episodes that are there are not played again, but for those that an error
    ended. Policies, budgets and tasks may be added. A new folder is made when the first episode is there to be kept.

    Args:
        path: the folder.
        settings: what decides what an episode looks like (environment, split, seeds ...); JSON values.

    Raises:
        StoreError: the folder holds something else, or a sweep with other settings.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self._settings = wanted = json.loads(json.dumps({"kind": "sweep", **settings}))
        if not self._begun:
            RunFolder.check_free(self.path)
            return
        found = RunFolder(self.path).config
        for name in sorted({*wanted, *found}, key=lambda name: (name != "kind", name)):
            if found.get(name) != wanted.get(name):
                raise StoreError(
                    f"{self.path} holds results with {name}={found.get(name)!r}, not {wanted.get(name)!r}; "
                    "choose another folder"
                )

    @property
    def _begun(self) -> bool:
        return (self.path / "run.yaml").exists()

    def _begin(self) -> None:
        if not self._begun:
            RunFolder.create(self.path, self._settings)

    def writer(self, policy: str, budget: Budget) -> EpisodeWriter:
        """Appends to the episode file of one policy at one budget."""
        self._begin()
        return EpisodeWriter(self.file(policy, budget))

    def file(self, policy: str, budget: Budget) -> Path:
        """The episode file of one policy at one budget."""
        name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{policy} {budget}").strip("-.")[:80]
        return self.path / f"episodes-{name}-{digest(policy, str(budget))[:8]}.jsonl.zst"

    def kept(self, policy: str, budget: Budget) -> dict[str, Episode]:
        """The stored episodes by id; of an episode that was played again, the last."""
        file = self.file(policy, budget)
        return {e.id: e for e in read_episodes(file)} if file.exists() else {}

    def write(self, name: str, content: Mapping[str, Any] | str) -> None:
        """Write a file of results, whole or not at all; mappings as JSON."""
        self._begin()
        text = content if isinstance(content, str) else json.dumps(content, indent=2, allow_nan=False) + "\n"
        atomic_write(self.path / name, text)


def evaluate(
    make_env: MakeEnv,
    policy: Policy,
    *,
    tasks: Tasks | Callable[[int | None], Tasks],
    budgets: Sequence[Budget] = (UNLIMITED,),
    name: str = "policy",
    announce: bool = False,
    on_exhausted: str = "refuse",
    prices: Prices | None = None,
    folder: SweepFolder | None = None,
    max_concurrent_episodes: int = 64,
    max_turns: int | None = None,
    step_seconds: float | None = None,
    lockstep: bool | None = None,
    run_key: int = 0,
    sampling: Sampling = Sampling(),
    progress: Progress | None = None,
    watch: Callable[[Pace], None] | None = None,
) -> Curve:
    """Play the same tasks under every budget.

    A policy's random numbers are derived from the run key, the task and the turn. They depend on neither the budget nor
    the policy, so two rows differ only by what the budget, or the other policy, changed.

    Args:
        make_env: makes one environment, without a budget.
        policy: who plays.
        tasks: seeds, whole tasks, or groups, whose ids the random draws then hang off; or a function of how many tasks
            there are (None: without end) that gives them. Each is played once at every budget.
        budgets: what an episode may use; ``Budget()`` is unlimited.
        name: of the policy, in records and results.
        announce, on_exhausted, prices: as in :class:`~agentgym.budget.BudgetedEnv`.
        folder: where episodes are kept as they finish; one that holds some of them already is continued.
        max_concurrent_episodes, max_turns, step_seconds, lockstep, run_key, sampling: as in
            :class:`~agentgym.rollout.Rollout`.
        progress: called with the budget and its episodes so far, at the start of a row and after each episode.
        watch: called after each turn and each episode with how fast a row goes; see :class:`~agentgym.rollout.Pace`.

    Raises:
        UsageError: no tasks, or a budget that the environment cannot have.
    """
    plain = tuple(budgets) == (UNLIMITED,) and not announce and prices is None

    def make() -> gym.Env[str, str]:
        if plain:
            return make_env()
        return BudgetedEnv(make_env(), budgets, announce=announce, on_exhausted=on_exhausted, prices=prices)  # type: ignore[arg-type]

    played: list[tuple[Episode, ...]] = []
    with Rollout(
        make,
        policy,
        max_concurrent_episodes=max_concurrent_episodes,
        max_turns=max_turns,
        step_seconds=step_seconds,
        lockstep=lockstep,
        run_key=run_key,
        sampling=sampling,
    ) as rollout:
        chosen = tasks(rollout.num_tasks) if callable(tasks) else tasks
        groups = [_group(number, task) for number, task in enumerate(chosen)]
        if not groups:
            raise UsageError("no tasks to evaluate on; give at least one seed")
        for budget in budgets:
            done = folder.kept(name, budget) if folder is not None else {}
            missing = [g for g in groups if f"{g.id}/0" not in done or done[f"{g.id}/0"].failed]
            order = [f"{g.id}/0" for g in groups]
            episodes = {i: done[i] for i in order if i in done and not done[i].failed}
            if progress is not None:
                progress(budget, episodes.values())
            rollout.pace = Pace(name if plain else f"{name}, {budget}", len(missing), watch)
            with contextlib.ExitStack() as stack:
                writer: EpisodeWriter | None = None
                for episode in rollout.play(g if plain else replace(g, task=under(g.task, budget)) for g in missing):
                    if folder is not None:
                        writer = writer or stack.enter_context(folder.writer(name, budget))
                        writer.append(episode)
                        writer.flush()
                    episodes[episode.id] = episode
                    if progress is not None:
                        progress(budget, episodes.values())
            played.append(tuple(episodes[i] for i in order))
    rows = tuple(row(b, e) for b, e in zip(budgets, played, strict=True))
    return Curve(name, rows, tuple(played))


def tasks_of(num_tasks: int | None, count: int, seed: int = 0) -> list[Task]:
    """Tasks to evaluate on: seeds from ``seed`` on; of finitely many tasks, the first ones."""
    if num_tasks is None:
        return [Task(seed + i) for i in range(count)]
    return [Task(seed + i, {"task": i}) for i in range(min(count, num_tasks))]


def result(curves: Sequence[Curve], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Everything but wall-clock times, as JSON values; the same for the same records, however they came about."""
    pairs = [(curves[0], other) for other in curves[1:]]
    return {
        **settings,
        "policies": [c.as_dict() for c in curves],
        "comparisons": [
            {"first": a.policy, "second": b.policy, "budgets": [c.as_dict() for c in compare(a, b)]} for a, b in pairs
        ],
    }


def timing(curves: Sequence[Curve]) -> dict[str, Any]:
    """Seconds of an episode, which differ from run to run even where everything else is equal."""

    def one(found: Row) -> dict[str, Any]:
        return {
            "budget": str(found.budget),
            **({k: m._asdict() for k, m in found.clocks.items()} if found.episodes else {}),
        }

    return {"policies": [{"policy": c.policy, "rows": [one(r) for r in c.rows]} for c in curves]}


def _group(number: int, task: int | Task | Group) -> Group:
    if isinstance(task, Group):
        return task
    task = task if isinstance(task, Task) else Task(task)
    return Group(f"{number:05d}.{task.seed}", task)
