"""kill -9 at any moment of a rotation, over and over: every device connects again, with the key of the roster."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from processes import environment
from rotation_rig import Rig, rig
from swarm_cells import until

from edgeswarm.app.audit import verify
from edgeswarm.drivers import keys

CUTS = int(os.environ.get("ROTATION_CUTS", "200"))
AT_A_TIME = 4
PATIENCE_S = 90.0


def start(r: Rig, device: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "edgeswarm", "run", "--state", str(r.state(device))]
    with open(r.home / f"{device}.log", "ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(home=r.home))


async def cut(r: Rig, device: str, after_s: float) -> None:
    process = start(r, device)
    try:
        await asyncio.sleep(after_s)
        process.kill()
        await asyncio.to_thread(process.wait)
        process = start(r, device)
        key = r.state(device) / "keys" / "device.key"

        def whole() -> bool:
            member = r.roster.member(device)
            assert member is not None
            known = r.controller.node.replica.state.devices.get(device)
            return (
                member.keys[-1].certificate.serial == 2
                and keys.load_or_make(key)[0].public == member.public
                and not key.with_name("device.key.old").exists()
                and known is not None
                and known.alive
            )

        await until(whole, f"{device}, cut after {after_s:.2f} s, works with its new key", within_s=PATIENCE_S)
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait)
    fault = verify(r.state(device) / "audit")[0]
    assert fault is None, fault


@pytest.mark.soak
async def test_killed_at_any_moment_of_a_rotation_every_device_works_again(tmp_path: Path) -> None:
    seed = int(os.environ.get("SEED", "0")) or random.randrange(1 << 32)
    rng, done = random.Random(seed), 0
    async with rig(tmp_path) as r:
        while done < CUTS:
            devices = [f"d{number}" for number in range(done, min(CUTS, done + AT_A_TIME))]
            for device in devices:
                await r.add(device, age_days=25)
            await asyncio.gather(*(cut(r, device, rng.uniform(0.8, 8.0)) for device in devices))
            done += len(devices)
    sys.stdout.write(f"{done} cuts, {done} working devices, seed {seed}\n")
