"""An algorithm is one value per stage; a recipe is a named function that returns one.

``@recipe`` registers a function: its signature and docstring are its command-line options and its page. GRPO is the
default in every slot, so a recipe names only what its paper changes.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from importlib import import_module
from typing import Any, Literal, TypeVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from agentgym.errors import UnknownName, UsageError, nearest
from agentgym.registry import import_named
from agentgym.rollout import Branching
from agentgym.trainers.aggregate import seq_mean_token_mean
from agentgym.trainers.beliefs import Belief
from agentgym.trainers.branching import independent
from agentgym.trainers.contexts import Context
from agentgym.trainers.credit import chain, outcome, standardize
from agentgym.trainers.rewards import paid
from agentgym.trainers.sampling import Selection, TaskSampling, everything, uniform
from agentgym.trainers.surrogate import Surrogate, surrogate
from agentgym.trainers.turns import Part

Aggregate = Callable[[Any, Any], Any]

#: Everything beyond the basics that a part may read: columns of episodes, and what the learner computes where needed.
GIVEN = frozenset(
    {"valid", "tokens", "tool_calls", "refused_calls", "malformed_calls", "tools", "truncated", "terminated"}
    | {"parent", "fork_turn", "anchor", "observation", "success", "sampled_entropy"}
    | {"entropy", "reference", "kl", "value", "old_value", "target", "bootstrap"}
    | {"task", "evidence_recall", "evidence_cited", "answer_logprob", "answer_logprob_before"}
)


@dataclass(frozen=True)
class Algorithm:
    """One value for each stage of the learning flow; the defaults are GRPO.

    Attributes:
        sampling: which tasks.
        select: which groups of a rollout are learned from; says how often to roll out again for more.
        branching: makes the rule of how the episodes of a group come about; called once per rollout.
        context: what the policy sees; None: the run's own choice (full history).
        reward: rewards of turns as learning sees them, ``(turns, reward) -> reward``.
        credit: reward -> advantage of each turn.
        critic: reward -> advantage by the critic, which learns the value plus this; None: there is no critic.
        critic_lr: learning rate of the critic's own weights; None: ten times that of the policy.
        weights: factors >= 0 per action token, ``(turns, tokens) -> weight``; multiplied.
        surrogate: loss per token.
        penalties: further loss per token.
        aggregate: coefficients that make losses per token one number.
        sequence: what ratios and means over a sequence count as one: an episode or a turn.
        belief: how the policy is asked what it believes, if a part reads ``answer_logprob``.
    """

    sampling: TaskSampling = field(default_factory=uniform)
    select: Selection = field(default_factory=everything)
    branching: Callable[[], Branching] = field(default_factory=independent)
    context: Context | None = None
    reward: Part = field(default_factory=paid)
    credit: Part = field(default_factory=lambda: chain(outcome(), standardize()))
    critic: Part | None = None
    critic_lr: float | None = None
    weights: tuple[Any, ...] = ()
    surrogate: Any = field(default_factory=surrogate)
    penalties: tuple[Any, ...] = ()
    aggregate: Aggregate = seq_mean_token_mean
    sequence: Literal["episode", "turn"] = "episode"
    belief: Belief = field(default_factory=Belief)

    @property
    def needs(self) -> frozenset[str]:
        """Everything the parts read beyond the basics; only this is computed."""
        parts = (self.branching, self.reward, self.credit, self.critic, self.surrogate, *self.weights, *self.penalties)
        return frozenset().union(*(getattr(part, "needs", frozenset()) for part in parts))

    @property
    def only_credit_teaches(self) -> bool:
        """Whether the loss of an episode without credit has no gradient, so that it need not be computed."""
        return not self.penalties and self.critic is None and isinstance(self.surrogate, Surrogate)

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

    def _remembering(self) -> list[Part]:
        """Parts with a state, each once, those inside others included."""
        found: list[Part] = []
        ahead: list[Any] = [self.reward, self.credit, self.critic, *self.weights]
        while ahead:
            part = ahead.pop(0)
            if getattr(part, "state", None) is not None and not any(part is other for other in found):
                found.append(part)
            ahead.extend(getattr(part, "parts", ()))
        return found

    def check(self) -> None:
        """Refuse, before anything is played, what could not be computed or would not be learned.

        Raises:
            UsageError: a part reads what neither episodes nor the learner have, or a critic that nothing trains.
        """
        unmet = sorted(self.needs - GIVEN)
        if unmet:
            raise UsageError(
                f"a part reads {unmet[0]!r}, which training does not compute; it has {', '.join(sorted(GIVEN))}"
            )
        if self.needs & {"value", "bootstrap"} and (self.critic is None or "target" not in self.needs):
            raise UsageError(
                "a part reads the critic's value, but nothing trains a critic: start from the recipe ppo, or give "
                "--with critic='gae()' and --with penalties='value_loss()' too"
            )


@dataclass(frozen=True)
class Recipe:
    """A registered function that makes an :class:`Algorithm`."""

    name: str
    build: Callable[..., Algorithm]

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return self.docstring.splitlines()[0]

    @property
    def docstring(self) -> str:
        """The page: idea, formula, paper, parameters."""
        return inspect.getdoc(self.build) or ""

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """What can be set."""
        return inspect.signature(self.build).parameters

    def __call__(self, **given: Any) -> Algorithm:
        """Build it with checked parameters.

        Raises:
            UsageError: an unknown parameter (the nearest is offered) or a value of the wrong type or range.
        """
        return self.build(**self.resolve(**given))

    def resolve(self, **given: Any) -> dict[str, Any]:
        """All parameters with their final values."""
        hints = get_type_hints(self.build, include_extras=True)
        for name in given:
            if name not in self.parameters:
                raise UsageError(f"recipe {self.name} has no parameter {name!r}{nearest(name, self.parameters)}")
        return {
            name: _checked(f"{self.name}: {name}", hints[name], given.get(name, parameter.default))
            for name, parameter in self.parameters.items()
        }


_recipes: dict[str, Recipe] = {}
F = TypeVar("F", bound=Callable[..., Algorithm])


def recipe(function: F) -> F:
    """Register a recipe under the function's name.

    Raises:
        UsageError: no docstring, a parameter without annotation or default, or a name that is taken.
    """
    name = function.__name__
    if not function.__doc__:
        raise UsageError(f"recipe {name!r} needs a docstring: idea, formula, paper, parameters")
    for parameter in inspect.signature(function).parameters.values():
        if parameter.annotation is parameter.empty or parameter.default is parameter.empty:
            raise UsageError(f"recipe {name!r}: parameter {parameter.name!r} needs a type and a default")
    known = _recipes.get(name)
    if known is not None and known.build.__module__ != function.__module__:
        both = f"{known.build.__module__} and {function.__module__}"
        raise UsageError(f"recipe {name!r} is registered by {both}; give one of them another name")
    _recipes[name] = Recipe(name, function)
    return function


def recipe_names() -> list[str]:
    """Every recipe's name, sorted; imports the files in ``agentgym.trainers.recipes``."""
    package = import_module("agentgym.trainers.recipes")
    for module in pkgutil.iter_modules(package.__path__):
        import_module(f"{package.__name__}.{module.name}")
    return sorted(_recipes)


def get_recipe(name: str) -> Recipe:
    """A recipe by name; ``module:name`` imports a module first, which registers it.

    Raises:
        UnknownName: not registered.
        UsageError: the module cannot be imported.
    """
    module, _, own = name.rpartition(":")
    if module:
        import_named(module)
    if own not in recipe_names():
        raise UnknownName("recipe", name, _recipes)
    return _recipes[own]


def slots(algorithm: Algorithm) -> dict[str, str]:
    """Each slot as text, for run.yaml."""
    return {f.name: _shown(getattr(algorithm, f.name)) for f in fields(algorithm)}


def _checked(where: str, hint: Any, value: Any) -> Any:
    try:
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{where}: {first['msg'].lower()} (got {value!r})") from error


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_shown, value)) + ")"
    if isinstance(value, partial):
        return f"{_shown(value.func)}({', '.join(f'{k}={v!r}' for k, v in value.keywords.items())})"
    if inspect.isfunction(value):
        return value.__qualname__.split(".")[0]
    return repr(value) if not isinstance(value, type) else value.__name__
