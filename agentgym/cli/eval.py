"""``agentgym eval``: how good is a policy, under which budget?"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentgym.cli.console.completion import env_ids, policies
from agentgym.cli.console.players import PLAYER_HELP
from agentgym.cli.console.printing import printable
from agentgym.cli.console.sandbox import AllowImportOption, SandboxOption, UnsafeOption, sandbox_settings
from agentgym.cli.console.tools import ToolOption, tool_settings

if TYPE_CHECKING:
    from agentgym.evaluate import Comparison, Curve

_BUDGET_HELP = (
    "Limits to play under, e.g. 0,1,2,4,8,inf: tool calls where the environment has tools, else turns. Another limit: "
    "turns=2,4,inf or tokens=500,1000,inf, also seconds, cost, per_tool.NAME; several at once: "
    "'tool_calls=4,tokens=2000;inf'."
)


def command(
    env: Annotated[str, typer.Argument(help="An id, or module:id.", autocompletion=env_ids)],
    settings: Annotated[list[str] | None, typer.Argument(help="key=value arguments of the environment.")] = None,
    policy: Annotated[
        list[str] | None, typer.Option(help=f"{PLAYER_HELP}; repeat it to compare.", autocompletion=policies)
    ] = None,
    budget: Annotated[str, typer.Option(help=_BUDGET_HELP)] = "inf",
    episodes: Annotated[int, typer.Option(min=1, help="How many tasks; each is played once under every budget.")] = 100,
    split: Annotated[str | None, typer.Option(help="The split to play in; default: test, where there is one.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first task, and of all random draws.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for episodes and results; an unfinished evaluation is resumed.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    announce: Annotated[bool, typer.Option(help="Tell the policy what is left, after each observation.")] = False,
    on_exhausted: Annotated[
        str, typer.Option(help="refuse calls beyond the budget, or truncate the episode.")
    ] = "refuse",
    prices: Annotated[Path | None, typer.Option(help="Price list (YAML) of tools and models.")] = None,
    max_turns: Annotated[int | None, typer.Option(min=1, help="Cut episodes here, beside the budget.")] = None,
    step_seconds: Annotated[
        float | None, typer.Option(help="A step of the environment that takes longer fails its episode.")
    ] = None,
    max_concurrent_episodes: Annotated[
        int, typer.Option(min=1, help="Episodes, and requests to a server, at the same time.")
    ] = 64,
    temperature: Annotated[float | None, typer.Option(min=0, help="Of a model's sampling; 0 is greedy.")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Length limit of a model's action; default: 512, of a run its own.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model to ask a server for; default: its only one.")] = None,
    key_variable: Annotated[str, typer.Option(help="Environment variable with a server's API key.")] = "OPENAI_API_KEY",
    tool: ToolOption = None,
    sandbox: SandboxOption = None,
    unsafe_local_python: UnsafeOption = False,
    allow_import: AllowImportOption = None,
) -> None:
    """Evaluate policies on the same tasks under every budget. Exits with 1 if every episode of a row ended in an error.

    With --out, the folder gets the episodes as they finish, result.json (the same for the same episodes), timing.json
    and success.svg. The same command, given again, resumes an evaluation that was killed.
    """
    from agentgym import evaluate
    from agentgym.budget import parse_budgets
    from agentgym.budget.prices import Prices
    from agentgym.cli.console.arguments import environment
    from agentgym.cli.console.players import Endpoint, player
    from agentgym.cli.console.screen import Screen
    from agentgym.contract import probe
    from agentgym.errors import UsageError
    from agentgym.policy import Sampling
    from agentgym.registry import takes_split

    names = policy or []
    if not names or len(set(names)) < len(names):
        raise UsageError(f"name each policy once: --policy {PLAYER_HELP}")
    chosen = [*(settings or ()), *sandbox_settings(sandbox, unsafe_local_python), *tool_settings(tool)]
    factory = environment(env, chosen, split)
    if "split" not in factory.keywords and takes_split(env, **factory.keywords):
        factory = environment(env, chosen, "test")
    found = probe(factory, step_seconds)
    budgets = parse_budgets(budget, "tool_calls" if found.has_tools else "turns")
    price_list = Prices.load(prices) if prices is not None else Prices()
    told = {
        "env": found.env_id,
        "options": {key: str(value) for key, value in sorted(factory.keywords.items())},
        "fingerprint": found.fingerprint,
        "seed": seed,
        "announce": announce,
        "on_exhausted": on_exhausted,
        "prices": _plain(price_list),
        "max_turns": max_turns,
        "step_seconds": step_seconds,
        "temperature": temperature,
        "max_new_tokens": max_new_tokens,
    }
    tasks = evaluate.tasks_of(found.num_tasks, episodes, seed)
    endpoint = Endpoint(model, key_variable, max_concurrent_episodes, found.tool_schemas, price_list)
    players = [player(text, endpoint, factory, allow_import or (), step_seconds) for text in names]
    folder = evaluate.SweepFolder(out, told) if out is not None else None
    curves: list[Curve] = []
    try:
        with Screen(to_stderr=as_json, budgets=budgets, count=len(tasks)) as screen:
            for entered in players:
                with entered as (name, who):
                    screen.begin(name)
                    curve = evaluate.evaluate(
                        factory,
                        who,
                        tasks=tasks,
                        budgets=budgets,
                        name=name,
                        announce=announce,
                        on_exhausted=on_exhausted,
                        prices=price_list,
                        folder=folder,
                        max_concurrent_episodes=max_concurrent_episodes,
                        max_turns=max_turns,
                        step_seconds=step_seconds,
                        run_key=seed,
                        sampling=Sampling(temperature, max_new_tokens),
                        progress=screen.row,
                        watch=screen.playing,
                    )
                curves.append(curve)
                screen.end(curve)
    except KeyboardInterrupt:
        print(f"\ninterrupted; {_how_to_go_on(folder)}", file=sys.stderr)
        raise
    _tell(curves, told, folder, as_json=as_json)
    if any(r.failures.all_ended_in_errors for c in curves for r in c.rows):
        raise typer.Exit(1)


def _how_to_go_on(folder: Any) -> str:
    if folder is None:
        return "nothing was kept: with --out FOLDER an evaluation can be resumed"
    if not (folder.path / "run.yaml").exists():
        return "nothing was played yet; give the same command again"
    return f"what was played is kept in {folder.path}; give the same command again to resume"


def _plain(prices: Any) -> dict[str, Any]:
    models = {name: [price.prompt, price.completion] for name, price in prices.models.items()}
    return {"tools": dict(prices.tools), "models": models}


# Results --------------------------------------------------------------------------------------------------------------


def _tell(curves: Sequence[Curve], told: dict[str, Any], folder: Any, *, as_json: bool) -> None:
    from agentgym import evaluate

    result, timing = evaluate.result(curves, told), evaluate.timing(curves)
    plot = evaluate.success_plot(curves, f"{told['env']}: success under a budget")
    if folder is not None:
        folder.write("result.json", result)
        folder.write("timing.json", timing)
        if plot is not None:
            folder.write("success.svg", plot)
    if as_json:
        import json

        print(json.dumps({**result, "timing": timing}, indent=2))
        for line in _failures(curves):
            print(printable(line), file=sys.stderr)
        return
    for line in (*_conclusions(curves), *_comparisons(curves), *_failures(curves)):
        print(printable(line))
    if folder is not None:
        print(printable(f"kept in {folder.path}: result.json, timing.json{', success.svg' if plot else ''}"))


def _conclusions(curves: Sequence[Curve]) -> list[str]:
    lines = []
    for curve in curves:
        if curve.area is None:
            continue
        if curve.unlimited is None:
            enough = "nothing unlimited played"
        elif not curve.unlimited.success:
            enough = "nothing solved without a budget"
        elif curve.sufficient is None:
            enough = "no budget reaches 95 % of the unlimited success"
        else:
            enough = f"95 % of the unlimited success from {curve.limit}={curve.sufficient} on"
        lines.append(f"{curve.policy}: {enough}; area {curve.area:.3f} of {curve.greatest_area:.3f}")
    return lines


def _comparisons(curves: Sequence[Curve]) -> list[str]:
    """Each further policy against the first; without tasks that both played there is nothing to tell."""
    from agentgym.evaluate import compare

    lines = []
    for other in curves[1:]:
        found = [c for c in compare(curves[0], other) if c.success.pairs]
        if found:
            lines.append(f"{curves[0].policy} against {other.policy}, on the same tasks:")
            called = any(r.means["calls"].mean > 0 for curve in (curves[0], other) for r in curve.rows if r.episodes)
            lines += [f"  {_compared(c, called)}" for c in found]
    return lines


def _compared(found: Comparison, called: bool) -> str:
    success, calls = found.success, found.calls
    points = f"{100 * success.mean:+.1f} points ({100 * success.low:+.1f} to {100 * success.high:+.1f})"
    more = f"calls {calls.mean:+.2f} ({calls.low:+.2f} to {calls.high:+.2f}); " if called else ""
    return f"{found.budget}: success {points}, p = {success.p:.4f}; {more}{success.pairs} tasks"


def _failures(curves: Sequence[Curve]) -> list[str]:
    return [f"{c.policy}, {r.budget}: {line}" for c in curves for r in c.rows for line in r.failures.lines()]
