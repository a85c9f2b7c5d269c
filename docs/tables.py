"""Tables and pages of the documentation that repeat what the code says.

A page has ``<!-- NAME -->`` where one of them belongs; it is made when the site is built (``docs/hooks.py``), so
nothing in the documentation is edited for a new environment, algorithm, part, option, command or rule.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from gymnasium.envs.registration import load_env_creator

from agentgym import registry
from agentgym.cli import command_modules
from agentgym.cli.console.options import option_rows
from agentgym.contract import RULES
from agentgym.envs.gui import tasks as gui_tasks
from agentgym.trainers.algorithm import stage_names
from agentgym.trainers.parts import STAGES, algorithm_names, get_algorithm, load_parts
from agentgym.trainers.run.config import TrainConfig

ROOT = Path(__file__).parent.parent


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    cells = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells)


def file_of(thing: object) -> Path:
    """The file that defines it, from the root."""
    return Path(sys.modules[thing.__module__].__file__ or "").relative_to(ROOT)


def api(name: str, anchor: str, function: Any) -> str:
    """A heading, and what the function's docstring and signature say."""
    where = f"{function.__module__}.{function.__name__}"
    return f"### `{name}` {{ #{anchor} }}\n\n::: {where}\n    options: {{heading_level: 4}}\n"


def first_line(thing: object) -> str:
    """Of its docstring, as Markdown."""
    return (inspect.getdoc(thing) or "").split("\n")[0].replace("``", "`")


def environments() -> str:
    """Every built-in id."""
    rows = []
    for env_id in registry.env_ids():
        if not env_id.startswith("agentgym/"):
            continue
        entry = registry.find(env_id).entry_point
        made = load_env_creator(entry) if isinstance(entry, str) else entry
        what = first_line(made).removeprefix(f"`{env_id}`: ")
        rows.append((f"`{env_id}`", what, ", ".join(getattr(made, "splits", ())), f"`{file_of(made)}`"))
    return table(("environment", "what it is", "splits", "file"), rows)


def algorithms() -> str:
    """Every algorithm with its first paper: an arXiv number, or where it appeared."""
    rows = []
    for name in algorithm_names():
        found = get_algorithm(name)
        about = found.docstring.split("Args:")[0]
        number = re.search(r"\d{4}\.\d{5}", about)
        place = re.search(r"\(([A-Z]+)\s(20\d\d)\)", about)
        paper = (
            f"[{number[0]}](https://arxiv.org/abs/{number[0]})" if number else f"{place[1]} {place[2]}" if place else ""
        )
        rows.append((f"[`{name}`](#{name})", found.summary, paper, found.build.__module__.split(".")[-2]))
    return table(("algorithm", "idea", "paper", "family"), rows)


def algorithm_pages() -> str:
    """Every algorithm's docstring and parameters."""
    return "\n".join(api(name, name, get_algorithm(name).build) for name in algorithm_names())


def commands() -> str:
    """Every command of the command line."""
    rows = ((f"`agentgym {name}`", first_line(module.command)) for name, module in sorted(command_modules()))
    return table(("command", "what it does"), rows)


def options() -> str:
    """Every option of ``agentgym train``, in its section."""
    sections: dict[str, list[tuple[str, str, str]]] = {}
    for name, default, text in option_rows():
        section = name.partition(".")[0] if "." in name else ""
        sections.setdefault(section, []).append((f"`{name}`", f"`{default}`" if default else "", text))
    pages = []
    for section, rows in sections.items():
        if section:
            pages.append(f"**`{section}`**: {first_line(TrainConfig.model_fields[section].annotation)}")
        pages.append(table(("option", "default", "what it is"), rows))
    return "\n\n".join(pages)


def contract() -> str:
    """Every rule that ``agentgym check`` judges."""
    return table(("rule", "what holds"), ((f"`{rule.name}`", rule.promise) for rule in RULES.values()))


def stage_order() -> list[str]:
    """The stages of an algorithm in their order, then those inside others' parts."""
    load_parts()
    return list(dict.fromkeys([*stage_names().values(), *STAGES]))


def anchors() -> dict[Any, str]:
    """Where each factory of parts is described; one that several stages know, at the first."""
    found: dict[Any, str] = {}
    for stage in stage_order():
        for name, factory in sorted(STAGES[stage].factories.items()):
            found.setdefault(inspect.unwrap(factory), f"{stage}-{name}")
    return found


def parts() -> str:
    """What can stand in each stage of an algorithm, and what can stand inside these parts."""
    rows, places = [], anchors()
    for stage in stage_order():
        inside = [f"`{user.name}`" for user in STAGES.values() if stage in user.uses]
        label = f"`{stage}`" + (f" (inside {', '.join(inside)})" if inside else "")
        known = sorted(STAGES[stage].factories.items())
        rows.append((label, ", ".join(f"[`{name}`](#{places[inspect.unwrap(factory)]})" for name, factory in known)))
    return table(("stage", "parts"), rows)


def part_pages() -> str:
    """Every part's docstring and parameters, by stage."""
    pages, places = [], anchors()
    for stage in stage_order():
        pages.append(f"## `{stage}`: {STAGES[stage].what.split(' ', 1)[1]}\n")
        for name, factory in sorted(STAGES[stage].factories.items()):
            function = inspect.unwrap(factory)
            if places[function] == f"{stage}-{name}":
                pages.append(api(name, places[function], function))
    return "\n".join(pages)


def gui() -> str:
    """Every family of tasks of the GUI world, with its templates; those kept for ``unseen`` in italics."""
    rows = []
    for family, known in gui_tasks.templates("unseen").items():
        module = import_module(known[0].make.__module__)
        names = ", ".join(f"*{kind.name}*" if kind.unseen else kind.name for kind in known)
        rows.append((f"`{family}`", first_line(module), names))
    return table(("family", "what it is", "templates (in italics: only in `unseen`)"), rows)


TABLES = {
    "gui": gui,
    "environments": environments,
    "algorithms": algorithms,
    "algorithm_pages": algorithm_pages,
    "commands": commands,
    "contract": contract,
    "options": options,
    "parts": parts,
    "part_pages": part_pages,
}


MARK = re.compile(r"^<!-- (\w+) -->$", re.MULTILINE)


def written(text: str) -> str:
    """The text with each mark replaced by what it names."""
    return MARK.sub(lambda found: TABLES[found[1]](), text)
