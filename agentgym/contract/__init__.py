"""The environment contract, rule by rule, as functions that look for violations.

A rule is a generator: each text it yields is one violation, an exception is one too, and ``NotApplicable`` says why the
rule does not concern this environment. :mod:`agentgym.check` runs them in the order in which they are imported here.
"""

from __future__ import annotations

from agentgym.contract import shape as shape

from agentgym.contract import sameness as sameness  # isort: skip
from agentgym.contract import actions as actions  # isort: skip
from agentgym.contract import tasks as tasks  # isort: skip
from agentgym.contract import gaming as gaming  # isort: skip
from agentgym.contract.probe import Probe, columns_of, probe
from agentgym.contract.subject import RULES, NotApplicable, Rule, Subject

__all__ = ["RULES", "NotApplicable", "Probe", "Rule", "Subject", "columns_of", "probe"]
