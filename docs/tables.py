"""Write the tables of the documentation that repeat what the code says: ``make docs``.

A table stands between ``<!-- NAME -->`` and ``<!-- end -->``. The output of the README's first example is written too.
Tests compare the files with what this writes.
"""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path

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
END = "<!-- end -->"
FILES = ("README.md", "docs/environments.md", "docs/training.md")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    cells = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells)


def file_of(thing: object) -> Path:
    """The file that defines it, from the root."""
    return Path(sys.modules[thing.__module__].__file__ or "").relative_to(ROOT)


def link(thing: object) -> str:
    """To the file that defines it, from the root."""
    path = file_of(thing)
    return f"[{path.relative_to('agentgym')}]({path})"


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
        rows.append((f"`{env_id}`", what, ", ".join(getattr(made, "splits", ())), link(made)))
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
        rows.append((f"`{name}`", found.summary, paper, link(found.build)))
    return table(("algorithm", "idea", "paper", "file"), rows)


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


def parts() -> str:
    """What can stand in each stage of an algorithm, and what can stand inside these parts."""
    load_parts()
    fields = dict.fromkeys([*stage_names().values(), *STAGES])
    rows = []
    for name in fields:
        factories = STAGES[name].factories
        files = sorted({f"[{path.name}](../{path})" for path in map(file_of, factories.values())})
        inside = [f"`{user.name}`" for user in STAGES.values() if name in user.uses]
        label = f"`{name}`" + (f" (inside {', '.join(inside)})" if inside else "")
        rows.append((label, ", ".join(f"`{factory}`" for factory in sorted(factories)), ", ".join(files)))
    return table(("stage", "parts", "file"), rows)


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
    "commands": commands,
    "contract": contract,
    "options": options,
    "parts": parts,
}


def session(text: str) -> str:
    """The text with what its first Python example prints in the block after it."""
    code = text.partition("```python\n")[2].partition("```")[0]
    before, mark, rest = text.partition("```text\n")
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return f"{before}{mark}{printed}```{rest.partition('```')[2]}"


def written(text: str) -> str:
    """The text with every table as the code has it now."""
    for name, make in TABLES.items():
        if f"<!-- {name} -->\n" in text:
            before, _, rest = text.partition(f"<!-- {name} -->\n")
            _, _, after = rest.partition(END)
            text = f"{before}<!-- {name} -->\n{make()}\n{END}{after}"
    return text


if __name__ == "__main__":
    for file in FILES:
        path = ROOT / file
        new = written(path.read_text(encoding="utf-8"))
        path.write_text(session(new) if file == "README.md" else new, encoding="utf-8")
