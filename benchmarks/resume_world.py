"""A small text world in which every algorithm has something to do, in milliseconds."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym

from agentgym.env import TextEnv, digest
from agentgym.records import ToolCall

WORDS = ("red", "blue", "green", "yellow")


class Words(TextEnv):
    """Write the word that was shown; letters in common pay, a question mark asks for the next letter.

    Episodes have 1 to 5 turns: the word ends one, and each word has a turn limit of its own.
    """

    instructions = "Write the word that you see. A question mark asks for a letter."

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.word = WORDS[(seed or 0) % len(WORDS)]
        self.turn = self.asked = 0
        return f"You see {self.word}.", self._info()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.turn += 1
        solved = action.strip() == self.word
        over = not solved and self.turn >= 2 + len(self.word) % 4
        reward = 1.0 if solved else 0.2 * sum(letter in action for letter in self.word) / len(self.word)
        info = self._info()
        if not action.strip():
            info["error"] = "write something"
        shown = ""
        if "?" in action:
            shown = f" {self.word[self.asked % len(self.word)]}"
            self.asked += 1
            info["tool_calls"] = (ToolCall("letter", {"turn": self.turn}, shown),)
        if solved or over:
            info["success"] = solved
        return f"Still {self.word}, turn {self.turn}.{shown}", reward, solved, over, info

    def expert(self) -> str:
        return self.word if self.turn else "?"

    def fork(self) -> Words:
        return copy.deepcopy(self)

    def _info(self) -> dict[str, Any]:
        return {
            "task_id": self.word,
            "anchor": digest(self.word, self.turn, self.asked),
            "answers": (self.word,),
            "admissible": [*WORDS, "?"],
        }


if "bench/Words-v0" not in gym.registry:
    gym.register("bench/Words-v0", entry_point=Words, disable_env_checker=True)
