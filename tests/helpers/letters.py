"""A small text world for tests of learning: any text is an action, and what it pays depends on its letters."""

from __future__ import annotations

import copy

import gymnasium as gym

from agentgym.env import TextEnv, digest
from agentgym.records import ToolCall

WORDS = ("red", "blue", "green")


class Letters(TextEnv):
    """Name the colour. Pays the share of the word's letters that the action holds; the whole word ends the episode.

    It is cut off after ``turns`` turns.
    """

    instructions = "Write the colour that you see."

    def __init__(self, *, split: str = "train", turns: int = 3) -> None:
        super().__init__(split=split)
        self.turns = turns

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.word, self.turn = WORDS[(seed or 0) % 3], 0
        return f"You see {self.word}.", self._info()

    def step(self, action):
        self.turn += 1
        reward = sum(letter in action for letter in self.word) / len(self.word)
        terminated = action.strip() == self.word
        truncated = not terminated and self.turn >= self.turns
        info = self._info()
        if not action.strip():
            info["error"] = "write something"
        if terminated or truncated:
            info["success"] = terminated
        return f"Still {self.word}, turn {self.turn}.", reward, terminated, truncated, info

    def expert(self):
        return self.word

    def fork(self):
        return copy.deepcopy(self)

    def _info(self):
        return {"task_id": self.word, "anchor": digest(self.word, self.turn), "admissible": list(WORDS)}


class LettersWithTools(Letters):
    """The same, where some actions are tool calls too; it gives the accepted answers."""

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        calls = sum(letter in action for letter in "aeiou")
        info["tool_calls"] = tuple(ToolCall("look", {"at": n}, "nothing") for n in range(calls))
        return observation, reward, terminated, truncated, info

    def _info(self):
        return super()._info() | {"answers": (self.word,)}


for name, entry_point in {"tests/Letters-v0": Letters, "tests/LettersWithTools-v0": LettersWithTools}.items():
    if name not in gym.registry:
        gym.register(name, entry_point=entry_point, disable_env_checker=True)
