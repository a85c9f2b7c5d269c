"""The documentation says what the code says, and its examples run."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import agentgym
from agentgym.records import Episode, StopReason, Task, Turn
from agentgym.tools.syntax import make_syntax, syntaxes
from agentgym.tools.syntax.base import Call
from agentgym.tools.tool import tool
from agentgym.trainers.advantage.turn_table import TurnTable

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["README.md", "docs/environments.md", "docs/training.md"])
def test_tables_are_those_of_the_code(tables: ModuleType, name: str) -> None:
    assert page(name) == tables.written(page(name)), "run: make docs"
    assert name in tables.FILES


def test_every_table_stands_somewhere(tables: ModuleType) -> None:
    found = [name for file in tables.FILES for name in re.findall(r"<!-- (\w+) -->", page(file)) if name != "end"]
    assert sorted(found) == sorted(tables.TABLES)


def test_a_table_that_is_out_of_date_is_written_anew(tables: ModuleType) -> None:
    text = "before\n<!-- commands -->\n| old |\n<!-- end -->\nbetween\n<!-- recipes -->\n<!-- end -->\nafter\n"
    new = tables.written(text)
    assert "| old |" not in new
    assert "`agentgym train`" in new
    assert "`gigpo`" in new
    assert new.startswith("before\n")
    assert "<!-- end -->\nbetween\n" in new
    assert new.endswith("<!-- end -->\nafter\n")
    assert tables.written(new) == new


def test_every_recipe_names_its_paper(tables: ModuleType) -> None:
    rows = [line.split(" | ") for line in tables.recipes().splitlines()[2:]]
    assert [row[0] for row in rows if not row[2].strip()] == []


def test_the_first_session_prints_what_is_shown(tmp_path: Path) -> None:
    code, shown = blocks(page("README.md"), "python")[0], blocks(page("README.md"), "text")[0]
    assert len(code.splitlines()) <= 14
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == shown, "run: make docs"


def environment_example(name: str, folder: Path) -> None:
    """Write an example of the page on environments to the file that its first line names."""
    (code,) = (b for b in blocks(page("docs/environments.md"), "python") if b.startswith(f"# {name}\n"))
    (folder / name).write_text(code)


def run_agentgym(folder: Path, *arguments: str) -> str:
    run = [str(Path(sys.executable).with_name("agentgym")), *arguments]
    done = subprocess.run(run, capture_output=True, text=True, cwd=folder, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_shop_keeps_the_contract_and_its_expert_buys(tmp_path: Path) -> None:
    environment_example("shop.py", tmp_path)
    run_agentgym(tmp_path, "check", "shop:me/Shop-v0")
    told = run_agentgym(tmp_path, "eval", "shop:me/Shop-v0", "--policy", "expert", "--budget", "2,3,inf")
    assert re.findall(r"(?:tool_calls=\d|inf) +([\d.]+) %", told) == ["0.0", "100.0", "100.0"]


def test_prices_are_those_of_the_list(tmp_path: Path) -> None:
    environment_example("shop.py", tmp_path)
    (listed,) = (b for b in blocks(page("docs/environments.md"), "yaml") if b.startswith("tools:"))
    (tmp_path / "prices.yaml").write_text(listed)
    play = ["eval", "shop:me/Shop-v0", "--policy", "expert", "--prices", "prices.yaml", "--budget", "cost=0.11,0.12"]
    told = run_agentgym(tmp_path, *play)  # two calls of add and one of checkout
    assert re.findall(r"cost=0.1\d +([\d.]+) %", told) == ["0.0", "100.0"]


def test_each_episode_has_a_server_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("mcp", reason="needs the extra mcp")
    for name in ("notes_server.py", "notes.py"):
        environment_example(name, tmp_path)
    told = run_agentgym(tmp_path, "eval", "notes:me/Notes-v0", "--policy", "expert", "--episodes", "2")
    assert re.search(r"inf +100.0 %", told)  # notes of another episode would be in the answer


def test_syntaxes_are_written_as_shown(tmp_path: Path) -> None:
    @tool
    def add(item: str) -> str:
        """Add.

        Args:
            item: what.
        """
        return item

    section = page("docs/environments.md").partition("## Syntaxes")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)`[^|]* \|(.*)\|$", section, re.MULTILINE))
    assert sorted(rows) == syntaxes()
    for name, cells in rows.items():
        syntax = make_syntax(name, [add])
        call, answer = ("\n".join(re.findall(r"`([^`]+)`", cell)) for cell in cells.split(" | "))
        if name == "native":
            (call,) = re.findall(r"`(\{.role.*?\})`", section)
            answer = "done"
        assert set(map(str, syntax.parse(call).calls)) == {str(Call("add", {"item": "tea"}))}
        assert syntax.parse(answer).answer == "done"


def test_the_own_recipe_of_the_training_page_works() -> None:
    (code,) = blocks(page("docs/training.md"), "python")
    from agentgym.trainers import algorithm

    names: dict[str, object] = {}
    known = dict(algorithm._recipes)
    try:
        exec(compile(code, "training.md", "exec"), names)
        made = algorithm.get_recipe("plain")(scale=False)
    finally:
        algorithm._recipes.clear()
        algorithm._recipes.update(known)
    turns = TurnTable.from_columns(group=[0, 0], episode=[0, 1], turn=[0, 0], reward=[1.0, 0.0])
    assert made.credit(turns, turns.reward).tolist() == [0.5, -0.5]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8"))
    assert [t for t in targets if not t.startswith("https://") and not (path.parent / t).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_in_examples_exist(path: Path, tables: ModuleType) -> None:
    text = path.read_text(encoding="utf-8")
    inline = re.findall(r"`(agentgym [^`]+)`", text)
    lines = [line.strip() for block in blocks(text, "bash") for line in block.splitlines()]
    named = {line.split()[1] for line in [*inline, *lines] if re.match(r"agentgym \w", line)}
    assert named <= set(re.findall(r"`agentgym ([\w-]+)`", tables.commands()))
    targets = set(re.findall(r"^([a-z-]+):", page("Makefile"), re.MULTILINE))
    made = re.findall(r"(?:^|`)make ([a-z -]+)", text, re.MULTILINE)
    assert {target for words in made for target in words.split()} <= targets
    for script in re.findall(r"python (\S+\.py)", text):
        assert (ROOT / script).is_file(), script


def test_every_metric_has_its_line() -> None:
    from agentgym.trainers.run.summary import summary
    from agentgym.trainers.sampling.branching import tree_figures
    from agentgym.trainers.update.metrics import UpdateMetrics, turn_metrics

    turns = TurnTable.from_columns(
        group=[0], episode=[0], turn=[0], reward=[0.0], answer_logprob=[-1.0], answer_logprob_before=[-2.0]
    )
    episode = Episode("0/0", "", Task(0), (Turn("", ""),), StopReason.TERMINATED)
    names = {
        *UpdateMetrics().metrics(),
        *turn_metrics(turns, turns.reward),
        *summary([episode]),
        *tree_figures([episode], []),
    }
    documented = set(re.findall(r"^\| `(\w+)` \|", page("docs/training.md").partition("## Metrics")[2], re.MULTILINE))
    assert names <= documented
    assert documented - names == {"kept_episodes", "calls_per_turn", "generated_tokens"}


def modules_with_all() -> list[str]:
    found = [agentgym.__name__]
    for module in pkgutil.walk_packages(agentgym.__path__, "agentgym."):
        if module.ispkg:
            found.append(module.name)
    return [name for name in found if "__all__" in vars(importlib.import_module(name))]


@pytest.mark.parametrize("name", modules_with_all())
def test_all_is_what_is_public(name: str) -> None:
    module = importlib.import_module(name)
    defined = {
        key
        for key, value in vars(module).items()
        if not key.startswith("_") and getattr(value, "__module__", None) == name
    }
    assert defined <= set(module.__all__)
    assert [key for key in module.__all__ if not hasattr(module, key)] == []


def test_the_package_shows_what_it_imports() -> None:
    ours = {k for k, v in vars(agentgym).items() if getattr(v, "__module__", "").startswith("agentgym.")}
    assert ours - {"register_builtin"} == set(agentgym.__all__)


def test_the_map_of_learning_shows_every_file() -> None:
    from agentgym import trainers

    shown = set(re.findall(r"\b(\w+)\.py\b", trainers.__doc__ or ""))
    assert shown == {module.name for module in pkgutil.iter_modules(trainers.__path__) if not module.ispkg}
