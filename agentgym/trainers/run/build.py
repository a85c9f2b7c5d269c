"""From a configuration to what learns: algorithm, model, policy, learner."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from agentgym.contract import Probe
from agentgym.models.attention import longest_context
from agentgym.models.contexts import Context, full_history
from agentgym.models.loading import load, load_to_learn
from agentgym.models.local_policy import ModelPolicy
from agentgym.models.lora import with_lora
from agentgym.models.precision import chosen, compute_in
from agentgym.models.tiny import tiny
from agentgym.records import Episode
from agentgym.registry import import_of
from agentgym.store import RunFolder
from agentgym.trainers.algorithm import COMPUTED, Algorithm
from agentgym.trainers.expressions import with_part
from agentgym.trainers.parts import get_algorithm
from agentgym.trainers.run.config import TrainConfig
from agentgym.trainers.run.trust import NOTHING, Allowed, trusted_options
from agentgym.trainers.sampling.branching import SAMPLED_ENTROPY
from agentgym.trainers.update.answer_probe import AnswerProbes
from agentgym.trainers.update.learner import Learner, OptimizerConfig


def build_algorithm(config: TrainConfig) -> Algorithm:
    """The algorithm with its parameters and overrides; the environment's module, which may define it, comes first."""
    import_of(config.env)
    algorithm = get_algorithm(config.algorithm)(**config.parameters)
    for stage, part in config.overrides.items():
        algorithm = with_part(algorithm, stage, part)
    return algorithm


def precision(config: TrainConfig) -> Literal["bfloat16", "float32"]:
    """What the model computes in."""
    return chosen(config.model.dtype, config.model.device)


def build_model(config: TrainConfig, texts: Iterable[Episode]) -> tuple[Any, Any]:
    """The model to be trained, and its tokenizer.

    Args:
        texts: episodes on whose text the tokenizer of a ``tiny`` model is trained.
    """
    model_options = config.model
    if model_options.name != "tiny":
        adapted = model_options.lora is not None
        model, tokenizer = load_to_learn(model_options.name, precision(config), model_options.device, lora=adapted)
    else:
        lines = [text for e in texts for t in e.turns for text in (t.observation, t.action)]
        model, tokenizer = tiny(lines, seed=config.run.seed, **model_options.tiny.model_dump())
        model.to(model_options.device)
    model = with_lora(model, model_options.lora, seed=config.run.seed) if model_options.lora else model
    compute_in(model, precision(config))
    return model, tokenizer


def build_context(config: TrainConfig, algorithm: Algorithm) -> Context:
    """What the policy sees: the algorithm's own context, or else the full history."""
    seen = config.model
    return algorithm.context or full_history(instructions=seen.instructions, repeat_task=seen.repeat_task)


def build_policy(config: TrainConfig, algorithm: Algorithm, model: Any, tokenizer: Any) -> ModelPolicy:
    """A policy that plays with the model as training does."""
    return ModelPolicy(
        model,
        tokenizer,
        context=build_context(config, algorithm),
        temperature=config.rollout.temperature,
        max_new_tokens=config.rollout.max_new_tokens,
        max_context=config.model.max_context,
        entropies=bool(algorithm.needs & {"entropy", SAMPLED_ENTROPY}),
        admissible=config.rollout.admissible,
    )


def policy_from_run(path: str | Path, update: int | None = None, *, allowed: Allowed = NOTHING) -> ModelPolicy:
    """A checkpoint of a run as a policy that sees what it was trained to see; its ``version`` is the update.

    Args:
        path: the run folder.
        update: of the checkpoint; None: the latest.
        allowed: what its ``run.yaml`` may do beside being read.

    Raises:
        UsageError: the folder holds something else than a training run, or would import code that is not allowed.
        StoreError: it has no checkpoint, or a damaged one.
    """
    folder = RunFolder(path)
    config = trusted_options(folder, allowed, plays=False)
    if update is None:
        update, checkpoint = folder.latest_checkpoint()
    else:
        checkpoint = folder.saved.whole(update)
    policy = ModelPolicy(
        *load(str(checkpoint), dtype=precision(config), device=config.model.device),
        context=build_context(config, build_algorithm(config)),
        temperature=config.eval.temperature,
        max_new_tokens=config.rollout.max_new_tokens,
        max_context=config.model.max_context,
        admissible=config.rollout.admissible,
    )
    policy.version = update
    return policy


def build_learner(config: TrainConfig, algorithm: Algorithm, policy: ModelPolicy, found: Probe) -> Learner:
    """What updates the policy's model."""
    options = config.optimizer
    optimizer = OptimizerConfig(
        optimizer=options.name,
        lr=options.lr,
        weight_decay=options.weight_decay,
        epochs=options.epochs,
        minibatches=options.minibatches,
        max_tokens=options.max_tokens_per_microbatch,
        max_grad_norm=options.max_grad_norm,
        temperature=config.rollout.temperature,
    )
    probes = AnswerProbes(
        policy.chat,
        policy.context,
        algorithm.answer_probe,
        markup=found.answer_markup,
        instructions=found.instructions,
        limit=longest_context(policy.model),
    )
    return Learner(policy.model, algorithm, optimizer, probes, columns=algorithm.needs - COMPUTED)
