"""Parts: the typed functions of the learning pipeline, each made for one stage by a decorated factory. ::

    @advantage
    def doubled(factor: float = 2.0):
        \"\"\"The value times ``factor``.\"\"\"
        return lambda turns, values: factor * values

A factory takes typed parameters, checked by pydantic, and returns the function that does the work; calling it makes a
:class:`Part`. It is registered under its own name, for ``--with advantage='doubled(3.0)'`` as for code. Parts are found
in the rooms of ``agentgym.trainers``, in modules named by the entry-point group ``agentgym.parts``, and in a user's
module, once that is imported.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, wraps
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agentgym.errors import UnknownName, UsageError, nearest
from agentgym.registry import import_named
from agentgym.trainers.arguments import adapters, check_factory, checked, validated

if TYPE_CHECKING:
    from torch import Tensor

    from agentgym.rollout import Branching
    from agentgym.trainers.advantage.turn_table import TurnTable
    from agentgym.trainers.algorithm import Algorithm
    from agentgym.trainers.loss.surrogate import Bounds
    from agentgym.trainers.loss.tokens import Tokens

A = ParamSpec("A")
F = ParamSpec("F")
R = TypeVar("R")
B = TypeVar("B", bound="Callable[..., Algorithm]")
Floats = NDArray[np.float64]

#: Packages whose modules register parts.
ROOMS = ("sampling", "rewards", "advantage", "loss", "algorithms")
ENTRY_POINTS = "agentgym.parts"


@dataclass(frozen=True)
class Part(Generic[A, R]):
    """A function of the pipeline, and what is known about it.

    Attributes:
        stage: name of the stage that it fills.
        name: the call that makes it, e.g. ``standardize(scale=False)``; also its ``repr``.
        function: does the work.
        own_needs: what it reads itself beyond the basics: columns of the turn table, or tensors of ``Tokens``.
        parts: what it is made of.
        state: what it remembers from update to update, JSON values; saved with the checkpoint. None: it is pure.
        linear: a loss term whose gradient is 0 wherever the advantage is.
    """

    stage: str
    name: str
    function: Callable[A, R]
    own_needs: frozenset[str] = frozenset()
    parts: tuple[Any, ...] = ()
    state: dict[str, Any] | None = field(default=None, compare=False)
    linear: bool = False

    def __call__(self, *args: A.args, **kwargs: A.kwargs) -> R:
        return self.function(*args, **kwargs)

    @property
    def needs(self) -> frozenset[str]:
        """Everything that it and its parts read; only this is computed."""
        return self.own_needs.union(*(getattr(part, "needs", ()) for part in self.parts))

    def walk(self) -> Iterator[Part[..., Any]]:
        """This part and all parts inside it."""
        yield self
        for part in self.parts:
            if isinstance(part, Part):
                yield from part.walk()

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Declared(Generic[A, R]):
    """What a factory returns in place of a bare function if there is more to say; see :func:`declare`."""

    function: Callable[A, R]
    needs: frozenset[str]
    parts: tuple[Any, ...]
    state: dict[str, Any] | None
    linear: bool
    stage: str | None


def declare(
    function: Callable[A, R],
    *,
    needs: Iterable[str] = (),
    parts: Iterable[Any] = (),
    state: dict[str, Any] | None = None,
    linear: bool = False,
    stage: str | None = None,
) -> Declared[A, R]:
    """A part's function with a declaration that depends on the factory's arguments; see :class:`Part`.

    Args:
        stage: where it fits, if not only the stage of its decorator.
    """
    return Declared(function, frozenset(needs), tuple(parts), state, linear, stage)


class Stage(Generic[A, R]):
    """A place of the pipeline, and the decorator that registers factories of parts for it.

    Args:
        name: also the field of :class:`~agentgym.trainers.algorithm.Algorithm` that it fills.
        what: its parts in words, with an article.
        several: whether an algorithm may have more than one such part.
        uses: names of stages whose parts may stand inside this one's.
    """

    def __init__(self, name: str, what: str, *, several: bool = False, uses: tuple[str, ...] = ()) -> None:
        self.name, self.what, self.several, self.uses = name, what, several, uses
        self.factories: dict[str, Callable[..., Part[A, R]]] = {}

    @overload
    def __call__(self, factory: Callable[F, Callable[A, R]], /) -> Callable[F, Part[A, R]]: ...
    @overload
    def __call__(self, factory: Callable[F, Declared[A, R]], /) -> Callable[F, Part[A, R]]: ...
    @overload
    def __call__(
        self, /, *, needs: Iterable[str] = ...
    ) -> Callable[[Callable[F, Callable[A, R]]], Callable[F, Part[A, R]]]: ...

    def __call__(self, factory: Any = None, /, *, needs: Iterable[str] = ()) -> Any:
        """Register a factory; with ``needs``, one whose parts read more than the basics.

        Raises:
            UsageError: no docstring, a parameter without a type, or a name that is taken.
        """
        if factory is None:
            return lambda factory: self._registered(factory, frozenset(needs))
        return self._registered(factory, frozenset())

    def _registered(self, factory: Callable[F, Any], needs: frozenset[str]) -> Callable[F, Part[A, R]]:
        check_factory(factory, self.what)

        @wraps(factory)
        def make(*args: F.args, **kwargs: F.kwargs) -> Part[A, R]:
            call = validated(factory, args, kwargs)
            found = factory(*call.args, **call.kwargs)
            told = found if isinstance(found, Declared) else declare(found)
            name = _call(factory.__name__, args, kwargs)
            stage, reads = told.stage or self.name, needs | told.needs
            function = _checking(told.function, name, reads) if stage in OF_TURNS else told.function
            return Part(stage, name, function, reads, told.parts, told.state, told.linear)

        self.add(make)
        return make

    def add(self, factory: Callable[..., Part[A, R]]) -> None:
        """Register a factory of parts that another stage's decorator made."""
        name = factory.__name__
        known = self.factories.get(name)
        if known is not None and known.__module__ != factory.__module__:
            both = f"{known.__module__} and {factory.__module__}"
            raise UsageError(f"{self.name} {name!r} is registered by {both}; give one of them another name")
        self.factories[name] = factory

    def constant(self, name: str, part: Part[A, R]) -> Part[A, R]:
        """Register what the factory ``_name`` makes without arguments as a part of its own: ``by=next_anchor``."""
        factory = self.factories.pop(f"_{name}")
        named = replace(part, name=name)

        @wraps(factory)
        def make() -> Part[A, R]:
            return named

        make.__name__ = name
        self.add(make)
        return named

    def require(self, part: object, where: str) -> None:
        """Refuse what does not fit; a bare callable says nothing about itself, and may.

        Raises:
            UsageError: a part of another stage, or nothing that can be called.
        """
        if isinstance(part, Part) and part.stage != self.name:
            raise UsageError(f"{where} takes {self.what}, but {part!r} is {STAGES[part.stage].what}")
        if not callable(part):
            raise UsageError(f"{where} takes {self.what}, got {part!r}")

    def __repr__(self) -> str:
        return self.name


sampler: Stage[[int, int, int, int | None], list[Any]] = Stage("sampler", "a sampler of tasks")
branching: Stage[[], Branching] = Stage("branching", "a branching rule")
context: Stage[[Any, Any, Any], list[int]] = Stage("context", "a context")
selection: Stage[[Any], bool] = Stage("selection", "a selection of groups")
reward: Stage[[TurnTable, Floats], Floats] = Stage("reward", "a reward part")
advantage: Stage[[TurnTable, Floats], Floats] = Stage("advantage", "an advantage part", uses=("turn_key",))
turn_key: Stage[[TurnTable], Iterable[object]] = Stage("turn_key", "a key of turns")
turn_weight: Stage[[TurnTable, Floats], Floats] = Stage("turn_weight", "a turn weight", several=True)
token_weight: Stage[[Tokens], Tensor] = Stage("token_weight", "a token weight", several=True)
loss_term: Stage[[Tokens], Tensor] = Stage("loss_term", "a loss term", uses=("ratio", "bound", "shape"))
ratio: Stage[[Tokens], Tensor] = Stage("ratio", "a ratio")
bound: Stage[[Tokens], Bounds] = Stage("bound", "a bound")
shape: Stage[[Tokens, Tensor, Bounds], Tensor] = Stage("shape", "a shape")
penalty: Stage[[Tokens], Tensor] = Stage("penalty", "a penalty", several=True)
aggregate: Stage[[Tensor, Tensor], Tensor] = Stage("aggregate", "an aggregate")

STAGES: dict[str, Stage[..., Any]] = {
    stage.name: stage
    for stage in (
        *(sampler, branching, context, selection, reward, advantage, turn_key, turn_weight),
        *(token_weight, loss_term, ratio, bound, shape, penalty, aggregate),
    )
}
#: Stages whose parts map one float64 number a turn to another.
OF_TURNS = ("reward", "advantage", "turn_weight")


# Algorithms -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RegisteredAlgorithm:
    """A registered function that makes an :class:`~agentgym.trainers.algorithm.Algorithm`."""

    name: str
    build: Callable[..., Algorithm]

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return self.docstring.splitlines()[0]

    @property
    def docstring(self) -> str:
        """The page: idea, formula, paper, parameters."""
        return inspect.getdoc(self.build) or ""

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """What can be set."""
        return inspect.signature(self.build).parameters

    def __call__(self, **values: Any) -> Algorithm:
        """Build it with checked parameters.

        Raises:
            UsageError: an unknown parameter (the nearest is offered) or a value of the wrong type or range.
        """
        return self.build(**self.resolve(**values))

    def resolve(self, **values: Any) -> dict[str, Any]:
        """All parameters with their final values."""
        types = adapters(self.build)
        for name in values:
            if name not in self.parameters:
                raise UsageError(f"algorithm {self.name} has no parameter {name!r}{nearest(name, self.parameters)}")
        return {
            name: checked(f"{self.name}: {name}", types[name], values.get(name, parameter.default), strict=False)
            for name, parameter in self.parameters.items()
        }


_algorithms: dict[str, RegisteredAlgorithm] = {}


def algorithm(function: B) -> B:
    """Register a published method: a function whose parameters have types and defaults, and that returns an Algorithm.

    Its signature and docstring are its command-line options and its page.

    Raises:
        UsageError: no docstring, a parameter without a type or a default, or a name that is taken.
    """
    name = function.__name__
    check_factory(function, "an algorithm")
    for parameter in inspect.signature(function).parameters.values():
        if parameter.default is parameter.empty:
            raise UsageError(f"algorithm {name!r}: parameter {parameter.name!r} needs a default")
    known = _algorithms.get(name)
    if known is not None and known.build.__module__ != function.__module__:
        both = f"{known.build.__module__} and {function.__module__}"
        raise UsageError(f"algorithm {name!r} is registered by {both}; give one of them another name")
    _algorithms[name] = RegisteredAlgorithm(name, function)
    return function


def algorithm_names() -> list[str]:
    """Every algorithm's name, sorted."""
    load_parts()
    return sorted(_algorithms)


def get_algorithm(name: str) -> RegisteredAlgorithm:
    """An algorithm by name; ``module:name`` imports a module first, which registers it.

    Raises:
        UnknownName: not registered.
        UsageError: the module cannot be imported.
    """
    module, _, own = name.rpartition(":")
    if module:
        import_named(module)
    if own not in algorithm_names():
        raise UnknownName("algorithm", name, _algorithms)
    return _algorithms[own]


@cache
def load_parts() -> None:
    """Import every module that registers parts: those of the rooms, and those of entry points.

    Raises:
        UsageError: an entry point cannot be loaded.
    """
    for room in ROOMS:
        package = import_module(f"agentgym.trainers.{room}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            import_module(module.name)
    for point in entry_points(group=ENTRY_POINTS):
        try:
            point.load()
        except Exception as error:
            owner = point.dist.name if point.dist is not None else "an installed package"
            raise UsageError(
                f"the parts of {owner} ({point.name} = {point.value}) cannot be loaded: {type(error).__name__}: "
                f"{error}; mend it, or pip uninstall {owner}"
            ) from error


# Checks ---------------------------------------------------------------------------------------------------------------


def _checking(function: Callable[..., Any], name: str, needs: frozenset[str]) -> Callable[..., Any]:
    """The function of a turn-level part with its columns looked up first and both ends checked."""

    def checked_function(turns: TurnTable, values: ArrayLike) -> Floats:
        for column in needs:
            turns.column(column)
        before = _finite(values, len(turns), f"given to {name}")
        return _finite(function(turns, before), len(turns), f"returned by {name}")

    return checked_function


def _finite(values: ArrayLike, turns: int, where: str) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (turns,):
        raise UsageError(f"the values {where} have shape {array.shape}; the table has {turns} turns, so ({turns},)")
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array))[0])
        raise UsageError(f"the values {where} must be finite; row {row} is {array[row]}")
    return array


def _call(name: str, args: Iterable[object], kwargs: Mapping[str, object]) -> str:
    shown = [_shown(value) for value in args] + [f"{key}={_shown(value)}" for key, value in kwargs.items()]
    return f"{name}({', '.join(shown)})"


def _shown(value: object) -> str:
    return getattr(value, "__name__", repr(value)) if callable(value) and not isinstance(value, Part) else repr(value)
