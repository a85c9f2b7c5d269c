"""``agentgym play``: one episode in the terminal."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentgym.cli.console.completion import env_ids, policies
from agentgym.cli.console.printing import printable
from agentgym.cli.console.sandbox import AllowImportOption, SandboxOption, UnsafeOption, sandbox_settings
from agentgym.cli.console.tools import ToolOption, tool_settings
from agentgym.errors import PolicyError
from agentgym.records import StopReason

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    import gymnasium as gym

    from agentgym.policy import Policy
    from agentgym.records import Episode


def command(
    env: Annotated[str, typer.Argument(help="An id, or module:id.", autocompletion=env_ids)],
    settings: Annotated[list[str] | None, typer.Argument(help="key=value arguments of the environment.")] = None,
    policy: Annotated[
        str,
        typer.Option(
            help="person, random, expert, expert:0.1 (a tenth random), replay:FILE, a run, a model, a server's URL.",
            autocompletion=policies,
        ),
    ] = "person",
    seed: Annotated[int, typer.Option(help="Which episode.")] = 0,
    split: Annotated[str | None, typer.Option(help="The split to play in.")] = None,
    max_turns: Annotated[int | None, typer.Option(min=1, help="Stop after this many turns.")] = None,
    save: Annotated[Path | None, typer.Option(help="Append the episode to a file in this folder.")] = None,
    tool: ToolOption = None,
    sandbox: SandboxOption = None,
    unsafe_local_python: UnsafeOption = False,
    allow_import: AllowImportOption = None,
) -> None:
    """Play one episode: yourself, or watch a policy. An empty line lists the actions, Ctrl-D leaves."""
    from agentgym.cli.console.arguments import environment
    from agentgym.records import Task
    from agentgym.rollout import Group, Rollout
    from agentgym.store import EpisodeWriter

    factory = environment(
        env, [*(settings or ()), *sandbox_settings(sandbox, unsafe_local_python), *tool_settings(tool)], split
    )
    person = policy == "person"
    with (
        _player(policy, factory, allow_import or ()) as (_, chosen),
        Rollout(factory, chosen, max_concurrent_episodes=1, max_turns=max_turns, run_key=seed) as rollout,
    ):
        if person:
            print(printable(rollout.instructions))
        (episode,) = rollout.play([Group(f"play-{seed}", Task(seed))])
    _show(episode, transcript=not person)
    if save is not None:
        save.mkdir(parents=True, exist_ok=True)
        with EpisodeWriter(save / "episodes-play.jsonl.zst") as writer:
            writer.append(episode)
        print(f"saved in {writer.path}; play it again with --policy replay:{writer.path}")


def _player(
    policy: str, make_env: Callable[[], gym.Env[str, str]], modules: Collection[str]
) -> contextlib.AbstractContextManager[tuple[str, Policy]]:
    from agentgym.cli.console.players import Endpoint, player
    from agentgym.policy import HumanPolicy

    if policy == "person":
        return contextlib.nullcontext(("person", HumanPolicy(input, lambda text: print(printable(text)))))
    return player(policy, Endpoint(), make_env, modules)


def _show(episode: Episode, *, transcript: bool) -> None:
    if transcript:
        for turn in episode.turns:
            print(f"\n{printable(turn.observation)}\n> {printable(turn.action)}")
    if episode.final:
        print(f"\n{printable(episode.final)}")
    if episode.stop is StopReason.POLICY_ERROR:
        raise PolicyError(f"the policy cannot play this: {episode.failure}")
    solved = {True: "solved", False: "not solved", None: "ended"}[episode.success]
    because = f"{episode.stop.value.replace('_', ' ')}" + (f": {printable(episode.failure)}" if episode.failure else "")
    count = len(episode.turns)
    print(f"\n{solved} after {count} turn{'s' * (count != 1)}, reward {episode.reward:g} ({because})")
    if episode.failure is not None:
        raise typer.Exit(1)
