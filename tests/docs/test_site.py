"""The documentation as a site: built without a warning, from what is on this machine alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from blocks import ROOT

from agentgym.trainers.parts import STAGES, algorithm_names


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={
            **os.environ,
            "NO_MKDOCS_2_WARNING": "1",
            "http_proxy": "http://127.0.0.1:9",
            "https_proxy": "http://127.0.0.1:9",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr + done.stdout  # with --quiet, --strict lets everything pass
    return folder


def test_the_site_is_built_without_a_warning(site: Path) -> None:
    pages = {str(path.relative_to(site).with_suffix("")) for path in site.rglob("*.html")}
    written = {str(path.relative_to(ROOT / "docs").with_suffix("")) for path in (ROOT / "docs").rglob("*.md")}
    assert pages == written | {"index", "changelog", "contributing", "404"}


def test_a_page_loads_nothing_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=[\"']?(?:https?:)?//", text) == []
        loaded = [tag for tag in re.findall(r"<link [^>]*>", text) if "canonical" not in tag]
        assert [tag for tag in loaded if re.search(r"href=[\"']?(?:https?:)?//", tag)] == [], path


def test_every_picture_is_there(site: Path) -> None:
    shown = [(p, name) for p in site.rglob("*.html") for name in re.findall(r'<img[^>]*\ssrc="([^"]+)"', p.read_text())]
    assert "turns.png" in {Path(name).name for _, name in shown}
    assert [name for page, name in shown if not (page.parent / name).is_file()] == []


def test_algorithms_and_parts_have_their_section(site: Path) -> None:
    algorithms = (site / "reference" / "algorithms.html").read_text(encoding="utf-8")
    assert set(algorithm_names()) <= set(re.findall(r'id="(\w+)"', algorithms))
    assert "discount" in algorithms
    assert "<!-- algorithms -->" not in algorithms
    parts = (site / "reference" / "parts.html").read_text(encoding="utf-8")
    shown = set(re.findall(r'id="\w+-(\w+)"', parts))
    assert {name for stage in STAGES.values() for name in stage.factories} <= shown
