"""Supervised fine-tuning: learn to write what an expert wrote."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agentgym import keyed_random
from agentgym.models.local_policy import ModelPolicy
from agentgym.records import Episode
from agentgym.trainers.advantage.returns import discounted_return
from agentgym.trainers.advantage.turn_weights import drop_zero
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.loss.aggregate import token_mean
from agentgym.trainers.loss.surrogate import reinforce_ratio, surrogate, unclipped
from agentgym.trainers.sft.demonstrations import tokenised, with_permuted_names
from agentgym.trainers.update.learner import Learner, OptimizerConfig
from agentgym.trainers.update.optimizer import Name


def likelihood() -> Algorithm:
    """Maximum likelihood as an algorithm: a turn's reward, 1 or 0, says whether it is imitated."""
    return Algorithm(
        advantage=discounted_return(0.0),
        turn_weight=(drop_zero(),),
        loss_term=surrogate(ratio=reinforce_ratio(), shape=unclipped()),
        aggregate=token_mean(),
    )


@dataclass(frozen=True)
class ImitationConfig:
    """How demonstrations are learned.

    Attributes:
        optimizer: ``adamw`` or ``muon``.
        lr: highest learning rate, reached after 20 steps; it falls to zero.
        weight_decay: decoupled weight decay.
        epochs: passes over the episodes.
        batch_size: episodes per optimizer step.
        max_tokens_per_microbatch: tree tokens that go through the model at once.
        seed: of the order of episodes, and of permutations.
    """

    optimizer: Name = "adamw"
    lr: float = 2e-3
    weight_decay: float = 0.01
    epochs: int = 15
    batch_size: int = 16
    max_tokens_per_microbatch: int = 8192
    seed: int = 0


def imitate(
    model: Any,
    policy: ModelPolicy,
    episodes: Sequence[Episode],
    config: ImitationConfig,
    *,
    instructions: str = "",
    noise: Collection[tuple[str, int]] = (),
    permutable_names: Sequence[Sequence[str]] = (),
) -> Iterator[dict[str, float]]:
    """Train the model on the episodes' actions; yields metrics after each pass, and every 50 steps.

    In each pass every episode has the names of each set of ``permutable_names`` permuted anew.
    """
    optimizer = OptimizerConfig(
        optimizer=config.optimizer,
        lr=config.lr,
        weight_decay=config.weight_decay,
        betas=(0.9, 0.98),
        max_tokens=config.max_tokens_per_microbatch,
        warmup=20,
    )
    learner = Learner(model, likelihood(), optimizer)
    data = [e for e in episodes if e.turns]
    chat, context = policy.chat, policy.context
    size = config.batch_size
    steps = config.epochs * -(-len(data) // size)
    step = 0
    for epoch in range(config.epochs):
        order = np.argsort([keyed_random.key(config.seed, "warm start", epoch, i) for i in range(len(data))])
        loss = []
        for start in range(0, len(data), size):
            lr = config.lr * (1 - step / steps)
            batch = [
                with_permuted_names(data[i], permutable_names, keyed_random.key(config.seed, "exchange", epoch, int(i)))
                for i in order[start : start + size]
            ]
            rows = [tokenised(e, chat, context, instructions=instructions, noise=noise) for e in batch]
            update = learner.update(rows, lr=lr)
            loss.append(update.metrics["nll"])
            step += 1
            if step % 50 == 0:
                yield {"step": step, "steps": steps, "loss": float(np.mean(loss[-50:]))}
        policy.engine.forget()
        yield {"epoch": epoch + 1, "loss": float(np.mean(loss)), "episodes": len(data)}
