"""Hand-made episodes of every shape, and what three sets of weights say about their tokens.

Turns have 0 to 16 tokens, episodes 1 to 8 turns. They end by themselves, by a turn limit, a budget, or a full context.
``g0`` has two forks of one state, and a fork of a fork; ``g1`` earns the same in every episode; ``g2`` is one episode;
in ``g3`` a context is rebuilt, a turn has no token, and an episode is forked behind both. Rewards leave [0, 1], states
are met again, actions are misunderstood, calls fail and are refused, beliefs and evidence are known for some only.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from agentgym.models.chat_template import ChatTemplate
from agentgym.records import Episode, Sample, StopReason, Task, ToolCall, Turn, sampled_ids

TEMPERATURE = 0.7
FULL, LIMIT, BUDGET = StopReason.CONTEXT_FULL, StopReason.TURN_LIMIT, StopReason.BUDGET
ENDED = StopReason.TERMINATED


class T(NamedTuple):
    """A turn: its tokens, what it paid, the state it met, and what it called."""

    tokens: int
    reward: float
    anchor: str | None
    calls: tuple[ToolCall, ...] = ()
    error: str | None = None
    action: str = "x"
    rebuilt: bool = False


def search(*shown: str, **how: Any) -> ToolCall:
    return ToolCall("search", {}, "\n".join(f"[{d}] about {d}" for d in shown), **how)


PYTHON = ToolCall("python")
RAISED = ToolCall("python", error="ZeroDivisionError: division by zero")
REFUSED = search("d2", error="the budget is used up", status="refused")

#: id: (parent, fork turn, own turns, stop, success)
SHAPES: dict[str, tuple[str | None, int, list[T], StopReason, bool | None]] = {
    "g0/0": (
        None, 0,
        [T(5, 0.0, "a", (search("d1"),)), T(1, 0.2, "b", (PYTHON,)), T(9, 0.8, "c", action="red [d1] [d2]")],
        ENDED, True,
    ),
    "g0/1": ("g0/0", 1, [T(16, -0.1, "b", (search("d2"), RAISED)), T(2, 0.3, "a", (REFUSED,))], LIMIT, None),
    "g0/2": ("g0/1", 2, [T(4, 0.7, "a", action="[d2]")], ENDED, True),
    "g0/3": (None, 0, [T(7, -0.5, "a", error="what?")], FULL, None),
    "g0/4": (
        None, 0,
        [T(1, 0.1, "a"), T(1, 0.1, "b"), T(2, 0.1, "d"), T(3, 0.1, "b"), T(1, 0.1, "a"),
         T(2, 0.1, "e", (search("d1", "d3"), PYTHON)), T(1, 0.1, None), T(1, 0.6, "g", action="[d1]")],
        ENDED, True,
    ),
    "g0/5": ("g0/0", 1, [T(3, 0.0, "b")], ENDED, False),
    "g1/0": (None, 0, [T(2, 0.2, "p", (search(),)), T(6, 0.3, "q")], ENDED, True),
    "g1/1": (None, 0, [T(11, 0.5, "p", error="no")], BUDGET, False),
    "g2/0": (None, 0, [T(4, 0.0, "u", (search("d2"),)), T(1, 1.0, "u")], ENDED, True),
    "g3/0": (
        None, 0,
        [T(3, 0.0, "a"), T(0, 0.0, "h", (search("d1"), search("d2"))), T(8, 0.9, "i", rebuilt=True, action="[d1]")],
        ENDED, True,
    ),
    "g3/1": (
        None, 0,
        [T(6, 0.0, "a", (search("d1"),)), T(1, 0.1, "h", error="again"), T(1, 0.0, "a", (PYTHON,)), T(12, -0.4, "i")],
        LIMIT, None,
    ),
    "g3/2": ("g3/0", 2, [T(5, 0.4, "i", (PYTHON,), rebuilt=True, action="[d1] [d2]")], ENDED, True),
    "g3/3": (None, 0, [T(10, 0.0, "a")], ENDED, False),
}  # fmt: skip
TASKS = {"g0": "t0", "g1": "t1", "g2": "t2", "g3": "t0"}
ANSWERS = {"g0": ("red", "blue green"), "g1": (), "g2": ("green",), "g3": ("blue", "red")}
EVIDENCE = {"g0": ("d1", "d2"), "g1": (), "g2": ("d1",), "g3": ("d1", "d2")}
COLOURS = {"g0": "red", "g1": "blue", "g2": "green", "g3": "red"}


class Said(NamedTuple):
    """What weights say about a turn's action: log π of each token at the temperature, and what predicts it, [n, H]."""

    logprob: torch.Tensor
    hidden: torch.Tensor


def speak(model: Any, context: Any, action: Any, temperature: float = TEMPERATURE) -> Said:
    """By one ordinary forward pass. Without an action: the state that would predict one."""
    ids = [*context, *(action or (0,))]
    out = model(input_ids=torch.tensor([ids]), use_cache=False, output_hidden_states=True)
    at = slice(len(context) - 1, len(ids) - 1)
    every = torch.log_softmax(out.logits[0, at] / temperature, -1)
    return Said(every[range(len(action)), list(action)], out.hidden_states[-1][0, at])


@dataclass
class World:
    """The episodes, and models: what sampled them, what is updated, and where a first step leads."""

    first: Any
    moved: Any
    further: Any
    tokenizer: Any
    episodes: list[Episode] = field(default_factory=list)
    said: dict[tuple[str, str, int], Said] = field(default_factory=dict)  # (weights, episode, turn)
    head: torch.Tensor = field(default_factory=lambda: torch.linspace(-0.4, 0.4, 32, dtype=torch.float64))
    bias: torch.Tensor = field(default_factory=lambda: torch.tensor([0.1], dtype=torch.float64))

    def __post_init__(self) -> None:
        self.head.requires_grad_()
        self.bias.requires_grad_()

    def after(self, episode: Episode) -> list[int]:
        """The context that would have come next."""
        last = episode.turns[-1].sample
        assert last is not None
        chat = ChatTemplate(self.tokenizer)
        before = [*episode.contexts()[-1], *last.action]
        return [*before, *chat.following(episode.final, before)]

    def listen(self) -> None:
        """Run all weights over all turns; those that are updated keep their graphs."""
        for name, model in (("first", self.first), ("moved", self.moved), ("further", self.further)):
            with torch.set_grad_enabled(name != "first"):
                for e in self.episodes:
                    for t, (context, turn) in enumerate(zip(e.contexts(), e.turns, strict=True)):
                        assert turn.sample is not None
                        self.said[name, e.id, t] = speak(model, context, turn.sample.action)


def moved(model: Any, seed: int, size: float) -> Any:
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(size * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return other


def build(small: Any) -> World:
    """Everything, the same whenever it is made."""
    first, tokenizer = small(dtype=torch.float64)
    second = moved(first, 1, 0.02)
    world = World(first, second, moved(second, 2, 0.01), tokenizer)
    rng, chat, made = np.random.default_rng(5), ChatTemplate(tokenizer), {}
    for name, (parent, fork, own, stop, success) in SHAPES.items():
        turns = list(made[parent].turns[:fork]) if parent else []
        group = name.partition("/")[0]
        for t in own:
            turns.append(_turn(world, chat, rng, turns, t, group))
        made[name] = Episode(
            name, "test", Task(0, task_id=TASKS[group]), tuple(turns), stop, success=success, group=group,
            member=int(name[-1]), parent=parent, fork_turn=fork if parent else None,
            final=f"Still {COLOURS[group]}, turn {len(turns)}.", answers=ANSWERS[group], evidence=EVIDENCE[group],
        )  # fmt: skip
        if stop is not ENDED:
            ids = world.after(made[name])
            behind = Sample.behind(sampled_ids(turns), ids, ())
            made[name] = replace(made[name], final_context=behind)
    world.episodes = list(made.values())
    world.listen()
    return world


def _turn(world: World, chat: ChatTemplate, rng: Any, before: list[Turn], t: T, group: str) -> Turn:
    colour = COLOURS[group]
    observation = f"Still {colour}, turn {len(before)}." if before else f"You see {colour}."
    history: list[int] = []
    for turn in before:
        assert turn.sample is not None
        history[turn.sample.keep :] = [*turn.sample.context, *turn.sample.action]
    keep = 0 if t.rebuilt or not before else len(history)
    context = chat.following(observation, history) if keep else chat.opening("", observation)
    action = [int(x) for x in rng.integers(5, len(chat.tokenizer), t.tokens)]
    if t.tokens > 2:
        action[-1] = chat.end
    with torch.no_grad():
        usual = speak(world.first, [*history[:keep], *context], action).logprob.numpy()
    # the policy has moved since, some tokens by far; a few were nearly certain
    gap = rng.choice([0.0, 0.02, -0.02, 0.15, -0.15, 0.35, -0.35, 1.4, -1.4, 1.8, 2.6], t.tokens)
    old = np.where(rng.random(t.tokens) < 0.12, np.log(0.95), np.minimum(usual - gap, -1e-3))
    entropy = rng.uniform(0.1, 5.0, t.tokens)
    sample = Sample(keep, tuple(context), tuple(action), tuple(old.tolist()), tuple(entropy.tolist()))
    columns = _columns(before, t, EVIDENCE[group])
    return Turn(observation, t.action, t.reward, t.anchor, t.error, t.calls, sample, columns=columns)


def _columns(before: list[Turn], t: T, evidence: tuple[str, ...]) -> dict[str, float]:
    """What an environment with these documents says about a turn."""
    if not evidence:
        return {}
    calls = [(turn.tool_calls, True) for turn in before] + [(t.calls, False)]
    found = [
        (d, earlier)
        for made, earlier in calls
        for c in made
        for d in evidence
        if f"[{d}] about" in c.result and c.error is None
    ]
    shown, read = {d for d, _ in found}, {d for d, earlier in found if earlier}
    cited = {d for d in read if f"[{d}]" in t.action}
    return {"evidence_recall": len(shown) / len(evidence), "evidence_cited": len(cited) / len(evidence)}
