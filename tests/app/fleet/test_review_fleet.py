"""What a review of the fleet's trust tried: a device that calls itself what it is not, or keeps what was taken."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from join_made import INVENTORY
from join_rig import JoinRig, join_rig
from swarm_cells import until

from edgeswarm.app.audit import entries
from edgeswarm.app.fleet import issued
from edgeswarm.app.fleet.folder import FleetFolder
from edgeswarm.app.fleet.issuer_enrol import Candidate
from edgeswarm.app.fleet.issuer_judge import Refusal, identity
from edgeswarm.app.fleet.issuer_pending import PendingBook
from edgeswarm.app.fleet.revocation import without
from edgeswarm.app.join.inventory import device_id
from edgeswarm.app.log import Log
from edgeswarm.app.swarm.peer import CallError
from edgeswarm.drivers.pki import x509
from edgeswarm.errors import EdgeSwarmError, LimitError, LocalError
from edgeswarm.limits import AUDIT_REFUSALS_BURST, JOIN_PENDING_SPARE, JOIN_WAITING_MAX
from edgeswarm.wire import codec
from edgeswarm.wire import token as wire
from edgeswarm.wire.join import Request


async def test_device_called_local_is_not_the_socket_of_this_machine(tmp_path: Path) -> None:
    """ "local" is whom the controller asks nothing of: no device gets that name, and none is believed by it."""
    async with join_rig(tmp_path) as rig:
        text = await rig.token()
        with pytest.raises(LocalError, match="--name"):
            await rig.join("local", text)
        asked = codec.dumps(["token.list", {}])
        followed = codec.dumps(["events", {}, b"i" * 16])
        for method, body in ((rig.controller._asked, asked), (rig.controller._follow, followed)):
            with pytest.raises(CallError, match="may not ask") as found:
                await method("local", body)
            assert found.value.code == "not-allowed"


def test_issuer_gives_no_device_a_name_that_means_something_else() -> None:
    class Empty:
        members: tuple[object, ...] = ()

        def member(self, device: str) -> None:
            return None

    for name in ("local", "es-guard"):
        with pytest.raises(Refusal, match="name") as found:
            identity(name, b"k" * 32, Empty())  # type: ignore[arg-type]
        assert found.value.code == "name-taken"
        with pytest.raises(LocalError, match="--name"):
            device_id(name, b"k" * 32)


async def test_approval_gives_no_second_key_to_a_name_that_was_taken_meanwhile(tmp_path: Path) -> None:
    """Two ask for one name and wait; the first that is let in is that device, and the other is not."""
    async with join_rig(tmp_path) as rig:
        texts = [await rig.token(approval=True) for _ in range(2)]
        joining = [
            asyncio.create_task(rig.join("gate-1", text, state=tmp_path / f"state-{number}"))
            for number, text in enumerate(texts)
        ]
        rows = await until(lambda: both(rig), "both wait")
        await rig.ask("approve", id=rows[0]["id"])
        with pytest.raises(EdgeSwarmError, match="another key"):
            await rig.ask("approve", id=rows[1]["id"])
        member = rig.roster.member("gate-1")
        assert member is not None and member.public.hex() == rows[0]["key"] and len(member.keys) == 1
        assert sorted(len(rig.tokens(text).used) for text in texts) == [0, 1], "the other's token is not used up"
        stolen = Candidate("gate-1", bytes.fromhex(rows[1]["key"]), "worker", (), wire.parse(texts[1]).id)
        with pytest.raises(EdgeSwarmError, match="another key"):  # nor by any other way into the roster
            await rig.issuer.enrolment.enrol([stolen])
        for task in joining:
            task.cancel()
        await asyncio.gather(*joining, return_exceptions=True)


async def both(rig: JoinRig) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = await rig.ask("pending")
    return rows if len(rows) == 2 else []


async def test_list_of_the_revoked_follows_the_roster_whoever_changed_it(tmp_path: Path) -> None:
    """A device that an operator's roster removed, or a revocation that died after its roster: its certificate is out.

    And one that was given out while that happened.
    """
    async with join_rig(tmp_path) as rig:
        await rig.join("gate-1", await rig.token())
        chain = (rig.state("gate-1") / "swarm" / "device.crt").read_bytes()
        fresh = without(rig.roster, ["gate-1"], by=rig.operator, now_s=int(time.time()))
        await rig.ask("roster.put", data=fresh.data)
        await until(lambda: x509.serial_of(chain) in revoked(rig), "its certificate is in the list")
        issued.note(rig.folder, "gate-1", 1 << 100, int(time.time()) + 60, now_s=0)
        await rig.controller.broker.update(force=True)
        assert revoked(rig) >= {x509.serial_of(chain), 1 << 100}
        before = (rig.folder.broker / "crl.pem").read_bytes()
        await rig.controller.broker.update(force=True)
        assert (rig.folder.broker / "crl.pem").read_bytes() == before, "nothing is new"
        await rig.join("gate-2", await rig.token())
        good = (rig.state("gate-2") / "swarm" / "device.crt").read_bytes()
        await rig.controller.broker.update(force=True)
        assert x509.serial_of(good) not in revoked(rig)


def revoked(rig: JoinRig) -> set[int]:
    return {serial for crl in x509.read_crls((rig.folder.broker / "crl.pem").read_bytes()) for serial in crl.revoked}


def test_line_that_a_power_cut_tore_takes_no_other_with_it(tmp_path: Path) -> None:
    """The next certificate that is given out is noted on a line of its own."""
    folder = FleetFolder(tmp_path)
    issued.note(folder, "gate-1", 1, 2_000, now_s=0)
    with open(issued.path_of(folder), "ab") as file:
        file.write(b'{"device": "gate-1", "ser')
    issued.note(folder, "gate-1", 3, 2_000, now_s=0)
    assert issued.serials_of(folder, "gate-1", 1_000) == [1, 3]


async def test_flood_of_refused_questions_leaves_the_audit_readable(tmp_path: Path) -> None:
    """A device that may ask nothing asks without a pause, and the holder of a used token joins without a pause."""
    async with join_rig(tmp_path) as rig:
        text = await rig.token()
        await rig.join("gate-1", text)
        for _ in range(400):
            with pytest.raises(CallError, match="may not ask"):
                await rig.controller._asked("gate-1", codec.dumps(["token.list", {}]))
        for _ in range(400):
            rig.issuer._refused(wire.parse(text).id, "gate-2", Refusal("used", "it is used"))
        rig.controller.audit.flush()
        found = [row["action"] for row in entries(rig.folder.controller / "audit")]
        assert 0 < sum(action in ("fleet.token.list", "join.refuse") for action in found) <= AUDIT_REFUSALS_BURST + 5
        assert "join.admit" in found


async def test_device_that_joins_and_renews_without_a_pause_fills_nothing(tmp_path: Path) -> None:
    """It owns its key and a used token: what it asks for again is what it has, and stands nowhere a second time."""
    async with join_rig(tmp_path) as rig:
        text = await rig.token()
        await rig.join("gate-1", text)
        chain = (rig.state("gate-1") / "swarm" / "device.crt").read_bytes()
        for _ in range(3):
            await rig.join("gate-1", text)
        assert (rig.state("gate-1") / "swarm" / "device.crt").read_bytes() == chain
        leaves = issued.Leaves(rig.folder)
        key = rig.issuer.enrolment.key
        made = [
            leaves.make((key.key.seed, key.pem), "gate-2", b"k" * 32, 1_000, end_s, now_s=0)
            for end_s in (2_000, 2_000, 3_000)
        ]
        assert [new for _, new in made] == [True, False, True] and made[0][0] == made[1][0] != made[2][0]
        noted = [device for device, _ in issued.rows(rig.folder, 1_500)]
        assert (noted.count("gate-1"), noted.count("gate-2")) == (1, 2)
        rig.controller.audit.flush()
        actions = [row["action"] for row in entries(rig.folder.controller / "audit")]
        assert actions.count("join.admit") == 1


async def test_answers_that_the_broker_does_not_take_do_not_pile_up(tmp_path: Path) -> None:
    async with join_rig(tmp_path) as rig:
        hold = asyncio.Event()
        rig.issuer._send = lambda *_: hold.wait()  # type: ignore[method-assign,assignment]
        for _ in range(JOIN_WAITING_MAX + 100):
            rig.issuer._answer(*([None] * 3))  # type: ignore[arg-type]
        assert len(rig.issuer._tasks) <= JOIN_WAITING_MAX and rig.issuer.counts["answers_dropped"] >= 100
        hold.set()


def test_one_token_does_not_fill_the_book_of_those_who_wait(tmp_path: Path) -> None:
    """Its holder can make as many keys as it likes: others still get to a person."""
    book = PendingBook(tmp_path, Log(stream=None))

    def ask(token: str, number: int, uses: int) -> None:
        request = Request(token * 13, "plant", "gate-1", bytes([number]) * 32, bytes(32), bytes(16), 0, INVENTORY)
        book.add(request, "gate-1", "worker", 1_000, uses=uses)

    for number in range(1 + JOIN_PENDING_SPARE):
        ask("a", number, 1)
    with pytest.raises(LimitError, match="wait by that token"):
        ask("a", 99, 1)
    ask("b", 100, 1)
    ask("a", 101, 2)
