"""Branching: how the episodes of a group come about; which of them are forked from another one, and where.

Every rule is asked once for each state that an episode meets, before its action is played, and a fork goes its own way
from the first token of that action. A group always ends with its size: what branches do not fill, fresh roots do. Draws
are keyed by lineage, so one seed gives one tree; only with environments that run in threads can timing decide which of
two branchings gets the last room.

=====================  ===============================================================================================
independent            every episode from ``reset``: GRPO
entropy_branching      more often where the policy is less sure than at its start: ARPO (2507.19849), AEPO (2510.14545)
random_branching       a coin flip: ARPO without the entropy
spread_branching       more often where rewards differed so far, of the same state or as late in an episode
tree                   a fixed number of children at fixed turns: SPO-tree (2505.23564)
root_continuations     continuations that measure the value along one episode: SPO-chain
vines                  continuations of some states of an episode: polychromic objectives (2509.25424)
=====================  ===============================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

from agentgym.errors import UsageError
from agentgym.rollout import Branching, Independent
from agentgym.trainers.parts import branching
from agentgym.trainers.sampling.branching_rules import Chance, Entropy, RootContinuations, Spread, Tree, Vines

#: Makes a rule, a new one for each run: rules count and remember.
BranchingFactory: TypeAlias = Callable[[], Branching]
#: What rules may need of the policy: the entropies of the tokens that it samples.
SAMPLED_ENTROPY = "sampled_entropy"


@branching
def independent() -> BranchingFactory:
    """Every episode starts from ``reset``."""
    return Independent


@branching(needs=(SAMPLED_ENTROPY,))
def entropy_branching(
    roots: int | None = None,
    alpha: float = 0.5,
    beta: float = 0.2,
    window: int = 20,
    each: int = 1,
    cap: int | None = None,
    fill: bool = True,
    threshold: float | None = None,
    match_released_code: bool = False,
    penalty: float = 0.0,
    allocation: float | None = None,
) -> BranchingFactory:
    """Branch after an answer of the environment with probability P = α + β·ΔH; ARPO (2507.19849, eq. 4-5).

    ΔH = h − h₀, h the mean entropy of the first ``window`` tokens of the action that follows the answer, divided by
    ln V so that it lies in 0…1, and h₀ the same of the episode's first action, which forks inherit. An answer that says
    that the action was not understood is no place to branch.

    Args:
        roots: episodes that start at once; by default half of the group.
        each: branches of one state.
        cap: at most so many branches over all groups of a rollout.
        fill: on its last turn (the run's ``max_turns``) an episode takes its share of the room that is left, whatever
            its entropy; what is left after that becomes fresh roots, which take longer and cost more.
        threshold: branch if P > threshold, as the paper writes it, instead of a draw.
        match_released_code: the signal of the released code: entropy *summed* over the window, of the action *before*
            the answer (so one turn late, and ΔH = 0 after the first), against the first action after the last fork. Its
            other habits (initial values left over from other tasks, unseeded draws, fresh roots one by one) are not
            offered.
        penalty: AEPO (2510.14545): P is multiplied by 1 − penalty·l, l the number of branchings directly before on the
            path.
        allocation: AEPO's β of the number of roots: one episode is played first, then size · σ(β(H_root − H_tool))
            roots are the group's due, H the mean entropy (nats) at its first action and at its later ones. It counts as
            one of them, unless one is due: then it is left out of the group, because it was never branched.

    Raises:
        UsageError: a value is outside its range; during a rollout: the policy gives no entropies.
    """
    _positive(roots=roots, window=window, each=each)
    if not 0.0 <= penalty <= 1.0:
        raise UsageError(f"penalty must lie in [0, 1], got {penalty!r}")
    return partial(
        Entropy,
        alpha,
        roots,
        each,
        cap,
        fill,
        probe=0 if match_released_code else window,
        beta=beta,
        window=window,
        threshold=threshold,
        match_released_code=match_released_code,
        penalty=penalty,
        allocation=allocation,
    )


@branching
def random_branching(
    roots: int | None = None, chance: float = 0.5, each: int = 1, cap: int | None = None, fill: bool = True
) -> BranchingFactory:
    """Branch with probability ``chance`` wherever :func:`entropy_branching` would ask; its arguments."""
    _positive(roots=roots, each=each)
    return partial(Chance, chance, roots, each, cap, fill)


@branching
def spread_branching(
    roots: int | None = None,
    alpha: float = 0.5,
    beta: float = 0.5,
    memory: int = 32,
    prior: float = 4.0,
    each: int = 1,
    cap: int | None = None,
    fill: bool = True,
) -> BranchingFactory:
    """Branch where what follows was undecided so far: P = α + β·(s − s̄)/s̄, s the spread of returns from the state on.

    s² = ((n−1)·var + prior·v) / (n−1 + prior): the variance of the last ``memory`` returns seen from an equal anchor in
    this run, drawn towards v, the running variance of the returns seen from that turn number on; s̄ is the running mean
    of s. Before anything was seen, P = α. Our own rule, as a counterpart to entropy: it reads outcomes, not the policy.

    Args: as :func:`entropy_branching`.
    """
    _positive(roots=roots, each=each, memory=memory)
    return partial(Spread, alpha, roots, each, cap, fill, beta=beta, memory=memory, prior=prior)


@branching
def tree(factors: Sequence[int] = (2, 2, 2), every: int = 1) -> BranchingFactory:
    """``factors[0]`` roots, then at turns every, 2·every, … each episode becomes ``factors[1]``, ``factors[2]``, ….

    SPO-tree (2505.23564) with turns for segments; its factors are 6, 6, 6. The group's size has to be the product.
    Episodes that end before a cut leave room for fresh roots.
    """
    _positive(every=every, **{f"factor {i}": f for i, f in enumerate(factors)})
    return partial(Tree, factors=tuple(factors), every=every)


@branching
def vines(states: int = 2, continuations: int = 4, horizon: int = 10) -> BranchingFactory:
    """Roots, each left at ``states`` of its turns by ``continuations`` − 1 forks, which fork no more.

    The turns are drawn from 1…``horizon`` − 1, so of an episode that ends earlier fewer are used. A group of
    1 + states·(continuations − 1) episodes holds one such root. Polychromic (2509.25424) uses 2 states and 8.
    """
    _positive(states=states, continuations=continuations, horizon=horizon)
    return partial(Vines, states, continuations, horizon)


@branching
def root_continuations(continuations: int = 3, every: int = 1) -> BranchingFactory:
    """Roots one after the other; at every ``every``-th turn of a root ``continuations`` forks, which fork no more.

    SPO-chain (2505.23564, K = 9) with turns for segments; the first cut is before the first action, so every turn has a
    value before it; ``monte_carlo_values`` makes advantages of them.
    """
    _positive(continuations=continuations, every=every)
    return partial(RootContinuations, continuations=continuations, every=every)


def _positive(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < 1:
            raise UsageError(f"{name} must be at least 1, got {value!r}")
