"""The families of generated tasks, one file a subject; each draws a task for a level from 1 (easy) to 7."""

from __future__ import annotations

from agentgym.envs.code.families import counting, dates, numbers, programs, simulation, strings, tables
from agentgym.envs.code.tasks import Family

SUBJECTS = (numbers, counting, dates, strings, tables, simulation, programs)

#: Every family by its name.
FAMILIES: dict[str, Family] = {name: family for subject in SUBJECTS for name, family in subject.FAMILIES.items()}
