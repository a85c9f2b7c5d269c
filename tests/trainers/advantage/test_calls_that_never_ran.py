"""Under a budget of no calls, an episode that asks for twelve has made none: in every count there is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agentgym.budget import Budget, BudgetedEnv, under
from agentgym.envs.tool_env import Question, ToolEnv
from agentgym.evaluate import calls_of, row
from agentgym.policy import ScriptedPolicy
from agentgym.records import CallCounts, Task
from agentgym.rollout import Group, Rollout
from agentgym.tools.tool import tool
from agentgym.trainers.advantage.tool_calls import early_call
from agentgym.trainers.advantage.turn_table import TurnTable
from agentgym.trainers.rewards.tool_calls import tool_cost
from agentgym.trainers.run.summary import branching_metrics, summary


@tool(price=0.5)
def look(place: int) -> str:
    """Look somewhere.

    Args:
        place: where.
    """
    return f"nothing at {place}"


ASKS = "".join(f"<look>{place}</look>" for place in (1, 2, 3))
MALFORMED = "<look>everywhere</look>" * 2


@pytest.fixture(scope="module")
def played():
    """``played(budget, *actions)``: an episode with these actions and then the right answer."""

    def play(budget, *actions):
        said = [*actions, "<answer>yes</answer>"]
        policy = ScriptedPolicy(lambda request: said[len(request.turns)])

        def make():
            world = {"train": [Question("Is it?", ["yes"])]}
            return BudgetedEnv(ToolEnv([look], world, lambda answer, q: answer in q.answers, syntax="tags"))

        with Rollout(make, policy) as rollout:
            (episode,) = rollout.play([Group("g", under(Task(0), Budget.parse(budget)))])
        assert episode.success
        return episode

    return play


def test_no_count_takes_refused_calls_for_made_ones(played):
    episode = played("0", *[ASKS] * 4)
    assert episode.call_counts == CallCounts(made=0, refused=12, malformed=0)
    assert episode.tool_calls == 0
    assert calls_of(episode) == (0, 0, 0, 12, 0, 0.0)
    figures = row(Budget(tool_calls=0), [episode])
    assert (figures.means["calls"].mean, figures.refused, figures.wasted, figures.productivity) == (0, 12, 0, None)
    means = summary([episode])
    assert (means["tool_calls"], means["refused_calls"], means["malformed_calls"]) == (0, 12, 0)
    metrics = branching_metrics([replace(episode, parent="another", fork_turn=2)], [])
    assert (metrics["made_tool_calls"], metrics["inherited_tool_calls"]) == (0, 0)
    turns = TurnTable.from_episodes([episode])
    assert turns.tool_calls.tolist() == [0] * 5
    assert turns.refused_calls.tolist() == [3, 3, 3, 3, 0]


def test_malformed_calls_are_no_calls_either(played):
    episode = played("inf", MALFORMED, ASKS)
    assert episode.call_counts == CallCounts(made=3, refused=0, malformed=2)
    assert calls_of(episode) == (3, 0, 0, 0, 2, 1.5)
    means = summary([episode])
    assert (means["tool_calls"], means["refused_calls"], means["malformed_calls"]) == (3, 0, 2)
    turns = TurnTable.from_episodes([episode])
    assert turns.tool_calls.tolist() == [0, 3, 0]
    assert turns.malformed_calls.tolist() == [2, 0, 0]


def test_rewards_and_credit_see_only_calls_that_ran(played):
    never = [*[ASKS] * 3]
    asked, quiet = TurnTable.from_episodes([played("0", *never)]), TurnTable.from_episodes([played("0")])
    calling = TurnTable.from_episodes([played("inf", *never)])
    cost = tool_cost(4.0, fewest="none")
    assert cost(asked, asked.reward).sum() == cost(quiet, quiet.reward).sum() == 1.0
    assert cost(calling, calling.reward).sum() < 0.9
    credit = np.ones(len(asked))
    assert early_call()(asked, credit).tolist() == credit.tolist()
