"""The header: what each key may be, and which keys must agree.  Every fault names its key, expected and found."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from edgeswarm import agentfile, schema
from edgeswarm.agentfile import header as hd
from edgeswarm.agentfile import wiring as wr
from edgeswarm.errors import AgentFileError

BASE: dict[str, Any] = {
    "version": "1.0",
    "name": "a",
    "neural_config": {"input_size": 4, "output_size": 3},
    "wiring": {"sources": [{"type": "api", "width": 4}]},
}


SINKS = "one of stdout, jsonl, socket, exec, mqtt, webhook"
GOLDEN = Path(__file__).parent / "golden" / "header_faults.txt"


def cases() -> list[tuple[dict[str, Any], list[str]]]:
    found: list[tuple[dict[str, Any], list[str]]] = []
    for line in GOLDEN.read_text().splitlines():
        if line.startswith("{"):
            found.append((json.loads(line), []))
        elif line:
            found[-1][1].append(line.strip())
    return found


CASES = cases()


def with_keys(changes: dict[str, Any]) -> dict[str, Any]:
    """BASE with dotted keys set: {"wiring.window": {"rows": 2}}."""
    tree = copy.deepcopy(BASE)
    for path, value in changes.items():
        *above, last = path.split(".")
        place = tree
        for key in above:
            place = place.setdefault(key, {})
        place[last] = value
    return tree


def faults_of(changes: dict[str, Any]) -> list[str]:
    with pytest.raises(schema.SchemaError) as caught:
        schema.decode(with_keys(changes), hd.Header)
    return [str(fault) for fault in caught.value.faults]


def test_the_least_header_has_the_documented_defaults() -> None:
    header = schema.decode(
        {"version": "1.0", "name": "a", "neural_config": {"input_size": 1, "output_size": 1}}, hd.Header
    )
    assert header.sandbox == "strict"
    assert header.isolation == "shared"
    assert header.kernel == hd.KernelOptions(1, "fast", 256, 1000, "")
    assert header.workflows.execution[0] == "receive_input"
    assert header.wiring == wr.Wiring()
    assert header.wiring.normalize.clip == 8.0


def test_a_header_cannot_be_changed(full_header: hd.Header) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        full_header.name = "b"  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        full_header.wiring.window.rows = 3  # type: ignore[misc]


def test_a_full_header_reads_back(full_header: hd.Header) -> None:
    assert agentfile.parse_header(agentfile.emit_header(full_header)) == full_header


@pytest.mark.parametrize(("changes", "faults"), CASES, ids=[json.dumps(changes)[:80] for changes, _ in CASES])
def test_a_header_that_does_not_agree_is_refused(changes: dict[str, Any], faults: list[str]) -> None:
    """golden/header_faults.txt: a line of JSON (dotted keys set in BASE), then every fault it gives."""
    assert faults_of(changes) == faults


@pytest.mark.parametrize(
    "changes",
    [
        {
            "capabilities": ["exec_source"],
            "wiring.sources": [
                {"type": "exec", "command": ["a", ""], "fields": ["x"], "format": "csv"},
                {"type": "api", "width": 3},
            ],
        },
        {"wiring.sources": [{"type": "agent", "agent": "b"}], "wiring.window": {"rows": 2, "hop": 2}},
        {
            "wiring.sources": [{"type": "iio", "device": "iio:device0", "channels": ["accel_x", "accel_y"]}],
            "wiring.window": {"rows": 2},
            "wiring.normalize": {"method": "zscore", "warmup_rows": 5},
        },
        {"neural_config.output_size": 4, "wiring.score.type": "reconstruction_error", "wiring.emit": "residual"},
        {
            "neural_config": {"input_size": 5, "output_size": 5},
            "memory": {"width": 1},
            "wiring.emit": "residual",
        },
        {"wiring.decision": {"type": "argmax", "labels": ["a", "b", "c"]}},
        {"wiring.decision": {"type": "threshold", "below": -1.0, "labels": ["fine", "bad"]}},
        {"wiring.score.type": "max", "wiring.decision": {"type": "change", "delta": 0.1, "hold": 3}},
        {"created": "2026-01-02T03:04:05.123456+02:00"},
        {"runtime": {"dependencies": {"x": "1"}}},
    ],
)
def test_a_header_that_agrees_is_taken(changes: dict[str, Any]) -> None:
    header = schema.decode(with_keys(changes), hd.Header)
    assert schema.decode(schema.encode(header), hd.Header) == header


def test_widths_of_rows_and_frames_are_known_unless_another_agent_says_them() -> None:
    wiring = wr.Wiring((wr.ApiSource("api", 3), wr.IioSource("iio", "d", ("a",))), window=wr.WindowSpec(5))
    assert (wiring.row_width, wiring.frame_width) == (4, 20)
    assert wiring.source_ids() == ("api", "iio")
    mixed = wr.Wiring((wr.ApiSource("api", 3), wr.AgentSource("agent", "b", id="b")))
    assert (mixed.row_width, mixed.frame_width, mixed.source_ids()) == (None, None, ("api", "b"))
    assert wr.Wiring().row_width is None


def test_all_faults_of_a_file_come_at_once_each_with_its_line() -> None:
    text = b'version: "1.0"\nname: A\nneural_config:\n  input_size: x\n  output_size: 1\n'
    text += b"wiring:\n  sinks:\n    - type: sdout\n"
    with pytest.raises(AgentFileError) as caught:
        agentfile.parse_header(text, who="a.af", first_line=2)
    assert caught.value.line == 3
    assert str(caught.value).splitlines() == [
        "a.af: line 3: name: expected a name of 1 to 64 characters: a-z, 0-9, -, a letter first, found 'A'",
        "line 5: neural_config.input_size: expected a whole number, 1 to 262144 values, found 'x'",
        f"line 9: wiring.sinks[0].type: expected {SINKS}, found 'sdout'; did you mean stdout?",
    ]
