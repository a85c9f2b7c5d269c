"""The documentation says what the code says, and its examples run."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tables
import yaml
from blocks import ROOT, blocks, shell_lines

import agentgym
from agentgym.check import check_env
from agentgym.records import Episode, StopReason, Task, Turn
from agentgym.tools.syntax import make_syntax, syntaxes
from agentgym.tools.syntax.base import Call
from agentgym.tools.tool import tool
from agentgym.trainers import parts
from agentgym.trainers.advantage import TurnTable
from agentgym.trainers.algorithm import Algorithm
from agentgym.trainers.expressions import with_part
from agentgym.trainers.loss.surrogate import surrogate
from agentgym.trainers.loss.tokens import Tokens
from agentgym.trainers.parts import STAGES, get_algorithm
from agentgym.trainers.run.config import TrainConfig, options

GUIDES = sorted(ROOT.glob("docs/guides/*.md"))
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_table_stands_in_one_place() -> None:
    found = [name for path in PAGES for name in tables.MARK.findall(path.read_text(encoding="utf-8"))]
    assert sorted(found) == sorted(tables.TABLES)


def test_a_mark_becomes_its_table() -> None:
    new = tables.written("before\n<!-- commands -->\nbetween\n<!-- algorithms -->\nafter <!-- commands --> it\n")
    assert "| `agentgym train` |" in new
    assert "| [`gigpo`](#gigpo) |" in new
    assert new.startswith("before\n| command")
    assert "|\nbetween\n|" in new
    assert new.endswith("|\nafter <!-- commands --> it\n")


def test_every_part_has_its_place_in_the_table() -> None:
    """Each factory of the package stands in the row of its stage, and no stage's row is empty."""
    rows = {re.findall(r"`(\w+)`", row)[0]: row for row in tables.parts().splitlines()[2:]}
    assert set(rows) == set(STAGES)
    for name, stage in STAGES.items():
        assert set(re.findall(r"`(\w+)`", rows[name].split(" | ")[1])) == set(stage.factories) != set()
    sections = re.findall(r"^### `(\w+)` { #(\w+)-(\w+) }\n\n::: ([\w.]+)$", tables.part_pages(), re.MULTILINE)
    described = {(module, name) for name, _, _, module in sections}
    wanted = {inspect.unwrap(factory): name for stage in STAGES.values() for name, factory in stage.factories.items()}
    assert described == {(f"{function.__module__}.{function.__name__}", name) for function, name in wanted.items()}
    assert len(described) == len(sections)
    assert ("kl", "reward") in [(name, stage) for name, stage, _, _ in sections]
    assert ("kl", "penalty") in [(name, stage) for name, stage, _, _ in sections]


def test_every_option_has_its_section() -> None:
    """The options of a section stand below its name, those without one above all."""
    before, *pieces = re.split(r"\*\*`(\w+)`\*\*: ", tables.options())
    named = dict(zip(pieces[::2], pieces[1::2], strict=True))
    listed = {section: re.findall(r"^\| `([\w.]+)`", text, re.MULTILINE) for section, text in named.items()}
    assert all(name.startswith(f"{section}.") for section, names in listed.items() for name in names)
    free = re.findall(r"^\| `([\w.]+)`", before, re.MULTILINE)
    assert [*free, *(name for names in listed.values() for name in names)] == [name for name, _ in options()]


def test_every_algorithm_names_its_paper() -> None:
    rows = [line.split(" | ") for line in tables.algorithms().splitlines()[2:]]
    assert [row[0] for row in rows if not row[2].strip()] == []


def test_the_readme_is_short() -> None:
    """What it is, a picture, how to install it, three commands and why, on one screen; the rest on two more."""
    text = page("README.md")
    assert len(text.partition("\n## ")[0].splitlines()) <= 36
    assert len(text.splitlines()) <= 140


def environment_example(name: str, folder: Path) -> None:
    """Write an example of the guides to the file that its first line names."""
    (code,) = (b for guide in GUIDES for b in blocks(guide.read_text(), "python") if b.startswith(f"# {name}\n"))
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
    (listed,) = (b for b in blocks(page("docs/guides/tools.md"), "yaml") if b.startswith("tools:"))
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

    section = page("docs/guides/tools.md").partition("## Syntaxes")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)`[^|]* \|(.*)\|$", section, re.MULTILINE))
    assert sorted(rows) == sorted(syntaxes())
    for name, cells in rows.items():
        syntax = make_syntax(name, [add])
        call, answer = ("\n".join(re.findall(r"`([^`]+)`", cell)) for cell in cells.split(" | "))
        if name == "native":
            (call,) = re.findall(r"`(\{.role.*?\})`", section)
            answer = "done"
        assert set(map(str, syntax.parse(call).calls)) == {str(Call("add", {"item": "tea"}))}
        assert syntax.parse(answer).answer == "done"


@pytest.fixture
def registry() -> Iterator[None]:
    """What is registered meanwhile is forgotten afterwards."""
    algorithms = dict(parts._algorithms)
    factories = {stage: dict(stage.factories) for stage in STAGES.values()}
    yield
    parts._algorithms.clear()
    parts._algorithms.update(algorithms)
    for stage, known in factories.items():
        stage.factories.clear()
        stage.factories.update(known)


def training_example(beginning: str) -> dict[str, Any]:
    """What a Python block of the guide to advantage rules defines."""
    (code,) = (b for b in blocks(page("docs/guides/advantage.md"), "python") if b.startswith(beginning))
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, "advantage.md", "exec"), names)
    return names


@pytest.mark.usefixtures("registry")
def test_the_own_penalty_of_the_guide_works() -> None:
    torch = pytest.importorskip("torch", reason="needs the extra train")
    training_example("# careful.py")
    made = with_part(Algorithm(), "penalty", "entropy_floor(0.2, coefficient=3.0)")
    assert made.needs == {"entropy"}
    zeros, numbers = torch.zeros(2), torch.zeros(2, dtype=torch.int64)
    tokens = Tokens(zeros, zeros, zeros, zeros + 1, numbers, numbers, entropy=torch.tensor([0.1, 0.5]))
    assert made.penalty[0](tokens).tolist() == pytest.approx([0.3, 0.0])


def test_the_options_of_the_page_are_options() -> None:
    (text,) = (b for b in blocks(page("docs/reference/options.md"), "yaml") if b.startswith("env:"))
    config = TrainConfig.checked(yaml.safe_load(text))
    assert (config.model.tiny.layers, config.optimizer.lr, config.parameters) == (3, 0.001, {"discount": 0.9})


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_options_in_the_pages_exist(path: Path) -> None:
    """Whatever is written as ``section.name`` names an option or a section."""
    known = {name for name, _ in options()}
    sections = {name.rpartition(".")[0] for name in known if "." in name}
    first = "|".join({section.partition(".")[0] for section in sections})
    named = re.findall(rf"(?<![\w./-])((?:{first})(?:\.[a-z_]+)+)(?=[=`\s])", path.read_text(encoding="utf-8"))
    assert set(named) - {"run.yaml"} <= known | sections


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/*.yaml")), ids=lambda path: path.name)
def test_the_examples_are_of_known_options(path: Path) -> None:
    config = TrainConfig.checked(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert get_algorithm(config.algorithm)(**config.parameters)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8"))
    assert [t for t in targets if not t.startswith("https://") and not (path.parent / t).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_in_examples_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    inline = re.findall(r"`(agentgym [^`]+)`", text)
    lines = shell_lines(text)
    named = {line.split()[1] for line in [*inline, *lines] if re.match(r"agentgym \w", line)}
    assert named <= set(re.findall(r"`agentgym ([\w-]+)`", tables.commands()))
    targets = set(re.findall(r"^([a-z-]+):", page("Makefile"), re.MULTILINE))
    made = re.findall(r"(?:^|`)make ([a-z -]+)", text, re.MULTILINE)
    assert {target for words in made for target in words.split()} <= targets
    for script in re.findall(r"python (\S+\.py)", text):
        assert (ROOT / script).is_file(), script


def test_every_metric_has_its_line() -> None:
    from agentgym.trainers.run.summary import branching_metrics, summary
    from agentgym.trainers.sampling.branching_rules import BranchDecision
    from agentgym.trainers.update.metrics import UpdateMetrics, turn_metrics

    turns = TurnTable.from_columns(
        group=[0], episode=[0], turn=[0], reward=[0.0], answer_logprob=[-1.0], answer_logprob_before=[-2.0]
    )
    episode = Episode("0/0", "", Task(0), (Turn("", ""),), StopReason.TERMINATED, metrics={"NAME": 1.0})
    decision = BranchDecision("0", "0/0", None, 0, signal=0.5, chance=1.0, draw=0.0, branches=1)
    names = {
        *UpdateMetrics(surrogate()).metrics(),
        *turn_metrics(turns, turns.reward),
        *summary([episode]),
        *branching_metrics([episode], [decision]),
    }
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", page("docs/reference/metrics.md"), re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"\w+", row)}
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
    assert (ours | {"check_env"}) - {"register_builtin"} == set(agentgym.__all__)
    assert agentgym.check_env is check_env  # not imported before it is used


def test_the_map_of_learning_shows_every_room() -> None:
    from agentgym import trainers

    shown = set(re.findall(r"\b(\w+)(?:\.py\b|/ )", trainers.__doc__ or ""))
    assert shown == {module.name for module in pkgutil.iter_modules(trainers.__path__)}


def test_the_architecture_shows_every_file_and_folder() -> None:
    from agentgym import trainers

    shown = re.findall(
        r"`([\w/]+(?:\.py|/))`",
        "".join(
            row.split("|")[1]
            for row in page("docs/concepts/architecture.md").partition("## Rooms")[2].partition("\n## ")[0].splitlines()
            if row.startswith("| ")
        ),
    )
    there = {m.name + ("/" if m.ispkg else ".py") for m in pkgutil.iter_modules(agentgym.__path__)}
    there |= {f"trainers/{m.name}" + ("/" if m.ispkg else ".py") for m in pkgutil.iter_modules(trainers.__path__)}
    assert there - {"__main__.py", "trainers/"} == set(shown)
    assert len(shown) == len(set(shown))
