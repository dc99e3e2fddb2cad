"""Another root key: devices follow, also those that were off all the time; what both roots did not sign is refused."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rotation_rig import CHEAP, PASSPHRASE, Rig, rig
from swarm_cells import until

from edgeswarm.app.cli import fleet_rotate
from edgeswarm.app.fleet import authorities, root_rotation
from edgeswarm.app.fleet.console import Console
from edgeswarm.core.cell import commands as cmd
from edgeswarm.drivers import files, keys
from edgeswarm.drivers.mqtt.transport import Broker, LinkError, TlsFiles, Transport
from edgeswarm.drivers.pki import sealed, x509
from edgeswarm.errors import ConfigError, EdgeSwarmError, LocalError, RemoteError
from edgeswarm.wire.certificate import CertificateError, Signatory, sign_authority
from edgeswarm.wire.root_change import RootChange, open_change, sign_change
from edgeswarm.wire.roster import Roster, RosterError
from edgeswarm.wire.roster_change import next_roster


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed, "save_key", partial(sealed.save_key, cost=CHEAP))
    monkeypatch.setattr("edgeswarm.app.swarm.rotation.SPREAD_S", 0.2)
    real = root_rotation.next_root
    monkeypatch.setattr(root_rotation, "next_root", partial(real, cost=CHEAP))


class Loop:
    """A link to the controller of this loop, for a command in another thread."""

    def __init__(self, r: Rig) -> None:
        self._r, self._loop = r, asyncio.get_running_loop()

    def call(self, what: str, **args: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(self._r.controller.ask(what, args, "local"), self._loop).result(30)

    def follow(self, what: str, **args: Any) -> Iterator[Any]:
        raise NotImplementedError


async def rotate(r: Rig, *, finish: bool = False) -> dict[str, Any]:
    """What `edgeswarm fleet rotate root` does."""
    file = r.home / "pass"
    file.write_text(PASSPHRASE + "\n")
    file.chmod(0o600)
    root_rotation.check_quiet(r.folder)
    step = fleet_rotate._finish_root if finish else fleet_rotate._rotate_root
    return await asyncio.to_thread(step, r.folder, Loop(r), file)


def root_of(r: Rig, device: str) -> bytes:
    return keys.read_pub(r.state(device) / "swarm" / "root.pub")


def trusts(r: Rig, device: str) -> set[bytes]:
    """Serial numbers of the roots that TLS trusts there."""
    found = x509.split((r.state(device) / "swarm" / "ca.crt").read_bytes())
    return {x509.public_of(pem) for pem in found}


async def works(r: Rig, device: str) -> None:
    await r.begin(device)
    await r.up(device)
    await r.note(device, "it is in the cell")


async def restart_broker(r: Rig) -> None:
    """With the files of now; whoever runs is back when this returns."""
    await r.stop_broker()
    for device, member in r.members.items():
        await until(lambda member=member: not member.node.transport.is_connected, f"{device} lost it")  # type: ignore[misc]
    await r.start_broker()
    for device, member in r.members.items():
        await until(lambda member=member: member.node.transport.is_connected, f"{device} is back")  # type: ignore[misc]


async def test_root_is_replaced_and_devices_that_were_off_follow(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        for device in ("on", "off", "away"):
            await r.add(device)
        await works(r, "on")
        for device in ("off", "away"):  # each has been there before
            await works(r, device)
            await r.end(device)
        old, issuer = r.root, r.controller.issuer.enrolment.by.public
        old_pem, old_chain = (r.folder.pki / "root.crt").read_bytes(), (r.folder.pki / "issuer.crt").read_bytes()
        found = await rotate(r)
        new = r.root
        assert found["root"] == new.kid.decode() and found["old"] == old.kid.decode() and old.public != new.public
        assert r.roster.newest_root(old.public) == new.public == keys.read_pub(r.folder.root_pub)
        assert len(r.controller.node.replica.state.roots) == 1
        old_key = sealed.load_key(authorities.old_path(r.folder.root_key), lambda: PASSPHRASE)
        assert old_key.public == old.public and sealed.is_sealed(r.folder.root_key.read_bytes())
        assert not root_rotation.change_path(r.folder).exists()
        for device in ("on", "controller"):
            await until(lambda device=device: root_of(r, device) == new.public, f"{device} follows")  # type: ignore[misc]
            assert trusts(r, device) == {old.public, new.public, issuer}
        await restart_broker(r)  # what runs goes on through another broker with the files of now
        await works(r, "off")
        await until(lambda: root_of(r, "off") == new.public, "who was off follows")
        with pytest.raises(LocalError, match="not finished"):
            await rotate(r)
        await rotate(r, finish=True)
        await rotate(r, finish=True)  # run again
        for device in ("on", "off", "controller"):
            await until(lambda device=device: trusts(r, device) == {new.public, issuer}, f"{device} is done")  # type: ignore[misc]
        assert old_pem not in (r.folder.broker / "ca.crt").read_bytes()
        await restart_broker(r)
        await works(r, "away")  # has the old root only, and knows of nothing
        await until(lambda: root_of(r, "away") == new.public and old.public not in trusts(r, "away"), "it follows")
        await r.add("new")
        await works(r, "new")
        for device in ("on", "away"):
            await r.end(device)
            await works(r, device)
        async with Console(r.folder.console, "controller") as console:
            await console.call("status", {})
        async with Console(r.folder.console, "controller") as console:
            assert console.rosters.root_public == new.public
        assert trusts_at(r.folder.console) == {new.public, issuer}
        # an issuer that the old root makes from here on opens nothing
        seed, mine = b"\5" * 32, b"\6" * 32
        now_s = int(time.time())
        rogue = x509.make_issuer(old_key.seed, Signatory.from_seed(seed).public, "plant", now_s - 60)
        leaf = x509.make_device(seed, rogue, "on", Signatory.from_seed(mine).public, now_s - 60, now_s + 900)
        (tmp_path / "f.crt").write_bytes(x509.chain(leaf, rogue))
        (tmp_path / "f.pem").write_bytes(x509.pkcs8_pem(mine))
        tls = TlsFiles(r.folder.pki / "ca.crt", tmp_path / "f.crt", tmp_path / "f.pem")
        with pytest.raises(LinkError):
            await Transport([Broker.from_url(r.folder.config.brokers[0], tls=tls)], client_id="f").start(2)
        # ... and no broker that shows only what the new one signed is needed
        assert old_chain in (r.folder.broker / "server.crt").read_bytes()


def trusts_at(state: Path) -> set[bytes]:
    return {x509.public_of(pem) for pem in x509.split((state / "swarm" / "ca.crt").read_bytes())}


async def test_root_is_replaced_twice_and_a_device_that_missed_both_follows(tmp_path: Path) -> None:
    """What somebody else put into ca.crt stays there."""
    async with rig(tmp_path) as r:
        state = await r.add("away")
        stranger = Signatory.from_seed(b"x" * 32).public
        path = state / "swarm" / "ca.crt"
        path.write_bytes(path.read_bytes() + x509.make_root(b"x" * 32, "garden", int(time.time())))
        first = r.root
        for _ in range(2):
            await rotate(r)
            await rotate(r, finish=True)
        assert len(r.roster.roots) == 2 == r.roster.roots_done
        assert root_of(r, "away") == first.public
        await works(r, "away")
        await until(lambda: root_of(r, "away") == r.root.public, "it follows both")
        issuer = r.controller.issuer.enrolment.by.public
        assert trusts(r, "away") == {r.root.public, issuer, stranger}
        found = x509.split(path.read_bytes())
        assert len(found) == 3 and trusts_at(r.folder.controller) == {r.root.public, issuer}
        assert len(x509.split((r.folder.pki / "ca.crt").read_bytes())) == 2


async def test_device_whose_certificate_ran_out_meanwhile_follows_where_newcomers_ask(tmp_path: Path) -> None:
    async with rig(tmp_path, ago_days=330) as r:
        state = await r.add("late", age_days=320)
        (state / "swarm" / "join-brokers").write_text("".join(f"{url}\n" for url in r.folder.config.join_brokers))
        await rotate(r)
        await rotate(r, finish=True)
        await restart_broker(r)
        await works(r, "late")
        assert root_of(r, "late") == r.root.public


async def test_issuer_is_replaced_under_the_new_root(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        await r.add("on")
        await works(r, "on")
        await rotate(r)
        await rotate(r, finish=True)
        new = authorities.next_issuer(r.folder, r.seed_of_root, now_s=int(time.time()))
        with pytest.raises(LocalError, match="the issuer is being replaced"):
            await rotate(r)
        fresh = authorities.rotate_issuer(r.roster, new, r.root, now_s=int(time.time()))
        assert fresh is not None and fresh.roots == r.roster.roots
        await asyncio.to_thread(Loop(r).call, "roster.put", data=fresh.data)
        authorities.use_issuer(r.folder)
        await r.controller.one["issuer.changed"]({}, "local")
        await until(
            lambda: r.roster.member("on").keys[-1].certificate.issuer == new.kid,  # type: ignore[union-attr]
            "renewed with the new issuer",
        )
        crt = r.state("on") / "swarm" / "device.crt"
        await until(lambda: x509.signed_by(crt.read_bytes(), new.public), "and takes it")
        await r.note("on", "goes on")


# --- what is forged -------------------------------------------------------------------------------------------------


def forgeries(r: Rig) -> dict[str, bytes]:
    """Changes of this root that both roots have not signed, or of another fleet."""
    old, thief = r.root, Signatory.from_seed(b"t" * 32)
    lost = Signatory.from_seed(b"l" * 32)

    def by(outer: Signatory, inner: Signatory, fleet: str = "plant") -> bytes:
        """Says that it is from `old` to `thief`."""
        made = RootChange(fleet, 2, old.public, thief.public, int(time.time()))
        return sign_change(made, old=Signatory(old.public, outer.sign), new=Signatory(thief.public, inner.sign))

    return {
        "old only": by(old, old),
        "new only": by(thief, thief),
        "none": by(lost, lost),
        "another fleet": by(old, thief, "garden"),
        "another root": sign_change(RootChange("plant", 2, lost.public, thief.public, 0), old=lost, new=thief),
        "a later number": sign_change(RootChange("plant", 3, old.public, thief.public, 0), old=old, new=thief),
    }


async def test_forged_changes_are_refused_by_controller_leader_and_devices(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        await r.add("on")
        await works(r, "on")
        await r.add("boss", role="coordinator")
        await works(r, "boss")
        before, thief = r.roster, Signatory.from_seed(b"t" * 32)
        book, node = r.members["on"].node.rosters, r.controller.node
        for what, data in forgeries(r).items():
            with pytest.raises(EdgeSwarmError):
                await r.controller.one["root.change"]({"data": data}, "local")
            with pytest.raises(EdgeSwarmError):  # straight into the log
                await node.propose(cmd.encode(cmd.RotateRoot(data, "controller")))
            offices = before.open_authorities(r.root.public).values()
            forged = next_roster(
                before, created_s=before.created_s, by=r.operator,
                authorities=[sign_authority(office, thief) for office in offices], roots=[data],
            )  # fmt: skip
            if what != "a later number":
                with pytest.raises((CertificateError, RosterError, RemoteError)):
                    root_rotation.rotate_root(before, data, keys.from_seed(b"t" * 32), r.operator, now_s=0)
            with pytest.raises(RosterError):
                book.offer(forged.data)
            with pytest.raises(EdgeSwarmError):
                await node.propose(cmd.encode(cmd.SetRoster(forged.version, forged.previous, forged.data)))
            r.members["boss"].node.post.send_raw(node.topics.roster, forged.data, priority=2)  # type: ignore[arg-type]
        await r.note("on", "goes on")
        assert r.roster is before and book.current.data == before.data
        assert not node.replica.state.roots and root_of(r, "on") == r.root.public


async def test_roster_of_a_root_that_is_not_the_logs_is_refused(tmp_path: Path) -> None:
    """Who has root and operator's key can sign two next roots; the one in the log counts."""
    async with rig(tmp_path) as r:
        old, node, before = r.seed_of_root, r.controller.node, r.roster
        one, two = b"1" * 32, b"2" * 32

        def change(seed: bytes) -> bytes:
            root, new = Signatory.from_seed(old), Signatory.from_seed(seed)
            return sign_change(RootChange("plant", 2, root.public, new.public, 0), old=root, new=new)

        fresh = root_rotation.rotate_root(before, change(one), keys.from_seed(one), r.operator, now_s=int(time.time()))
        assert fresh is not None
        put = cmd.encode(cmd.SetRoster(fresh.version, fresh.previous, fresh.data))
        with pytest.raises(RemoteError, match="not the log's"):
            await node.propose(put)
        await node.propose(cmd.encode(cmd.RotateRoot(change(two), "controller")))
        with pytest.raises(RemoteError, match="under way"):
            await node.propose(cmd.encode(cmd.RotateRoot(change(one), "controller")))
        with pytest.raises(RemoteError, match="not the log's"):
            await node.propose(put)
        await node.propose(cmd.encode(cmd.RotateRoot(change(two), "controller")))  # it is there
        assert node.replica.state.roots == (change(two),)


async def test_what_the_old_root_signs_after_the_change_is_refused(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        await r.add("on")
        await works(r, "on")
        old, before = r.root, r.roster
        await rotate(r)
        await rotate(r, finish=True)
        book = r.members["on"].node.rosters
        await until(lambda: book.current.version == r.roster.version, "adopted")
        offices = before.open_authorities(old.public).values()
        stale = next_roster(
            r.roster, created_s=r.roster.created_s, by=r.operator,
            authorities=[sign_authority(office, old) for office in offices],
        )  # fmt: skip
        gone = next_roster(
            r.roster, created_s=r.roster.created_s, by=r.operator, roots=(), authorities=before.authorities
        )
        undone = next_roster(r.roster, created_s=r.roster.created_s, by=r.operator, roots_done=0)
        undone = next_roster(undone, created_s=undone.created_s, by=r.operator)  # after a gap it stands for itself
        for forged in (stale, gone, next_roster(gone, created_s=gone.created_s, by=r.operator), undone):
            with pytest.raises(RosterError):
                book.offer(forged.data)
        thief = Signatory.from_seed(b"t" * 32)
        again = sign_change(RootChange("plant", 2, old.public, thief.public, 0), old=old, new=thief)
        with pytest.raises(EdgeSwarmError):
            await r.controller.one["root.change"]({"data": again}, "local")


# --- interrupted ----------------------------------------------------------------------------------------------------


class CutError(Exception):
    """The power went."""


@contextmanager
def cut_after(monkeypatch: pytest.MonkeyPatch, step: int) -> Iterator[list[str]]:
    """The command ends before its write or question number `step`, counted from 0."""
    done: list[str] = []

    def counted(name: str, real: Any) -> Any:
        def call(*args: Any, **more: Any) -> Any:
            if len(done) >= step:
                raise CutError
            done.append(name if not args or not isinstance(args[0], Path) else f"{name} {args[0].name}")
            return real(*args, **more)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(root_rotation, "write_whole", counted("write", files.write_whole))
        patch.setattr(sealed, "save_key", counted("save", sealed.save_key))
        link = Loop.call
        patch.setattr(Loop, "call", lambda self, what, **args: counted(what, partial(link, self))(what, **args))
        unlink, counting = Path.unlink, counted("unlink", Path.unlink)
        ours = ("root.key.next", "root.change")  # devices of this loop go on with theirs
        patch.setattr(Path, "unlink", lambda path, **more: (counting if path.name in ours else unlink)(path, **more))
        yield done


async def test_interrupted_at_any_step_it_is_run_again_and_ends_as_it_should(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One fleet after another root: each change is cut at another step."""
    async with rig(tmp_path) as r:
        await r.add("on")
        await works(r, "on")
        step, rounds = 1, 0
        while rounds < 20:
            rounds += 1
            before = len(r.roster.roots)
            with cut_after(monkeypatch, step) as done:
                try:
                    await rotate(r)
                    ended = True
                except CutError:
                    ended = False
            if not ended:
                try:
                    await rotate(r)
                except LocalError as error:  # cut off after the last file
                    assert "not finished" in str(error) and done[-1] == "unlink root.change", done
            assert len(r.roster.roots) == before + 1, done
            assert keys.read_pub(r.folder.root_pub) == r.root.public == r.controller.node.rosters.root_public, done
            assert not authorities.next_path(r.folder.root_key).exists(), done
            assert not root_rotation.change_path(r.folder).exists()
            row = open_change(r.roster.roots[-1], fleet="plant")
            assert sealed.load_key(authorities.old_path(r.folder.root_key), lambda: PASSPHRASE).public == row.old
            assert x509.signed_by((r.folder.pki / "issuer.crt").read_bytes(), r.root.public)
            await until(lambda: root_of(r, "on") == r.root.public, f"the device follows: {done}")
            await r.note("on", "goes on")
            await rotate(r, finish=True)
            if ended:
                break
            step += 1
        assert ended and step > 12, (step, done)
        Roster.open(r.roster.data, root_public=row.new)


async def test_files_of_a_change_that_do_not_read_are_told(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        path = root_rotation.change_path(r.folder)
        path.write_bytes(os.urandom(100))
        with pytest.raises(ConfigError, match=r"root\.change"):
            await rotate(r)
        path.unlink()
        with pytest.raises(LocalError, match="never changed"):
            await rotate(r, finish=True)
        thief = keys.from_seed(b"t" * 32)
        with pytest.raises(RosterError):
            root_rotation.make_change(r.folder, r.roster, thief, keys.from_seed(b"n" * 32), now_s=0)
        assert not path.exists()
        with pytest.raises(RemoteError, match="at most 4096 bytes"):
            await r.controller.one["root.change"]({"data": bytes(5000)}, "local")
