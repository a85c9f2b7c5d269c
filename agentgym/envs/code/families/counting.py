"""Combinatorics. Answers come by formulas and dynamic programming, the expert's programs enumerate."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product

import numpy as np

from agentgym.envs.code.tasks import Draft, Family, some, whole


def paths(rng: np.random.Generator, level: int) -> Draft:
    """Monotone paths through a grid with blocked cells."""
    width, height = whole(rng, 3, 4 + level), whole(rng, 3, 4 + level)
    cells = [(x, y) for x, y in product(range(width), range(height)) if (x, y) not in ((0, 0), (width - 1, height - 1))]
    blocked = sorted(some(rng, cells, whole(rng, 1, 1 + level)))

    def solve() -> str:
        ways = [[0] * (height + 1) for _ in range(width + 1)]
        ways[1][0] = 1
        for x, y in product(range(1, width + 1), range(1, height + 1)):
            ways[x][y] = 0 if (x - 1, y - 1) in blocked else ways[x - 1][y] + ways[x][y - 1]
        return str(ways[width][height])

    listed = ", ".join(f"({x}, {y})" for x, y in blocked)
    text = (
        f"A piece starts at (0, 0) of a grid and goes to ({width - 1}, {height - 1}) by steps of +1 in x or +1 in y, "
        f"never through {listed}. How many paths are there?"
    )
    program = (
        f"from functools import cache\nblocked = {blocked!r}\n@cache\ndef ways(x, y):\n"
        "    if x < 0 or y < 0 or (x, y) in blocked:\n        return 0\n"
        f"    return 1 if x == y == 0 else ways(x - 1, y) + ways(x, y - 1)\nprint(ways({width - 1}, {height - 1}))"
    )
    return Draft(text, program, solve)


def subsets(rng: np.random.Generator, level: int) -> Draft:
    """Subsets with a given sum."""
    items = sorted(some(rng, range(1, 12 + 6 * level), 6 + level))
    target = sum(some(rng, items, len(items) // 2))

    def solve() -> str:
        ways = [1] + [0] * target
        for item in items:
            for value in range(target, item - 1, -1):
                ways[value] += ways[value - item]
        return str(ways[target])

    listed = "{" + ", ".join(map(str, items)) + "}"
    text = f"How many subsets of {listed} have the sum {target}?"
    program = (
        f"from itertools import combinations\nitems = {items!r}\n"
        f"print(sum(sum(c) == {target} for k in range(len(items) + 1) for c in combinations(items, k)))"
    )
    return Draft(text, program, solve)


def arrangements(rng: np.random.Generator, level: int) -> Draft:
    """Arrangements of a word without equal neighbours."""
    letters = some(rng, "abcdefghklmnoprstu", 2 + (level + 1) // 2)
    counts = {letter: whole(rng, 1, 2 + level // 3) for letter in letters}
    counts[letters[0]] += 1
    pool = [letter for letter, count in counts.items() for _ in range(count)]
    word = "".join(some(rng, pool, len(pool)))

    def solve() -> str:
        # Glue the copies of each letter into k blocks, with sign: sum over k of (-1)^(m-k) C(m-1, k-1) x^k / k!,
        # multiply over the letters, and let the blocks be arranged: x^n becomes n!.
        series = [Fraction(1)]
        for m in counts.values():
            factor = [Fraction(0)] + [
                Fraction((-1) ** (m - k) * math.comb(m - 1, k - 1), math.factorial(k)) for k in range(1, m + 1)
            ]
            longer = [Fraction(0)] * (len(series) + m)
            for i, a in enumerate(series):
                for j, b in enumerate(factor):
                    longer[i + j] += a * b
            series = longer
        return str(sum(c * math.factorial(n) for n, c in enumerate(series)))

    text = f"In how many different orders can all letters of '{word}' be written so that no two neighbours are equal?"
    program = (
        "from functools import cache\nfrom collections import Counter\n"
        "@cache\ndef count(left, last):\n    if not left:\n        return 1\n    total = 0\n"
        "    for letter in set(left):\n        if letter != last:\n"
        "            total += count(left.replace(letter, '', 1), letter)\n    return total\n"
        f"print(count(''.join(sorted({word!r})), ''))"
    )
    return Draft(text, program.replace("from collections import Counter\n", ""), solve)


def change(rng: np.random.Generator, level: int) -> Draft:
    """Ways to pay an amount, with a limit on the number of coins."""
    coins = sorted(some(rng, range(2, 10 + 4 * level), 2 + (level + 1) // 2))
    amount, most = whole(rng, 20, 25 + 25 * level), whole(rng, 6, 8 + 2 * level)

    def solve() -> str:
        ways = [[0] * (most + 1) for _ in range(amount + 1)]  # [amount][coins]
        ways[0][0] = 1
        for coin in coins:
            for value, used in product(range(coin, amount + 1), range(1, most + 1)):
                ways[value][used] += ways[value - coin][used - 1]
        return str(sum(ways[amount]))

    listed = ", ".join(map(str, coins))
    text = (
        f"There are coins of {listed}, as many of each as you like. In how many ways can {amount} be paid exactly with "
        f"at most {most} coins? The order of coins does not matter."
    )
    program = (
        f"coins = {coins!r}\ndef ways(amount, left, i):\n    if amount == 0:\n        return 1\n"
        "    if amount < 0 or left == 0 or i == len(coins):\n        return 0\n"
        f"    return ways(amount - coins[i], left - 1, i) + ways(amount, left, i + 1)\nprint(ways({amount}, {most}, 0))"
    )
    return Draft(text, program, solve)


FAMILIES: dict[str, Family] = {"paths": paths, "subsets": subsets, "arrangements": arrangements, "change": change}
