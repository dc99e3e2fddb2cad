"""`edgeswarm fleet serve`: the controller's device, its parts, its control socket, until a signal ends it.

Decides nothing.  The parts start once the device is in its cell and the cell has the feature version that they need;
what they lack (the broker, a quorum) they wait for, and say so in the log.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from edgeswarm.app.control_ops import ControlOps
from edgeswarm.app.fleet.controller import Controller
from edgeswarm.app.fleet.folder import FleetFolder
from edgeswarm.app.log import Log
from edgeswarm.app.supervisor import Supervisor
from edgeswarm.app.swarm.joining import Joining
from edgeswarm.core.cell import commands as cmd
from edgeswarm.drivers.control import ControlServer
from edgeswarm.errors import EdgeSwarmError

VERSION_NEEDED = 3
WAIT_S = 0.2


async def serve(folder: FleetFolder, log: Log, *, with_broker: bool = False, on_alert: str = "") -> int:
    """Run until told to end; the process's exit code.  with_broker: run the fleet's mosquitto as well.

    Raises ConfigError, LocalError where a controller runs already, TierError where no jail can be made.
    """
    from edgeswarm.app import config

    ended = asyncio.Event()
    log.listen("edgeswarm.drivers")
    settings = config.load(
        state=folder.controller, file=Path(os.devnull)
    )  # a device's settings are not the controller's
    supervisor = Supervisor(settings, log=log)
    ops = ControlOps(supervisor, ended.set)
    control = ControlServer(settings.socket_path, ops.answer)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    await control.start()
    async with AsyncExitStack() as ends:
        ends.push_async_callback(supervisor.close)
        joining = Joining(supervisor, ops)
        ends.push_async_callback(joining.close)
        ends.push_async_callback(control.close)
        await supervisor.start()
        from edgeswarm.app.fleet import broker_guard

        if with_broker:
            await ends.enter_async_context(broker_guard.run_broker(folder, log))
        else:  # an expired revocation list would keep the controller out as well
            await asyncio.to_thread(broker_guard.refresh, folder, log)
        await joining.start()
        begun = asyncio.create_task(_begin(folder, supervisor, joining, ops, on_alert, ends))
        log.info("control_listening", path=str(settings.socket_path))
        waiting = asyncio.create_task(ended.wait())
        await asyncio.wait({begun, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if begun.done():
            begun.result()  # a fault in a part ends the controller: a service manager starts it again
            await waiting
        begun.cancel()
        waiting.cancel()
        await asyncio.gather(begun, waiting, return_exceptions=True)
    return 0


async def _begin(
    folder: FleetFolder,
    supervisor: Supervisor,
    joining: Joining,
    ops: ControlOps,
    on_alert: str,
    ends: AsyncExitStack,
) -> None:
    """Start the parts as soon as they can work."""
    while (node := joining.node) is None or node.replica.state.version < VERSION_NEEDED:  # noqa: ASYNC110
        await asyncio.sleep(WAIT_S)
    controller = Controller(folder, node, supervisor.log)
    await start_parts(controller, ends, on_alert=on_alert)
    ops.serve(one={"fleet": controller.local}, many={"fleet_follow": controller.local_follow})
    controller.listen()
    supervisor.log.info("controller_ready", fleet=folder.config.fleet, cell=folder.config.cell)


async def start_parts(controller: Controller, ends: AsyncExitStack, *, on_alert: str = "") -> None:
    """The parts, in the order of their needs; `ends` closes them."""
    from edgeswarm.app.fleet import broker_guard, issuer, overview, revocation, root_rotation, rotation, view, waves

    controller.audit = controller.node.supervisor.audit
    ends.push_async_callback(controller.close)
    overview.register(controller)
    guard = broker_guard.register(controller)
    ends.push_async_callback(guard.close)
    await guard.start()
    issuing = issuer.register(controller)
    ends.push_async_callback(issuing.close)
    issuing.start()
    ends.push_async_callback(rotation.register(controller).close)
    root_rotation.register(controller)
    ends.push_async_callback(revocation.register(controller).close)
    for close in await view.start(controller, on_alert=on_alert):
        ends.push_async_callback(close)
    rollouts = waves.register(controller)
    rollouts.start()
    ends.push_async_callback(rollouts.close)
    await _drain(controller)


async def _drain(controller: Controller) -> None:
    """The cell places nothing on the controller: it may be down at any time."""
    node = controller.node
    device = node.config.device
    known = node.replica.state.devices.get(device)
    if known is not None and known.drained:
        return
    for _ in range(50):
        with suppress(EdgeSwarmError):
            await node.propose(cmd.encode(cmd.Drain(device, True, device)))
            return
        await asyncio.sleep(WAIT_S)
