"""The log: one JSON object a line whatever goes into it, one story per cause id, no readings."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from supervised import Bench, until

from edgeswarm.app.log import RING_LINES_MAX, Log
from edgeswarm.ids import AgentName

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12).filter(lambda key: key not in ("self", "event"))


def strict(line: str) -> dict[str, Any]:
    def refuse(name: str) -> float:
        raise AssertionError(f"{name} is no JSON: {line}")

    entry = json.loads(line, parse_constant=refuse)
    assert isinstance(entry, dict)
    return entry


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_every_line_is_one_json_object_with_time_level_and_event(fields: dict[str, Any]) -> None:
    stream = io.StringIO()
    log = Log(stream=stream, level="debug")
    log.info("something_happened", **fields)
    [line] = stream.getvalue().splitlines()
    entry = strict(line)
    assert entry["event"] == "something_happened" and entry["level"] == "info" and entry["at"].endswith("Z")
    assert set(fields) <= set(entry)


def test_line_feeds_and_quotes_in_a_value_stay_inside_their_line() -> None:
    stream = io.StringIO()
    Log(stream=stream).warning("x", text='a\nb"c\u2028\x1b[2J')
    [line, rest] = stream.getvalue().split("\n")
    assert strict(line)["text"] == 'a\nb"c\u2028\x1b[2J' and rest == "" and "\x1b" not in line


def test_level_filters_and_the_ring_keeps_the_last_lines() -> None:
    log = Log(stream=None, level="warning")
    log.info("unseen")
    for number in range(RING_LINES_MAX + 5):
        log.warning("seen", number=number)
    assert len(log.ring.lines) == RING_LINES_MAX
    assert strict(log.ring.lines[0])["number"] == 5


def test_crash_keeps_the_kind_and_the_text_of_the_error() -> None:
    log = Log(stream=None)
    try:
        raise ValueError("no good")
    except ValueError as error:
        log.crash("control_fault", error, cause="x-1")
    entry = strict(log.ring.lines[-1])
    assert (entry["error"], entry["cause"], entry["level"]) == ("ValueError: no good", "x-1", "error")


def test_what_drivers_log_comes_in_with_its_fields() -> None:
    log = Log(stream=None)
    log.listen("edgeswarm.test_of_drivers")
    logging.getLogger("edgeswarm.test_of_drivers.x").info("jail_ended", extra={"jail": 7})
    entry = strict(log.ring.lines[-1])
    assert (entry["event"], entry["jail"]) == ("jail_ended", 7)


def test_two_logs_of_one_process_do_not_mix() -> None:
    one, other = Log(stream=None), Log(stream=None)
    one.info("mine")
    assert not other.ring.lines


async def test_one_cause_id_tells_the_story_of_a_deploy_and_of_a_death(bench: Bench) -> None:
    import os
    import signal

    await bench.supervisor.deploy([("t", bench.mlp())])
    [jail] = bench.supervisor.jails.values()
    os.kill(jail.pid, signal.SIGKILL)
    await until(lambda: bench.supervisor.node.table.agents[AgentName("a")].restarts_total == 1)
    await until(lambda: bench.supervisor.status[AgentName("a")][0] == "running")
    entries = [strict(line) for line in bench.supervisor.log.ring.lines]

    def story(event: str) -> list[str]:
        cause = next(entry["cause"] for entry in entries if entry["event"] == event)
        return [entry["event"] for entry in entries if entry.get("cause") == cause and entry["event"] != "event"]

    assert story("agent_preparing") == ["agent_preparing", "jail_ready", "agent_running"]
    assert story("jail_exited") == ["jail_exited", "agent_backing_off", "jail_ready", "agent_running"]


async def test_readings_never_reach_the_log(bench: Bench) -> None:
    """At level debug, with frames answered, malformed, set aside, and a checkpoint written."""
    await bench.supervisor.deploy([("t", bench.bad("trap"))])
    flow = bench.supervisor.flows.flows[AgentName("bad")]
    for value in (0.123456, 0.654321, 0.123456):
        await flow.offer(0, (value,), 0)
    await flow.offer(0, (0.123456, 0.654321), 0)
    await until(lambda: flow.pipeline.idle)
    await bench.supervisor.flows.checkpoint(flow.name)
    text = "\n".join(bench.supervisor.log.ring.lines)
    assert "frame_set_aside" in text and "row_malformed" in text
    assert not any(digits in text for digits in ("0.123", "0.654", "123456", "654321"))
