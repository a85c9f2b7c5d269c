"""What mkdocs does beside mkdocs.yml: fill in the tables, and take pages from the root of the repository."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
import tables

#: Pages at the root of the repository, by their name in the site.
ROOT_PAGES = {"index.md": "README.md", "changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}


def for_site(text: str) -> str:
    """A page of the root as a page of the site: its links to docs/ and to other pages of the root lead there."""
    text = re.sub(r"(\]\(|src=\")docs/", r"\1", text)
    for name, page in ROOT_PAGES.items():
        text = text.replace(f"]({page}", f"]({name}")
    return text


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the root."""
    for name, page in ROOT_PAGES.items():
        text = (tables.ROOT / page).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=for_site(text)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill the tables in."""
    return tables.written(markdown)
