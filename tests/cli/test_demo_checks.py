"""The swarm demo's check list and audit: each item must be able to fail."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeswarm.app.cli.demo_swarm import judge, summary
from edgeswarm.app.cli.demo_timeline import Facts, Proof, Timeline, runs_of
from edgeswarm.app.cli.demo_writer import Acked, Audit, Unknown, Written, _holds, _number, audit, text_of
from edgeswarm.core.cell import commands as cmd
from edgeswarm.drivers.raft_store import RaftStore
from edgeswarm.wire.raft import Entry, EntryType, HardState

BURSTS: dict[str, float | None] = {"cpu-burst": 0.8, "memory-burst": 1.7}


def facts(**changes: Any) -> Facts:
    found: dict[str, Any] = {
        "leader": Proof("d1", 2, 3, 5),
        "forgery": "a vote is not of its voter",
        "placed": {"a": "d1", "b": "d2", "c": "d3"},
        "killed": "d1",
        "killed_led": True,
        "killed_agents": ("a",),
        "next_leader": Proof("d2", 3, 3, 5),
        "next_leader_ms": 80.0,
        "first_write_ms": 90.0,
        "moved_ms": 1200.0,
        "labels_again_ms": 2000.0,
        "back_ms": 900.0,
        "back_runs_copy": False,
        "cut_agents": ("b",),
        "cut_stopped_ms": 1000.0,
        "cut_moved_ms": 1500.0,
        "mended_ms": 30.0,
        "mended_runs_copy": False,
        "broker_listens_ms": 40.0,
        "broker_write_ms": 90.0,
        "broker_labels_ms": 200.0,
        "overlap_ms": -300.0,
        "caught_up": True,
        "written": Written([Acked(1, 9, 0.0, 0.1), Acked(2, 10, 0.1, 0.5)], [Unknown(3, 0.2, "no answer")]),
        "audit": Audit(5, (), 1, 10, differ=False, faults=()),
    }
    return Facts(**{**found, **changes})


def failed(found: Facts, causes: dict[str, float | None] = BURSTS) -> list[str]:
    return [text for ok, text in judge(found, causes) if not ok]


def test_all_that_was_seen_passes_and_the_summary_says_the_numbers() -> None:
    assert failed(facts()) == []
    text = summary(facts(), Timeline(quiet=True), judge(facts(), BURSTS))
    for part in ("verified leader 80 ms", "write 90 ms", "2 acknowledged", "longest pause 400 ms", "0 lost"):
        assert part in text
    assert "1 without an answer, 1 of them are in the log" in text
    assert "FAILED" not in text


@pytest.mark.parametrize(
    ("change", "item"),
    [
        ({"leader": Proof("d1", 2, 2, 5)}, "most voters signed"),
        ({"forgery": ""}, "forged"),
        ({"placed": {"a": "d1", "b": "d1", "c": "d3"}}, "across three devices"),
        ({"killed_led": False}, "the leader was killed"),
        ({"next_leader": Proof("d2", 2, 3, 5)}, "the leader was killed"),
        ({"next_leader": None}, "the leader was killed"),
        ({"first_write_ms": None}, "committed again"),
        ({"killed_agents": ()}, "the dead device's agents"),
        ({"moved_ms": None}, "the dead device's agents"),
        ({"labels_again_ms": None}, "the dead device's agents"),
        ({"back_ms": None}, "the dead device came back"),
        ({"back_runs_copy": True}, "the dead device came back"),
        ({"back_runs_copy": None}, "the dead device came back"),
        ({"cut_stopped_ms": None}, "cut off"),
        ({"cut_moved_ms": None}, "cut off"),
        ({"mended_runs_copy": True}, "mended"),
        ({"overlap_ms": 1.0}, "two devices at one time"),
        ({"overlap_ms": None}, "two devices at one time"),
        ({"broker_write_ms": None}, "the broker was killed"),
        ({"audit": Audit(5, (), 0, 10, differ=True, faults=())}, "sound, and the same"),
        ({"audit": Audit(4, (), 0, 10, differ=False, faults=("d5: damaged",))}, "sound, and the same"),
        ({"caught_up": False}, "sound, and the same"),
        ({"audit": Audit(5, (2,), 0, 10, differ=False, faults=())}, "nothing that was committed is lost"),
        ({"written": Written()}, "nothing that was committed is lost"),
    ],
)
def test_each_item_can_fail(change: dict[str, Any], item: str) -> None:
    [text] = failed(facts(**change))
    assert item in text
    assert "FAILED  " + text in summary(facts(**change), Timeline(quiet=True), judge(facts(**change), BURSTS))


def test_a_burst_that_was_not_flagged_fails_and_one_that_was_not_caused_is_no_item() -> None:
    assert failed(facts(), {"cpu-burst": None, "memory-burst": 1.0}) == ["the cpu-burst was flagged"]
    assert not [text for _, text in judge(facts(), {}) if "burst" in text]


def test_nothing_seen_fails_every_item() -> None:
    assert len(failed(Facts())) == len(judge(Facts(), {}))


# --- the audit --------------------------------------------------------------------------------------------------------


def entry(number: int) -> tuple[int, bytes]:
    return 2, bytes(16) + cmd.encode(cmd.Note("d1", text_of(number)))


def test_a_note_counts_only_at_the_entry_that_the_answer_named() -> None:
    log = {9: entry(1), 10: entry(2), 11: (2, b""), 12: (2, bytes(16) + cmd.encode(cmd.Noop()))}
    assert _holds(log, Acked(1, 9, 0.0, 0.0))
    assert not _holds(log, Acked(1, 10, 0.0, 0.0))
    assert not _holds(log, Acked(3, 13, 0.0, 0.0))
    assert [_number(one) for one in log.values()] == [1, 2, None, None]


async def voter(folder: Path, name: str, count: int, *, term: int = 2) -> Any:
    """What the audit knows of a device: its database, with notes 1 .. count at entries 1 .. count."""
    path = folder / name / "swarm" / "raft.db"
    path.parent.mkdir(parents=True)
    store = await RaftStore.open(path)
    entries = [Entry(term, index, EntryType.NORMAL, entry(index)[1]) for index in range(1, count + 1)]
    await store.save(HardState(term, 0, count), entries, None)
    await store.close()
    return SimpleNamespace(name=name, state=folder / name)


async def test_audit_finds_what_one_log_does_not_hold(tmp_path: Path) -> None:
    written = Written(
        [Acked(number, number, 0.0, 0.0) for number in (1, 2, 3)], [Unknown(4, 0.0, ""), Unknown(5, 0.0, "")]
    )
    whole = [await voter(tmp_path, name, 4) for name in ("d1", "d2")]
    assert audit(whole, written, 2) == Audit(2, (), 1, 4, differ=False, faults=())
    short = await voter(tmp_path, "d3", 2)
    assert audit([*whole, short], written, 3) == Audit(3, (3,), 1, 2, differ=False, faults=())
    other = await voter(tmp_path, "d4", 4, term=3)
    assert audit([*whole, other], written, 3).differ


async def test_audit_counts_nothing_as_kept_where_a_log_cannot_be_read(tmp_path: Path) -> None:
    written = Written([Acked(1, 1, 0.0, 0.0)], [])
    one = await voter(tmp_path, "d1", 1)
    damaged = await voter(tmp_path, "d2", 1)
    path = damaged.state / "swarm" / "raft.db"
    path.write_bytes(b"no database" * 1000)
    found = audit([one, damaged], written, 2)
    assert found.logs == 1 and len(found.faults) == 2
    assert audit([damaged], written, 2).lost == (1,)


# --- who ran where ----------------------------------------------------------------------------------------------------


def row(second: int, event: str, agent: str = "a") -> dict[str, Any]:
    return {"at": f"2026-11-21T02:00:{second:02d}.000Z", "event": event, "agent": agent}


def test_runs_end_with_a_stop_a_death_or_the_end() -> None:
    zero = runs_of([row(0, "cell_agent_runs")], None, 0.0)[0][1]
    rows = [
        row(1, "cell_agent_runs"),
        row(3, "cell_agent_stopped"),
        row(4, "cell_agent_runs"),
        row(9, "swarm_joined"),  # killed in between
        row(10, "cell_agent_runs", "b"),
    ]
    found = [(name, start - zero, end - zero) for name, start, end in runs_of(rows, zero + 6, zero + 20)]
    assert found == [("a", 1, 3), ("a", 4, 6), ("b", 10, 20)]


def test_the_timeline_says_what_was_not_seen(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    line = Timeline(quiet=False)
    line.since("first write", 12.3)
    line.since("labels arrive", None)
    said = capsys.readouterr().out
    assert "first write" in said and "12 ms" in said
    assert "LATE, not seen: labels arrive" in said
    assert [event.get("ms") for event in json.loads(json.dumps(line.events))] == [12.3, None]
