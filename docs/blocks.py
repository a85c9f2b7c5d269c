"""Code blocks and commands of the documentation, run in their order: a page is a session in a folder of its own.

``python docs/blocks.py README.md docs/concepts/update.md`` runs these pages' Python blocks and writes the output blocks
that follow them anew.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
#: Runs each line of its input, the JSON of a block, in one namespace; prints the JSON of what the block printed.
INTERPRETER = """
import contextlib, io, json, sys
names = {"__name__": "__main__"}
for line in sys.stdin:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(json.loads(line), "block", "exec"), names)
    print(json.dumps(out.getvalue()), flush=True)
"""


@dataclass(frozen=True)
class Step:
    """Something of a page that is run.

    Attributes:
        kind: a Python file, a Python block, or a command of ours.
        text: of the file, of the block, or the command line.
        name: of the file.
        output: what the block prints, where the page shows it right after.
        span: where that stands in the page.
    """

    kind: Literal["file", "python", "command"]
    text: str
    name: str = ""
    output: str | None = None
    span: tuple[int, int] = (0, 0)


def pages() -> list[str]:
    """README.md and every page of docs/, by their path."""
    return ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]


def blocks(text: str, *languages: str) -> list[str]:
    """Code blocks in these languages."""
    return [found[2] for found in FENCE.finditer(text) if found[1] in languages]


def shell_lines(text: str) -> list[str]:
    """Lines of the shell blocks; one that ends in a backslash goes on in the next."""
    return [line for block in blocks(text, "bash") for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def steps(text: str) -> list[Step]:
    """What of a page is run, in its order: files, Python blocks, and commands in shell blocks and between backticks."""
    found, end = [], 0
    for fence in FENCE.finditer(text):
        found += _inline(text[end : fence.start()])
        end, language, code = fence.end(), fence[1], fence[2]
        if language == "bash":
            lines = code.replace("\\\n", " ").splitlines()
            found += [Step("command", line) for line in lines if line.startswith("agentgym ")]
        elif language == "python":
            named = re.match(r"# (\w+\.py)\n", code)
            after = re.compile(r"\n\n```text\n(.*?)^```$", re.DOTALL | re.MULTILINE).match(text, end)
            if named:
                found.append(Step("file", code, named[1]))
            elif after:
                found.append(Step("python", code, output=after[1], span=after.span(1)))
            else:
                found.append(Step("python", code))
    return [*found, *_inline(text[end:])]


def _inline(prose: str) -> Iterator[Step]:
    """Commands between backticks that are complete: no placeholder in capitals, no address, and not a server."""
    for command in re.findall(r"`(agentgym [\w-]+ [^-`][^`]*)`", prose):
        if not re.search(r"\b[A-Z]+\b|http|\.\.\.", command) and "serve-" not in command:
            yield Step("command", command)


class Session:
    """A Python process that runs blocks one after the other, each with the names of those before it."""

    def __init__(self, python: str, folder: Path, environment: dict[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [python, "-c", INTERPRETER],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, code: str) -> str:
        """What the block prints.

        Raises:
            RuntimeError: it raised; the message is the traceback.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(code) + "\n")
        self._process.stdin.flush()
        if not (line := self._process.stdout.readline()):
            raise RuntimeError(self._process.communicate()[1])
        return str(json.loads(line))

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.communicate()


def with_outputs(text: str) -> str:
    """The page with every output block as its Python block prints it now; commands are not run."""
    parts, end = [], 0
    with tempfile.TemporaryDirectory() as folder:
        session = Session(sys.executable, Path(folder))
        for step in steps(text):
            if step.kind == "file":
                (Path(folder) / step.name).write_text(step.text, encoding="utf-8")
            elif step.kind == "python":
                printed = session.run(step.text)
                if step.output is not None:
                    parts += [text[end : step.span[0]], printed]
                    end = step.span[1]
        session.close()
    return "".join([*parts, text[end:]])


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        page = ROOT / argument
        page.write_text(with_outputs(page.read_text(encoding="utf-8")), encoding="utf-8")
