"""Everything that decides a training run, checked before anything starts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from agentgym.errors import UsageError, nearest
from agentgym.models.kinds import Precision, kind_of, newest_of
from agentgym.trainers.run.defaults import DEFAULTS


class Tiny(BaseModel):
    """Size of the model that is built on the spot; see :func:`agentgym.models.tiny.tiny`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layers: PositiveInt = 2
    hidden: PositiveInt = 128
    heads: PositiveInt = 4
    kv_heads: PositiveInt = 2
    vocabulary: Annotated[int, Field(ge=261)] = 2048  # the bytes and markers alone are 261
    max_context: PositiveInt = 2048
    numbered: bool = True

    @model_validator(mode="after")
    def _fit(self) -> Tiny:
        if self.hidden % (2 * self.heads) or self.heads % self.kv_heads:
            raise ValueError("hidden must be a multiple of 2·heads, and heads one of kv_heads")
        return self


class TrainConfig(BaseModel):
    """The options of ``agentgym train``; ``key=value`` on the command line sets them, ``run.yaml`` records them.

    What is drawn at random hangs off ``seed``; two runs with equal configurations give equal files on one machine,
    unless the environment waits for something outside the process and does not go in ``lockstep``.
    Options in :data:`~agentgym.models.kinds.DEFAULTS` have a default for each kind of model.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    env: str = Field(description="id of the environment")
    env_options: dict[str, Any] = Field(default={}, description="arguments of the environment: env.NAME=VALUE")
    recipe: str = Field(default="grpo", description="name of the algorithm; see `agentgym recipes`")
    parameters: dict[str, Any] = Field(default={}, description="parameters of the recipe")
    replaced: dict[str, str] = Field(default={}, description="slots replaced by name: --with slot=part")

    model: str = Field(default="tiny", description="a local folder, also a run's, a hub name, or 'tiny'")
    tiny: Tiny = Field(default=Tiny(), description="size of the tiny model: tiny.layers, tiny.hidden, tiny.heads ...")
    lora: PositiveInt | None = Field(
        default=None, description="train LoRA adapters of this rank instead of all weights"
    )
    device: str = Field(default="cpu", description="where the model runs")
    dtype: Precision = Field(
        default=DEFAULTS["dtype"].tiny,
        description="what the model computes in, in training and generation; what is learned and the optimiser's state "
        "are float32 in any case. auto: bfloat16 where the device computes it natively, else float32",
    )
    instructions: bool = Field(default=DEFAULTS["instructions"].tiny, description="show the environment's instructions")
    remind: bool = Field(default=False, description="repeat the task behind every observation; helps a tiny model")

    updates: int = Field(default=100, ge=0, description="policy updates")
    groups: PositiveInt = Field(default=16, description="tasks per update")
    group_size: PositiveInt = Field(default=8, description="episodes per task")
    max_turns: PositiveInt | None = Field(
        default=None, description="cut episodes here, in evaluations too, beside the environment's own limit"
    )
    max_new_tokens: PositiveInt = Field(
        default=DEFAULTS["max_new_tokens"].tiny, description="length limit of an action"
    )
    max_context: PositiveInt | None = Field(default=None, description="an episode whose context outgrows this is cut")
    budget: str | None = Field(
        default=None,
        description="limits of training episodes, one drawn for each task, as `agentgym eval --budget` reads them",
    )
    budget_announce: bool = Field(default=True, description="tell the policy what is left, after each observation")
    budget_exhausted: Literal["refuse", "truncate"] = Field(
        default="refuse", description="refuse calls beyond the budget, or truncate the episode"
    )
    slots: PositiveInt = Field(default=128, description="episodes running at the same time")
    step_seconds: PositiveFloat | None = Field(
        default=None, description="a step of the environment that takes longer than so many seconds fails its episode"
    )
    lockstep: bool | None = Field(
        default=None,
        description="where the environment waits: handle its steps in rounds and in a fixed order, so that a run is "
        "reproducible; default: where only a sandbox is waited for",
    )
    temperature: PositiveFloat = Field(default=1.0, description="of sampling, and of the log-probabilities")
    admissible: bool = Field(
        default=False,
        description="draw actions among the environment's admissible ones only, in training and evaluation",
    )

    optimizer: Literal["adamw", "muon"] = Field(default="adamw", description="of the policy updates")
    lr: PositiveFloat = Field(default=DEFAULTS["lr"].tiny, description="learning rate")
    lr_end: float = Field(
        default=1.0, ge=0, description="the learning rate falls linearly, to this share of itself at the last update"
    )
    weight_decay: float = Field(default=0.0, ge=0, description="of the policy updates")
    epochs: PositiveInt = Field(default=1, description="passes over an update's episodes")
    minibatches: PositiveInt = Field(default=1, description="optimiser steps per pass")
    max_tokens: PositiveInt = Field(default=8192, description="tree tokens per micro-batch; bounds memory")
    max_grad_norm: PositiveFloat = Field(default=1.0, description="a longer gradient is scaled down to this")

    warm_start: int = Field(default=0, ge=0, description="expert episodes to imitate first")
    warm_start_epochs: PositiveInt = Field(default=15, description="passes over them")
    warm_start_lr: PositiveFloat = Field(
        default=DEFAULTS["warm_start_lr"].tiny, description="highest learning rate of the warm start"
    )
    warm_start_optimizer: Literal["adamw", "muon"] = Field(
        default="adamw", description="of the warm start; muon learns more per token from random weights"
    )
    warm_start_decay: float = Field(default=0.01, ge=0, description="weight decay")
    warm_start_batch: PositiveInt = Field(default=16, description="episodes per optimiser step")
    warm_start_exchange: bool = Field(
        default=False,
        description="in every pass exchange the environment's interchangeable words: they can only be copied then",
    )
    warm_start_noise: float = Field(
        default=0.0, ge=0, lt=1, description="share of random actions in them; not imitated"
    )

    eval_every: int = Field(
        default=10, ge=0, description="updates between evaluations; 0: only at the start and the end"
    )
    eval_episodes: PositiveInt = Field(default=100, description="tasks of an evaluation, one episode each")
    eval_split: str = Field(default="test", description="where evaluations take their tasks from")
    eval_temperature: float = Field(default=1.0, ge=0, description="0 is greedy")
    stop_at: float | None = Field(
        default=None,
        description="stop once at least this share of the training episodes was solved in three updates running; those "
        "that failed by no fault of the agent count as not solved",
    )
    max_failed: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="stop with an error where more than this share of episodes failed by no fault of the agent",
    )

    seed: int = Field(default=0, description="of every random number")
    threads: PositiveInt | None = Field(default=None, description="CPU threads; default: torch's choice")
    checkpoint_every: PositiveInt = Field(default=10, description="updates between checkpoints")
    keep_checkpoints: PositiveInt = Field(default=2, description="older ones are deleted")

    @model_validator(mode="before")
    @classmethod
    def _by_model(cls, values: Any) -> Any:
        """A run is its newest checkpoint; what is left out, or null, gets the default for the kind of model."""
        if not isinstance(values, dict):
            return values
        if isinstance(values.get("model"), str):
            values = values | {"model": newest_of(values["model"])}
        kind = kind_of(str(values.get("model", "tiny")), lora=bool(values.get("lora")))
        return {n: by_model.of(kind) for n, by_model in DEFAULTS.items() if values.get(n) is None} | {
            n: value for n, value in values.items() if value is not None or n not in DEFAULTS
        }

    @field_validator("budget", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        """``budget=4`` comes as a number."""
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value

    def learning_rate(self, update: int) -> float:
        """Of update 1, 2, …: falls linearly from ``lr`` at the first to its share ``lr_end`` at the last."""
        return self.lr * (1 - (1 - self.lr_end) * (update - 1) / max(1, self.updates - 1))

    @classmethod
    def checked(cls, values: dict[str, Any]) -> TrainConfig:
        """Validate.

        Raises:
            UsageError: one line that names the option, the rule and the value.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            if first["type"] == "extra_forbidden":
                known = Tiny.model_fields if first["loc"][0] == "tiny" else cls.model_fields
                raise UsageError(f"unknown option {name!r}{nearest(str(first['loc'][-1]), known)}") from error
            raise UsageError(f"{name}: {first['msg'].lower()} (got {first['input']!r})") from error
