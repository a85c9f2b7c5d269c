"""The house rules that no other tool checks: sizes of files and folders, and words that are not used any more."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

MOST_FILES, MOST_LINES = 12, 400

#: A word that is not used any more -> what is said now. Whole words, in code, options and documentation.
WORDS = {
    r"recipes?": "algorithm",
    r"warm_start\w*": "sft.*",
    r"lr_end": "optimizer.lr_final_fraction",
    r"to_go": "discounted_return",
    r"continuation_values": "monte_carlo_values",
    r"with_spread": "nonzero_variance",
    r"PersonPolicy": "HumanPolicy",
    r"KeptKeys": "KVCache",
    r"Optimisation": "OptimizerConfig",
    r"agentgym\.draws|draws\.\w+": "keyed_random",
    r"kl_old": "approx_kl",
    r"credits\.jsonl": "advantages.jsonl",
    r"nursery|zygote": "fork_server",
    r"PENALTIES|SLOTS|RETURNS": "STAGES",
}
#: Files that speak of earlier names on purpose.
PAST = (
    "CHANGELOG.md",
    ".ci/house.py",
    "agentgym/envs/gui/apps/",  # cooks have recipes
    "agentgym/trainers/run/config.py",
    "tests/cli/test_commands.py",
    "tests/cli/test_train_command.py",
    "tests/trainers/run/test_config.py",
)


def tracked() -> list[Path]:
    """Files under version control."""
    listed = subprocess.run(["git", "ls-files", "-z"], check=True, capture_output=True, text=True).stdout
    return [Path(name) for name in listed.split("\0") if name and Path(name).is_file()]


def main() -> int:
    """Print every violation; the exit status says whether there is one."""
    files = tracked()
    code = [f for f in files if f.suffix == ".py" and f.parts[0] == "agentgym"]
    problems = [
        f"{folder}: {number} files; at most {MOST_FILES} beside sub-rooms"
        for folder, number in Counter(f.parent for f in code if f.name != "__init__.py").items()
        if number > MOST_FILES
    ]
    for file in code:
        if (lines := len(file.read_text().splitlines())) > MOST_LINES:
            problems.append(f"{file}: {lines} lines; at most {MOST_LINES}")
    former = re.compile("|".join(rf"(?P<w{n}>\b(?:{word})\b)" for n, word in enumerate(WORDS)))
    for file in files:
        if file.suffix not in (".py", ".md", ".yaml", ".toml") or str(file).startswith(PAST):
            continue
        for number, line in enumerate(file.read_text().splitlines(), 1):
            for found in former.finditer(line):
                now = list(WORDS.values())[int(str(found.lastgroup)[1:])]
                problems.append(f"{file}:{number}: {found[0]!r} is called {now!r} now")
    print("\n".join(problems) or "the house is in order")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
