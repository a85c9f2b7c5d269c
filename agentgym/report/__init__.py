"""The page of a run: one self-contained HTML file with curves, configuration and readable episodes.

What a model or an environment wrote is hostile: everything is escaped, control and direction characters are made
visible, and the page's content security policy runs no script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from agentgym.failures import Failures
from agentgym.report.charts import make_charts, number
from agentgym.report.episodes import choose, view
from agentgym.space import escape
from agentgym.store import RunFolder, atomic_write

__all__ = ["make_report"]


def make_report(run: RunFolder | str | os.PathLike[str], *, episodes: int = 48) -> Path:
    """Write ``report.html`` into a run folder; returns its path.

    Args:
        run: the folder.
        episodes: how many stored episodes to show, whole groups spread over the run.

    Raises:
        StoreError: it is no run folder, or a file in it is damaged.
    """
    folder = run if isinstance(run, RunFolder) else RunFolder(run)
    lines = folder.metrics.read()
    advantages = {line["episode"]: line["advantage"] for line in folder.advantages.read()}
    shown = [view(e, advantages.get(e.id)) for e in choose(folder.episodes, episodes)]
    charts = make_charts(lines)
    script = _file("page.js")
    page = (
        _environment()
        .get_template("page.html")
        .render(
            title=folder.path.resolve().name,
            config=_flat(folder.config),
            headline=_headline(folder.config, lines),
            failures=_failures(lines),
            charts=[c for c in charts if c.moves],
            figures=charts,
            groups=_groups(shown),
            style=_file("page.css"),
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )
    atomic_write(folder.report, page.encode("utf-8", "backslashreplace"))
    return folder.report


def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("agentgym.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: escape(value) if isinstance(value, str) and not hasattr(value, "__html__") else value,
    )
    environment.filters["number"] = number
    return environment


def _file(name: str) -> str:
    return resources.files("agentgym.report").joinpath(name).read_text(encoding="utf-8")


def _flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted names."""
    rows: list[tuple[str, str]] = []
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", "" if value is None or value == {} else str(value)))
    return rows


def _headline(config: Mapping[str, Any], lines: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The few numbers one looks for first."""
    tiles = [
        (name, str(config[key]))
        for name, key in (("environment", "env"), ("algorithm", "algorithm"))
        if config.get(key)
    ]
    if lines:
        tiles.append(("updates", str(max(line.get("update", 0) for line in lines))))
    for key, name in (("success", "success in training"), ("eval_success", "success in evaluation")):
        found = [(line[key], line.get("split", "")) for line in lines if isinstance(line.get(key), int | float)]
        if found:
            value, split = found[-1]
            tiles.append((f"{name} ({split})" if split else name, f"{value:.0%}"))
    return tiles


def _failures(lines: list[dict[str, Any]]) -> list[str]:
    """What went wrong in the run's episodes, in sentences; of training and of evaluations apart."""
    told = []
    for name, prefix in (("training", ""), ("evaluation", "eval_")):
        every = [
            Failures(**{field: line[prefix + field] for field in Failures._fields})
            for line in lines
            if all(prefix + field in line for field in Failures._fields)
        ]
        told += [f"{name}: {line}" for line in Failures.together(every).lines()]
    return told


def _groups(shown: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for episode in shown:
        groups.setdefault(f"{episode['env']} · {episode['group']} · {episode['task']}", []).append(episode)
    return groups
