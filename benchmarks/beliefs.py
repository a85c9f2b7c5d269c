"""What beliefs cost: the scoring pass over an update's actions, without and with the accepted answer after each turn.

    python benchmarks/beliefs.py                8 episodes, 57 beliefs, contexts of about 1,700 tokens, one answer
    python benchmarks/beliefs.py --aliases 4    four accepted answers each
    python benchmarks/beliefs.py --groups 4     every attention head with keys and values of its own

The wrapper around an answer and the answer have 16 tokens each. Both passes take turns in one process on one thread,
and the first round does not count; times are medians, the surplus is the median of the rounds' ratios, with its
quartiles, so that a busy machine troubles both sides alike. The other ways to score the same beliefs, one prefix at a
time and one padded batch a turn (what released code does), run once with ``--ways``. The model is a Qwen3 of 4 layers,
4 heads that share two heads of keys and values (as in ``agentgym.models.tiny``), hidden size 256, vocabulary
2048, in float32, without gradients. Prints a table and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from agentgym.trainers.prefix_tree.scoring import Scorer
from agentgym.trainers.prefix_tree.tree import Row, TokenTree

VOCABULARY = 2048
TURNS = (9, 8, 8, 7, 7, 7, 6, 5)  #: beliefs of each episode, 57 in all
WRAPPER = ANSWER = 16


def make_model(groups: int) -> Any:
    """4 heads over so many key-value heads."""
    torch.manual_seed(0)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=768,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=groups,
            head_dim=64,
            tie_word_embeddings=False,
            max_position_embeddings=4096,
            attn_implementation="sdpa",
        )
    ).eval()


def update(aliases: int) -> tuple[list[Row], list[Row]]:
    """Rows of 8 episodes of about 1,700 tokens that share a prompt of 100, and the rows that ask after every turn."""
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, VOCABULARY, 100)
    wrapper, answers = rng.integers(0, VOCABULARY, WRAPPER), rng.integers(0, VOCABULARY, (aliases, ANSWER))
    rows, leaves = [], []
    for number, turns in enumerate(TURNS):
        context, scored = prompt, []
        each = 1600 // turns
        for _ in range(turns):
            action = int(rng.integers(30, 60))
            scored.append(np.arange(len(context), len(context) + action))
            context = np.concatenate([context, rng.integers(0, VOCABULARY, each)])
            for answer in answers:
                tokens = np.concatenate([context, wrapper, answer])
                leaves.append(Row(tokens, np.arange(len(tokens) - ANSWER, len(tokens)), number))
        last = int(rng.integers(30, 60))
        scored.append(np.arange(len(context), len(context) + last))
        rows.append(Row(np.concatenate([context, rng.integers(0, VOCABULARY, last)]), np.concatenate(scored), number))
    return rows, leaves


def as_tree(scorer: Scorer, rows: Sequence[Row], max_tokens: int) -> np.ndarray:
    """Log-probability of every scored token; building the tree is part of the time."""
    tree = TokenTree.build(rows)
    out = np.empty(len(tree.target))
    with torch.no_grad():
        for batch in tree.batches(max_tokens):
            out[batch.scored] = scorer.score(batch).logprob.numpy()
    return out


def one_at_a_time(model: Any, leaves: Sequence[Row]) -> np.ndarray:
    """One forward a belief, without padding."""
    out = []
    with torch.no_grad():
        for row in leaves:
            ids = torch.from_numpy(row.tokens)
            hidden = model.model(ids[None], use_cache=False).last_hidden_state[0, row.scored - 1]
            out.append(torch.log_softmax(model.lm_head(hidden), -1).gather(1, ids[row.scored][:, None])[:, 0])
    return torch.cat(out).numpy()


def padded_turns(model: Any, leaves: Sequence[Row], aliases: int) -> np.ndarray:
    """One right-padded batch a turn, with a row for every episode, those that ended long ago repeated."""
    by_episode: dict[Any, list[int]] = {}
    for i, row in enumerate(leaves):
        by_episode.setdefault(row.keep_together, []).append(i)
    found: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        for turn in range(max(TURNS) * aliases):
            chosen = [own[min(turn, len(own) - 1)] for own in by_episode.values()]
            ids = torch.zeros(len(chosen), max(len(leaves[i].tokens) for i in chosen), dtype=torch.long)
            for b, i in enumerate(chosen):
                ids[b, : len(leaves[i].tokens)] = torch.from_numpy(leaves[i].tokens)
            hidden = model.model(ids, use_cache=False).last_hidden_state
            for b, i in enumerate(chosen):
                logits = model.lm_head(hidden[b, leaves[i].scored - 1])
                found[i] = torch.log_softmax(logits, -1).gather(1, ids[b, leaves[i].scored][:, None])[:, 0]
    return torch.cat([found[i] for i in range(len(leaves))]).numpy()


def timed(run: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """CPU seconds, and what came of it."""
    began = time.process_time()
    result = run()
    return time.process_time() - began, result


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--aliases", type=int, default=1)
    parser.add_argument("--groups", type=int, default=2, help="heads of keys and values")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--max-tokens", type=int, default=8192)
    parser.add_argument("--ways", action="store_true", help="also the ways without a tree")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows, leaves = update(given.aliases)
    plain_model = make_model(given.groups)
    scorer = Scorer(make_model(given.groups))
    without: list[float] = []
    with_beliefs: list[float] = []
    for _ in range(given.rounds + 1):
        seconds, plain = timed(lambda: as_tree(scorer, rows, given.max_tokens))
        without.append(seconds)
        seconds, both = timed(lambda: as_tree(scorer, [*rows, *leaves], given.max_tokens))
        with_beliefs.append(seconds)
    assert np.abs(both[: len(plain)] - plain).max() < 1e-4
    base, full = statistics.median(without[1:]), statistics.median(with_beliefs[1:])
    ratios = [b / a for a, b in zip(without[1:], with_beliefs[1:], strict=True)]
    low, more, high = (100 * (ratio - 1) for ratio in statistics.quantiles(ratios))
    tokens = [len(TokenTree.build(r).tokens) for r in (rows, [*rows, *leaves])]
    figures = {
        "beliefs": sum(TURNS),
        "aliases": given.aliases,
        "without_s": round(base, 3),
        "with_s": round(full, 3),
        "groups": given.groups,
        "more_cpu_percent": round(more, 1),
        "quartiles": [round(low, 1), round(high, 1)],
        "percent_of_minima": round(100 * (min(with_beliefs) / min(without) - 1), 1),
        "tokens_without": tokens[0],
        "tokens_with": tokens[1],
    }
    print(f"{'':34}{'tokens':>10}{'CPU s':>9}")
    print(f"{'actions':34}{tokens[0]:>10,}{base:>9.2f}")
    print(f"{'actions and beliefs, one tree':34}{tokens[1]:>10,}{full:>9.2f}  +{more:.0f} % ({low:.0f} to {high:.0f})")
    if given.ways:
        slow, one = timed(lambda: one_at_a_time(plain_model, leaves))
        padded, turns = timed(lambda: padded_turns(plain_model, leaves, given.aliases))
        error = max(np.abs(one - both[len(plain) :]).max(), np.abs(turns - both[len(plain) :]).max())
        needed = sum(len(row.tokens) for row in leaves)
        print(f"{'beliefs alone, one at a time':34}{needed:>10,}{slow:>9.2f}")
        print(f"{'beliefs alone, a padded batch a turn':36}{'':>8}{padded:>9.2f}")
        print(f"largest difference of a token's log-probability between the ways: {error:.1e}")
        figures |= {
            "one_at_a_time_s": round(slow, 3),
            "padded_s": round(padded, 3),
            "difference": float(f"{error:.1e}"),
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
