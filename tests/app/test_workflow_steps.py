"""The steps of an agent file run in the file's order, and what a file leaves out is not done."""

from __future__ import annotations

import json
from typing import Any

import pytest
from supervised import Bench, until

from edgeswarm.drivers import checkpoints
from edgeswarm.ids import AgentName

A = AgentName("a")
API = {"type": "api", "width": 4}


def steps_run(bench: Bench, phase: str) -> list[str]:
    entries = [json.loads(line) for line in bench.events("workflow_step")]
    return [entry["step"] for entry in entries if entry["phase"] == phase]


@pytest.mark.parametrize(
    "initialization",
    [
        ["load_neural_network", "initialize_memory", "connect_to_swarm", "register_capabilities"],
        ["register_capabilities", "load_neural_network"],
        [],
    ],
)
async def test_initialization_runs_what_the_file_names_in_its_order(bench: Bench, initialization: list[str]) -> None:
    await bench.supervisor.deploy([("t", bench.mlp(workflows={"initialization": initialization}))])
    assert steps_run(bench, "initialization") == initialization
    assert len(bench.events("capabilities_registered")) == ("register_capabilities" in initialization)
    assert await bench.supervisor.ask("a", [0.0] * 4, 5.0) is not None


async def test_shutdown_runs_what_the_file_names_and_sinks_are_closed_in_any_case(bench: Bench) -> None:
    wiring = {"sources": [API], "sinks": [{"type": "socket", "name": "s"}]}
    await bench.supervisor.deploy([("t", bench.mlp(wiring=wiring, workflows={"shutdown": ["disconnect_from_swarm"]}))])
    path = bench.state / "run" / "s.sock"
    assert path.exists()
    await bench.supervisor.stop("a")
    assert steps_run(bench, "shutdown") == ["disconnect_from_swarm"] and not path.exists()


async def test_without_save_state_nothing_is_kept_and_what_was_not_answered_is_told(bench: Bench) -> None:
    await bench.supervisor.deploy([("t", bench.mlp(workflows={"shutdown": ["cleanup_resources"]}))])
    flow = bench.supervisor.flows.flows[A]
    bench.supervisor.flows.pause(A)
    for _ in range(3):
        await flow.offer(0, (0.1,) * 4, 0)
    await bench.supervisor.stop("a")
    assert not bench.supervisor.shelf.checkpoint_path("a").exists()
    [line] = bench.events("rows_discarded")
    assert '"count":3' in line


async def test_save_state_before_or_after_the_others_writes_one_checkpoint(bench: Bench) -> None:
    await bench.supervisor.deploy([("t", bench.mlp(workflows={"shutdown": ["save_state"]}))])
    await bench.supervisor.stop("a")
    state = checkpoints.read(bench.supervisor.shelf.checkpoint_path("a"), bench.supervisor.shelf.checkpoint_key)
    assert state is not None and set(state) == {"saved_at", "pipeline", "sources"}


async def test_without_initialize_memory_the_agent_starts_afresh_every_time(bench: Bench) -> None:
    """It learns its scale anew although a checkpoint is there, and its jail remembers nothing either."""
    normalize = {"method": "minmax", "warmup_rows": 2, "clip": 0.0}
    initialization = {"initialization": ["load_neural_network"]}
    data = bench.mlp(wiring={"sources": [API], "normalize": normalize}, workflows=initialization)
    await bench.supervisor.deploy([("t", data)])
    for expected in (None, None):
        assert await bench.supervisor.ask("a", [1.0] * 4, 5.0) is expected
    await bench.supervisor.stop("a")
    await bench.supervisor.start_agent("a")
    assert await bench.supervisor.ask("a", [1.0] * 4, 5.0) is None
    assert not bench.events("checkpoint_restored")


async def test_with_initialize_memory_the_scale_is_there_at_once(bench: Bench) -> None:
    normalize = {"method": "minmax", "warmup_rows": 2, "clip": 0.0}
    await bench.supervisor.deploy([("t", bench.mlp(wiring={"sources": [API], "normalize": normalize}))])
    for value in (0.0, 1.0):
        assert await bench.supervisor.ask("a", [value] * 4, 5.0) is None
    await bench.supervisor.stop("a")
    await bench.supervisor.start_agent("a")
    assert await bench.supervisor.ask("a", [1.0] * 4, 5.0) is not None


async def test_without_send_output_the_agent_decides_and_says_nothing(bench: Bench) -> None:
    """Neither to its sinks nor to those who read it; who asks it is answered."""
    execution = ["receive_input", "process_neural_network", "update_memory"]
    wiring: dict[str, Any] = {"sources": [API], "sinks": [{"type": "jsonl", "path": "out"}]}
    silent = bench.mlp(wiring=wiring, capabilities=["file_sink"], workflows={"execution": execution})
    reader = bench.mlp("b", (2, 4, 2), wiring={"sources": [{"type": "agent", "agent": "a"}]})
    await bench.supervisor.deploy([("t", silent), ("t", reader)])
    assert await bench.supervisor.ask("a", [0.1] * 4, 5.0) is not None
    assert bench.tally("a")["decisions"] == 1
    assert not (bench.state / "out").exists() and bench.tally("b")["rows_in"] == 0
    loud = bench.mlp(wiring=wiring, capabilities=["file_sink"], agent_version="2.0.0")
    await bench.supervisor.swap("a", "t", loud)
    assert await bench.supervisor.ask("a", [0.1] * 4, 5.0) is not None
    await until(lambda: bench.tally("b")["answered"] == 1)
    assert len((bench.state / "out").read_text().splitlines()) == 1


async def test_checkpoints_come_by_themselves_no_faster_than_the_device_allows(bench: Bench) -> None:
    """The file asks for 0.1 s, this device allows 0.2 s."""
    await bench.supervisor.close()
    bench.supervisor = bench.make(**{"timing.checkpoint_s_min": 0.2})
    await bench.supervisor.start()
    await bench.supervisor.deploy([("t", bench.mlp(memory={"checkpoint_s": 0.1}))])
    path = bench.supervisor.shelf.checkpoint_path("a")
    await until(path.exists)
    assert bench.supervisor.node.table.agents[A].plan.checkpoint_ms == 200.0


async def test_checkpoint_that_cannot_be_written_is_told_and_the_agent_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.supervisor.deploy([("t", bench.mlp())])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write", full)
    await bench.supervisor.flows.checkpoint(A)
    [line] = bench.events("checkpoint_failed")
    assert "No space left on device" in line
    assert await bench.supervisor.ask("a", [0.0] * 4, 5.0) is not None
