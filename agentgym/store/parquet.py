"""Episodes as parquet, for notebooks and query engines; the store itself stays the append-only files."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from agentgym.errors import MissingExtra
from agentgym.records import Episode
from agentgym.store import StrPath, read_episodes
from agentgym.store.files import fresh_name, open_fresh

_BATCH = 1024  # episodes in memory at once


def export(source: StrPath, target: StrPath) -> int:
    """Write the episodes of a run folder or file as one parquet file; returns how many.

    One row an episode, ``turns`` a list of structs. Free-form mappings (task options, tool arguments) are JSON texts. A
    lone surrogate, which parquet cannot hold, becomes its escape.

    Raises:
        StoreError: nothing to read.
        MissingExtra: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise MissingExtra("pyarrow", "parquet") from error
    schema = _schema(pa)
    temporary = fresh_name(Path(target))
    count, episodes = 0, read_episodes(source)
    batch = list(itertools.islice(episodes, _BATCH))
    try:
        with open_fresh(temporary) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
            while batch:
                writer.write_table(pa.Table.from_pylist([_row(e) for e in batch], schema))
                count += len(batch)
                batch = list(itertools.islice(episodes, _BATCH))
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _schema(pa: Any) -> Any:
    text, real, whole = pa.string(), pa.float64(), pa.int64()
    ids, reals = pa.list_(whole), pa.list_(real)
    call = pa.struct(
        {
            "name": text,
            "arguments": text,
            "result": text,
            "error": text,
            "seconds": real,
            "cost": real,
            "status": text,
        }.items()
    )
    sample = pa.struct(
        {
            "keep": whole,
            "context": ids,
            "action": ids,
            "logprobs": reals,
            "entropies": reals,
            "version": whole,
            "choices": pa.list_(ids),
        }.items()
    )
    usage = pa.struct(
        {
            "prompt_tokens": whole,
            "completion_tokens": whole,
            "cost": real,
            "model_seconds": real,
            "tool_seconds": real,
            "waiting_seconds": real,
        }.items()
    )
    turn = pa.struct(
        {
            "observation": text,
            "action": text,
            "reward": real,
            "anchor": text,
            "error": text,
            "tool_calls": pa.list_(call),
            "sample": sample,
            "usage": usage,
            "screenshot": pa.binary(),
            "columns": text,
        }.items()
    )
    task = pa.struct({"seed": text, "options": text, "task_id": text}.items())
    return pa.schema(
        {
            "id": text,
            "env": text,
            "task": task,
            "turns": pa.list_(turn),
            "stop": text,
            "success": pa.bool_(),
            "group": text,
            "member": whole,
            "parent": text,
            "fork_turn": whole,
            "final": text,
            "final_context": sample,
            "answers": pa.list_(text),
            "evidence": pa.list_(text),
            "failure": text,
            "fingerprint": text,
            "metrics": text,
            "reward": real,
            "tool_calls": whole,
        }.items()
    )


def _row(episode: Episode) -> dict[str, Any]:
    row: dict[str, Any] = _plain(episode)
    row["task"]["seed"] = str(row["task"]["seed"])  # may be larger than 64 bits
    return row | {"reward": float(episode.reward), "tool_calls": episode.tool_calls}


def _plain(value: Any) -> Any:
    """What pyarrow takes: dataclasses as mappings, mappings inside them as JSON."""
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    if hasattr(value, "keys"):
        return json.dumps(dict(value))
    return value
