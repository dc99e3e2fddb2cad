"""Certificates are renewed with a new key: by themselves, without a restart, without a lost message, after a year off."""

from __future__ import annotations

import asyncio
from pathlib import Path

from rotation_rig import rig
from swarm_cells import until

from edgeswarm.drivers import keys
from edgeswarm.drivers.pki import x509


async def test_device_at_day_21_renews_by_itself_and_goes_on(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        state = await r.add("d1", age_days=25)
        old = keys.load_or_make(state / "keys" / "device.key")[0].public
        member = await r.begin("d1")
        await r.up("d1")
        await until(lambda: member.node.rotation.files.certificate.exists() and r.roster.lookup("d1") != old, "renewed")
        await until(lambda: keys.load_or_make(state / "keys" / "device.key")[0].public == r.roster.lookup("d1"), "key")
        await until(
            lambda: not (state / "keys" / "device.key.old").exists(), "the old key goes once the new one worked"
        )
        assert x509.public_of((state / "swarm" / "device.crt").read_bytes()) == r.roster.lookup("d1")
        assert not list(state.glob("**/*.next")) and not (state / "swarm" / "next.crt").exists()
        await r.note("d1", "after")
        stats = member.node.transport.stats()["control"]
        assert (stats["losses"], stats["connects"]) == (0, 2)
        before = r.roster.version
        await r.end("d1")
        member = await r.begin("d1")
        await r.note("d1", "after a restart")
        await asyncio.sleep(0.3)
        assert r.roster.version == before
