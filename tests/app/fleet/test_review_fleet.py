"""What a review of the fleet's trust tried: a device that calls itself what it is not, or keeps what was taken."""

from __future__ import annotations

from pathlib import Path

import pytest
from join_rig import join_rig

from edgeswarm.app.fleet.issuer_judge import Refusal, identity
from edgeswarm.app.join.inventory import device_id
from edgeswarm.app.swarm.peer import CallError
from edgeswarm.errors import LocalError
from edgeswarm.wire import codec


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
    class Asks:
        public, name = b"k" * 32, "local"

    class Empty:
        members: tuple[object, ...] = ()

        def member(self, device: str) -> None:
            return None

    for name in ("local", "es-guard"):
        Asks.name = name
        with pytest.raises(Refusal, match="name") as found:
            identity(Asks, Empty())  # type: ignore[arg-type]
        assert found.value.code == "name-taken"
        with pytest.raises(LocalError, match="--name"):
            device_id(name, b"k" * 32)
