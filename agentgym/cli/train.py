"""``agentgym train``: train an agent, or continue a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import typer

from agentgym.cli._arguments import parse_value
from agentgym.cli._console import printable
from agentgym.cli._sandbox import SandboxOption, UnsafeOption, sandbox_settings
from agentgym.errors import MissingExtra, StoreError, UsageError, nearest

_SHOWN = (
    "update",
    "reward",
    "success",
    "episode_turns",
    "errors",
    "loss",
    "kl_old",
    "sharing",
    "rollout_seconds",
    "update_seconds",
)


def command(
    env: str | None = typer.Argument(None, help="id of the environment, e.g. agentgym/Household-v0"),
    settings: list[str] | None = typer.Argument(
        None,
        metavar="[KEY=VALUE]...",
        help="options (updates=50), recipe parameters (discount=0.9), env.NAME=, tiny.NAME=",
    ),
    recipe: str | None = typer.Option(None, help="the algorithm; see `agentgym recipes`, or MODULE:NAME"),
    replaced: list[str] = typer.Option(
        [], "--with", metavar="SLOT=PART", help="replace a slot, e.g. aggregate=token_mean"
    ),
    model: str | None = typer.Option(None, help="local folder, hub name, or tiny"),
    warm_start: int | None = typer.Option(None, min=0, help="expert episodes to imitate first"),
    config: Path | None = typer.Option(None, help="YAML file with options; the command line wins"),
    out: Path | None = typer.Option(None, help="run folder to create; default: runs/ENV-RECIPE-N"),
    resume: Path | None = typer.Option(None, help="continue this run folder exactly where its newest checkpoint is"),
    sandbox: SandboxOption = None,
    unsafe_local_python: UnsafeOption = False,
) -> None:
    """Train an agent in an environment."""
    try:
        from agentgym.trainers.config import TrainConfig
        from agentgym.trainers.train import Training
    except ModuleNotFoundError as error:
        raise MissingExtra(str(error.name), "train") from error
    from agentgym.registry import import_of

    show = _Console()
    where = [f"env.{setting}" for setting in sandbox_settings(sandbox, unsafe_local_python)]
    if resume is not None:
        if env or settings or recipe or replaced or model or config or out or where or warm_start is not None:
            raise UsageError("--resume takes everything from the run folder; give no other option beside it")
        training = Training.resume(resume, show)
    else:
        pairs = [*(settings or []), *where]
        if env is not None and "=" in env:  # the file names the environment, and options follow
            pairs, env = [env, *pairs], None
        given: dict[str, Any] = {"env": env, "recipe": recipe, "model": model, "warm_start": warm_start}
        values = _file(config) | {k: v for k, v in given.items() if v is not None}
        if "env" not in values:
            raise UsageError("which environment? e.g. agentgym train agentgym/Household-v0 --recipe gigpo")
        import_of(str(values["env"]))  # it may define the recipe
        values |= _settings(pairs, values.get("recipe", "grpo"), values)
        values["replaced"] = values.get("replaced", {}) | dict(_pair(text) for text in replaced)
        checked = TrainConfig.checked(values)
        training = Training.start(checked, out or _free_folder(checked.env, checked.recipe), show)
    print(f"run folder: {training.folder.path}")
    training.run()
    print(f"done: {training.update} updates; next: agentgym report {training.folder.path}")


def _settings(pairs: Iterable[str], recipe: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """``key=value`` to options; what is not an option is a recipe parameter."""
    from agentgym.trainers.algorithm import get_recipe
    from agentgym.trainers.config import TrainConfig

    parameters = get_recipe(recipe).parameters
    out: dict[str, Any] = {}
    nested = {"env": "env_options", "tiny": "tiny", "recipe": "parameters"}
    for text in pairs:
        key, value = _pair(text)
        group, dot, name = key.partition(".")
        if dot and group in nested:
            field = nested[group]
            out[field] = out.get(field, dict(values.get(field, {}))) | {name: parse_value(value)}
        elif key in TrainConfig.model_fields:
            out[key] = parse_value(value)
        elif key in parameters:
            out["parameters"] = out.get("parameters", dict(values.get("parameters", {}))) | {key: parse_value(value)}
        else:
            known = [*TrainConfig.model_fields, *parameters]
            raise UsageError(f"{key!r} is neither an option nor a parameter of recipe {recipe}{nearest(key, known)}")
    return out


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"{text!r} is not key=value")
    return key, value


def _file(path: Path | None) -> dict[str, Any]:
    import yaml

    if path is None:
        return {}
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} must hold a mapping of options")
    # PyYAML reads 3e-5 as text, as YAML 1.1 has it
    return {key: parse_value(value) if isinstance(value, str) else value for key, value in values.items()}


def _free_folder(env: str, recipe: str) -> Path:
    name = f"{env.rpartition(':')[2].rpartition('/')[2].lower()}-{recipe.rpartition(':')[2]}"
    for number in range(1, 10000):
        path = Path("runs") / f"{name}-{number}"
        if not path.exists():
            return path
    raise StoreError(f"runs/ has 9999 runs of {name}; choose a folder with --out")


class _Console:
    """Draws progress: one line a step on a terminal or in a file."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(highlight=False, soft_wrap=True)
        self._rows = 0

    def __call__(self, stage: str, figures: Mapping[str, Any]) -> None:
        if stage == "update":
            if self._rows % 20 == 0:
                self._console.print("".join(f"{name[:10]:>11}" for name in _SHOWN), style="bold")
            self._rows += 1
            self._console.print("".join(f"{_short(figures.get(name)):>11}" for name in _SHOWN))
            self._tell_failures(figures)
        else:
            numbers = {name: value for name, value in figures.items() if not isinstance(value, str | None)}
            text = "  ".join(f"{name} {_short(value)}" for name, value in numbers.items())
            self._console.print(f"{stage}: {text}", style="cyan", markup=False)
            self._tell_failures({name.removeprefix("eval_"): value for name, value in figures.items()})

    def _tell_failures(self, figures: Mapping[str, Any]) -> None:
        from agentgym.failures import Failures

        for line in Failures(**{name: figures[name] for name in Failures._fields if name in figures}).lines():
            self._console.print(f"  {printable(line)}", style="yellow", markup=False)


def _short(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}"
