"""The fleet's index on disk: the same devices as the selector says, pages without gaps, bounds, files set aside."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fleet_index import NOW, heard_row, member_row
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeswarm.app.fleet import index_read, index_store, index_tables
from edgeswarm.app.fleet.index_rows import AlertRow, Batch, EventRow, clean
from edgeswarm.app.fleet.index_store import Store
from edgeswarm.core.selector import Device, parse
from edgeswarm.errors import LocalError, RemoteError

WORDS = ("a", "ab", "b", "hall-3", "rpi-5", "A?", "[a]", "*", "", "ä%_")
GRANTS = ("tool:a", "tool:*", "tool:ab@fuse", "*", "deploy", "deploy@score", "tool:*@fuse", "")
names = st.sampled_from(("a", "ab", "fuse", "score"))
devices = st.builds(
    Device,
    st.just(""),
    st.sampled_from(("worker", "reader", "coordinator")),
    st.just("online"),
    st.sampled_from(("A", "B", "C")),
    st.sampled_from(WORDS),
    st.sampled_from(("x86_64", "aarch64")),
    st.sampled_from(WORDS),
    st.dictionaries(st.sampled_from(("site", "line", "role")), st.sampled_from(WORDS), max_size=2).map(
        lambda found: tuple(sorted(found.items()))
    ),
    st.sets(names, max_size=2).map(lambda found: tuple(sorted(found))),
    st.sets(names, max_size=1).map(tuple),
    st.sets(st.sampled_from(GRANTS), max_size=3).map(lambda found: tuple(sorted(found))),
    st.sets(names, max_size=2).map(lambda found: tuple(sorted(found))),
)
globs = st.one_of(
    st.sampled_from(("a", "a*", "*b", "?", "*", "hall-?", "r*-*", "fuse")), st.sampled_from(WORDS).map('"{}"'.format)
)
terms = st.builds(
    lambda negated, text: ("!" if negated else "") + text,
    st.booleans(),
    st.one_of(
        st.builds("{}={}".format, st.sampled_from(("id", "profile", "arch", "software", "site", "label:role")), globs),
        st.builds("{}!={}".format, st.sampled_from(("profile", "site")), globs),
        st.builds("{} in ({},{})".format, st.sampled_from(("profile", "site", "software")), globs, globs),
        st.builds("tier{}{}".format, st.sampled_from(("<", "<=", ">", ">=", "=")), st.sampled_from("ABC")),
        st.builds("role={}".format, st.sampled_from(("worker", "re*"))),
        st.builds("has:{}".format, globs),
        st.builds("agent:{}".format, globs),
        st.sampled_from(
            ("may:tool:a", "may:tool:ab", "may:tool:ab@fuse", "may:deploy@score", "may:deploy", "may:revoke@fuse")
        ),
        st.builds("percent={}".format, st.integers(0, 100)),
        st.sampled_from(("label:site", "label:role", "state=online", "state=never")),
    ),
)
selectors = st.lists(st.lists(terms, min_size=1, max_size=3).map(",".join), min_size=1, max_size=3).map("|".join)


def fill(store: Store, found: list[Device]) -> None:
    batch = Batch(
        members={one.id: member_row(one.id, one.role, one.grants) for one in found},
        labels={one.id: tuple(f"{key}={value}" for key, value in one.labels) for one in found},
        heard={one.id: heard_row(one) for one in found},
    )
    store.write(batch, now_s=NOW)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "fleet.db")
    yield made
    made.close()


def ask(store: Store, work: Any, *args: Any, **kwargs: Any) -> Any:
    with store.connection.begin():
        return work(store.connection, *args, **kwargs)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(devices, min_size=1, max_size=8), st.lists(selectors, min_size=1, max_size=6), st.text("xy", max_size=3)
)
def test_sql_picks_the_devices_that_the_selector_matches(
    store: Store, found: list[Device], texts: list[str], seed: str
) -> None:
    found = [replace(one, id=f"d{at}") for at, one in enumerate(found)]
    fill(store, found)
    for text in texts:
        selector = parse(text)
        expected = [one.id for one in found if selector.matches(one, seed=seed)]
        assert ask(store, index_read.ids, selector, seed=seed) == expected, text


@pytest.mark.parametrize("sort", index_read.SORTS)
@pytest.mark.parametrize("descending", [False, True])
def test_pages_hold_every_device_once_in_any_order(store: Store, sort: str, descending: bool) -> None:
    found = [
        Device(f"d{at:02}", "worker" if at % 3 else "reader", tier="ABC"[at % 3], agents=("a",) * (at % 2))
        for at in range(25)
    ]
    fill(store, found)
    rows: list[list[Any]] = []
    cursor, pages = "", 0
    while pages == 0 or cursor:
        page = ask(store, index_read.page, parse("all"), sort=sort, descending=descending, limit=7, cursor=cursor)
        rows += page["rows"]
        cursor, pages = page["next"], pages + 1
        assert ("states" in page) == (pages == 1)
    assert pages == 4
    assert sorted(row[0] for row in rows) == [one.id for one in found]
    at = index_read.COLUMNS.index(sort) if sort in index_read.COLUMNS else 0
    keys = [(row[at], row[0]) for row in rows]
    assert keys == sorted(keys, reverse=descending)


@pytest.mark.parametrize("cursor", ["x", "[1]", "[1, 2]", '{"a": 1}', '[null, "d1"]', '[1.5, "d1"]', "["])
def test_cursor_that_no_page_gave_is_refused(store: Store, cursor: str) -> None:
    with pytest.raises(RemoteError, match="cursor"):
        ask(store, index_read.page, parse("all"), cursor=cursor)


def test_device_that_leaves_the_roster_leaves_every_table_and_its_events_stay(store: Store) -> None:
    keep, goes = (
        Device("d1"),
        Device("d2", labels=(("site", "x"),), delegates=("gpu",), grants=("deploy",), agents=("a",)),
    )
    fill(store, [keep, goes])
    told = store.write(Batch(members={"d1": member_row("d1")}, events=[EventRow(NOW, "d2", "x")]), now_s=NOW)
    assert [(one.name, one.device) for one in told] == [("device.left", "d2")]
    for text in ("all", "site=x", "has:gpu", "may:deploy", "agent:a"):
        assert "d2" not in ask(store, index_read.ids, parse(text))
    found = ask(store, index_read.events, device="d2")["events"]
    assert [one["event"] for one in found] == ["device.left", "x"]
    told = store.write(Batch(members={one: member_row(one) for one in ("d1", "d2")}), now_s=NOW)
    assert [(one.name, one.device) for one in told] == [("device.joined", "d2")]
    assert ask(store, index_read.device, "d2")["labels"] == []  # nothing of its former life


def test_members_that_left_while_nobody_looked_are_gone_after_a_restart(store: Store, tmp_path: Path) -> None:
    fill(store, [Device("d1"), Device("d2")])
    again = Store(tmp_path / "fleet.db")
    told = again.write(Batch(members={"d1": member_row("d1")}), now_s=NOW)
    assert [(one.name, one.device) for one in told] == [("device.left", "d2")]
    again.close()


def test_silent_device_is_told_once_and_when_it_is_back(store: Store) -> None:
    fill(store, [Device("d1"), Device("d2")])
    store.write(Batch(heard={"d2": heard_row(Device("d2"), NOW + 100)}), now_s=NOW + 100)
    told = store.write(Batch(), now_s=NOW + 100, silent_before_s=NOW + 50)
    assert [(one.device, one.name, one.text) for one in told] == [("d1", "device.silent", "not heard for 100 s")]
    assert store.write(Batch(), now_s=NOW + 101, silent_before_s=NOW + 51) == []
    assert ask(store, index_read.ids, parse("state=silent")) == ["d1"]
    told = store.write(Batch(heard={"d1": heard_row(Device("d1"), NOW + 102)}), now_s=NOW + 102)
    assert [(one.device, one.name) for one in told] == [("d1", "device.back")]
    assert ask(store, index_read.ids, parse("state=online")) == ["d1", "d2"]


def test_retained_status_is_no_sign_of_life(store: Store) -> None:
    store.write(Batch(members={"d1": member_row("d1"), "d2": member_row("d2")}), now_s=NOW)
    store.write(Batch(heard={"d1": heard_row(Device("d1"), 0)}), now_s=NOW)
    assert ask(store, index_read.device, "d1")["state"] == "silent"
    assert ask(store, index_read.device, "d2")["state"] == "never"
    store.write(Batch(heard={"d1": replace(heard_row(Device("d1"), 0), said="offline")}), now_s=NOW)
    assert ask(store, index_read.device, "d1")["state"] == "offline"


def test_events_are_a_ring_by_count_and_by_age(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_store, "INDEX_EVENTS_MAX", 50)
    monkeypatch.setattr(index_store, "_PRUNE_EVERY", 10)
    for at in range(20):
        store.write(Batch(events=[EventRow(NOW + at, "d1", f"e{at}-{n}") for n in range(10)]), now_s=NOW + at)
    found = ask(store, index_read.events, limit=1000)["events"]
    assert len(found) == 50
    assert (found[0]["event"], found[-1]["event"]) == ("e19-9", "e15-0")
    late = NOW + index_store.INDEX_EVENTS_AGE_S + 18
    store.write(Batch(events=[EventRow(late, "d1", "new")] * 10), now_s=late)
    assert {one["event"][:3] for one in ask(store, index_read.events, limit=1000)["events"]} <= {"new", "e19", "e18"}


def test_alerts_of_one_kind_are_one_until_acknowledged_and_their_number_is_bounded(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_store, "INDEX_ALERTS_MAX", 5)
    for at in range(3):
        store.write(Batch(alerts=[AlertRow(NOW + at, "d1", "critical", "clone", f"boot {at}", count=2)]), now_s=NOW)
    found = ask(store, index_read.alerts)
    assert [(one["count"], one["text"], one["first_s"], one["last_s"]) for one in found["alerts"]] == [
        (6, "boot 2", NOW, NOW + 2)
    ]
    (number,) = [one["id"] for one in found["alerts"]]
    assert store.acknowledge([number, 999], "ann", NOW + 5) == [number]
    assert store.acknowledge([number], "bob", NOW + 6) == []
    assert ask(store, index_read.alerts)["open"] == 0
    store.write(Batch(alerts=[AlertRow(NOW + 9, "d1", "critical", "clone", "boot 9")]), now_s=NOW)
    assert ask(store, index_read.alerts)["open"] == 1
    for at in range(6):
        store.write(Batch(alerts=[AlertRow(NOW + 10 + at, "d2", "error", f"c{at}", "x")]), now_s=NOW)
    left = ask(store, index_read.alerts, acknowledged=True)["alerts"]
    assert len(left) == 5
    assert number not in [one["id"] for one in left]  # the acknowledged one went first


@pytest.mark.parametrize("damage", ["text", "other", "schema", "torn"])
def test_broken_or_foreign_file_is_set_aside_and_made_anew(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "fleet.db"
    store = Store(path)
    fill(store, [Device(f"d{at}") for at in range(200)])
    store.close()
    if damage == "text":
        path.write_bytes(b"not a database, but long enough to look like a file " * 50)
    elif damage == "other":
        path.unlink()
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE mine (x)")
        other.close()
    elif damage == "schema":
        raw = sqlite3.connect(path)
        raw.execute("PRAGMA user_version = 99")
        raw.close()
    else:
        data = bytearray(path.read_bytes())
        data[4096 * 3 : 4096 * 9] = bytes(4096 * 6)
        path.write_bytes(data)
    again = Store(path)
    assert again.set_aside
    assert ask(again, index_read.ids, parse("all")) == []
    fill(again, [Device("d1")])
    assert ask(again, index_read.ids, parse("all")) == ["d1"]
    again.close()
    assert (tmp_path / "fleet.db.aside").exists()


def test_index_that_can_not_be_made_says_where(tmp_path: Path) -> None:
    (tmp_path / "fleet.db").mkdir()
    (tmp_path / "fleet.db" / "x").touch()
    (tmp_path / "fleet.db.aside").mkdir()
    (tmp_path / "fleet.db.aside" / "y").touch()
    with pytest.raises(LocalError, match=r"fleet\.db"):
        Store(tmp_path / "fleet.db")


def test_batch_that_fails_leaves_nothing_of_itself(store: Store) -> None:
    fill(store, [Device("d1")])
    bad = Batch(
        members={"d9": member_row("d9", "")}, heard={"d1": replace(heard_row(Device("d1")), facts={"tier": object()})}
    )
    with pytest.raises(Exception, match="object"):
        store.write(bad, now_s=NOW)
    assert ask(store, index_read.ids, parse("all")) == ["d1"]
    fill(store, [Device("d1"), Device("d9")])  # and the store still knows what it holds
    assert ask(store, index_read.ids, parse("all")) == ["d1", "d9"]


def test_texts_of_devices_are_bounded_and_hold_no_nul() -> None:
    assert clean("a\0b") == "a?b"
    assert len(clean("x" * 5_000)) == 1_024
    assert clean("\ud800").encode()


def test_every_table_is_emptied_of_a_device_that_left() -> None:
    """A table that is added must be thought of in Store._members: events and alerts are history, and stay."""
    of_device = {name for name, table in index_tables.metadata.tables.items() if "device" in table.c}
    emptied = {"devices", "labels", "grants", "has", "agents", "reported", "reports"}
    assert of_device - {"events", "alerts"} == emptied


def test_page_ends_before_it_is_too_long_and_the_next_goes_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_read, "INDEX_PAGE_BYTES_MAX", 1_000)
    found = [Device(f"d{at:02}", software="x" * 200) for at in range(9)]
    fill(store, found)
    rows: list[Any] = []
    cursor, pages = "", 0
    while pages == 0 or cursor:
        page = ask(store, index_read.page, parse("all"), cursor=cursor)
        rows, cursor, pages = rows + page["rows"], page["next"], pages + 1
        assert pages > 1 or page["states"] == {"online": 9}
    assert ([row[0] for row in rows], pages) == ([one.id for one in found], 3)
