"""The world of ``real_model.py``: a question, a tool that looks things up; text that calls nothing is the answer."""

import gymnasium

from agentgym.envs.tool_env import Question, Score, ToolEnv
from agentgym.tools.tool import tool

CAPITALS = {
    "France": "Paris", "Peru": "Lima", "Kenya": "Nairobi", "Japan": "Tokyo", "Norway": "Oslo", "Chile": "Santiago",
    "Ghana": "Accra", "Nepal": "Kathmandu", "Cuba": "Havana", "Austria": "Vienna", "Mongolia": "Ulaanbaatar",
    "Uruguay": "Montevideo", "Senegal": "Dakar", "Latvia": "Riga", "Jordan": "Amman", "Bolivia": "Sucre",
}  # fmt: skip


@tool
def almanac(country: str) -> str:
    """Look a country up.

    Args:
        country: its English name.
    """
    return f"The capital of {country} is {CAPITALS.get(country, 'unknown')}."


def score(answer: str, question: Question) -> Score:
    """The city earns 1, every word of the answer costs 0.01."""
    right = any(city in answer for city in question.answers)
    return Score(right - 0.01 * len(answer.split()), right)


def world(split: str = "train") -> ToolEnv:
    """Questions for capitals, answered in free text."""
    tasks = [Question(f"What is the capital of {country}?", [city]) for country, city in CAPITALS.items()]
    return ToolEnv([almanac], tasks, score, syntax="native", split=split)


gymnasium.register("real/Capitals-v0", entry_point=world)
