"""Processes that must be played through. Answers and programs play them in different ways."""

from __future__ import annotations

import numpy as np

from agentgym.envs.code.tasks import Draft, Family, choose, whole


def robot(rng: np.random.Generator, level: int) -> Draft:
    """A robot on a board whose edges are joined."""
    size = whole(rng, 5, 6 + 2 * level)
    moves = "".join(choose(rng, "FFFLR") for _ in range(4 + 2 * level)) + "F"
    rounds = whole(rng, 2, 3 * 2**level)
    quantity = choose(rng, ("where", "cells"))
    text = (
        f"A robot stands on cell (0, 0) of a {size} by {size} board and looks north (+y). "
        f"The board's edges are joined: x and y count modulo {size}. F is one step ahead, L a turn to the left, "
        f"R a turn to the right. It performs {moves} {rounds} times. "
    )
    text += (
        "Where does it stand at the end? Write x, y."
        if quantity == "where"
        else "How many different cells has it stood on, the first one included?"
    )
    program = (
        f"x, y, dx, dy, seen = 0, 0, 0, 1, {{(0, 0)}}\nfor c in {moves!r} * {rounds}:\n"
        "    if c == 'L':\n        dx, dy = -dy, dx\n    elif c == 'R':\n        dx, dy = dy, -dx\n"
        f"    else:\n        x, y = (x + dx) % {size}, (y + dy) % {size}\n        seen.add((x, y))\n"
    )
    program += "print(f'{x}, {y}')" if quantity == "where" else "print(len(seen))"

    def solve() -> str:
        place, ahead, seen = 0j, 1j, {(0, 0)}
        for c in moves * rounds:
            ahead *= {"L": 1j, "R": -1j}.get(c, 1)
            place += ahead if c == "F" else 0
            seen.add((int(place.real) % size, int(place.imag) % size))
        where = f"{int(place.real) % size}, {int(place.imag) % size}"
        return where if quantity == "where" else str(len(seen))

    return Draft(text, program, solve)


def circle(rng: np.random.Generator, level: int) -> Draft:
    """People in a circle, every k-th of whom leaves."""
    people, step = whole(rng, 8, 10 * 2**level), whole(rng, 2, 5 + 3 * level)
    text = (
        f"{people} people stand in a circle, numbered from 1. Counting begins at person 1; every {step}. person "
        "counted leaves and counting goes on with the next one. What is the number of the last one left?"
    )
    program = (
        f"people, i = list(range(1, {people} + 1)), 0\nwhile len(people) > 1:\n"
        f"    i = (i + {step} - 1) % len(people)\n    del people[i]\nprint(people[0])"
    )

    def solve() -> str:
        survivor = 0
        for size in range(2, people + 1):
            survivor = (survivor + step) % size
        return str(survivor + 1)

    return Draft(text, program, solve)


def automaton(rng: np.random.Generator, level: int) -> Draft:
    """Cells in a ring that change by their neighbours."""
    size, steps = whole(rng, 7, 9 + 3 * level), whole(rng, 2, 4 * level + 2)
    row = "".join(choose(rng, "01") for _ in range(size))
    rule = whole(rng, 18, 253)
    table = ", ".join(f"{n:03b} gives {rule >> n & 1}" for n in range(8))
    text = (
        f"Cells stand in a ring: {row}. In one step all cells change at once: the new value depends on the cell's left "
        f"neighbour, the cell and its right neighbour, in this order: {table}. "
        f"How many cells are 1 after {steps} steps?"
    )
    program = (
        f"row, rule = {row!r}, {rule}\nfor _ in range({steps}):\n"
        "    n = len(row)\n    row = ''.join(str(rule >> int(row[i - 1] + row[i] + row[(i + 1) % n], 2) & 1) "
        "for i in range(n))\nprint(row.count('1'))"
    )

    def solve() -> str:
        state, everywhere = int(row, 2), (1 << size) - 1
        for _ in range(steps):
            left = state >> 1 | (state & 1) << (size - 1)
            right = (state << 1 | state >> (size - 1)) & everywhere
            state = sum(
                (left if n & 4 else ~left) & (state if n & 2 else ~state) & (right if n & 1 else ~right) & everywhere
                for n in range(8)
                if rule >> n & 1
            )
        return str(state.bit_count())

    return Draft(text, program, solve)


def sequence(rng: np.random.Generator, level: int) -> Draft:
    """A number that is mapped again and again: its value, or how soon one comes back."""
    modulus = whole(rng, 30, 40 * 3**level)
    a, b, c = whole(rng, 1, modulus - 1), whole(rng, 1, modulus - 1), whole(rng, 0, modulus - 1)
    start = whole(rng, 0, modulus - 1)
    text = f"x starts at {start} and becomes ({a} * x * x + {b} * x + {c}) mod {modulus} again and again. "
    formula = f"({a} * x * x + {b} * x + {c}) % {modulus}"

    def follow(x: int) -> int:
        return ((a * x + b) * x + c) % modulus

    if choose(rng, (True, False)):
        steps = whole(rng, 5, 10 * 3**level)

        def value() -> str:
            x = start
            for _ in range(steps):
                x = follow(x)
            return str(x)

        program = f"x = {start}\nfor _ in range({steps}):\n    x = {formula}\nprint(x)"
        return Draft(f"{text}What is x after {steps} steps?", program, value)

    def repeats() -> str:  # Brent: the period, then the steps before it
        power = period = 1
        slow, fast = start, follow(start)
        while slow != fast:
            if power == period:
                slow, power, period = fast, 2 * power, 0
            fast, period = follow(fast), period + 1
        slow = fast = start
        for _ in range(period):
            fast = follow(fast)
        before = 0
        while slow != fast:
            slow, fast, before = follow(slow), follow(fast), before + 1
        return str(before + period)

    program = f"x, seen = {start}, set()\nwhile x not in seen:\n    seen.add(x)\n    x = {formula}\nprint(len(seen))"
    return Draft(f"{text}How many different values does x take, the first one included?", program, repeats)


FAMILIES: dict[str, Family] = {"robot": robot, "circle": circle, "automaton": automaton, "sequence": sequence}
