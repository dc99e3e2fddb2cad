"""`edgeswarm run`: a supervisor, its control socket, its metrics, until a signal or the op `shutdown` ends it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence

from edgeswarm.app import report
from edgeswarm.app.config import Settings
from edgeswarm.app.control_ops import ControlOps
from edgeswarm.app.log import Log
from edgeswarm.app.supervisor import Supervisor
from edgeswarm.drivers.control import ControlServer
from edgeswarm.drivers.metrics_http import MetricsServer


async def serve(settings: Settings, log: Log, *, deploy: Sequence[tuple[str, bytes]] = ()) -> int:
    """Run until told to end; the process's exit code.  deploy: [(where from, agent file)] beside what is kept.

    Raises LocalError if another supervisor runs on the state directory, TierError where no jail can be made.
    """
    ended = asyncio.Event()
    log.listen("edgeswarm.drivers")
    supervisor = Supervisor(settings, log=log)
    control = ControlServer(settings.socket_path, ControlOps(supervisor, ended.set).answer)
    metrics = MetricsServer(settings.profile.metrics.port, lambda: report.metrics(supervisor))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    await control.start()
    try:
        await supervisor.start()
        await metrics.start()
        fresh = [(who, data) for who, data in deploy if not supervisor.is_deployed(data)]
        if fresh:
            await supervisor.deploy(fresh)
        log.info("control_listening", path=str(settings.socket_path), metrics_port=settings.profile.metrics.port)
        await ended.wait()
    finally:
        await metrics.close()
        await control.close()
        await supervisor.close()
    return 0
