"""Checking arguments against a JSON schema that somebody else wrote, at a cost that its author does not decide.

A schema can be nested 2,000 levels deep, refer to itself, double its work with every ``anyOf``, or hold a pattern like
``(a+)+$`` that keeps Python's ``re``, and the interpreter's lock, for ever. So its size is looked at first, patterns
run in an engine whose time is linear, and each check has so many steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

from pydantic import StringConstraints, TypeAdapter, ValidationError
from pydantic_core import SchemaError

from agentgym.errors import ToolError, UsageError
from agentgym.tools.plain import shorten

MOST_LEVELS, MOST_VALUES, MOST_PATTERN = 64, 20_000, 1_000
MOST_STEPS = 20_000  #: keywords looked at in one check
_PAIRS = 100  # of items compared in one step
_MAX_ERRORS = 3


def checker(schema: Mapping[str, Any], owner: str) -> Callable[[object], dict[str, Any]]:
    """A check of arguments; references to other documents are never fetched.

    Args:
        schema: of the arguments.
        owner: whose it is, for messages.

    Raises:
        UsageError: it is broken, larger or deeper than any tool needs, refers to itself without end, or has a pattern
            that cannot be matched in linear time.
    """
    from jsonschema.exceptions import SchemaError as Broken
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry

    _check_size(schema, owner)
    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
    except Broken as error:
        raise UsageError(f"{owner}: broken schema: {error.message}") from error
    patterns = {pattern: _matcher(pattern, owner) for pattern in _patterns(schema)}
    steps = _Steps()
    validator = _bounded(kind, patterns, steps)(schema, registry=Registry())

    def check(arguments: object) -> dict[str, Any]:
        if not isinstance(arguments, dict):
            raise ToolError("arguments must be an object")
        steps.left = MOST_STEPS
        try:
            errors = sorted(validator.iter_errors(arguments), key=lambda e: list(map(str, e.absolute_path)))
        except (_TooMuch, RecursionError):
            raise ToolError("the arguments, or the tool's schema, take too long to check; give fewer") from None
        if errors:
            raise ToolError("; ".join(map(_explain, errors[:_MAX_ERRORS])))
        return arguments

    try:
        steps.left = MOST_STEPS
        list(validator.iter_errors({}))
    except (_TooMuch, RecursionError):
        raise UsageError(f"{owner}: its schema takes too long to check anything; does it refer to itself?") from None
    except Exception:  # a reference to nowhere, which calls are told about
        return check
    return check


class _TooMuch(Exception):
    """More steps than a check may take."""


class _Steps:
    left = 0

    def take(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise _TooMuch


def _bounded(kind: Any, patterns: Mapping[str, Callable[[str], bool]], steps: _Steps) -> Any:
    """The validator's class with counted keywords, and with its patterns matched elsewhere."""
    from jsonschema.exceptions import ValidationError as Wrong
    from jsonschema.validators import extend

    def counted(keyword: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
            steps.take()
            for error in keyword(validator, value, instance, schema) or ():
                steps.take()
                yield error

        return wrapped

    def pattern(validator: Any, value: str, instance: Any, schema: Any) -> Iterator[Any]:
        if isinstance(instance, str) and not patterns[value](instance):
            yield Wrong(f"{instance!r} does not match {value!r}")

    def pattern_properties(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        for name in value if isinstance(instance, dict) else ():
            for key, item in instance.items():
                if patterns[name](key):
                    yield from validator.descend(item, value[name], path=key, schema_path=name)

    def nothing(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        return iter(())

    def unique(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        for _ in range(len(instance) ** 2 // _PAIRS if isinstance(instance, list) else 0):  # it compares them all
            steps.take()
        return kind.VALIDATORS["uniqueItems"](validator, value, instance, schema) or iter(())

    own: dict[str, Any] = {"pattern": pattern, "patternProperties": pattern_properties, "uniqueItems": unique}
    if patterns:  # this keyword would match them in `re`; the server itself may still refuse
        own["unevaluatedProperties"] = nothing
    keywords = {name: counted(own.get(name, keyword)) for name, keyword in kind.VALIDATORS.items()}
    if "additionalProperties" in keywords:
        keywords["additionalProperties"] = counted(_additional_properties(patterns))
    return extend(kind, keywords)


def _additional_properties(patterns: Mapping[str, Callable[[str], bool]]) -> Callable[..., Any]:
    from jsonschema.exceptions import ValidationError as Wrong

    def additional(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        if not isinstance(instance, dict):
            return
        known, named = schema.get("properties", {}), schema.get("patternProperties", {})
        extra = [key for key in instance if key not in known and not any(patterns[name](key) for name in named)]
        if isinstance(value, dict):
            for key in extra:
                yield from validator.descend(instance[key], value, path=key)
        elif value is False and extra:
            yield Wrong(f"additional properties are not allowed: {', '.join(map(repr, extra[:_MAX_ERRORS]))}")

    return additional


def matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a text holds the pattern, in time linear in the text.

    Raises:
        UsageError: the engine does not know it (look-around, back-references), or it is too large.
    """
    return _matcher(pattern, "the schema")


def _matcher(pattern: str, owner: str) -> Callable[[str], bool]:
    if len(pattern) > MOST_PATTERN:
        raise UsageError(f"{owner}: a pattern has {len(pattern)} characters; at most {MOST_PATTERN} are read")
    try:
        adapter = TypeAdapter(Annotated[str, StringConstraints(pattern=pattern.replace(r"\Z", r"\z"))])
    except SchemaError as error:
        reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), "")
        raise UsageError(
            f"{owner}: pattern {shorten(repr(pattern))} cannot be matched in linear time ({reason.strip()}); "
            "write it without look-around and back-references"
        ) from error

    def matches(text: str) -> bool:
        try:
            adapter.validate_python(text)
        except ValidationError:
            return False
        return True

    return matches


def _check_size(schema: object, owner: str) -> None:
    waiting, count = [(schema, 1)], 0
    while waiting:
        value, level = waiting.pop()
        count += 1
        if level > MOST_LEVELS:
            raise UsageError(f"{owner}: its schema is nested deeper than {MOST_LEVELS} levels; no tool needs that")
        if count > MOST_VALUES:
            raise UsageError(f"{owner}: its schema has more than {MOST_VALUES} values; no tool needs that")
        inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
        waiting += [(item, level + 1) for item in inner]


def _patterns(schema: object) -> Iterator[str]:
    """Every text that could be used as a pattern."""
    waiting = [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            if isinstance(pattern := value.get("pattern"), str):
                yield pattern
            if isinstance(named := value.get("patternProperties"), Mapping):
                yield from named
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _explain(error: Any) -> str:
    where = ".".join(map(str, error.absolute_path))
    message = shorten(error.message, 200)
    return f"argument {where!r}: {message}" if where else f"arguments: {message}"
