"""Every parameter of every part and algorithm changes numbers: what its stage gives for the same episodes."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import numpy as np
import outputs
import pytest
import ragged

from agentgym.trainers.advantage import chain, episode_return, standardize
from agentgym.trainers.advantage.turn_weights import drop_zero, mask_truncated
from agentgym.trainers.algorithm import Algorithm, stage_names
from agentgym.trainers.loss.surrogate import epsilon_clip, sequence_ratio, surrogate, unclipped
from agentgym.trainers.parts import STAGES, Part, algorithm_names, get_algorithm, load_parts
from agentgym.trainers.rewards.shaping import env_reward, overlong

load_parts()

#: Another value of a parameter, of all algorithms or of one; beside it what else must be set for it to matter.
OF_ALGORITHMS: dict[str, dict[str, Any]] = {
    "aliases": {"aliases": "mean"},
    "accumulate": {"accumulate": "mean"},
    "allocation": {"allocation": None},
    "alpha": {"alpha": 0.4},
    "attribution": {"attribution": "hard"},
    "baseline": {"baseline": "group"},
    "beta": {"beta": 0.4},
    "bonus": {"bonus": 0.1},
    "buffer": {"buffer": 590, "limit": 600},
    "by": {"by": "reference"},
    "cap": {"cap": 3},
    "clip": {"clip": 0.3},
    "clip_high": {"clip_high": 0.5},
    "clip_low": {"clip_low": 0.1},
    "continuations": {"continuations": 5},
    "critic_lr": {"critic_lr": 0.1},
    "delta": {"delta": -2.5},
    "discount": {"discount": 0.5},
    "dual": {"dual": 3.0},
    "each": {"each": 2},
    "entropy_weight": {"entropy_weight": 0.0},
    "every": {"every": 2},
    "factors": {"factors": (3, 3)},
    "fewest": {"fewest": "none"},
    "fill": {"fill": False},
    "format_score": {"format_score": -1.0},
    "gain": {"gain": "prob"},
    "gain_weight": {"gain_weight": 0.5},
    "high": {"high": 2.0},
    "horizon": {"horizon": 5},
    "instructions": {"instructions": False},
    "kl": {"kl": 0.02},
    "lead": {"lead": "So: "},
    "limit": {"limit": 20},
    "low": {"low": 0.5},
    "mask": {"mask": 0.96},
    "mask_cut": {"mask_cut": True},
    "max_aliases": {"max_aliases": 1},
    "max_length": {"max_length": 99},
    "multiple": {"multiple": 7},
    "norm": {"norm": "joint"},
    "outcome_weight": {"outcome_weight": 0.5},
    "penalty": {"penalty": 0.1},
    "relative": {"relative": False},
    "match_released_code": {"match_released_code": True},
    "removed": {"removed": "thinking"},
    "rollouts": {"rollouts": 1},
    "roots": {"roots": 3},
    "scale": {"scale": True},
    "scale_episode": {"scale_episode": True},
    "score": {"score": -2.0},
    "sequence": {"sequence": "turn"},
    "similarity": {"similarity": 0.9},
    "size": {"size": 3},
    "smoothing": {"smoothing": 2.0, "fewest": "none"},
    "states": {"states": 3},
    "std": {"std": "unbiased"},
    "step_weight": {"step_weight": 0.5},
    "support": {"support": "cited"},
    "threshold": {"threshold": 0.5},
    "gae_lambda": {"gae_lambda": 0.5},
    "value": {"value": "leaves"},
    "value_clip": {"value_clip": None},
    "value_weight": {"value_weight": 0.1},
    "weight": {"weight": 0.5},
    "whiten": {"whiten": False},
    "window": {"window": 7},
    "wrapper": {"wrapper": "published"},
    "estimator": {"estimator": "ppo"},
    "arpo value": {"value": "leaves", "attribution": "node_values"},
    "aspo limit": {"limit": 0.5},
    "otc scale": {"scale": 2.0},
    "search_r1 value_weight": {"value_weight": 0.1, "estimator": "ppo"},
    "search_r1 critic_lr": {"critic_lr": 0.1, "estimator": "ppo"},
    "tapo limit": {"limit": 20, "buffer": 10},
    "tapo buffer": {"buffer": 15, "limit": 1030},
}

#: What a part must be given, and what leaves another parameter without effect by its default.
GIVEN: dict[str, dict[str, Any]] = {
    "best_of_group eps": {"scale": True},
    "node_values eps": {"scale": True},
    "diverse_sets window": {"size": 2},
    "diverse_sets column": {"size": 2},
    "difficulty temperature": {"column": "valid"},
    "similar_anchors junk": {"threshold": 0.3},
    "spread_branching fill": {"alpha": 0.05, "beta": 0.05},
    "tool_cost smoothing": {"fewest": "none"},
    "add": {"parts": (env_reward(), overlong(12, 6))},
    "chain": {"parts": (overlong(12, 6),)},
    "product": {"parts": (mask_truncated(),)},
    "discounted_return": {"discount": 0.9},
    "entropy": {"coefficient": 0.1},
    "format_penalty": {"penalty": 0.1},
    "invalid_penalty": {"penalty": 0.1},
    "kl": {"coefficient": 0.1},
    "overlong": {"limit": 12, "buffer": 6},
    "scale": {"weight": 0.5, "part": env_reward()},
    "seq_mean_token_sum_norm": {"max_length": 50},
    "subsample": {"multiple": 7},
}
#: Another value, where the type does not say one that matters.
OF_PARTS: dict[str, Any] = {
    "add parts": (env_reward(), overlong(12, 3)),
    "chain parts": (overlong(12, 3),),
    "product parts": (drop_zero(),),
    "scale part": overlong(12, 6),
    "accumulate": "mean",
    "alone": "keep",
    "count": "turn",
    "whiten count": "episode",
    "estimator": "k1",
    "fewest": "none",
    "information_credit kind": "prob",
    "information_gain kind": "prob",
    "norm": "joint",
    "of": "success",
    "std": "unbiased",
    "to": "old",
    "node_values value": "leaves",
    "diverse_sets size": 2,
    "low_probability below": 0.96,
    "early_call delta": -0.5,
    "allocation": 2.0,
    "bound": epsilon_clip(0.05, 0.05),
    "by": "anchor",
    "cap": 3,
    "by_probability cap": 1.1,
    "overlong cap": None,
    "sequence_ratio cap": 0.05,
    "clip": 0.1,
    "column": "observation",
    "difficulty column": "valid",
    "overlong column": "tool_calls",
    "rubrics column": "evidence_cited",
    "dual": 1.5,
    "eps": 0.1,
    "factors": (3, 3),
    "horizon": 5,
    "memory": 2,
    "ratio": sequence_ratio(),
    "ratio_bounds high": 1.1,
    "roots": 3,
    "shape": unclipped(),
    "similar_anchors threshold": 1.0,
    "subsample multiple": 9,
    "threshold": 0.5,
    "window": 3,
    "window turns": 3,
}


@pytest.fixture(scope="module")
def world(small):
    return ragged.build(small)


def differ(one: Algorithm, other: Algorithm, world: ragged.World) -> bool:
    """Whether two algorithms give other numbers."""
    a, b = outputs.outputs(one, world), outputs.outputs(other, world)
    return a.shape != b.shape or not np.allclose(a, b, rtol=1e-9, atol=1e-12, equal_nan=True)


def in_algorithms(part: Part[..., Any]) -> list[Algorithm]:
    """GRPO with the part where it belongs; an advantage of the rewards, and of the returns."""
    if part.stage == "advantage":
        return [replace(Algorithm(), advantage=a) for a in (part, chain(episode_return(), part))]
    if part.stage == "turn_key":
        return [replace(Algorithm(), advantage=standardize(by=part, scale=False))]
    if part.stage in stage_names():
        return [replace(Algorithm(), **{part.stage: part})]
    inner = {part.stage: part} | ({"shape": unclipped()} if part.stage == "ratio" else {})
    return [replace(Algorithm(), loss_term=surrogate(**inner))]


def other_value(name: str, parameter: inspect.Parameter) -> Any:
    """Another value of a parameter: named above, or by its type."""
    if (own := f"{name} {parameter.name}") in OF_PARTS:
        return OF_PARTS[own]
    if parameter.name in OF_PARTS:
        return OF_PARTS[parameter.name]
    default = GIVEN.get(name, {}).get(parameter.name, parameter.default)
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default + 1
    assert isinstance(default, float), f"{own}: say another value in OF_PARTS"
    return default / 2 or 0.5


def made(factory: Any, values: dict[str, Any]) -> Part[..., Any]:
    values = dict(values)
    return factory(*values.pop("parts", ()), **values)


PARTS = [
    (stage.name, name, parameter)
    for stage in STAGES.values()
    for name, factory in sorted(stage.factories.items())
    for parameter in inspect.signature(factory).parameters
]


@pytest.mark.parametrize(("stage", "name", "parameter"), PARTS)
def test_every_parameter_of_a_part_changes_a_number(stage, name, parameter, world):
    factory = STAGES[stage].factories[name]
    signature = inspect.signature(factory).parameters[parameter]
    given = GIVEN.get(name, {}) | GIVEN.get(f"{name} {parameter}", {})
    changed = given | {parameter: other_value(name, signature)}
    before, after = in_algorithms(made(factory, given)), in_algorithms(made(factory, changed))
    assert any(differ(*both, world) for both in zip(before, after, strict=True))


NAMES = [(name, parameter) for name in algorithm_names() for parameter in get_algorithm(name).parameters]


@pytest.mark.parametrize(("name", "parameter"), NAMES)
def test_every_parameter_of_an_algorithm_changes_a_number(name, parameter, world):
    given = OF_ALGORITHMS.get(f"{name} {parameter}") or OF_ALGORITHMS[parameter]
    without = {key: value for key, value in given.items() if key != parameter}
    assert differ(get_algorithm(name)(**given), get_algorithm(name)(**without), world)


def test_equal_algorithms_give_equal_numbers(world):
    """What differs only in how it is written, or in nothing, does not count as a change."""
    for name in algorithm_names():
        assert not differ(get_algorithm(name)(), get_algorithm(name)(), world)
    assert not differ(Algorithm(), replace(Algorithm(), loss_term=surrogate(bound=epsilon_clip(0.2, high=0.2))), world)
