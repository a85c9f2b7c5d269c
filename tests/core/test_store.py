from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgym.errors import StoreError
from agentgym.records import Episode, Sample, StopReason, Task, ToolCall, Turn, Usage
from agentgym.store import EpisodeWriter, JsonLines, RunFolder, atomic_write, decode, encode, read_episodes

TEXT = st.text(st.characters(), max_size=8)  # lone surrogates included
FLOAT = st.floats(allow_nan=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOAT | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
ARGUMENTS = st.dictionaries(TEXT, JSON, max_size=3)
CALL = st.builds(ToolCall, TEXT, ARGUMENTS, TEXT, st.none() | TEXT, FLOAT, FLOAT)
IDS = st.lists(st.integers(0, 1 << 20), max_size=4).map(tuple)
FLOATS = st.lists(FLOAT, max_size=4).map(tuple)
SETS = st.lists(IDS, max_size=3).map(tuple)
SAMPLE = st.builds(Sample, st.integers(0, 9), IDS, IDS, FLOATS, FLOATS, st.integers(0, 9), SETS)
USAGE = st.builds(Usage, st.integers(0, 9), st.integers(0, 9), FLOAT, FLOAT, FLOAT, FLOAT)
TURN = st.builds(
    Turn,
    TEXT,
    TEXT,
    FLOAT,
    st.none() | TEXT,
    st.none() | TEXT,
    st.lists(CALL, max_size=2).map(tuple),
    st.none() | SAMPLE,
    USAGE,
    columns=st.dictionaries(TEXT, FLOAT | TEXT, max_size=2),
)
EPISODE = st.builds(
    Episode,
    TEXT,
    TEXT,
    st.builds(Task, st.integers(0, 1 << 130), ARGUMENTS, TEXT),
    st.lists(TURN, max_size=3).map(tuple),
    st.sampled_from(StopReason),
    success=st.sampled_from([None, True, False]),
    group=TEXT,
    member=st.integers(0, 99),
    parent=st.none() | TEXT,
    fork_turn=st.none() | st.integers(0, 99),
    final=TEXT,
    final_context=st.none() | SAMPLE,
    answers=st.lists(TEXT, max_size=2).map(tuple),
    evidence=st.lists(TEXT, max_size=2).map(tuple),
    failure=st.none() | TEXT,
    fingerprint=TEXT,
    metrics=st.dictionaries(TEXT, FLOAT, max_size=2),
)


def episode(number: int = 0, **changes: object) -> Episode:
    turns = (Turn("door\nclosed", "open é\u2028\x00", 0.1 + 0.2, "a1"), Turn("", "", -0.0))
    return replace(
        Episode(f"g/{number}", "t/T-v0", Task(number), turns, StopReason.TERMINATED, success=True), **changes
    )


@settings(max_examples=150, deadline=None)
@given(EPISODE)
def test_an_episode_comes_back_as_it_was(written: Episode) -> None:
    line = encode(written)
    assert line.count(b"\n") == 1
    read = decode(line)
    # repr also tells -0.0 from 0.0, tuple from list, and shows the seconds that == leaves out
    assert repr(read) == repr(written)
    assert read == written


def test_what_strict_json_cannot_hold_comes_back_too() -> None:
    odd = episode(
        turns=(
            Turn("\ud83d\ude00 as two surrogates", "\udc80", math.inf),
            Turn("", "", math.nan, sample=Sample(0, (1,), (2, 3), (-math.inf, -1e-300), (math.nan, 0.0))),
            Turn("", "", tool_calls=(ToolCall("t", {"n": 1 << 70, "x": [math.inf]}, seconds=math.inf),)),
        )
    )
    assert encode(odd).startswith(b"!")
    assert repr(decode(encode(odd))) == repr(odd)


def test_an_ordinary_episode_is_ordinary_json() -> None:
    assert orjson.loads(encode(episode()))["turns"][0]["reward"] == 0.30000000000000004


def test_numpy_scalars_are_written_as_numbers() -> None:
    read = decode(encode(episode(turns=(Turn("", "", np.float64(0.1)), Turn("", "", np.float32(0.5))))))
    assert [t.reward for t in read.turns] == [0.1, 0.5]


@pytest.mark.parametrize("options", [{"x": object()}, {1: "a"}, {"x": [{(1, 2): 3}]}, {"x": {1, 2}}])
def test_what_is_not_json_is_refused_with_the_episode(options: dict[object, object]) -> None:
    with pytest.raises(StoreError, match=r"episode 'g/0' cannot be stored: .*; keep JSON values in it"):
        encode(episode(task=Task(0, options)))


@pytest.mark.parametrize("line", [b"[]", b"{}", b"nonsense", b'{"task": {"seed": 0, "hat": 1}}', b"!\xff", b""])
def test_a_line_that_is_no_episode_is_refused(line: bytes) -> None:
    with pytest.raises(StoreError, match="not an episode record"):
        decode(line)


def test_each_flush_is_one_frame_and_episodes_come_in_order(tmp_path: Path) -> None:
    path = tmp_path / "episodes-a.jsonl.zst"
    with EpisodeWriter(path) as writer:
        assert writer.position == 0
        positions = []
        for number in range(4):
            writer.append(episode(number))
            positions.append(writer.flush())
        writer.append(episode(4))
    assert positions == sorted(set(positions))
    assert path.stat().st_size > positions[-1]
    assert [e.task.seed for e in read_episodes(path)] == [0, 1, 2, 3, 4]


def test_a_crash_at_any_byte_loses_only_the_frame_being_written(tmp_path: Path) -> None:
    path = tmp_path / "episodes-a.jsonl.zst"
    with EpisodeWriter(path) as writer:
        ends = [0]
        for number in range(3):
            writer.append(episode(number))
            ends.append(writer.flush())
    whole = path.read_bytes()
    torn = tmp_path / "episodes-torn.jsonl.zst"
    for size in range(len(whole)):
        torn.write_bytes(whole[:size])
        complete = sum(end <= size for end in ends) - 1
        assert [e.task.seed for e in read_episodes(torn)] == list(range(complete))
        if size % 7 == 0:  # and it can be continued
            with EpisodeWriter(torn) as writer:
                assert writer.position == ends[complete]
                writer.append(episode(9))
            assert [e.task.seed for e in read_episodes(torn)] == [*range(complete), 9]


def test_a_resumed_writer_cuts_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "episodes-a.jsonl.zst"
    with EpisodeWriter(path) as writer:
        writer.append(episode(0))
        kept = writer.flush()
        writer.append(episode(1))
    with EpisodeWriter(path, at=kept) as writer:
        writer.append(episode(2))
    assert [e.task.seed for e in read_episodes(path)] == [0, 2]
    end = path.stat().st_size
    with pytest.raises(
        StoreError, match=rf"cannot be continued at byte {kept + 1}: its last whole frame ends at {end}"
    ):
        EpisodeWriter(path, at=kept + 1)
    assert [e.task.seed for e in read_episodes(path)] == [0, 2]  # refusing changed nothing


def test_a_large_episode_is_flushed_without_being_asked(tmp_path: Path) -> None:
    path = tmp_path / "episodes-a.jsonl.zst"
    writer = EpisodeWriter(path)
    writer.append(episode(turns=(Turn("x" * (9 << 20), ""),)))
    assert writer.position > 0
    assert len(next(read_episodes(path)).turns[0].observation) == 9 << 20
    writer.close()
    writer.close()


def test_there_is_one_writer_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "episodes-a.jsonl.zst"
    with EpisodeWriter(path) as writer:
        writer.append(episode(1))
        writer.flush()
        with pytest.raises(StoreError, match="is being written by another process; wait for its end or stop it"):
            EpisodeWriter(path)
    with EpisodeWriter(path) as writer:
        writer.append(episode(2))
    assert len(list(read_episodes(path))) == 2
    run = RunFolder.create(tmp_path / "run", {})
    with run.alone(), pytest.raises(StoreError, match="run is being written by another process"), run.alone():
        pass
    with run.alone():
        pass


def test_a_damaged_or_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "episodes-a.jsonl.zst"
    with EpisodeWriter(path) as writer:
        for number in range(2):
            writer.append(episode(number))
            writer.flush()
    content = bytearray(path.read_bytes())
    content[len(content) // 4] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(StoreError, match="is damaged after byte 0"):
        list(read_episodes(path))
    path.write_text("hello, this is some other file")
    with pytest.raises(StoreError, match="no episode file"):
        EpisodeWriter(path)
    with pytest.raises(StoreError, match="does not exist; give a run folder"):
        list(read_episodes(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="holds no episodes"):
        list(read_episodes(tmp_path / "empty"))


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    atomic_write(path, "old é")
    with pytest.raises(UnicodeEncodeError):
        atomic_write(path, "\ud800")
    assert path.read_text() == "old é"
    atomic_write(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_json_lines_are_cut_to_what_was_saved_and_survive_a_torn_line(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "metrics.jsonl")
    assert lines.read() == []
    assert lines.saved() == 0
    lines.cut(0)  # nothing there, nothing to do
    for update in range(2):
        lines.append({"update": update, "loss": np.float32(0.5), "bad": math.nan})
    saved = lines.saved()
    assert saved == lines.path.stat().st_size
    lines.append({"update": 2})
    with lines.path.open("ab") as file:
        file.write(b'{"update": 4, "lo')
    assert [r["update"] for r in lines.read()] == [0, 1, 2]
    again = JsonLines(lines.path)
    again.append({"update": 5})
    assert again.read()[-2:] == [{"update": 2}, {"update": 5}]
    with lines.path.open("ab") as file:
        file.write(b"\0\0\n" + b"\0" * 100)  # a power cut
    again.cut(saved)
    assert again.read() == [{"update": update, "loss": 0.5, "bad": None} for update in range(2)]
    with pytest.raises(StoreError, match=rf"metrics.jsonl has {saved} bytes, but had {saved + 1} when .*put the file"):
        again.cut(saved + 1)
    assert len(again.read()) == 2


@pytest.mark.parametrize(("line", "said"), [("{", "line 2 is damaged"), ("[1]", "line 2 is not a JSON object")])
def test_a_damaged_json_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"update": 0}}\n{line}\n')
    with pytest.raises(StoreError, match=said):
        JsonLines(path).read()


def test_a_run_folder_is_made_once_and_opened_again(tmp_path: Path) -> None:
    config = {"algorithm": "gigpo", "optimizer": {"lr": 3e-5}, "name": "é", "nested": {"a": [1, None, True]}}
    run = RunFolder.create(tmp_path / "runs" / "a", config)
    with run.writer() as writer:
        writer.append(episode(1))
    with run.writer("test") as writer:
        writer.append(episode(2))
    again = RunFolder(run.path)
    assert again.config == config
    assert [e.task.seed for e in again.episodes()] == [2, 1]  # test before train
    assert [e.task.seed for e in again.episodes("train")] == [1]
    assert [e.task.seed for e in read_episodes(run.path)] == [2, 1]
    with pytest.raises(StoreError, match="already holds a run; continue it with --resume"):
        RunFolder.create(run.path, config)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"it has no run\.yaml"):
        RunFolder(tmp_path)
    with pytest.raises(StoreError, match="is not a folder"):
        RunFolder(tmp_path / "nowhere")
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(StoreError, match="exists and is not a run folder"):
        RunFolder.create(tmp_path, {})
    for content in ("a: [", "- a list"):
        (tmp_path / "run.yaml").write_text(content)
        with pytest.raises(StoreError, match=r"run\.yaml is damaged"):
            RunFolder(tmp_path)
