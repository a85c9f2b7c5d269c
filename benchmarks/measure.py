"""What benchmarks share: both sides take turns in one process, and CPU seconds are counted."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agentgym import keyed_random

Side = Callable[[], object]


def compare(sides: Mapping[str, Side], rounds: int) -> dict[str, list[float]]:
    """CPU seconds (all threads) of each side in each round; a round before them does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            began = time.process_time()
            side()
            if number:
                seconds[name].append(time.process_time() - began)
    return seconds


def bare(env: Any, act: Callable[[Any, dict[str, Any], int], str], episodes: int, asked: Any = None) -> int:
    """Turns of a loop that keeps nothing; ``asked`` are the options of each reset."""
    turns = 0
    for seed in range(episodes):
        _, info = env.reset(seed=seed, options=asked)
        over = False
        while not over:
            _, _, terminated, truncated, info = env.step(act(env, info, turns))
            over = terminated or truncated
            turns += 1
    return turns


def expert_action(env: Any, info: dict[str, Any], turn: int) -> str:
    """What the expert does."""
    return str(env.expert())


def random_action(env: Any, info: dict[str, Any], turn: int) -> str:
    """Uniform, by a counter-based draw."""
    return str(keyed_random.choice(info["admissible"], turn))


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def table(title: str, seconds: Mapping[str, list[float]], *, work: int = 0, unit: str = "") -> dict[str, Any]:
    """Print a line a side, the first one being what others are compared with; the figures as a mapping.

    Args:
        work: how many ``unit`` a side does in a round; their rate is shown.
    """
    print(f"\n{title}")
    first = statistics.median(next(iter(seconds.values())))
    figures = {}
    for name, values in seconds.items():
        figure = spread(values) | {"of_first": statistics.median(values) / first}
        rate = f"{work / figure['median']:12,.0f} {unit}/s" if work else ""
        if work:
            figure[f"{unit}_per_cpu_second"] = work / figure["median"]
        print(
            f"  {name:<44}{figure['median']:10.4f} CPU s  ({figure['min']:.4f} to {figure['max']:.4f})"
            f"{figure['of_first']:8.2f} x{rate}"
        )
        figures[name] = figure
    return figures


def small_model(vocabulary: int, **changes: Any) -> Any:
    """A Qwen2 with random weights: 4 layers, hidden size 256; 4.46 million parameters at a vocabulary of 2048."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    }
    return Qwen2ForCausalLM(Qwen2Config(**sizes, **changes))


def options(doc: str | None, rounds: int) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help="how often each side is timed")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser


def write(path: Path | None, figures: Mapping[str, Any]) -> None:
    """The figures as one line of JSON, and into a file if one was named."""
    print(json.dumps(figures))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=1) + "\n")


def interval(values: list[float], sign: str = "") -> str:
    """Mean and half width of its 95 % t-interval, as text; one value has no width. ``sign="+"`` shows it always."""
    from scipy import stats

    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:{sign}.3f}"
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:{sign}.3f} ± {half:.3f}"


def trained(path: Path, options: dict[str, Any]) -> None:
    """Train a run to its end, from where it stopped."""
    from agentgym.errors import StoreError
    from agentgym.registry import import_of
    from agentgym.store import RunFolder
    from agentgym.trainers.run.config import TrainConfig
    from agentgym.trainers.run.trainer import Training

    import_of(str(options["env"]))
    try:
        RunFolder(path).latest_checkpoint()
        training = Training.resume(path)
    except StoreError:
        training = Training.start(TrainConfig.checked(options), path)
    training.run()
