"""What a run needs from its environment and its model, checked before its folder exists."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

import gymnasium as gym

from agentgym.contract import Probe, columns_of
from agentgym.env import close_quietly
from agentgym.errors import UsageError
from agentgym.models.loading import check_model
from agentgym.models.lora import check_lora
from agentgym.policy import ExpertPolicy, check_playable
from agentgym.registry import make, takes_split
from agentgym.trainers.algorithm import COMPUTED, Algorithm
from agentgym.trainers.run.budgets import TrainingBudgets
from agentgym.trainers.run.config import TrainConfig

_BELIEFS = {"answer_logprob", "answer_logprob_before"}


def environment(config: TrainConfig, split: str) -> Callable[[], gym.Env[str, str]]:
    """Makes environments of a split."""
    options = dict(config.env_options)
    if takes_split(config.env, **options):
        options["split"] = split
    return functools.partial(make, config.env, **options)


def check_run(config: TrainConfig, algorithm: Algorithm, found: Probe) -> None:
    """Refuse what could not be played, learned, or computed.

    Args:
        found: about the training environment.

    Raises:
        UsageError: one line that says what is missing, and what to do.
        MissingExtra: a package that the run needs.
    """
    if found.failure is not None:
        raise UsageError(
            f"no task of {found.env_id} can be begun, its reset fails: {found.failure}; "
            f"mend it, see: agentgym check {config.env}"
        )
    unknown = algorithm.needs - COMPUTED
    algorithm.check(columns_of(environment(config, "train")) if unknown else ())
    check_model(config.model.name, config.model.device)
    check_lora(config.model.lora, config.model.name)
    close_quietly(environment(config, config.eval.split)())
    check_answers(found, algorithm.needs)
    TrainingBudgets(config, environment(config, "train"))
    if config.sft.episodes:
        check_playable(
            ExpertPolicy(config.sft.expert_noise), environment(config, "train")(), config.rollout.step_seconds
        )
    if config.sft.permute_names and not found.permutable_names:
        raise UsageError(f"sft.permute_names: {config.env} has no permutable_names; leave it out")
    if config.rollout.admissible and not found.info.get("admissible"):
        raise UsageError(f"rollout.admissible: {config.env} gives no info['admissible']; leave it out")


def check_answers(found: Probe, needs: Iterable[str]) -> None:
    """Look for the accepted answers, if parts read beliefs in them. Single tasks may still lack them.

    Raises:
        UsageError: there are none.
    """
    if _BELIEFS & set(needs) and not found.info.get("answers"):
        raise UsageError(
            "the algorithm reads the policy's belief in the accepted answer, but this environment's reset gives no "
            "info['answers']; add it there, or choose an algorithm that reads rewards only, e.g. grpo"
        )
