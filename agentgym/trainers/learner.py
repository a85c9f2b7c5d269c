"""The update: episodes in, new weights out.

turn table -> reward -> credit -> weights -> token tree -> surrogate + penalties -> aggregate -> step
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agentgym.errors import UsageError
from agentgym.records import Episode
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.batch import Batch, cut, minibatches
from agentgym.trainers.beliefs import Beliefs
from agentgym.trainers.figures import Totals, turn_metrics
from agentgym.trainers.optim import Name, Optimizer
from agentgym.trainers.rows import Rows, rows_of, sampled_ids
from agentgym.trainers.scoring import Scorer
from agentgym.trainers.tokens import Tokens
from agentgym.trainers.tree import MicroBatch, Row, TokenTree
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
        temperature: logits are divided by it, as they were when the tokens were sampled.
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


class Learner:
    """Owns the model's optimiser; :meth:`update` makes one update of an algorithm.

    Args:
        model: a causal language model.
        algorithm: what is optimised.
        how: how the weights are moved.
        after: tokens of the context that would have come after an episode's last turn; a critic reads the value of an
            episode that was cut off there. By default what was played, without the last observation.
        beliefs: asks for the policy's belief in the accepted answers, for parts that read it.

    Attributes:
        reference: a frozen copy of the first weights, if a part needs it.
        values: a value head, if a part needs it.

    Raises:
        UsageError: a part reads what cannot be computed, or beliefs without a way to ask for them.
    """

    def __init__(
        self,
        model: Any,
        algorithm: Algorithm,
        how: Optimisation | None = None,
        after: Callable[[Episode], Sequence[int]] = lambda episode: sampled_ids(episode.turns),
        beliefs: Beliefs | None = None,
    ) -> None:
        algorithm.check()
        self.model, self.algorithm, self.how, self.after = model, algorithm, how or Optimisation(), after
        self.needs = needs = algorithm.needs
        self.beliefs = beliefs if needs & {"answer_logprob", "answer_logprob_before"} else None
        if self.beliefs is None and needs & {"answer_logprob", "answer_logprob_before"}:
            raise UsageError("a part reads the policy's belief in the answer: give Learner(..., beliefs=Beliefs(...))")
        frozen = bool(needs & {"reference", "kl"}) or (
            self.beliefs is not None and self.beliefs.belief.by == "reference"
        )
        self.scorer = Scorer(model)
        self.reference = Scorer(copy.deepcopy(model).requires_grad_(False)) if frozen else None
        self.values = _value_head(model) if algorithm.critic is not None else None
        extra = list(self.values.parameters()) if self.values is not None else []
        how = self.how
        options = {"lr": how.lr, "weight_decay": how.weight_decay, "betas": how.betas}
        self.optimizer = Optimizer.of(how.optimizer, model, extra, **options)
        self.dtype = torch.float64 if model.dtype == torch.float64 else torch.float32
        self.updates = 0

    def state_dict(self) -> dict[str, Any]:
        """Everything an exact continuation needs beside the model's own weights."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
            "values": self.values.state_dict() if self.values is not None else None,
            "reference": self._reference_weights(),
            "parts": self.algorithm.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates = state["updates"]
        if self.values is not None:
            self.values.load_state_dict(state["values"])
        if self.reference is not None:
            self.reference.model.load_state_dict(state["reference"], strict=False)
        self.algorithm.load_state_dict(state["parts"])

    def _reference_weights(self) -> dict[str, Tensor] | None:
        """Of the first weights, those that have moved since; the others are the model's own."""
        if self.reference is None:
            return None
        moving = {name for name, p in self.scorer.model.named_parameters() if p.requires_grad}
        return {name: p for name, p in self.reference.model.named_parameters() if name in moving}

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
        turns, by_token = self._prepared(TurnTable.from_episodes(episodes), episodes, whole)
        reward = self.algorithm.reward(turns, turns.reward)
        advantage = self.algorithm.credit(turns, reward)
        weight = product(*(w for w in self.algorithm.weights if isinstance(w, Part)))(turns, advantage)
        by_turn = {"advantage": advantage, "weight": weight}
        if self.algorithm.critic is not None:
            by_turn["target"] = self.algorithm.critic(turns, reward) + turns.value
        ends = np.cumsum([len(e.turns) for e in episodes])
        teaches = np.logical_or.reduceat(advantage * weight != 0, np.append(0, ends[:-1]))
        teaches |= not self.algorithm.only_credit_teaches
        totals = Totals()
        self.model.train()
        for _ in range(self.how.epochs):
            for chosen in minibatches(episodes, self.how.minibatches):
                self._step(cut(episodes, chosen, whole, by_turn, by_token, self.algorithm.sequence, teaches), totals)
        spans = np.split(advantage, ends[:-1])
        by_episode = {e.id: credit.tolist() for e, credit in zip(episodes, spans, strict=True)}
        return Update(totals.metrics() | turn_metrics(turns, advantage), by_episode)

    # Before the update ------------------------------------------------------------------------------------------------

    def _prepared(
        self, turns: TurnTable, episodes: Sequence[Episode], whole: Rows
    ) -> tuple[TurnTable, dict[str, Floats]]:
        """Columns that come from a scoring pass with the weights before the update; only those that are needed.

        What asks for beliefs joins the tree of the model that is asked, as leaves of the rows it scores anyway.
        """
        by_token: dict[str, Floats] = {}
        asked = self.beliefs.ask(episodes) if self.beliefs is not None else None
        leaves = asked.rows if asked is not None else []
        of_reference = self.beliefs is not None and self.beliefs.belief.by == "reference"
        answers = np.empty(0)
        if self.reference is not None:
            logprob, _ = self._scored(self.reference, [*whole.rows, *leaves] if of_reference else whole.rows)
            by_token["reference"], answers = np.split(logprob, [len(whole.turn)])
            kl = np.bincount(whole.turn, whole.old - by_token["reference"], len(turns))
            turns = turns.with_columns(kl=kl)
        if self.values is not None:
            logprob, value = self._scored(self.scorer, whole.rows if of_reference else [*whole.rows, *leaves])
            answers = answers if of_reference else logprob[len(whole.turn) :]
            by_token["old_value"] = value[: len(whole.turn)]
            value = by_token["old_value"][whole.first]
            turns = turns.with_columns(value=value, bootstrap=self._bootstrap(episodes))
        elif leaves and not of_reference:
            answers, _ = self._scored(self.scorer, leaves)
        return turns if asked is None else turns.with_columns(**asked.columns(answers)), by_token

    @torch.no_grad()
    def _scored(self, scorer: Scorer, rows: list[Row]) -> tuple[Floats, Floats]:
        """Log-probability and (with a critic) value of every scored token."""
        total = sum(len(row.scored) for row in rows)
        logprob, value = np.empty(total), np.zeros(total)
        self.model.train()
        for micro in TokenTree.build(rows).batches(self.how.max_tokens):
            scores = scorer.score(micro, values=self.values, temperature=self.how.temperature)
            logprob[micro.scored] = scores.logprob.double().cpu().numpy()
            if scores.value is not None:
                value[micro.scored] = scores.value.double().cpu().numpy()
        return logprob, value

    def _bootstrap(self, episodes: Sequence[Episode]) -> Floats:
        """The critic's value behind each episode that was cut off, on all its turns; 0 elsewhere."""
        cut_off = [n for n, episode in enumerate(episodes) if episode.truncated]
        value = np.zeros(len(episodes))
        if cut_off:
            contexts = [np.array(self.after(episodes[n]), np.int64) for n in cut_off]
            rows = [Row(np.append(ids, 0), np.array([len(ids)])) for ids in contexts]
            _, value[cut_off] = self._scored(self.scorer, rows)
        return np.repeat(value, [len(e.turns) for e in episodes])

    # The update -------------------------------------------------------------------------------------------------------

    def _step(self, batch: Batch, totals: Totals) -> None:
        """One optimiser step over all micro-batches; a gradient that says nothing, or is broken, moves nothing."""
        device = self.model.device
        weight = self._weights(batch)
        coefficient = self.algorithm.aggregate(weight, torch.from_numpy(batch.sequence).to(device))
        self.optimizer.zero_grad()
        for micro in batch.tree.batches(self.how.max_tokens):
            index = torch.from_numpy(batch.index[micro.scored]).to(device)
            tokens = self._tokens(batch, micro, weight[index])
            losses = self.algorithm.surrogate(tokens)
            for penalty in self.algorithm.penalties:
                losses = losses + penalty(tokens)
            loss = (coefficient[index] * losses).sum()
            loss.backward()
            totals.add(tokens, loss)
        norm = float(nn.utils.clip_grad_norm_(self.optimizer.parameters, self.how.max_grad_norm))
        made = 0.0 < norm < float("inf")
        totals.step(norm, batch.tree, made=made)
        if made:
            self.optimizer.step()

    def _weights(self, batch: Batch) -> Tensor:
        """Weight of every token of the step, from the policy that sampled."""
        columns = batch.tensors(slice(None), self.model.device, self.dtype)
        weight = columns["weight"]
        before = Tokens(logprob=columns["old"], **columns)
        for term in self.algorithm.weights:
            if not isinstance(term, Part):
                weight = weight * term(before)
        return weight

    def _tokens(self, batch: Batch, micro: MicroBatch, weight: Tensor) -> Tokens:
        """The micro-batch's tokens, scored with the weights that are being updated."""
        scores = self.scorer.score(
            micro, entropy="entropy" in self.needs, values=self.values, temperature=self.how.temperature
        )
        columns = batch.tensors(batch.index[micro.scored], self.model.device, self.dtype) | {"weight": weight}
        tokens = Tokens(logprob=scores.logprob, **columns)
        if scores.entropy is not None:
            tokens = replace(tokens, entropy=scores.entropy)
        return tokens if scores.value is None else replace(tokens, value=scores.value)


def _value_head(model: Any) -> nn.Linear:
    """A linear map from the last hidden state to one number, starting at zero."""
    head = nn.Linear(model.config.get_text_config().hidden_size, 1, device=model.device, dtype=model.dtype)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head
