"""Write ``requirements.txt``: what the core needs, each version of ``constraints.txt`` with the digest of its file.

``python .ci/requirements.py`` asks pip, which asks the package index; ``--check`` lets pip verify that the index serves
just these files now. Digests are those of the files that pip chooses on this kind of machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "requirements.txt"
PIP = [
    sys.executable,
    "-m",
    "pip",
    "install",
    "--dry-run",
    "--ignore-installed",
    "--quiet",
    "--disable-pip-version-check",
]


def lines(report: dict[str, Any]) -> list[str]:
    """``name==version --hash=sha256:...`` for every package of pip's report."""
    found = []
    for package in report["install"]:
        metadata, digest = package["metadata"], package["download_info"]["archive_info"]["hashes"]["sha256"]
        found.append(f"{metadata['name'].lower().replace('_', '-')}=={metadata['version']} --hash=sha256:{digest}")
    return sorted(found)


def main() -> None:
    """Write or check the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="verify requirements.txt instead of writing it")
    if parser.parse_args().check:
        subprocess.run([*PIP, "--require-hashes", "--no-deps", "-r", TARGET], check=True)
        print(f"{TARGET.name}: the index serves these files")
        return
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    with tempfile.NamedTemporaryFile("r", suffix=".json") as report:
        subprocess.run([*PIP, "--report", report.name, "-c", ROOT / "constraints.txt", *wanted], check=True)
        found = lines(json.load(report))
    version = ".".join(platform.python_version_tuple()[:2])
    head = [
        f"# What the core of agentgym needs, on Python {version} and {platform.system()} {platform.machine()}.",
        "# Made by `python .ci/requirements.py`; install with",
        "# pip install --require-hashes -r requirements.txt && pip install --no-deps agentgym_turns-*.whl",
    ]
    TARGET.write_text("\n".join([*head, *found]) + "\n")
    print(f"{TARGET.name}: {len(found)} packages")


if __name__ == "__main__":
    main()
