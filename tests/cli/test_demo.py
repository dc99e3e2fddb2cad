"""The demo's check list: it must be able to fail, item by item."""

from __future__ import annotations

from typing import Any

import pytest

from edgeswarm.app.cli import demo
from edgeswarm.app.cli.demo import Seen, judge, live_table, summary


def seen() -> Seen:
    return Seen(
        labels=[(5.0, "normal"), (7.0, "cpu-burst"), (9.5, "normal"), (14.0, "memory-burst"), (18.0, "normal")],
        causes={"cpu-burst": (6.0, 9.0), "memory-burst": (12.5, 15.5)},
        killed_pid=7,
        back_after_ms=70.0,
        swapped_to="1.1.0",
    )


def status(**changes: Any) -> dict[str, Any]:
    totals = {"rows_in": 10, "decisions": 9, "dropped": 0, "rows_set_aside": 0, "lost": 0}
    row = {
        "name": demo.FUSE,
        "version": "1.0.0",
        "status": changes.pop("agent_status", "running"),
        "counters": {"rows_in": 10},
        "last": {"values": [1.0, 0.0], "score": 0.5, "label": "normal"},
        "latency": {"p50_us": 400.0, "p99_us": 900.0},
        "jail": 1,
    }
    jails = [{"memory_bytes": 3 << 20}]
    return {"totals": {**totals, **changes}, "agents": [row], "jails": jails, "rss_bytes": 36 << 20}


def failed(found: Seen, state: dict[str, Any]) -> list[str]:
    return [text for ok, text in judge(found, state) if not ok]


def test_all_that_happened_passes_and_the_summary_says_the_numbers() -> None:
    assert failed(seen(), status()) == []
    text = summary(seen(), status(), judge(seen(), status()))
    for part in ("samples in 10", "lost 0", "p50 400 µs", "p99 900 µs", "3.0 MiB", "cpu-burst flagged after 1.0 s"):
        assert part in text


@pytest.mark.parametrize(
    ("change", "item"),
    [
        ({"labels": [(7.0, "cpu-burst")]}, "the memory burst was flagged"),
        ({"labels": [(5.0, "cpu-burst"), (14.0, "memory-burst")]}, "the CPU burst was flagged"),
        ({"labels": [(13.0, "cpu-burst"), (14.0, "memory-burst")]}, "the CPU burst was flagged"),
        ({"causes": {"cpu-burst": (6.0, 9.0)}}, "the memory burst was flagged"),
        ({"back_after_ms": 0.0}, "the killed jail came back"),
        ({"swapped_to": "1.0.0"}, "the swapped agent runs its new version"),
        ({"swapped_to": ""}, "the swapped agent runs its new version"),
    ],
)
def test_what_did_not_happen_fails_by_name(change: dict[str, Any], item: str) -> None:
    """A label before its cause, or long after, is not a flag."""
    found = seen()
    for key, value in change.items():
        setattr(found, key, value)
    assert failed(found, status()) == [item]


@pytest.mark.parametrize(
    ("change", "item"),
    [
        ({"lost": 1}, "nothing was lost"),
        ({"decisions": 0}, "samples came in and decisions came out"),
        ({"agent_status": "backing_off"}, "every agent runs"),
    ],
)
def test_numbers_that_must_not_be_fail_by_name(change: dict[str, Any], item: str) -> None:
    assert failed(seen(), status(**change)) == [item]


def test_live_table_shows_an_agent_that_is_still_warming_up() -> None:
    state = status()
    state["agents"][0] |= {"last": None, "latency": None}
    assert "warming up" in live_table(1.0, state)
