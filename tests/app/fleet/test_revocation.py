"""A revoked device: no message is taken, no session lives, none begins; also after broker and controller restart."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import pytest
from rotation_rig import Rig, rig
from swarm_cells import Member, agent_file, until

from edgeswarm.app.audit import entries
from edgeswarm.app.swarm.control import SwarmControl
from edgeswarm.drivers import keys
from edgeswarm.drivers.mqtt.transport import Broker, LinkError, Priority, TlsFiles, Transport
from edgeswarm.errors import EdgeSwarmError, LocalError, RemoteError
from edgeswarm.wire import cose, envelope


class Thief:
    """Has the device's key and certificate, and says what it likes as often as it can."""

    def __init__(self, r: Rig, device: str) -> None:
        state = r.state(device)
        self._device, self._sign = device, cose.signer(r.seeds[device])
        tls = TlsFiles(state / "swarm" / "ca.crt", state / "swarm" / "device.crt", state / "swarm" / "device.pem")
        url = r.folder.config.brokers[0]
        self.transport = Transport([Broker.from_url(url, tls=tls)], client_id=f"thief-{os.urandom(4).hex()}")
        self._topic = r.controller.node.topics.event("low", "health")
        self._seq = 1 << 40

    def say(self) -> None:
        self._seq += 1
        sealed = envelope.seal(b"x", topic=self._topic, sender=self._device, boot=99, seq=self._seq, sign=self._sign)
        self.transport.publish(self._topic, sealed, priority=Priority.HIGH, qos=1)


async def test_revoked_device_is_out_and_stays_out(tmp_path: Path) -> None:
    """A thief with the device's key speaks without a pause through a live session of its own."""
    async with rig(tmp_path) as r:
        await r.add("d1")
        await r.add("d2")
        await r.begin("d1")
        listener = await r.begin("d2")
        for device in ("d1", "d2"):
            await r.up(device)
        heard: list[int] = []
        listener.node.post.on(
            listener.node.topics.event("low", "health"),
            lambda letter: heard.append(letter.seq) if letter.boot == 99 else None,
        )
        thief = Thief(r, "d1")
        async with thief.transport:
            await thief.transport.connected(10)

            async def talk() -> None:
                while True:
                    thief.say()
                    await asyncio.sleep(0.01)

            talking = asyncio.create_task(talk())
            await until(lambda: len(heard) > 5, "the thief is heard")
            done = await r.controller.revoker.revoke({"data": r.revocation("d1"), "reason": "stolen"}, "console-x")
            assert done["ended"] and done["devices"] == ["d1"]
            await until(lambda: not thief.transport.is_connected, "the thief's session ends")
            await until(lambda: not r.members["d1"].node.transport.is_connected, "the device's session ends")
            await asyncio.sleep(0.5)  # what was on its way
            ended = len(heard)
            await asyncio.sleep(0.5)
            assert len(heard) == ended, "it is heard after its session has ended"
            talking.cancel()
            assert not thief.transport.is_connected, "it comes back"
        await until(lambda: "d1" not in r.controller.node.replica.state.devices, "forgotten")

        async def stays_out() -> None:
            with pytest.raises(LinkError):
                await Thief(r, "d1").transport.start(1.5)
            assert r.roster.member("d1") is None

        await stays_out()
        await r.stop_broker()
        await r.start_broker()
        await until(lambda: listener.node.transport.is_connected, "d2 is back")
        await stays_out()
        await r.stop_controller()
        await r.start_controller()
        await stays_out()
        await r.note("d2", "the others go on")
        assert not list((r.folder.path / "revocations").glob("*.json"))
        found = [one for one in entries(r.folder.controller / "audit") if one["action"] == "device.revoke"]
        assert [(one["target"], one["name"], one["reason"]) for one in found] == [("d1", "console-x", "stolen")]


async def test_revoked_device_says_so_stops_the_cells_agents_and_keeps_its_own(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        publisher, _ = keys.load_or_make(tmp_path / "publisher.key")
        for device in ("d1", "d2"):
            state = await r.add(device)
            keys.trust(state / "trust.d", publisher.public, "test")
            await r.begin(device)
            await r.up(device)
        keys.trust(r.folder.controller / "trust.d", publisher.public, "test")
        control = SwarmControl(r.controller.node)
        await control.one["place"]({"data": agent_file(publisher, "cells"), "who": "test"})
        state = r.controller.node.replica.state
        await until(lambda: state.agents["cells"].device in ("d1", "d2"), "placed")
        device = str(state.agents["cells"].device)
        other = "d2" if device == "d1" else "d1"
        member = r.members[device]
        await until(lambda: "cells" in member.node.hosted.running, "runs there")
        await member.supervisor.deploy([("own", agent_file(publisher, "own"))])
        await r.revoke(device, "sold")
        await until(lambda: member.node.rotation.revoked, "it learns it")
        await until(lambda: "cells" not in member.node.hosted.running, "the cell's agent ends")
        await until(lambda: state.agents["cells"].device == other, "and runs elsewhere")
        assert member.supervisor.status["own"][0] == "running"  # type: ignore[index]
        assert any('"event":"device_revoked"' in line for line in member.log.ring.lines)
        assert (await SwarmControl(member.node).one["status"]({}))["revoked"] is True
        member.supervisor.audit.flush()
        found = [one for one in entries(r.state(device) / "audit") if one["action"] == "device.revoked"]
        assert [one["name"] for one in found] == ["operator operator"]


async def test_revocation_that_the_controller_did_not_finish_is_finished_when_it_is_back(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        await r.add("d1")
        await r.begin("d1")
        await r.up("d1")
        data = r.revocation("d1")
        revoker = r.controller.revoker

        async def dies(device: str) -> bool:
            raise LocalError("killed here")

        revoker._finish = dies
        with pytest.raises(LocalError):
            await revoker.revoke({"data": data, "reason": "lost"}, "local")
        await r.stop_controller()
        row = json.loads((r.folder.path / "revocations" / "d1.json").read_text())
        assert (row["device"], row["reason"]) == ("d1", "lost")
        await r.start_controller()
        await until(lambda: not (r.folder.path / "revocations" / "d1.json").exists(), "finished")
        with pytest.raises(LinkError):
            await Thief(r, "d1").transport.start(1.5)


async def test_bad_revocations_change_nothing(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        await r.add("d1")
        good, before = r.revocation("d1"), r.roster.version
        revoke = r.controller.revoker.revoke
        enrolment = r.controller.issuer.enrolment
        from edgeswarm.app.fleet import revocation
        from edgeswarm.wire.roster_change import next_roster

        by_issuer = revocation.without(r.roster, ["d1"], by=enrolment.by, now_s=int(time.time())).data
        nobody = next_roster(r.roster, created_s=int(time.time()), by=r.operator).data
        itself = revocation.without(r.roster, ["console-operator"], by=r.operator, now_s=int(time.time()))
        for data in (b"", b"\xff" * 100, good[:-1], good[:-1] + bytes([good[-1] ^ 1]), by_issuer, nobody):
            with pytest.raises((RemoteError, LocalError)):
                await revoke({"data": data}, "local")
        with pytest.raises(EdgeSwarmError):
            await revoke({"data": "text"}, "local")
        assert r.roster.version == before and itself.member("controller") is not None
        assert not (r.folder.path / "revocations").exists() or not list((r.folder.path / "revocations").iterdir())
        with pytest.raises(LocalError, match="the controller"):
            revocation.without(r.roster, ["controller"], by=r.operator, now_s=0, controller="controller")
        with pytest.raises(LocalError, match="not in the roster"):
            revocation.without(r.roster, ["d7"], by=r.operator, now_s=0)
        await revoke({"data": good}, "local")
        with pytest.raises((RemoteError, LocalError)):
            await revoke({"data": good}, "local")
        with pytest.raises(RemoteError):
            await r.controller.revoker.kick({"device": "../x"}, "local")
        with pytest.raises(RemoteError, match="d7: not in the roster"):
            await r.controller.revoker.kick({"device": "d7"}, "local")


async def test_audit_logs_and_folders_of_a_fleet_hold_no_secret(tmp_path: Path) -> None:
    """After joins, renewals and revocations: no private key is in any log."""
    async with rig(tmp_path) as r:
        state = await r.add("d1", age_days=25)
        member: Member = await r.begin("d1")
        await until(lambda: not member.node.rotation.files.old_key.exists() and member.node.rotation._settled, "")
        await until(lambda: r.roster.member("d1").keys[-1].certificate.serial == 2, "renewed")  # type: ignore[union-attr]
        await r.revoke("d1", "x")
        for one in r.members.values():
            one.supervisor.audit.flush()
        secrets = {r.seeds["d1"].hex(), (r.folder.issuer_key).read_text().strip()}
        secrets |= {path.read_text().strip() for path in state.glob("keys/device.key*")}
        secrets |= {line for path in state.glob("swarm/*.pem") for line in path.read_text().splitlines()[1:-1]}
        logs = b"".join(path.read_bytes() for path in tmp_path.rglob("audit/*"))
        lines = "\n".join(line for one in r.members.values() for line in one.log.ring.lines)
        assert len(logs) > 1_000 and len(secrets) >= 3
        for secret in secrets:
            assert secret.encode() not in logs and secret not in lines
