"""Rewards and credit of the papers, written out in plain loops over episodes and turns; nothing of the package is used.

A reward or credit is ``{(episode, turn): number}``, a return ``{episode: number}``.
"""

from __future__ import annotations

import difflib
import itertools
import math

import numpy as np
import torch
from ragged import speak

# --- reading the episodes ---------------------------------------------------------------------------------------------


def paid(kept):
    return {(e.id, t): turn.reward for e in kept for t, turn in enumerate(e.turns)}


def returns(kept, reward):
    return {e.id: sum(reward[e.id, t] for t in range(len(e.turns))) for e in kept}


def discounted_return(kept, reward, discount):
    out = {}
    for e in kept:
        for t in range(len(e.turns)):
            out[e.id, t] = sum(discount ** (k - t) * reward[e.id, k] for k in range(t, len(e.turns)))
    return out


def group(kept, e):
    return [o for o in kept if o.group == e.group]


def tokens(e):
    return sum(len(turn.sample.action) for turn in e.turns)


def calls(turn):
    return sum(call.status == "ran" for call in turn.tool_calls)


def solved(e):
    if e.success is not None:
        return e.success
    return e.stop == "terminated" and sum(t.reward for t in e.turns) > 0


def everywhere(kept, by_episode):
    return {(e.id, t): by_episode[e.id] for e in kept for t in range(len(e.turns))}


# --- comparing --------------------------------------------------------------------------------------------------------


def normal(x, others, divide=True, ddof=1, eps=1e-6):
    """(x − mean) / (std + ε); 0 without spread or company."""
    mean = sum(others) / len(others)
    if len(others) == 1 or max(others) - min(others) < 1e-12:
        return 0.0
    deviation = math.sqrt(sum((o - mean) ** 2 for o in others) / (len(others) - ddof))
    return (x - mean) / (deviation + eps if divide else 1.0)


def grpo(kept, reward, divide=True):
    total = returns(kept, reward)
    return everywhere(kept, {e.id: normal(total[e.id], [total[o.id] for o in group(kept, e)], divide) for e in kept})


def leave_one_out(kept, reward):
    total, out = returns(kept, reward), {}
    for e in kept:
        others = [total[o.id] for o in group(kept, e) if o is not e]
        out[e.id] = total[e.id] - sum(others) / len(others) if others else 0.0
    return everywhere(kept, out)


def over_turns(kept, values, same, divide, alone=0.0):
    """Each turn against all turns of its group for which ``same`` holds."""
    out = {}
    places = [(e, t) for e in kept for t in range(len(e.turns))]
    for e, t in places:
        mine = [(o, k) for o, k in places if o.group == e.group and ((o is e and k == t) or same(e, t, o, k))]
        others = [values[o.id, k] for o, k in mine]
        if len(others) == 1 and alone == "keep":
            out[e.id, t] = values[e.id, t]
        else:
            out[e.id, t] = normal(values[e.id, t], others, divide)
    return out


def same_state(e, t, o, k):
    return e.turns[t].anchor is not None and e.turns[t].anchor == o.turns[k].anchor


def whitened(kept, credit):
    """Mean 0 and variance 1 over all tokens of the batch."""
    every = [credit[e.id, t] for e in kept for t, turn in enumerate(e.turns) for _ in turn.sample.action]
    mean = sum(every) / len(every)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in every) / (len(every) - 1))
    return {place: (x - mean) / (deviation + 1e-8) for place, x in credit.items()}


def gigpo(kept, *, scale=False, scale_episode=None, discount=0.95, step_weight=1.0, penalty=0.0, similarity=1.0):
    reward = paid(kept)
    whole = grpo(kept, reward, scale if scale_episode is None else scale_episode)
    clusters = alike(kept, similarity) if similarity < 1 else None

    def same(e, t, o, k):
        return clusters[e.id, t] == clusters[o.id, k] if clusters else same_state(e, t, o, k)

    step = over_turns(kept, discounted_return(kept, reward, discount), same, scale)
    return {
        (e.id, t): whole[e.id, t] + step_weight * step[e.id, t] - penalty * (turn.error is not None)
        for e in kept
        for t, turn in enumerate(e.turns)
    }


def alike(kept, threshold):
    """Greedy clusters of observations: a text joins the first whose first member is alike enough."""
    firsts, out = [], {}
    for e in kept:
        for t, turn in enumerate(e.turns):
            for n, (g, text) in enumerate(firsts):
                match = difflib.SequenceMatcher(None, turn.observation, text, autojunk=False)
                if g == e.group and match.ratio() >= threshold:
                    out[e.id, t] = n
                    break
            else:
                out[e.id, t] = len(firsts)
                firsts.append((e.group, turn.observation))
    return out


def gigpo_released(kept, *, penalty, scale, discount=0.95):
    """Every turn is a row of the episode's statistics; the penalty comes first; a lone row keeps its value."""
    reward = paid(kept)
    total, back = returns(kept, reward), discounted_return(kept, reward, discount)
    bad = {(e.id, t): penalty * (turn.error is not None) for e in kept for t, turn in enumerate(e.turns)}
    row = {(e.id, t): total[e.id] - bad[e.id, t] for e in kept for t in range(len(e.turns))}
    whole = over_turns(kept, row, lambda *_: True, scale, alone="keep")
    step = over_turns(kept, {p: back[p] - bad[p] for p in back}, same_state, scale)
    return {p: whole[p] + step[p] for p in row}


# --- rewards ----------------------------------------------------------------------------------------------------------


def on_last(kept, reward, more):
    """The reward, with something added on each episode's last turn."""
    out = dict(reward)
    for e in kept:
        out[e.id, len(e.turns) - 1] += more(e)
    return out


def too_long(e, limit, buffer, cap=math.inf):
    return -min(cap, max(0.0, (tokens(e) - (limit - buffer)) / buffer))


def malformed(kept, score):
    reward = paid(kept)
    for e in kept:
        if e.stop != "terminated" or any(turn.error is not None for turn in e.turns):
            for t in range(len(e.turns)):
                reward[e.id, t] = score if t == len(e.turns) - 1 else 0.0
    return reward


def times(kept, reward, factor):
    """What an episode earned times a factor; what is not positive stays."""
    total = returns(kept, reward)
    return {
        (e.id, t): reward[e.id, t] * (factor(e) if total[e.id] > 0 else 1.0) for e in kept for t in range(len(e.turns))
    }


def otc(kept, smoothing=4.0, scale=1.0, fewest="group"):
    def factor(e):
        m = sum(map(calls, e.turns))
        same = [o for o in kept if (o.group == e.group if fewest == "group" else o.task.task_id == e.task.task_id)]
        known = [sum(map(calls, o.turns)) for o in same if solved(o)]
        if fewest == "none" or (known and min(known) == 0):
            return scale * math.cos(m * math.pi / (2 * m + smoothing))
        if not known:
            return scale
        n = min(known)
        return scale * math.sin(2 * n * m / (m + n) * math.pi / (2 * n))

    return times(kept, paid(kept), factor)


def rubrics(kept, weight=0.3, cited=False, relative=True):
    def share(e):
        shown = set()
        for turn in e.turns[: len(e.turns) - cited]:
            for call in turn.tool_calls:
                lines = call.result.split("\n") if call.error is None else []
                shown |= {d for d in e.evidence if any(line.startswith(f"[{d}] ") for line in lines)}
        found = [d for d in shown if f"[{d}]" in e.turns[-1].action] if cited else shown
        return len(found) / len(e.evidence)

    def factor(e):
        if not e.evidence:
            return 1.0
        best = max(share(o) for o in group(kept, e)) if relative else 1.0
        return 1 - weight + weight * (share(e) / best if best else 0.0)

    return times(kept, paid(kept), factor)


def arpo_reward(kept, bonus, score):
    reward = malformed(kept, score)
    total = returns(kept, reward)

    def more(e):
        used = {call.name for turn in e.turns for call in turn.tool_calls if call.error is None}
        return bonus if total[e.id] > 0 and len(used) >= 2 else 0.0

    return on_last(kept, reward, more)


# --- calls and beliefs ------------------------------------------------------------------------------------------------


def aspo(kept, delta=-2.0, limit=0.7):
    credit, first = grpo(kept, paid(kept)), {}
    for e in kept:
        calling = [t for t, turn in enumerate(e.turns) if calls(turn)]
        if solved(e) and calling:
            first[e.id] = sum(len(turn.sample.action) for turn in e.turns[: calling[0] + 1])
    for e in kept:
        if e.id in first:
            early = [o for o in group(kept, e) if o.id in first]
            p = sum(first[o.id] for o in early) / len(early)
            length = sum(map(tokens, early)) / len(early)
            for t in range(len(e.turns)):
                bound = limit * max(credit[e.id, t], 0.0)
                credit[e.id, t] += min(bound, max(-bound, delta * (first[e.id] - p) / length))
    return credit


def beliefs(world, e, opening="<answer>", closing="</answer>"):
    """bₜ before the first turn, after each turn but one that ended the episode; of the answer believed most at the end.

    Asked of the weights before the update, at temperature 1.
    """
    encode = lambda text: world.tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
    contexts = [list(c) for c in e.contexts()] + ([] if e.stop == "terminated" else [world.after(e)])
    every = []
    for answer in e.answers:
        ids, row = encode(answer), []
        for context in contexts:
            with torch.no_grad():
                said = speak(world.moved, [*context, *encode(opening)], [*ids, *encode(closing)], 1.0)
            row.append(float(said.logprob[: len(ids)].mean()))
        every.append(row)
    return max(every, key=lambda b: b[-1]) if every else None


def igpo(world, kept, reward=None, discount=1.0, probabilities=False):
    gain, credit = {}, {}
    for e in kept:
        b = beliefs(world, e)
        for t in range(len(b) - 1 if b else 0):
            gain[e.id, t] = math.exp(b[t + 1]) - math.exp(b[t]) if probabilities else b[t + 1] - b[t]
    total = returns(kept, reward or paid(kept))
    for e in kept:
        mine = [total[o.id] for o in group(kept, e)]
        pool = [gain[o.id, t] for o in group(kept, e) for t in range(len(o.turns)) if (o.id, t) in gain]
        for t in range(len(e.turns)):
            last = t == len(e.turns) - 1
            credit[e.id, t] = normal(total[e.id], mine, ddof=0) if last else 0.0
            if (e.id, t) in gain:
                credit[e.id, t] += normal(gain[e.id, t], pool, ddof=0)
    return discounted_return(kept, credit, discount)


# --- trees ------------------------------------------------------------------------------------------------------------


def played_by(kept, e, t):
    """The episode that first played turn ``t`` of ``e``."""
    parents = {o.id: o for o in kept}
    while e.parent is not None and t < e.fork_turn:
        e = parents[e.parent]
    return e.id


def copies(kept, e, t):
    mine = played_by(kept, e, t)
    return [o for o in group(kept, e) if t < len(o.turns) and played_by(kept, o, t) == mine]


def hard(kept, credit):
    out = {}
    for e in kept:
        for t in range(len(e.turns)):
            same = copies(kept, e, t)
            out[e.id, t] = sum(credit[o.id, t] for o in same) / len(same)
    return out


def value_of(kept, total, members, depth, leaves):
    """V of the state in which these episodes are after ``depth`` turns."""
    if leaves:
        return sum(total[e.id] for e in members) / len(members)
    ways = {}
    for e in members:
        ways.setdefault(played_by(kept, e, depth) if depth < len(e.turns) else ("end", e.id), []).append(e)
    values = []
    for way, below in ways.items():
        ended = isinstance(way, tuple)
        values.append(total[below[0].id] if ended else value_of(kept, total, below, depth + 1, leaves))
    return sum(values) / len(values)


def node_values(kept, reward, leaves=False):
    """V(end of the segment) − V(its start), a segment being turns of equally many copies."""
    total, out = returns(kept, reward), {}
    for e in kept:
        start = 0
        for t in range(len(e.turns)):
            same = copies(kept, e, t)
            if t and len(same) != len(copies(kept, e, t - 1)):
                start = t
            above = copies(kept, e, start - 1) if start else group(kept, e)
            before = value_of(kept, total, above, start, leaves)
            out[e.id, t] = value_of(kept, total, same, t + 1, leaves) - before
    return out


def monte_carlo_values(kept, reward):
    total, out = returns(kept, reward), {}
    for e in kept:
        cuts = {}
        for o in group(kept, e):
            if o.parent == e.id and o.fork_turn >= (e.fork_turn or 0):
                cuts.setdefault(o.fork_turn, []).append(total[o.id])
        value = {t: sum(v) / len(v) for t, v in cuts.items()}
        for t in range(len(e.turns)):
            at = max((c for c in value if c <= t), default=None)
            following = min((c for c in value if c > t), default=None)
            end = total[e.id] if following is None else value[following]
            out[e.id, t] = 0.0 if at is None else end - value[at]
    return out


def diverse_sets(kept, reward, size=2, window=5):
    total, out = returns(kept, reward), {}
    for e in kept:
        mine = [total[o.id] for o in group(kept, e)]
        for t in range(len(e.turns)):
            out[e.id, t] = total[e.id] - sum(mine) / len(mine)
    pools = [(0, [e for e in group(kept, o) if e.parent is None]) for o in kept if o.member == 0]
    for e in kept:
        for t in range(1, len(e.turns)):
            forked = [o for o in group(kept, e) if o.parent == e.id and o.fork_turn == t]
            pools += [(t, [e, *forked])] if forked else []
    for at, pool in sorted(pools, key=lambda pool: pool[0]):
        if len(pool) <= size:
            continue
        way = {e.id: {turn.anchor for turn in e.turns[at + 1 :]} for e in pool}
        f = {}
        for chosen in itertools.combinations(pool, size):
            worth = sum(min(1.0, max(0.0, total[e.id])) for e in chosen) / size
            ways = []
            for e in chosen:
                ways += [way[e.id]] if way[e.id] not in ways else []
            f[tuple(e.id for e in chosen)] = worth * len(ways) / size
        for e in pool:
            own = [x for chosen, x in f.items() if e.id in chosen]
            for t in range(at, min(len(e.turns), at + window)):
                out[e.id, t] = sum(own) / len(own) - sum(f.values()) / len(f)
    for e in kept:
        for t in range(e.fork_turn or 0):
            out[e.id, t] = 0.0
    return out


# --- a critic ---------------------------------------------------------------------------------------------------------


def gae(world, kept, reward, discount=1.0, gae_lambda=0.95):
    """Advantages over turns, and what the critic should have said: advantage + V, V before the update."""
    head, bias = world.head.detach(), float(world.bias.detach())
    value = lambda hidden: float(hidden[0] @ head) + bias  # noqa: E731
    advantage, target = {}, {}
    for e in kept:
        now = [value(world.said["moved", e.id, t].hidden.detach()) for t in range(len(e.turns))]
        after = 0.0
        if e.stop in ("turn_limit", "budget", "context_full"):
            with torch.no_grad():
                after = value(speak(world.moved, world.after(e), ()).hidden)
        carried = 0.0
        for t in reversed(range(len(e.turns))):
            following = now[t + 1] if t + 1 < len(now) else after
            carried = reward[e.id, t] + discount * following - now[t] + discount * gae_lambda * carried
            advantage[e.id, t], target[e.id, t] = carried, carried + now[t]
    return advantage, target


def kl_in_reward(world, kept, beta):
    """Minus β times the log-ratio of how it was sampled to the first weights, on the turn where it arises."""
    reward = paid(kept)
    for e in kept:
        for t, turn in enumerate(e.turns):
            reward[e.id, t] -= beta * (
                float(np.sum(turn.sample.logprobs)) - float(world.said["first", e.id, t].logprob.sum())
            )
    return reward
