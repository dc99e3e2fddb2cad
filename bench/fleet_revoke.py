"""How long is a revoked device heard?  Real mosquitto, mutual TLS, a controller and a peer that listens.

Each round: a device with a live session speaks every 10 ms while it is revoked.  `refused` is from the operator's
command until the last message that the peer has accepted, `ended` until the broker has ended the session.  The device
then tries to come back; that must fail.

    python bench/fleet_revoke.py [--rounds 20] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from rotation_rig import Rig, rig
from swarm_cells import until

from edgeswarm.drivers.mqtt.transport import Broker, LinkError, Priority, TlsFiles, Transport
from edgeswarm.wire import cose, envelope


def thief_of(r: Rig, device: str) -> Transport:
    folder = r.state(device) / "swarm"
    tls = TlsFiles(folder / "ca.crt", folder / "device.crt", folder / "device.pem")
    broker = Broker.from_url(r.folder.config.brokers[0], tls=tls)
    return Transport([broker], client_id=f"{device}-{os.urandom(4).hex()}")


async def one(r: Rig, device: str, heard: dict[str, float]) -> tuple[float, float, bool]:
    """(refused, ended) in seconds, and whether it stayed out."""
    transport, sign = thief_of(r, device), cose.signer(r.seeds[device])
    topic, seq = r.controller.node.topics.event("low", "health"), 0

    def say() -> None:
        nonlocal seq
        seq += 1
        sealed = envelope.seal(b"x", topic=topic, sender=device, boot=1, seq=seq, sign=sign)
        transport.publish(topic, sealed, priority=Priority.HIGH, qos=1)

    async def talk() -> None:
        while True:
            say()
            await asyncio.sleep(0.01)

    async with transport:
        await transport.connected(10)
        talking = asyncio.create_task(talk())
        await until(lambda: device in heard, "it is heard")
        data = r.revocation(device)
        asked = time.monotonic()
        revoking = asyncio.create_task(r.controller.revoker.revoke({"data": data, "reason": "bench"}, "bench"))
        while transport.is_connected:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        ended = time.monotonic() - asked
        await revoking
        await asyncio.sleep(0.2)
        talking.cancel()
    stayed_out = False
    try:
        again = thief_of(r, device)
        await again.start(1.0)
    except LinkError:
        stayed_out = True
    finally:
        await again.close()
    return heard[device] - asked, ended, stayed_out


async def run(rounds: int) -> dict[str, Any]:
    heard: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="es-revoke-") as folder:
        async with rig(Path(folder)) as r:
            await r.add("listener")
            for number in range(rounds):
                await r.add(f"d{number}")
            listener = await r.begin("listener")
            await r.up("listener")
            listener.node.post.on(
                listener.node.topics.event("low", "health"),
                lambda letter: heard.__setitem__(letter.sender, time.monotonic()),
            )
            found = [await one(r, f"d{number}", heard) for number in range(rounds)]
    refused, ended, out = zip(*found, strict=True)
    return {
        "bench": "fleet_revoke",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "rounds": rounds,
        "refused_ms": _spread(refused),
        "ended_ms": _spread(ended),
        "stayed_out": sum(out),
    }


def _spread(values: tuple[float, ...]) -> dict[str, float]:
    ms = sorted(round(max(0.0, value) * 1000, 1) for value in values)
    return {"p50": statistics.median(ms), "max": ms[-1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = asyncio.run(run(arguments.rounds))
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    print(f"{found['rounds']} revocations, {found['machine']}; ms after the operator's command")
    for key, text in (("refused_ms", "last message accepted by a peer"), ("ended_ms", "live session ended")):
        print(f"  {text:34} p50 {found[key]['p50']:8.1f}   max {found[key]['max']:8.1f}")
    print(f"  {'stayed out':34} {found['stayed_out']} of {found['rounds']}")


if __name__ == "__main__":
    main()
