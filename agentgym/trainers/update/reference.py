"""The reference policy: what the model was before its first update."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from agentgym.trainers.prefix_tree.scoring import Scorer


class Reference:
    """A frozen copy of the first weights; under adapters, the base model with the adapters disabled: no copy.

    Args:
        model: the model that learns, before its first update.
        scorer: the model's own.
    """

    def __init__(self, model: Any, scorer: Scorer) -> None:
        self._adapters = model if hasattr(model, "peft_config") else None
        self._moving = {name for name, p in scorer.model.named_parameters() if p.requires_grad}
        if self._adapters is not None:
            self._scorer = scorer
        else:
            self._scorer = Scorer(copy.deepcopy(model).requires_grad_(False), probe=False)

    @contextlib.contextmanager
    def scoring(self) -> Iterator[Scorer]:
        """What scores with the reference's weights, for a while."""
        with self._adapters.disable_adapter() if self._adapters is not None else contextlib.nullcontext():
            yield self._scorer

    def state_dict(self) -> dict[str, Tensor] | None:
        """Of the first weights, those that have moved since; the others are the model's own."""
        if self._adapters is not None:
            return None
        return {name: p for name, p in self._scorer.model.named_parameters() if name in self._moving}

    def load_state_dict(self, state: dict[str, Tensor] | None) -> None:
        """Continue from :meth:`state_dict`."""
        if state is not None:
            self._scorer.model.load_state_dict(state, strict=False)
