"""An algorithm: one value for each stage of the learning flow.

GRPO is the default everywhere, so a published method names only what it changes;
:func:`agentgym.trainers.parts.algorithm` registers one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from agentgym.errors import UsageError, nearest
from agentgym.records import Task
from agentgym.rollout import Branching
from agentgym.trainers.advantage.baselines import standardize
from agentgym.trainers.advantage.combine import chain
from agentgym.trainers.advantage.information_gain import AnswerProbe
from agentgym.trainers.advantage.returns import episode_return
from agentgym.trainers.advantage.turn_table import COLUMNS, TurnFunction
from agentgym.trainers.loss.aggregate import seq_mean_token_mean
from agentgym.trainers.loss.surrogate import surrogate
from agentgym.trainers.loss.tokens import TokenFunction, Tokens
from agentgym.trainers.parts import STAGES, Part
from agentgym.trainers.rewards.shaping import env_reward
from agentgym.trainers.sampling.branching import SAMPLED_ENTROPY, independent
from agentgym.trainers.sampling.selection import keep_all
from agentgym.trainers.sampling.tasks import uniform

#: What can be computed for any environment: columns of the turn table, tensors of the token table, sampled entropies.
COMPUTED = COLUMNS | {f.name for f in fields(Tokens)} | {SAMPLED_ENTROPY}


@dataclass(frozen=True)
class Algorithm:
    """One value for each stage of the learning flow; the defaults are GRPO.

    A stage that takes several parts also takes a single one.

    Attributes:
        sampler: which tasks are played.
        branching: how the episodes of a group come about; asked once per rollout.
        context: what the policy sees; None: the run's own choice (full history).
        selection: which groups of a rollout are learned from; says how often to roll out again for more.
        reward: rewards of turns as learning sees them, ``(turns, reward) -> reward``.
        advantage: reward -> advantage of each turn.
        critic: reward -> advantage by the critic, which learns the value plus this; None: there is no critic.
        turn_weight: factors >= 0 per turn, ``(turns, advantage) -> weight``; multiplied.
        token_weight: factors >= 0 per action token, ``(tokens) -> weight``; multiplied.
        loss_term: loss per token.
        penalty: further loss per token; added.
        aggregate: coefficients that make losses per token one number.
        critic_lr: learning rate of the critic's own weights; None: ten times that of the policy.
        sequence: what ratios and means over a sequence count as one: an episode or a turn.
        answer_probe: how the policy is asked for its belief in the answer, if a part reads ``answer_logprob``.

    Raises:
        UsageError: a part of another stage.
    """

    sampler: Part[..., list[Task]] = field(default_factory=uniform)
    branching: Part[[], Branching] = field(default_factory=independent)
    context: Part[..., list[int]] | None = None
    selection: Part[..., bool] = field(default_factory=keep_all)
    reward: TurnFunction = field(default_factory=env_reward)
    advantage: TurnFunction = field(default_factory=lambda: chain(episode_return(), standardize()))
    critic: TurnFunction | None = None
    turn_weight: tuple[TurnFunction, ...] = ()
    token_weight: tuple[TokenFunction, ...] = ()
    loss_term: TokenFunction = field(default_factory=surrogate)
    penalty: tuple[TokenFunction, ...] = ()
    aggregate: Callable[[Any, Any], Any] = field(default_factory=seq_mean_token_mean)
    critic_lr: float | None = None
    sequence: Literal["episode", "turn"] = "episode"
    answer_probe: AnswerProbe = field(default_factory=AnswerProbe)

    def __post_init__(self) -> None:
        for name, stage in stage_names().items():
            value = getattr(self, name)
            if STAGES[stage].several and not isinstance(value, tuple):
                value = (value,)
                object.__setattr__(self, name, value)
            for part in value if isinstance(value, tuple) else (value,):
                if part is not None or name not in ("context", "critic"):
                    STAGES[stage].require(part, f"the stage {name}")

    @property
    def needs(self) -> frozenset[str]:
        """Everything the parts read beyond the basics; only this is computed."""
        return frozenset().union(*(getattr(part, "needs", ()) for part in self._filled()))

    def check(self, columns: Iterable[str] = ()) -> None:
        """Refuse, before anything is played, what could not be computed or would not be learned.

        Args:
            columns: what the environment's ``info["columns"]`` has.

        Raises:
            UsageError: a part reads what neither episodes nor the update have, or a critic that nothing trains.
        """
        given = set(columns)
        if unmet := sorted(self.needs - COMPUTED - given):
            raise UsageError(
                f"a part reads {unmet[0]!r}, which is neither computed nor in info['columns'] of this environment's "
                f"first turns ({', '.join(sorted(given)) or 'none'}); give it there, or choose an algorithm that does "
                f"not read it{nearest(unmet[0], COMPUTED | given)}"
            )
        if self.needs & {"value", "bootstrap"} and (self.critic is None or "target" not in self.needs):
            raise UsageError(
                "a part reads the critic's value, but nothing trains a critic: start from the algorithm ppo, or give "
                "--with critic='gae()' and --with penalty='value_loss()' too"
            )

    @property
    def only_advantage_teaches(self) -> bool:
        """Whether the loss of an episode without advantage has no gradient, so that it need not be computed."""
        return not self.penalty and self.critic is None and getattr(self.loss_term, "linear", False)

    def state_dict(self) -> dict[str, Any]:
        """What its parts remember from update to update."""
        return {f"{number} {part!r}": dict(part.state or {}) for number, part in enumerate(self._remembering())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`.

        Raises:
            UsageError: it is of other parts.
        """
        if list(state) != list(self.state_dict()):
            raise UsageError(f"the checkpoint remembers {list(state)}, this algorithm {list(self.state_dict())}")
        for part, saved in zip(self._remembering(), state.values(), strict=True):
            assert part.state is not None
            part.state.clear()
            part.state.update(saved)

    def as_text(self) -> dict[str, str]:
        """Each stage and setting as text, for run.yaml."""
        return {f.name: _text(getattr(self, f.name)) for f in fields(self)}

    def _filled(self) -> Iterator[Any]:
        """Every part, not those inside others."""
        for name in stage_names():
            value = getattr(self, name)
            yield from value if isinstance(value, tuple) else (value,)

    def _remembering(self) -> list[Part[..., Any]]:
        """Parts with a state, each once, those inside others included."""
        found: list[Part[..., Any]] = []
        for part in self._filled():
            for inner in part.walk() if isinstance(part, Part) else ():
                if inner.state is not None and not any(inner is other for other in found):
                    found.append(inner)
        return found


def stage_names() -> dict[str, str]:
    """Field of an algorithm -> name of the stage whose parts fill it."""
    return {f.name: f.name for f in fields(Algorithm) if f.name in STAGES} | {"critic": "advantage"}


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_text, value)) + ")"
    return (
        getattr(value, "__qualname__", repr(value)) if callable(value) and not isinstance(value, Part) else repr(value)
    )
