"""Whether a record that was read has the types that its class says; JSON can hold anything."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

Check = Callable[[Any], bool]
_T = TypeVar("_T")
_LARGEST_ID = 2**31


def _of(*kinds: type) -> Check:
    return lambda value: type(value) in kinds


def _all_of(*kinds: type) -> Check:
    return lambda value: type(value) is tuple and set(map(type, value)) <= {*kinds}


def _ids(value: Any) -> bool:
    return _all_of(int)(value) and (not value or (min(value) >= 0 and max(value) < _LARGEST_ID))


def _mapping(*kinds: type) -> Check:
    return lambda value: type(value) is dict and (not kinds or set(map(type, value.values())) <= {*kinds})


#: annotation -> what a value read from JSON must be; other annotations are records, which are checked themselves
_CHECKS: dict[str, Check] = {
    "str": _of(str),
    "str | None": _of(str, type(None)),
    "int": _of(int),
    "int | None": _of(int, type(None)),
    "float": _of(float, int),
    "bool | None": _of(bool, type(None)),
    "CallStatus": _of(str),
    "tuple[int, ...]": _ids,
    "tuple[float, ...]": _all_of(float, int),
    "tuple[str, ...]": _all_of(str),
    "tuple[tuple[int, ...], ...]": lambda value: type(value) is tuple and all(map(_ids, value)),
    "Mapping[str, Any]": _mapping(),
    "Mapping[str, float]": _mapping(float, int),
    "Mapping[str, float | str]": _mapping(float, int, str, bool),
}


def shaped(record: _T) -> _T:
    """The record itself.

    Raises:
        TypeError: a field has another type than its class says.
    """
    for name, check in _fields(type(record)):  # type: ignore[arg-type]
        if not check(value := getattr(record, name)):
            raise TypeError(f"{type(record).__name__}.{name} is {value!r:.40}")
    return record


@functools.cache
def _fields(kind: Any) -> tuple[tuple[str, Check], ...]:
    return tuple((f.name, _CHECKS[str(f.type)]) for f in dataclasses.fields(kind) if str(f.type) in _CHECKS)
