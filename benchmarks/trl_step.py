"""One GRPO step of single-turn episodes: agentgym against TRL's GRPOTrainer, on the same work in the same run.

    python benchmarks/trl_step.py --json trl_step.json
    python benchmarks/trl_step.py --profile        where our step spends its time

8 prompts x 8 samples, 64 tokens of prompt and 64 of completion each; the end token is forbidden, so lengths are fixed.
The model is a Qwen2 of 4 layers, hidden size 256, vocabulary 2048 (4.46 M parameters), float32, one thread; AdamW, one
epoch, no reference model. A step is: generate, reward, advantage, one update. The sides take turns: after each step of
the trainer comes one of ours.
"""

from __future__ import annotations

import copy
import cProfile
import os
import pstats
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from measure import options, small_model, table, write
from transformers import PreTrainedTokenizerFast, TrainerCallback

from agentgym.env import TextEnv
from agentgym.models.local_policy import ModelPolicy
from agentgym.models.tiny import SPECIAL, TEMPLATE
from agentgym.records import Task
from agentgym.rollout import Group, Rollout
from agentgym.trainers.parts import get_algorithm
from agentgym.trainers.update.learner import Learner, OptimizerConfig

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
VOCABULARY, PROMPTS, SAMPLES, PROMPT, COMPLETION = 2048, 8, 8, 64, 64
WORDS = [f"w{n}" for n in range(VOCABULARY - len(SPECIAL))]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate([*SPECIAL, *WORDS])}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=SPECIAL[2:],
    )
    fast.chat_template = TEMPLATE
    return fast


def prompt(seed: int) -> str:
    """62 words; with the marks of user and assistant 64 tokens."""
    return " ".join(np.random.default_rng(seed).choice(WORDS, PROMPT - 2))


def paid(text: str) -> float:
    """The share of words that end in an even digit."""
    words = text.split()
    return sum(word[-1] in "02468" for word in words) / max(1, len(words))


class OneTurn(TextEnv):
    """Write anything."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        return prompt(seed or 0), {"task_id": str(seed), "anchor": str(seed)}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "", paid(action), True, False, {"task_id": "", "anchor": "", "success": True}


class Ours:
    """A step of ours: rollout and update."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.policy = ModelPolicy(model, tokenizer, max_new_tokens=COMPLETION)
        self.policy.engine.stop = -1  # no token ends an action
        self.rollout = Rollout(OneTurn, self.policy, max_concurrent_episodes=PROMPTS * SAMPLES)
        self.learner = Learner(model, get_algorithm("grpo")(), OptimizerConfig(lr=1e-4))
        self.steps = 0
        self.seconds: dict[str, list[float]] = {"rollout": [], "update": []}

    def __call__(self) -> None:
        """One step."""
        began = time.process_time()
        first = self.steps * PROMPTS
        groups = [Group(f"g{n}", Task(n), SAMPLES) for n in range(first, first + PROMPTS)]
        episodes = list(self.rollout.play(groups))
        played = time.process_time()
        done = self.learner.update(episodes)
        self.policy.updated()
        self.steps += 1
        self.seconds["rollout"].append(played - began)
        self.seconds["update"].append(time.process_time() - played)
        assert done.metrics["action_tokens"] == PROMPTS * SAMPLES * COMPLETION
        assert done.metrics["tree_tokens"] <= PROMPTS * (PROMPT + SAMPLES * COMPLETION)


class Turns(TrainerCallback):
    """Times each step of the trainer, and makes one of ours after it."""

    def __init__(self, ours: Callable[[], None]) -> None:
        self.ours, self.began = ours, 0.0
        self.seconds: dict[str, list[float]] = {"agentgym": [], "TRL GRPOTrainer": []}

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        middle = time.process_time()
        self.ours()
        self.seconds["TRL GRPOTrainer"].append(middle - self.began)
        self.seconds["agentgym"].append(time.process_time() - middle)


def trainer(model: Any, tokenizer: Any, turns: Turns, steps: int, folder: str) -> Any:
    """TRL's, set up for the same work."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    def reward(completions: list[list[dict[str, str]]], completion_ids: list[list[int]], **_: Any) -> list[float]:
        assert all(len(ids) == COMPLETION for ids in completion_ids)
        return [paid(completion[0]["content"]) for completion in completions]

    config = GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=PROMPTS * SAMPLES,
        num_generations=SAMPLES,
        max_completion_length=COMPLETION,
        generation_kwargs={"suppress_tokens": [tokenizer.eos_token_id]},
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        beta=0.0,
        temperature=1.0,
        top_k=0,
        max_steps=steps,
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    rows = [{"prompt": [{"role": "user", "content": prompt(n)}]} for n in range(PROMPTS * steps)]
    return GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[turns],
    )


def main() -> None:
    """Compare, or profile."""
    parser = options(__doc__, rounds=5)
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer, model = make_tokenizer(), small_model(VOCABULARY, max_position_embeddings=256)
    ours = Ours(copy.deepcopy(model), tokenizer)
    if given.profile:
        ours()
        with cProfile.Profile() as profile:
            ours()
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
        return
    turns = Turns(ours)
    with tempfile.TemporaryDirectory() as folder:
        trainer(model, tokenizer, turns, given.rounds + 1, folder).train()
    seconds = {name: values[1:] for name, values in turns.seconds.items()}
    figures: dict[str, Any] = {"sides": table("one GRPO step, 8 x 8 samples of 64 + 64 tokens", seconds)}
    phases = {name: values[1:] for name, values in ours.seconds.items()}
    figures["ours"] = table("ours, by phase", phases)
    write(given.json, figures)


if __name__ == "__main__":
    main()
