from __future__ import annotations

import base64
import hashlib
import html
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from agentgym.errors import StoreError
from agentgym.failures import Failures
from agentgym.records import Episode, StopReason, Task, ToolCall, Turn
from agentgym.report import make_report
from agentgym.report.charts import make_charts, number
from agentgym.report.episodes import LONGEST, choose, view
from agentgym.store import RunFolder

HOSTILE = "<script>alert('x')</script>"
BREAKOUT = '" onmouseover="alert(1)" x=\'</pre></option><img src=x onerror=alert(1)>'


class Page(HTMLParser):
    """The text of a page, and every tag with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def classes(self, tag: str) -> list[str]:
        return [str(a.get("class")) for t, a in self.tags if t == tag]


def episode(number: int, group: str = "g", **changes: Any) -> Episode:
    turns = (Turn("a door", "open door"), Turn("it opens", "go", 1.0), Turn("a room", "look"))
    fields: dict[str, Any] = {"turns": turns, "stop": StopReason.TERMINATED, "success": True, "group": group}
    return Episode(
        **{"id": f"{group}/{number}", "env": "t/T-v0", "task": Task(number, {}, f"task {number}"), **fields, **changes}
    )


def written(folder: Path, episodes: list[Episode], config: dict[str, Any] | None = None, **credit: list[float]) -> Page:
    run = RunFolder.create(folder, config or {"env": "t/T-v0", "algorithm": "gigpo"})
    with run.writer() as writer:
        for one in episodes:
            writer.append(one)
    for name, values in credit.items():
        run.advantages.append({"episode": name.replace("_", "/"), "advantage": values})
    return Page(make_report(folder).read_text())


def test_the_page_tells_how_many_episodes_failed_and_why(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {"env": "t/T-v0"})
    for update, failures in enumerate(
        [Failures(10), Failures(10, 1, "<b>", 2, "boom"), Failures(10, 2, "no", 1, "no")]
    ):
        run.metrics.append({"update": update, "episodes": 10} | failures.as_dict())
    evaluated = {f"eval_{name}": value for name, value in Failures(4, 1, "no answer")._asdict().items()}
    run.metrics.append({"update": 3, "event": "eval"} | evaluated)
    page = make_report(tmp_path / "run").read_text()
    told = [html.unescape(line) for line in re.findall(r'<p class="failure">(.*?)</p>', page)]
    left_out, warning = "failed in the world or the policy and are left out", "warning, more than 5 %"
    assert told == [
        f"training: {warning}: 3 of 30 episodes {left_out}; the first: <b>",
        "training: 3 of 30 episodes broke the environment by an action and count as failures; the first: boom",
        f"evaluation: {warning}: 1 of 4 episodes {left_out}; the first: no answer",
    ]
    assert "<b></p>" not in page


def test_credit_colours_each_turn_by_sign_and_size(tmp_path: Path) -> None:
    page = written(tmp_path / "run", [episode(0)], g_0=[0.5, 0.0, -2.0])
    rows = [(a["class"], a["style"]) for t, a in page.tags if t == "li" and a.get("style")]
    assert rows == [("up", "--s:0.25"), ("none", "--s:0.0"), ("down", "--s:1.0")]
    text = "".join(page.text)
    for shown in ("+0.5", "\u22122", "a door", "open door", "reward 1", "solved", "terminated", "task 0"):
        assert shown in text
    assert "not trained on" not in text


def test_an_episode_without_credit_says_so(tmp_path: Path) -> None:
    page = written(tmp_path / "run", [episode(0)], g_0=[1.0])  # a wrong number of credits is none
    assert "not trained on" in "".join(page.text)


def test_what_a_model_wrote_cannot_become_markup(tmp_path: Path) -> None:
    bad = HOSTILE + BREAKOUT
    turn = Turn(bad, bad, error=bad, tool_calls=(ToolCall(bad, {bad: bad}, bad), ToolCall("t", {}, error=bad)))
    wild = episode(
        0, group=bad, id=bad, env=bad, task=Task(0, {}, bad), turns=(turn,), failure=bad, final=bad, parent=bad
    )
    run = RunFolder.create(tmp_path / "run", {"env": bad, "algorithm": bad, bad: {bad: bad}})
    with run.writer() as writer:
        writer.append(wild)
    run.metrics.append({"update": 1, "event": "eval", "split": bad, "eval_success": 0.5, bad: 1.0})
    run.metrics.append({"update": 2, "event": "eval", "split": bad, "eval_success": 0.6, bad: 2.0})
    html = make_report(run).read_text()
    page = Page(html)
    assert [t for t, _ in page.tags].count("script") == 1
    assert not [t for t, _ in page.tags if t == "img"]
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]
    assert "".join(page.text).count(HOSTILE) >= 8  # and all of it can be read


def test_only_the_own_script_may_run_and_nothing_is_loaded(tmp_path: Path) -> None:
    page = written(tmp_path / "run", [episode(0)])
    html = (tmp_path / "run" / "report.html").read_text()
    script = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv"))
    assert policy is not None
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy
    assert not re.search(r"https?://|@import|\bsrc=|<link", html)


def test_characters_that_hide_or_reorder_text_are_shown(tmp_path: Path) -> None:
    turn = Turn("a\x00b\x1b[31mc\u202ed\u200be\ud800f", "line\nnext\ttab")
    text = "".join(written(tmp_path / "run", [episode(0, turns=(turn,))]).text)
    assert r"a\x00b\x1b[31mc\u202ed\u200be\ud800f" in text
    assert "line\nnext\ttab" in text


def test_a_huge_text_is_cut_with_its_size() -> None:
    shown = view(episode(0, turns=(Turn("x" * (LONGEST + 7), ""),)), None)
    assert shown["turns"][0]["observation"] == "x" * LONGEST + " … and 7 more characters"


def test_charts_draw_training_and_evaluation_together() -> None:
    lines: list[dict[str, Any]] = [
        {"update": 0, "event": "eval", "split": "test", "eval_success": 0.25},
        {"update": 1, "success": 0.0, "loss": None, "calls": 1, "name": "x", "flag": True},
        {"update": 2, "success": 1.0, "loss": 3.0, "calls": 1},
    ]
    charts = {c.name: c for c in make_charts(lines)}
    assert list(charts) == ["success", "loss", "calls"]  # the usual ones first
    train, test = charts["success"].lines
    assert (train.name, train.points) == ("training", ((1.0, 0.0), (2.0, 1.0)))
    assert (test.name, test.kind, test.points) == ("test", "eval", ((0.0, 0.25),))
    # x: update 1 of 0..2 is the middle of 6..294; y: 0 is at the bottom, 90, and 1 at the top, 6
    assert train.path == "M150.0 90.0L294.0 6.0"
    assert test.dots == ((6.0, 69.0),)
    assert [charts[n].moves for n in charts] == [True, False, False]
    assert charts["success"].told == [(1.0, "training 0"), (2.0, "training 1"), (0.0, "test 0.25")]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.30000000000000004, "0.3"),
        (-2, "\u22122"),
        (123456, "123\u2009456"),
        (1e-7, "1e\u221207"),
        (None, ""),
        ("a", "a"),
    ],
)
def test_numbers_are_short(value: object, text: str) -> None:
    assert number(value) == text


def test_whole_groups_are_chosen_all_over_the_run() -> None:
    stored = [episode(m, group=f"g{g}") for g in range(10) for m in range(4)]
    chosen = choose(lambda: iter(stored), 12)
    assert [e.id for e in chosen] == [f"g{g}/{m}" for g in (0, 4, 9) for m in range(4)]
    assert [e.id for e in choose(lambda: iter(stored), 3)] == [f"g9/{m}" for m in range(3)]
    assert choose(lambda: iter(stored), 0) == []
    assert len(choose(lambda: iter(stored), 999)) == 40
    assert choose(lambda: iter(()), 5) == []


def test_an_empty_run_has_a_page(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {"env": "t/T-v0", "parameters": {"clip": 0.2, "kl": {}}, "none": None})
    text = Page(make_report(run).read_text()).text
    assert "parameters.clip" in text
    assert "0.2" in text
    assert "Episodes" not in text


def test_the_headline_shows_the_last_numbers(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {"env": "t/T-v0", "algorithm": "gigpo"})
    run.metrics.append({"update": 1, "success": 0.1})
    run.metrics.append({"update": 2, "success": 0.5})
    run.metrics.append({"update": 2, "event": "eval", "split": "unseen", "eval_success": 0.456})
    text = Page(make_report(run).read_text()).text
    tiles = text[text.index("environment") : text.index("Curves")]
    assert [t.strip() for t in tiles if t.strip()] == [
        *("environment", "t/T-v0", "algorithm", "gigpo", "updates", "2"),
        *("success in training", "50%", "success in evaluation (unseen)", "46%"),
    ]


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"it has no run\.yaml"):
        make_report(tmp_path)
