"""The update: episodes in, new weights out.

turn table -> reward -> credit -> weights -> token tree -> surrogate + penalties -> aggregate -> step
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agentgym.records import Episode
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.credit import chain
from agentgym.trainers.optim import Name, Optimizer
from agentgym.trainers.rows import Rows, rows_of
from agentgym.trainers.scoring import Scorer
from agentgym.trainers.tokens import Tokens
from agentgym.trainers.tree import MicroBatch, TokenTree
from agentgym.trainers.turns import Part, TurnTable
from agentgym.trainers.weights import product

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Optimisation:
    """How the weights are moved.

    Attributes:
        optimizer: ``adamw`` or ``muon``.
        lr: learning rate, reached after ``warmup`` updates.
        epochs: passes over an update's episodes.
        minibatches: optimiser steps per pass; groups stay whole.
        max_tokens: tree tokens per micro-batch; bounds memory, changes no value.
        max_grad_norm: gradients are scaled down to this norm.
    """

    optimizer: Name = "adamw"
    lr: float = 3e-4
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    epochs: int = 1
    minibatches: int = 1
    max_tokens: int = 16384
    max_grad_norm: float = 1.0
    warmup: int = 0
    temperature: float = 1.0


class Update(NamedTuple):
    """What an update reports: figures, and the advantage of each turn of each episode that was learned from."""

    metrics: dict[str, float]
    credits: dict[str, list[float]]


@dataclass
class _Batch:
    """One optimiser step's worth: the tree and flat columns [tokens]."""

    tree: TokenTree
    columns: Rows
    sequence: NDArray[np.int64]
    advantage: Floats
    turn_weight: Floats
    extra: dict[str, Floats] = field(default_factory=dict)


class Learner:
    """Owns the model's optimiser; :meth:`update` makes one update of an algorithm.

    Args:
        model: a causal language model.
        algorithm: what is optimised.
        how: how the weights are moved.

    Attributes:
        reference: a frozen copy of the first weights, if a part needs it.
        values: a value head, if a part needs it.
    """

    def __init__(self, model: Any, algorithm: Algorithm, how: Optimisation | None = None) -> None:
        self.model, self.algorithm, self.how = model, algorithm, how or Optimisation()
        self.needs = algorithm.needs
        self.scorer = Scorer(model)
        self.reference = Scorer(copy.deepcopy(model).requires_grad_(False)) if self.needs & {"reference", "kl"} else None
        self.values = _value_head(model) if self.needs & {"value", "old_value", "target"} else None
        extra = list(self.values.parameters()) if self.values is not None else []
        how = self.how
        options = {"lr": how.lr, "weight_decay": how.weight_decay, "betas": how.betas}
        self.optimizer = Optimizer.of(how.optimizer, model, extra, **options)
        self.updates = 0

    def state_dict(self) -> dict[str, Any]:
        """Everything an exact continuation needs beside the model's own weights."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
            "values": self.values.state_dict() if self.values is not None else None,
            "reference": self.reference.model.state_dict() if self.reference is not None else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates = state["updates"]
        if self.values is not None:
            self.values.load_state_dict(state["values"])
        if self.reference is not None:
            self.reference.model.load_state_dict(state["reference"])

    def update(self, episodes: Sequence[Episode], *, lr: float | None = None) -> Update:
        """Learn from the episodes (failed ones left out); whole groups.

        Args:
            lr: learning rate of this update; None: that of :class:`Optimisation`.
        """
        episodes = [e for e in episodes if not e.failed and e.turns]
        self.updates += 1
        ready = min(1.0, self.updates / self.how.warmup) if self.how.warmup else 1.0
        self.optimizer.set_lr(ready * (self.how.lr if lr is None else lr))
        if not episodes:
            return Update({"turns": 0.0}, {})
        whole = rows_of(episodes)
        turns = TurnTable.from_episodes(episodes)
        turns, extra = self._prepared(turns, whole)
        advantage = chain(self.algorithm.reward, self.algorithm.credit)(turns, turns.reward)
        if self.values is not None:
            extra["target"] = (advantage + turns.value)[whole.turn]
        turn_parts = [w for w in self.algorithm.weights if isinstance(w, Part)]
        turn_weight = product(*turn_parts)(turns, advantage)
        totals = _Totals()
        self.model.train()
        for _ in range(self.how.epochs):
            for chosen in self._minibatches(episodes):
                self._step(self._batch(episodes, chosen, turns, advantage, turn_weight, whole, extra), totals)
        credits: dict[str, list[float]] = {}
        for row, episode in enumerate(e for e in episodes for _ in e.turns):
            credits.setdefault(episode.id, []).append(float(advantage[row]))
        return Update(totals.metrics() | _turn_metrics(turns, advantage), credits)

    # Before the update ------------------------------------------------------------------------------------------------

    def _prepared(self, turns: TurnTable, whole: Rows) -> tuple[TurnTable, dict[str, Floats]]:
        """Columns that come from a scoring pass with the weights before the update; only those that are needed."""
        extra: dict[str, Floats] = {}
        if self.reference is not None:
            extra["reference"], _ = self._scored(self.reference, whole)
            kl = np.bincount(whole.turn, whole.old - extra["reference"], len(turns))
            turns = turns.with_columns(kl=kl)
        if self.values is not None:
            _, value = self._scored(self.scorer, whole, self.values)
            assert value is not None
            extra["old_value"] = value
            turns = turns.with_columns(value=value[whole.first])
        return turns, extra

    @torch.no_grad()
    def _scored(self, scorer: Scorer, whole: Rows, values: nn.Module | None = None) -> tuple[Floats, Floats | None]:
        logprob, value = np.empty(len(whole.turn)), np.empty(len(whole.turn))
        for micro in TokenTree.build(whole.rows).batches(self.how.max_tokens):
            scores = scorer.score(micro, values=values, temperature=self.how.temperature)
            logprob[micro.scored] = scores.logprob.double().cpu().numpy()
            if scores.value is not None:
                value[micro.scored] = scores.value.double().cpu().numpy()
        return logprob, value if values is not None else None

    # The update -------------------------------------------------------------------------------------------------------

    def _minibatches(self, episodes: Sequence[Episode]) -> Iterator[list[int]]:
        """Episode numbers of each optimiser step: whole groups, dealt out in order."""
        groups: dict[str, list[int]] = {}
        for number, episode in enumerate(episodes):
            groups.setdefault(episode.group, []).append(number)
        for part in np.array_split(np.arange(len(groups)), min(self.how.minibatches, len(groups))):
            keys = list(groups)
            yield [n for g in part for n in groups[keys[g]]]

    def _batch(
        self,
        episodes: Sequence[Episode],
        chosen: list[int],
        turns: TurnTable,
        advantage: Floats,
        turn_weight: Floats,
        whole: Rows,
        extra: dict[str, Floats],
    ) -> _Batch:
        """Cut one minibatch out of the whole; the same arrays if it is the whole."""
        columns = whole if len(chosen) == len(episodes) else rows_of([episodes[n] for n in chosen])
        lengths = np.array([len(e.turns) for e in episodes])
        begin = np.concatenate([[0], np.cumsum(lengths)])
        table_rows = np.concatenate([np.arange(begin[n], begin[n + 1]) for n in chosen])
        local_episode = np.repeat(np.arange(len(chosen)), lengths[chosen])
        sequence = local_episode[columns.turn] if self.algorithm.sequence == "episode" else columns.turn
        kept = np.isin(whole.turn, table_rows)
        return _Batch(
            TokenTree.build(columns.rows),
            columns,
            sequence,
            advantage[table_rows][columns.turn],
            turn_weight[table_rows][columns.turn],
            {name: values[kept] for name, values in extra.items()},
        )

    def _step(self, batch: _Batch, totals: _Totals) -> None:
        """One optimiser step over all micro-batches of a minibatch."""
        device = self.model.device
        weight = self._weights(batch).to(device)
        sequence = torch.from_numpy(batch.sequence).to(device)
        coefficient = self.algorithm.aggregate(weight, sequence)
        self.optimizer.zero_grad()
        for micro in batch.tree.batches(self.how.max_tokens):
            tokens = self._tokens(batch, micro, weight)
            losses = self.algorithm.surrogate(tokens)
            for penalty in self.algorithm.penalties:
                losses = losses + penalty(tokens)
            loss = (coefficient[torch.from_numpy(micro.scored).to(device)] * losses).sum()
            loss.backward()
            totals.add(tokens, loss)
        norm = nn.utils.clip_grad_norm_(self.optimizer.parameters, self.how.max_grad_norm)
        totals.step(float(norm), batch.tree)
        if torch.isfinite(norm):
            self.optimizer.step()

    def _weights(self, batch: _Batch) -> Tensor:
        weight = torch.from_numpy(batch.turn_weight).float()
        terms = [w for w in self.algorithm.weights if not isinstance(w, Part)]
        if terms:
            columns = _tensors(batch, np.arange(len(batch.sequence)), weight, torch.device("cpu"))
            before = Tokens(logprob=columns["old"], **columns)
            for term in terms:
                weight = weight * term(before)
        return weight

    def _tokens(self, batch: _Batch, micro: MicroBatch, weight: Tensor) -> Tokens:
        scores = self.scorer.score(
            micro, entropy="entropy" in self.needs, values=self.values, temperature=self.how.temperature
        )
        columns = _tensors(batch, micro.scored, weight, self.model.device)
        tokens = Tokens(logprob=scores.logprob, **columns)
        if scores.entropy is not None:
            tokens = replace(tokens, entropy=scores.entropy)
        return tokens if scores.value is None else replace(tokens, value=scores.value)


def _tensors(batch: _Batch, index: NDArray[np.int64], weight: Tensor, device: torch.device) -> dict[str, Tensor]:
    """The columns of some tokens as tensors."""
    floats = {"old": batch.columns.old, "advantage": batch.advantage, **batch.extra}
    if not np.isnan(batch.columns.entropy).any():
        floats["entropy"] = batch.columns.entropy
    out = {name: torch.from_numpy(values[index]).float().to(device) for name, values in floats.items()}
    out["weight"] = weight[torch.from_numpy(index).to(weight.device)].to(device)
    out["sequence"] = torch.from_numpy(batch.sequence[index]).to(device)
    out["turn"] = torch.from_numpy(batch.columns.turn[index]).to(device)
    return out


def _value_head(model: Any) -> nn.Linear:
    """A linear map from the last hidden state to one number, starting at zero."""
    head = nn.Linear(model.config.get_text_config().hidden_size, 1, device=model.device, dtype=model.dtype)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


class _Totals:
    """Adds up an update's figures over micro-batches and steps.

    ``loss`` sums over micro-batches, means over steps; ``nll`` is the mean of −log π over action tokens; ``kl_old`` is the k3 estimate of KL(sampled ‖ now); ``clipped``
    the share of action tokens whose ratio left [0.8, 1.2]; ``grad_norm`` before clipping; ``sharing`` rows' tokens /
    tree tokens.
    """

    def __init__(self) -> None:
        self.loss = self.nll = self.kl = self.outside = self.grad_norm = 0.0
        self.tokens = self.steps = self.row_tokens = self.tree_tokens = 0

    def add(self, tokens: Tokens, loss: Tensor) -> None:
        log_ratio = tokens.log_ratio.detach()
        self.loss += float(loss.detach())
        self.nll -= float(tokens.logprob.detach().sum())
        self.kl += float((log_ratio.exp() - 1 - log_ratio).sum())
        self.outside += float(((log_ratio.exp() - 1).abs() > 0.2).sum())
        self.tokens += len(tokens)

    def step(self, norm: float, tree: TokenTree) -> None:
        self.grad_norm += norm
        self.steps += 1
        self.row_tokens += tree.row_tokens
        self.tree_tokens += len(tree.tokens)

    def metrics(self) -> dict[str, float]:
        steps, tokens = max(1, self.steps), max(1, self.tokens)
        return {
            "loss": self.loss / steps,
            "grad_norm": self.grad_norm / steps,
            "nll": self.nll / tokens,
            "kl_old": self.kl / tokens,
            "clipped": self.outside / tokens,
            "action_tokens": self.tokens,
            "tree_tokens": self.tree_tokens,
            "sharing": self.row_tokens / max(1, self.tree_tokens),
        }


def _turn_metrics(turns: TurnTable, advantage: Floats) -> dict[str, float]:
    return {
        "turns": float(len(turns)),
        "advantage_std": float(advantage.std()),
        "signal": float((advantage != 0).mean()),
    }
