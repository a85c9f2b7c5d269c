"""Where is credit: parts that turn rewards into an advantage for each turn. Needs numpy only.

``turn_table`` is what they read, one row a turn; ``combine`` joins parts. ``returns``, ``baselines``, ``critic``,
``information_gain``, ``branches`` and ``tool_calls`` are advantage parts; ``states`` says which turns met the same
state; ``turn_weights`` says how much a turn counts.
"""

from agentgym.trainers.advantage.baselines import best_of_group, leave_one_out, length_baseline, standardize, whiten
from agentgym.trainers.advantage.branches import mean_over_copies, monte_carlo_values, node_values
from agentgym.trainers.advantage.combine import add, chain, scale
from agentgym.trainers.advantage.critic import gae
from agentgym.trainers.advantage.information_gain import AnswerProbe, information_credit, information_gain
from agentgym.trainers.advantage.returns import discounted_return, episode_return, invalid_penalty
from agentgym.trainers.advantage.states import action_key, history_key, next_anchor, similar_anchors
from agentgym.trainers.advantage.tool_calls import early_call
from agentgym.trainers.advantage.turn_table import ColumnError, TurnFunction, TurnTable

__all__ = [
    "AnswerProbe",
    "ColumnError",
    "TurnFunction",
    "TurnTable",
    "action_key",
    "add",
    "best_of_group",
    "chain",
    "discounted_return",
    "early_call",
    "episode_return",
    "gae",
    "history_key",
    "information_credit",
    "information_gain",
    "invalid_penalty",
    "leave_one_out",
    "length_baseline",
    "mean_over_copies",
    "monte_carlo_values",
    "next_anchor",
    "node_values",
    "scale",
    "similar_anchors",
    "standardize",
    "whiten",
]
