"""What bench/calls.py concludes, and that its contestants compute and are stopped."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def calls() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "bench"))
    import calls

    yield calls
    sys.path.remove(str(ROOT / "bench"))


def test_a_mark_is_met_by_as_much_or_less(calls: ModuleType) -> None:
    def met(found: float, mark: float | None) -> bool | None:
        return calls.Row("x", "ns", calls.Spread(found, 0, 9e9), mark, 1).met

    assert [met(400, 400), met(399, 400), met(401, 400), met(401, None)] == [True, True, False, None]


def test_time_is_divided_by_calls_and_rows(calls: ModuleType) -> None:
    def busy(count: int) -> None:
        until = time.process_time_ns() + 1_000_000 * count
        while time.process_time_ns() < until:
            pass

    found = calls.timed({"one": (busy, 1), "ten": (busy, 10)}, 3)
    assert [len(values) for values in found.values()] == [3, 3]
    assert all(value >= 1_000_000 for value in found["one"])
    assert all(value >= 100_000 for value in found["ten"])


def test_every_contestant_computes(calls: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [*calls.calls(2), *calls.epochs(2)]
    assert len(rows) == 7
    assert all(row.found.median > 0 for row in rows if row.unit == "ns")
    for row in rows:
        calls.show(row)
    assert "call from Python" in capsys.readouterr().out
    assert calls.as_json(rows[0])["mark"] == 400


def test_a_runaway_is_stopped_by_the_ticker(calls: ModuleType) -> None:
    assert len(calls.runaway_by_ticker(3)) == 3


@pytest.mark.e2e
def test_a_runaway_is_stopped_in_a_jail(calls: ModuleType) -> None:
    assert len(calls.runaway_in_a_jail(3)) == 3
