"""What the prefix tree saves: an update (forward and backward) on the same rows, evaluated in several ways.

    python benchmarks/tree.py                          8 episodes of 30 turns: tree against one sample per turn
    python benchmarks/tree.py completions              8 prompts x 8 completions: tree against one row per completion
    python benchmarks/tree.py history --alternatives   also dense masks and kept keys and values

Cases: ``turns``: full-history episodes of about 600 tokens, one row a turn (its whole context and its action), as
trainers without a tree see them. ``history``: the same episodes, one row each. ``completions``: prompts of 64 tokens,
64 tokens a completion. Every way computes the same loss (the mean log-probability of the action tokens) with logits
only at action tokens; all ways take turns in one process on one thread, and the first round does not count. The model
is a Qwen2 of 4 layers, hidden size 256, vocabulary 2048, in float32. Prints a table and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from measure import small_model
from transformers import DynamicCache

from agentgym.models.attention import ATTENTION
from agentgym.trainers.prefix_tree.blocks import MicroBatch
from agentgym.trainers.prefix_tree.scoring import Scorer
from agentgym.trainers.prefix_tree.tree import Row, TokenTree

VOCABULARY = 2048
PROMPT = 80  #: tokens that all episodes share
ACTION, OBSERVATION = 8, 9  #: tokens a turn, about
Way = Callable[[], float]


def episodes(count: int, turns: int) -> list[list[Row]]:
    """The turns of full-history episodes of one task, each a row with its whole context."""
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, VOCABULARY, PROMPT)
    out = []
    for _ in range(count):
        context, rows = prompt, []
        for _ in range(turns):
            observation, action = rng.poisson(OBSERVATION), max(1, rng.poisson(ACTION))
            context = np.concatenate([context, rng.integers(0, VOCABULARY, observation + action)])
            rows.append(Row(context, np.arange(len(context) - action, len(context))))
        out.append(rows)
    return out


def joined(turns: Sequence[Row]) -> Row:
    """An episode as one row."""
    return Row(turns[-1].tokens, np.concatenate([turn.scored for turn in turns]))


def completions(prompts: int, each: int) -> list[Row]:
    """Single-turn rows: 64 tokens of prompt, 64 of completion."""
    rng = np.random.default_rng(0)
    heads = rng.integers(0, VOCABULARY, (prompts, 64))
    return [
        Row(np.concatenate([h, rng.integers(0, VOCABULARY, 64)]), np.arange(64, 128))
        for h in heads
        for _ in range(each)
    ]


def step(parts: Iterator[torch.Tensor], total: int) -> float:
    """Backward of the mean over all scored tokens, micro-batch by micro-batch."""
    value = 0.0
    for logprob in parts:
        loss = -logprob.sum() / total
        loss.backward()  # type: ignore[no-untyped-call]
        value += loss.item()
    return value


def token_logprobs(model: Any, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """[S] from the hidden states that predict them [S, H]."""
    return torch.log_softmax(model.lm_head(hidden), -1).gather(1, tokens[:, None])[:, 0]


def padded(rows: Sequence[Row], start: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows as a right-padded matrix from token ``start``; row, position and token of what is scored."""
    ids = torch.zeros(len(rows), max(len(row.tokens) for row in rows) - start, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row.tokens) - start] = torch.from_numpy(row.tokens[start:])
    index = torch.cat([torch.full((len(row.scored),), i) for i, row in enumerate(rows)])
    at = torch.from_numpy(np.concatenate([row.scored for row in rows])) - start
    return ids, index, at, torch.from_numpy(np.concatenate([row.tokens[row.scored] for row in rows]))


def row_by_row(model: Any, rows: Sequence[Row], tokens: int) -> Iterator[torch.Tensor]:
    """Rows of similar length, right-padded, at most ``tokens`` places a micro-batch."""
    model.set_attn_implementation("sdpa")
    rows = sorted(rows, key=lambda row: len(row.tokens))
    while rows:
        fitting = 1
        while fitting < len(rows) and (fitting + 1) * len(rows[fitting].tokens) <= tokens:
            fitting += 1
        ids, index, at, target = padded(rows[:fitting])
        hidden = model.model(ids, use_cache=False).last_hidden_state
        yield token_logprobs(model, hidden[index, at - 1], target)
        rows = rows[fitting:]


def as_tree(scorer: Scorer, rows: Sequence[Row], tokens: int | None) -> Iterator[torch.Tensor]:
    """Building the tree is part of the time."""
    scorer.model.set_attn_implementation(ATTENTION)
    for batch in TokenTree.build(rows).batches(tokens):
        yield scorer.score(batch).logprob


def dense(model: Any, rows: Sequence[Row], tokens: int | None) -> Iterator[torch.Tensor]:
    """The same micro-batches under one N x N mask each, from ``k <= q < exit[k]``."""
    model.set_attn_implementation("sdpa")
    for batch in TokenTree.build(rows).batches(tokens):
        ids, positions = torch.from_numpy(batch.tokens)[None], torch.from_numpy(batch.positions)[None]
        mask = dense_mask(batch)[None, None]
        hidden = model.model(ids, attention_mask=mask, position_ids=positions, use_cache=False).last_hidden_state[0]
        parent = torch.from_numpy(batch.parents[batch.pair_parent[batch.pairs]])
        yield token_logprobs(model, hidden[parent], torch.from_numpy(batch.pair_token[batch.pairs]))


def dense_mask(batch: MicroBatch) -> torch.Tensor:
    """True where row q may look at column k; a subtree ends where the depth falls back."""
    depth, count = batch.positions, len(batch.positions)
    end = np.full(count, count)
    open_nodes: list[int] = []
    for node, level in enumerate(depth.tolist()):
        while len(open_nodes) > level:
            end[open_nodes.pop()] = node
        open_nodes.append(node)
    key, query = np.arange(count)[None, :], np.arange(count)[:, None]
    return torch.from_numpy((key <= query) & (query < end[None, :]))


def kept_keys(model: Any, groups: Sequence[Sequence[Row]], prefix: int) -> Iterator[torch.Tensor]:
    """Each group's prefix first, then its rows over the prefix's keys and values, which stay in the graph."""
    model.set_attn_implementation("sdpa")
    for rows in groups:
        cache = DynamicCache(config=model.config)
        ids = torch.from_numpy(rows[0].tokens[None, :prefix])
        first = model.model(ids, past_key_values=cache, use_cache=True).last_hidden_state[:, -1:]
        cache.batch_repeat_interleave(len(rows))
        ids, index, at, target = padded(rows, prefix)
        rest = model.model(ids[:, :-1], past_key_values=cache, use_cache=True).last_hidden_state
        yield token_logprobs(model, torch.cat([first.expand(len(rows), -1, -1), rest], 1)[index, at], target)


def measure(ways: dict[str, Way], model: Any, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds of each way, medians with extremes; the ways take turns, so a noisy minute hits all of them."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    losses: dict[str, float] = {}
    for _ in range(repeats + 1):
        for name, way in ways.items():
            model.zero_grad()
            wall, cpu = time.perf_counter(), time.process_time()
            losses[name] = way()
            seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    out = {}
    for name, both in seconds.items():
        wall_times, cpu_times = zip(*both[1:], strict=True)
        out[name] = {
            "cpu_s": statistics.median(cpu_times),
            "cpu_min": min(cpu_times),
            "cpu_max": max(cpu_times),
            "wall_s": statistics.median(wall_times),
            "wall_min": min(wall_times),
            "wall_max": max(wall_times),
            "loss": losses[name],
        }
    return out


def main() -> None:
    """Measure one case and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("case", nargs="?", default="turns", choices=["turns", "history", "completions"])
    parser.add_argument("--episodes", type=int, default=8)
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=2048, help="limit of a micro-batch in the tree")
    parser.add_argument("--row-tokens", type=int, default=8192, help="limit of a micro-batch row by row")
    parser.add_argument("--alternatives", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = small_model(VOCABULARY)
    scorer = Scorer(model)
    played = episodes(args.episodes, args.turns)
    if args.case == "completions":
        rows, prefix = completions(8, 8), 64
        groups = [rows[i : i + 8] for i in range(0, 64, 8)]
    else:
        rows, prefix = [joined(turns) for turns in played], PROMPT
        groups = [rows]
    given = [row for turns in played for row in turns] if args.case == "turns" else rows
    tree = TokenTree.build(given)
    total = len(tree.target)
    computed = sum(len(batch.tokens) for batch in tree.batches(args.tokens))
    ways: dict[str, Way] = {
        "row by row": lambda: step(row_by_row(model, given, args.row_tokens), total),
        "tree": lambda: step(as_tree(scorer, given, args.tokens), total),
    }
    if args.alternatives:
        ways["dense mask, one bin"] = lambda: step(dense(model, rows, None), total)
        ways["dense mask, a bin a group or episode"] = lambda: step(dense(model, rows, 700), total)
        ways["kept keys and values"] = lambda: step(kept_keys(model, groups, prefix), total)
    result = measure(ways, model, args.repeats)
    print(f"{args.case}: {len(given)} rows, {tree.row_tokens} row tokens, {len(tree.tokens)} tree tokens ", end="")
    print(f"(sharing {tree.sharing:.2f}), {computed} computed, {total} scored")
    base = result["row by row"]["cpu_s"]
    print(
        f"{'way':38s} {'CPU s: median, min, max':^23s} {'wall s: median, min, max':^24s} {'of row by row':>14s}   loss"
    )
    for name, r in result.items():
        cpu = f"{r['cpu_s']:7.3f} {r['cpu_min']:7.3f} {r['cpu_max']:7.3f}"
        wall = f"{r['wall_s']:7.3f} {r['wall_min']:7.3f} {r['wall_max']:7.3f}"
        print(f"{name:38s} {cpu} {wall}  {r['cpu_s'] / base:14.3f}   {r['loss']:.6f}")
    sizes = {"rows": len(given), "row_tokens": tree.row_tokens, "tree_tokens": len(tree.tokens), "computed": computed}
    print(json.dumps({"case": args.case, **sizes, "prefix_sharing": tree.sharing, "ways": result}))


if __name__ == "__main__":
    main()
