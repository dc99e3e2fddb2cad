"""The laws of a quota, what a volume refuses, and a file sink that keeps to its agent's disk."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.drivers import volumes
from edgeswarm.drivers.jsonl_sink import JsonlSink
from edgeswarm.drivers.quota import AGENT_DATA, AGENT_VOLUMES, Account, Quota, QuotaError
from edgeswarm.drivers.sinks import SinkSetup
from edgeswarm.drivers.volumes import Volume, VolumeError
from edgeswarm.limits import SINK_RETRY_MS, VOLUME_FILES_MAX

operations = st.lists(
    st.tuples(st.sampled_from(AGENT_VOLUMES), st.sampled_from("abc"), st.integers(0, 200), st.booleans()), max_size=60
)


@given(operations, st.integers(0, 300))
def test_what_is_used_is_the_sum_of_sizes_and_no_claim_passes_the_limit(
    done: list[tuple[str, str, int, bool]], limit: int
) -> None:
    quota, sizes = Quota("a", limit), dict[tuple[str, str], int]()
    for volume, name, size, is_claim in done:
        before = dict(sizes)
        if not is_claim:
            quota.found(volume, name, size)
            sizes[volume, name] = size
        else:
            old = sizes.get((volume, name), 0)
            try:
                quota.claim(volume, name, size)
                sizes[volume, name] = size
                assert size <= old or quota.used_bytes <= limit
            except QuotaError:
                assert size > old and sum(sizes.values()) - old + size > limit
                assert sizes == before
        assert quota.used_bytes == sum(sizes.values()) == sum(quota.volumes().values())
        assert all(quota.size(volume, name) == size for (volume, name), size in sizes.items())


def test_a_refusal_says_what_was_wanted_and_what_is_free() -> None:
    quota = Quota("agent a", 100)
    quota.claim(AGENT_DATA, "x", 70)
    with pytest.raises(QuotaError, match=r"agent a: no space left for agent_data/y: 31 bytes wanted, 30 free of 100"):
        quota.claim(AGENT_DATA, "y", 31)
    quota.limit_bytes = 10
    quota.claim(AGENT_DATA, "x", 60)  # what shrinks is never refused
    assert (quota.used_bytes, quota.refused) == (60, 1)


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    made = Volume(tmp_path / "volumes" / "a" / "agent_data", AGENT_DATA, Quota("agent a", 1000))
    made.open()
    return made


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["x", "y", "z.json"]), st.integers(-1, 500)), max_size=25))
def test_the_account_is_what_lies_on_the_disk(
    tmp_path_factory: pytest.TempPathFactory, done: list[tuple[str, int]]
) -> None:
    """After every step, and counted anew by the next start; size -1: removed."""
    folder = tmp_path_factory.mktemp("volume") / "agent_data"
    quota = Quota("agent a", 900)
    made = Volume(folder, AGENT_DATA, quota)
    made.open()
    kept: dict[str, bytes] = {}
    for name, size in done:
        if size < 0:
            made.remove(name)
            kept.pop(name, None)
        else:
            try:
                made.write(name, bytes([size % 256]) * size)
                kept[name] = bytes([size % 256]) * size
            except QuotaError:
                pass
        found = {path.name: path.stat().st_size for path in folder.iterdir()}
        assert sum(found.values()) == quota.used_bytes <= 900
        assert found == {name: len(data) for name, data in kept.items()}
    again = Quota("agent a", 900)
    Volume(folder, AGENT_DATA, again).open()
    assert again.used_bytes == quota.used_bytes
    assert {name: made.read(name) for name in made.names()} == kept


BAD_NAMES = [
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "/etc/passwd",
    "x\0",
    "-x",
    ".x",
    "x" * 101,
    "a..b",
    "x.draft",
    "é",
    "a b",
    "x\n",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_is_not_plain_is_refused(volume: Volume, name: str) -> None:
    actions: list[Callable[[], Any]] = [
        lambda: volume.write(name, b"x"),
        lambda: volume.read(name),
        lambda: volume.remove(name),
        lambda: volume.path(name),
        lambda: volumes.split(f"agent_data/{name}"),
    ]
    for action in actions:
        with pytest.raises(VolumeError, match="expected a name of letters"):
            action()
    assert volume.names() == []


def test_links_are_not_followed(volume: Volume, tmp_path: Path) -> None:
    """A link in a volume is replaced by what is written there, is not read, and counts for nothing."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"keep me")
    (volume.folder / "x").symlink_to(secret)
    (volume.folder / "x.draft").symlink_to(secret)
    with pytest.raises(OSError, match="Too many levels"):
        volume.read("x")
    volume.write("x", b"new")
    assert secret.read_bytes() == b"keep me"
    assert volume.read("x") == b"new"
    os.mkfifo(volume.folder / "pipe")
    with pytest.raises(VolumeError, match="something else"):
        volume.read("pipe")


def test_a_link_in_the_folders_place_is_refused(volume: Volume, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "x").write_bytes(b"keep me")
    volume.folder.rmdir()
    volume.folder.symlink_to(elsewhere)
    for emptied in (False, True):
        with pytest.raises(VolumeError, match="expected a folder of ours"):
            volume.open(emptied=emptied)
    with pytest.raises(VolumeError):
        volume.write("x", b"new")
    with pytest.raises(VolumeError):
        volume.remove("x")
    assert (elsewhere / "x").read_bytes() == b"keep me"


def test_past_the_quota_the_old_file_stays_and_nothing_is_begun(volume: Volume) -> None:
    volume.write("x", b"a" * 900)
    with pytest.raises(QuotaError, match="no space left for agent_data/y: 200 bytes wanted, 100 free of 1000"):
        volume.write("y", b"b" * 200)
    with pytest.raises(QuotaError):
        volume.write("x", b"c" * 1001)
    assert volume.names() == ["x"]
    assert volume.read("x") == b"a" * 900
    assert volume.quota.used_bytes == 900


def test_a_write_that_fails_leaves_the_old_file_and_its_size(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    volume.write("x", b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        volume.write("x", b"new and longer")
    assert (volume.read("x"), volume.quota.used_bytes, volume.names()) == (b"old", 3, ["x"])


def test_a_disk_that_fails_once_the_file_is_replaced_counts_what_is_there(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume.write("x", b"old")
    fsync = os.fsync

    def fails(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(5, "Input/output error")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="Input/output"):
        volume.write("x", b"new and longer")
    assert volume.quota.used_bytes == len(volume.read("x"))


def test_a_folder_in_a_volume_stops_no_start(volume: Volume) -> None:
    (volume.folder / "x.draft").mkdir()
    (volume.folder / "y").mkdir()
    volume.write("z", b"3 b")
    volume.open()
    assert (volume.names(), volume.quota.used_bytes) == (["z"], 3)


def test_what_was_half_written_is_removed_at_the_next_start(volume: Volume) -> None:
    volume.write("x", b"whole")
    (volume.folder / "x.draft").write_bytes(b"ha")
    volume.open()
    assert sorted(path.name for path in volume.folder.iterdir()) == ["x"]


def test_files_of_a_volume_are_bounded_in_number(volume: Volume) -> None:
    for number in range(VOLUME_FILES_MAX):
        (volume.folder / f"f{number}").touch()
    with pytest.raises(VolumeError, match="VOLUME_FILES_MAX"):
        volume.write("one-more", b"")


def test_a_path_in_no_volume_is_left_to_others() -> None:
    assert volumes.split("answers.jsonl") is None
    assert volumes.split("elsewhere/answers.jsonl") is None
    assert volumes.split("/agent_data/x") is None
    assert volumes.split("temp_workspace/x.jsonl") == ("temp_workspace", "x.jsonl")


class Told:
    def __init__(self) -> None:
        self.now_ns = 0
        self.events: list[str] = []

    def on_event(self, event: str, /, **fields: object) -> None:
        self.events.append(f"{event} {fields.get('kind', '')}".strip())

    def sink(self, path: Path, quota: Quota, *, rotate_bytes: int = 10_000, keep: int = 2) -> JsonlSink:
        setup = SinkSetup("a", self.on_event, lambda: self.now_ns)
        account = Account(quota, AGENT_DATA, f"{path.parent}/")
        return JsonlSink(setup, path=path, rotate_bytes=rotate_bytes, keep=keep, account=account)


def test_a_file_sink_stops_at_its_quota_with_whole_lines_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    told, quota, path = Told(), Quota("agent a", 100), tmp_path / "out.jsonl"
    sink = told.sink(path, quota)
    for number in range(20):
        sink.write({"n": number})  # 8 or 9 bytes each
        told.now_ns += int(SINK_RETRY_MS * 1e6)
    lines = path.read_bytes().splitlines(keepends=True)
    assert all(json.loads(line) == {"n": index} for index, line in enumerate(lines))
    assert path.stat().st_size == quota.used_bytes <= 100 < quota.used_bytes + 9
    counts = sink.counts()
    assert counts["waiting"] == 20 - len(lines)
    assert "sink_failed quota" in told.events
    quota.limit_bytes = 1000
    told.now_ns += int(SINK_RETRY_MS * 1e6)
    sink.write({"n": 20})
    assert len(path.read_bytes().splitlines()) == 21
    assert path.stat().st_size == quota.used_bytes
    sink.close()


def test_a_line_longer_than_one_write_is_begun_only_if_all_of_it_fits(tmp_path: Path) -> None:
    told, quota, path = Told(), Quota("agent a", 100_000), tmp_path / "out.jsonl"
    sink = told.sink(path, quota, rotate_bytes=1_000_000)
    sink.write({"x": "a" * 90_000})
    sink.write({"x": "b" * 90_000})
    assert path.read_bytes().count(b"\n") == 1
    assert path.stat().st_size == quota.used_bytes == 90_009
    sink.close()


@given(st.lists(st.integers(1, 80), max_size=40), st.integers(50, 600), st.integers(0, 3))
def test_the_account_of_a_sink_is_what_its_files_take(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], limit: int, keep: int
) -> None:
    """Through rotations, and counted anew by the next sink; never above the quota."""
    told, quota = Told(), Quota("agent a", limit)
    path = tmp_path_factory.mktemp("sink") / "out.jsonl"
    sink = told.sink(path, quota, rotate_bytes=120, keep=keep)

    def on_disk() -> int:
        return sum(file.stat().st_size for file in path.parent.iterdir())

    for size in sizes:
        sink.write({"x": "y" * size})
        told.now_ns += int(SINK_RETRY_MS * 1e6)
        assert on_disk() == quota.used_bytes <= limit
    sink.close()
    again = Quota("agent a", limit)
    told.sink(path, again, rotate_bytes=120, keep=keep).close()
    assert again.used_bytes == on_disk()
