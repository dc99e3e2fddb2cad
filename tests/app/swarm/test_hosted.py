"""What an agent of the cell is fenced by, on one device: supervisor and jails are played."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from supervised import until

from edgeswarm.app.log import Log
from edgeswarm.app.swarm.hosted import Hosted
from edgeswarm.core.cell.fencing import Lease
from edgeswarm.core.cell.types import AgentSpec, AgentState
from edgeswarm.errors import LocalError

DATA = b"an agent file"
DIGEST = hashlib.sha256(DATA).digest()


class Device:
    """d1, its table, and a supervisor that only keeps count."""

    def __init__(self, folder: Path) -> None:
        self.agents: dict[str, AgentState] = {}
        self.until_ms = 1e12
        self.halted = False
        self.log = Log(stream=None, level="debug")
        self.table: dict[str, Any] = {}
        self.status: dict[str, tuple[str, str]] = {}
        self.paused: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fail_stop = 0
        supervisor: Any = self
        state: Any = SimpleNamespace(
            agents=self.agents,
            agents_on=lambda device: [name for name, one in self.agents.items() if one.device == device],
        )
        replica: Any = SimpleNamespace(state=state)
        self.node = SimpleNamespace(table=SimpleNamespace(agents=self.table))
        self.resumed: list[str] = []
        self.flows = SimpleNamespace(pause=self.paused.append, resume_handed=self.resumed.append)
        self.store = None
        self.told: list[tuple[str, str]] = []
        self.hosted = Hosted(
            device="d1",
            supervisor=supervisor,
            replica=replica,
            fetch=self.fetch,
            before=self.before,
            lease=lambda: (Lease(1, self.until_ms), 1000.0),
            halted=lambda: self.halted,
            told=lambda agent, status, why: self.told.append((agent, status)),
            folder=folder,
        )

    def place(self, name: str, *, device: str = "d1", epoch: int = 1) -> None:
        self.agents[name] = AgentState(AgentSpec(name, DIGEST), 1, device=device, epoch=epoch)
        self.hosted.wake()

    async def before(self, agent: AgentState) -> None:
        """It remembers nothing."""

    async def fetch(self, digest: bytes, agent: str) -> bytes:
        if agent.startswith("slow"):
            await self.gate.wait()
        return DATA

    async def deploy(self, files: list[tuple[str, bytes]]) -> None:
        name = next(name for name in self.agents if name not in self.table)
        self.table[name] = SimpleNamespace(name=name, plan=SimpleNamespace(artefact=DIGEST.hex()))
        self.status[name] = ("running", "")

    async def stop(self, name: str) -> None:
        if self.fail_stop:
            self.fail_stop -= 1
            raise LocalError("it does not answer")
        self.status[name] = ("stopped", "")

    async def start_agent(self, name: str) -> None:
        self.status[name] = ("running", "")

    async def remove(self, name: str) -> None:
        del self.table[name], self.status[name]

    @property
    def running(self) -> set[str]:
        return set(self.hosted.running)


@pytest.fixture
async def device(tmp_path: Path) -> AsyncIterator[Device]:
    made = Device(tmp_path)
    made.hosted.start()
    yield made
    await made.hosted.close()


async def test_agent_runs_where_it_is_placed_and_goes_when_it_is_given_away(device: Device) -> None:
    device.place("a")
    await until(lambda: device.running == {"a"})
    device.place("a", device="d2", epoch=2)
    await until(lambda: not device.running and "a" not in device.table)


async def test_stop_does_not_wait_for_an_agent_that_is_being_fetched(device: Device) -> None:
    device.place("a")
    await until(lambda: device.running == {"a"})
    device.gate.clear()
    device.place("slow")
    await asyncio.sleep(0.02)
    device.until_ms = 0.0  # the lease is over
    device.hosted.wake()
    await until(lambda: not device.running)
    assert device.paused == ["a"] and device.status["a"][0] == "stopped"
    device.gate.set()
    await until(lambda: ("slow", "failed") in device.told)
    assert not device.running and "slow" not in device.status
    device.until_ms = 1e12
    device.hosted.wake()
    await until(lambda: device.running == {"a", "slow"})


async def test_agent_that_does_not_stop_is_tried_again_without_being_asked(device: Device, monkeypatch: Any) -> None:
    monkeypatch.setattr("edgeswarm.app.swarm.hosted.RETRY_S", 0.02)
    device.place("a")
    await until(lambda: device.running == {"a"})
    device.fail_stop, device.halted = 3, True
    device.hosted.wake()
    await until(lambda: not device.running)
    assert len([line for line in device.log.ring.lines if "cell_agent_not_stopped" in line]) == 3


async def test_fault_of_ours_ends_neither_the_loop_nor_another_agent(device: Device, monkeypatch: Any) -> None:
    monkeypatch.setattr("edgeswarm.app.swarm.hosted.RETRY_S", 0.02)
    turn, left = device.hosted._turn, [2]

    async def broken(self: Hosted) -> float | None:
        if left[0]:
            left[0] -= 1
            raise RuntimeError("a fault")
        return await turn()

    monkeypatch.setattr(Hosted, "_turn", broken)
    device.place("a")
    await until(lambda: device.running == {"a"})
    assert len([line for line in device.log.ring.lines if "swarm_fault" in line]) == 2


async def test_file_that_is_another_than_was_agreed_does_not_run(device: Device) -> None:
    device.agents["a"] = AgentState(AgentSpec("a", bytes(32)), 1, device="d1", epoch=1)
    device.hosted.wake()
    await until(lambda: ("a", "failed") in device.told)
    assert not device.running and not device.table


async def test_agent_of_the_device_s_own_is_neither_replaced_nor_removed(device: Device) -> None:
    device.table["mine"] = SimpleNamespace(name="mine", plan=SimpleNamespace(artefact="00" * 32))
    device.status["mine"] = ("running", "")
    device.place("mine")
    await until(lambda: ("mine", "failed") in device.told)
    device.place("mine", device="d2", epoch=2)
    device.place("a")
    await until(lambda: device.running == {"a"})
    assert device.status["mine"] == ("running", "") and not device.hosted.is_of_cell("mine")


async def test_agents_that_are_handed_over_wait_for_the_leader_s_word_if_they_need_it(device: Device) -> None:
    """Another version of the supervisor takes them over; both are resumed once the cell has named them there."""
    device.place("a")
    await until(lambda: device.running == {"a"})
    device.place("alone")
    await until(lambda: device.running == {"a", "alone"})
    assert device.resumed == ["a", "alone"]
    device.agents["alone"] = replace(device.agents["alone"], spec=AgentSpec("alone", DIGEST, runs_alone=True))
    await device.hosted.close(leaving=True)
    assert device.paused == ["a"]
    await device.hosted.close()
    assert device.paused == ["a", "a", "alone"]
