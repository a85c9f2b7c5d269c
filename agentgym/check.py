"""The environment contract as a program: every violation in one report.

>>> from agentgym import check_env
>>> check_env("agentgym/Household-v0").raise_on_violation()

The rules are in :mod:`agentgym.contract`.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import gymnasium as gym

from agentgym import registry
from agentgym.contract import RULES, NotApplicable, Rule, Subject
from agentgym.contract.panel import Played, attacks_of
from agentgym.contract.subject import Env
from agentgym.env import ReplayWrapper, close_quietly
from agentgym.errors import ContractError, UsageError

MOST = 5  #: violations of one rule that are listed


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that the contract forbids."""

    rule: str
    promise: str  #: what the contract says
    seen: str  #: what was seen instead
    advice: str  #: what to do

    def __str__(self) -> str:
        return f"{self.rule}: {self.promise}\n    seen: {self.seen}\n    do:   {self.advice}"


@dataclass(frozen=True, slots=True)
class Report:
    """What :func:`check_env` found.

    Attributes:
        env: the environment's name.
        held: rules that hold.
        violations: everything found, in the order of the rules.
        skipped: rule -> why it was not judged.
        panel: what policies that know nothing scored, chance first; see :mod:`agentgym.contract.panel`.
    """

    env: str
    held: tuple[str, ...]
    violations: tuple[Violation, ...]
    skipped: dict[str, str] = field(default_factory=dict)
    panel: tuple[Played, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.violations

    def __str__(self) -> str:
        broken = len({v.rule for v in self.violations})
        lines = [f"{self.env}: {len(self.held)} rules hold" + (f", {broken} broken" if broken else "")]
        lines += [f"  {violation}" for violation in self.violations]
        lines += [f"  not judged: {rule} ({why})" for rule, why in self.skipped.items()]
        if self.panel:
            lines.append(f"  the panel on {len(self.panel[0].scores)} tasks, score [interval]:")
        for played in self.panel:
            low, high = played.interval
            raised = f", {len(played.raised)} raised" if played.raised else ""
            lines.append(f"    {played.policy:<18} {played.score:.3f} [{low:.3f}, {high:.3f}]{raised}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {
            "env": self.env,
            "ok": self.ok,
            "held": list(self.held),
            "violations": [asdict(violation) for violation in self.violations],
            "not_judged": dict(self.skipped),
            "panel": [played.as_dict() for played in self.panel],
        }

    def raise_on_violation(self) -> None:
        """For tests.

        Raises:
            ContractError: there are violations; the message is the whole report.
        """
        if not self.ok:
            raise ContractError(str(self))


def check_env(
    env: str | Env | Callable[..., Env],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    turns: int = 20,
    panel_tasks: int = 200,
    adversary: str | None = None,
    **kwargs: object,
) -> Report:
    """Check an environment against the contract; collects every violation instead of stopping at the first.

    Args:
        env: an id, a class or factory, or an instance that was made from an id. Fresh instances are made of it.
        seeds: episodes to try.
        turns: how far they are played.
        panel_tasks: how many each policy of the panel plays; 0 leaves the panel out.
        adversary: a module with further policies for the panel, see :mod:`agentgym.contract.panel`.
        **kwargs: passed to the environment, e.g. ``split="test"``.

    Raises:
        UnknownName: no such id.
        UsageError: an instance that cannot be made again, no seeds or turns, or a module without policies.
    """
    if not seeds or turns < 1 or panel_tasks < 0:
        raise UsageError(
            f"nothing to check with {seeds=}, {turns=} and {panel_tasks=}; give at least one seed and turn"
        )
    name, factory, takes_arguments = _factory(env)
    made: list[Env] = []

    def fresh(**more: object) -> ReplayWrapper:
        instance = factory(**{**kwargs, **more})
        made.append(instance)
        return instance if isinstance(instance, ReplayWrapper) else ReplayWrapper(instance)

    spec = registry.find(env) if isinstance(env, str) else getattr(env, "spec", None)
    adversaries = attacks_of(adversary) if adversary is not None else ()
    subject = Subject(
        name, fresh, tuple(seeds), turns, spec, takes_arguments, tasks=panel_tasks, adversaries=adversaries
    )
    try:
        return _judge(subject)
    finally:
        for instance in made:
            close_quietly(instance)


def _factory(env: str | Env | Callable[..., Env]) -> tuple[str, Callable[..., Env], bool]:
    """Name, factory, and whether the factory passes arguments on."""
    if isinstance(env, str):
        return env, partial(registry.make, env), True
    if isinstance(env, gym.Env):
        if env.spec is None:
            raise UsageError(f"{env} has no spec, so it cannot be made again; pass its class, a factory or its id")
        return env.spec.id, partial(gym.make, env.spec, disable_env_checker=True), True
    if not callable(env):
        raise UsageError(f"cannot check {env!r}; pass an id, an environment, its class, or a factory")
    parameters = inspect.signature(env).parameters.values()
    return getattr(env, "__qualname__", repr(env)), env, bool(parameters)


def _judge(subject: Subject) -> Report:
    held: list[str] = []
    violations: list[Violation] = []
    skipped: dict[str, str] = {}
    for rule in RULES.values():
        missing = [n for n in rule.needs if n not in held]
        if missing:
            skipped[rule.name] = f"needs {missing[0]}"
            continue
        try:
            found = _found(rule, subject)
        except NotApplicable as reason:
            skipped[rule.name] = str(reason)
            continue
        violations += found
        if not found:
            held.append(rule.name)
    panel = tuple(subject.panel) if "panel" in vars(subject) else ()  # a cached property: only if a rule asked for it
    return Report(subject.name, tuple(held), tuple(violations), skipped, panel)


def _found(rule: Rule, subject: Subject) -> list[Violation]:
    seen: list[str] = []
    try:
        for violation in rule.find(subject):
            seen.append(violation)
            if len(seen) == MOST:
                break
    except NotApplicable:
        raise
    except (Exception, SystemExit) as error:  # a check that an environment may end says nothing
        if isinstance(error, UsageError) and rule.name in ("make", "gaming"):
            raise  # the arguments, or a policy of the user, are wrong, not the environment
        where = traceback.extract_tb(error.__traceback__)[-1]
        seen.append(f"raised {type(error).__name__}: {error} ({where.filename}:{where.lineno})")
    return [Violation(rule.name, rule.promise, text, rule.advice) for text in seen]
