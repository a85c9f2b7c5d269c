"""Takes the pictures of the documentation in a real Chromium; needs the extra ``browser``.

``python docs/pictures.py`` takes those of the web applications, ``python docs/pictures.py RUN`` an episode of a run as
its report shows it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from agentgym.envs.gui import GUIEnv
from agentgym.report import make_report
from agentgym.tools.browser import find_chromium

FOLDER = Path(__file__).parent / "pictures"
#: file, family, task, and how many actions of the expert come before the picture
APPLICATIONS = (("gui_files.png", "files", 3, 2), ("gui_flow.png", "flow", 1, 4))
#: turns that the pictured episode may have
TURNS = (4, 12)


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
    """Of the run's report: the last episode that was solved, and has turns of positive and of negative advantage."""
    page_file = make_report(run).resolve()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 900, "height": 1200}, device_scale_factor=1.5)
        page.goto(page_file.as_uri())
        page.select_option("#choice", index=max(_telling(page)))
        page.locator("article.episode:visible").screenshot(path=FOLDER / "turns.png")
        browser.close()


def _telling(page: Any) -> list[int]:
    """Numbers of the episodes that show most."""
    least, most = TURNS
    return [
        number
        for number, episode in enumerate(page.locator("article.episode").all())
        if least <= episode.locator(".turns li:not(.final)").count() <= most
        and episode.locator(".chip.good").count()
        and episode.locator(".turns li.up").count()
        and episode.locator(".turns li.down").count()
    ]


if __name__ == "__main__":
    if sys.argv[1:]:
        turns(sys.argv[1])
    else:
        applications()
