"""Arguments of the functions that make parts and algorithms: each has a type, which pydantic checks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from agentgym.errors import UsageError


def check_factory(factory: Callable[..., Any], what: str) -> None:
    """Refuse a factory without a docstring, or with a parameter without a type.

    Args:
        what: it makes, with an article.

    Raises:
        UsageError: one of them.
    """
    name = factory.__name__
    if not factory.__doc__:
        raise UsageError(f"{name!r} needs a docstring: what it computes, and where that was published")
    for parameter in inspect.signature(factory).parameters.values():
        if parameter.annotation is parameter.empty:
            raise UsageError(f"{name!r} makes {what}: its parameter {parameter.name!r} needs a type")


@cache
def adapters(factory: Callable[..., Any]) -> dict[str, TypeAdapter[Any]]:
    """What checks each of its parameters; what it says that it returns may not be importable here."""
    annotations = {k: v for k, v in inspect.get_annotations(factory).items() if k != "return"}
    parameters = SimpleNamespace(__annotations__=annotations)
    types = get_type_hints(parameters, getattr(factory, "__globals__", {}), include_extras=True)
    return {k: TypeAdapter(v, config=ConfigDict(arbitrary_types_allowed=True)) for k, v in types.items()}


def validated(factory: Callable[..., Any], args: Any, kwargs: Any) -> inspect.BoundArguments:
    """The arguments, each as its parameter's type says."""
    try:
        call = inspect.signature(factory).bind(*args, **kwargs)
    except TypeError as error:
        raise UsageError(f"{factory.__name__}: {error}") from error
    types = adapters(factory)
    for name, value in call.arguments.items():
        where, adapter = f"{factory.__name__}: {name}", types[name]
        if call.signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL:
            call.arguments[name] = tuple(checked(where, adapter, item) for item in value)
        else:
            call.arguments[name] = checked(where, adapter, value)
    return call


def checked(where: str, adapter: TypeAdapter[Any], value: Any, *, strict: bool = True) -> Any:
    """A value as its type says; ``strict`` does not read numbers from texts.

    Raises:
        UsageError: it is not of that type, or out of range.
    """
    try:
        return adapter.validate_python(value, strict=strict)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{where}: {first['msg'].lower()} (got {value!r})") from error
