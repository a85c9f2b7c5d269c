"""String puzzles."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from agentgym.envs.code.tasks import Draft, Family, choose, some, whole

LETTERS = "abcdefghijklmnopqrstuvwxyz"
_WORDS = """
amber anchor apple arrow basket beacon birch bottle bridge butter candle carpet castle cedar cherry cloud
copper corner cotton cradle desert dragon eagle ember engine feather ferry field flint forest garden ginger
glacier hammer harbor hazel helmet honey island ivory jacket jungle kettle ladder lantern lemon linen magnet
marble meadow mirror mortar needle nickel ocean olive orchard oyster paddle pebble pepper pillow pirate planet
pocket puzzle quartz quiver rabbit ribbon river rocket saddle sailor salmon shadow silver spider spruce stable
summer tailor temple thimble thunder timber tunnel turtle valley velvet violet walnut wagon willow window
winter yellow
"""
WORDS = tuple(_WORDS.split())


class Rule(NamedTuple):
    """One step of a rewriting: as said, as done here, as Python source that changes ``s``."""

    said: str
    done: Callable[[str], str]
    source: str


def rewrite(rng: np.random.Generator, level: int) -> Draft:
    """A string after a few rules, applied several times."""
    start = "".join(choose(rng, LETTERS) for _ in range(5 + 2 * level))
    rules = [choose(rng, _RULES)(rng) for _ in range(1 + (level + 1) // 2)]
    rounds = whole(rng, 2, 2 + 2 * level)
    text = (
        f"Take the string '{start}'. One round: {'; then '.join(rule.said for rule in rules)}. "
        f"What is the string after {rounds} rounds?"
    )
    body = "\n".join(f"    {rule.source}" for rule in rules)

    def solve() -> str:
        s = start
        for _ in range(rounds):
            for rule in rules:
                s = rule.done(s)
        return s

    return Draft(text, f"s = {start!r}\nfor _ in range({rounds}):\n{body}\nprint(s)", solve)


def _rotate(rng: np.random.Generator) -> Rule:
    k = whole(rng, 1, 4)
    return Rule(
        f"move the first {k} letters to the end" if k > 1 else "move the first letter to the end",
        lambda s: "".join(s[(i + k) % len(s)] for i in range(len(s))),
        f"s = s[{k} % len(s):] + s[:{k} % len(s)]",
    )


def _shift(rng: np.random.Generator) -> Rule:
    k = whole(rng, 1, 9)
    table = str.maketrans(LETTERS, LETTERS[k:] + LETTERS[:k])
    return Rule(
        f"replace every letter by the one {k} places later in the alphabet (a follows z)",
        lambda s: s.translate(table),
        f"s = ''.join(chr((ord(c) - 97 + {k}) % 26 + 97) for c in s)",
    )


def _swap(rng: np.random.Generator) -> Rule:
    a, b = some(rng, LETTERS, 2)
    return Rule(
        f"replace every {a} by {b} and every {b} by {a}",
        lambda s: "".join({a: b, b: a}.get(c, c) for c in s),
        f"s = s.replace('{a}', '_').replace('{b}', '{a}').replace('_', '{b}')",
    )


def _split(rng: np.random.Generator) -> Rule:
    return Rule(
        "write the letters at even positions (the first letter has position 1), then those at odd positions",
        lambda s: s[1::2] + s[::2],
        "s = ''.join(c for i, c in enumerate(s, 1) if i % 2 == 0) + ''.join(c for i, c in enumerate(s, 1) if i % 2)",
    )


def _reverse(rng: np.random.Generator) -> Rule:
    return Rule("write it backwards", lambda s: "".join(reversed(s)), "s = s[::-1]")


_RULES = (_rotate, _shift, _swap, _split, _reverse)


def cipher(rng: np.random.Generator, level: int) -> Draft:
    """A text enciphered with a keyword."""
    plain = "".join(some(rng, WORDS, 1 + level))
    key = "".join(choose(rng, LETTERS) for _ in range(whole(rng, 2, 2 + level)))
    secret = "".join(LETTERS[(LETTERS.index(c) + LETTERS.index(key[i % len(key)])) % 26] for i, c in enumerate(plain))
    text = (
        f"A text of letters was enciphered so: letter i was moved forward in the alphabet (a follows z) by the place "
        f"(a is 0, z is 25) of letter i of the key '{key}', which is repeated as often as needed. "
        f"The result is '{secret}'. What was the text?"
    )
    program = (
        f"from itertools import cycle\nprint(''.join(chr((ord(c) - ord(k)) % 26 + 97) "
        f"for c, k in zip({secret!r}, cycle({key!r}))))"
    )
    return Draft(text, program, lambda: plain)


def deletions(rng: np.random.Generator, level: int) -> Draft:
    """How often a word is left when letters are deleted."""
    word = "".join(some(rng, "abcde", min(2 + level // 2, 4)))
    pool = word + choose(rng, "xyz")
    string = "".join(choose(rng, pool) for _ in range(8 + 3 * level))
    text = (
        f"In how many ways can '{word}' be made from '{string}' by deleting letters? "
        "Deleting at different places counts as different."
    )

    def solve() -> str:
        ways = [1] + [0] * len(word)
        for c in string:
            for i in range(len(word) - 1, -1, -1):
                if word[i] == c:
                    ways[i + 1] += ways[i]
        return str(ways[-1])

    program = (
        f"from functools import cache\nword, string = {word!r}, {string!r}\n@cache\ndef ways(i, j):\n"
        "    if i == len(word):\n        return 1\n    if j == len(string):\n        return 0\n"
        "    return ways(i, j + 1) + (word[i] == string[j] and ways(i + 1, j + 1))\nprint(ways(0, 0))"
    )
    return Draft(text, program, solve)


def words(rng: np.random.Generator, level: int) -> Draft:
    """A question about a list of words."""
    chosen = some(rng, WORDS, 8 + 4 * level)
    letter = choose(rng, "aeiorstln")
    place = whole(rng, 2, len(chosen) - 1)
    head = f"words = {' '.join(chosen)!r}.split()\n"
    listed = f"These are the words: {' '.join(chosen)}."
    kind = choose(rng, ("sorted", "letters", "order"))
    if kind == "sorted":
        text = (
            f"{listed} Sort them by their last letter, words with equal last letters by their length, and words that "
            f"are still equal by the alphabet. Which word stands at place {place} (the first place is 1)?"
        )
        program = head + f"print(sorted(words, key=lambda w: (w[-1], len(w), w))[{place - 1}])"

        def solve() -> str:
            ordered = sorted(sorted(sorted(chosen), key=len), key=lambda w: w[-1])
            return ordered[place - 1]

        return Draft(text, program, solve)
    if kind == "letters":
        text = (
            f"{listed} Write them one after another without spaces. How many letters stand between the first and the "
            f"last '{letter}'? If '{letter}' occurs fewer than two times, the answer is 0."
        )
        program = (
            f"{head}at = [i for i, c in enumerate(''.join(words)) if c == '{letter}']\n"
            "print(max(at[-1] - at[0] - 1, 0) if at else 0)"
        )

        def solve_letters() -> str:
            joined = "".join(chosen)
            return str(max(joined.rfind(letter) - joined.find(letter) - 1, 0))

        return Draft(text, program, solve_letters)
    text = (
        f"{listed} How many words come earlier in the alphabet than the word right before them in this list, and do "
        f"not contain the letter '{letter}'?"
    )
    program = head + f"print(sum(b < a and '{letter}' not in b for a, b in zip(words, words[1:])))"
    return Draft(text, program, lambda: str(sum(b < a and letter not in set(b) for a, b in pairwise(chosen))))


FAMILIES: dict[str, Family] = {"rewrite": rewrite, "cipher": cipher, "deletions": deletions, "words": words}
