"""What commands share: environments, policies and ``key=value`` settings given as text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from agentgym import registry
from agentgym.env import ReplayWrapper
from agentgym.errors import UnknownName, UsageError
from agentgym.policy import ExpertPolicy, HumanPolicy, Policy, RandomPolicy, ReplayPolicy

POLICY_HELP = "random, expert, expert:0.1 (a tenth random), person, replay:FILE, or a model as for --model"
_WORDS = {"true": True, "false": False, "null": None, "none": None}
_NUMBER = re.compile(r"[+-]?(\d[\d_]*)?(\.\d*)?([eE][+-]?\d+)?")


def parse_value(text: str) -> Any:
    """A setting's value: a number (``3e-5`` too), true, false, null, a list or mapping in YAML, else the text itself.

    Unlike YAML 1.1, ``no``, ``on`` and ``1:30`` stay texts.
    """
    word = text.strip()
    if word.lower() in _WORDS:
        return _WORDS[word.lower()]
    if _NUMBER.fullmatch(word):
        for number in (int, float):
            try:
                return number(word)
            except ValueError:
                continue
    if word[:1] in ("[", "{", '"', "'"):
        try:
            return yaml.safe_load(word)
        except yaml.YAMLError as error:
            raise UsageError(f"cannot read the value {text!r}: {str(error).splitlines()[0]}") from error
    return text


def parse_settings(pairs: Iterable[str]) -> dict[str, Any]:
    """``["rooms=3", "split=test"]`` as ``{"rooms": 3, "split": "test"}``.

    Raises:
        UsageError: not ``key=value``, or a key given twice.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"{pair!r} is not a setting; write key=value, e.g. split=test")
        if key in settings:
            raise UsageError(f"{key!r} is set twice; keep one of them")
        settings[key] = parse_value(value)
    return settings


def environment(env_id: str, settings: Iterable[str] = (), split: str | None = None) -> partial[ReplayWrapper]:
    """A factory of the environment, with its ``key=value`` arguments.

    ``module:id`` imports a module first.

    Raises:
        UsageError: ``split`` is set twice. What is wrong with the environment itself is told when it is made.
    """
    arguments = parse_settings(settings)
    if split is not None:
        if "split" in arguments:
            raise UsageError("the split is set twice; keep --split or split=, not both")
        arguments["split"] = split
    return partial(registry.make, env_id, **arguments)


def parse_policy(text: str) -> Callable[[], Policy]:
    """A factory of the policy that a text names; see :data:`POLICY_HELP`.

    Raises:
        UnknownName: no such policy.
        UsageError: what follows the colon is missing, wrong or not wanted.
    """
    if names_model(text):
        return _model(text.removeprefix("model:"))
    name, colon, rest = text.partition(":")
    parser = _POLICIES.get(name)
    if parser is None:
        raise UnknownName("policy", text, [f"{n}:..." if n in ("replay", "model") else n for n in _POLICIES])
    if colon and not rest:
        raise UsageError(f"policy {text!r} ends after its colon; write {POLICY_HELP}")
    return parser(rest)


def names_model(text: str) -> bool:
    """Whether a policy is a model: ``model:NAME``, or what ``--model`` takes: a folder, a .gguf file, a hub's name.

    A hub's name without a slash needs ``model:`` before it; alone it is more likely a misspelt policy.
    """
    kind, colon, rest = text.partition(":")
    if kind in _POLICIES:
        return kind == "model" and bool(rest)
    return Path(text).is_dir() or text.lower().endswith(".gguf") or ("/" in text and not colon)


def _plain(policy: Callable[[], Policy]) -> Callable[[str], Callable[[], Policy]]:
    def parse(rest: str) -> Callable[[], Policy]:
        if rest:
            raise UsageError(f"this policy takes nothing after its name, got {rest!r}; write {POLICY_HELP}")
        return policy

    return parse


def _expert(rest: str) -> Callable[[], Policy]:
    epsilon = parse_value(rest) if rest else 0.0
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0 <= epsilon <= 1:
        raise UsageError(f"expert:{rest}: the share of random actions must be a number from 0 to 1")
    return partial(ExpertPolicy, float(epsilon))


def _replay(rest: str) -> Callable[[], Policy]:
    if not rest:
        raise UsageError("replay needs a run folder or an episode file: replay:runs/my-run")

    def load() -> Policy:
        from agentgym.store import read_episodes

        return ReplayPolicy(read_episodes(Path(rest)))

    return load


def _model(rest: str) -> Callable[[], Policy]:
    if not rest:
        raise UsageError("model needs a folder or a hub name: model:HuggingFaceTB/SmolLM2-135M-Instruct")

    def load() -> Policy:
        from agentgym.errors import MissingExtra

        try:
            from agentgym.models.contexts import full_history
            from agentgym.models.kinds import kind_of
            from agentgym.models.loading import load
            from agentgym.models.local_policy import ModelPolicy
            from agentgym.trainers.run.defaults import DEFAULTS
        except ModuleNotFoundError as error:
            raise MissingExtra(str(error.name), "train") from error
        kind = kind_of(rest)
        return ModelPolicy(
            *load(rest),
            context=full_history(instructions=DEFAULTS["model.instructions"].of(kind)),
            max_new_tokens=DEFAULTS["rollout.max_new_tokens"].of(kind),
        )

    return load


_POLICIES: dict[str, Callable[[str], Callable[[], Policy]]] = {
    "random": _plain(RandomPolicy),
    "expert": _expert,
    "person": _plain(HumanPolicy),
    "replay": _replay,
    "model": _model,
}
