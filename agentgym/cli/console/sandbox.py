"""What every command that plays an environment or a run is allowed to do: run a model's code, import a run's."""

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

AllowImportOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-import", metavar="MODULE", help="A module of yours that the run.yaml of a run may import; repeat it."
    ),
]


def sandbox_settings(sandbox: str | None, unsafe: bool) -> list[str]:
    """The two options as ``key=value`` arguments of an environment."""
    chosen = [] if sandbox is None else [f"sandbox={sandbox}"]
    return [*chosen, "unsafe_local_python=true"] if unsafe else chosen
