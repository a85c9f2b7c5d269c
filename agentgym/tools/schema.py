"""From a typed Python function to the JSON schema of its arguments and a check of them."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NotRequired, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError, to_jsonable_python
from typing_extensions import TypedDict

from agentgym.errors import ToolError, UsageError, nearest
from agentgym.tools.plain import shorten

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")

_SECTION = re.compile(
    r"(Args|Arguments|Attributes|Examples?|Notes?|Raises|References|Returns|Warnings?|Yields):[ \t]*", re.ASCII
)
_ENTRY = re.compile(r"(?P<name>\w+)(?:[ \t]*\([^)]*\))?:[ \t]*(?P<text>.*)")
_SHOWN_ERRORS = 3


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a tool accepts.

    Attributes:
        description: the docstring without its sections.
        parameters: JSON schema of the arguments, an ``object``.
        check: arguments as a model wrote them -> keyword arguments of the function; raises ToolError naming the field.
    """

    description: str
    parameters: Mapping[str, Any]
    check: Callable[[object], dict[str, Any]]


def read_function(function: Callable[..., Any], name: str, *, skip_first: bool = False) -> Arguments:
    """Read a function's signature and Google-style docstring.

    Args:
        function: the function or bound method.
        name: what the tool is called, for messages.
        skip_first: leave the first parameter out (it is given by the episode, not by the model).

    Raises:
        UsageError: the docstring, a description or an annotation is missing, or a parameter cannot be given by name.
    """
    description, entries = read_docstring(inspect.getdoc(function) or "")
    if not description:
        raise UsageError(f"tool {name!r} has no description; write what it does as the function's docstring")
    hints = _hints(function, name)
    parameters = list(inspect.signature(function).parameters.values())[1 if skip_first else 0 :]
    fields: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    for parameter in parameters:
        annotation = _annotation(parameter, hints, entries, name)
        if parameter.default is not parameter.empty:
            defaults[parameter.name] = parameter.default
            annotation = NotRequired[annotation]
        fields[parameter.name] = annotation
    if unknown := sorted(set(entries) - set(fields)):
        raise UsageError(
            f"tool {name!r} describes {unknown[0]!r}, which is not a parameter{nearest(unknown[0], fields)}"
        )
    adapter = _adapter(fields, name)
    return Arguments(description, _json_schema(adapter, defaults), _checker(adapter, list(fields)))


def read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """The description and the entries of ``Args:`` of a Google-style docstring (as ``inspect.getdoc`` returns it)."""
    description: list[str] = []
    entries: dict[str, str] = {}
    section, current, indent = "", "", 0
    for line in text.splitlines():
        body = line.strip()
        if line == line.lstrip() and (header := _SECTION.fullmatch(body)):
            section = header[1]
        elif not section:
            description.append(body)
        elif section in ("Args", "Arguments") and body:
            depth = len(line) - len(line.lstrip())
            entry = _ENTRY.fullmatch(body)
            if entry and (not entries or depth <= indent):
                current, indent = entry["name"], depth
                entries[current] = entry["text"].strip()
            elif current:
                entries[current] = f"{entries[current]} {body}".strip()
    paragraphs = re.split(r"\n{2,}", "\n".join(description).strip())
    return "\n".join(" ".join(p.split()) for p in paragraphs), entries


def _hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    target = function.__func__ if isinstance(function, types.MethodType) else function
    try:
        return get_type_hints(target, include_extras=True)
    except NameError as error:
        raise UsageError(f"tool {name!r} has an annotation that cannot be resolved ({error}); import it") from error


def _annotation(
    parameter: inspect.Parameter, hints: Mapping[str, Any], entries: Mapping[str, str], tool: str
) -> Any:  # a type form
    if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
        raise UsageError(
            f"tool {tool!r}: parameter {parameter.name!r} cannot be given by name; spell the parameters out"
        )
    if parameter.name not in hints:
        raise UsageError(f"tool {tool!r}: parameter {parameter.name!r} has no annotation; write {parameter.name}: TYPE")
    hint = hints[parameter.name]
    own = [m.description for m in getattr(hint, "__metadata__", ()) if isinstance(m, FieldInfo) and m.description]
    description = entries.get(parameter.name) or (own[0] if own else "")
    if not description:
        raise UsageError(
            f"tool {tool!r}: parameter {parameter.name!r} has no description; "
            f"add a line '{parameter.name}: ...' under 'Args:' in its docstring"
        )
    return Annotated[hint, Field(description=description)]


def _adapter(fields: dict[str, Any], name: str) -> TypeAdapter[dict[str, Any]]:
    # A TypedDict and not a model: any parameter name is allowed, and checking returns the keyword arguments themselves.
    build: Any = TypedDict  # type checkers know only literal shapes
    shape = build("Arguments", fields)
    shape.__pydantic_config__ = ConfigDict(extra="forbid")
    try:
        return TypeAdapter(shape)
    except PydanticUserError as error:
        raise UsageError(f"tool {name!r}: pydantic has no schema for its annotations: {error.message}") from error


def _json_schema(adapter: TypeAdapter[dict[str, Any]], defaults: Mapping[str, Any]) -> dict[str, Any]:
    schema = adapter.json_schema()
    schema.pop("title", None)
    for key, entry in schema.setdefault("properties", {}).items():
        entry.pop("title", None)
        if key in defaults:
            try:
                entry["default"] = to_jsonable_python(defaults[key])
            except PydanticSerializationError:  # a default that JSON cannot say is simply not shown
                continue
    return schema


def _checker(adapter: TypeAdapter[dict[str, Any]], fields: list[str]) -> Callable[[object], dict[str, Any]]:
    validate = adapter.validator.validate_python

    def check(arguments: object) -> dict[str, Any]:
        try:
            checked: dict[str, Any] = validate(arguments)
        except ValidationError as error:
            raise ToolError(explain(error, fields)) from None
        return checked

    return check


def explain(error: ValidationError, fields: list[str]) -> str:
    """What is wrong with which argument, in one line for the model."""
    lines = []
    for item in error.errors(include_url=False, include_context=False)[:_SHOWN_ERRORS]:
        where = ".".join(shorten(str(part), 40) for part in item["loc"])
        if not where:
            lines.append(f"arguments must be an object with {_listed(fields)}, not {shorten(repr(item['input']))}")
        elif item["type"] == "missing":
            lines.append(f"argument {where!r} is missing")
        elif item["type"] == "extra_forbidden":
            lines.append(f"argument {where!r} is unknown{nearest(where, fields) if fields else '; it takes none'}")
        else:
            lines.append(f"argument {where!r}: {item['msg']}, got {shorten(repr(item['input']))}")
    more = error.error_count() - _SHOWN_ERRORS
    return "; ".join(lines) + (f"; and {more} more" if more > 0 else "")


def _listed(fields: list[str]) -> str:
    return ", ".join(map(repr, fields)) if fields else "no fields"
