"""Events are told at a bounded rate, and none is forgotten."""

from __future__ import annotations

from edgeswarm.limits import REPORT_NAMES_MAX
from edgeswarm.stream.report import Reporter


class Told:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []
        self.now_ns = 0

    def __call__(self, name: str, /, **fields: object) -> None:
        self.events.append((name, fields))


def test_first_is_told_at_once_and_the_rest_as_a_number() -> None:
    told = Told()
    reporter = Reporter(told, now_ns=lambda: told.now_ns, interval_ns=100, agent="a")
    assert [reporter.report("row_malformed", kind="nan", value=i) for i in range(5)] == [True] + [False] * 4
    assert reporter.suppressed() == 4
    told.now_ns = 100
    reporter.report("row_malformed", kind="nan", value=9)
    assert told.events == [
        ("row_malformed", {"agent": "a", "kind": "nan", "value": 0}),
        ("row_malformed", {"agent": "a", "kind": "nan", "value": 9, "suppressed": 4}),
    ]


def test_kinds_do_not_silence_each_other() -> None:
    told = Told()
    reporter = Reporter(told, now_ns=lambda: 0)
    assert reporter.report("x", kind="a")
    assert reporter.report("x", kind="b")
    assert not reporter.report("x", kind="a")


def test_memory_is_bounded_whatever_kinds_come() -> None:
    told = Told()
    reporter = Reporter(told, now_ns=lambda: 0)
    for i in range(REPORT_NAMES_MAX + 50):
        reporter.report("x", kind=str(i))
    assert len(told.events) == REPORT_NAMES_MAX
    assert reporter.suppressed() == 50
