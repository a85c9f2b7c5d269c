"""Dates of the Gregorian calendar. Answers come by day numbers worked out here, the programs use ``datetime``."""

from __future__ import annotations

import numpy as np

from agentgym.envs.code.tasks import Draft, Family, choose, whole

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
Day = tuple[int, int, int]  #: year, month, day


def day_number(day: Day) -> int:
    """Days since 1 January of year 1, which is 0 and a Monday."""
    year, month, date = day
    year, month = (year - 1, month + 9) if month < 3 else (year, month - 3)  # the year begins in March
    return year * 365 + year // 4 - year // 100 + year // 400 + (153 * month + 2) // 5 + date - 307


def from_number(number: int) -> Day:
    """The inverse of :func:`day_number`, by trying years and months."""
    year = number * 400 // 146097 + 1
    while day_number((year, 1, 1)) > number:
        year -= 1
    while day_number((year + 1, 1, 1)) <= number:
        year += 1
    month = max(m for m in range(1, 13) if day_number((year, m, 1)) <= number)
    return year, month, number - day_number((year, month, 1)) + 1


def iso(day: Day) -> str:
    """2026-03-09."""
    return "{:04d}-{:02d}-{:02d}".format(*day)


def between(rng: np.random.Generator, level: int) -> Draft:
    """Days between two dates, or those of them that are no weekend."""
    first = _day(rng, level)
    last = from_number(day_number(first) + whole(rng, 40, 60 * 4**level))
    a, b = day_number(first), day_number(last)
    head = f"from datetime import date, timedelta\na, b = date{first!r}, date{last!r}\n"
    if level >= 2 and rng.random() < 0.5:
        text = f"How many days from {iso(first)} to {iso(last)}, both included, are neither a Saturday nor a Sunday?"
        loop = "print(sum((a + timedelta(i)).weekday() < 5 for i in range((b - a).days + 1)))"

        def working(number: int) -> int:  # of the days 0 to number
            return (number + 1) // 7 * 5 + min((number + 1) % 7, 5)

        return Draft(text, head + loop, lambda: str(working(b) - working(a - 1)))
    text = f"How many days after {iso(first)} is {iso(last)}?"
    return Draft(text, head + "print((b - a).days)", lambda: str(b - a))


def occurrences(rng: np.random.Generator, level: int) -> Draft:
    """How often a day of the month falls on a weekday."""
    first = whole(rng, 1905, 2040)
    last = first + whole(rng, 1, 6 * level)
    date, weekday = whole(rng, 1, 28), whole(rng, 0, 6)
    text = (
        f"How many times does day {date} of a month fall on a {WEEKDAYS[weekday]} in the years {first} to {last}, "
        "both included?"
    )
    program = (
        f"from datetime import date\nprint(sum(date(y, m, {date}).weekday() == {weekday} "
        f"for y in range({first}, {last} + 1) for m in range(1, 13)))"
    )

    def solve() -> str:
        days = (day_number((y, m, date)) for y in range(first, last + 1) for m in range(1, 13))
        return str(sum(number % 7 == weekday for number in days))

    return Draft(text, program, solve)


def following(rng: np.random.Generator, level: int) -> Draft:
    """The date of the n-th weekday after a date."""
    start, weekday, count = _day(rng, level), whole(rng, 0, 6), whole(rng, 3, 20 * 3**level)
    text = f"What is the date of the {_ordinal(count)} {WEEKDAYS[weekday]} after {iso(start)}? Write it as YYYY-MM-DD."
    program = (
        f"from datetime import date, timedelta\nday, left = date{start!r}, {count}\nwhile left:\n"
        f"    day += timedelta(1)\n    left -= day.weekday() == {weekday}\nprint(day)"
    )

    def solve() -> str:
        number = day_number(start)
        return iso(from_number(number + (weekday - number - 1) % 7 + 1 + 7 * (count - 1)))

    return Draft(text, program, solve)


def clock(rng: np.random.Generator, level: int) -> Draft:
    """The date and time after some repeated time spans."""
    start, hour, minute = _day(rng, level), whole(rng, 0, 23), whole(rng, 0, 59)
    times, minutes, seconds = whole(rng, 5, 30 * level), whole(rng, 7, 90 * level), 15 * whole(rng, 0, 3)
    text = (
        f"A lamp blinks first on {iso(start)} at {hour:02d}:{minute:02d}:00 and then every {minutes} minutes and "
        f"{seconds} seconds. When does it blink for the {_ordinal(times)} time? Write it as YYYY-MM-DD HH:MM:SS."
    )
    program = (
        f"from datetime import datetime, timedelta\nstart = datetime({', '.join(map(str, start))}, {hour}, {minute})\n"
        f"print(start + {times - 1} * timedelta(minutes={minutes}, seconds={seconds}))"
    )

    def solve() -> str:
        passed = hour * 3600 + minute * 60 + (times - 1) * (60 * minutes + seconds)
        days, rest = divmod(passed, 86400)
        time = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
        return f"{iso(from_number(day_number(start) + days))} {time}"

    if not choose(rng, (0, 1)):
        return Draft(text, program, solve)
    day = f"{iso(start)} at {hour:02d}:{minute:02d}:00"
    shorter = f"How many full minutes after {day} is the {_ordinal(times)} blink of a lamp that blinks first then and "
    shorter += f"from then on every {minutes} minutes and {seconds} seconds?"
    return Draft(
        shorter,
        f"print({times - 1} * ({minutes} * 60 + {seconds}) // 60)",
        lambda: str((times - 1) * minutes + (times - 1) * seconds // 60),
    )


def _day(rng: np.random.Generator, level: int) -> Day:
    return from_number(day_number((1990 - 15 * level, 1, 1)) + whole(rng, 0, 366 * 30 * level))


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


FAMILIES: dict[str, Family] = {
    "between": between,
    "occurrences": occurrences,
    "following": following,
    "clock": clock,
}
