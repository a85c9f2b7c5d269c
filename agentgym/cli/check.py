"""``agentgym check``: does an environment keep the contract?"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from agentgym.cli.console.completion import env_ids
from agentgym.cli.console.sandbox import SandboxOption, UnsafeOption, sandbox_settings
from agentgym.cli.console.tools import ToolOption, tool_settings


def command(
    env: Annotated[str, typer.Argument(help="An id, or module:id.", autocompletion=env_ids)],
    settings: Annotated[list[str] | None, typer.Argument(help="key=value arguments of the environment.")] = None,
    split: Annotated[
        str | None, typer.Option(help="Check this split; by default the environment's own default.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds to try.")] = 3,
    turns: Annotated[int, typer.Option(min=1, help="How far episodes are played.")] = 20,
    tasks: Annotated[
        int, typer.Option(min=0, help="How many tasks each policy of the adversarial panel plays; 0 leaves it out.")
    ] = 200,
    adversary: Annotated[
        str | None, typer.Option(metavar="MODULE", help="A module with your own policies for the panel.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    tool: ToolOption = None,
    sandbox: SandboxOption = None,
    unsafe_local_python: UnsafeOption = False,
) -> None:
    """Check an environment against the contract and report every violation. Exits with 1 if there is one."""
    from agentgym.check import check_env
    from agentgym.cli.console.arguments import environment
    from agentgym.cli.console.printing import printable

    factory = environment(
        env, [*(settings or ()), *sandbox_settings(sandbox, unsafe_local_python), *tool_settings(tool)], split
    )
    report = check_env(env, seeds=range(seeds), turns=turns, panel_tasks=tasks, adversary=adversary, **factory.keywords)
    print(json.dumps(report.as_dict(), indent=2) if as_json else printable(str(report)))
    if not report.ok:
        raise typer.Exit(1)
