"""Where an environment runs the Python code that a model wrote: two options of every command that plays one."""

from __future__ import annotations

from typing import Annotated

import typer

SandboxOption = Annotated[
    str | None,
    typer.Option(
        metavar="KIND", help="Where a model's Python code runs: auto, bubblewrap or docker; the same as sandbox=KIND."
    ),
]
UnsafeOption = Annotated[
    bool,
    typer.Option(
        "--unsafe-local-python", help="Where no sandbox works, run a model's Python code WITHOUT ANY, with your rights."
    ),
]


def sandbox_settings(sandbox: str | None, unsafe: bool) -> list[str]:
    """The two options as ``key=value`` arguments of an environment."""
    chosen = [] if sandbox is None else [f"sandbox={sandbox}"]
    return [*chosen, "unsafe_local_python=true"] if unsafe else chosen
