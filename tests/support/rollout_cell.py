"""A leader inside the test's loop and real daemons beside it: what rollouts do to a device that may be killed.

async with rollout_cell(1) as c:
    c.start("d2", EDGESWARM_CUT="swapped"); plan = await c.roll(data, "d2"); await c.dead("d2"); c.start("d2")
    await c.comes_to("d2", plan, "healthy")
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from brokers import Mosquitto, mosquitto
from rollouts import advance_command, plan_of, start_command, steer_command
from swarm_cells import Cell, Fleet, Link, Member, agent_file, fleet, until

from edgeswarm.app.swarm import config as cell_config
from edgeswarm.app.swarm.post import Letter
from edgeswarm.drivers import keys
from edgeswarm.wire import messages as msg
from edgeswarm.wire.rollout import Gate, Plan

GATE = Gate(healthy_s=1, pause_s=0)


@dataclass
class RolloutCell(Cell):
    """d1 leads, in this loop; the others are daemons."""

    fleet: Any = None
    reported: dict[str, dict[str, msg.RolloutRow]] = field(default_factory=dict)
    number: int = 0

    @property
    def leader(self) -> Member:
        found: Fleet = self.fleet
        return found["d1"]

    def version(self, number: int, **changes: Any) -> bytes:
        publisher, _ = keys.load_or_make(self.folder / "f" / "fleet" / "publisher.key")
        return agent_file(publisher, "pump", agent_version=f"1.0.{number}", **changes)

    async def ask(self, command: bytes) -> None:
        await until(lambda: self.leader.node.replica.state.version >= 3, "feature version 3")
        await self.leader.node.propose(command)

    async def roll(self, data: bytes, *devices: str, put: bool = True, **changes: Any) -> Plan:
        """The next rollout: this file to these devices."""
        if put:
            await self.leader.node.artefacts.put(data)
        self.number += 1
        plan = plan_of(data, self.number, **{"gate": GATE, **changes})
        await self.ask(start_command(self.made, plan))
        await self.ask(advance_command(plan, *devices))
        return plan

    async def end(self, plan: Plan, state: str = "done", why: str = "") -> None:
        await self.ask(steer_command(self.made, plan, state, why, signed=state != "done"))

    def row(self, device: str, plan: Plan) -> msg.RolloutRow | None:
        return self.reported.get(device, {}).get(plan.rollout)

    async def comes_to(self, device: str, plan: Plan, state: str, *, within_s: float = 40.0) -> msg.RolloutRow:
        def look() -> msg.RolloutRow | None:
            row = self.row(device, plan)
            return row if row is not None and row.state == state else None

        found = await until(look, f"{device} {state}: {self.reported.get(device)}", within_s=within_s)
        assert isinstance(found, msg.RolloutRow)
        return found

    async def dead(self, device: str) -> None:
        """Its process has ended itself, as a power cut would."""
        code = await asyncio.to_thread(self.processes[device].wait, 40)
        assert code == -signal.SIGKILL, f"{device} ended with {code}: {self.log(device)[-2000:]}"

    async def works(self, device: str) -> str:
        """Waits until some version runs there and answers; which one."""

        async def look() -> str | None:
            found = await self.op(device, "status")
            return next(
                (a["version"] for a in found["agents"] if a["name"] == "pump" and a["status"] == "running"), None
            )

        return str(await until(look, f"a version runs on {device}", within_s=40))

    def log(self, device: str) -> str:
        return super().log(device) if (self.folder / f"{device}.log").exists() else ""

    def _heard(self, letter: Letter) -> None:
        state = msg.decode(letter.payload, kinds=(msg.ReportedState,))
        assert isinstance(state, msg.ReportedState)
        self.reported[letter.sender] = {row.rollout: row for row in state.rollouts}


@asynccontextmanager
async def rollout_cell(count: int = 1, *options: str, proxies: bool = False) -> AsyncIterator[RolloutCell]:
    """d1 leads; d2 .. are not started.  proxies: each of them behind a Link."""
    folder = Path(tempfile.mkdtemp(prefix="es-", dir="/tmp"))
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        broker: Mosquitto = await stack.enter_async_context(mosquitto(*options))
        made = await stack.enter_async_context(fleet(broker, folder, count + 1, voters=1, start=1))
        found = RolloutCell(folder, broker, made.made, made.states, fleet=made)
        stack.push_async_callback(found.close)
        await made.leader()
        node = found.leader.node
        node.post.on(node.topics.statuses().replace("/status", "/reported"), found._heard, qos=1)
        if proxies:
            for device in list(made.states)[1:]:
                link = found.links[device] = Link(broker.port)
                await link.start()
                old = cell_config.load(made.states[device])
                url = f"mqtt://127.0.0.1:{link.port}"
                new = cell_config.CellConfig(old.fleet, old.cell, device, (url,), old.timing)
                cell_config.save(made.states[device], new)
        yield found
