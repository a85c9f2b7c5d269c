"""Number theory. Answers come by theory, the expert's programs count."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np

from agentgym.envs.code.tasks import Draft, Family, choose, some, whole

PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47)


def powers(rng: np.random.Generator, level: int) -> Draft:
    """The remainder of a sum of powers."""
    terms = [(whole(rng, 2, 12 * level), whole(rng, 5, 30 * level)) for _ in range(1 + level // 2)]
    modulus = whole(rng, 11, 10 ** (1 + level))

    def solve() -> str:
        total = 0
        for base, exponent in terms:
            value = 1
            for bit in bin(exponent)[2:]:
                value = value * value * (base if bit == "1" else 1) % modulus
            total += value
        return str(total % modulus)

    said = " + ".join(f"{a}^{b}" for a, b in terms)
    source = " + ".join(f"{a}**{b}" for a, b in terms)
    return Draft(f"What is the remainder of {said} divided by {modulus}?", f"print(({source}) % {modulus})", solve)


def multiples(rng: np.random.Generator, level: int) -> Draft:
    """How many integers have one of some divisors and not another."""
    top = whole(rng, 200, 300 * 3**level)
    *divisors, without = some(rng, range(2, 8 + 3 * level), 3 + level // 3)

    def solve() -> str:
        def both(extra: tuple[int, ...]) -> int:  # inclusion and exclusion over the divisors
            return sum(
                (-1) ** (size + 1) * (top // math.lcm(*chosen, *extra))
                for size in range(1, len(divisors) + 1)
                for chosen in combinations(divisors, size)
            )

        return str(both(()) - both((without,)))

    listed = " or ".join(map(str, divisors))
    text = f"How many integers from 1 to {top} are divisible by {listed} (at least one of them), but not by {without}?"
    either = " or ".join(f"n % {d} == 0" for d in divisors)
    return Draft(text, f"print(sum(({either}) and n % {without} != 0 for n in range(1, {top} + 1)))", solve)


def digits(rng: np.random.Generator, level: int) -> Draft:
    """How many integers of a range have a digit sum and a divisor."""
    low = whole(rng, 1, 100 * 2**level)
    high = low + whole(rng, 100, 200 * 3**level)
    total, divisor = whole(rng, 5, 6 + 3 * level), whole(rng, 2, 2 + level)

    def up_to(limit: int) -> int:
        """Of 0 to limit, digit by digit: states are (digit sum, remainder, still equal to the limit's start)."""
        states = {(0, 0, True): 1}
        for last in map(int, str(limit)):
            following: dict[tuple[int, int, bool], int] = {}
            for (added, rest, tight), count in states.items():
                for digit in range(last + 1 if tight else 10):
                    state = (added + digit, (rest * 10 + digit) % divisor, tight and digit == last)
                    following[state] = following.get(state, 0) + count
            states = following
        return sum(count for (added, rest, _), count in states.items() if added == total and rest == 0)

    text = f"How many integers from {low} to {high} have the digit sum {total} and are divisible by {divisor}?"
    program = f"print(sum(sum(map(int, str(n))) == {total} and n % {divisor} == 0 for n in range({low}, {high} + 1)))"
    return Draft(text, program, lambda: str(up_to(high) - up_to(low - 1)))


def remainders(rng: np.random.Generator, level: int) -> Draft:
    """The smallest number with given remainders."""
    moduli = sorted(some(rng, PRIMES[1 : 6 + level], 2 + level // 2))
    rests = [whole(rng, 0, m - 1) for m in moduli]
    least = whole(rng, 1, 50 * level)

    def solve() -> str:
        product = math.prod(moduli)
        residue = (
            sum(r * (product // m) * pow(product // m, -1, m) for r, m in zip(rests, moduli, strict=True)) % product
        )
        return str(residue + product * max(0, -((residue - least) // product)))

    said = ", ".join(f"{r} when divided by {m}" for r, m in zip(rests, moduli, strict=True))
    text = f"What is the smallest integer that is at least {least} and leaves the remainders {said}?"
    pairs = list(zip(rests, moduli, strict=True))
    loop = "    while n % m != r:\n        n += step\n    step *= m\nprint(n)"
    program = f"n, step = {least}, 1\nfor r, m in {pairs!r}:\n{loop}"
    return Draft(text, program, solve)


def divisors(rng: np.random.Generator, level: int) -> Draft:
    """Number or sum of the divisors, or the sum of the distinct prime factors."""
    bases = some(rng, PRIMES[: 4 + 2 * level], min(2 + level // 2, 4))
    powers = [whole(rng, 1, 2 + (level > 3)) for _ in bases]
    n = math.prod(p**e for p, e in zip(bases, powers, strict=True))
    what = choose(rng, ("number", "sum", "primes"))

    def solve() -> str:
        if what == "number":
            return str(math.prod(e + 1 for e in powers))
        if what == "sum":
            return str(math.prod((p ** (e + 1) - 1) // (p - 1) for p, e in zip(bases, powers, strict=True)))
        return str(sum(bases))

    texts = {
        "number": f"How many positive divisors does {n} have?",
        "sum": f"What is the sum of all positive divisors of {n}?",
        "primes": f"What is the sum of the distinct prime factors of {n}?",
    }
    if what == "primes":
        program = f"n, p, found = {n}, 2, set()\nwhile n > 1:\n    while n % p == 0:\n        found.add(p)\n"
        return Draft(texts[what], program + "        n //= p\n    p += 1\nprint(sum(found))", solve)
    value = "2 - (d * d == n)" if what == "number" else "d + (n // d if d * d != n else 0)"
    loop = "for d in range(1, int(n**0.5) + 1) if n % d == 0"
    return Draft(texts[what], f"n = {n}\nprint(sum({value} {loop}))", solve)


FAMILIES: dict[str, Family] = {
    "powers": powers,
    "multiples": multiples,
    "digits": digits,
    "remainders": remainders,
    "divisors": divisors,
}
