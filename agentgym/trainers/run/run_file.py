"""What ``run.yaml`` records beside the options, and whether a run may continue under what is true now."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from agentgym import __version__
from agentgym.errors import StoreError, UsageError
from agentgym.store import PATTERN, RunFolder
from agentgym.trainers.run.config import FORMER, TrainConfig, nested, unknown_option

BESIDE = ("stages", "fingerprint", "versions", "earlier_versions")  #: keys of run.yaml that are no options
FREE = frozenset(
    {"run.updates", "run.stop_at", "eval.every", "run.checkpoint_every", "run.keep_checkpoints"}
)  #: may change
#: May change; sums are then added up in another order.
ROUNDING = frozenset(
    {"run.threads", "model.device", "rollout.max_concurrent_episodes", "optimizer.max_tokens_per_microbatch"}
)


def versions() -> dict[str, str]:
    """Of everything that the last digits of a run depend on; ``cpu`` is the instruction set that torch uses."""
    packages = {name: version(name) for name in ("torch", "transformers", "gymnasium", "numpy")}
    machine = {"python": platform.python_version(), "cpu": torch.backends.cpu.get_cpu_capability()}
    return {"agentgym": __version__, **packages, **machine}


def options_of(folder: RunFolder) -> TrainConfig:
    """The options of a run.

    Raises:
        UsageError: ``run.yaml`` is of something else, has an unknown option, or a value that cannot be.
    """
    if folder.config.get("kind") == "sweep":
        raise UsageError(f"{folder.path} holds results of `agentgym eval`, not a training run")
    try:
        return TrainConfig.checked({name: v for name, v in folder.config.items() if name not in BESIDE})
    except UsageError as error:
        raise UsageError(f"{folder.path / 'run.yaml'}: {error}") from error


def change_options(folder: RunFolder, changes: Mapping[str, Any]) -> None:
    """Change options of a run in its ``run.yaml``, e.g. how many updates it makes.

    Raises:
        UsageError: one that would make it another run, a wrong value, or fewer updates than the run has made.
        StoreError: the run is being written.
    """
    for name in changes:
        if name in FORMER:
            raise UsageError(unknown_option(name))
        if name not in FREE:
            raise UsageError(
                f"--resume can change {', '.join(sorted(FREE))}, but not {name!r}; start a new run for that"
            )
    options = TrainConfig.checked({**options_of(folder).model_dump(), **changes})
    made = max(folder.checkpoints(), default=0)
    if options.run.updates < made:
        raise UsageError(f"run.updates={options.run.updates}: the run has made {made} already; give at least as many")
    resolved = _flat(options.model_dump())
    with folder.alone():
        folder.rewrite(nested(folder.config | {name: resolved[name] for name in changes}))


def as_text(config: Mapping[str, Any]) -> str:
    """``run.yaml`` for a checkpoint, which remembers what it was made with."""
    return yaml.safe_dump(dict(config))


def changed_options(now: TrainConfig, checkpoint: str, update: int) -> list[str]:
    """What has changed in ``run.yaml`` since a checkpoint and may: a line each.

    Args:
        now: the options of ``run.yaml``.
        checkpoint: what :func:`as_text` gave when the checkpoint was written.

    Raises:
        UsageError: something has changed that makes it another run.
    """
    before = TrainConfig.checked({k: v for k, v in yaml.safe_load(checkpoint).items() if k not in BESIDE})
    old, new = _flat(before.model_dump()), _flat(now.model_dump())
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name) and name not in FREE]
    for name in changed:
        if name not in ROUNDING:
            raise UsageError(
                f"run.yaml says {name}={new.get(name)!r}, but the run was trained with {name}={old.get(name)!r} up to "
                f"update {update}; put that back, or start a new run"
            )
    return [
        f"{name} was {old[name]!r} up to update {update} and is {new[name]!r} now: sums may be rounded otherwise"
        for name in changed
    ]


def check_unchanged(folder: RunFolder, parts: Mapping[str, str], fingerprint: str) -> None:
    """Refuse to go on with another algorithm or in another world than ``run.yaml`` says.

    Args:
        parts: what fills each stage of the algorithm now.
        fingerprint: of the environment now.

    Raises:
        UsageError: one of them is not what it was.
    """
    recorded = folder.config
    for stage, part in parts.items():
        before = str(recorded.get("stages", {}).get(stage, part))
        if _without_addresses(before) != _without_addresses(part):
            raise UsageError(
                f"{folder.path / 'run.yaml'} says that {stage} is {before}, but algorithm {recorded['algorithm']} "
                f"makes it {part} now; go back to the code that the run was started with, or start a new run"
            )
    before = str(recorded.get("fingerprint", fingerprint))
    if before != fingerprint:
        raise UsageError(
            f"{recorded['env']} has the fingerprint {fingerprint!r} now, but {folder.path / 'run.yaml'} says "
            f"{before!r}: it is not the same world; put back what it was made of, or start a new run"
        )


def note_versions(folder: RunFolder, update: int) -> list[str]:
    """Record in ``run.yaml`` that a run goes on under other versions after an update. Returns a line for each."""
    before, now = folder.config.get("versions", {}), versions()
    if before == now:
        return []
    earlier = [*folder.config.get("earlier_versions", []), {"until_update": update, **before}]
    folder.rewrite(folder.config | {"versions": now, "earlier_versions": earlier})
    return [
        f"{name} was {before.get(name)} up to update {update} and is {now.get(name)} now: the last digits may differ"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested mappings as ``tiny.hidden``."""
    out: dict[str, Any] = {}
    for name, value in values.items():
        out |= _flat(value, f"{above}{name}.") if isinstance(value, Mapping) else {above + name: value}
    return out


def _without_addresses(part: str) -> str:
    """An object without a name of its own shows where it lies in memory."""
    return re.sub(r" at 0x[0-9a-f]+", "", part)


def refuse_to_delete(folder: RunFolder, lines: Iterable[Path]) -> None:
    """Refuse to start a run again in a folder with a history but without a checkpoint.

    Args:
        lines: files that a run writes line by line.

    Raises:
        StoreError: there is a history.
    """
    history = [*lines, *sorted(folder.path.glob(PATTERN))]
    kept = [path.name for path in history if path.exists() and path.stat().st_size]
    if kept:
        odd = [f"checkpoints/{path.name} is not named like one (update-000003); " for path in folder.saved.odd()]
        raise StoreError(
            f"{folder.path} has no checkpoint to resume from, and to start again would delete "
            f"{', '.join(kept)}; {''.join(odd[:1])}put its checkpoints back, or start a run in another folder"
        )
