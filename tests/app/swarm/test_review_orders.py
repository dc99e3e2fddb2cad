"""Stop and resume close together and over a restart; who may say what in whose name."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeswarm.app.swarm.orders import Orders
from edgeswarm.core.cell import commands as cmd
from edgeswarm.core.cell.types import AgentSpec
from edgeswarm.errors import EdgeSwarmError


class Device:
    """Two agents of its own, `a` and `b`, and one of the cell that comes up, `c`."""

    def __init__(self, folder: Path, role: str = "worker") -> None:
        self.status = dict.fromkeys("abc", ("running", ""))
        self.gate = asyncio.Event()
        self.gate.set()
        names: Any = SimpleNamespace(table=SimpleNamespace(agents=self.status))
        supervisor = SimpleNamespace(status=self.status, stop=self.stop, start_agent=self.start_agent, node=names)
        state = SimpleNamespace(stop=None, agents={"mlp": SimpleNamespace(device="d1")}, jobs={})
        node: Any = SimpleNamespace(
            folder=folder,
            supervisor=supervisor,
            hosted=SimpleNamespace(running={}, is_of_cell=lambda name: name == "c"),
            replica=SimpleNamespace(state=state),
            rosters=SimpleNamespace(
                current=SimpleNamespace(
                    role=lambda device: role, may=lambda device, capability, agent="": role == "worker"
                )
            ),
            post=SimpleNamespace(on=lambda *_, **__: None),
            topics=SimpleNamespace(stop="stop"),
            audited=SimpleNamespace(order=lambda *_, **__: None, refused=lambda *_, **__: None),
        )
        self.orders = Orders(node)
        self.orders.start()

    async def stop(self, name: str) -> None:
        await self.gate.wait()
        self.status[name] = ("stopped", "")

    async def start_agent(self, name: str) -> None:
        self.status[name] = ("running", "")

    @property
    def running(self) -> set[str]:
        return {name for name, (status, _) in self.status.items() if status == "running"}


async def test_resume_after_a_restart_starts_what_the_stop_ended_and_nothing_of_the_cell(tmp_path: Path) -> None:
    before = Device(tmp_path)
    before.orders._ordered = True
    await before.orders._stop_all()
    assert not before.running
    after = Device(tmp_path)
    after.status.update(dict.fromkeys("abc", ("stopped", "")))
    await after.orders._start_again()
    assert after.running == {"a", "b"}
    assert Device(tmp_path).orders._stopped == []


async def test_resume_that_overtakes_a_stop_leaves_nothing_stopped(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.orders._ordered = True
    device.gate.clear()
    stop = asyncio.create_task(device.orders._stop_all())
    await asyncio.sleep(0)
    device.orders._ordered = False
    start = asyncio.create_task(device.orders._start_again())
    await asyncio.sleep(0)
    device.gate.set()
    await asyncio.gather(stop, start)
    assert device.running == {"a", "b", "c"}


@pytest.mark.parametrize(
    "command",
    [
        cmd.Note("d1", "it was d1"),
        cmd.Remove("mlp", "d1"),
        cmd.Deploy(AgentSpec("mlp", bytes(32)), 0, "operator"),
        cmd.CancelJob("j", "d1", "why not"),
        cmd.Stop("d2", "why not"),
        cmd.Resume("d2", "why not"),
        cmd.Drain("d1", True, "d2"),
        cmd.Checkpoint("mlp", 1, bytes(32)),
    ],
    ids=lambda command: type(command).__name__,
)
async def test_worker_speaks_for_itself_only(tmp_path: Path, command: cmd.Command) -> None:
    device = Device(tmp_path)
    with pytest.raises(EdgeSwarmError, match="d2"):
        device.orders.check_may_propose("d2", cmd.encode(command))
    device.orders.check_may_propose("d2", cmd.encode(cmd.Note("d2", "it was me")))
    device.orders.check_may_propose("d1", cmd.encode(cmd.Checkpoint("mlp", 1, bytes(32))))
