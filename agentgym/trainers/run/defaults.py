"""Options whose default depends on the model.

What teaches a model of random weights in a minute wrecks a pre-trained one: at a learning rate of 3e-4 one update moves
every log-probability of a chat model by nats.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from agentgym.models.kinds import Kind


class ByModel(NamedTuple):
    """An option's default for each kind of model."""

    tiny: Any
    pretrained: Any
    adapters: Any

    def of(self, kind: Kind) -> Any:
        """The one for a kind."""
        return self[("tiny", "pre-trained", "adapters").index(kind)]


DEFAULTS = {
    "model.instructions": ByModel(False, True, True),
    "rollout.max_new_tokens": ByModel(32, 512, 512),
    "model.dtype": ByModel("float32", "auto", "auto"),
    "optimizer.lr": ByModel(3e-4, 1e-6, 1e-5),
    "sft.lr": ByModel(2e-3, 1e-5, 1e-5),
}


#: How messages call them.
WORDS: dict[Kind, str] = {
    "tiny": "tiny model",
    "pre-trained": "pre-trained model",
    "adapters": "adapters on a pre-trained model",
}
