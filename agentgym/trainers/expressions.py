"""Parts as text: what ``--with stage=part`` and ``overrides`` in run.yaml say. Parsed, never evaluated."""

from __future__ import annotations

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

from agentgym.errors import UnknownName, UsageError
from agentgym.registry import import_named
from agentgym.trainers.algorithm import Algorithm, stage_names
from agentgym.trainers.parts import STAGES, Stage, load_parts

_SHOWN = 80  # characters of an expression in a message
_JOINTS = (".", ":")
_QUALIFIED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def with_part(algorithm: Algorithm, field: str, expression: str) -> Algorithm:
    """The algorithm with one stage filled by name: ``aggregate=token_mean``, ``penalty=kl(0.01)``.

    The expression is the name of a part, or a call of one, possibly nested, with literal arguments. Weights and
    penalties also take several, ``(kl(0.01), entropy(0.001))``, or none, ``()``. ``module:name`` imports a module.

    Raises:
        UsageError: unknown stage or part, wrong arguments, a part of another stage, or anything but names, calls and
            literals.
    """
    load_parts()
    stages = stage_names()
    if field not in stages:
        raise UnknownName("stage", field, stages)
    stage = STAGES[stages[field]]
    try:
        value = Expression(field, stage).build(expression.strip())
    except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"--with {field}={expression[:_SHOWN]!r} is not a part like name(argument=1)") from error
    return replace(algorithm, **{field: value})


def modules_in(expression: str) -> list[str]:
    """The modules that :func:`with_part` would import for an expression; none where it cannot be read."""
    found = Expression("", next(iter(STAGES.values())))
    try:
        found._read(expression.strip())
    except (SyntaxError, tokenize.TokenError):
        return []
    return [name.partition(":")[0] for name in found._modules.values()]


class Expression:
    """Reads the expression of a part.

    Args:
        field: of the algorithm, for messages.
        stage: what the part is for.
    """

    def __init__(self, field: str, stage: Stage[..., Any]) -> None:
        self.field, self.stage = field, stage
        self._modules: dict[str, str] = {}  # stand-in -> module:name

    def build(self, text: str) -> Any:
        """The part, or a tuple of parts where the stage takes several.

        Raises:
            SyntaxError, ValueError, tokenize.TokenError: it is no expression.
            UsageError: it is one, but not of parts.
        """
        tree = ast.parse(self._read(text), mode="eval").body
        if self.stage.several and isinstance(tree, ast.Tuple):
            return tuple(self._part(element) for element in tree.elts)
        return self._part(tree)

    def _part(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Name):
            return self._call(node, node.id, [], {})
        if not isinstance(node, ast.Call):
            raise UsageError(f"--with {self.field}: {self._written(node)} is not a part")
        keywords = {str(k.arg): self._argument(k.value) for k in node.keywords}
        if not isinstance(node.func, ast.Name) or len(keywords.keys() - {"None"}) < len(node.keywords):
            raise UsageError(f"--with {self.field}: {self._written(node)} is not a call of a part by name")
        return self._call(node, node.func.id, [self._argument(a) for a in node.args], keywords)

    def _call(self, node: ast.expr, name: str, args: Sequence[Any], keywords: dict[str, Any]) -> Any:
        factory = self._factory(name)
        try:
            return factory(*args, **keywords)
        except UsageError as error:
            raise UsageError(f"--with {self.field}: {error}") from error

    def _argument(self, node: ast.expr) -> Any:
        """A part or a literal."""
        if isinstance(node, ast.Name | ast.Call):
            return self._part(node)
        try:
            return ast.literal_eval(node)
        except ValueError as error:
            raise UsageError(f"--with {self.field}: {self._written(node)} is neither a part nor a literal") from error

    def _factory(self, name: str) -> Any:
        """What a name of the expression stands for; a module is imported here."""
        if name in self._modules:
            return self._of_module(self._modules[name])
        known = {n: f for used in (*self.stage.uses, self.stage.name) for n, f in STAGES[used].factories.items()}
        if name not in known:
            raise UnknownName(f"{self.stage.name} part", name, known)
        return known[name]

    def _of_module(self, text: str) -> Any:
        module, _, name = text.partition(":")
        import_named(module)
        value = getattr(import_module(module), name, None)
        factories = [factory for stage in STAGES.values() for factory in stage.factories.values()]
        if value in factories:
            return value
        if not inspect.isfunction(value):
            mine = [f.__name__ for f in factories if f.__module__ == module]
            raise UnknownName(f"part of {module}", name, mine)
        raise UsageError(f"--with {self.field}: {text} makes no part; decorate it: @{self.stage.name}")

    def _read(self, expression: str) -> str:
        """The expression with a name in place of each ``module:name``, which Python's grammar does not have."""
        words: list[str] = []
        path: list[tokenize.TokenInfo] = []
        for token in tokenize.generate_tokens(io.StringIO(expression).readline):
            if path and (path[-1].end != token.start or not (token.type == tokenize.NAME or token.string in _JOINTS)):
                words += self._joined(path)
                path = []
            if path or token.type == tokenize.NAME:
                path.append(token)
            else:
                words.append(token.string)
        return " ".join(words).strip()

    def _joined(self, path: Sequence[tokenize.TokenInfo]) -> list[str]:
        """Names, points and colons that touch: one stand-in if they are ``module:name``, else themselves."""
        words = [token.string for token in path]
        if not _QUALIFIED.fullmatch("".join(words)):
            return words
        stand_in = f"_{len(self._modules)}"
        self._modules[stand_in] = "".join(words)
        return [stand_in]

    def _written(self, node: ast.expr) -> str:
        """A piece of the expression as it was written."""
        text = ast.unparse(node)
        for stand_in, name in reversed(self._modules.items()):
            text = text.replace(stand_in, name)
        return text[:_SHOWN]
