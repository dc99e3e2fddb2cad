"""Another operator's key, another issuer's: the old ones are believed no more, and nobody is locked out."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from rotation_rig import CHEAP, PASSPHRASE, Rig, rig
from swarm_cells import until

from edgeswarm.app.fleet import authorities, revocation
from edgeswarm.app.fleet.console import Console
from edgeswarm.app.fleet.roster_changes import RosterChanges
from edgeswarm.core.cell import commands as cmd
from edgeswarm.drivers import keys
from edgeswarm.drivers.mqtt.transport import Broker, LinkError, TlsFiles, Transport
from edgeswarm.drivers.pki import x509
from edgeswarm.errors import LocalError
from edgeswarm.wire.certificate import Certificate, Signatory, sign_certificate
from edgeswarm.wire.roster import Roster, RosterError
from edgeswarm.wire.roster_change import next_roster


def now() -> int:
    return int(time.time())


async def put(r: Rig, roster: Roster | None) -> None:
    assert roster is not None
    assert await RosterChanges(r.controller.node).put(roster)


async def test_operator_is_replaced_and_the_old_key_speaks_for_nobody(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        await r.add("d1", role="coordinator")
        member = await r.begin("d1")
        await r.up("d1")
        old = r.operator
        new = authorities.next_operator(r.folder, "operator", PASSPHRASE, cost=CHEAP)
        assert authorities.next_operator(r.folder, "operator", PASSPHRASE, cost=CHEAP).public == new.public
        await put(r, authorities.rotate_operator(r.roster, "operator", new, r.root, now_s=now()))
        assert authorities.rotate_operator(r.roster, "operator", new, r.root, now_s=now()) is None, "run again"
        kept = authorities.use_operator(r.folder, "operator")
        assert kept is not None and kept.exists() and authorities.use_operator(r.folder, "operator") is None
        assert r.operator.public == new.public
        await until(lambda: member.node.rosters.current.version == r.roster.version, "adopted")
        with pytest.raises(RosterError):
            Roster.open(
                revocation.without(r.roster, ["d1"], by=old, now_s=now()).data,
                root_public=r.root.public,
                previous=r.roster,
            )
        Roster.open(r.roster.data, root_public=r.root.public)  # at first contact too
        await r.note("d1", "goes on")
        await r.revoke("d1", "x")
        with pytest.raises(LocalError, match="expected one of operator"):
            authorities.rotate_operator(r.roster, "bob", new, r.root, now_s=now())


async def rotate(r: Rig) -> Signatory:
    new = authorities.next_issuer(r.folder, r.seed_of_root, now_s=now())
    fresh = authorities.rotate_issuer(r.roster, new, r.root, now_s=now())
    if fresh is not None:
        await put(r, fresh)
    authorities.use_issuer(r.folder)
    return new


async def test_issuer_is_replaced_devices_renew_and_the_old_one_is_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeswarm.app.swarm.rotation.SPREAD_S", 0.2)
    async with rig(tmp_path) as r:
        for device in ("d1", "d2", "late"):
            await r.add(device)
        await r.begin("d1")
        await r.begin("d2")
        for device in ("d1", "d2"):
            await r.up(device)
        old_seed = r.controller.issuer.enrolment.key.key.seed
        old_pem = (r.folder.pki / "issuer.crt").read_bytes()
        old = Signatory.from_seed(old_seed)
        node = r.controller.node
        await node.propose(
            cmd.encode(cmd.AddToken("a" * 13, b"\1" * 32, "worker", 5, now() + 900, False, (), (), "controller"))
        )
        new = await rotate(r)
        told = await r.controller.one["issuer.changed"]({}, "local")
        assert told == {"issuer": new.kid.decode(), "tokens_revoked": ["a" * 13]}
        assert node.replica.state.tokens["a" * 13].revoked
        for device in ("d1", "d2", "controller"):
            await until(
                lambda device=device: r.roster.member(device).keys[-1].certificate.issuer == new.kid,  # type: ignore[misc,union-attr]
                f"{device} renewed",
            )
        for device in ("d1", "d2"):
            crt = r.state(device) / "swarm" / "device.crt"
            await until(lambda crt=crt: x509.signed_by(crt.read_bytes(), new.public), "swapped")  # type: ignore[misc]
        await r.add("gone", issuer_seed=old_seed, issuer_pem=old_pem)
        await r.revoke("gone", "x")
        folder = r.state("gone") / "swarm"
        tls = TlsFiles(folder / "ca.crt", folder / "device.crt", folder / "device.pem")
        with pytest.raises(LinkError):  # revoked while both are in office: the old issuer's list names it too
            await Transport([Broker.from_url(r.folder.config.brokers[0], tls=tls)], client_id="f").start(2)
        await r.add("d3")  # a new device, of the new issuer
        await r.begin("d3")
        await r.up("d3")
        async with Console(r.folder.console, "controller") as console:  # renews when it is used
            assert (await console.call("issuer.left", {}))["devices"] == ["console-operator", "late"]
        async with Console(r.folder.console, "controller") as console:
            assert (await console.call("issuer.left", {}))["devices"] == ["late"]
        await put(r, authorities.retire_issuers(r.roster, new.kid, r.root, r.operator, now_s=now()))
        assert (await r.controller.one["issuer.retired"]({}, "local"))["lists_dropped"] == 1
        Roster.open(r.roster.data, root_public=r.root.public)
        await asyncio.sleep(1.1)  # an office ends with a second
        seed = b"\7" * 32
        public = Signatory.from_seed(seed).public
        forged = next_roster(r.roster, created_s=now(), by=old)
        with pytest.raises(RosterError, match="not in office"):
            forged.verify(r.root.public, r.roster)
        certificate = Certificate("plant", "d1", public, 9, now(), now() + 900, ("worker",))
        forged = next_roster(r.roster, created_s=now(), by=new, certificates={"d1": sign_certificate(certificate, old)})
        with pytest.raises(RosterError, match="outside the time"):
            forged.verify(r.root.public, r.roster)
        leaf = x509.make_device(old_seed, old_pem, "d1", public, now() - 60, now() + 900)
        (tmp_path / "f.crt").write_bytes(x509.chain(leaf, old_pem))
        (tmp_path / "f.pem").write_bytes(x509.pkcs8_pem(seed))
        tls = TlsFiles(r.folder.pki / "ca.crt", tmp_path / "f.crt", tmp_path / "f.pem")
        with pytest.raises(LinkError):
            await Transport([Broker.from_url(r.folder.config.brokers[0], tls=tls)], client_id="f").start(2)
        for device in ("d1", "d2", "d3"):
            await r.note(device, "goes on")


async def test_issuer_rotation_that_was_interrupted_can_be_run_again(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        first = authorities.next_issuer(r.folder, r.seed_of_root, now_s=now())
        assert authorities.next_issuer(r.folder, r.seed_of_root, now_s=now()).public == first.public
        await put(r, authorities.rotate_issuer(r.roster, first, r.root, now_s=now()))
        certificate = r.folder.pki / "issuer.crt"
        following = authorities.next_path(certificate).read_bytes()
        authorities.old_path(certificate).write_bytes(certificate.read_bytes())
        certificate.write_bytes(following)  # ... and here the power went
        new = await rotate(r)
        assert new.public == first.public == keys.load_or_make(r.folder.issuer_key)[0].public
        assert authorities.old_path(r.folder.issuer_key).exists()
        assert x509.public_of(authorities.old_path(certificate).read_bytes()) != new.public
        await r.controller.one["issuer.changed"]({}, "local")
        await r.add("d1")
        await r.begin("d1")
        await r.up("d1")
