"""The daemon's way into its cell.  What keeps it out is told, and tried again; the device's own agents run meanwhile.

A device that is kept out obeys the last safety stop that it knew all the same: the order lies on its disk.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from edgeswarm.app.control_ops import ControlOps
from edgeswarm.app.supervisor import Supervisor
from edgeswarm.app.swarm import config as cell_config
from edgeswarm.errors import CodecError, EdgeSwarmError

if TYPE_CHECKING:
    from edgeswarm.app.swarm.node import SwarmNode

AGAIN_S, AGAIN_S_MAX = 5.0, 300.0


class Joining:
    """node: this device's part in its cell, once it is in it."""

    def __init__(self, supervisor: Supervisor, ops: ControlOps) -> None:
        self._supervisor, self._ops = supervisor, ops
        self.node: SwarmNode | None = None
        self._task: asyncio.Task[None] | None = None
        if cell_config.is_member(supervisor.settings.state_dir):
            ops.no_swarm = "this device is not in its cell yet: it starts; `edgeswarm swarm status --wait 30` waits"

    async def start(self) -> None:
        """Returns after the first try, however it ended."""
        if not await self._try(AGAIN_S):
            await self._obey()
            self._task = asyncio.create_task(self._again())

    async def close(self, *, leaving: bool = False) -> None:
        """leaving: see `SwarmNode.close`."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._ops.swarm = None
        node, self.node = self.node, None
        if node is not None:
            await node.close(leaving=leaving)

    async def _again(self) -> None:
        wait_s = AGAIN_S
        while True:
            await asyncio.sleep(wait_s)
            wait_s = min(AGAIN_S_MAX, 2 * wait_s)
            if await self._try(wait_s):
                return

    async def _try(self, again_s: float) -> bool:
        """Whether this device is in its cell now."""
        from edgeswarm.app.swarm.control import SwarmControl
        from edgeswarm.app.swarm.node import SwarmNode

        log, node = self._supervisor.log, None
        try:
            node = SwarmNode(self._supervisor)
            await node.start()
        except Exception as error:  # a fault of ours, too, must not end the agents that run here
            if isinstance(error, (EdgeSwarmError, OSError)):
                log.error("swarm_not_joined", error=str(error), again_s=again_s)
            else:
                log.crash("swarm_fault", error)
            self._ops.no_swarm = f"this device is not in its cell: {error}; tried again every {again_s:g} s"
            if node is not None:
                await node.close()
            return False
        except BaseException:
            if node is not None:
                await node.close()
            raise
        self.node, self._ops.swarm = node, SwarmControl(node)
        return True

    async def _obey(self) -> None:
        """The order was verified before it was written; who may change this file may stop the agents anyway."""
        from edgeswarm.wire import cose
        from edgeswarm.wire import messages as msg

        sup = self._supervisor
        try:
            data = (cell_config.folder(sup.settings.state_dir) / "order").read_bytes()
            payload = cose.parse1(data, who="order").payload
            if not isinstance(msg.decode(payload or b"", who="order", kinds=(msg.SafetyStop,)), msg.SafetyStop):
                return
        except FileNotFoundError:
            return
        except (CodecError, OSError) as error:  # a resume, or damaged
            sup.log.info("no_stop_on_disk", error=str(error))
            return
        sup.log.warning("safety_stop", reason="this device is not in its cell, and the last order was to stop")
        for name, (status, _) in list(sup.status.items()):
            if status in ("stopped", "failed", "quarantined", "removed"):
                continue
            try:
                await sup.stop(name)
            except EdgeSwarmError as error:
                sup.log.error("agent_not_stopped", agent=name, error=str(error))
