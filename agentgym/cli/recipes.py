"""``agentgym recipes``: what an agent can be trained with."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Annotated

import typer

from agentgym.cli._completion import recipe_names
from agentgym.cli._console import print_table

if TYPE_CHECKING:
    from agentgym.trainers.algorithm import Recipe


def command(
    name: Annotated[
        str | None, typer.Argument(help="Show the page of this recipe.", autocompletion=recipe_names)
    ] = None,
) -> None:
    """List the training recipes, or show the page of one."""
    from agentgym.trainers import algorithm

    if name is None:
        names = algorithm.recipe_names()
        print_table(("recipe", "what it is"), ((known, algorithm.get_recipe(known).summary) for known in names))
    else:
        _show_page(algorithm.get_recipe(name))


def _type(annotation: object) -> str:
    """``Annotated[float, Field(ge=0)]`` as ``float, ge=0``."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"Annotated\[(.*), Field\((.*)\)\]$", r"\1, \2", text)


def _show_page(recipe: Recipe) -> None:
    print(f"{recipe.name}\n\n{recipe.docstring}\n")
    parameters = recipe.parameters.values()
    if parameters:
        rows = [(p.name, _type(p.annotation), repr(p.default)) for p in parameters]
        print_table(("parameter", "type", "default"), rows)
        print()
    print(" ".join(["agentgym train ENV --recipe", recipe.name, *(f"{p.name}=..." for p in parameters)]))
