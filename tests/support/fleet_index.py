"""A controller with nothing but an index: a fake post, a fake roster, a replica; and rows for a store of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from edgeswarm.app.fleet.index import Index
from edgeswarm.app.fleet.index_rows import AgentRow, HeardRow, MemberRow
from edgeswarm.app.log import Log
from edgeswarm.app.swarm.config import TIMINGS
from edgeswarm.app.swarm.post import Letter
from edgeswarm.core.cell.types import Capabilities
from edgeswarm.core.selector import Device
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.wire import messages as msg
from edgeswarm.wire import topics as tp
from edgeswarm.wire.topics import Topics

TOPICS = Topics("plant", "hall")
NOW = 1_800_000_000
DIGEST = bytes(range(32))


def member_row(device: str, role: str = "worker", grants: tuple[str, ...] = (), number: int = 1) -> MemberRow:
    return MemberRow(device, role, number, grants, 1, NOW - 100, NOW + 30 * 86_400)


def heard_row(device: Device, seen_s: int = NOW, **facts: Any) -> HeardRow:
    """What the device of a selector says of itself."""
    agents = tuple(AgentRow(name, DIGEST.hex(), "ready", 1, 0) for name in device.agents)
    said = {"tier": device.tier or "C", "profile": device.profile, "architecture": device.architecture}
    said |= {"software": device.software, "agents": len(agents), **facts}
    return HeardRow(device.id, seen_s, "online", said, device.delegates, device.sensors, agents)


def status(state: Any = "online", **changes: Any) -> msg.DeviceStatus:
    has = msg.Capabilities(
        profile="rpi-5",
        tier="B",
        architecture="aarch64",
        memory_bytes=2 << 30,
        cpu_milli=4_000,
        agents_max=64,
        delegates=("wasm",),
        sensors=("vitals",),
        software="edgeswarm 0.1.0",
    )
    made = msg.DeviceStatus(
        state=state,
        uptime_s=10,
        capabilities=has,
        load=msg.Load(cpu_milli=400, memory_free_bytes=1 << 30, temperature_c=48.5),
        agents=(msg.RunningAgent("fuse", DIGEST, "ready", 3, 1),),
        roster_version=1,
        term=1,
        applied=7,
    )
    return replace(made, **changes)


class FakeController:
    """devices: id -> (role, grants).  said: what a device of the roster says on a topic goes to who listens."""

    def __init__(self, path: Path, devices: dict[str, tuple[str, tuple[str, ...]]]) -> None:
        self.folder: Any = SimpleNamespace(database=path / "fleet.db", path=path)
        self.log = Log(stream=None, level="debug")
        self.one: dict[str, Any] = {}
        self.many: dict[str, Any] = {}
        self.needs: dict[str, str] = {}
        self.audit: Any = None
        self.now = float(NOW)
        self.refused: list[EdgeSwarmError] = []
        self.proposed: list[Any] = []
        self.answers: dict[str, Callable[[bytes], bytes]] = {}
        self._handlers: list[tuple[str, Callable[[Letter], None]]] = []
        state = SimpleNamespace(
            labels={}, agents={}, rollouts={}, devices={}, stop=None, agents_on=lambda device: (), desired=lambda _: ()
        )
        self.node: Any = SimpleNamespace(
            config=SimpleNamespace(fleet="plant", cell="hall", device="controller", times=TIMINGS["lan"]),
            topics=TOPICS,
            log=self.log,
            post=SimpleNamespace(on=self._on, refused={}),
            replica=SimpleNamespace(state=state, index=5, listeners=[], restored=[]),
            rosters=SimpleNamespace(current=None),
            transport=SimpleNamespace(is_connected=True, url="mqtts://broker", stats=dict),
            reports=SimpleNamespace(capabilities=lambda: Capabilities("default", "A", "x86_64")),
            peer=SimpleNamespace(call=self._call, leader=None, methods={}, term_seen=1),
            supervisor=SimpleNamespace(log=self.log),
            uptime_s=5,
            propose=self._propose,
            barrier=self._barrier,
        )
        self.roster(devices)
        self.index: Any = Index(self, clock=lambda: self.now)  # type: ignore[arg-type]

    # --- the cell -----------------------------------------------------------------------------------------------------

    def roster(self, devices: dict[str, tuple[str, tuple[str, ...]]], version: int = 1) -> None:
        certificate = SimpleNamespace(serial=1, not_before_s=NOW - 100, not_after_s=NOW + 86_400)
        members = [
            SimpleNamespace(
                entry=SimpleNamespace(device=device, role=role, number=at, capabilities=grants),
                keys=[SimpleNamespace(certificate=certificate)],
            )
            for at, (device, (role, grants)) in enumerate(devices.items(), 1)
        ]
        self.node.rosters.current = SimpleNamespace(
            members=members,
            version=version,
            devices=lambda: tuple(devices),
            role=lambda device: devices.get(device, (None, ()))[0],
            member=lambda device: next((one for one in members if one.entry.device == device), None),
            may=lambda device, capability: capability in devices.get(device, ("", ()))[1],
        )

    def changed(self, *changes: Any) -> None:
        for listener in self.node.replica.listeners:
            listener(changes)

    async def _propose(self, command: bytes, **_: Any) -> tuple[int, Any]:
        self.proposed.append(command)
        return 9, None

    async def _barrier(self) -> None:
        pass

    async def _call(self, device: str, method: str, body: bytes = b"", **_: Any) -> bytes:
        return self.answers[f"{device} {method}"](body)

    # --- what devices say ---------------------------------------------------------------------------------------------

    def _on(self, topic_filter: str, handler: Callable[[Letter], None], **_: Any) -> Callable[[], None]:
        item = (topic_filter, handler)
        self._handlers.append(item)
        return lambda: self._handlers.remove(item)

    def says(self, sender: str, topic: str, message: msg.Message, *, retained: bool = False) -> None:
        letter = Letter(tp.parse(topic), sender, 1, 1, msg.encode(message), retained)
        for topic_filter, handler in list(self._handlers):
            if _covers(topic_filter, topic):
                try:
                    handler(letter)
                except EdgeSwarmError as error:
                    self.refused.append(error)

    def health(self, sender: str, agents: int = 1) -> None:
        message = msg.Health(load=msg.Load(cpu_milli=100), agents=agents, roster_version=1, term=1, applied=8)
        self.says(sender, TOPICS.event("low", "health"), message)


def _covers(topic_filter: str, topic: str) -> bool:
    wanted, found = topic_filter.split("/"), topic.split("/")
    return len(wanted) == len(found) and all(one in ("+", other) for one, other in zip(wanted, found, strict=True))


class FakeLink:
    """`edgeswarm.app.fleet.link.open_link` in a test: the FakeController in a loop of its own thread."""

    def __init__(self, path: Path, devices: dict[str, tuple[str, tuple[str, ...]]]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.desk: FakeController = self.run(self._make(path, devices))

    async def _make(self, path: Path, devices: dict[str, tuple[str, tuple[str, ...]]]) -> FakeController:
        from edgeswarm.app.fleet import view

        made = FakeController(path, devices)
        await made.index.start()
        view.register(made)  # type: ignore[arg-type]
        return made

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def do(self, work: Callable[[], Any]) -> None:
        """In the controller's loop, and written."""

        async def doing() -> None:
            work()
            await self.desk.index.flush()

        self.run(doing())

    def call(self, what: str, **args: Any) -> Any:
        return self.run(self.desk.one[what](args, "ann-console"))

    def follow(self, what: str, **args: Any) -> Any:
        rows = self.desk.many[what](args, "ann-console")

        async def following() -> Any:
            return await anext(rows)

        try:
            while True:
                yield self.run(following())
        finally:
            self.run(rows.aclose())

    @contextmanager
    def open(self, fleet_dir: Path | None) -> Any:
        yield self

    def close(self) -> None:
        self.run(self.desk.index.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
