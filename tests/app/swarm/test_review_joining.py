"""A device that cannot get into its cell: its own agents run, the reason is told, and it tries again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from brokers import Mosquitto
from supervised import Bench
from swarm_cells import fleet, until

from edgeswarm.app.control_ops import ControlOps
from edgeswarm.app.swarm import joining
from edgeswarm.app.swarm.dev import init_dev
from edgeswarm.app.swarm.joining import Joining
from edgeswarm.errors import LocalError
from edgeswarm.wire import messages as msg
from edgeswarm.wire.certificate import Signatory

BROKER = "mqtt://127.0.0.1:1"


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    _, states = init_dev(tmp_path / "f", 1, brokers=(BROKER,))
    made = Bench(states["d1"])
    await made.supervisor.start()
    yield made
    await made.supervisor.close()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "AGAIN_S", 0.05)


async def test_member_that_is_asked_before_it_tried_does_not_say_that_it_has_no_cell(bench: Bench) -> None:
    ops = ControlOps(bench.supervisor, lambda: None)
    Joining(bench.supervisor, ops)
    with pytest.raises(LocalError, match="not in its cell yet.*swarm status --wait"):
        await ops.answer("swarm", {"what": "members"})  # type: ignore[misc]


@pytest.mark.parametrize("kind", ["broker", "boot", "artefacts"])
async def test_what_keeps_a_device_out_is_told_and_tried_again(bench: Bench, tmp_path: Path, kind: str) -> None:
    base = bench.supervisor.settings.state_dir / "swarm"
    path = {"broker": base / "cell.toml", "boot": base / "boot", "artefacts": base / "artefacts"}[kind]
    before = path.read_text() if path.exists() else ""
    path.write_text(before.replace(BROKER, "gopher://nowhere") if before else "many")
    ops = ControlOps(bench.supervisor, lambda: None)
    swarm = Joining(bench.supervisor, ops)
    await swarm.start()
    try:
        assert swarm.node is None and bench.events("swarm_not_joined"), bench.events("swarm_fault")
        with pytest.raises(LocalError, match="not in its cell"):
            await ops.answer("swarm", {"what": "status"})  # type: ignore[misc]
        path.write_text(before) if before else path.unlink()
        await until(lambda: swarm.node is not None, "it is in its cell once the reason is gone")
        assert (await ops.answer("swarm", {"what": "status"}))["device"] == "d1"  # type: ignore[misc]
    finally:
        await swarm.close()
    assert ops.swarm is None and not bench.events("swarm_fault")


async def test_stop_that_lies_on_the_disk_is_obeyed_outside_of_the_cell(tmp_path: Path) -> None:
    made, states = init_dev(tmp_path / "f", 1, brokers=(BROKER,))
    stopped: list[str] = []

    async def stop(name: str) -> None:
        stopped.append(name)

    by = Signatory.from_seed(made.operator_seed)
    for order in (msg.SafetyStop(number=1, reason="smoke"), msg.SafetyResume(number=2, reason="gone")):
        data = msg.seal_order(order, fleet=made.fleet, cell=made.cell, public=by.public, sign=by.sign)
        (states["d1"] / "swarm" / "order").write_bytes(data)
        log: Any = SimpleNamespace(warning=lambda *_, **__: None, info=lambda *_, **__: None)
        status = {"a": ("running", ""), "b": ("stopped", "")}
        sup: Any = SimpleNamespace(settings=SimpleNamespace(state_dir=states["d1"]), status=status, stop=stop, log=log)
        await Joining(sup, SimpleNamespace())._obey()  # type: ignore[arg-type]
        assert stopped == ["a"]


async def test_device_that_ends_cleanly_is_given_up_as_after_a_last_will(broker: Mosquitto, tmp_path: Path) -> None:
    async with fleet(broker, tmp_path, 2, voters=1) as cell:
        leader = await cell.leader()
        other = next(one for one in cell.members.values() if one is not leader)
        await until(lambda: len(leader.node.replica.state.devices) == 2)
        await other.end()
        lost = await until(lambda: leader.events("device_lost"))
        assert json.loads(lost[0])["will"]
        other.node.task(other.node._look())  # what comes late is not begun
        assert not other.node._tasks
