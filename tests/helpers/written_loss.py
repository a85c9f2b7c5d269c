"""Losses of the papers, written out: the loss of each token, which tokens count, and the mean over them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

#: the means by name: over all tokens; over the tokens of an episode (a turn), then over these; sums over episodes
MEANS = ("tokens", "episodes", "turns", "sums")


@dataclass
class Written:
    """A method.

    Attributes:
        credit: {(episode, turn): advantage}.
        loss: ``(ratio-giving turn, advantage) -> loss of its tokens``.
        mean: one of MEANS.
        weight: {(episode, turn): weight of each token}; 0 leaves a token out of the loss and of every count.
        whole: what has one ratio, if not a token: an "episode" or a "turn".
        length: divides a sum over episodes.
        value: the critic's part: (weight, clip, targets).
    """

    credit: dict[tuple[str, int], float]
    loss: Callable[[Heard, float], torch.Tensor]
    mean: str = "tokens"
    weight: dict[tuple[str, int], list[float]] | None = None
    whole: str | None = None
    length: float = 1.0
    value: tuple[float, float | None, dict[tuple[str, int], float]] | None = None


@dataclass
class Heard:
    """A turn's tokens as weights see them: log π (with its graph), how they were sampled, and what the first said."""

    now: torch.Tensor
    old: torch.Tensor
    first: torch.Tensor
    ratio: torch.Tensor
    value: torch.Tensor
    value_before: torch.Tensor


def tensor(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def hear(world, weights, e, whole, weight):
    """The turns of an episode; ``whole`` has one ratio, the geometric mean over what counts, times π/sg(π)."""
    out = []
    for t, turn in enumerate(e.turns):
        now, hidden = world.said[weights, e.id, t]
        old = tensor(turn.sample.logprobs)
        n = len(old)
        value = (hidden @ world.head + world.bias)[:n]
        before = (world.said["moved", e.id, t].hidden @ world.head + world.bias)[:n].detach()
        out.append(Heard(now, old, world.said["first", e.id, t].logprob, (now - old).exp(), value, before))
    if whole:
        gaps = [
            [float(x) for x, w in zip(h.now.detach() - h.old, weight[e.id, t], strict=True) if w > 0]
            for t, h in enumerate(out)
        ]
        for t, h in enumerate(out):
            mine = [x for row in gaps for x in row] if whole == "episode" else gaps[t]
            h.ratio = math.exp(sum(mine) / max(1, len(mine))) * (h.now - h.now.detach()).exp()
    return out


def value_error(heard, target, clip):
    """½ max((V − R)², (V moved at most ``clip`` from before − R)²)."""
    plain = (heard.value - target) ** 2
    if clip is None:
        return plain / 2
    near = heard.value_before + (heard.value - heard.value_before).clamp(-clip, clip)
    return torch.maximum(plain, (near - target) ** 2) / 2


def steps(world, kept, written, count=2):
    """The loss of each optimiser step: groups dealt out in order, counts and means over all of them.

    The second step is made with the weights that the first one led to.
    """
    weight = written.weight or {}
    ones = {(e.id, t): [1.0] * len(turn.sample.action) for e in kept for t, turn in enumerate(e.turns)}
    weight = {place: weight.get(place, one) for place, one in ones.items()}
    counted = {place: sum(w > 0 for w in row) for place, row in weight.items()}
    of_episode = {e.id: sum(counted[e.id, t] for t in range(len(e.turns))) for e in kept}
    every = sum(of_episode.values())
    episodes = sum(n > 0 for n in of_episode.values())
    turns = sum(n > 0 for n in counted.values())
    groups = list(dict.fromkeys(e.group for e in kept))
    first = groups[: -(-len(groups) // count)]
    losses = [tensor(0.0), tensor(0.0)]
    for e in kept:
        number = int(e.group not in first)
        heard = hear(world, ("moved", "further")[number], e, written.whole, weight)
        for t, h in enumerate(heard):
            loss = written.loss(h, written.credit[e.id, t])
            if written.value:
                factor, clip, target = written.value
                loss = loss + factor * value_error(h, target[e.id, t], clip)
            share = {
                "tokens": every,
                "episodes": episodes * of_episode[e.id],
                "turns": turns * counted[e.id, t],
                "sums": episodes * written.length,
            }[written.mean]
            losses[number] = losses[number] + count * (tensor(weight[e.id, t]) * loss).sum() / max(1, share)
    return losses


# --- losses of a turn's tokens ----------------------------------------------------------------------------------------


def clipped(low=0.2, high=0.2, dual=None, kl=0.0, kl_to_old=0.0):
    """max(−Aρ, −A·clip ρ), where A < 0 at most −A·dual; plus KL to the first weights, or to those that sampled."""

    def loss(h, a):
        out = torch.maximum(-a * h.ratio, -a * h.ratio.clamp(1 - low, 1 + high))
        if dual is not None and a < 0:
            out = torch.minimum(out, tensor(-a * dual))
        if kl:
            d = h.first - h.now
            out = out + kl * (d.exp() - d - 1)
        if kl_to_old:  # of samples of the old policy: KL(π_old‖π)
            d = h.now - h.old
            out = out + kl_to_old * (d.exp() - d - 1)
        return out

    return loss


def reinforce(h, a):
    return -a * (h.now - h.now.detach()).exp()


def cispo(high=5.0, low=0.0):
    return lambda h, a: -h.ratio.detach().clamp(low, high) * a * h.now


def aepo(low=0.2, high=0.28):
    """Above the bound a gain keeps it as factor of its gradient; below, a loss has none."""

    def loss(h, a):
        out = []
        for ratio in h.ratio:
            if a > 0 and ratio > 1 + high:
                ratio = (1 + high) * ratio / ratio.detach()
            elif a < 0 and ratio < 1 - low:
                ratio = tensor(1 - low)
            out.append(-a * ratio)
        return torch.stack(out) if out else h.ratio

    return loss


# --- weights of tokens ------------------------------------------------------------------------------------------------


def ones(kept):
    return {(e.id, t): [1.0] * len(turn.sample.action) for e in kept for t, turn in enumerate(e.turns)}


def where(kept, factor):
    """``factor(e, t, place of the token)`` for each token."""
    return {
        (e.id, t): [factor(e, t, n) for n in range(len(turn.sample.action))]
        for e in kept
        for t, turn in enumerate(e.turns)
    }


def low_probability(e, t, n, below=0.9):
    return float(math.exp(e.turns[t].sample.logprobs[n]) < below)


def by_entropy(kept, scale=0.2):
    """1 + a·z, z over all tokens of the update."""
    every = [x for e in kept for turn in e.turns for x in turn.sample.entropies]
    mean = sum(every) / len(every)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in every) / (len(every) - 1))
    return where(kept, lambda e, t, n: 1 + scale * (e.turns[t].sample.entropies[n] - mean) / deviation)
