"""Parts and algorithms: how they are registered, found, checked, joined, and written as text."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
import pytest
from pydantic import Field, PositiveInt

from agentgym.errors import UnknownName, UsageError
from agentgym.trainers.advantage import (
    TurnTable,
    add,
    chain,
    discounted_return,
    episode_return,
    leave_one_out,
    next_anchor,
    scale,
    similar_anchors,
    standardize,
)
from agentgym.trainers.advantage.turn_weights import drop_zero, mask_truncated, product
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.expressions import with_part
from agentgym.trainers.loss.aggregate import token_mean
from agentgym.trainers.loss.penalties import entropy, kl
from agentgym.trainers.loss.surrogate import Bounds, epsilon_clip, min_clip, surrogate, token_ratio, unclipped
from agentgym.trainers.loss.token_weights import low_probability
from agentgym.trainers.parts import (
    STAGES,
    Part,
    advantage,
    algorithm,
    bound,
    declare,
    get_algorithm,
    penalty,
    reward,
    turn_weight,
)
from agentgym.trainers.rewards.shaping import env_reward, format_penalty, malformed, overlong
from agentgym.trainers.rewards.tool_calls import tool_cost
from agentgym.trainers.sampling.selection import keep_all
from agentgym.trainers.sampling.tasks import uniform

EXAMPLE = '''
from agentgym.trainers.advantage import TurnTable, add, chain, discounted_return, episode_return, scale, standardize
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.parts import advantage, algorithm

grpo  = chain(episode_return(), standardize())
gigpo = add(grpo, scale(1.0, chain(discounted_return(0.95), standardize(by="anchor", scale=False))))

@advantage
def doubled(factor: float = 2.0):
    """The value times ``factor``."""
    return lambda turns, values: factor * values

@algorithm
def mine(scale: bool = True) -> Algorithm:
    """GRPO, doubled."""
    return Algorithm(advantage=chain(episode_return(), standardize(scale=scale), doubled()))
'''

TURNS = TurnTable.from_columns(
    group=["x"] * 4, episode=list("aabc"), turn=[0, 1, 0, 0], reward=[0.0, 1.0, 0.0, 0.5], anchor=list("stsu"),
    tokens=[3, 1, 2, 2], valid=[True, False, True, True], truncated=[False, False, True, False],
    terminated=[True, True, False, True],
)  # fmt: skip


@pytest.fixture
def module(tmp_path, monkeypatch, registry):
    """``module(name, text)``: a module of the user's, forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    written = []

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        written.append(name)
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)


# --- the example of the documentation ---------------------------------------------------------------------------------


def test_a_module_with_a_part_and_an_algorithm(module):
    """A part is usable by code and by name, an algorithm by name, as soon as their module is imported."""
    module("my_module", EXAMPLE)
    mine = get_algorithm("my_module:mine")
    assert mine is get_algorithm("mine")
    assert (mine.summary, list(mine.parameters)) == ("GRPO, doubled.", ["scale"])
    text = "chain(episode_return(), standardize(scale=True), doubled())"
    assert mine().as_text() == Algorithm().as_text() | {"advantage": text}
    assert mine(scale="no").as_text()["advantage"] == text.replace("True", "False")
    grpo = chain(episode_return(), standardize())(TURNS, TURNS.reward)
    assert np.abs(grpo).max() > 0.5
    np.testing.assert_array_equal(mine().advantage(TURNS, TURNS.reward), 2 * grpo)
    threefold = with_part(mine(), "advantage", "chain(episode_return(), standardize(), doubled(3.0))")
    np.testing.assert_array_equal(threefold.advantage(TURNS, TURNS.reward), 3 * grpo)
    gigpo = sys.modules["my_module"].gigpo(TURNS, TURNS.reward)
    steps = chain(discounted_return(0.95), standardize(by="anchor", scale=False))(TURNS, TURNS.reward)
    assert steps.tolist() == pytest.approx([0.475, 0.0, -0.475, 0.0])
    np.testing.assert_allclose(gigpo, grpo + steps)


def test_modules_named_by_entry_points_are_imported(tmp_path):
    (tmp_path / "my_module.py").write_text(EXAMPLE)
    metadata = tmp_path / "my_distribution-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-distribution\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[agentgym.parts]\nmine = my_module\n")
    code = (
        "from agentgym.trainers.algorithm import Algorithm\n"
        "from agentgym.trainers.expressions import with_part\n"
        "print(with_part(Algorithm(), 'advantage', 'doubled(4.0)').advantage)\n"
        "from agentgym.trainers.parts import get_algorithm\n"
        "print(get_algorithm('mine').summary)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["doubled(4.0)", "GRPO, doubled."]


@pytest.mark.parametrize(
    ("text", "said"),
    [("1 / 0", "ZeroDivisionError: division by zero"), ("import gone", "ModuleNotFoundError: No module named 'gone'")],
)
def test_a_package_whose_parts_cannot_be_loaded_is_named_in_one_line(tmp_path, text, said):
    (tmp_path / "broken_parts.py").write_text(text)
    metadata = tmp_path / "my_distribution-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-distribution\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[agentgym.parts]\nmine = broken_parts\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "agentgym", "algorithms"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip() == (
        f"agentgym: the parts of my-distribution (mine = broken_parts) cannot be loaded: {said}; mend it, or pip "
        "uninstall my-distribution"
    )


# --- registration -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decorator", "clash"),
    [("advantage", "advantage 'twin'"), ("penalty", "penalty 'twin'"), ("algorithm", "algorithm 'twin'")],
)
def test_a_name_that_two_modules_give_to_parts_of_one_stage_is_refused(module, decorator, clash):
    text = f'from agentgym.trainers.parts import {decorator}\n@{decorator}\ndef twin():\n    """One of two."""\n'
    for name in ("first_twin", "second_twin"):
        module(name, text)
    __import__("first_twin")
    with pytest.raises(UsageError) as caught:
        __import__("second_twin")
    assert str(caught.value) == f"{clash} is registered by first_twin and second_twin; give one of them another name"
    del sys.modules["first_twin"]
    __import__("first_twin")  # the same module anew


def test_parts_of_two_stages_may_have_one_name(module):
    for stage in ("reward", "turn_weight"):
        module(f"{stage}_module", f'from agentgym.trainers.parts import {stage}\n@{stage}\ndef twin():\n    """?"""\n')
        __import__(f"{stage}_module")
    assert STAGES["reward"].factories["twin"] is not STAGES["turn_weight"].factories["twin"]


def test_a_factory_needs_a_docstring_and_types(registry):
    def bare():
        return lambda turns, values: values

    def loose(factor=2.0):
        """Something."""
        return lambda turns, values: values

    with pytest.raises(UsageError, match="'bare' needs a docstring: what it computes, and where that was published"):
        advantage(bare)
    with pytest.raises(UsageError, match="'loose' makes an advantage part: its parameter 'factor' needs a type"):
        advantage(loose)
    with pytest.raises(UsageError, match="'loose' makes a penalty: its parameter 'factor' needs a type"):
        penalty(needs=("entropy",))(loose)
    for stage in STAGES.values():
        assert not {"bare", "loose"} & set(stage.factories)


# --- arguments --------------------------------------------------------------------------------------------------------


def test_arguments_are_checked_by_their_types(registry):
    @advantage
    def picky(
        share: Annotated[float, Field(ge=0, le=1)],
        *parts: int,
        number: PositiveInt = 1,
        how: Literal["sum", "mean"] = "sum",
    ):
        """Takes arguments."""
        return lambda turns, values: values

    assert repr(picky(0.5, 1, 2, how="mean")) == "picky(0.5, 1, 2, how='mean')"
    assert repr(picky(1)) == "picky(1)"
    for make, message in [
        (lambda: picky(1.5), "picky: share: input should be less than or equal to 1 (got 1.5)"),
        (lambda: picky("0.5"), "picky: share: input should be a valid number (got '0.5')"),
        (lambda: picky(True), "picky: share: input should be a valid number (got True)"),
        (lambda: picky(0.5, 1, "2"), "picky: parts: input should be a valid integer (got '2')"),
        (lambda: picky(0.5, number=0), "picky: number: input should be greater than 0 (got 0)"),
        (lambda: picky(0.5, how="max"), "picky: how: input should be 'sum' or 'mean' (got 'max')"),
        (lambda: picky(0.5, hew="sum"), "picky: got an unexpected keyword argument 'hew'"),
        (lambda: picky(), "picky: missing a required argument: 'share'"),
        (lambda: chain(episode_return(), 3), "chain: parts: input should be callable (got 3)"),
    ]:
        with pytest.raises(UsageError) as caught:
            make()
        assert str(caught.value) == message


def test_an_argument_is_what_its_type_makes_of_it(registry):
    seen = []

    @reward
    def takes(number: float, names: tuple[str, ...] = ("a",)):
        """Looks at its arguments."""
        seen.extend((number, names))
        return lambda turns, values: values

    takes(1, ("b", "c"))
    assert seen == [1.0, ("b", "c")]
    assert type(seen[0]) is float


# --- stages -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"advantage": mask_truncated()}, "advantage takes an advantage part, but mask_truncated() is a turn weight"),
        ({"advantage": env_reward()}, "advantage takes an advantage part, but env_reward() is a reward part"),
        ({"critic": drop_zero()}, "critic takes an advantage part, but drop_zero() is a turn weight"),
        ({"reward": episode_return()}, "reward takes a reward part, but episode_return() is an advantage part"),
        ({"turn_weight": kl(0.1)}, "turn_weight takes a turn weight, but kl(0.1) is a penalty"),
        (
            {"turn_weight": (drop_zero(), standardize())},
            "turn_weight takes a turn weight, but standardize() is an advantage part",
        ),
        ({"token_weight": entropy(0.1)}, "token_weight takes a token weight, but entropy(0.1) is a penalty"),
        ({"penalty": low_probability()}, "penalty takes a penalty, but low_probability() is a token weight"),
        ({"loss_term": min_clip()}, "loss_term takes a loss term, but min_clip() is a shape"),
        ({"aggregate": surrogate()}, "aggregate takes an aggregate, but surrogate() is a loss term"),
        ({"sampler": keep_all()}, "sampler takes a sampler of tasks, but keep_all() is a selection of groups"),
        ({"selection": uniform()}, "selection takes a selection of groups, but uniform() is a sampler of tasks"),
        ({"branching": token_mean()}, "branching takes a branching rule, but token_mean() is an aggregate"),
        ({"context": similar_anchors(0.9)}, "context takes a context, but similar_anchors(0.9) is a key of turns"),
        ({"advantage": None}, "advantage takes an advantage part, got None"),
        ({"penalty": (kl(0.1), 3)}, "penalty takes a penalty, got 3"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_algorithm_refuses_a_part_of_another_stage(stages, message):
    with pytest.raises(UsageError) as caught:
        Algorithm(**stages)
    assert str(caught.value) == f"the stage {message}"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: chain(episode_return(), mask_truncated()),
            "chain() joins parts of the reward or the advantage, but mask_truncated() is a turn weight",
        ),
        (
            lambda: add(chain(episode_return(), add(drop_zero())), episode_return()),
            "add() joins parts of the reward or the advantage, but drop_zero() is a turn weight",
        ),
        (
            lambda: scale(2.0, kl(0.1)),
            "scale() joins parts of the reward or the advantage, but kl(0.1) is a penalty",
        ),
        (lambda: surrogate(epsilon_clip()), "surrogate(ratio=...) takes a ratio, but epsilon_clip() is a bound"),
        (lambda: surrogate(bound=min_clip()), "surrogate(bound=...) takes a bound, but min_clip() is a shape"),
        (lambda: surrogate(shape=token_ratio()), "surrogate(shape=...) takes a shape, but token_ratio() is a ratio"),
        (lambda: product(drop_zero(), standardize()), "product() takes a turn weight, but standardize() is an"),
        (lambda: standardize(by=episode_return()), "by takes a key of turns, but episode_return() is an"),
        (lambda: leave_one_out(by=drop_zero()), "by takes a key of turns, but drop_zero() is a turn weight"),
    ],
)
def test_a_part_inside_another_is_refused_too(make, message):
    with pytest.raises(UsageError) as caught:
        make()
    assert message in str(caught.value)


def test_a_stage_of_several_parts_takes_one_several_or_none():
    assert Algorithm(turn_weight=drop_zero()).as_text()["turn_weight"] == "(drop_zero())"
    both = Algorithm(penalty=(kl(0.1), entropy(0.1)))
    assert both.as_text()["penalty"] == "(kl(0.1), entropy(0.1))"
    assert with_part(both, "penalty", "()").penalty == ()
    spo = get_algorithm("spo_tree")()
    assert len(spo.turn_weight) == 2
    assert with_part(spo, "turn_weight", "()").turn_weight == ()
    assert with_part(spo, "turn_weight", "()").needs == spo.needs  # the advantage reads the tree as well
    with pytest.raises(UsageError, match=r"--with advantage: \(\) is not a part"):
        with_part(spo, "advantage", "()")


def test_a_function_that_says_nothing_about_itself_fits_everywhere():
    half = lambda turns, values: values / 2  # noqa: E731
    free = Algorithm(advantage=half, turn_weight=half)
    assert free.advantage is half
    assert free.needs == Algorithm().needs == frozenset()
    assert chain(half, half)(TURNS, np.full(4, 8.0)).tolist() == [2.0] * 4
    assert chain(half, env_reward()).stage == "reward"


# --- parts of parts ---------------------------------------------------------------------------------------------------


def test_what_joins_reward_parts_is_a_reward_part():
    shaped = chain(malformed(-1.0), add(format_penalty(0.5), scale(2.0, overlong(9, 9))))
    assert shaped.stage == "reward"
    assert Algorithm(reward=shaped).reward is shaped
    assert shaped.needs == {"valid", "terminated", "tokens"}
    with pytest.raises(UsageError, match=r"takes an advantage part, but chain\(.*\) is a reward part"):
        Algorithm(advantage=shaped)
    for mixed in (chain(shaped, episode_return()), add(episode_return(), shaped), scale(2.0, episode_return())):
        assert mixed.stage == "advantage"
        assert Algorithm(advantage=mixed).advantage is mixed
        with pytest.raises(UsageError, match=r"takes a reward part, but .* is an advantage part"):
            Algorithm(reward=mixed)
    by_name = with_part(Algorithm(), "reward", "chain(malformed(), scale(2.0, env_reward()))")
    expected = [0.0, -2.0, -2.0, 1.0]  # a was misunderstood once, b did not answer
    assert by_name.reward(TURNS, TURNS.reward).tolist() == expected
    with pytest.raises(UnknownName, match="unknown reward part 'episode_return'"):
        with_part(Algorithm(), "reward", "chain(env_reward(), episode_return())")


def test_needs_are_those_of_all_parts_inside(registry):
    @bound(needs=("entropy",))
    def by_entropy_bound():
        """Reads the entropy."""
        return lambda tokens: Bounds(0.0, 1.0)

    @turn_weight
    def reading(column: str):
        """Reads a column that an argument names."""
        return declare(lambda turns, advantage: turns.column(column), needs={column})

    assert surrogate(bound=by_entropy_bound(), shape=unclipped()).needs == {"entropy"}
    keyed = chain(episode_return(), add(standardize(by=similar_anchors(0.9, column="observation"))))
    assert keyed.needs == {"observation"}
    whole = Algorithm(
        reward=chain(env_reward(), format_penalty(0.1)),
        advantage=keyed,
        turn_weight=(reading("greedy"), mask_truncated()),
        loss_term=surrogate(bound=by_entropy_bound()),
        penalty=kl(0.1),
    )
    assert whole.needs == {"valid", "observation", "greedy", "truncated", "entropy", "reference"}
    whole.check(["greedy"])
    with pytest.raises(
        UsageError, match=r"a part reads 'greedy', which is neither computed nor in info\['columns'\] of this"
    ):
        whole.check()


def test_a_column_that_a_part_declares_is_looked_up_before_it_works(registry):
    @advantage(needs=("colour",))
    def of_colour():
        """Reads a column."""
        return lambda turns, values: values * 0

    with pytest.raises(UsageError, match="the turn table has no column 'colour'"):
        of_colour()(TURNS, TURNS.reward)
    assert of_colour()(TURNS.with_columns(colour=range(4)), TURNS.reward).tolist() == [0.0] * 4


def test_the_state_of_parts_inside_is_saved_and_restored(registry):
    @advantage
    def counting():
        """Counts its calls."""
        state = {"calls": 0}

        def apply(turns, values):
            state["calls"] += 1
            return values * state["calls"]

        return declare(apply, state=state)

    def made():
        counter = counting()
        inside = chain(episode_return(), add(scale(1.0, counter), counter))
        return Algorithm(reward=chain(env_reward(), tool_cost(fewest="task")), advantage=inside)

    first = made()
    names = [part.name for part in first.advantage.walk()]
    assert names[0] == first.advantage.name
    assert names.count("counting()") == 2
    assert first.state_dict() == {"0 tool_cost(fewest='task')": {}, "1 counting()": {"calls": 0}}  # each part once
    assert first.advantage(TURNS, np.ones(4)).tolist() == [2 * 1.0 + 2 * 2.0, 2 * 1.0 + 2 * 2.0, 3.0, 3.0]
    saved = first.state_dict()
    assert saved["1 counting()"] == {"calls": 2}
    second = made()
    second.load_state_dict(saved)
    assert second.state_dict() == saved
    np.testing.assert_array_equal(second.advantage(TURNS, np.ones(4)), first.advantage(TURNS, np.ones(4)))
    assert made().state_dict()["1 counting()"] == {"calls": 0}
    with pytest.raises(UsageError, match=r"the checkpoint remembers .*counting.*, this algorithm \[\]"):
        replace(first, reward=env_reward(), advantage=episode_return()).load_state_dict(saved)


def test_a_part_is_named_after_the_call_that_made_it():
    part = chain(episode_return(), standardize("anchor", scale=False))
    assert isinstance(part, Part)
    assert part.name == repr(part) == "chain(episode_return(), standardize('anchor', scale=False))"
    assert with_part(Algorithm(), "advantage", part.name).as_text()["advantage"] == part.name


def test_a_part_without_parameters_may_stand_for_itself():
    rule = with_part(Algorithm(), "advantage", "chain(episode_return(), standardize(by=next_anchor, scale=False))")
    assert rule.as_text()["advantage"] == "chain(episode_return(), standardize(by=next_anchor, scale=False))"
    written = chain(episode_return(), standardize(by=next_anchor, scale=False))
    assert rule.needs == written.needs >= {"anchor"}
    np.testing.assert_array_equal(rule.advantage(TURNS, TURNS.reward), written(TURNS, TURNS.reward))
    assert not [name for stage in STAGES.values() for name in stage.factories if name.startswith("_")]


def test_every_registered_part_is_documented_and_named_once(registry):
    for stage in STAGES.values():
        assert stage.factories
        for name, factory in stage.factories.items():
            assert factory.__name__ == name
            assert factory.__doc__


def test_an_algorithm_is_registered_under_its_name_and_checked(registry):
    @algorithm
    def own(share: Annotated[float, Field(gt=0, le=1)] = 0.5) -> Algorithm:
        """One of ours."""
        return Algorithm(turn_weight=drop_zero() if share < 1 else ())

    assert get_algorithm("own")(share="0.25").turn_weight
    assert get_algorithm("own").resolve() == {"share": 0.5}
    assert own(share=1).turn_weight == ()
    with pytest.raises(UsageError, match=r"own: share: input should be greater than 0 \(got 0\)"):
        get_algorithm("own")(share=0)
