"""The options of a training as text: ``key=value`` on the command line, a YAML file, and what ``--help`` lists."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from agentgym.cli.console.arguments import parse_value
from agentgym.errors import UsageError

_FREE_SECTIONS = {"env": "env_options", "algorithm": "parameters"}  # env.NAME=, algorithm.NAME=


class TrainCommand(TyperCommand):
    """Lists the options of a training in its help, and says how they are written to whoever writes ``--updates 5``."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        super().format_options(ctx, formatter)
        with formatter.section("Options of the training, KEY=VALUE"):
            formatter.write_dl([(f"{name}={default}", text) for name, default, text in option_rows()])

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            option = str(getattr(error, "option_name", ""))  # only the error about an option that is not known has one
            key = option.lstrip("-").replace("-", "_")
            if not option or not _is_setting(key, given):
                raise
            raise UsageError(f"no such option {option}; write {_path(key)}={_value(option, given)}") from error


def option_rows() -> list[tuple[str, str, str]]:
    """Name, default and meaning of every option of a training; an option that must be given has no default."""
    from agentgym.trainers.run.config import options
    from agentgym.trainers.run.defaults import DEFAULTS

    rows = []
    for name, info in options():
        default = "" if info.is_required() else str(info.default)
        if name in DEFAULTS:
            of = DEFAULTS[name]
            default = f"{of.tiny} (tiny), {of.pretrained} (pre-trained)"
            default += f", {of.adapters} (with adapters)" if of.adapters != of.pretrained else ""
        rows.append((name, default, info.description or ""))
    return rows


def read_settings(pairs: Iterable[str], algorithm: str) -> dict[str, Any]:
    """``section.option=value`` to options; a name without a section is a parameter of the algorithm.

    Args:
        pairs: of the command line.
        algorithm: its name.

    Raises:
        UsageError: neither, or not ``key=value``.
    """
    from agentgym.trainers.parts import get_algorithm
    from agentgym.trainers.run.config import FORMER, nearest_option, options, unknown_option

    parameters = get_algorithm(algorithm).parameters
    known = {name for name, _ in options()}
    values: dict[str, Any] = {}
    for text in pairs:
        key, value = read_pair(text)
        group, dot, name = key.partition(".")
        if dot and group in _FREE_SECTIONS:
            values[f"{_FREE_SECTIONS[group]}.{name}"] = parse_value(value)
        elif key in known:
            values[key] = parse_value(value)
        elif key in parameters:
            values[f"parameters.{key}"] = parse_value(value)
        else:
            raise UsageError(
                unknown_option(key)
                if key in FORMER
                else f"{key!r} is neither an option nor a parameter of algorithm {algorithm}"
                f"{nearest_option(key, parameters)}"
            )
    return values


def read_pair(text: str) -> tuple[str, str]:
    """``key=value`` in two.

    Raises:
        UsageError: it is not that.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"{text!r} is not key=value")
    return key, value


def read_file(path: Path | None) -> dict[str, Any]:
    """The options of a YAML file; none without one.

    Raises:
        UsageError: it is not YAML, or no mapping.
    """
    import yaml

    if path is None:
        return {}
    try:
        values = yaml.load(path.read_text(), _loader())  # noqa: S506 - it is a safe one
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} must hold a mapping of options")
    return values


def _loader() -> Any:
    """YAML's safe loader, which reads ``3e-5`` as a number; PyYAML takes it for text, as YAML 1.1 has it."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    number = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return Loader


def _is_setting(key: str, arguments: list[str]) -> bool:
    """Whether ``key=value`` could set it: an option, or a parameter of the algorithm among the arguments."""
    from agentgym.trainers.run.config import FORMER, options

    if key in FORMER or key in {name for name, _ in options()} or key.partition(".")[0] in _FREE_SECTIONS:
        return True
    try:
        from agentgym.trainers.parts import get_algorithm

        return key in get_algorithm(_value("--algorithm", arguments, "grpo")).parameters
    except (UsageError, ModuleNotFoundError):  # another error, told when this one is mended
        return False


def _path(key: str) -> str:
    from agentgym.trainers.run.config import FORMER

    return FORMER.get(key, key)


def _value(option: str, arguments: list[str], otherwise: str = "VALUE") -> str:
    """What follows an option on the command line."""
    for argument, after in zip(arguments, [*arguments[1:], "-"], strict=True):
        name, equals, value = argument.partition("=")
        if name == option:
            return value if equals else after if not after.startswith("-") or parse_value(after) != after else otherwise
    return otherwise
