"""The pages of the GUI world in a real Chromium: turn for turn what the page model says."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from processes import browsers, left_of, renderers

from agentgym.check import check_env
from agentgym.envs.gui import GUIEnv, tasks
from agentgym.envs.gui.browser import ChromiumBackend
from agentgym.envs.gui.browser.site import act, described, shared_site
from agentgym.envs.gui.page import PageBackend
from agentgym.envs.gui.world import World
from agentgym.errors import SandboxUnavailable, UsageError, WorldFault
from agentgym.policy import ExpertPolicy
from agentgym.records import StopReason, Task
from agentgym.report.episodes import view
from agentgym.rollout import Group, Rollout
from agentgym.store.episodes import decode, encode
from agentgym.tools.browser import Chromium, shared_chromium

HANDFUL = ("calendar", "files", "flow", "forms", "mail")


def compare(
    split: str, number: int, family: str | None, *, expert: bool, observe: str = "diff", refer: str = "id"
) -> int:
    """Play one episode in both backends at once and compare all that an agent gets; returns the turns."""
    page, browser = (GUIEnv(split=split, backend=name, observe=observe, refer=refer) for name in ("page", "chromium"))
    dice = random.Random(f"{split} {number} {family}")
    try:
        options: dict[str, Any] | None = {"family": family} if family else None
        seen = [env.reset(seed=number, options=options) for env in (page, browser)]
        assert seen[0] == seen[1]
        for turn in range(100):
            info = seen[0][-1]
            followed = page.expert()
            assert followed == browser.expert()
            action = followed if expert else dice.choice(info["admissible"][:-1] or info["admissible"])
            assert action is not None
            seen = [env.step(action) for env in (page, browser)]
            assert seen[0] == seen[1], (turn, action)
            if seen[0][2] or seen[0][3]:
                return turn + 1
    finally:
        page.close()
        browser.close()
    raise AssertionError("the episode does not end")


@pytest.mark.chromium
@pytest.mark.parametrize("family", HANDFUL)
def test_an_expert_sees_the_same_in_both(family: str) -> None:
    assert compare("train", 1, family, expert=True) > 1


@pytest.mark.chromium
def test_names_stand_for_the_same_elements_in_both() -> None:
    assert compare("train", 3, "shop", expert=True, refer="name") > 1


@pytest.mark.chromium
@pytest.mark.parametrize("family", ["settings", "shop", "wiki"])
def test_random_play_sees_the_same_in_both(family: str) -> None:
    assert compare("unseen", 2, family, expert=False) == 30


@pytest.mark.chromium
@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "test", "unseen"])
@pytest.mark.parametrize("expert", [True, False])
def test_many_episodes_see_the_same_in_both(split: str, expert: bool) -> None:
    """All families and templates: 200 expert and 500 random episodes with benchmarks/gui.py parity; fewer here."""
    for number in range(12):
        for family in tasks.templates(split):
            compare(split, number, family, expert=expert, observe="full" if number % 3 == 0 else "diff")


@pytest.mark.chromium
@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "test", "unseen"])
def test_it_keeps_the_contract(split: str) -> None:
    check_env("agentgym/GUI-v0", backend="chromium", split=split).raise_on_violation()


@pytest.mark.chromium
@pytest.mark.parametrize("text", ['a "quoted" <b>&amp;</b> text', "", "äöü 漢字 🙂", "x" * 200])
def test_any_text_is_typed_as_it_is(text: str) -> None:
    page, browser = GUIEnv(backend="page"), GUIEnv(backend="chromium")
    try:
        _, info = page.reset(seed=0, options={"family": "directory"})
        box = next(action for action in info["admissible"] if action.startswith("type"))
        element = box.partition("(")[2].partition(",")[0]
        quoted = text.replace("\\", "\\\\").replace('"', '\\"')
        browser.reset(seed=0, options={"family": "directory"})
        for action in (f'type({element}, "{quoted}")', f'type({element}, "{quoted}")', "press(Enter)"):
            assert page.step(action)[0] == browser.step(action)[0]
    finally:
        page.close()
        browser.close()


@pytest.mark.chromium
def test_roles_and_names_are_those_of_the_browsers_own_accessibility_tree() -> None:
    """What the driver reads from the document is what Chromium tells a screen reader."""
    with Chromium() as chromium:
        for family in ("forms", "settings", "mail", "shop"):
            backend = ChromiumBackend(World(tasks.build("train", 0, (family,))), chromium)
            widgets = list(backend.snapshot().elements.values())

            async def work(_: Any, backend: ChromiumBackend = backend) -> str:
                tree: str = await backend._page.locator("#screen").aria_snapshot()
                return tree

            tree = chromium.run(work, 20)
            for widget in widgets:
                assert f'{widget.role} "{widget.name}"' in tree.replace("\\", ""), tree
            backend.close()


@pytest.mark.chromium
def test_a_fork_goes_its_own_way() -> None:
    env = GUIEnv(backend="chromium")
    env.reset(seed=1, options={"family": "settings"})
    action = env.expert()
    assert action is not None
    twin = env.fork()
    try:
        before = env._driver.backend.anchor()  # type: ignore[union-attr]
        twin.step(action)
        assert env._driver.backend.anchor() == before  # type: ignore[union-attr]
        assert env.step(action)[4]["anchor"] == twin._driver.backend.anchor()  # type: ignore[union-attr]
    finally:
        twin.close()
        env.close()


@pytest.mark.chromium
@pytest.mark.parametrize("screenshots", [False, True])
def test_screenshots_are_kept_and_shown_where_they_are_asked_for(screenshots: bool, tmp_path: Path) -> None:
    groups = [Group("0", Task(seed=1, options={"family": "settings"}))]
    with Rollout(
        lambda: GUIEnv(backend="chromium", screenshots=screenshots), ExpertPolicy(), max_concurrent_episodes=1
    ) as rollout:
        (episode,) = rollout.play(groups)
    again = decode(encode(episode))
    for turn in again.turns:
        assert (turn.screenshot or b"").startswith(b"\x89PNG" if screenshots else b"")
        assert (turn.screenshot is None) is not screenshots
    pictures = [turn["screenshot"] for turn in view(again, None)["turns"]]
    assert len(set(pictures)) == (len(again.turns) if screenshots else 1)
    env = GUIEnv(backend="chromium")
    env.reset(seed=0)
    assert (env.screenshot() or b"").startswith(b"\x89PNG")
    env.close()


@pytest.mark.chromium
def test_chromium_killed_in_a_run_loses_nothing_and_the_run_goes_on() -> None:
    """The world is at fault, so the episode is played once more; its record does not differ."""
    starts = shared_chromium().starts
    killed = []

    class Killer(ExpertPolicy):
        def submit(self, request: Any) -> Any:
            if len(request.turns) == 1 and not killed:
                killed.extend(browsers())
                for pid in killed:
                    os.kill(pid, signal.SIGKILL)
            return super().submit(request)

    groups = [Group(str(n), Task(seed=n, options={"family": "settings"})) for n in range(3)]
    with Rollout(lambda: GUIEnv(backend="chromium"), Killer(), max_concurrent_episodes=1) as rollout:
        episodes = list(rollout.play(groups))
    assert killed
    assert shared_chromium().starts > starts
    assert [e.stop for e in episodes] == [StopReason.TERMINATED] * 3
    assert all(e.success for e in episodes)


@pytest.mark.chromium
def test_a_page_that_hangs_is_the_worlds_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentgym.envs.gui.browser.backend._SECONDS", 3.0)
    world = World(tasks.build("train", 0, ("settings",)))
    with Chromium() as chromium:
        others = renderers()
        backend = ChromiumBackend(world, chromium)
        hanging = renderers() - others
        other = ChromiumBackend(world.copy(), chromium)

        async def hang(_: Any) -> None:
            await backend._page.evaluate("() => { setTimeout(() => { while (true); }, 0); }")

        chromium.run(hang, 20)
        time.sleep(0.2)
        with pytest.raises(WorldFault, match="Chromium: not done in 3 s"):
            backend.snapshot()
        assert hanging
        assert not left_of(hanging)  # its script goes on for nobody
        assert other.snapshot()
        backend.close()
        other.close()
        assert chromium.starts == 1


def test_the_server_does_what_a_screen_allows_and_nothing_else() -> None:
    world = World(tasks.build("train", 0, ("settings",)))
    before = world.code()
    for done in (
        {"name": "click", "key": "nothing"},
        {"name": "click", "key": ""},
        {"name": "type", "key": "undo", "text": "x"},
        {"name": "select", "key": "undo", "text": "x"},
        {"name": "press", "text": "Enter"},
        {"name": "scroll", "text": "sideways"},
        {"name": "back"},
        {"name": "show", "text": "bank"},
        {"name": "done"},
        {},
    ):
        act(world, done)
    if world.state.memory["undo"]:
        pytest.skip("this task can undo")
    assert world.code() == before


def test_the_server_answers_to_its_own_name_and_secret_addresses_only() -> None:
    site = shared_site()
    world = World(tasks.build("train", 0, ("settings",)))
    address = site.publish(world)
    assert httpx.get(address).text.startswith("<!doctype html>")
    assert httpx.post(f"{address}act", content=b"{}").json() == orjson.loads(orjson.dumps(described(world)))
    assert httpx.get(f"{site.origin}/guess/").status_code == 404
    assert httpx.get(address, headers={"Host": "evil.example"}).status_code == 404
    assert httpx.post(f"{address}act", content=b"x" * 30_000).status_code == 404
    assert httpx.get(f"{address}../../env.py").status_code == 404
    site.withdraw(address)
    assert httpx.get(address).status_code == 404


def test_a_window_and_pictures_need_a_browser() -> None:
    with pytest.raises(UsageError, match="only a browser has pictures; give backend='chromium' too"):
        GUIEnv(screenshots=True)
    with pytest.raises(UsageError, match="only a browser has a window; give backend='chromium' too"):
        GUIEnv(headless=False)


def test_without_chromium_one_line_says_how(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("playwright")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxUnavailable, match="no Chromium on this machine; run: apt-get install chromium"):
        GUIEnv(backend="chromium")


def test_the_page_model_and_the_server_show_the_same_widgets() -> None:
    world = World(tasks.build("train", 3, ("mail",)))
    sent = described(world)
    shown = [w for zone in sent["zones"] for w in zone["widgets"]]
    assert [w["id"] for w in shown if w["id"]] == list(PageBackend(world).snapshot().elements)


@pytest.mark.chromium
def test_pictures_of_a_report_are_seen_in_a_browser(tmp_path: Path) -> None:
    """The page forbids itself everything from outside; its own pictures are drawn, and nothing is complained of."""
    runner = [sys.executable, "-m", "agentgym"]
    options = ["backend=chromium", "screenshots=true", "--policy", "expert", "--episodes", "1", "--out", "run"]
    for command in (["eval", "agentgym/GUI-v0", *options], ["report", "run"]):
        subprocess.run([*runner, *command], cwd=tmp_path, check=True, capture_output=True)
    complaints: list[str] = []

    async def look(browser: Any) -> list[int]:
        page = await browser.new_page()
        page.on("console", lambda message: complaints.append(message.text[:200]))
        await page.goto(f"file://{tmp_path}/run/report.html")
        widths: list[int] = await page.evaluate(
            "() => [...document.querySelectorAll('article:not([hidden]) img')].map((picture) => picture.naturalWidth)"
        )
        await page.close()
        return widths

    with Chromium() as chromium:
        widths = chromium.run(look, 60)
    assert not complaints
    assert widths
    assert set(widths) == {960}
