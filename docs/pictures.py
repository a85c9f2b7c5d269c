"""Takes the pictures of the documentation in a real Chromium; needs the extra ``browser``.

``python docs/pictures.py`` takes those of the web applications, ``python docs/pictures.py RUN`` an episode of a run as
its report shows it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from agentgym.envs.gui import GUIEnv
from agentgym.report import make_report
from agentgym.tools.browser import find_chromium

FOLDER = Path(__file__).parent / "pictures"
#: file, family, task, and how many actions of the expert come before the picture
APPLICATIONS = (("gui_files.png", "files", 3, 2), ("gui_flow.png", "flow", 1, 4))
#: episodes of a run among which one is chosen
EPISODES = 128
#: for each episode of a report: its turns, those of positive and of negative advantage, and whether it was solved
COUNTS = """() => [...document.querySelectorAll("article.episode")].map(e => {
    const count = what => e.querySelectorAll(what).length;
    return {turns: count(".turns li"), up: count("li.up"), down: count("li.down"), solved: count(".good")};
})"""


def applications() -> None:
    """Screens of the GUI world."""
    env = GUIEnv(backend="chromium")
    for name, family, number, actions in APPLICATIONS:
        env.reset(seed=number, options={"family": family})
        for _ in range(actions):
            env.step(env.expert() or "")
        (FOLDER / name).write_bytes(env.screenshot() or b"")
    env.close()


def turns(run: str) -> None:
    """Of the run's report: the shortest solved episode with turns of positive and of negative advantage."""
    page_file = make_report(run, episodes=EPISODES).resolve()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 900, "height": 1200}, device_scale_factor=1.5)
        page.goto(page_file.as_uri())
        episodes = page.evaluate(COUNTS)
        telling = [(e["turns"], n) for n, e in enumerate(episodes) if e["solved"] and e["up"] and e["down"]]
        page.select_option("#choice", index=min(telling)[1])
        page.locator("article.episode:visible").screenshot(path=FOLDER / "turns.png")
        browser.close()


if __name__ == "__main__":
    if sys.argv[1:]:
        turns(sys.argv[1])
    else:
        applications()
