"""Many devices of a cell in one process: each with a connection, a key and a sequence of its own, nothing behind it.

Each speaks what a real worker speaks to the others: it connects with its last will, subscribes to leader, roster, feed,
stop, last wills and its inbox, checks who leads, asks that leader once for the log, registers itself through the log,
says its status, and gives a sign of life every `period_s`.  What a device would do for itself with what it hears
(apply the log, check the roster's thousand signatures) is left out, or done once for all: that costs no other device.
The MQTT here is 3.1.1, packets as OASIS has them, as little as needed.  argv: a JSON file with what is needed.
Prints {"ready": n}, waits for a line, then prints {"registered": n, "at": moment} when all are, and numbers at the end
of its input.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgeswarm.core.cell import commands as cmd
from edgeswarm.core.cell.types import Capabilities
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.wire import cose, envelope, leadership
from edgeswarm.wire import messages as msg
from edgeswarm.wire.leadership import LeaderCertificate
from edgeswarm.wire.roster import Roster
from edgeswarm.wire.topics import Topics

ASK_AGAIN_S = 2.0
CONNECTING_MAX = 64
KEEPALIVE_S = 60


def _text(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def _packet(head: int, body: bytes) -> bytes:
    size, length = bytearray(), len(body)
    while True:
        length, low = length >> 7, length & 127
        size.append(low | (128 if length else 0))
        if not length:
            return bytes([head]) + bytes(size) + body


class Fleet:
    """What all devices of the process share."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.period_s: float = plan["period_s"]
        self.topics = Topics(plan["fleet"], plan["cell"])
        root = bytes.fromhex(plan["root"])
        data = Path(plan["roster"]).read_bytes()
        self._root = root
        self.roster = Roster.open(data, root_public=root, fleet=plan["fleet"], cell=plan["cell"])
        self._rosters = {data}
        self.port: int = plan["port"]
        self.leader = ""
        self.term = 0
        self.certificate = b""
        self.registered = 0
        self.counts = {"messages": 0, "bytes": 0, "asked": 0, "refused": 0, "lost": 0}
        self.all_registered = asyncio.Event()
        self.devices = [Device(self, name, bytes.fromhex(seed)) for name, seed in plan["devices"].items()]

    def offered(self, data: bytes) -> None:
        """The first device that hears of a newer roster checks it for all."""
        if not data or data in self._rosters:
            return
        self._rosters.add(data)
        if Roster.decode(data).version == self.roster.version + 1:
            self.roster = Roster.open(data, root_public=self._root, previous=self.roster)

    def certified(self, data: bytes) -> None:
        """The first device that hears of a leader checks it for all."""
        if data == self.certificate:
            return
        certificate = LeaderCertificate.decode(data)
        leadership.verify(certificate, self.roster)
        member = self.roster.by_number(certificate.candidate)
        assert member is not None
        self.leader, self.term, self.certificate = member.entry.device, certificate.term, data


class Device(asyncio.Protocol):
    """One connection."""

    def __init__(self, fleet: Fleet, name: str, seed: bytes) -> None:
        self.fleet, self.name = fleet, name
        self._sign = cose.signer(seed)
        self._seq = 0
        self._in = bytearray()
        self._need = 0
        self._transport: asyncio.Transport | None = None
        self._request = b""
        self._asked_leader = ""
        self.up = asyncio.Event()
        self.is_registered = False
        self._leader_topic = fleet.topics.leader.encode()
        self._roster_topic = fleet.topics.roster.encode()
        self._inbox_topic = fleet.topics.inbox(name).encode()

    # --- MQTT -------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        topics = self.fleet.topics
        will = _text(topics.gone(self.name).encode()) + _text(msg.encode(msg.Gone(1)))
        body = b"\x00\x04MQTT\x04" + bytes([2 | 4 | 8]) + KEEPALIVE_S.to_bytes(2, "big")
        client = f"{topics.fleet}.{topics.cell}.{self.name}".encode()
        transport.write(_packet(0x10, body + _text(client) + will))

    def connection_lost(self, exc: Exception | None) -> None:
        self.fleet.counts["lost"] += 1

    def data_received(self, data: bytes) -> None:
        self._in += data
        if len(self._in) < self._need:
            return
        buffer, at = bytes(self._in), 0
        self._need = 0
        while len(buffer) - at >= 2:
            size, shift, start = 0, 0, at + 1
            while start < len(buffer):
                byte = buffer[start]
                size |= (byte & 127) << shift
                start, shift = start + 1, shift + 7
                if byte < 128:
                    break
            else:
                break
            if len(buffer) - start < size:
                self._need = start - at + size
                break
            self._handle(buffer[at], buffer, start, start + size)
            at = start + size
        self._in = bytearray(buffer[at:])

    def _handle(self, head: int, buffer: bytes, start: int, end: int) -> None:
        assert self._transport is not None
        kind = head >> 4
        if kind == 3:
            counts = self.fleet.counts
            counts["messages"] += 1
            counts["bytes"] += end - start
            at = start + 2 + int.from_bytes(buffer[start : start + 2], "big")
            topic = buffer[start + 2 : at]
            if head & 6:
                self._transport.write(b"\x40\x02" + buffer[at : at + 2])
                at += 2
            try:
                if topic == self._leader_topic:
                    self._led(buffer[at:end])
                elif topic == self._roster_topic:
                    self.fleet.offered(buffer[at:end])
                elif topic == self._inbox_topic and not self.is_registered:
                    self._answered(buffer[at:end])
            except EdgeSwarmError:
                counts["refused"] += 1
        elif kind == 2:
            topics = self.fleet.topics
            body = b"\x00\x01"
            for topic, qos in (
                (topics.roster, 1),
                (topics.leader, 1),
                (topics.inbox(self.name), 1),
                (topics.stop, 1),
                (topics.feed, 0),
            ):
                body += _text(topic.encode()) + bytes([qos])
            self._transport.write(_packet(0x82, body))
        elif kind == 9:
            self.up.set()

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> None:
        self._seq += 1
        data = envelope.seal(payload, topic=topic, sender=self.name, boot=1, seq=self._seq, sign=self._sign)
        body = _text(topic.encode()) + (b"\x00\x02" if qos else b"") + data
        assert self._transport is not None
        self._transport.write(_packet(0x30 | qos << 1 | retain, body))

    def ping(self) -> None:
        if self._transport is not None:
            self._transport.write(b"\xc0\x00")

    # --- the swarm --------------------------------------------------------------------------------------------------

    def _led(self, data: bytes) -> None:
        if not data:
            return
        self.fleet.certified(data)
        if self.fleet.leader != self._asked_leader:
            self._asked_leader = self.fleet.leader
            self._ask("feed.fetch", msg.encode(msg.FeedFetch(first_index=2, entries_max=4096)))
            if not self.is_registered:
                self.register()

    def _ask(self, method: str, body: bytes) -> bytes:
        id_ = os.urandom(16)
        request = msg.Request(id=id_, method=method, deadline_ms=5000, body=body)
        self.publish(self.fleet.topics.inbox(self.fleet.leader), msg.encode(request))
        return id_

    def register(self) -> None:
        self.fleet.counts["asked"] += 1
        offer = Capabilities(
            "default", "A", "x86_64", 1024 << 20, 2000, 256, ("wasm",), ("vitals",), ("neural.compute",)
        )
        self._request = self._ask("propose", cmd.encode(cmd.RegisterDevice(self.name, 1, offer)))

    def _answered(self, data: bytes) -> None:
        fleet = self.fleet
        if len(data) > 4096 or self._request not in data:
            return  # the answer to the other question, which nobody applies here
        opened = envelope.open_(data, topic=fleet.topics.inbox(self.name), lookup=fleet.roster.lookup)
        found = msg.decode(opened.payload, kinds=msg.INBOX)
        items = [found] if not isinstance(found, msg.Batch) else [msg.decode(item) for item in found.items]
        for item in items:
            if isinstance(item, msg.Response) and item.id == self._request:
                if item.code:
                    fleet.counts["refused"] += 1
                    return
                self.is_registered = True
                fleet.registered += 1
                if fleet.registered == len(fleet.devices):
                    fleet.all_registered.set()

    def say_status(self) -> None:
        offer = msg.Capabilities("default", "A", "x86_64", 1024 << 20, 2000, 256, ("wasm",), ("vitals",))
        status = msg.DeviceStatus("online", 1, offer, msg.Load(100, 1 << 30), (), 1, self.fleet.term, 1)
        self.publish(self.fleet.topics.status(self.name), msg.encode(status), qos=1, retain=True)

    def say_health(self) -> None:
        health = msg.Health(msg.Load(100, 1 << 30), 0, 1, self.fleet.term, 1)
        self.publish(self.fleet.topics.event("low", "health"), msg.encode(health))


async def join(device: Device, gate: asyncio.Semaphore) -> None:
    loop = asyncio.get_running_loop()
    async with gate:
        await loop.create_connection(lambda: device, "127.0.0.1", device.fleet.port)
        await device.up.wait()
    device.say_status()
    while not device.is_registered:
        await asyncio.sleep(ASK_AGAIN_S * random.uniform(0.7, 1.3))
        if not device.is_registered and device.fleet.leader:
            device.register()


async def live(device: Device) -> None:
    period_s = device.fleet.period_s
    await asyncio.sleep(random.uniform(0, period_s))
    pinged = time.monotonic()
    while True:
        device.say_health()
        if time.monotonic() - pinged > KEEPALIVE_S / 2:
            pinged = time.monotonic()
            device.ping()
        await asyncio.sleep(period_s)


async def main() -> None:
    fleet = Fleet(json.loads(Path(sys.argv[1]).read_text()))
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    def say(item: object) -> None:
        sys.stdout.write(json.dumps(item) + "\n")
        sys.stdout.flush()

    say({"ready": len(fleet.devices)})
    await reader.readline()
    gate = asyncio.Semaphore(CONNECTING_MAX)
    tasks = [asyncio.create_task(join(device, gate)) for device in fleet.devices]
    tasks += [asyncio.create_task(_live_once_up(device)) for device in fleet.devices]
    await fleet.all_registered.wait()
    say({"registered": fleet.registered, "at": time.perf_counter()})
    while await reader.readline():
        say(fleet.counts)
    for task in tasks:
        task.cancel()


async def _live_once_up(device: Device) -> None:
    await device.up.wait()
    await live(device)


asyncio.run(main())
