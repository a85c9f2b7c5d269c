"""A local generation engine: continuous batching over KV slots whose keys and values stay between turns.

Each running episode owns a KV slot. A turn's new context tokens are prefilled on top of what it already holds, then all
requests decode together, one token a step; a request that is finished leaves the batch at once, and a new one joins
before the next step. KV slots with equal new contexts (the members of a group) are prefilled once.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agentgym import keyed_random
from agentgym.models.attention import CachePlan, install
from agentgym.models.engines.kv_cache import KVCache
from agentgym.records import common_prefix

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TokenSampling:
    """How one request is sampled; temperature and top_p as in :class:`Engine`.

    Attributes:
        stop: token ids that end the action, beside the engine's own.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    stop: frozenset[int] = frozenset()


@dataclass(slots=True)
class Generation:
    """One request in work, and then its result.

    Attributes:
        kv_slot: where its keys and values live.
        context: the full context.
        key: every token's random number is ``keyed_random.uniform(key, position in the action)``.
        sampling: None: as the engine does.
        among: the actions it may become, as token ids with what ends them; None: any.
        action, logprobs, entropies: what was sampled so far.
        choices: with ``among``, the ids that each token was drawn among. A token without an alternative is not drawn.
    """

    kv_slot: int
    context: list[int]
    key: int
    max_new_tokens: int
    sampling: TokenSampling | None = None
    among: Sequence[Sequence[int]] | None = None
    action: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    choices: list[tuple[int, ...]] = field(default_factory=list)

    def possible(self) -> tuple[int, ...]:
        """The ids that the next token can be, ascending; with ``among`` only."""
        at = len(self.action)
        return tuple(sorted({ids[at] for ids in self.among or () if len(ids) > at}))

    def append(self, token: int, logprob: float, entropy: float | None) -> None:
        """The next token."""
        if self.among is not None:
            at = len(self.action)
            self.choices.append(self.possible())
            self.among = [ids for ids in self.among if len(ids) > at and ids[at] == token]
        self.action.append(token)
        self.logprobs.append(logprob)
        if entropy is not None:
            self.entropies.append(entropy)


class Engine:
    """Generates for many requests at once with a Hugging Face causal LM.

    Args:
        model: the model; its attention is set to :func:`~agentgym.models.attention.planned_attention`. It must accept
            ``logits_to_keep`` (all current decoder models do).
        stop: the token ids that end an action.
        temperature: 0 is greedy; the recorded log-probabilities are those of the tempered distribution (of the plain
            one when greedy).
        top_p: nucleus sampling; log-probabilities are then still those of the full tempered distribution.
        entropies: also record the entropy (nats) of every token's distribution.
        max_context: never go beyond so many tokens per KV slot.

    Raises:
        UsageError: a model whose attention cannot be computed so; the message says why.
    """

    def __init__(
        self,
        model: Any,
        stop: Collection[int],
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        entropies: bool = False,
        max_context: int = 4096,
    ) -> None:
        install(model)
        self.model, self.stop = model, frozenset(stop)
        self.temperature, self.top_p, self.entropies = temperature, top_p, entropies
        self.max_context = max_context
        self._store = KVCache()
        self._held: dict[int, list[int]] = {}  # KV slot -> the tokens whose keys and values are valid
        self._free: list[int] = []
        self._new: list[Generation] = []
        self._decoding: list[Generation] = []
        self.forwarded = 0  #: tokens that went through the model
        self.generated = 0  #: tokens sampled

    @property
    def busy(self) -> bool:
        """Whether a request is in work."""
        return bool(self._new or self._decoding)

    def open(self) -> int:
        """Claim a KV slot."""
        kv_slot = self._free.pop() if self._free else len(self._held)
        self._held[kv_slot] = []
        return kv_slot

    def close(self, kv_slot: int) -> None:
        """Give a KV slot back; the lowest free ones are used first, so those in use stay dense."""
        del self._held[kv_slot]
        self._free.append(kv_slot)
        self._free.sort(reverse=True)

    def forget(self) -> None:
        """The weights changed: nothing kept is valid any more."""
        for held in self._held.values():
            held.clear()

    def copy(self, source: int, target: int, length: int | None = None) -> None:
        """Let a KV slot start with what another one holds (a branch), or its first tokens."""
        held = self._held[source][:length]
        self._store.reserve(max(self._held) + 1, len(held))
        self._store.copy(source, target, len(held))
        self._held[target] = list(held)

    def submit(
        self,
        kv_slot: int,
        context: list[int],
        key: int,
        max_new_tokens: int,
        sampling: TokenSampling | None = None,
        among: Sequence[Sequence[int]] | None = None,
    ) -> Generation:
        """Ask for an action; call :meth:`step` until it comes out finished."""
        room = self.max_context - len(context)
        request = Generation(kv_slot, context, key, min(max_new_tokens, room), sampling, among)
        self._new.append(request)
        return request

    @torch.no_grad()
    def step(self) -> list[Generation]:
        """Prefill what is new, else decode one token for every request; returns the requests that are finished."""
        if self._new:
            batch, self._new = self._new, []
            logits = self._prefill(batch)
            self._decoding.extend(batch)
            return self._sample(batch, logits)
        if not self._decoding:
            return []
        self._decoding.sort(key=lambda g: g.kv_slot)
        batch = self._decoding
        starts = [len(self._held[g.kv_slot]) for g in batch]
        tokens = [g.action[start - len(g.context) :] for g, start in zip(batch, starts, strict=True)]
        logits = self._forward([g.kv_slot for g in batch], tokens, starts)
        for g, new in zip(batch, tokens, strict=True):
            self._held[g.kv_slot].extend(new)
        return self._sample(batch, logits)

    def _prefill(self, batch: list[Generation]) -> Tensor:
        """Last-position logits [batch, vocabulary] of all new requests; equal work is done once."""
        starts: list[int] = []
        leaders: list[int] = []
        leader_of: list[int] = []
        seen: dict[tuple[int, ...], int] = {}
        for g in batch:
            # At least the last token is computed again: its logits are needed.
            start = min(common_prefix(self._held[g.kv_slot], g.context), len(g.context) - 1)
            starts.append(start)
            leader = seen.setdefault(tuple(g.context), len(leaders)) if start == 0 else len(leaders)
            if leader == len(leaders):
                leaders.append(len(leader_of))
            leader_of.append(leader)
        logits = self._forward(
            [batch[i].kv_slot for i in leaders],
            [batch[i].context[starts[i] :] for i in leaders],
            [starts[i] for i in leaders],
            reserve_kv_slots=max(g.kv_slot for g in batch) + 1,
        )
        for index, (g, leader) in enumerate(zip(batch, leader_of, strict=True)):
            if leaders[leader] != index:
                self._store.copy(batch[leaders[leader]].kv_slot, g.kv_slot, len(g.context))
            self._held[g.kv_slot] = list(g.context)
        return logits[torch.tensor(leader_of, device=logits.device)]

    def _forward(
        self, kv_slots: Sequence[int], tokens: Sequence[Sequence[int]], starts: Sequence[int], reserve_kv_slots: int = 0
    ) -> Tensor:
        """Put new tokens behind what the KV slots hold; logits [rows, vocabulary] at each row's last token."""
        lengths, begin = np.array([len(t) for t in tokens]), np.array(starts)
        self._store.reserve(max(reserve_kv_slots, max(kv_slots) + 1), int((begin + lengths).max()))
        parts = [np.arange(len(kv_slots))]
        if self.model.device.type == "cpu":  # a layer takes 12·hidden² products a token, and 2·hidden a pair
            parts = alike(lengths, begin + lengths, token=6 * self.model.config.get_text_config().hidden_size)
        found = [
            self._together([kv_slots[i] for i in p.tolist()], [tokens[i] for i in p.tolist()], begin[p], lengths[p])
            for p in parts
        ]
        self.forwarded += int(lengths.sum())
        back = np.argsort(np.concatenate(parts))
        return torch.cat(found)[torch.as_tensor(back, device=self.model.device)]

    def _together(self, kv_slots: Sequence[int], tokens: Sequence[Sequence[int]], begin: Ints, lengths: Ints) -> Tensor:
        """One call of the model, padded to the longest row."""
        device = self.model.device
        width, read = int(lengths.max()), int((begin + lengths).max())
        # aligned right: every row's last token is in the last column
        offset = np.arange(width) - (width - lengths[:, None])
        valid = offset >= 0
        ids = np.zeros((len(kv_slots), width), np.int64)
        ids[valid] = np.concatenate([np.asarray(t, np.int64) for t in tokens])
        positions = np.where(valid, begin[:, None] + offset, 0)
        store = self._store
        store.read = read
        store.positions = torch.as_tensor(np.where(valid, positions, store.capacity - 1), device=device)
        rows = torch.tensor(kv_slots, device=device)
        store.row_index = rows[:, None]
        first = kv_slots[0]
        adjacent = list(kv_slots) == list(range(first, first + len(kv_slots)))
        store.rows = slice(first, first + len(kv_slots)) if adjacent else rows
        at = torch.as_tensor(positions, device=device)
        plan = CachePlan(at, read)
        logits = self.model(
            input_ids=torch.as_tensor(ids, device=device),
            attention_mask=plan.mask(None),
            position_ids=at,
            plan=plan,
            past_key_values=store,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return torch.as_tensor(logits[:, -1])

    def _sample(self, batch: list[Generation], logits: Tensor) -> list[Generation]:
        keys = np.array([g.key for g in batch], np.uint64)
        positions = np.array([len(g.action) for g in batch])
        noise = keyed_random.uniforms(keys, positions)
        tokens, logprobs, entropies = self._draw(batch, _restricted(batch, logits), noise)
        self.generated += len(batch)
        finished = []
        for i, g in enumerate(batch):
            g.append(tokens[i], logprobs[i], entropies[i] if self.entropies else None)
            while g.among is not None and not self._ended(g) and len(g.possible()) == 1:
                g.append(g.possible()[0], 0.0, 0.0 if self.entropies else None)
            if self._ended(g):
                finished.append(g)
        if finished:
            gone = set(map(id, finished))
            self._decoding = [g for g in self._decoding if id(g) not in gone]
        return finished

    def _ended(self, g: Generation) -> bool:
        stops = g.action[-1] in self.stop or (g.sampling is not None and g.action[-1] in g.sampling.stop)
        return stops or len(g.action) >= g.max_new_tokens

    def _draw(
        self, batch: list[Generation], logits: Tensor, noise: np.ndarray[Any, np.dtype[np.float64]]
    ) -> tuple[list[int], list[float], list[float]]:
        """:func:`sample`, for each row as its request says."""
        own = (self.temperature, self.top_p)
        wanted = [own if g.sampling is None else (g.sampling.temperature, g.sampling.top_p) for g in batch]
        if wanted.count(wanted[0]) == len(wanted):
            return sample(logits, noise, wanted[0][0], wanted[0][1], entropy=self.entropies)
        drawn: tuple[list[Any], list[Any], list[Any]] = ([0] * len(batch), [0.0] * len(batch), [0.0] * len(batch))
        for how in dict.fromkeys(wanted):
            rows = [i for i, other in enumerate(wanted) if other == how]
            found: tuple[list[Any], ...] = sample(logits[rows], noise[rows], how[0], how[1], entropy=self.entropies)
            for column, values in enumerate(found):
                for row, value in zip(rows, values, strict=False):  # there may be no entropies
                    drawn[column][row] = value
        return drawn


def alike(width: Ints, read: Ints, *, token: int, call: int = 50_000) -> list[Ints]:
    """Parts of a batch that cost least when each is padded to its longest row: numbers of rows, each ascending.

    Args:
        width, read: new tokens and readable tokens of each row, [rows].
        token: query-key pairs that cost as much as one token outside attention.
        call: the same for one more call of the model.
    """
    order = np.argsort(read, kind="stable")
    width, read = width[order], read[order]
    best, begin = np.zeros(len(order) + 1), np.zeros(len(order) + 1, np.int64)
    for end in range(1, len(order) + 1):  # best[n]: of the n rows that read least; a part is a run of them
        widest = np.maximum.accumulate(width[:end][::-1])[::-1]
        cost = best[:end] + np.arange(end, 0, -1) * widest * (read[end - 1] + token) + call
        begin[end] = cost.argmin()
        best[end] = cost[begin[end]]
    parts, end = [], len(order)
    while end:
        parts.append(np.sort(order[begin[end] : end]))
        end = begin[end]
    return parts[::-1]


def _restricted(batch: Sequence[Generation], logits: Tensor) -> Tensor:
    """The logits with -inf wherever a request cannot go on."""
    chosen = [i for i, g in enumerate(batch) if g.among is not None]
    if not chosen:
        return logits
    sets = [batch[i].possible() for i in chosen]
    rows = np.repeat(chosen, [len(ids) for ids in sets])
    at = (torch.as_tensor(rows, device=logits.device), torch.as_tensor(np.concatenate(sets), device=logits.device))
    out = logits.clone()
    out[torch.as_tensor(chosen, device=logits.device)] = -torch.inf
    out[at] = logits[at]
    return out


def sample(
    logits: Tensor, noise: np.ndarray[Any, np.dtype[np.float64]], temperature: float, top_p: float, *, entropy: bool
) -> tuple[list[int], list[float], list[float]]:
    """One token a row by inverting the cumulative distribution at ``noise``.

    Args:
        logits: [rows, vocabulary].
        noise: one number in [0, 1) a row.
        temperature: 0 takes the most probable token.

    Returns:
        tokens, their log-probabilities, and (if asked for) the entropies in nats, [rows] each.
    """
    exact = logits if logits.dtype == torch.float64 else logits.float()
    logprob = torch.log_softmax(exact / (temperature or 1.0), -1)
    if temperature == 0:
        chosen = logprob.argmax(-1)
    else:
        prob = logprob.double().exp()
        if top_p < 1:
            ordered, order = prob.sort(-1, descending=True)
            beyond = ordered.cumsum(-1) - ordered >= top_p
            prob = prob.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), 0.0)
        mass = prob.cumsum(-1)
        total = mass[:, -1:]
        point = torch.as_tensor(noise, device=logits.device)[:, None] * total
        # below the total even after rounding, so that the mass grows at what is chosen: it is possible
        point = point.minimum(total.nextafter(torch.zeros_like(total)))
        chosen = (mass <= point).sum(-1)
    entropies = torch.special.entr(logprob.exp()).sum(-1).tolist() if entropy else []
    return chosen.tolist(), logprob.gather(-1, chosen[:, None])[:, 0].tolist(), entropies
