"""The command line. A command is one file here: its name is the file's, its code the function ``command``.

What commands share is in ``console``. Exit codes: 0 done; 1 a check or comparison said no, or a bug (with its
traceback); 2 something to change in what was asked, told in one line; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import os
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

import typer

from agentgym.cli.console.printing import printable
from agentgym.errors import AgentGymError

# typer carries its own copy of click in newer versions; its public exception leads to the base of either.
_ClickException: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def make_app() -> typer.Typer:
    """The application with every command of this folder.

    A command file may set ``settings``, keyword arguments for ``typer.Typer.command``.
    """
    about = "Environments for agents that use tools over many turns: register, train, evaluate."
    app = typer.Typer(
        name="agentgym",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback(help=about)(_root)
    for name, module in command_modules():
        app.command(name, **getattr(module, "settings", {}))(module.command)
    return app


def command_modules() -> Iterator[tuple[str, ModuleType]]:
    """Every command's name, e.g. ``serve-model``, and its file."""
    for found in pkgutil.iter_modules(__path__):
        if not found.ispkg:
            yield found.name.replace("_", "-"), import_module(f"{__name__}.{found.name}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit. Every wrong request ends here, as one line and exit code 2; a bug keeps its traceback.

    Modules of the current folder can be imported, after all others: ``python -m`` allows that, scripts do not.
    """
    with contextlib.suppress(FileNotFoundError):  # the folder was deleted
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.append(here)
    try:
        code = make_app()(arguments, prog_name="agentgym", standalone_mode=False)
    except AgentGymError as error:
        code = _refuse(str(error))
    except _ClickException as error:
        code = _refuse_usage(error)
    except BrokenPipeError:  # the reader of our output has gone, e.g. `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        if error.filename is None:
            raise
        code = _refuse(f"{error.filename}: {error.strerror}")
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    sys.exit(code if isinstance(code, int) else 0)


def _show_version(wanted: bool) -> None:
    if wanted:
        from agentgym import __version__

        print(__version__)
        raise typer.Exit


def _root(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version."),
) -> None:
    """Options that come before the command."""


def _refuse_usage(error: Exception) -> int:
    """One line for a wrong command line; a bare ``agentgym`` gets its help."""
    context = getattr(error, "ctx", None)
    message = str(error.format_message()) if hasattr(error, "format_message") else str(error)
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message)
        return 2
    path = context.command_path if context is not None else "agentgym"
    return _refuse(f"{message.rstrip('.')}; see: {path} --help")


def _refuse(message: str) -> int:
    line = printable(" ".join(message.split()))
    print(f"agentgym: {line}", file=sys.stderr)
    return 2
