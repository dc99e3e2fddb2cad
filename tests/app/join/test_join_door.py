"""A daemon that runs enters a fleet and leaves it without a restart, by command and by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from join_rig import JoinRig, join_rig
from supervised import Bench
from swarm_cells import until
from tier import word

from edgeswarm.app import config
from edgeswarm.app.daemon import serve
from edgeswarm.app.join import folder, source
from edgeswarm.app.join.run import JoinRefusedError
from edgeswarm.app.log import Log
from edgeswarm.app.swarm import config as cell_config
from edgeswarm.drivers.control import ControlClient, ControlError
from edgeswarm.errors import LocalError
from edgeswarm.wire import token as wire


class Daemon:
    """`edgeswarm run` in this loop."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.log = Log(stream=None, level="debug")

    @property
    def socket(self) -> Path:
        return config.load(state=self.state, environ={}).socket_path

    def _call(self, op: str, args: dict[str, Any]) -> Any:
        with ControlClient(self.socket, timeout_s=60) as client:
            return client.call(op, **args)

    async def op(self, op: str, **args: Any) -> Any:
        return await asyncio.to_thread(self._call, op, args)

    def _shutdown(self) -> None:
        """By whatever name it listens."""
        for path in (self.state / "run").glob("*.sock"):
            with ControlClient(path, timeout_s=10) as client:
                client.call("shutdown")

    def events(self, name: str) -> list[str]:
        return [line for line in self.log.ring.lines if f'"event":"{name}"' in line]


@asynccontextmanager
async def daemon(state: Path) -> AsyncIterator[Daemon]:
    found = Daemon(state)
    task = asyncio.create_task(serve(config.load(state=state, environ=word()), found.log))
    try:
        await until(lambda: found.events("control_listening") or task.done(), "it listens")
        yield found
    finally:
        await asyncio.to_thread(found._shutdown)
        assert await asyncio.wait_for(task, 30) == 0


async def knows(rig: JoinRig, device: str) -> None:
    """The cell has heard the device's daemon."""
    state = rig.controller.node.replica.state
    await until(lambda: device in state.devices and state.devices[device].alive, f"{device} is in the cell")


async def test_daemon_enters_leaves_and_moves_without_a_restart(tmp_path: Path) -> None:
    """Its own agent runs through all of it; agents of a cell that it left are removed."""
    async with join_rig(tmp_path / "a") as plant, join_rig(tmp_path / "b", fleet="yard") as yard:
        state = plant.state("d")
        bench = Bench(state)
        async with daemon(state) as d:
            await d.op("deploy", files=[{"who": "mine", "data": bench.mlp("mine")}])
            await d.op("deploy", files=[{"who": "cells", "data": bench.mlp("cells")}])
            text = await plant.token(uses=5)
            done = await plant.join("gate-1", text, state=state, socket=d.socket)
            assert done["seen_by"] == "daemon" and d.socket.name == "gate-1.sock" and d.socket.exists()
            assert (await d.op("status"))["device"] == "gate-1"
            await knows(plant, "gate-1")
            assert (await d.op("swarm", what="status"))["fleet"] == "plant"

            boot = (await d.op("swarm", what="status"))["boot"]
            await plant.join("gate-1", text, state=state, socket=d.socket)  # again: another start in the same cell
            assert (await d.op("swarm", what="status"))["boot"] > boot

            (state / "swarm" / "hosted").write_text("cells")  # as if the cell had placed it here
            other = await yard.token()
            with pytest.raises(LocalError, match="--move leaves"):
                await yard.join("crane-1", other, state=state, socket=d.socket)
            done = await yard.join("crane-1", other, state=state, socket=d.socket, move=True)
            assert (done["fleet"], done["seen_by"]) == ("yard", "daemon")
            await knows(yard, "crane-1")
            rows = {row["name"]: row["status"] for row in (await d.op("status"))["agents"]}
            assert rows == {"mine": "running"} and folder.orphans(state) == []
            assert d.socket.name == "crane-1.sock"

            await d.op("swarm_leave")
            assert not cell_config.is_member(state) and not (state / "swarm").exists()
            with pytest.raises(ControlError, match="no cell"):
                await d.op("swarm", what="status")
            with pytest.raises(ControlError, match="no cell"):
                await d.op("swarm_leave")
            with pytest.raises(ControlError):
                await d.op("swarm_join", controller="controller")
            with pytest.raises(ControlError, match="controller"):
                await d.op("swarm_join", controller=5)
            assert {row["name"] for row in (await d.op("status"))["agents"]} == {"mine"}
            assert len(d.events("supervisor_started")) == 1


async def test_card_with_a_join_toml_joins_by_itself_and_blanks_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is refused is told and not tried again and again; a daemon that is told to join meanwhile does."""
    boot = tmp_path / "boot" / "join.toml"
    boot.parent.mkdir()
    monkeypatch.setattr(source, "BOOT_FILES", (boot,))
    async with join_rig(tmp_path) as rig:
        text = await rig.token()
        boot.write_text(f'token = "{text}"\nname = "gate-1"\nlabels = ["line=3"]\n')
        async with daemon(rig.state("gate-1")) as d:
            await knows(rig, "gate-1")
            await until(lambda: 'token = ""' in boot.read_text(), "the token is blanked")
            assert d.events("fleet_join") and "gate-1" in rig.issuer.seen
            await until(lambda: rig.controller.node.replica.state.labels.get("gate-1") == ("line=3",), "labels")
        async with daemon(rig.state("gate-1")) as d:
            await knows(rig, "gate-1")
            assert not d.events("joining"), "it is a member"

        boot.write_text(f'token = "{text}"\nname = "gate-2"\n')
        async with daemon(rig.state("gate-2")) as d:
            await until(lambda: d.events("not_joined"), "it is refused")
            assert "is used" in d.events("not_joined")[0] and wire.parse(text).secret.hex() not in str(d.log.ring.lines)
            assert text in boot.read_text(), "what did not work is left for a person to see"
            assert not [line for line in d.log.ring.lines if text.rpartition(".")[2] in line]
            with pytest.raises(JoinRefusedError):
                await rig.join("gate-2", text, socket=d.socket)
            await rig.join("gate-2", await rig.token(), socket=d.socket)
            await knows(rig, "gate-2")

        boot.write_text("token = [")
        async with daemon(rig.state("gate-3")) as d:
            assert d.events("join_file_bad") and (await d.op("ping"))["pid"]
