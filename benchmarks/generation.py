"""Generation over turns: the engine that keeps keys and values, against prefilling every context again.

    python benchmarks/generation.py --json generation.json

64 episodes of 8 turns, 32 observation tokens and 16 new ones a turn. The model
is a Qwen2 of 4 layers, hidden size 256, vocabulary 2048 (4.46 M parameters), float32, one thread. The end of an action
is forbidden, so that every side writes equally many tokens. Sides: the engine; the engine that forgets what it holds
after every turn; and Hugging Face's own ``generate`` on the whole context of every turn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from measure import compare, options, small_model, table, write

from agentgym import keyed_random
from agentgym.models.engines.local import Engine

VOCABULARY = 2048


class Work:
    """What every side does: the sizes, and the observations of each turn."""

    def __init__(self, episodes: int, turns: int, new: int, seen: int) -> None:
        self.episodes, self.turns, self.new, self.seen = episodes, turns, new, seen
        self.observations = np.random.default_rng(0).integers(0, VOCABULARY, (turns, episodes, seen)).tolist()

    @property
    def tokens(self) -> int:
        """Tokens that are generated."""
        return self.episodes * self.turns * self.new


def engine(model: Any, work: Work, *, keep: bool) -> Callable[[], int]:
    """Tokens that went through the model."""

    def run() -> int:
        made = Engine(model, [])
        kv_slots = [made.open() for _ in range(work.episodes)]
        contexts: list[list[int]] = [[] for _ in kv_slots]
        for turn in range(work.turns):
            if not keep:
                made.forget()
            for kv_slot, context, observation in zip(kv_slots, contexts, work.observations[turn], strict=True):
                context.extend(observation)
                made.submit(kv_slot, list(context), keyed_random.key(0, kv_slot, turn), work.new)
            while made.busy:
                for done in made.step():
                    contexts[done.kv_slot].extend(done.action)
        return made.forwarded

    return run


@torch.no_grad()
def hugging_face(model: Any, work: Work) -> None:
    """``generate`` on the whole context, turn by turn; all contexts are equally long, so nothing is padded."""
    contexts = torch.empty(work.episodes, 0, dtype=torch.long)
    for turn in range(work.turns):
        contexts = torch.cat([contexts, torch.tensor(work.observations[turn])], 1)
        contexts = model.generate(
            input_ids=contexts,
            attention_mask=torch.ones_like(contexts),
            max_new_tokens=work.new,
            do_sample=True,
            top_k=0,
            pad_token_id=0,
            eos_token_id=VOCABULARY,
        )


def main() -> None:
    """Compare."""
    parser = options(__doc__, rounds=3)
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--turns", type=int, default=8)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model, work = small_model(VOCABULARY).eval(), Work(given.episodes, given.turns, new=16, seen=32)
    sides = {
        "engine, keys and values kept": engine(model, work, keep=True),
        "engine, prefilling again": engine(model, work, keep=False),
        "transformers generate, prefilling again": lambda: hugging_face(model, work),
    }
    forwarded = {name: sides[name]() for name in list(sides)[:2]}
    seconds = compare(sides, given.rounds)
    title = f"{work.episodes} episodes x {work.turns} turns of {work.new} new + {work.seen} observation tokens"
    figures: dict[str, Any] = {"sides": table(title, seconds, work=work.tokens, unit="tokens")}
    figures["tokens_through_the_model"] = forwarded
    print(f"  tokens through the model: {forwarded}")
    write(given.json, figures)


if __name__ == "__main__":
    main()
