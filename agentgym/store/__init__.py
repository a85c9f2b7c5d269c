"""Episodes and run folders on disk.

::

    runs/my-run/
    ├── run.yaml                     algorithm, every option, versions, fingerprints; fully resolved
    ├── metrics.jsonl                one JSON object a line: {"update": 3, "loss": 0.1, ...}
    ├── advantages.jsonl             {"update": 3, "episode": "3.0/1", "advantage": [0.5, -0.5]}, one number a turn
    ├── episodes-train.jsonl.zst     one zstd frame a flush, so a crash loses at most the frame being written
    ├── checkpoints/update-000003/   whole or not there
    └── report.html

An episode is one line of JSON and comes back equal, floats bit for bit. Strict JSON has no NaN, no infinity, no lone
surrogate, and integers beyond 64 bits get rounded by many readers: a line that needs one of these starts with ``!``
and is Python's JSON in UTF-8 with surrogates passed through.
"""

from __future__ import annotations

from agentgym.store.episodes import FLUSH_BYTES, PATTERN, EpisodeWriter, decode, encode, read_episodes
from agentgym.store.files import JsonLines, StrPath, atomic_write
from agentgym.store.folder import RunFolder

__all__ = [
    "FLUSH_BYTES",
    "PATTERN",
    "EpisodeWriter",
    "JsonLines",
    "RunFolder",
    "StrPath",
    "atomic_write",
    "decode",
    "encode",
    "read_episodes",
]
