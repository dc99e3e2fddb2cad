"""What status and top show, as text: nothing is drawn here but lines."""

from __future__ import annotations

from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.app.cli import output, view
from edgeswarm.app.cli.daemon import pretty


def agent(name: str = "a", **more: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": name,
        "status": "running",
        "version": "1.0.0",
        "restarts": 0,
        "detail": "",
        "counters": {"rows_in": 120, "answered": 118, "dropped": 1, "malformed": {"nan": 2, "width": 1}, "lost": 0},
        "latency": {"count": 118, "p50_us": 95.4, "p99_us": 1_234.0},
        "last": {"label": "calm", "score": 0.12345, "flagged": False, "values": [0.1]},
    }
    return row | more


def status(*agents: dict[str, Any], uptime_s: float = 60.0) -> dict[str, Any]:
    return {
        "version": "0.1.0",
        "device": "pi",
        "profile": "default",
        "pid": 7,
        "tier": "A",
        "uptime_s": uptime_s,
        "rss_bytes": 40 << 20,
        "agents": list(agents),
        "jails": [{"jail": 1, "pid": 9, "policy": "strict", "agents": ["a"], "memory_bytes": 3 << 20, "in_flight": 0}],
        "totals": {"rows_in": 120, "decisions": 118, "dropped": 1, "rows_set_aside": 0, "lost": 0},
    }


def test_a_status_shows_everything_once() -> None:
    text = "\n".join(view.lines_of(status(agent())))
    for part in (
        "tier A",
        "up 00:01:00",
        "40.0 MiB",
        "decisions 118",
        "lost 0",
        "95 µs",
        "1.2 ms",
        "0.1235",
        "calm",
        "3.0 MiB",
    ):
        assert part in text
    cells = dict(zip(view.AGENT_COLUMNS, view.agent_cells(agent(), None), strict=True))
    assert (cells["bad"], cells["dropped"], cells["rows/s"]) == ("3", "1", "-")


def test_a_fresh_agent_has_no_numbers_yet() -> None:
    row = agent(counters={}, latency=None, last=None, version=None)
    assert view.agent_cells(row, 0.0)[2:5] == ["-", "-", "0.0"]
    assert "no agents" in "\n".join(view.lines_of(status() | {"jails": []}))


def test_rates_are_those_between_two_pictures() -> None:
    before = status(agent(counters={"rows_in": 100}), uptime_s=58.0)
    now = status(agent(counters={"rows_in": 120}), agent("new", counters={"rows_in": 8}), uptime_s=60.0)
    assert view.rates(now, before) == {"a": 10.0, "new": 4.0}
    assert view.rates(now, None) == {"a": 2.0, "new": pytest.approx(8 / 60)}
    restarted = status(agent(counters={"rows_in": 3}), uptime_s=1.0)
    assert view.rates(restarted, before) == {"a": 3.0}, "a supervisor that was started anew counts from its start"


def test_what_is_flagged_is_red_and_what_does_not_run_says_why() -> None:
    rows = [
        agent(last={"label": "busy", "flagged": True, "score": 1.0}),
        agent("b", status="quarantined", detail="SIGSYS"),
    ]
    lines = view.agents_table(rows)
    assert lines[2].startswith("\x1b[31m")
    assert lines[3].startswith("\x1b[33m")
    assert view.details(rows) == ["b: quarantined: SIGSYS"]


def test_names_and_labels_cannot_draw_on_the_terminal() -> None:
    evil = "\x1b[2J\x07\r\n\x9b"
    rows = agent(evil, last={"label": evil, "score": None, "flagged": False}, status="failed", detail=evil)
    text = click.unstyle("\n".join(view.lines_of(status(rows) | {"device": evil})))
    assert not any(not char.isprintable() for char in text.replace("\n", ""))


@given(
    lines=st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126)), max_size=30),
    columns=st.integers(1, 40),
    rows=st.integers(1, 20),
    styled=st.booleans(),
)
def test_a_picture_fits_its_screen(lines: list[str], columns: int, rows: int, styled: bool) -> None:
    given_lines = [click.style(line, fg="red") for line in lines] if styled else lines
    found = view.fit(given_lines, columns=columns, rows=rows)
    assert len(found) == min(len(lines), rows)
    assert all(len(click.unstyle(line)) <= columns for line in found)
    if styled:
        assert all(line.endswith("\x1b[0m") for line in found[: len(found) - (len(lines) > rows)])
    if len(lines) <= rows:
        assert [click.unstyle(line) for line in found] == [line[:columns] for line in lines]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "00:00:00"), (3_661.9, "01:01:01"), (90_061, "1 d 01:01:01"), (86_399, "23:59:59")]
)
def test_durations(seconds: float, text: str) -> None:
    assert view.duration(seconds) == text


@pytest.mark.parametrize(
    ("micros", "text"), [(None, "-"), (0, "-"), (12.4, "12 µs"), (12_345, "12.3 ms"), (1.2e6, "1.20 s")]
)
def test_times(micros: float | None, text: str) -> None:
    assert view.micros(micros) == text


def test_log_lines_for_people() -> None:
    entry = {"at": "2026-01-02T03:04:05.678Z", "level": "info", "event": "jail_ready", "jail": 3, "why": "\x1b[2J"}
    assert pretty(entry) == "03:04:05.678  info     jail_ready  jail=3 why=?[2J"
    assert pretty(entry | {"level": "error"}).startswith("\x1b[31m")


def test_a_table_of_numbers_is_right_aligned() -> None:
    assert output.table(("name", "n"), [("a", 1), ("bb", 100)], right=(1,)).splitlines() == [
        "name    n",
        "----  ---",
        "a       1",
        "bb    100",
    ]


def test_who_computes_an_agent_is_told_where_it_is_not_its_kernel_alone() -> None:
    quiet = {"runs_on": "wasm", "why": "the fastest here: wasm 3 us", "failures": {}}
    served = {"runs_on": "litert", "why": "the fastest here: wasm 200 us, litert 82 us", "failures": {}}
    failed = {"runs_on": "wasm", "why": "gpu failed: ended by signal 11", "failures": {"crash": 2, "hang": 1}}
    agents = [agent("a", delegate=None), agent("b", delegate=quiet), agent("c", delegate=served)]
    lines = view.lines_of(status(*agents, agent("d", delegate=failed)))
    said = [line for line in lines if "runs on" in line]
    assert said == [
        "c: runs on litert, the fastest here: wasm 200 us, litert 82 us",
        "d: runs on wasm, gpu failed: ended by signal 11; failures: 2 crash, 1 hang",
    ]
