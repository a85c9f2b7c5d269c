"""``agentgym algorithms``: what an agent can be trained with."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Annotated

import typer

from agentgym.cli.console.completion import algorithm_names
from agentgym.cli.console.printing import print_table

if TYPE_CHECKING:
    from agentgym.trainers.parts import RegisteredAlgorithm


def command(
    name: Annotated[
        str | None, typer.Argument(help="Show the page of this algorithm.", autocompletion=algorithm_names)
    ] = None,
) -> None:
    """List the algorithms, or show the page of one."""
    from agentgym.trainers.parts import algorithm_names, get_algorithm

    if name is None:
        names = algorithm_names()
        print_table(("algorithm", "what it is"), ((known, get_algorithm(known).summary) for known in names))
    else:
        _show_page(get_algorithm(name))


def _type(annotation: object) -> str:
    """``Annotated[float, Field(ge=0)]`` as ``float, ge=0``."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"Annotated\[(.*), Field\((.*)\)\]$", r"\1, \2", text)


def _show_page(found: RegisteredAlgorithm) -> None:
    print(f"{found.name}\n\n{found.docstring}\n")
    parameters = found.parameters.values()
    if parameters:
        rows = [(p.name, _type(p.annotation), repr(p.default)) for p in parameters]
        print_table(("parameter", "type", "default"), rows)
        print()
    print(" ".join(["agentgym train ENV --algorithm", found.name, *(f"{p.name}=..." for p in parameters)]))
