"""Everything that decides a training run, in sections, checked before anything starts."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Iterator, Mapping
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
from pydantic.fields import FieldInfo

from agentgym.errors import UsageError
from agentgym.models.kinds import Precision, kind_of, newest_of
from agentgym.trainers.run.defaults import DEFAULTS

OptimizerName = Literal["adamw", "muon"]


class Section(BaseModel):
    """A group of options."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Tiny(Section):
    """Size of the model that is built on the spot; see :func:`agentgym.models.tiny.tiny`."""

    layers: PositiveInt = Field(default=2, description="transformer layers")
    hidden: PositiveInt = Field(default=128, description="width; a multiple of twice the heads")
    heads: PositiveInt = Field(default=4, description="attention heads")
    kv_heads: PositiveInt = Field(default=2, description="heads of keys and values; a divisor of the heads")
    vocabulary: Annotated[int, Field(ge=261)] = Field(
        default=2048, description="most tokens of its tokenizer; the bytes and markers alone are 261"
    )
    max_context: PositiveInt = Field(default=2048, description="longest context in tokens")
    numbered: bool = Field(default=True, description="let a noun and its number be one token: apple 1")

    @model_validator(mode="after")
    def _fit(self) -> Tiny:
        if self.hidden % (2 * self.heads) or self.heads % self.kv_heads:
            raise ValueError("hidden must be a multiple of 2·heads, and heads one of kv_heads")
        return self


class Model(Section):
    """Which model learns, and what it sees."""

    name: str = Field(default="tiny", description="a local folder, also a run's, a hub name, or 'tiny'")
    tiny: Tiny = Field(default=Tiny(), description="size of the tiny model")
    lora: PositiveInt | None = Field(
        default=None, description="train LoRA adapters of this rank instead of all weights"
    )
    device: str = Field(default="cpu", description="where the model runs")
    dtype: Precision = Field(
        default=DEFAULTS["model.dtype"].tiny,
        description="precision of computation, in training and generation; what is learned and the optimizer's state "
        "are float32 in any case. auto: bfloat16 where the device computes it natively, else float32",
    )
    max_context: PositiveInt | None = Field(default=None, description="an episode whose context outgrows this is cut")
    instructions: bool = Field(
        default=DEFAULTS["model.instructions"].tiny, description="show the environment's instructions"
    )
    repeat_task: bool = Field(default=False, description="repeat the task behind every observation; helps a tiny model")


class RolloutOptions(Section):
    """How episodes are played for training; evaluations take the same limits."""

    groups: PositiveInt = Field(default=16, description="tasks per update")
    group_size: PositiveInt = Field(default=8, description="episodes per task")
    max_turns: PositiveInt | None = Field(
        default=None, description="cut episodes here, in evaluations too, beside the environment's own limit"
    )
    max_new_tokens: PositiveInt = Field(
        default=DEFAULTS["rollout.max_new_tokens"].tiny, description="length limit of an action"
    )
    temperature: PositiveFloat = Field(default=1.0, description="of sampling, and of the log-probabilities")
    admissible: bool = Field(
        default=False,
        description="sample actions among the environment's admissible ones only, in training and evaluation",
    )
    max_concurrent_episodes: PositiveInt = Field(default=128, description="episodes running at the same time")
    step_seconds: PositiveFloat | None = Field(
        default=None, description="a step of the environment that takes longer than so many seconds fails its episode"
    )
    lockstep: bool | None = Field(
        default=None,
        description="where the environment waits: handle its steps in rounds and in a fixed order, so that a run is "
        "reproducible; default: where only a sandbox is waited for",
    )
    max_failed: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="stop with an error where more than this share of episodes failed by no fault of the agent",
    )


class BudgetOptions(Section):
    """What training episodes may use; evaluations have no budget."""

    limits: str | None = Field(
        default=None, description="one is drawn for each task, as `agentgym eval --budget` reads them"
    )
    announce: bool = Field(default=True, description="tell the policy what is left, after each observation")
    exhausted: Literal["refuse", "truncate"] = Field(
        default="refuse", description="refuse calls beyond the budget, or truncate the episode"
    )

    @field_validator("limits", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        """``budget.limits=4`` comes as a number."""
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


class OptimizerOptions(Section):
    """How the weights are moved in the policy updates."""

    name: OptimizerName = Field(default="adamw", description="adamw or muon")
    lr: PositiveFloat = Field(default=DEFAULTS["optimizer.lr"].tiny, description="learning rate")
    lr_final_fraction: float = Field(
        default=1.0, ge=0, description="final learning rate as a fraction of lr; it falls linearly over the updates"
    )
    weight_decay: float = Field(default=0.0, ge=0, description="decoupled weight decay")
    epochs: PositiveInt = Field(default=1, description="passes over an update's episodes")
    minibatches: PositiveInt = Field(default=1, description="optimizer steps per pass")
    max_tokens_per_microbatch: PositiveInt = Field(
        default=8192, description="tree tokens that go through the model at once; bounds memory"
    )
    max_grad_norm: PositiveFloat = Field(default=1.0, description="a longer gradient is scaled down to this")


class SFT(Section):
    """Supervised fine-tuning on expert episodes, before the first update."""

    episodes: int = Field(default=0, ge=0, description="expert episodes to imitate; 0: none")
    epochs: PositiveInt = Field(default=15, description="passes over them")
    batch_size: PositiveInt = Field(default=16, description="episodes per optimizer step")
    optimizer: OptimizerName = Field(
        default="adamw", description="adamw or muon; muon learns more per token from random weights"
    )
    lr: PositiveFloat = Field(default=DEFAULTS["sft.lr"].tiny, description="highest learning rate")
    weight_decay: float = Field(default=0.01, ge=0, description="decoupled weight decay")
    permute_names: bool = Field(
        default=False,
        description="permute the environment's interchangeable names in every pass: they can only be copied then",
    )
    expert_noise: float = Field(default=0.0, ge=0, lt=1, description="share of random actions; not imitated")


class Eval(Section):
    """Evaluations during training."""

    every: int = Field(default=10, ge=0, description="updates between evaluations; 0: only at the start and the end")
    episodes: PositiveInt = Field(default=100, description="tasks of an evaluation, one episode each")
    split: str = Field(default="test", description="where evaluations take their tasks from")
    temperature: float = Field(default=1.0, ge=0, description="0 is greedy")


class Run(Section):
    """The run itself."""

    updates: int = Field(default=100, ge=0, description="policy updates")
    stop_at: float | None = Field(
        default=None,
        description="stop once at least this share of the training episodes was solved in three updates in a row; "
        "episodes that failed by no fault of the agent count as not solved",
    )
    seed: int = Field(default=0, description="of every random number")
    threads: PositiveInt | None = Field(default=None, description="CPU threads; default: torch's choice")
    checkpoint_every: PositiveInt = Field(default=10, description="updates between checkpoints")
    keep_checkpoints: PositiveInt = Field(default=2, description="older ones are deleted")


class TrainConfig(Section):
    """The options of ``agentgym train``: ``section.option=value`` on the command line, sections in ``run.yaml``.

    Every random number is derived from ``run.seed``. Two runs with equal configurations give equal files on one
    machine, unless the environment waits for something outside the process and does not go in ``lockstep``.
    Options in :data:`~agentgym.trainers.run.defaults.DEFAULTS` have a default for each kind of model.
    """

    env: str = Field(description="id of the environment")
    env_options: dict[str, Any] = Field(default={}, description="arguments of the environment: env.NAME=VALUE")
    algorithm: str = Field(default="grpo", description="see `agentgym algorithms`")
    parameters: dict[str, Any] = Field(default={}, description="parameters of the algorithm: algorithm.NAME=VALUE")
    overrides: dict[str, str] = Field(default={}, description="stages filled by name: --with stage=part")
    model: Model = Model()
    rollout: RolloutOptions = RolloutOptions()
    budget: BudgetOptions = BudgetOptions()
    optimizer: OptimizerOptions = OptimizerOptions()
    sft: SFT = SFT()
    eval: Eval = Eval()
    run: Run = Run()

    @model_validator(mode="before")
    @classmethod
    def _by_model(cls, values: Any) -> Any:
        """A run is its newest checkpoint; what is left out, or null, gets the default for the kind of model."""
        if not isinstance(values, dict):
            return values
        values = nested(values)
        model = values.get("model", {})
        if not isinstance(model, dict):
            return values
        if isinstance(model.get("name"), str):
            model = values["model"] = model | {"name": newest_of(model["name"])}
        kind = kind_of(str(model.get("name", "tiny")), lora=bool(model.get("lora")))
        for path, by_model in DEFAULTS.items():
            section, _, option = path.partition(".")
            content = values.get(section, {})
            if isinstance(content, dict) and content.get(option) is None:
                values[section] = content | {option: by_model.of(kind)}
        return values

    def learning_rate(self, update: int) -> float:
        """Of update 1, 2, …: falls linearly from ``lr`` at the first to its final fraction at the last."""
        options = self.optimizer
        return options.lr * (1 - (1 - options.lr_final_fraction) * (update - 1) / max(1, self.run.updates - 1))

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Validate.

        Args:
            values: sections as mappings, or options as ``section.option``.

        Raises:
            UsageError: one line that names the option, the rule and the value.
        """
        try:
            return cls.model_validate(nested(values))
        except ValidationError as error:
            first = error.errors()[0]
            path = [str(place) for place in first["loc"]]
            if first["type"] == "extra_forbidden":
                raise UsageError(unknown_option(".".join(path))) from error
            raise UsageError(f"{'.'.join(path)}: {first['msg'].lower()} (got {first['input']!r})") from error


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Options written as ``section.option`` put into their sections, beside those that are there; later ones win.

    Raises:
        UsageError: a former name, or a value where a section is.
    """
    out: dict[str, Any] = {}
    for path, value in _single(values):
        if path in FORMER:
            raise UsageError(unknown_option(path))
        if path in _sections():
            first, _ = next(options(_sections()[path], f"{path}."))
            raise UsageError(f"{path}={value!r}: {path} is a section; write its options, e.g. {first}=VALUE")
        *sections, option = path.split(".")
        place = out
        for section in sections:
            if place.get(section) is None:
                place[section] = {}
            if not isinstance(place[section], dict):
                raise UsageError(f"{path} cannot be set: {section} is {place[section]!r}")
            place = place[section]
        before = place.get(option)
        if isinstance(value, Mapping):
            value = {**before, **value} if isinstance(before, Mapping) else dict(value)
        place[option] = value
    return out


def _single(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Every option by its path, and its value; a section that is null has none."""
    for name, value in values.items():
        path = f"{above}{name}"
        content = value.model_dump(exclude_unset=True) if isinstance(value, Section) else value
        if path in _sections() and (content is None or isinstance(content, Mapping)):
            yield from _single(content or {}, f"{path}.")
        else:
            yield path, content


@functools.cache
def _sections() -> dict[str, type[Section]]:
    """Every section by its path."""
    found: dict[str, type[Section]] = {}
    todo: list[tuple[str, type[Section]]] = [("", TrainConfig)]
    for above, section in todo:
        for name, info in section.model_fields.items():
            if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
                found[above + name] = info.annotation
                todo.append((f"{above}{name}.", info.annotation))
    return found


def options(section: type[Section] = TrainConfig, above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every option by its path, e.g. ``optimizer.lr``, and what is known about it."""
    for name, info in section.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            yield from options(info.annotation, f"{above}{name}.")
        else:
            yield above + name, info


def unknown_option(path: str) -> str:
    """Why there is no such option, with what it is called now, or the nearest name."""
    if path in FORMER:
        return f"{path!r} is now {FORMER[path]!r}; write {FORMER[path]}=VALUE"
    return f"unknown option {path!r}{nearest_option(path)}"


def nearest_option(path: str, also: Iterable[str] = ()) -> str:
    """The end of an error message: options whose path, or whose name in its section, is like what was written.

    Args:
        path: what was written.
        also: further names that would be accepted here.
    """
    paths = [*_sections(), *(name for name, _ in options())]
    section, _, last = path.rpartition(".")
    beside = {known.rpartition(".")[2]: [known] for known in paths if known.rpartition(".")[0] == section}
    anywhere: dict[str, list[str]] = {name: [name] for name in also}
    for name, known in (*((known.rpartition(".")[2], known) for known in paths), *FORMER.items()):
        anywhere.setdefault(name, []).append(known)
    whole = {known: [known] for known in paths}
    for names, word in ((beside, last), (anywhere, last), (whole, path)):
        close = [word] if word in names else difflib.get_close_matches(word, names, cutoff=0.65)
        if found := list(dict.fromkeys(known for name in close for known in names[name])):
            return f"; did you mean {' or '.join(map(repr, found[:3]))}?"
    return "; see: agentgym train --help"


#: What options were called before they were in sections.
FORMER = {
    "recipe": "algorithm",
    "replaced": "overrides",
    "model": "model.name",
    "optimizer": "optimizer.name",
    "budget": "budget.limits",
    **{name: f"model.{name}" for name in ("lora", "device", "dtype", "instructions", "max_context", "tiny")},
    "remind": "model.repeat_task",
    **{
        name: f"rollout.{name}"
        for name in ("groups", "group_size", "max_turns", "max_new_tokens", "temperature", "admissible")
    },
    **{name: f"rollout.{name}" for name in ("step_seconds", "lockstep", "max_failed")},
    "slots": "rollout.max_concurrent_episodes",
    "budget_announce": "budget.announce",
    "budget_exhausted": "budget.exhausted",
    **{name: f"optimizer.{name}" for name in ("lr", "weight_decay", "epochs", "minibatches", "max_grad_norm")},
    "lr_end": "optimizer.lr_final_fraction",
    "max_tokens": "optimizer.max_tokens_per_microbatch",
    "warm_start": "sft.episodes",
    "warm_start_epochs": "sft.epochs",
    "warm_start_lr": "sft.lr",
    "warm_start_optimizer": "sft.optimizer",
    "warm_start_decay": "sft.weight_decay",
    "warm_start_batch": "sft.batch_size",
    "warm_start_exchange": "sft.permute_names",
    "warm_start_noise": "sft.expert_noise",
    **{f"eval_{name}": f"eval.{name}" for name in ("every", "episodes", "split", "temperature")},
    **{
        name: f"run.{name}"
        for name in ("updates", "stop_at", "seed", "threads", "checkpoint_every", "keep_checkpoints")
    },
    **{f"tiny.{name}": f"model.tiny.{name}" for name in Tiny.model_fields},
}
