"""What a review of the fleet's trust tried: a device that calls itself what it is not, or keeps what was taken."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from join_rig import JoinRig, join_rig
from swarm_cells import until

from edgeswarm.app.fleet.issuer_enrol import Candidate
from edgeswarm.app.fleet.issuer_judge import Refusal, identity
from edgeswarm.app.join.inventory import device_id
from edgeswarm.app.swarm.peer import CallError
from edgeswarm.errors import EdgeSwarmError, LocalError
from edgeswarm.wire import codec
from edgeswarm.wire import token as wire


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
