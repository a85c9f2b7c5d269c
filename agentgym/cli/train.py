"""``agentgym train``: train an agent, or continue a run."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from agentgym.cli.console import completion
from agentgym.cli.console.arguments import parse_value
from agentgym.cli.console.options import TrainCommand, read_file, read_pair, read_settings
from agentgym.cli.console.printing import printable
from agentgym.cli.console.sandbox import AllowImportOption, SandboxOption, UnsafeOption, sandbox_settings
from agentgym.cli.console.tools import ToolOption, tool_settings
from agentgym.errors import DiskFull, MissingExtra, StoreError, UsageError

if TYPE_CHECKING:
    from agentgym.trainers.run.trainer import Training

settings = {"cls": TrainCommand}

_SHOWN = (
    "update",
    "reward",
    "success",
    "episode_turns",
    "invalid_action_rate",
    "loss",
    "approx_kl",
    "prefix_sharing",
    "rollout_seconds",
    "update_seconds",
)


def command(
    env: str | None = typer.Argument(
        None, help="id of the environment, e.g. agentgym/Household-v0", autocompletion=completion.env_ids
    ),
    settings: list[str] | None = typer.Argument(
        None,
        metavar="[KEY=VALUE]...",
        help="options (run.updates=50), parameters of the algorithm (discount=0.9), env.NAME=",
        autocompletion=completion.options,
    ),
    algorithm: str | None = typer.Option(
        None, help="see `agentgym algorithms`, or MODULE:NAME", autocompletion=completion.algorithm_names
    ),
    overrides: list[str] = typer.Option(
        [], "--with", metavar="STAGE=PART", help="fill a stage, e.g. aggregate=token_mean"
    ),
    model: str | None = typer.Option(
        None, help="local folder, a run's included, hub name, or tiny", autocompletion=completion.models
    ),
    config: Path | None = typer.Option(None, help="YAML file with options; the command line wins"),
    out: Path | None = typer.Option(None, help="run folder to create; default: runs/ENV-ALGORITHM-N"),
    resume: Path | None = typer.Option(
        None, help="resume this run folder from its latest checkpoint; run.updates=200 extends it"
    ),
    tool: ToolOption = None,
    sandbox: SandboxOption = None,
    unsafe_local_python: UnsafeOption = False,
    allow_import: AllowImportOption = None,
) -> None:
    """Train an agent in an environment."""
    try:
        from agentgym.trainers.run.config import TrainConfig, nested
        from agentgym.trainers.run.trainer import Training
        from agentgym.trainers.run.trust import Allowed
    except ModuleNotFoundError as error:
        raise MissingExtra(str(error.name), "train") from error
    from agentgym.registry import import_of

    show = _Console()
    pairs = list(settings or [])
    if env is not None and "=" in env:  # a file or a run names the environment, and options follow
        pairs, env = [env, *pairs], None
    if resume is not None:
        if env or algorithm or overrides or model or config or out or sandbox or tool:
            raise UsageError("--resume takes everything from the run folder; beside it only e.g. run.updates=200")
        changes = {key: parse_value(value) for key, value in map(read_pair, pairs)}
        training = Training.resume(resume, show, changes, Allowed(allow_import or (), unsafe_local_python))
    else:
        if allow_import:
            raise UsageError("--allow-import is for --resume; what you name yourself is imported anyway")
        chosen = [*sandbox_settings(sandbox, unsafe_local_python), *tool_settings(tool)]
        pairs += [f"env.{setting}" for setting in chosen]
        named = {"env": env, "algorithm": algorithm, "model.name": model}
        named |= {key: value for key, value in map(read_pair, pairs) if key in ("env", "algorithm")}
        values = nested(read_file(config) | {k: v for k, v in named.items() if v is not None})
        if "env" not in values:
            raise UsageError("which environment? e.g. agentgym train agentgym/Household-v0 --algorithm gigpo")
        import_of(str(values["env"]))  # it may define the algorithm
        given = read_settings(pairs, str(values.get("algorithm", "grpo")))
        given |= {f"overrides.{stage}": part for stage, part in map(read_pair, overrides)}
        checked = TrainConfig.checked({**values, **given})
        training = Training.start(checked, out or _free_folder(checked.env, checked.algorithm), show)
    path = training.folder.path
    print(f"run folder: {path}")
    with _told_how_to_go_on(training, new=resume is None):
        training.run()
    print(f"done: {training.update} updates; next: agentgym report {path}")


@contextlib.contextmanager
def _told_how_to_go_on(training: Training, *, new: bool) -> Iterator[None]:
    """Where a run ends early: what is left to go on with. A new folder without a checkpoint goes, its name is free."""
    from agentgym.trainers.run.trust import resuming

    folder, how = training.folder, "nothing was saved yet; give the same command again"
    try:
        yield
    except BaseException as error:
        if saved := folder.checkpoints():
            how = f"saved up to update {max(saved)}; resume with: {resuming(folder, training.config)}"
        elif new and not isinstance(error, DiskFull):
            folder.remove()
        if isinstance(error, KeyboardInterrupt):
            print(f"\ninterrupted; {how}", file=sys.stderr)
        raise


def _free_folder(env: str, algorithm: str) -> Path:
    name = f"{env.rpartition(':')[2].rpartition('/')[2].lower()}-{algorithm.rpartition(':')[2]}"
    for number in range(1, 10000):
        path = Path("runs") / f"{name}-{number}"
        if not path.exists():
            return path
    raise StoreError(f"runs/ has 9999 runs of {name}; choose a folder with --out")


class _Console:
    """Draws progress: one line a step on a terminal or in a file, and how far a rollout is."""

    def __init__(self) -> None:
        from rich.console import Console

        from agentgym.cli.console.live import Live

        self._console = Console(highlight=False, soft_wrap=True)
        self._live = Live(self._console)
        self.playing = self._live.playing
        self._rows = 0

    def __call__(self, stage: str, metrics: Mapping[str, Any]) -> None:
        self._live.close()
        if stage == "update":
            if self._rows % 20 == 0:
                self._console.print("".join(f"{name[:10]:>11}" for name in _SHOWN), style="bold")
            self._rows += 1
            self._console.print("".join(f"{_short(metrics.get(name)):>11}" for name in _SHOWN))
            self._tell_failures(metrics)
        else:
            numbers = {name: value for name, value in metrics.items() if not isinstance(value, str | None)}
            text = "  ".join(f"{name} {_short(value)}" for name, value in numbers.items())
            self._console.print(f"{stage}: {text}" if text else stage, style="cyan", markup=False)
            self._tell_failures({name.removeprefix("eval_"): value for name, value in metrics.items()})

    def _tell_failures(self, metrics: Mapping[str, Any]) -> None:
        from agentgym.failures import Failures

        for line in Failures(**{name: metrics[name] for name in Failures._fields if name in metrics}).lines():
            self._console.print(f"  {printable(line)}", style="yellow", markup=False)


def _short(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}"
