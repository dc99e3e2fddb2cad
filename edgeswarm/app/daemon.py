"""`edgeswarm run`: a supervisor, its control socket, its metrics, until a signal or the op `shutdown` ends it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack

from edgeswarm.app import handover_guard, report, trial
from edgeswarm.app.config import Settings
from edgeswarm.app.control_ops import ControlOps
from edgeswarm.app.join.door import Door
from edgeswarm.app.log import Log
from edgeswarm.app.supervisor import Supervisor
from edgeswarm.app.swarm import converge_disk
from edgeswarm.app.swarm.config import is_member
from edgeswarm.app.swarm.joining import Joining
from edgeswarm.app.upgrade import Upgrade
from edgeswarm.drivers.control import ControlServer
from edgeswarm.drivers.metrics_http import MetricsServer
from edgeswarm.drivers.notify import Notifier
from edgeswarm.errors import ConfigError, EdgeSwarmError, LimitError
from edgeswarm.limits import AF_FILE_BYTES_MAX


def read_file(path: str) -> bytes:
    """Bytes of an agent file of the settings.  Raises ConfigError, LimitError."""
    try:
        with open(path, "rb") as file:
            data = file.read(AF_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"settings: agents: {path}: {error.strerror}") from None
    if len(data) > AF_FILE_BYTES_MAX:
        raise LimitError(f"{path}: an agent file has at most {AF_FILE_BYTES_MAX} bytes")
    return data


async def bring(supervisor: Supervisor, files: Sequence[tuple[str, bytes]]) -> None:
    """What is not deployed is, together; an agent that was kept in another version is swapped to the one named here."""
    fresh: list[tuple[str, bytes]] = []
    for who, data in files:
        name = supervisor.shelf.admit(data, who=who).plan.name
        if supervisor.is_deployed(data) or any(data == other for _, other in fresh):
            continue
        if name in supervisor.node.table.agents:
            await supervisor.swap(name, who, data)
        else:
            fresh.append((who, data))
    if fresh:
        await supervisor.deploy(fresh)


async def bring_settings(supervisor: Supervisor, paths: Sequence[str]) -> None:
    """The agents of the settings.  One that cannot run is logged: it keeps the others from nothing."""
    good: list[tuple[str, bytes]] = []
    for path in paths:
        try:
            data = read_file(path)
            supervisor.shelf.admit(data, who=path)
            good.append((path, data))
        except EdgeSwarmError as error:
            supervisor.log.error("agent_not_deployed", file=path, error=str(error))
    try:
        await bring(supervisor, good)
        if good:
            supervisor.audit.record("agent.deploy", who="settings", target=" ".join(who for who, _ in good))
    except EdgeSwarmError as error:
        supervisor.log.error("agent_not_deployed", error=str(error))
        supervisor.audit.record("agent.deploy", who="settings", outcome="failed", reason=str(error))


async def serve(
    settings: Settings, log: Log, *, deploy: Sequence[tuple[str, bytes]] = (), arguments: Sequence[str] = ()
) -> int:
    """Run until told to end; the process's exit code.  What an earlier version hands over is gone on with.

    deploy: [(where from, agent file)] beside what is kept and what the settings name; they must run, or nothing does.
    arguments: of the command line, from `run` on, for a program that takes over.
    Raises LocalError if another supervisor runs on the state directory, TierError where no jail can be made.
    """
    ended = asyncio.Event()
    log.listen("edgeswarm.drivers")
    supervisor = Supervisor(settings, log=log, own_process=True)
    ops = ControlOps(supervisor, ended.set)
    control = ControlServer(settings.socket_path, ops.answer)
    metrics = MetricsServer(settings.profile.metrics.port, lambda: report.metrics(supervisor))
    notifier = Notifier.of(os.environ)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    if handover_guard.current is None:
        await control.start()
    async with AsyncExitStack() as ends:  # whatever one of them raises, the others end
        ends.push_async_callback(supervisor.close)
        watch = asyncio.create_task(notifier.watch())  # from the first: a start after a hand-over is watched already
        ends.callback(watch.cancel)
        swarm = Joining(supervisor, ops)
        ends.push_async_callback(swarm.close)
        door = Door(supervisor, ops, swarm, control)
        ends.push_async_callback(door.close)
        ends.push_async_callback(control.close)
        ends.push_async_callback(metrics.close)
        upgrade = Upgrade(
            supervisor, ops, arguments=arguments, ended=ended, swarm=swarm, control=control, notifier=notifier
        )
        ends.push_async_callback(upgrade.close)
        if upgrade.arrives:
            await upgrade.arrive(metrics.start)
        else:
            await converge_disk.look(settings, log)
            await supervisor.start()
            await metrics.start()
            await bring(supervisor, deploy)
            await bring_settings(supervisor, settings.place.agents)
            confirmed = asyncio.create_task(trial.confirm(log))
            ends.callback(confirmed.cancel)
        ends.callback(notifier.stopping)
        notifier.ready(f"{settings.device}: the control socket listens")  # a broker may be long in coming
        if is_member(settings.state_dir):
            await swarm.start()
        await door.start()
        log.info(
            "control_listening", path=str(supervisor.settings.socket_path), metrics_port=settings.profile.metrics.port
        )
        await ended.wait()
    return 0
