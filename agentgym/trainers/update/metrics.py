"""What an update reports about itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from agentgym.trainers.advantage.turn_table import TurnTable
from agentgym.trainers.loss.surrogate import clipped_tokens
from agentgym.trainers.loss.tokens import Tokens
from agentgym.trainers.prefix_tree.tree import TokenTree

if TYPE_CHECKING:
    from torch import Tensor


class UpdateMetrics:
    """Adds up an update's metrics over micro-batches and steps.

    ================ ===================================================================================
    loss             sum over micro-batches, mean over steps
    grad_norm        before clipping, mean over steps
    nll              mean of −log π over action tokens
    approx_kl        k3 estimate of KL(sampled ‖ now), mean over action tokens
    clip_fraction    share of action tokens whose ratio is outside the algorithm's own bounds
    skipped          steps not made because the gradient was not finite, or exactly 0
    action_tokens    tokens that were learned from, every pass counted
    tree_tokens      tokens that went through the model
    prefix_sharing   rows' tokens / tree tokens
    ================ ===================================================================================

    Args:
        loss_term: of the algorithm; says what its bounds are.
    """

    def __init__(self, loss_term: object) -> None:
        self._clipped = clipped_tokens(loss_term)
        self.loss = self.nll = self.kl = self.outside = self.grad_norm = 0.0
        self.tokens = self.steps = self.skipped = self.row_tokens = self.tree_tokens = 0

    def add(self, tokens: Tokens, loss: Tensor) -> None:
        """A micro-batch."""
        log_ratio = tokens.log_ratio.detach()
        self.loss += float(loss.detach())
        self.nll -= float(tokens.logprob.detach().sum())
        self.kl += float((log_ratio.exp() - 1 - log_ratio).sum())
        if self._clipped is not None:
            self.outside += float(self._clipped(tokens).sum())
        self.tokens += len(tokens)

    def step(self, norm: float, tree: TokenTree, *, made: bool) -> None:
        """An optimizer step."""
        self.grad_norm += norm
        self.steps += 1
        self.skipped += not made
        self.row_tokens += tree.row_tokens
        self.tree_tokens += len(tree.tokens)

    def metrics(self) -> dict[str, float]:
        """All of them by name."""
        steps, tokens = max(1, self.steps), max(1, self.tokens)
        return {
            "loss": self.loss / steps,
            "grad_norm": self.grad_norm / steps,
            "nll": self.nll / tokens,
            "approx_kl": self.kl / tokens,
            "clip_fraction": self.outside / tokens,
            "skipped": self.skipped,
            "action_tokens": self.tokens,
            "tree_tokens": self.tree_tokens,
            "prefix_sharing": self.row_tokens / max(1, self.tree_tokens),
        }


def turn_metrics(turns: TurnTable, advantage: NDArray[np.float64]) -> dict[str, float]:
    """``num_turns``; ``advantage_std`` over turns; ``frac_nonzero_advantage``: share of turns whose advantage is not 0.

    Where beliefs were asked for: ``beliefs``, turns with one before and after them; ``belief``, its mean after, and
    ``information_gain``, its mean rise, in nats a token.
    """
    metrics = {
        "num_turns": float(len(turns)),
        "advantage_std": float(advantage.std()),
        "frac_nonzero_advantage": float((advantage != 0).mean()),
    }
    if "answer_logprob" in turns:
        gain = turns.answer_logprob - turns.answer_logprob_before
        known = np.isfinite(gain)
        number = max(1, int(known.sum()))
        metrics["beliefs"] = float(known.sum())
        metrics["belief"] = float(turns.answer_logprob[known].sum() / number)
        metrics["information_gain"] = float(gain[known].sum() / number)
    return metrics
