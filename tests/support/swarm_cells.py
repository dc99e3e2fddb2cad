"""A cell of real devices: one mosquitto, one `edgeswarm run` a device, each behind a proxy of its own that can be cut.

async with cell(5) as c:            # voters: 1, 3 or 5 by the number of devices, unless voters=N
    leader = await c.wait_leader()
    c.kill("d2"); c.stop("d2"); c.cont("d2"); c.start("d2")        # SIGKILL, SIGSTOP, SIGCONT, again
    c.links["d2"].cut(); c.links["d2"].heal()                      # what was on its way comes late
    await c.place(file); await c.broker.restart()

`Member`: the same device inside the test's loop, for what only a look into it can tell; `Stranger`: a client of the
broker that says what it likes.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from brokers import Mosquitto, mosquitto
from processes import environment
from supervised import Bench, header_tree
from tier import word

from edgeswarm.app import builder, config
from edgeswarm.app.swarm import config as cell_config
from edgeswarm.app.swarm.dev import init_dev
from edgeswarm.app.swarm.node import SwarmNode
from edgeswarm.core.cell import commands as cmd
from edgeswarm.drivers import keys
from edgeswarm.drivers.control import ControlClient
from edgeswarm.drivers.mqtt.transport import Broker, Priority, Transport
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.wire import cose, envelope
from edgeswarm.wire.dev_fleet import DevFleet
from edgeswarm.wire.topics import Topics

PATIENCE_S = 25.0


async def until(look: Callable[[], Any], what: str = "", *, within_s: float = PATIENCE_S) -> Any:
    """Wait until `look()`, plain or awaitable, is true; what it gave.  Errors of ours count as not yet."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within_s
    while True:
        last = ""
        try:
            found = look()
            if isinstance(found, Awaitable):
                found = await found
            if found:
                return found
        except (EdgeSwarmError, OSError) as error:
            last = str(error)
        assert loop.time() < end, f"did not happen: {what or look} {last}"
        await asyncio.sleep(0.03)


class Link:
    """A TCP proxy between one device and the broker."""

    def __init__(self, broker_port: int) -> None:
        self._broker_port = broker_port
        self._server: asyncio.Server | None = None
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Nothing gets through any more, and nobody is told: what is said waits in the kernel and in here."""
        self._open.clear()

    def heal(self) -> None:
        self._open.set()

    async def close(self) -> None:
        self._open.set()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._open.wait()
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._broker_port)
        except OSError:
            writer.close()
            return
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                await self._open.wait()
                sink.write(data)
                await sink.drain()
            await self._open.wait()
        except OSError:
            pass
        finally:
            sink.close()


@dataclass
class Cell:
    """made: the fleet and all of its keys.  states: device -> its state directory."""

    folder: Path
    broker: Mosquitto
    made: DevFleet
    states: dict[str, Path]
    links: dict[str, Link] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def topics(self) -> Topics:
        return Topics(self.made.fleet, self.made.cell)

    # --- devices ------------------------------------------------------------------------------------------------------

    def start(self, device: str, **env: str) -> None:
        command = [
            sys.executable,
            "-m",
            "edgeswarm",
            "run",
            "--log-level",
            "debug",
            "--state",
            str(self.states[device]),
        ]
        with open(self.folder / f"{device}.log", "ab") as log:
            self.processes[device] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**environment(home=self.folder), **env}
            )

    def kill(self, device: str, number: int = signal.SIGKILL) -> None:
        """And wait for its end."""
        self.processes[device].send_signal(number)
        self.processes[device].wait(20)

    def stop(self, device: str) -> None:
        self.processes[device].send_signal(signal.SIGSTOP)

    def cont(self, device: str) -> None:
        self.processes[device].send_signal(signal.SIGCONT)

    def runs(self, device: str) -> bool:
        return device in self.processes and self.processes[device].poll() is None

    # --- asking -------------------------------------------------------------------------------------------------------

    async def call(self, device: str, what: str, **args: Any) -> Any:
        """One `swarm` question to a device's control socket."""
        return await asyncio.to_thread(self._call, device, "swarm", {"what": what, **args})

    async def op(self, device: str, op: str, **args: Any) -> Any:
        return await asyncio.to_thread(self._call, device, op, args)

    def _call(self, device: str, op: str, args: dict[str, Any]) -> Any:
        with ControlClient(self.states[device] / "run" / f"{device}.sock", timeout_s=12) as client:
            return client.call(op, **args)

    async def wait_leader(self, *, among: tuple[str, ...] = (), beside: tuple[str, ...] = ()) -> str:
        """The device that leads and that all of these know to lead; beside: devices that are not asked."""
        asked = [device for device in among or tuple(self.states) if device not in beside and self.runs(device)]

        async def look() -> str | None:
            rows = await asyncio.gather(*(self.call(device, "status") for device in asked))
            leads = [row["device"] for row in rows if row["leads"]]
            known = {row["leader"] for row in rows}
            return str(leads[0]) if len(leads) == 1 and known == set(leads) else None

        return str(await until(look, f"one leader that {asked} know"))

    async def place(self, data: bytes, *, by: str = "d1", **options: Any) -> Any:
        return await self.call(by, "place", data=data, who="an agent", **options)

    async def runs_on(self, agent: str, *, ask: str, beside: tuple[str, ...] = ()) -> str:
        """The device that the cell has placed the agent on, once it runs there."""

        async def look() -> str | None:
            device = (await self.call(ask, "whereis", agent=agent))["device"]
            if device is None or device in beside:
                return None
            return str(device) if agent in (await self.call(device, "status"))["agents"] else None

        return str(await until(look, f"{agent} runs, not on {beside}"))

    def log(self, device: str) -> str:
        return (self.folder / f"{device}.log").read_text(errors="replace")

    def events(self, device: str, name: str) -> list[dict[str, Any]]:
        lines = [line for line in self.log(device).splitlines() if line.startswith("{") and f'"{name}"' in line]
        return [row for row in map(json.loads, lines) if row["event"] == name]

    def faults(self) -> list[str]:
        """Events that say that something in us broke."""
        names = ("swarm_fault", "method_fault", "task_fault", "control_fault", "loop_fault")
        found = [str(row) for device in self.states for name in names for row in self.events(device, name)]
        return found + [device for device in self.states if "Traceback" in self.log(device)]

    def agent(self, name: str = "mlp", **changes: Any) -> bytes:
        """An agent file of the fleet's publisher."""
        publisher, _ = keys.load_or_make(self.folder / "f" / "fleet" / "publisher.key")
        return agent_file(publisher, name, **changes)

    async def close(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self.processes.values():
            try:
                await asyncio.to_thread(process.wait, 10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
        await asyncio.gather(*(link.close() for link in self.links.values()))


def agent_file(publisher: keys.SigningKey, name: str, *, hidden: int = 8, **changes: Any) -> bytes:
    tree = header_tree(name, 4, 2, hidden=(hidden,), **changes)
    model = builder.model_of(None, sizes=(4, hidden, 2), activation="relu", output_activation="linear")
    return builder.build(tree, model, key=publisher)


@asynccontextmanager
async def cell(
    count: int = 3, *, voters: int = 0, start: bool = True, options: tuple[str, ...] = (), proxies: bool = False
) -> AsyncIterator[Cell]:
    """Devices d1 .. dN, started but not waited for.  options: of mosquitto.  proxies: each device behind a `Link`."""
    folder = Path(tempfile.mkdtemp(prefix="es-", dir="/tmp"))
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        broker = await stack.enter_async_context(mosquitto("max_queued_messages 10000", *options))
        made, states = init_dev(folder / "f", count, brokers=(broker.url,), voters=voters)
        found = Cell(folder, broker, made, states)
        stack.push_async_callback(found.close)
        if proxies:
            for device in states:
                link = found.links[device] = Link(broker.port)
                await link.start()
                settings = cell_config.load(states[device])
                url = f"mqtt://127.0.0.1:{link.port}"
                cell_config.save(
                    states[device],
                    cell_config.CellConfig(settings.fleet, settings.cell, device, (url,), settings.timing),
                )
        if start:
            for device in states:
                found.start(device)
        yield found


# --- inside the loop --------------------------------------------------------------------------------------------------


class Member(Bench):
    """One device of a fleet made by `init_dev`, inside this loop; its jails are real."""

    node: SwarmNode

    async def begin(self) -> Member:
        await self.supervisor.start()
        try:
            self.node = SwarmNode(self.supervisor)
            await self.node.start()
        except BaseException:
            await self.supervisor.close()
            raise
        return self

    async def end(self) -> None:
        await self.node.close()
        await self.supervisor.close()

    @property
    def refused(self) -> dict[str, int]:
        return dict(self.node.post.refused)


@dataclass
class Fleet:
    """A few devices of one cell in this loop, and what is needed to lie to them."""

    broker: Any
    made: DevFleet
    states: dict[str, Path]
    members: dict[str, Member]

    @property
    def topics(self) -> Topics:
        return Topics(self.made.fleet, self.made.cell)

    def __getitem__(self, device: str) -> Member:
        return self.members[device]

    async def leader(self) -> Member:
        def look() -> Member | None:
            leads = [one for one in self.members.values() if one.node.leads]
            named = {one.node.peer.leader and one.node.peer.leader.device for one in self.members.values()}
            return leads[0] if len(leads) == 1 and named == {leads[0].node.config.device} else None

        found = await until(look, "one leader that all know")
        assert isinstance(found, Member)
        return found

    def seal(self, device: str, topic: str, payload: bytes, *, boot: int = 1, seq: int = 1 << 40) -> bytes:
        """As this device would, with its key."""
        sign = cose.signer(self.made.device_seeds[device])
        return envelope.seal(payload, topic=topic, sender=device, boot=boot, seq=seq, sign=sign)


@asynccontextmanager
async def fleet(
    broker: Any, folder: Path, count: int = 1, *, voters: int = 0, start: int | None = None
) -> AsyncIterator[Fleet]:
    """The first `start` (all) devices of a cell of `count`, inside this loop, at a broker that runs."""
    made, states = init_dev(folder / "f", count, brokers=(broker.url,), voters=voters)
    found = Fleet(broker, made, states, {})
    try:
        for device in list(states)[: count if start is None else start]:
            found.members[device] = member(states[device])
            await found.members[device].begin()
        yield found
    finally:
        for one in found.members.values():
            await one.end()


def member(state: Path) -> Member:
    return Member(state)


class Stranger:
    """A client of the broker that belongs to no cell."""

    def __init__(self, url: str, name: str = "stranger") -> None:
        self.transport = Transport([Broker.from_url(url)], client_id=name + os.urandom(4).hex())

    async def __aenter__(self) -> Stranger:
        await self.transport.start(10)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.transport.close()

    async def says(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Returns when the broker has it."""
        await self.transport.publish_acked(topic, payload, deadline_s=10, retain=retain, priority=Priority.HIGH)

    async def hears(self, topic_filter: str) -> list[Any]:
        """A list that fills with what is said there."""
        heard: list[Any] = []
        await self.transport.subscribe(topic_filter, heard.append, qos=1)
        return heard


async def commits(device: Member, text: str = "still here") -> int:
    """The cell takes a command: its index."""
    index, _ = await device.node.propose(cmd.encode(cmd.Note(device.node.config.device, text)))
    return int(index)


def settings_of(state: Path) -> Any:
    return config.load(state=state, flags={}, environ=word())


within = partial(until, within_s=10.0)
