"""What crashes, power cuts, full disks and strange hands do to a run's folder, and what is made of it."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import zstandard

from agentgym.errors import DiskFull, StoreError
from agentgym.records import Episode, StopReason, Task, Turn
from agentgym.store import EpisodeWriter, JsonLines, RunFolder, atomic_write, read_episodes
from agentgym.store.episodes import decode, encode
from agentgym.store.files import writing


def episode(number: int, text: str = "") -> Episode:
    return Episode(
        f"g/{number}", "t/T-v0", Task(number), (Turn(text, "open", 0.5),), StopReason.TERMINATED, success=True
    )


def seeds(path: Path) -> list[int]:
    return [e.task.seed for e in read_episodes(path)]


def with_episodes(path: Path, count: int) -> list[int]:
    """A file of so many frames; where each of them ends."""
    with EpisodeWriter(path) as writer:
        ends = [0]
        for number in range(count):
            writer.append(episode(number))
            ends.append(writer.flush())
    return ends


@contextlib.contextmanager
def disk_of(size: int) -> Iterator[None]:
    """No file may grow beyond this: to a program the same as a full disk, at a moment that can be chosen."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# Checkpoints ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """With the checkpoints 2, 4 and 6."""
    run = RunFolder.create(tmp_path / "run", {})
    for update in (2, 4, 6):
        with run.checkpoint(update) as folder:
            (folder / "trainer.pt").write_bytes(bytes(range(256)) * update)
            (folder / "base").mkdir()
            (folder / "base" / "weights").write_text(str(update))
    return run


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {})
    with pytest.raises(StoreError, match=r"run has no checkpoint$"):
        run.latest_checkpoint()
    for update in (2, 10):
        with run.checkpoint(update) as folder:
            (folder / "state").write_text(str(update))
            assert update not in run.checkpoints()
    with pytest.raises(FileNotFoundError), run.checkpoint(11) as folder:
        (folder / "state").write_text((folder / "nowhere").read_text())
    assert list(run.checkpoints()) == [2, 10]
    with run.checkpoint(10) as folder:
        (folder / "state").write_text("again")
    update, path = run.latest_checkpoint()
    assert (update, (path / "state").read_text()) == (10, "again")
    assert sorted(p.name for p in run.saved.path.iterdir()) == ["update-000002", "update-000010"]


def test_what_a_kill_left_unfinished_is_not_in_the_next_checkpoint(run: RunFolder) -> None:
    left = run.saved.path / ".update-000008.tmp"
    left.mkdir()
    (left / "older").write_text("half")
    assert 8 not in run.checkpoints()
    with run.checkpoint(8) as folder:
        (folder / "state").write_text("whole")
    assert sorted(path.name for path in run.saved.folder(8).iterdir()) == ["SHA256SUMS", "state"]


def test_checksums_are_those_of_sha256sum(run: RunFolder) -> None:
    _, path = run.latest_checkpoint()
    told = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=path, capture_output=True, text=True, check=True)
    assert told.stdout.splitlines() == ["base/weights: OK", "trainer.pt: OK"]


def flip(file: Path, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda p: (p / "trainer.pt").write_bytes(b""), "trainer.pt is empty"),
        (lambda p: os.truncate(p / "trainer.pt", 700), "trainer.pt is not what was written"),
        (lambda p: flip(p / "trainer.pt", 4567), "trainer.pt is not what was written"),
        (lambda p: flip(p / "base" / "weights", 0), "base/weights is not what was written"),
        (lambda p: (p / "base" / "weights").unlink(), "base/weights is missing"),
        (lambda p: (p / "SHA256SUMS").unlink(), "SHA256SUMS is missing"),
        (lambda p: (p / "SHA256SUMS").write_text(""), "SHA256SUMS is empty"),
        (lambda p: (p / "SHA256SUMS").write_bytes(b"\xff\xfe"), "SHA256SUMS is not text"),
        (lambda p: (p / "SHA256SUMS").write_text("abc\n"), "SHA256SUMS holds the line 'abc'"),
        (lambda p: [shutil.rmtree(p), p.touch()], "it is not a folder"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # a function is shown by its address, which differs
)
def test_a_damaged_checkpoint_is_named_and_the_older_one_offered(run: RunFolder, harm, said: str) -> None:
    older = run.checkpoints()[4]
    harm(run.checkpoints()[6])
    with pytest.raises(StoreError) as caught:
        run.latest_checkpoint()
    assert str(caught.value) == (
        f"the checkpoint {run.path}/checkpoints/update-000006 is damaged: {said}; "
        "delete that folder and update-000004, which is whole, is the newest"
    )
    flip(older / "trainer.pt", 9)
    with pytest.raises(StoreError, match="delete that folder and update-000002, which is whole, is the newest"):
        run.latest_checkpoint()
    flip(run.checkpoints()[2] / "trainer.pt", 9)
    with pytest.raises(StoreError, match=r"; no other is whole$"):
        run.latest_checkpoint()
    flip(older / "trainer.pt", 9)  # back
    path = run.checkpoints()[6]
    path.unlink() if path.is_file() else shutil.rmtree(path)
    assert run.latest_checkpoint() == (4, older)


def test_other_names_are_no_checkpoints(run: RunFolder) -> None:
    folder = run.saved.path
    for name in ("update-000004.copy", "update-8", "update-x", "update-0000008 (2)", "notes", "update-０00008"):
        (folder / name).mkdir()
    (folder / ".hidden").touch()
    assert list(run.checkpoints()) == [2, 4, 6]
    assert [path.name for path in run.saved.odd()] == sorted(
        ["update-000004.copy", "update-8", "update-x", "update-0000008 (2)", "notes", "update-０00008"]
    )
    assert run.latest_checkpoint()[0] == 6
    run.saved.prune(1)
    assert len(run.saved.odd()) == 6  # not ours to delete
    shutil.rmtree(folder / "update-000006")
    with pytest.raises(StoreError, match=r"run has no checkpoint; .* is not named like one \(update-000003\)"):
        run.latest_checkpoint()


def test_pruning_never_leaves_half_a_checkpoint_under_its_name(run: RunFolder, monkeypatch) -> None:
    """Killed anywhere in it, what is still named like a checkpoint is whole."""
    done = []

    def killed(path: Path, **_: object) -> None:
        done.append(path)
        next(Path(path).rglob("weights")).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda path, **o: killed(path, **o) if Path(path).exists() else None)
        with pytest.raises(KeyboardInterrupt):
            run.saved.prune(1)
    assert done
    assert list(run.checkpoints()) == [4, 6]
    run.saved.prune(1)
    assert [path.name for path in run.saved.path.iterdir()] == ["update-000006"]


# Episodes -------------------------------------------------------------------------------------------------------------

RUBBISH = {"zeros": b"\0" * 5000, "one zero": b"\0" * 8, "text": b"hello, this is something else" * 9}


@pytest.mark.parametrize("rubbish", RUBBISH.values(), ids=RUBBISH)
@pytest.mark.parametrize("resumed", [False, True])
def test_rubbish_behind_the_last_frame_is_cut_and_kept_aside(tmp_path: Path, rubbish: bytes, resumed: bool) -> None:
    path = tmp_path / "episodes-a.jsonl.zst"
    ends = with_episodes(path, 3)
    whole = path.read_bytes()
    path.write_bytes(whole + rubbish)
    with pytest.warns(UserWarning, match=rf"what stands behind byte {ends[3]} is not episodes and is left out"):
        assert seeds(path) == [0, 1, 2]
    said = rf"{path.name}: behind its last whole frame stood {len(rubbish)} bytes .* moved to {path.name}.damaged-1"
    with pytest.warns(UserWarning, match=said), EpisodeWriter(path, at=ends[2] if resumed else None) as writer:
        writer.append(episode(9))
    assert seeds(path) == ([0, 1, 9] if resumed else [0, 1, 2, 9])
    assert (tmp_path / f"{path.name}.damaged-1").read_bytes() == rubbish
    path.write_bytes(path.read_bytes() + rubbish)
    with pytest.warns(UserWarning, match="damaged-2"):
        EpisodeWriter(path).close()
    assert (tmp_path / f"{path.name}.damaged-2").read_bytes() == rubbish
    assert [p.name for p in tmp_path.glob("episodes-*.jsonl.zst")] == [path.name]


def test_zeros_where_nothing_was_ever_written_are_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "episodes-a.jsonl.zst"
    path.write_bytes(b"\0" * 64)
    with pytest.warns(UserWarning, match="damaged-1"), EpisodeWriter(path) as writer:
        writer.append(episode(1))
    assert seeds(path) == [1]


def test_a_bit_that_flipped_in_the_last_frame_costs_only_that_frame(tmp_path: Path) -> None:
    path = tmp_path / "episodes-a.jsonl.zst"
    ends = with_episodes(path, 3)
    flip(path, 8 * (ends[2] + 20))
    with pytest.warns(UserWarning, match=f"behind byte {ends[2]}"):
        assert seeds(path) == [0, 1]
    with pytest.warns(UserWarning, match="moved to"), EpisodeWriter(path) as writer:
        assert writer.position == ends[2]


def test_whole_frames_behind_damage_are_never_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "episodes-a.jsonl.zst"
    ends = with_episodes(path, 3)
    flip(path, 8 * (ends[1] + 20))
    before = path.read_bytes()
    with pytest.raises(StoreError, match=rf"is damaged after byte {ends[1]}"):
        EpisodeWriter(path)
    with pytest.raises(StoreError, match=rf"cannot be continued at byte {ends[3]}: its last whole frame ends at"):
        EpisodeWriter(path, at=ends[3])
    with pytest.raises(StoreError, match=rf"is damaged after byte {ends[1]}"):
        seeds(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


# A full disk ----------------------------------------------------------------------------------------------------------

ROOM = r"cannot be written: File too large; make room: what was saved before is whole$"


def test_a_full_disk_is_one_line_and_loses_no_episode(tmp_path: Path) -> None:
    path = tmp_path / "episodes-a.jsonl.zst"
    noise = os.urandom(3000).hex()
    writer = EpisodeWriter(path)
    writer.append(episode(0))
    kept = writer.flush()
    writer.append(episode(1, noise))
    with disk_of(kept + 1000), pytest.raises(DiskFull, match=rf"{path.name} {ROOM}"):
        writer.flush()
    assert path.stat().st_size == kept  # no half frame that a later one would follow
    writer.append(episode(2))
    writer.close()
    assert seeds(path) == [0, 1, 2]
    writer = EpisodeWriter(path)
    writer.append(episode(3))
    with disk_of(kept), pytest.raises(DiskFull):
        writer.close()
    with EpisodeWriter(path) as writer:  # closed all the same: the lock is free
        assert writer.position == path.stat().st_size


def test_lines_that_found_no_room_leave_no_half(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "metrics.jsonl")
    lines.append({"update": 1})
    with disk_of(lines.path.stat().st_size + 4), pytest.raises(DiskFull, match=rf"metrics.jsonl {ROOM}"):
        lines.append({"update": 2, "loss": 0.5})
    lines.append({"update": 3})
    assert [line["update"] for line in lines.read()] == [1, 3]


def test_a_checkpoint_that_found_no_room_is_not_there(run: RunFolder) -> None:
    with disk_of(100), pytest.raises(DiskFull, match=rf"update-000008 {ROOM}"), run.checkpoint(8) as folder:
        (folder / "trainer.pt").write_bytes(b"x" * 200)
    assert [path.name for path in sorted(run.saved.path.iterdir())] == [f"update-00000{n}" for n in (2, 4, 6)]


def test_a_run_that_found_no_room_blocks_no_name(tmp_path: Path) -> None:
    with disk_of(4), pytest.raises(DiskFull, match=rf"run\.yaml {ROOM}"):
        RunFolder.create(tmp_path / "runs" / "a", {"algorithm": "grpo"})
    RunFolder.create(tmp_path / "runs" / "a", {})
    atomic_write(tmp_path / "x", "old")
    with disk_of(2), pytest.raises(DiskFull):
        atomic_write(tmp_path / "x", "longer")
    assert (tmp_path / "x").read_text() == "old"


@pytest.mark.parametrize("number", [28, 122, 27])
def test_libraries_have_words_of_their_own_for_a_full_disk(number: int) -> None:
    with pytest.raises(DiskFull, match=r"^model cannot be written: "), writing("model"):
        raise RuntimeError(f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})")

    def as_torch_does() -> None:
        try:
            raise OSError(number, os.strerror(number))
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904

    with pytest.raises(DiskFull), writing("model"):
        as_torch_does()
    with pytest.raises(RuntimeError, match="something else"), writing("model"):
        raise RuntimeError("something else (os error 2)")


def test_the_lock_outlives_a_run_file_that_is_replaced(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {"updates": 3})
    with run.alone():
        run.rewrite({"updates": 5})
        with pytest.raises(StoreError, match="is being written by another process"), RunFolder(run.path).alone():
            pass
    assert RunFolder(run.path).config == run.config == {"updates": 5}


# Strange hands --------------------------------------------------------------------------------------------------------


def bomb(size: int) -> bytes:
    """A frame of so many zeros, in a few bytes."""
    compressor = zstandard.ZstdCompressor(level=1, write_checksum=True).compressobj()
    block = b"\0" * (1 << 20)
    return b"".join([*(compressor.compress(block) for _ in range(size >> 20)), compressor.flush()])


@contextlib.contextmanager
def memory(more: int) -> Iterator[None]:
    """At most so many bytes of address space beyond what is there now."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("first", [0, 2])
def test_a_small_file_that_unpacks_to_gigabytes_is_refused(tmp_path: Path, first: int) -> None:
    path = tmp_path / "episodes-x.jsonl.zst"
    with_episodes(path, first) if first else path.touch()
    path.write_bytes(path.read_bytes() + bomb(2 << 30))
    assert path.stat().st_size < 1_000_000
    message = r"episodes-x\.jsonl\.zst is no episode file: the frame at byte \d+ unpacks to more than 256 MiB$"
    with memory(1 << 30):
        with pytest.raises(StoreError, match=message):
            seeds(path)
        with pytest.raises(StoreError, match=message):
            EpisodeWriter(path)


def test_a_damaged_file_with_a_bomb_behind_the_damage_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "episodes-x.jsonl.zst"
    with_episodes(path, 1)
    path.write_bytes(path.read_bytes() + b"damage" + bomb(2 << 30))
    with memory(1 << 30), pytest.raises(StoreError, match="is damaged after byte"):
        seeds(path)


def test_an_episode_that_could_not_be_read_again_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentgym.store.episodes.MOST_UNPACKED", (8 << 20) + 1000)
    with EpisodeWriter(tmp_path / "episodes-x.jsonl.zst") as writer:
        with pytest.raises(StoreError, match=r"episode 'g/1' has \d+ bytes; an episode has at most"):
            writer.append(episode(1, "x" * 1000))
        writer.append(episode(2))
    assert seeds(tmp_path / "episodes-x.jsonl.zst") == [2]


RECORD = {
    "id": "a",
    "env": "t/T-v0",
    "task": {"seed": 3},
    "turns": [
        {
            "observation": "x",
            "action": "y",
            "reward": 1,
            "tool_calls": [{"name": "f"}],
            "sample": {"keep": 0, "context": [1], "action": [2], "logprobs": [-1.0]},
            "usage": {},
        }
    ],
    "stop": "terminated",
    "answers": ["a"],
    "metrics": {"m": 1.0},
}


def places(value: object, path: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, key))


def test_any_value_in_any_place_of_a_record_is_an_episode_or_one_line() -> None:
    assert decode(json.dumps(RECORD).encode()).task.seed == 3
    refused = 0
    for path in places(RECORD):
        for value in (None, True, -1, 0.5, "x", [], [None], ["x"], [-1], {}, {"a": []}, {"a": 1}, [[1]], 2**40):
            whole = copy.deepcopy({"": RECORD})
            holder, key = whole, ""
            for step in path:
                holder, key = holder[key], step  # type: ignore[assignment,index]
            holder[key] = value  # type: ignore[assignment]
            try:
                read = decode(json.dumps(whole[""]).encode())
            except StoreError as error:
                refused += "\n" not in str(error)
                continue
            assert decode(encode(read)) == read
            assert isinstance(read.reward, int | float)
            assert all(isinstance(text, str) for t in read.turns for text in (t.observation, t.action))
            assert all(type(i) is int for t in read.turns if t.sample for i in (*t.sample.context, *t.sample.action))
    assert refused > 150


@pytest.mark.parametrize("line", [b"[" * 100_000, b"!" + b"[" * 100_000, b"!" + b'{"a":' * 100_000, b"!\xff", b"null"])
def test_lines_that_are_no_records(line: bytes) -> None:
    with pytest.raises(StoreError, match="not an episode record"):
        decode(line)


def test_what_is_written_does_not_follow_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that lies where a temporary file would be made, or a lock, leads nowhere."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    folder = RunFolder.create(tmp_path / "run", {"env": "t"})
    monkeypatch.setattr("secrets.token_hex", lambda count: "guessed")
    (folder.path / f".run.yaml.{os.getpid()}.tmp").symlink_to(victim)
    (folder.path / ".run.yaml.guessed.tmp").symlink_to(victim)
    with contextlib.suppress(FileExistsError):
        folder.rewrite({"env": "u"})
    (folder.path / ".lock").unlink(missing_ok=True)
    (folder.path / ".lock").symlink_to(victim)
    with pytest.raises(StoreError, match=r"\.lock is a link; a run folder has files of its own"), folder.alone():
        pass
    checkpoints = folder.path / "checkpoints"
    checkpoints.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (checkpoints / ".update-000001.tmp").symlink_to(tmp_path / "elsewhere")
    with folder.checkpoint(1) as path:
        (path / "weights").write_text("w")
    assert victim.read_text() == "mine"
    assert not list((tmp_path / "elsewhere").iterdir())
    assert list(folder.checkpoints()) == [1]


def test_a_run_folder_is_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folder = RunFolder.create(tmp_path / "runs" / "run", {"env": "t"})
    finally:
        os.umask(before)
    assert folder.path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[" * 5_000, "it is nested too deeply|while parsing|maximum recursion"),
        (
            "a: &a [1, 1]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in pairwise("abcdefghijklmnopqrstuvwxyz")),
            "values",
        ),
        ("x: " + "y" * 4_000_000, "it has more than 4000000 bytes"),
        ("\x00", "unacceptable character"),
    ],
    ids=["deep", "aliases", "long", "binary"],
)
def test_a_run_yaml_that_stands_for_too_much(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "run.yaml").write_text(content)
    with pytest.raises(StoreError, match=rf"run\.yaml is damaged: .*({reason})") as refused:
        RunFolder(tmp_path)
    assert "\n" not in str(refused.value)
