"""The update: episodes in, new weights out.

turn table -> reward -> advantage -> weights -> prefix tree -> loss term + penalties -> aggregate -> step
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agentgym.errors import UsageError
from agentgym.records import Episode
from agentgym.trainers.advantage.turn_table import TurnTable
from agentgym.trainers.advantage.turn_weights import product
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.loss.tokens import Tokens
from agentgym.trainers.prefix_tree.blocks import MicroBatch
from agentgym.trainers.prefix_tree.rows import TokenTable, rows_of
from agentgym.trainers.prefix_tree.scoring import Scorer, without_dropout
from agentgym.trainers.prefix_tree.tree import Row, TokenTree
from agentgym.trainers.update.answer_probe import AnswerProbes
from agentgym.trainers.update.batch import Step, context_behind, steps
from agentgym.trainers.update.metrics import UpdateMetrics, turn_metrics
from agentgym.trainers.update.optimizer import Name, Optimizer
from agentgym.trainers.update.reference import Reference

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
CRITIC_LR = 10.0  #: learning rate of the value head over the policy's, where the algorithm names none


@dataclass(frozen=True)
class OptimizerConfig:
    """How the weights are moved.

    Attributes:
        optimizer: ``adamw`` or ``muon``.
        lr: learning rate, reached after ``warmup`` updates.
        epochs: passes over an update's episodes.
        minibatches: optimizer steps per pass; groups stay whole.
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
    advantages: dict[str, list[float]]


class Learner:
    """Owns the model's optimizer; :meth:`update` makes one update of an algorithm.

    Args:
        model: a causal language model.
        algorithm: what is optimised.
        config: how the weights are moved.
        answer_probes: asks for the policy's belief in the accepted answers, for parts that read it.
        columns: what the environment gives in ``info["columns"]``, in some episodes at least; NaN where an update has
            none of it.

    Attributes:
        reference: the first weights, if a part needs them.
        values: a value head, if a part needs it.

    Raises:
        UsageError: a part reads what cannot be computed, or beliefs without a way to ask for them.
    """

    def __init__(
        self,
        model: Any,
        algorithm: Algorithm,
        config: OptimizerConfig | None = None,
        answer_probes: AnswerProbes | None = None,
        columns: Iterable[str] = (),
    ) -> None:
        algorithm.check(algorithm.needs)  # a column that is not there is named when it is read
        self.model, self.algorithm, self.config = model, algorithm, config or OptimizerConfig()
        self.columns = frozenset(columns)
        self.needs = needs = algorithm.needs
        self.answer_probes = answer_probes if needs & {"answer_logprob", "answer_logprob_before"} else None
        if self.answer_probes is None and needs & {"answer_logprob", "answer_logprob_before"}:
            needed = "Learner(..., answer_probes=AnswerProbes(...))"
            raise UsageError(f"a part reads the policy's belief in the answer: give {needed}")
        frozen = bool(needs & {"reference", "kl"}) or (
            self.answer_probes is not None and self.answer_probes.probe.by == "reference"
        )
        self.scorer = Scorer(model)
        self.reference = Reference(model, self.scorer) if frozen else None
        self.dtype = torch.float64 if model.dtype == torch.float64 else torch.float32
        self.values = _ValueHead(model, self.dtype) if algorithm.critic is not None else None
        head = list(self.values.parameters()) if self.values is not None else []
        options = {"lr": self.config.lr, "weight_decay": self.config.weight_decay, "betas": self.config.betas}
        head_lr = CRITIC_LR * self.config.lr if algorithm.critic_lr is None else algorithm.critic_lr
        self.optimizer = Optimizer.of(self.config.optimizer, model, head, head_lr=head_lr, **options)
        self.updates = 0

    def state_dict(self) -> dict[str, Any]:
        """Everything an exact continuation needs beside the model's own weights."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
            "values": self.values.state_dict() if self.values is not None else None,
            "reference": self.reference.state_dict() if self.reference is not None else None,
            "parts": self.algorithm.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates = state["updates"]
        if self.values is not None:
            self.values.load_state_dict(state["values"])
        if self.reference is not None:
            self.reference.load_state_dict(state["reference"])
        self.algorithm.load_state_dict(state["parts"])

    def update(self, episodes: Sequence[Episode], *, lr: float | None = None) -> Update:
        """Learn from the episodes (failed ones left out); whole groups.

        Args:
            lr: learning rate of this update; None: that of :class:`OptimizerConfig`.
        """
        episodes = [e for e in episodes if not e.failed and e.turns]
        self.updates += 1
        ready = min(1.0, self.updates / self.config.warmup) if self.config.warmup else 1.0
        self.optimizer.set_lr(ready * (self.config.lr if lr is None else lr))
        if not episodes:
            return Update({"num_turns": 0.0}, {})
        turns = TurnTable.from_episodes(episodes, self.columns)
        turns, table = self._prepared(turns, episodes, rows_of(episodes))
        reward = self.algorithm.reward(turns, turns.reward)
        advantage = self.algorithm.advantage(turns, reward)
        weight = product(*self.algorithm.turn_weight)(turns, advantage)
        table = table.with_turn_columns(advantage=advantage, weight=weight)
        if self.algorithm.critic is not None:
            table = table.with_turn_columns(target=self.algorithm.critic(turns, reward) + turns.value)
        lengths = [len(e.turns) for e in episodes]
        ends, owner = np.cumsum(lengths), np.repeat(np.arange(len(episodes)), lengths)
        teaches = np.logical_or.reduceat(advantage * weight != 0, np.append(0, ends[:-1]))
        teaches |= not self.algorithm.only_advantage_teaches
        minibatches = list(steps(episodes, self.config.minibatches, table, owner, teaches))
        table = table.with_columns(sequence=owner[table.turn] if self.algorithm.sequence == "episode" else table.turn)
        token_weight, coefficient = self._weights(table)
        metrics = UpdateMetrics(self.algorithm.loss_term)
        without_dropout(self.model)
        for _ in range(self.config.epochs):
            for minibatch in minibatches:
                self._step(minibatch, table, token_weight, coefficient * len(minibatches), metrics)
        spans = np.split(advantage, ends[:-1])
        by_episode = {e.id: span.tolist() for e, span in zip(episodes, spans, strict=True)}
        return Update(metrics.metrics() | turn_metrics(turns, advantage), by_episode)

    # Before the update ------------------------------------------------------------------------------------------------

    def _prepared(
        self, turns: TurnTable, episodes: Sequence[Episode], table: TokenTable
    ) -> tuple[TurnTable, TokenTable]:
        """Both tables with the columns that come from a scoring pass before the update; only those that are needed.

        Answer probes join the tree of the model that is asked, as leaves of the rows it scores anyway.
        """
        asked = self.answer_probes.ask(episodes) if self.answer_probes is not None else None
        of_policy, of_reference = (asked.rows if asked else []), list[Row]()
        if asked is not None and asked.by == "reference":
            of_policy, of_reference = of_reference, of_policy
        answers = [np.empty(0)]
        if self.reference is not None:
            with self.reference.scoring() as scorer:
                reference, _, found = self._scored(scorer, table.rows, of_reference)
            answers.append(found)
            table = table.with_columns(reference=reference)
            turns = turns.with_columns(kl=table.sum_by_turn(table.old - reference, len(turns)))
        if self.values is not None:
            _, value, found = self._scored(self.scorer, table.rows, of_policy)
            answers.append(found)
            table = table.with_columns(old_value=value)
            turn_value = self._turn_values(episodes, table, value)
            turns = turns.with_columns(value=turn_value, bootstrap=self._bootstrap(episodes))
        elif of_policy:
            answers.append(self._scored(self.scorer, [], of_policy)[2])
        return turns if asked is None else turns.with_columns(**asked.columns(np.concatenate(answers))), table

    def _scored(self, scorer: Scorer, rows: list[Row], asked: list[Row]) -> tuple[Floats, Floats, Floats]:
        """Log-probability and (with a critic) value of the tokens of ``rows``, and log-probability of those ``asked``.

        What was sampled is scored at the temperature of sampling. What is asked is asked of the model itself, at
        temperature 1: in the same tree where both are one.
        """
        number = sum(len(row.scored) for row in rows)
        if self.config.temperature == 1.0:
            logprob, value = self._pass(scorer, [*rows, *asked], 1.0)
            return logprob[:number], value[:number], logprob[number:]
        return (*self._pass(scorer, rows, self.config.temperature), self._pass(scorer, asked, 1.0)[0])

    @torch.no_grad()
    def _pass(self, scorer: Scorer, rows: list[Row], temperature: float) -> tuple[Floats, Floats]:
        """Log-probability and (with a critic) value of every scored token."""
        total = sum(len(row.scored) for row in rows)
        logprob, value = np.empty(total), np.zeros(total)
        without_dropout(scorer.model)
        for micro in TokenTree.build(rows).batches(self.config.max_tokens):
            scores = scorer.score(micro, values=self.values, temperature=temperature)
            logprob[micro.scored] = scores.logprob.double().cpu().numpy()
            if scores.value is not None:
                value[micro.scored] = scores.value.double().cpu().numpy()
        return logprob, value

    def _turn_values(self, episodes: Sequence[Episode], table: TokenTable, value: Floats) -> Floats:
        """The critic's value where each turn's action begins; also of a turn whose action has no token [turns]."""
        out = np.full(sum(len(e.turns) for e in episodes), np.nan)
        out[table.turn[table.first]] = value[table.first]
        silent = np.isnan(out)
        if silent.any():
            contexts = [context for e in episodes for context in e.contexts()]
            out[silent] = self._values_after([contexts[n] for n in np.flatnonzero(silent)])
        return out

    def _bootstrap(self, episodes: Sequence[Episode]) -> Floats:
        """The critic's value behind each episode that was cut off, on all its turns; 0 elsewhere."""
        cut_off = [n for n, episode in enumerate(episodes) if episode.truncated]
        value = np.zeros(len(episodes))
        value[cut_off] = self._values_after([context_behind(episodes[n]) for n in cut_off])
        return np.repeat(value, [len(e.turns) for e in episodes])

    def _values_after(self, contexts: Sequence[Sequence[int]]) -> Floats:
        """The critic's value at the end of each context, where an action would begin [contexts]."""
        rows = [Row(np.append(np.array(ids, np.int64), 0), np.array([len(ids)])) for ids in contexts]
        return self._pass(self.scorer, rows, 1.0)[1]

    # The update -------------------------------------------------------------------------------------------------------

    def _step(
        self, minibatch: Step, table: TokenTable, weight: Tensor, coefficient: Tensor, metrics: UpdateMetrics
    ) -> None:
        """One optimizer step over all micro-batches; a gradient that says nothing, or is broken, moves nothing."""
        self.optimizer.zero_grad()
        for micro in minibatch.tree.batches(self.config.max_tokens):
            entries = minibatch.entries[micro.scored]
            index = self._tensor(entries)
            tokens = self._tokens(micro, self._columns(table, entries) | {"weight": weight[index]})
            losses = self.algorithm.loss_term(tokens)
            for penalty in self.algorithm.penalty:
                losses = losses + penalty(tokens)
            loss = (coefficient[index] * losses).sum()
            torch.autograd.backward(loss)
            metrics.add(tokens, loss)
        norm = float(nn.utils.clip_grad_norm_(self.optimizer.parameters, self.config.max_grad_norm))
        made = 0.0 < norm < float("inf")
        metrics.step(norm, minibatch.tree, made=made)
        if made:
            self.optimizer.step()

    def _weights(self, table: TokenTable) -> tuple[Tensor, Tensor]:
        """Weight of every token of the update, from the policy that sampled, and its coefficient in the loss."""
        columns = self._columns(table, slice(None))
        before = Tokens(logprob=columns["old"], **columns)
        weight = before.weight
        for token_weight in self.algorithm.token_weight:
            weight = weight * token_weight(before)
        return weight, self.algorithm.aggregate(weight, before.sequence)

    def _columns(self, table: TokenTable, index: Ints | slice) -> dict[str, Tensor]:
        """Columns of some tokens on the model's device."""
        return table.tensors(index, self._tensor)

    def _tensor(self, values: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(values).to(self.model.device)
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def _tokens(self, micro: MicroBatch, columns: Mapping[str, Tensor]) -> Tokens:
        """The micro-batch's tokens, scored with the weights that are being updated."""
        scores = self.scorer.score(
            micro, entropy="entropy" in self.needs, values=self.values, temperature=self.config.temperature
        )
        tokens = Tokens(logprob=scores.logprob, **columns)
        if scores.entropy is not None:
            tokens = replace(tokens, entropy=scores.entropy)
        return tokens if scores.value is None else replace(tokens, value=scores.value)


class _ValueHead(nn.Linear):
    """A linear map from the last hidden state to one number, starting at zero; in the precision of what is learned."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        super().__init__(model.config.get_text_config().hidden_size, 1, device=model.device, dtype=dtype)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden.to(self.weight.dtype))
