"""The warm start: learn to write what an expert wrote."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from agentgym import draws
from agentgym.records import Episode
from agentgym.trainers.aggregate import token_mean
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.config import TrainConfig
from agentgym.trainers.credit import total
from agentgym.trainers.demonstrations import exchanged, tokenised
from agentgym.trainers.learner import Learner, Optimisation
from agentgym.trainers.model import ModelPolicy
from agentgym.trainers.rewards import paid
from agentgym.trainers.surrogate import one, surrogate, unclipped
from agentgym.trainers.weights import drop_zero


def likelihood() -> Algorithm:
    """Maximum likelihood as an algorithm: a turn's reward, 1 or 0, says whether it is imitated."""
    return Algorithm(
        credit=total(paid()),
        weights=(drop_zero(),),
        surrogate=surrogate(ratio=one(), shape=unclipped()),
        aggregate=token_mean,
    )


def imitate(
    model: Any,
    policy: ModelPolicy,
    episodes: Sequence[Episode],
    *,
    config: TrainConfig,
    instructions: str = "",
    noise: Collection[tuple[str, int]] = (),
    exchange: Sequence[Sequence[str]] = (),
) -> Iterator[dict[str, float]]:
    """Train the model on the episodes' actions; yields figures after each pass, and every 50 steps.

    The learning rate rises over the first 20 steps and falls to zero. In each pass every episode has the words of each
    set of ``exchange`` exchanged anew.
    """
    how = Optimisation(
        optimizer=config.warm_start_optimizer,
        lr=config.warm_start_lr,
        weight_decay=config.warm_start_decay,
        betas=(0.9, 0.98),
        max_tokens=config.max_tokens,
        warmup=20,
    )
    learner = Learner(model, likelihood(), how)
    data = [e for e in episodes if e.turns]
    chat, context = policy.chat, policy.context
    size = config.warm_start_batch
    epochs = config.warm_start_epochs
    steps = epochs * -(-len(data) // size)
    step = 0
    for epoch in range(epochs):
        order = np.argsort([draws.key(config.seed, "warm start", epoch, i) for i in range(len(data))])
        loss = []
        for start in range(0, len(data), size):
            lr = config.warm_start_lr * (1 - step / steps)
            batch = [
                exchanged(data[i], exchange, draws.key(config.seed, "exchange", epoch, int(i)))
                for i in order[start : start + size]
            ]
            shown = [tokenised(e, chat, context, instructions=instructions, noise=noise) for e in batch]
            done = learner.update(shown, lr=lr)
            loss.append(done.metrics["nll"])
            step += 1
            if step % 50 == 0:
                yield {"step": step, "steps": steps, "loss": float(np.mean(loss[-50:]))}
        policy.engine.forget()
        yield {"epoch": epoch + 1, "loss": float(np.mean(loss)), "episodes": len(data)}
