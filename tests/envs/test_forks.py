"""An episode forked at any turn goes on exactly as a fresh episode in which the same actions were played."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

import agentgym
from agentgym import keyed_random
from agentgym.env import fork
from agentgym.errors import SandboxUnavailable
from agentgym.policy import ExpertPolicy, Request
from agentgym.records import ToolCall

SEARCHES = ["<search>the</search>", "<answer>no one</answer>", "<search>author"]
#: Every call adds to what the interpreter and its folder hold, and shows all of it.
RUNS = [
    (
        "<python>import random\nseen = [*globals().get('seen', []), random.random()]\n"
        "open('notes', 'a').write(f'{len(seen)} ')\nseen, open('notes').read()</python>"
    ),
    "<python>x = len(globals().get('seen', []))\n1 / x</python>",
]
WORLDS = {  # turns, what to do when straying where the world does not say
    "agentgym/Household-v0": (12, []),
    "agentgym/GUI-v0": (12, []),
    "agentgym/Search-v0": (6, SEARCHES),
    "agentgym/Code-v0": (4, RUNS),
    "agentgym/SearchCode-v0": (8, [*RUNS, *SEARCHES[::2]]),
}


def acting(env, observation, info, turn, strays):
    """The expert's action, or one drawn from the admissible ones where it strays or there is none."""
    admissible = info.get("admissible") or strays
    if keyed_random.uniform("stray", turn) < 0.4:
        return keyed_random.choice(admissible, "action", turn)
    request = Request("e", turn, observation, info, [], env=env)
    return ExpertPolicy().submit(request).action or admissible[0]


def comparable(result):
    *rest, info = result
    calls = [replace(c, seconds=0.0) if isinstance(c, ToolCall) else c for c in info.get("tool_calls", ())]
    return [*rest, {**info, "tool_calls": calls}]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("seed", [0, 5])
def test_a_fork_at_every_turn_goes_on_as_a_replay_does(world, seed):
    turns, strays = WORLDS[world]
    make = partial(agentgym.make, world, split="train")
    try:
        env = make()
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    observation, info = env.reset(seed=seed)
    twins, actions, done = [fork(env)], [], False
    results = []
    while not done and len(actions) < turns:
        action = acting(env, observation, info, len(actions), strays)
        result = env.step(action)
        observation, _, terminated, truncated, info = result
        actions.append(action)
        results.append(comparable(result))
        done = terminated or truncated
        if not done:
            twins.append(fork(env))
    assert len(actions) >= 2
    for turn, twin in enumerate(twins):
        other = [*actions[turn:]][::-1] or ["look"]  # its own way, which the others must not notice
        replayed = make()
        replayed.reset(seed=seed)
        for action in actions[:turn]:
            replayed.step(action)
        deeper = fork(twin)
        for action in other:
            went = comparable(twin.step(action))
            assert went == comparable(replayed.step(action))
            if went[2] or went[3]:
                break
        for action, result in zip(actions[turn:], results[turn:], strict=True):
            assert comparable(deeper.step(action)) == result
        for used in (twin, replayed, deeper):
            used.close()
    env.close()
