"""Every registered algorithm: documented, resolvable, obeyed to the last parameter, and able to learn."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from agentgym.errors import UnknownName, UsageError
from agentgym.models.local_policy import ModelPolicy
from agentgym.trainers.advantage.baselines import standardize
from agentgym.trainers.advantage.combine import add, chain, scale
from agentgym.trainers.advantage.returns import discounted_return, episode_return
from agentgym.trainers.advantage.turn_table import TurnTable
from agentgym.trainers.algorithm import COMPUTED, Algorithm
from agentgym.trainers.expressions import with_part
from agentgym.trainers.parts import algorithm, algorithm_names, get_algorithm
from agentgym.trainers.update.learner import Learner, OptimizerConfig

NAMES = algorithm_names()
EVIDENCE = {"evidence_recall", "evidence_cited"}  # what the search worlds give
OURS = ("cispo", "dapo", "dr_grpo", "gigpo", "gspo", "grpo", "ppo", "reinforce_pp", "rloo")


def test_the_promised_algorithms_are_registered():
    assert set(OURS) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_page(name):
    found = get_algorithm(name)
    assert len(found.summary) <= 120
    assert found.summary.endswith(".")
    assert re.search(r"\b\d{4}\.\d{4,5}\b|ICLR|NeurIPS|ICML", found.docstring), "which paper?"
    for parameter in found.parameters:
        assert f"    {parameter}: " in found.docstring or f", {parameter}: " in found.docstring


@pytest.mark.parametrize("name", OURS)
def test_page_says_whether_the_length_of_episodes_biases_it(name):
    assert "\nBias: " in get_algorithm(name).docstring


@pytest.mark.parametrize("name", NAMES)
def test_defaults_build_and_resolve(name):
    found = get_algorithm(name)
    resolved = found.resolve()
    assert set(resolved) == set(found.parameters)
    algorithm = found()
    algorithm.check(EVIDENCE)
    assert found(**resolved).as_text() == algorithm.as_text()
    assert not any(re.search(r"0x[0-9a-f]{6}", text) for text in algorithm.as_text().values()), (
        "memory addresses in run.yaml"
    )


@pytest.mark.parametrize("name", NAMES)
def test_two_updates_move_the_weights(name, small, played):
    model, tokenizer = small()
    found = get_algorithm(name)
    algorithm = found()
    if algorithm.needs - COMPUTED or algorithm.needs & {"answer_logprob", "answer_logprob_before"}:
        pytest.skip("reads what this world does not give; tested in test_answer_probe.py and test_published.py")
    if name == "tapo":
        pytest.skip("without training every episode here is malformed, so all are equal")
    entropies = bool(algorithm.needs & {"entropy", "sampled_entropy"})
    policy = ModelPolicy(model, tokenizer, max_new_tokens=4, entropies=entropies)
    branching = algorithm.branching()
    learner = Learner(model, algorithm, OptimizerConfig(lr=1e-3))
    before = [p.detach().clone() for p in model.parameters()]
    for update in range(2):
        done = learner.update(played(policy, size=8, run_key=update, branching=branching))
        policy.updated()
        assert all(math.isfinite(value) for value in done.metrics.values()), done.metrics
        assert done.metrics["frac_nonzero_advantage"] > 0
        assert done.metrics["skipped"] == 0
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


# --- wrong input ------------------------------------------------------------------------------------------------------


def test_nearest_names():
    with pytest.raises(UnknownName, match=r"unknown algorithm 'gipgo'; did you mean 'gigpo'"):
        get_algorithm("gipgo")
    with pytest.raises(UsageError, match=r"algorithm gigpo has no parameter 'discont'; did you mean 'discount'\?"):
        get_algorithm("gigpo")(discont=0.9)
    with pytest.raises(UnknownName, match=r"unknown stage 'los_term'; did you mean 'loss_term'"):
        with_part(Algorithm(), "los_term", "surrogate()")
    with pytest.raises(UnknownName, match=r"unknown advantage part 'standardise'; did you mean 'standardize'"):
        with_part(Algorithm(), "advantage", "chain(episode_return(), standardise())")


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("gigpo", {"discount": 1.5}, r"gigpo: discount: input should be less than or equal to 1 \(got 1\.5\)"),
        ("grpo", {"clip": "wide"}, r"grpo: clip: input should be a valid number.* \(got 'wide'\)"),
        ("gspo", {"sequence": "word"}, r"gspo: sequence: input should be 'episode' or 'turn' \(got 'word'\)"),
        ("dapo", {"rollouts": 0}, r"dapo: rollouts: input should be greater than 0 \(got 0\)"),
    ],
)
def test_wrong_values_are_one_line(name, given, message):
    with pytest.raises(UsageError, match=message) as caught:
        get_algorithm(name)(**given)
    assert "\n" not in str(caught.value)


def test_an_algorithm_needs_a_page_and_typed_parameters_with_defaults():
    def bare() -> Algorithm:
        return Algorithm()

    with pytest.raises(UsageError, match="'bare' needs a docstring"):
        algorithm(bare)

    def loose(x=1) -> Algorithm:
        """Something."""
        return Algorithm()

    with pytest.raises(UsageError, match="'loose' makes an algorithm: its parameter 'x' needs a type"):
        algorithm(loose)

    def bound_to(x: int) -> Algorithm:
        """Something."""
        return Algorithm()

    with pytest.raises(UsageError, match="algorithm 'bound_to': parameter 'x' needs a default"):
        algorithm(bound_to)

    def grpo() -> Algorithm:
        """Something."""
        return Algorithm()

    with pytest.raises(
        UsageError, match=r"'grpo' is registered by agentgym\.trainers\.algorithms\.episode_level\.grpo and"
    ):
        algorithm(grpo)


# --- stages by name ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "expression", "shown"),
    [
        ("aggregate", "token_mean", "token_mean()"),
        ("aggregate", "seq_mean_token_sum_norm(max_length=8)", "seq_mean_token_sum_norm(max_length=8)"),
        (
            "advantage",
            "chain(discounted_return(0.9), leave_one_out())",
            "chain(discounted_return(0.9), leave_one_out())",
        ),
        ("advantage", "episode_return", "episode_return()"),
        ("penalty", "kl(0.01)", "(kl(0.01))"),
        ("penalty", "(kl(0.01, 'k2'), entropy(coefficient=-1e-3))", "(kl(0.01, 'k2'), entropy(coefficient=-0.001))"),
        ("penalty", "()", "()"),
        ("turn_weight", "drop_zero", "(drop_zero())"),
        (
            "loss_term",
            "surrogate(sequence_ratio(), epsilon_clip(3e-4, 4e-4))",
            "surrogate(sequence_ratio(), epsilon_clip(0.0003, 0.0004))",
        ),
        ("selection", "nonzero_variance(rollouts=3)", "nonzero_variance(rollouts=3)"),
        ("context", "window(4)", "window(4)"),
        ("branching", "entropy_branching(alpha=0.4)", "entropy_branching(alpha=0.4)"),
        ("advantage", "information_credit(kind='prob')", "information_credit(kind='prob')"),
        (
            "advantage",
            "chain(discounted_return(0.9), standardize(by=similar_anchors(0.9, column='observation')))",
            "chain(discounted_return(0.9), standardize(by=similar_anchors(0.9, column='observation')))",
        ),
    ],
)
def test_with_part(stage, expression, shown):
    assert with_part(Algorithm(), stage, expression).as_text()[stage] == shown


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "episode_return().apply",
        "episode_return.__globals__",
        "chain.__wrapped__()",
        "(lambda: 1)()",
        "[p for p in (1,)]",
        "discounted_return(open('/etc/passwd'))",
        "discounted_return(9**9**9)",
        "discounted_return(*(1, 2))",
        "discounted_return(**{'discount': 1})",
        "f'{episode_return}'",
        "episode_return() or episode_return()",
        "_moments",
        "np",
        "Part",
        "Literal",
        "exec('x')",
        "eval('1')",
        "",
        "episode_return(",
        "episode_return()\nimport os",
        "a\0b",
        "(" * 10_000,
        "-" * 100_000 + "1",
        "discounted_return(discount=0.9, discount=0.8)",
        "discounted_return('0.9')",
        "discounted_return(True)",
        "discounted_return()",
        "discounted_return(1, 2)",
        "1",
        "'episode_return'",
        "episode_return(), episode_return()",
    ],
)
def test_hostile_or_broken_parts_are_refused(expression):
    with pytest.raises(UsageError) as caught:
        with_part(Algorithm(), "advantage", expression)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("stage", "expression", "message"),
    [
        ("loss_term", "token_ratio()", "the stage loss_term takes a loss term, but token_ratio() is a ratio"),
        ("loss_term", "epsilon_clip", "the stage loss_term takes a loss term, but epsilon_clip() is a bound"),
        ("advantage", "similar_anchors(0.9)", "takes an advantage part, but similar_anchors(0.9) is a key of turns"),
        ("selection", "uniform()", "unknown selection part 'uniform'"),
        ("penalty", "(kl(0.1), 3)", "--with penalty: 3 is not a part"),
        ("turn_weight", "2", "--with turn_weight: 2 is not a part"),
        ("turn_weight", "standardize()", "unknown turn_weight part 'standardize'"),
        ("advantage", "mask_truncated()", "unknown advantage part 'mask_truncated'"),
        ("advantage", "env_reward()", "unknown advantage part 'env_reward'"),
        ("reward", "standardize()", "unknown reward part 'standardize'"),
    ],
)
def test_a_part_of_another_kind_is_refused(stage, expression, message):
    with pytest.raises(UsageError) as caught:
        with_part(Algorithm(), stage, expression)
    assert message in str(caught.value)


OWN = '''
import subprocess
from subprocess import run

from agentgym.trainers.parts import advantage, aggregate, turn_weight

happened = []

@advantage
def times(factor: float = 0.5):
    """The value, times a factor."""
    return lambda turns, values: factor * values

@turn_weight
def some(factor: float = 0.5):
    """A weight."""
    return lambda turns, advantage: 0.0 * advantage + factor

def silent(factor=0.5):
    happened.append(factor)

@aggregate
def flat():
    """No division."""
    return lambda weight, sequence: weight
'''


@pytest.fixture
def own(tmp_path, monkeypatch, registry):
    folder = tmp_path / "own_stage"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "deep.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("own_stage", "own_stage.deep"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("stage", "expression", "shown"),
    [
        ("advantage", "own_stage.deep:times", "times()"),
        ("advantage", "own_stage.deep:times(factor=-2)", "times(factor=-2)"),
        (
            "advantage",
            "chain(episode_return(), own_stage.deep:times(0.25), own_stage.deep:times())",
            "chain(episode_return(), times(0.25), times())",
        ),
        ("turn_weight", "(own_stage.deep:some(2.0), mask_truncated())", "(some(2.0), mask_truncated())"),
        ("aggregate", "own_stage.deep:flat", "flat()"),
    ],
)
def test_parts_of_any_module(own, stage, expression, shown):
    assert with_part(Algorithm(), stage, expression).as_text()[stage] == shown


def test_an_own_part_computes(own):
    made = with_part(Algorithm(), "advantage", "chain(episode_return(), own_stage.deep:times(0.25))")
    turns = TurnTable.from_columns(group=[0, 0], episode=[0, 1], turn=[0, 0], reward=[1.0, 2.0])
    assert made.advantage(turns, turns.reward).tolist() == [0.25, 0.5]


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("nowhere:times()", "cannot import 'nowhere'"),
        ("own_stage.deep:tims(1)", "unknown part of own_stage.deep 'tims'; did you mean 'times'"),
        ("own_stage.deep:happened", "unknown part of own_stage.deep 'happened'"),
        ("own_stage.deep:silent(1)", "own_stage.deep:silent makes no part; decorate it: @advantage"),
        ("own_stage.deep:run('true')", "own_stage.deep:run makes no part"),
        ("subprocess:run('true')", "subprocess:run makes no part"),
        ("os:system('true')", "unknown part of os 'system'"),
        ("own_stage.deep:times(1, 2)", "times: too many positional arguments"),
        ("own_stage.deep:times('1')", "times: factor: input should be a valid number (got '1')"),
        ("own_stage.deep:flat", "takes an advantage part, but flat() is an aggregate"),
        ("own_stage.deep :times()", "is not a part like name"),
        ("own_stage.deep:times().apply", "own_stage.deep:times().apply is not a part"),
        ("own_stage.deep.times()", "is not a call of a part by name"),
        ("lambda own_stage:times", "is not a part like name"),
        ("own_stage.deep:subprocess.run('true')", "is not a part like name"),
    ],
)
def test_what_is_no_part_of_a_module_is_refused_and_never_called(own, expression, said):
    with pytest.raises(UsageError) as caught:
        with_part(Algorithm(), "advantage", expression)
    assert said in str(caught.value)
    deep = sys.modules.get("own_stage.deep")
    assert deep is None or deep.happened == []


def test_what_could_not_be_computed_is_refused_before_anything_is_played():
    reading = with_part(Algorithm(), "reward", "overlong(9, 9, column='greedy')")
    with pytest.raises(UsageError, match="a part reads 'greedy', which is neither computed nor in info"):
        reading.check()
    with pytest.raises(UsageError, match="nothing trains a critic: start from the algorithm ppo"):
        with_part(Algorithm(), "advantage", "gae()").check()
    with pytest.raises(UsageError, match="nothing trains a critic"):
        with_part(Algorithm(), "penalty", "value_loss()").check()
    whole = with_part(
        with_part(with_part(Algorithm(), "advantage", "gae()"), "critic", "gae()"), "penalty", "value_loss()"
    )
    whole.check()
    with pytest.raises(UsageError, match="nothing trains a critic"):
        replace(whole, penalty=()).check()


# --- what they compute ------------------------------------------------------------------------------------------------

TABLE = TurnTable.from_columns(
    group=list("AAAAAAAABBC"),
    episode=["a1"] * 4 + ["a2"] * 2 + ["a3"] * 2 + ["b1"] * 2 + ["c1"],
    turn=[0, 1, 2, 3, 0, 1, 0, 1, 0, 1, 0],
    anchor=["s0", "s1", "s0", "s2", "s0", "s2", "s0", "s1", "s0", "s9", "s0"],
    reward=[0, 0, 0, 10, 0, 0, 0, 10, 0, 10, 10],
    valid=[True, True, False] + [True] * 8,
    tokens=[1] * 11,
)


@pytest.mark.parametrize(
    ("penalty", "scale", "expected"),
    [
        (0.0, False, "4.1803 2.0125 5.1066 7.5 -14.3934 -12.5 5.1066 2.9875 0 0 10"),
        (0.0, True, "0.9041 -0.167 1.1047 1.2472 -3.1135 -2.3273 1.1047 1.2472 0 0 10"),
        (0.1, False, "4.2178 2.025 4.9441 7.5125 -14.3559 -12.4875 5.1441 3.0 0 0 10"),
        (0.1, True, "0.9146 -0.1635 1.0726 1.2508 -3.114 -2.3272 1.116 1.2508 0 0 10"),
    ],
)
def test_gigpo_as_released(penalty, scale, expected):
    """The vectors of the released code; c is its penalty, ``scale`` its mean_std_norm."""
    rule = get_algorithm("gigpo")(match_released_code=True, scale=scale, penalty=penalty).advantage
    assert_allclose(rule(TABLE, TABLE.reward), [float(x) for x in expected.split()], atol=6e-5)


def test_gigpo_is_one_of_the_two_published_variants():
    """Neither term divided by its spread, or both; mixed only on demand."""
    by_state = standardize(by="anchor", scale=False)
    without = add(chain(episode_return(), standardize(scale=False)), chain(discounted_return(0.95), by_state))
    mine = get_algorithm("gigpo")().advantage(TABLE, TABLE.reward)
    assert_allclose(mine, without(TABLE, TABLE.reward))
    assert_allclose(mine[8:], 0.0)  # groups of one episode, states met once
    assert_allclose(mine[4], 0 - 20 / 3 - 6.8934, atol=6e-5)
    both = add(chain(episode_return(), standardize()), chain(discounted_return(0.95), standardize(by="anchor")))
    assert_allclose(get_algorithm("gigpo")(scale=True).advantage(TABLE, TABLE.reward), both(TABLE, TABLE.reward))
    mixed = add(chain(episode_return(), standardize()), scale(1.0, chain(discounted_return(0.95), by_state)))
    assert_allclose(
        get_algorithm("gigpo")(scale_episode=True).advantage(TABLE, TABLE.reward), mixed(TABLE, TABLE.reward)
    )


@pytest.mark.parametrize("options", [{}, {"scale": True}, {"step_weight": 3.0}])
def test_gigpo_penalises_the_turn_that_was_not_understood_and_no_other(options):
    """Two failed episodes of a group, one misunderstood turn: the others keep the advantage that they had."""
    turns = TurnTable.from_columns(
        group=[0] * 4, episode=[0, 0, 1, 1], turn=[0, 1, 0, 1], reward=[0.0] * 4, valid=[False, True, True, True],
        anchor=["a", "b", "a", "c"],
    )  # fmt: skip
    rule = get_algorithm("gigpo")(penalty=0.1, **options).advantage
    assert_allclose(rule(turns, turns.reward), [-0.1, 0.0, 0.0, 0.0])
    plain = get_algorithm("gigpo")(**options).advantage(TABLE, TABLE.reward)
    assert_allclose(
        get_algorithm("gigpo")(penalty=0.1, **options).advantage(TABLE, TABLE.reward) - plain, -0.1 * ~TABLE.valid
    )


def test_gigpo_by_similarity_compares_observations_not_anchors(small, played):
    model, tokenizer = small()
    turns = TurnTable.from_episodes(played(ModelPolicy(model, tokenizer, max_new_tokens=2), groups=1))
    # "You see red." once per episode; "Still red, turn 1." and "Still red, turn 2." differ by one letter of 18
    exact, alike = get_algorithm("gigpo")(), get_algorithm("gigpo")(similarity=0.9)
    assert alike.needs >= {"observation"}
    apart = turns.with_columns(anchor=[f"digest {n}" for n in range(len(turns))])
    assert_allclose(exact.advantage(apart, turns.reward), get_algorithm("dr_grpo")().advantage(turns, turns.reward))
    text = ["first" if o.startswith("You") else "later" for o in turns.observation]
    merged = turns.with_columns(anchor=text)
    assert_allclose(alike.advantage(apart, turns.reward), exact.advantage(merged, turns.reward))


def test_advantages_of_each_algorithm_by_hand():
    """Group of four single turns, r = 1 0 0 0: μ = .25, σ = .5; two groups, so whitening sees both."""
    turns = TurnTable.from_columns(
        group=[0] * 4 + [1] * 4, episode=range(8), turn=[0] * 8, reward=[1, 0, 0, 0, 1, 1, 0, 0],
        tokens=[1] * 8, truncated=[False] * 8, value=[0.5] * 8,
    )  # fmt: skip
    rules = {name: get_algorithm(name)().advantage for name in OURS if name != "gigpo"}
    found = {name: rule(turns, turns.reward)[:4] for name, rule in rules.items()}
    for name in ("grpo", "dapo", "gspo", "cispo"):
        assert_allclose(found[name], [1.5, -0.5, -0.5, -0.5], atol=1e-5)
    assert_allclose(found["dr_grpo"], [0.75, -0.25, -0.25, -0.25])
    assert_allclose(found["rloo"], [1, -1 / 3, -1 / 3, -1 / 3])
    reward = np.array([1, 0, 0, 0, 1, 1, 0, 0.0])
    white = (reward - reward.mean()) / reward.std(ddof=1)
    assert_allclose(found["reinforce_pp"], white[:4], atol=1e-6)
    assert_allclose(found["ppo"], white[:4], atol=1e-6)  # one value everywhere, one turn each
    centred = np.array([0.75, -0.25, -0.25, -0.25, 0.5, 0.5, -0.5, -0.5])
    group = get_algorithm("reinforce_pp")(baseline="group").advantage(turns, turns.reward)
    assert_allclose(group, centred / centred.std(ddof=1), atol=1e-6)


def test_polychromic_stays_near_the_policy_that_sampled():
    algorithm = get_algorithm("polychromic")()
    assert algorithm.as_text()["penalty"] == "(kl(0.01, to='old'))"
    assert not algorithm.needs & {"reference", "kl"}  # no second copy of the weights


def test_dapo_shapes_overlong_episodes_and_masks_cut_ones():
    turns = TurnTable.from_columns(
        group=[0] * 3, episode=[0, 1, 2], turn=[0] * 3, reward=[1.0, 1.0, 1.0], tokens=[80, 90, 300],
        truncated=[False, False, True],
    )  # fmt: skip
    rule = get_algorithm("dapo")(limit=100, mask_cut=True)
    assert_allclose(rule.reward(turns, turns.reward), [1.0, 0.5, 0.0])  # free up to 80, all of it at 100
    (mask,) = rule.turn_weight
    assert_allclose(mask(turns, turns.reward), [1, 1, 0])
