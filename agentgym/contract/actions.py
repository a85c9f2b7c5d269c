"""What actions may do: garbage is told, admissible ones work, the expert solves the task."""

from __future__ import annotations

from collections.abc import Iterator

from agentgym.contract.subject import (
    NotApplicable,
    Subject,
    expert_action,
    play,
    replay,
    rule,
    sampled_action,
    short,
    start,
    step,
)

LONGEST = 100_000  #: characters; an observation is read by a model

GARBAGE = {
    "nothing": "",
    "white space": " \n\t ",
    "a megabyte": "x" * 1_000_000,
    "control characters": "\x00\x1b[2J\x07\r\x7f",
    "a lone surrogate": "go \ud800 \udfff",
    "a broken call": '<tool_call>{"name": "search", "arguments": {"query": </tool_call>',
    "an open call": '<tool_call>{"name": "search',
    "an unknown tool": '<tool_call>{"name": "no_such_tool", "arguments": {}}</tool_call>',
    "arguments of a wrong type": '<tool_call>{"name": 3, "arguments": [1e999, null]}</tool_call>',
    "deep brackets": "<tool_call>" + "[" * 20_000 + "</tool_call>",
    "an unknown verb": "zzyzx the frobnicator with pliers 99",
}


@rule(
    "garbage",
    "any text is an action: what is not understood never raises, but is told",
    "catch it in step: the observation and info['error'] say what was wrong and what is possible",
    "step",
)
def _garbage(subject: Subject) -> Iterator[str]:
    env = subject.make()
    for name, action in GARBAGE.items():
        start(env, subject.seeds[0])
        try:
            met = step(env, action)
        except (Exception, SystemExit) as error:
            yield f"{name}: raised {type(error).__name__}: {short(str(error))}"
            env = subject.make()
            continue
        if met.terminated:  # taken for an answer
            continue
        if not met.observation.strip():
            yield f"{name}: the observation is empty"
        elif len(met.observation) > LONGEST:
            yield f"{name}: the observation has {len(met.observation)} characters"
        elif not met.known.get("error"):
            yield f"{name}: taken without info['error']; the observation was {short(met.observation)}"


@rule(
    "admissible",
    "every admissible action works",
    "list only actions that step understands and can do",
    "determinism",
    "garbage",
)
def _admissible(subject: Subject) -> Iterator[str]:
    env = subject.make()
    if "admissible" not in start(env, subject.seeds[0]).known:
        raise NotApplicable("it does not list admissible actions")
    for seed in subject.seeds:
        actions, met = play(env, seed, subject.turns)
        for turn in sorted({0, len(actions) // 2}):
            for action in met[turn].known.get("admissible", ())[:50]:
                replay(env, seed, actions[:turn])
                if error := step(env, action).known.get("error"):
                    yield f"seed {seed}, turn {turn}: {action!r} gave the error {error!r}"
                    return


@rule(
    "sampling",
    "sampled actions are understood, and the generator alone decides them",
    "draw in sample_action(rng) from rng alone, and only what step understands",
    "determinism",
    "garbage",
)
def _sampling(subject: Subject) -> Iterator[str]:
    env = subject.make()
    start(env, subject.seeds[0])
    if not callable(getattr(env.unwrapped, "sample_action", None)):
        raise NotApplicable("it has no sample_action")
    for seed in subject.seeds:
        met = start(env, seed)
        for turn in range(subject.turns):
            action, again = sampled_action(env, seed + turn), sampled_action(env, seed + turn)
            if not isinstance(action, str) or action != again:
                yield f"seed {seed}, turn {turn}: {short(action)}, and again from the same generator {short(again)}"
                return
            met = step(env, action)
            if error := met.known.get("error"):
                yield f"seed {seed}, turn {turn}: {short(action)} gave the error {error!r}"
                return
            if met.over:
                break


@rule(
    "expert",
    "the expert's actions work and solve the task",
    "return a valid action until the end",
    "determinism",
    "garbage",
)
def _expert(subject: Subject) -> Iterator[str]:
    env = subject.make()
    start(env, subject.seeds[0])
    if expert_action(env) is None:
        raise NotApplicable("it has no expert")
    for seed in subject.seeds:
        met, turn = start(env, seed), 0
        while not met.over and turn < 500:
            action = expert_action(env)
            if not isinstance(action, str):
                yield f"seed {seed}, turn {turn}: the expert said {action!r} though the episode is running"
                break
            met, turn = step(env, action), turn + 1
            if error := met.known.get("error"):
                yield f"seed {seed}, turn {turn}: {action!r} gave the error {error!r}"
                break
        else:
            if not met.over or met.known.get("success") is False or (met.truncated and not met.known.get("success")):
                yield f"seed {seed}: not solved in {turn} turns"
