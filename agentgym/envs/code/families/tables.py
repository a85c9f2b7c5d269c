"""Tables in the question, and small data files in the session."""

from __future__ import annotations

import functools
from collections import defaultdict
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from agentgym.envs.code.families.dates import day_number, from_number, iso
from agentgym.envs.code.families.strings import WORDS
from agentgym.envs.code.tasks import Draft, Family, choose, some, whole

TOWNS = ("Arlen", "Brix", "Corda", "Delm", "Eskar", "Farrow", "Gant", "Hollin", "Irva", "Jorun")
NAMES = ("ana", "ben", "cleo", "dov", "eli", "fay", "gus", "hana", "ivo", "june", "kai", "lea", "mio", "nell", "otto")


class Sale(NamedTuple):
    """One row of a sales table; ``cents`` is the price of one piece."""

    day: int
    town: str
    item: str
    pieces: int
    cents: int

    def line(self) -> str:
        return f"{_iso(self.day)},{self.town},{self.item},{self.pieces},{money(self.cents)}"


@functools.lru_cache(maxsize=10_000)
def _iso(day: int) -> str:
    return iso(from_number(day))


def money(cents: int) -> str:
    """12.05."""
    return f"{cents // 100}.{cents % 100:02d}"


def _sales(rng: np.random.Generator, rows: int, spread: int) -> list[Sale]:
    """Rows in the order of their dates, with few towns and items so that groups have several rows."""
    towns, items = some(rng, TOWNS, 3 + spread // 2), some(rng, WORDS, 3 + spread)
    prices = [whole(rng, 50, 3000) for _ in items]
    first = day_number((2020, 1, 1)) + whole(rng, 0, 1500)
    days = np.sort(rng.integers(0, rows + 1, rows)) + first
    where, what = rng.integers(len(towns), size=rows), rng.integers(len(items), size=rows)
    pieces = rng.integers(1, 6 + 5 * spread, rows)
    columns = zip(days.tolist(), where.tolist(), what.tolist(), pieces.tolist(), strict=True)
    return [Sale(day, towns[t], items[i], count, prices[i]) for day, t, i, count in columns]


def _ask(rng: np.random.Generator, sales: list[Sale], level: int) -> tuple[str, str, str]:
    """A question about sales, its answer, and the lines of a program that prints it; ``rows`` are dictionaries."""
    town, item = choose(rng, sales).town, choose(rng, sales).item
    kinds = [_revenue, _best, _least] if level < 3 else [_best, _average, _days, _best_of_town]
    return choose(rng, kinds)(sales, town, item)


def _totals(pairs: list[tuple[str, int]]) -> dict[str, int]:
    totals: dict[str, int] = defaultdict(int)
    for name, amount in pairs:
        totals[name] += amount
    return totals


_CENTS = "def cents(r):\n    return int(r['pieces']) * round(float(r['price']) * 100)\n"


def _revenue(sales: list[Sale], town: str, item: str) -> tuple[str, str, str]:
    total = sum(s.pieces * s.cents for s in sales if s.town == town)
    source = f"t = sum(cents(r) for r in rows if r['town'] == '{town}')\nprint(f'{{t // 100}}.{{t % 100:02d}}')"
    return f"What is the total of pieces times price for {town}?", money(total), _CENTS + source


def _best(sales: list[Sale], town: str, item: str) -> tuple[str, str, str]:
    totals = _totals([(s.item, s.pieces * s.cents) for s in sales])
    source = "from collections import Counter\nc = Counter()\nfor r in rows:\n    c[r['item']] += cents(r)\n"
    question = "Which item has the highest total of pieces times price (the first in the alphabet if several have it)?"
    answer = min(totals, key=lambda name: (-totals[name], name))
    return question, answer, _CENTS + source + "print(min(c, key=lambda i: (-c[i], i)))"


def _least(sales: list[Sale], town: str, item: str) -> tuple[str, str, str]:
    count = sum(s.pieces for s in sales if s.item == item and s.town != town)
    source = f"print(sum(int(r['pieces']) for r in rows if r['item'] == '{item}' and r['town'] != '{town}'))"
    return f"How many pieces of {item} were sold outside of {town}?", str(count), source


def _average(sales: list[Sale], town: str, item: str) -> tuple[str, str, str]:
    counts = [s.pieces for s in sales if s.town == town]
    hundredths, rest = divmod(200 * sum(counts) + len(counts), 2 * len(counts))  # rounded half up
    if rest == 0:  # just between two: ask for the sum instead of quarrelling about rounding
        question = f"How many pieces were sold in {town} in all?"
        return question, str(sum(counts)), f"print(sum(int(r['pieces']) for r in rows if r['town'] == '{town}'))"
    question = f"What is the mean number of pieces in the rows of {town}, rounded to two decimals?"
    source = f"c = [int(r['pieces']) for r in rows if r['town'] == '{town}']\nprint(f'{{sum(c) / len(c):.2f}}')"
    return question, money(hundredths), source


def _days(sales: list[Sale], town: str, item: str) -> tuple[str, str, str]:
    days = {s.day for s in sales if s.town == town}
    gap = max((b - a for a, b in pairwise(sorted(days))), default=0)
    source = (
        "from datetime import date\n"
        f"d = sorted({{date.fromisoformat(r['date']) for r in rows if r['town'] == '{town}'}})\n"
        "print(max([(b - a).days for a, b in zip(d, d[1:])], default=0))"
    )
    question = (
        f"What is the greatest number of days between two consecutive dates with a sale in {town} (0 if only one)?"
    )
    return question, str(gap), source


def _best_of_town(sales: list[Sale], town: str, item: str) -> tuple[str, str, str]:
    per_town: dict[str, dict[str, int]] = {}
    for s in sales:
        here = per_town.setdefault(s.town, defaultdict(int))
        here[s.item] += s.pieces
    count = sum(max(here.values()) for here in per_town.values())
    question = (
        "For each town, take the number of pieces of the item of which most pieces were sold there. "
        "What is the sum of these numbers?"
    )
    source = (
        "from collections import Counter\nc = {}\nfor r in rows:\n"
        "    c.setdefault(r['town'], Counter())[r['item']] += int(r['pieces'])\n"
        "print(sum(max(t.values()) for t in c.values()))"
    )
    return question, str(count), source


_HEADER = "date,town,item,pieces,price"


def table(rng: np.random.Generator, level: int) -> Draft:
    """A question about a table that it shows."""
    sales = _sales(rng, 4 + 3 * level, level // 2)
    written = "\n".join([_HEADER, *(s.line() for s in sales)])
    question, answer, source = _ask(rng, sales, level)
    head = f"import csv\nrows = list(csv.DictReader({written!r}.splitlines()))\n"
    return Draft(f"{written}\n\n{question}", head + source, lambda: answer)


def sales(rng: np.random.Generator, level: int) -> Draft:
    """A question about a file of sales."""
    rows = _sales(rng, 30 * 2**level, level)
    question, answer, source = _ask(rng, rows, level + 1)
    text = f"The file sales.csv in the working directory has {len(rows)} rows, with the columns {_HEADER}. {question}"
    files = {"sales.csv": "\n".join([_HEADER, *(s.line() for s in rows)]) + "\n"}
    head = "import csv\nrows = list(csv.DictReader(open('sales.csv')))\n"
    return Draft(text, head + source, lambda: answer, files)


def log(rng: np.random.Generator, level: int) -> Draft:
    """A question about a log file."""
    users = some(rng, NAMES, 4 + level)
    actions = ("login", "read", "write", "logout")
    count = 25 + 35 * level
    seconds = whole(rng, 0, 3600) + np.cumsum(rng.integers(1, 91, count))
    who, what = rng.integers(len(users), size=count), rng.integers(len(actions), size=count)
    columns = zip(seconds.tolist(), who.tolist(), what.tolist(), rng.integers(2, 901, count).tolist(), strict=True)
    entries = [(t, users[u], actions[a], ms) for t, u, a, ms in columns]
    user = choose(rng, entries)[1]
    lines = [f"{t // 3600:02d}:{t // 60 % 60:02d}:{t % 60:02d} {who} {what} {ms}ms" for t, who, what, ms in entries]
    head = "lines = [line.split() for line in open('app.log')]\n"
    kind = choose(rng, ("gap", "slow", "pairs"))
    if kind == "gap":
        question = (
            f"What is the greatest number of seconds between two consecutive lines of user {user} (0 if only one)?"
        )
        times = [t for t, who, _, _ in entries if who == user]
        answer = str(max((b - a for a, b in pairwise(times)), default=0))
        source = (
            "def seconds(clock):\n    h, m, s = map(int, clock.split(':'))\n    return h * 3600 + m * 60 + s\n"
            f"t = [seconds(l[0]) for l in lines if l[1] == '{user}']\n"
            "print(max([b - a for a, b in zip(t, t[1:])], default=0))"
        )
    elif kind == "slow":
        limit = whole(rng, 200, 800)
        question = f"How many users have at least one 'write' that took more than {limit} milliseconds?"
        answer = str(len({who for _, who, what, ms in entries if what == "write" and ms > limit}))
        source = f"print(len({{l[1] for l in lines if l[2] == 'write' and int(l[3][:-2]) > {limit}}}))"
    else:
        question = (
            f"How many times is a line of user {user} directly followed by a line of another user with the same action?"
        )
        answer = str(sum(b[2] == a[2] and a[1] == user != b[1] for a, b in pairwise(entries)))
        source = f"print(sum(a[1] == '{user}' != b[1] and a[2] == b[2] for a, b in zip(lines, lines[1:])))"
    text = (
        f"The file app.log in the working directory has {len(lines)} lines such as '{lines[0]}': time, user, action, "
        f"duration. All are of one day, in order. {question}"
    )
    return Draft(text, head + source, lambda: answer, {"app.log": "\n".join(lines) + "\n"})


FAMILIES: dict[str, Family] = {"table": table, "sales": sales, "log": log}
