"""The warm start: learn to write what an expert wrote."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
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
from agentgym.trainers.run.config import TrainConfig
from agentgym.trainers.sft.demonstrations import exchanged, tokenised
from agentgym.trainers.update.learner import Learner, OptimizerConfig


def likelihood() -> Algorithm:
    """Maximum likelihood as an algorithm: a turn's reward, 1 or 0, says whether it is imitated."""
    return Algorithm(
        advantage=discounted_return(0.0),
        turn_weight=(drop_zero(),),
        loss_term=surrogate(ratio=reinforce_ratio(), shape=unclipped()),
        aggregate=token_mean(),
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
    how = OptimizerConfig(
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
        order = np.argsort([keyed_random.key(config.seed, "warm start", epoch, i) for i in range(len(data))])
        loss = []
        for start in range(0, len(data), size):
            lr = config.warm_start_lr * (1 - step / steps)
            batch = [
                exchanged(data[i], exchange, keyed_random.key(config.seed, "exchange", epoch, int(i)))
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
