"""The first word with the new certificate: only when the controller has heard it, a device says that it has joined."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgeswarm import __version__
from edgeswarm.app.log import Log
from edgeswarm.errors import EdgeSwarmError, RemoteError
from edgeswarm.wire import codec

if TYPE_CHECKING:
    from edgeswarm.app.swarm.peer import Peer

METHOD: Final = "join.confirm"
TRY_S: Final = 1.0
AGAIN_S: Final = 0.05


class NotSeenError(RemoteError):
    """It has its certificate and its roster, and the controller has not heard it yet."""

    exit_code = 10


async def confirm(peer: Peer, controller: str, *, by: str, wait_s: float) -> None:
    """Returns when the controller has heard this device.  by: "daemon" or "join".  Raises NotSeenError.

    Asked again and again: the broker may learn of a new device a moment after the device does.
    """
    loop = asyncio.get_running_loop()
    end, last, again_s = loop.time() + wait_s, "no answer", AGAIN_S
    before = peer.addresses.get(controller)
    peer.addresses[controller] = peer.post.topics.controller  # which every role may write to
    body = codec.dumps([by, f"edgeswarm {__version__}"])
    try:
        while (left_s := end - loop.time()) > 0:
            try:
                await peer.post.transport.connected(left_s)
                await peer.call(controller, METHOD, body, deadline_s=min(TRY_S, left_s))
                return
            except EdgeSwarmError as error:
                last = str(error)
            await asyncio.sleep(again_s)
            again_s = min(TRY_S, 2 * again_s)
    finally:
        if before is None:
            del peer.addresses[controller]
        else:
            peer.addresses[controller] = before
    raise NotSeenError(f"not heard by {controller} within {wait_s:g} s: {last}")


async def say_hello(state_dir: Path, controller: str, *, wait_s: float) -> None:
    """For a device whose daemon does not run: connect with the new certificate, be heard, hang up.

    Raises NotSeenError, ConfigError.
    """
    from edgeswarm.app.fleet.console import Console

    console = Console(state_dir, controller, log=Log(level="error", stream=None))
    console.peer.start()
    try:
        await console.transport.start()
        await confirm(console.peer, controller, by="join", wait_s=wait_s)
    finally:
        await console.peer.close()
        await console.transport.close()
