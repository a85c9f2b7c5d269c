"""The parts that can stand in each slot of an algorithm, by name: what ``--with slot=part`` reads."""

from __future__ import annotations

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

from agentgym.errors import UnknownName, UsageError
from agentgym.registry import import_named
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.branching import Maker
from agentgym.trainers.penalties import Penalty
from agentgym.trainers.sampling import Selection
from agentgym.trainers.surrogate import Surrogate
from agentgym.trainers.tokens import Term
from agentgym.trainers.turns import Part

#: slot -> the stage files whose parts fill it, and how such a part is recognised
SLOTS: dict[str, tuple[tuple[str, ...], Callable[[Any], bool]]] = {
    "sampling": (("sampling",), lambda part: callable(part) and not isinstance(part, Selection)),
    "select": (("sampling",), lambda part: isinstance(part, Selection)),
    "branching": (("branching",), lambda part: isinstance(part, Maker)),
    "context": (("contexts",), callable),
    "reward": (("rewards", "information"), lambda part: isinstance(part, Part)),
    "credit": (("credit", "information", "branches", "anchors"), lambda part: isinstance(part, Part)),
    "critic": (("credit",), lambda part: isinstance(part, Part)),
    "weights": (("weights", "branches"), lambda part: isinstance(part, Part | Term)),
    "surrogate": (("surrogate",), lambda part: isinstance(part, Surrogate)),
    "penalties": (("penalties",), lambda part: isinstance(part, Penalty)),
    "aggregate": (("aggregate",), callable),
}

#: slot -> what the functions that fill it say that they return; the surrogate takes a ratio, bounds and a shape
RETURNS: dict[str, tuple[str, ...]] = {
    "sampling": ("TaskSampling",),
    "select": ("Selection",),
    "branching": ("Maker",),
    "context": ("Context",),
    "reward": ("Part",),
    "credit": ("Part",),
    "critic": ("Part",),
    "weights": ("Part", "Term"),
    "surrogate": ("Surrogate", "Term"),
    "penalties": ("Penalty",),
    "aggregate": ("Tensor",),
}


def with_part(algorithm: Algorithm, slot: str, expression: str) -> Algorithm:
    """The algorithm with one slot replaced by name: ``aggregate=token_mean``, ``penalties=kl(0.01)``.

    The expression is a name of the stage's file, or a call of one, possibly nested, with literal arguments; ``weights``
    and ``penalties`` also take several, ``(kl(0.01), entropy(0.001))``, or none, ``()``. ``module:name`` is a function
    of any module that says it returns a part: ``def halved() -> Part``. It is parsed, never evaluated.

    Raises:
        UsageError: unknown slot or part, wrong arguments, or anything but names, calls and literals.
    """
    if slot not in SLOTS:
        raise UnknownName("slot", slot, SLOTS)
    stages, fits = SLOTS[slot]
    known = Known(slot, {name: part for stage in reversed(stages) for name, part in stage_parts(stage)})
    try:
        value = _built(ast.parse(known.read(expression.strip()), mode="eval").body, known, slot)
    except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"--with {slot}={expression[:80]!r} is not a part like name(argument=1)") from error
    several = slot in ("weights", "penalties")
    if several and not isinstance(value, tuple):
        value = (value,)
    if not all(map(fits, value if several else (value,))):
        raise UsageError(f"--with {slot}={expression[:80]!r}: that part does not go into this slot")
    return replace(algorithm, **{slot: value})


class Known:
    """The parts that an expression may name: those of a slot, and ``module:name`` of modules.

    Args:
        slot: what they are for.
        parts: those that are known by a bare name.
    """

    def __init__(self, slot: str, parts: Mapping[str, Any]) -> None:
        self.slot, self._parts = slot, parts
        self._modules: dict[str, str] = {}  # stand-in -> module:name

    def read(self, expression: str) -> str:
        """The expression with a name in place of each ``module:name``, which Python's grammar does not have.

        Raises:
            SyntaxError, tokenize.TokenError: it is no expression.
        """
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

    def part(self, name: str) -> Any:
        """The function behind a name of the expression; a module is imported here.

        Raises:
            UsageError: no such part, or a function that does not say that it makes one.
        """
        if name in self._modules:
            return self._of_module(self._modules[name])
        if name not in self._parts:
            raise UnknownName(f"{self.slot} part", name, self._parts)
        return self._parts[name]

    def said(self, node: ast.expr | str) -> str:
        """A piece of the expression as it was written."""
        text = node if isinstance(node, str) else ast.unparse(node)
        for stand_in, name in reversed(self._modules.items()):
            text = text.replace(stand_in, name)
        return text[:80]

    def _of_module(self, text: str) -> Any:
        module, _, name = text.partition(":")
        import_named(module)
        value = getattr(import_module(module), name, None)
        if not inspect.isfunction(value):
            mine = [k for k, v in vars(import_module(module)).items() if inspect.isfunction(v) and _makes_a_part(v)]
            raise UnknownName(f"part of {module}", name, mine)
        if not _makes_a_part(value):
            kinds = " or ".join(RETURNS[self.slot])
            raise UsageError(f"--with {self.slot}: {text} does not say that it makes a part; annotate it: -> {kinds}")
        return value


_JOINTS = (".", ":")
_QUALIFIED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def _makes_a_part(function: Any) -> bool:
    """Whether a function's annotation says so; a run folder can have no other function of a module called."""
    says = inspect.signature(function).return_annotation
    text = says if isinstance(says, str) else getattr(says, "__name__", str(says))
    return any(text.partition("[")[0].rpartition(".")[2] in kinds for kinds in RETURNS.values())


def _built(node: ast.expr, known: Known, slot: str) -> Any:
    if isinstance(node, ast.Tuple):
        return tuple(_built(e, known, slot) for e in node.elts)
    if isinstance(node, ast.Name):
        part = known.part(node.id)
        return part if slot == "aggregate" or not _makes(part) else part()
    if not isinstance(node, ast.Call):
        return _literal(node, known, slot)
    if not isinstance(node.func, ast.Name) or len({k.arg for k in node.keywords} - {None}) < len(node.keywords):
        raise UsageError(f"--with {slot}: {known.said(node)} is not a call of a part by name")
    part = known.part(node.func.id)
    values = [_built(a, known, slot) for a in node.args]
    named = {str(k.arg): _built(k.value, known, slot) for k in node.keywords}
    try:
        if slot == "aggregate":  # it is called later, with the tokens
            inspect.signature(part).bind(None, None, *values, **named)
            return partial(part, **named)
        _check_types(inspect.signature(part).bind(*values, **named))
        return part(*values, **named)
    except TypeError as error:
        raise UsageError(f"--with {slot}: {known.said(node.func.id)}: {error}") from error


def _literal(node: ast.expr, known: Known, slot: str) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise UsageError(f"--with {slot}: {known.said(node)} is neither a part nor a literal") from error


def stage_parts(stage: str) -> Iterator[tuple[str, Any]]:
    """The public functions of a stage file."""
    module = import_module(f"agentgym.trainers.{stage}")
    for name, value in vars(module).items():
        if inspect.isfunction(value) and not name.startswith("_") and value.__module__ == module.__name__:
            yield name, value


_PLAIN = {"float": (int, float), "int": (int,), "bool": (bool,), "str": (str,)}


def _check_types(bound: inspect.BoundArguments) -> None:
    """Numbers, switches and words are what the part's annotations say; anything else is the part's own business."""
    for name, value in bound.arguments.items():
        says = bound.signature.parameters[name].annotation
        kind, *optional = (says if isinstance(says, str) else inspect.formatannotation(says)).split(" | ")
        wanted = _PLAIN.get(kind)
        if wanted is None or (value is None and optional == ["None"]):
            continue
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            raise TypeError(f"{name} is a {kind}, got {value!r}")


def _makes(part: Any) -> bool:
    """Whether a part is made by calling it without arguments."""
    return all(
        p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        for p in inspect.signature(part).parameters.values()
    )
