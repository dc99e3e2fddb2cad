"""docs/streams.md says what the code does: its counters, its fields, its events, its tests."""

from __future__ import annotations

import re
from pathlib import Path

from edgeswarm.agentfile.wiring import Wiring
from edgeswarm.drivers.sources_vitals import FIELDS
from edgeswarm.stream.pipeline import Pipeline

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/streams.md").read_text()


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_every_counter_is_on_the_page() -> None:
    tally = Pipeline(Wiring(), source_widths=(), frame_width=1, output_width=1).tally()
    described = set(re.findall(r"`([a-z_]+)`", section("The law")))
    assert set(tally) <= described


def test_every_vital_is_on_the_page() -> None:
    assert set(FIELDS) <= set(re.findall(r"`([a-z_0-9]+)`", section("Sources")))


def test_every_fault_on_the_page_has_its_test_and_every_event_is_told_somewhere() -> None:
    table = section("When things go wrong")
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", table))
    assert len(named) > 20
    assert [name for name in sorted(named) if f"def {name}(" not in tests] == []
    folders = (ROOT / "edgeswarm/stream", ROOT / "edgeswarm/drivers")
    code = "".join(path.read_text() for folder in folders for path in folder.rglob("*.py"))
    events = set(re.findall(r"`((?:row|rows|frame|source|sink)_[a-z_]+)`", table))
    assert [name for name in sorted(events) if f'"{name}"' not in code] == []


def test_every_event_of_the_stream_is_on_the_page_or_harmless() -> None:
    harmless = {"warmup_finished", "answer_unexpected", "rows_abandoned", "sink_reader_left", "sink_reader_refused"}
    paths = [*(ROOT / "edgeswarm/stream").glob("*.py"), *(ROOT / "edgeswarm/drivers").glob("so*.py")]
    paths += (ROOT / "edgeswarm/drivers").glob("*sink*.py")
    told = {name for path in paths for name in re.findall(r'report\(\s*"([a-z_]+)"', path.read_text())}
    assert told - harmless <= set(re.findall(r"`([a-z_]+)`", section("When things go wrong")))
