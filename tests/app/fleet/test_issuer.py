"""Devices join a real fleet: its brokers with TLS, its controller, its log.  Once is once, whatever goes wrong."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest
from join_made import INVENTORY
from join_rig import JoinRig, join_rig
from swarm_cells import until

from edgeswarm.app.audit import entries
from edgeswarm.app.fleet import issued, issuer_pending
from edgeswarm.app.fleet.issuer_pending import PendingBook, Waiting, pending_id
from edgeswarm.app.join import folder, line
from edgeswarm.app.join.line import Times
from edgeswarm.app.join.run import JoinRefusedError
from edgeswarm.app.log import Log
from edgeswarm.app.swarm import config as cell_config
from edgeswarm.app.swarm.peer import CallError
from edgeswarm.core.cell import commands as cmd
from edgeswarm.drivers import keys
from edgeswarm.drivers.mqtt.transport import Broker, Incoming, LinkError, Priority, TlsFiles, Transport
from edgeswarm.drivers.pki import x509
from edgeswarm.errors import LimitError, LocalError, RemoteError
from edgeswarm.limits import JOIN_REQUEST_BYTES_MAX
from edgeswarm.wire import codec
from edgeswarm.wire import token as wire
from edgeswarm.wire.certificate import Signatory
from edgeswarm.wire.join import Request
from edgeswarm.wire.roster_form import Entry, sign_entry


async def refused(rig: JoinRig, device: str, text: Any, code: str, says: str, **more: Any) -> None:
    with pytest.raises(JoinRefusedError, match=says) as found:
        await rig.join(device, text, **more)
    assert found.value.code == code and found.value.exit_code == 3
    assert not cell_config.is_member(rig.state(device)) or more.get("state")


async def test_device_joins_is_seen_and_has_what_its_token_says(tmp_path: Path) -> None:
    """And joins again with the same key: the same id and number, another certificate."""
    async with join_rig(tmp_path, encrypt=True) as rig:
        text = await rig.token(uses=2, labels=["site=plant", "line=1"], grants=["stream.publish:cam*"])
        clock, rig.issuer.enrolment._clock = rig.issuer.enrolment._clock, lambda: time.time() - 3_600
        done = await rig.join("gate-1", text)
        rig.issuer.enrolment._clock = clock
        assert (done["fleet"], done["cell"], done["device"], done["role"]) == ("plant", "main", "gate-1", "worker")
        assert "gate-1" in rig.issuer.seen and done["seen_by"] == "join"
        member = rig.roster.member("gate-1")
        key = keys.load_or_make(rig.state("gate-1") / "keys" / "device.key")[0]
        assert member is not None and member.public == key.public
        assert member.entry.capabilities == ("stream.publish:cam*",) and member.entry.role == "worker"
        certificate = member.keys[-1].certificate
        chain = (rig.state("gate-1") / "swarm" / "device.crt").read_bytes()
        assert x509.not_before_of(chain) == certificate.not_before_s
        assert x509.not_after_of(chain) == certificate.not_after_s == certificate.not_before_s + 30 * 86_400
        assert issued.serials_of(rig.folder, "gate-1", int(time.time())) == [x509.serial_of(chain)]
        state = rig.controller.node.replica.state
        await until(lambda: state.labels.get("gate-1") == ("line=1", "site=plant"), "labels: the token's first")
        assert rig.tokens(text).used == (("gate-1", key.public),)
        audited = [row for row in entries(rig.folder.controller / "audit") if row["action"].startswith("join.")]
        assert [row["action"] for row in audited] == ["join.admit"]

        again = await rig.join("gate-1", text)
        after = rig.roster.member("gate-1")
        assert after is not None and after.entry == member.entry and again["number"] == done["number"]
        assert after.public == key.public and len(after.keys) == 2
        assert len(rig.tokens(text).used) == 1, "the same device takes no further use"
        assert cell_config.next_boot(rig.state("gate-1")) > 2


async def test_tokens_that_are_not_good_are_refused_with_the_reason(tmp_path: Path) -> None:
    async with join_rig(tmp_path) as rig:
        used = await rig.token()
        await rig.join("gate-1", used)
        await refused(rig, "gate-2", used, "used", "good once, and is used")

        revoked = await rig.token()
        await rig.ask("token.revoke", token=wire.parse(revoked).id)
        await refused(rig, "gate-2", revoked, "revoked", "was revoked")

        expired = await rig.token(ttl_s=30)
        clock = rig.issuer.enrolment._clock
        rig.issuer.enrolment._clock = lambda: clock() + 60
        await refused(rig, "gate-2", expired, "expired", "ended at")
        rig.issuer.enrolment._clock = clock

        known = wire.parse(await rig.token())
        forged = wire.Token(known.brokers, known.fleet, known.ca, known.id, os.urandom(16))
        await refused(rig, "gate-2", forged, "forged", "not made with the secret")

        unknown = wire.make(known.brokers, "plant", known.ca, entropy=os.urandom(24))
        await refused(rig, "gate-2", unknown, "unknown", "not known here")

        yard = wire.make(known.brokers, "yard", Signatory.from_seed(os.urandom(32)).public, entropy=os.urandom(24))
        with pytest.raises(line.PinError, match="not signed by this fleet's issuer"):
            await rig.join("gate-2", yard)

        await refused(rig, "gate-2", known, "name-taken", "in the fleet with another key", name="gate-1")
        await refused(rig, "gate-2", known, "name-taken", "in the fleet with another key", name="controller")
        assert rig.roster.member("gate-2") is None and rig.tokens(wire.text_of(known)).used == ()
        await rig.join("gate-2", known)
        codes = [row["reason"] for row in entries(rig.folder.controller / "audit") if row["action"] == "join.refuse"]
        assert len(codes) == 5, "strangers are not in the audit, the others are"


async def test_two_devices_with_one_token_one_name_or_one_key_at_once_are_one_device(tmp_path: Path) -> None:
    async with join_rig(tmp_path) as rig:
        text = await rig.token()
        results = await asyncio.gather(
            *(rig.join(f"gate-{number}", text) for number in range(4)), return_exceptions=True
        )
        joined = [one for one in results if isinstance(one, dict)]
        others = [one for one in results if isinstance(one, JoinRefusedError)]
        assert len(joined) == 1 and [one.code for one in others] == ["used"] * 3
        assert [device for device, _ in rig.tokens(text).used] == [joined[0]["device"]]

        many = await rig.token(uses=40)
        before = rig.issuer.enrolment.rosters
        done = await asyncio.gather(*(rig.join(f"press-{number}", many) for number in range(40)))
        assert len({row["device"] for row in done}) == 40 and len({row["number"] for row in done}) == 40
        assert rig.issuer.enrolment.rosters - before <= 10, "many joins are few rosters"
        assert len(rig.issuer.seen) == 41

        text = await rig.token(uses=10)  # one name for two keys at once, and one key for two names
        twice = await asyncio.gather(
            *(rig.join(name, text, name="crane-1") for name in ("a", "b")), return_exceptions=True
        )
        assert sorted(type(one).__name__ for one in twice) == ["JoinRefusedError", "dict"]
        winner = "a" if isinstance(twice[0], dict) else "b"
        folder.leave(rig.state(winner))
        again = await rig.join("crane-7", text, state=rig.state(winner))
        assert again["device"] == "crane-1", "a key that the roster has is that device, whatever it calls itself"


async def test_controller_that_dies_between_consuming_and_answering_answers_when_it_is_asked_again(
    tmp_path: Path,
) -> None:
    """Twice: before the roster, and after it.  The device asks again; the token is used once."""
    async with join_rig(tmp_path) as rig:
        text = await rig.token()
        died = asyncio.Event()

        async def die(*_: Any) -> Any:
            died.set()
            await asyncio.Event().wait()

        rig.issuer.enrolment.enrol = die  # type: ignore[method-assign]
        joining = asyncio.create_task(rig.join("gate-1", text))
        await asyncio.wait_for(died.wait(), 15)
        assert len(rig.tokens(text).used) == 1 and rig.roster.member("gate-1") is None
        await rig.issuer.close()  # as a kill would end it: nothing of it is left but the log

        died.clear()
        rig.start_issuer()
        rig.issuer._welcome = die  # type: ignore[method-assign]
        await asyncio.wait_for(died.wait(), 15)
        assert rig.roster.member("gate-1") is not None and not joining.done()
        version = rig.roster.version
        await rig.issuer.close()

        rig.start_issuer()
        done = await asyncio.wait_for(joining, 20)
        assert done["device"] == "gate-1" and len(rig.tokens(text).used) == 1
        assert rig.roster.version == version, "it was in the roster: no other was needed"


async def test_person_lets_in_or_turns_away(tmp_path: Path) -> None:
    """What waits outlives the controller's restart; a coordinator needs an operator's signature."""
    async with join_rig(tmp_path) as rig:
        text = await rig.token(uses=3, approval=True)
        told: list[str] = []
        joining = asyncio.create_task(rig.join("gate-1", text, progress=told.append))
        rows = await until(lambda: rig.ask("pending"), "somebody waits")
        assert rows[0]["device"] == "gate-1" and rows[0]["inventory"]["profile"] == "rpi-5"
        assert rig.tokens(text).used == ()
        await rig.issuer.close()
        rig.start_issuer()
        rows = await rig.ask("pending")
        await rig.ask("approve", id=rows[0]["id"])
        assert (await asyncio.wait_for(joining, 20))["device"] == "gate-1"
        assert any("fleet approve" in line and rows[0]["id"] in line for line in told)
        assert await rig.ask("pending") == []

        turned = asyncio.create_task(rig.join("gate-2", text))
        rows = await until(lambda: rig.ask("pending"), "another waits")
        await rig.ask("deny", id=rows[0]["id"], reason="not one of ours")
        with pytest.raises(JoinRefusedError, match="not one of ours") as found:
            await turned
        assert found.value.code == "denied"
        await refused(rig, "gate-2", text, "denied", "not one of ours")
        with pytest.raises(LocalError, match="no request of that id"):
            await rig.ask("approve", id=rows[0]["id"])
        with pytest.raises(line.StillWaitingError):
            await rig.join("gate-3", text, times=Times(wait=5.0, approval=0.5, ask=0.2))

        text = await rig.token(role="coordinator")
        joining = asyncio.create_task(rig.join("press-1", text))
        waits = await until(lambda: coordinators(rig), "it waits")
        with pytest.raises(LocalError, match="operator must sign"):
            await rig.ask("approve", id=waits[0]["id"])
        stale = sign(rig, waits[0]["proposal"] | {"since": 2})
        with pytest.raises(CallError, match="sign it anew"):
            await rig.ask("approve", id=waits[0]["id"], entry=stale)
        by_issuer = sign(rig, (await coordinators(rig))[0]["proposal"], by=rig.issuer.enrolment.by)
        with pytest.raises(RemoteError, match="needs an operator's signature"):
            await rig.ask("approve", id=waits[0]["id"], entry=by_issuer)
        entry = sign(rig, (await coordinators(rig))[0]["proposal"])
        await rig.ask("approve", id=waits[0]["id"], entry=entry)
        assert (await asyncio.wait_for(joining, 20))["role"] == "coordinator"


async def coordinators(rig: JoinRig) -> list[dict[str, Any]]:
    return [row for row in await rig.ask("pending") if row["role"] == "coordinator"]


def sign(rig: JoinRig, proposal: dict[str, Any], by: Any = None) -> bytes:
    entry = Entry(
        proposal["device"], proposal["number"], proposal["role"], tuple(proposal["capabilities"]), proposal["since"]
    )
    return sign_entry(entry, fleet=proposal["fleet"], cell=proposal["cell"], by=by or rig.operator)


async def test_rubbish_and_floods_on_the_bootstrap_listener_keep_nobody_out(tmp_path: Path) -> None:
    """A stranger needs no certificate there: it says what it likes, as any token, and joins nothing."""
    async with join_rig(tmp_path) as rig:
        text = await rig.token(uses=2)
        token = wire.parse(text)
        url = rig.folder.config.join_brokers[0].replace("mqtts://", f"mqtts://{token.id}@")
        broker = Broker.from_url(url, tls=TlsFiles(rig.folder.pki / "ca.crt"))
        stranger = Transport([broker], client_id="stranger")
        heard: list[Any] = []
        await stranger.start(10)
        stranger.subscribe(f"es/1/plant/join/{token.id}/+/answer", heard.append, qos=1)
        stranger.subscribe("es/1/plant/main/#", heard.append, qos=1)
        start = f"es/1/plant/join/{token.id}"
        for number, payload in enumerate([b"", b"\0", os.urandom(400), b"x" * JOIN_REQUEST_BYTES_MAX] * 50):
            nonce = number.to_bytes(16, "big").hex()
            topic = f"{start}/{nonce}/request"
            stranger.publish(topic, payload, priority=Priority.MEDIUM, qos=1)
        stranger.publish(f"{start}/xyz/request", b"x", priority=Priority.MEDIUM, qos=1)
        stranger.publish(f"es/1/plant/join/{'a' * 13}/{'0' * 32}/request", b"x", priority=Priority.MEDIUM, qos=1)
        await rig.join("gate-1", text)
        await until(lambda: rig.issuer.counts["unreadable"] >= 200, "the rubbish is counted")
        assert not [one for one in heard if "/answer" in one.topic and one.payload == b""]
        assert not [one for one in heard if "/main/" in one.topic], "it hears the cell"
        await stranger.close()
        assert rig.issuer.counts["joined"] == 1
        assert not rig.member.events("issuer_fault")
        counted = rig.issuer.counts["unreadable"]
        for what in (f"renew-d1/{'0' * 32}", "renew-d1/x", "es-probe/run", "es-probe-b/run"):
            rig.issuer._incoming(Incoming(f"es/1/plant/join/{what}/request", b"x" * 5000, retain=False, qos=1))
        assert rig.issuer.counts["unreadable"] == counted, "what is not asked of it is not counted"
        rig.issuer._incoming(Incoming("es/1/plant/join/x/y/request", b"x", retain=False, qos=1))
        assert rig.issuer.counts["unreadable"] == counted + 1


async def test_requests_of_operators_are_checked(tmp_path: Path) -> None:
    async with join_rig(tmp_path) as rig:
        public = os.urandom(32)
        good: dict[str, Any] = {
            "token": "a" * 13, "public": public, "role": "worker", "uses": 1, "ttl_s": 60, "approval": False,
            "labels": [], "grants": [],
        }  # fmt: skip
        for changes, says in (
            ({"token": "short"}, "a token's id"),
            ({"public": b"short"}, "a token's id"),
            ({"role": "king"}, "role"),
            ({"role": "administrator"}, "role"),
            ({"uses": 0}, "uses"),
            ({"uses": True}, "uses"),
            ({"uses": 10_001}, "uses"),
            ({"ttl_s": 1}, "ttl"),
            ({"ttl_s": 10**9}, "ttl"),
            ({"labels": ["nothing"]}, "labels"),
            ({"labels": [5]}, "labels"),
            ({"grants": ["fly"]}, "capability"),
            ({"grants": ["deploy"]}, "may not grant deploy"),
            ({"grants": "deploy"}, "grants"),
        ):
            with pytest.raises((LocalError, RemoteError), match=says):
                await rig.ask("token.create", **{**good, **changes})
        row = await rig.ask("token.create", **good)
        assert row["state"] == "open" and "public" not in row
        with pytest.raises(RemoteError, match="there already"):
            await rig.ask("token.create", **{**good, "uses": 2})
        with pytest.raises(LocalError, match="no such token"):
            await rig.ask("token.revoke", token="b" * 13)
        with pytest.raises(LocalError, match="no request"):
            await rig.ask("deny", id="../../etc")
        with pytest.raises(RemoteError, match="expected \\[by, software\\]"):
            await rig.issuer.confirm("controller", codec.dumps(["x" * 99, "y"]))
        with pytest.raises(CallError, match="may not ask"):
            await rig.controller.ask("token.create", good, "gate-1")
        assert [one["token"] for one in await rig.ask("token.list")] == ["a" * 13]

        token = wire.parse(await rig.token())  # and who has a token cannot speak to the cell's broker
        url = rig.folder.config.brokers[0].replace("mqtts://", f"mqtts://{token.id}@")
        stranger = Transport([Broker.from_url(url, tls=TlsFiles(rig.folder.pki / "ca.crt"))], client_id="stranger")
        with pytest.raises(LinkError):
            await stranger.start(1.0)
        await stranger.close()
        await rig.controller.node.propose(cmd.encode(cmd.Note("controller", "goes on")))


def test_damaged_waiting_request_is_told_and_passed_over(tmp_path: Path) -> None:
    log = Log(stream=None, level="debug")
    book = PendingBook(tmp_path, log)
    request = Request("a" * 13, "plant", "gate-1", os.urandom(32), bytes(32), bytes(16), 0, INVENTORY)
    row = book.add(request, "gate-1", "worker", 1_000)
    (tmp_path / ("0" * 12 + ".cbor")).write_bytes(b"rot")
    (tmp_path / ("1" * 12 + ".cbor")).write_bytes((tmp_path / f"{row.id}.cbor").read_bytes())
    again = PendingBook(tmp_path, log)
    assert [one.device for one in again.rows()] == ["gate-1"]
    assert row.id == pending_id("a" * 13, request.public)
    assert sum('"pending_join_damaged"' in line for line in log.ring.lines) == 2


def test_who_waits_is_bounded_and_old_ones_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(issuer_pending, "JOIN_PENDING_MAX", 3)
    book = PendingBook(tmp_path, Log(stream=None))

    def add(number: int, at_s: int) -> Waiting:
        request = Request("a" * 13, "plant", "gate-1", bytes([number]) * 32, bytes(32), bytes(16), 0, INVENTORY)
        return book.add(request, f"gate-{number}", "worker", at_s)

    rows = [add(number, 1_000 + number) for number in range(3)]
    with pytest.raises(LimitError, match="JOIN_PENDING_MAX"):
        add(3, 1_010)
    book.deny(rows[0], "no")
    assert len(book) == 2 and [one.device for one in book.rows()] == ["gate-1", "gate-2"]
    add(3, 1_010)
    add(4, 1_000 + 8 * 86_400)
    assert [one.device for one in book.rows()] == ["gate-4"] and book.get(rows[0].id) is None
    assert len(list(tmp_path.glob("*.cbor"))) == 1
