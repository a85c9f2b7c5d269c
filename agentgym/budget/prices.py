"""Price lists: what calls of tools and tokens of models cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agentgym.errors import UsageError
from agentgym.records import ToolCall


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """Price of a million tokens read (``prompt``) and written (``completion``)."""

    prompt: float = 0.0
    completion: float = 0.0


@dataclass(frozen=True, slots=True)
class Prices:
    """A price list, in any one unit.

    Attributes:
        tools: price of a call by tool name; a tool that is not listed costs what the tool itself says.
        models: prices by model name; a model that is not listed costs nothing.
    """

    tools: Mapping[str, float] = field(default_factory=dict)
    models: Mapping[str, ModelPrice] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path) -> Prices:
        """Read a YAML file: ``{tools: {search: 0.001}, models: {NAME: {prompt: 0.15, completion: 0.6}}}``.

        Raises:
            UsageError: it is not a price list.
        """
        import yaml

        try:
            given = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
            tools = {str(name): _price(price) for name, price in given.pop("tools", {}).items()}
            models = {
                str(name): ModelPrice(**{k: _price(p) for k, p in price.items()})
                for name, price in given.pop("models", {}).items()
            }
            if given:
                raise ValueError(f"unknown entry {next(iter(given))!r}")
        except (OSError, yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
            rule = "write tools: {NAME: price} and models: {NAME: {prompt: price, completion: price}}"
            raise UsageError(f"{path} is not a price list ({str(error).splitlines()[0]}); {rule}") from error
        return cls(tools, models)

    def call(self, call: ToolCall) -> float:
        """Price of a tool call that ran; ``call.cost`` is what the tool itself says."""
        return self.tools.get(call.name, call.cost)

    def tokens(self, model: str, prompt: int, completion: int) -> float:
        """Price of one answer of a model."""
        price = self.models.get(model, ModelPrice())
        return (prompt * price.prompt + completion * price.completion) * 1e-6


def _price(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ValueError(f"{value!r} is not a price")
    return float(value)
