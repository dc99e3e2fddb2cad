"""An operator's console: a short-lived client of the broker with an administrator's identity, that asks the controller.

Nothing of it is kept but the boot counter, and newer rosters: it is a member of the roster like a device, but runs
nothing.  Answers are believed because the roster names the key that signed them.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from edgeswarm.app.fleet import console_renewal
from edgeswarm.app.fleet.controller import FOLLOW, KEEP, METHOD, ROWS
from edgeswarm.app.log import Log
from edgeswarm.app.swarm import config as cell_config
from edgeswarm.app.swarm import roots
from edgeswarm.app.swarm.connect import load_cipher, make_transport
from edgeswarm.app.swarm.peer import Peer
from edgeswarm.app.swarm.post import Post
from edgeswarm.app.swarm.rosters import RosterBook
from edgeswarm.drivers.mqtt.transport import Will
from edgeswarm.errors import EdgeSwarmError, RemoteError
from edgeswarm.limits import FLEET_CALL_S, FLEET_FOLLOW_S, FOLLOW_LINES_MAX
from edgeswarm.wire import codec
from edgeswarm.wire import messages as msg
from edgeswarm.wire.topics import Topics

CONNECT_S = 10.0


class Console:
    """state_dir: of the console identity.  controller: device id.  Use as an async context manager."""

    def __init__(self, state_dir: Path, controller: str, *, log: Log | None = None) -> None:
        self.controller = controller
        config = cell_config.load(state_dir)
        folder = cell_config.folder(state_dir)
        log = log or Log(level="error", stream=None)
        self.rosters = RosterBook.load(state_dir, fleet=config.fleet, cell=config.cell)
        key = console_renewal.key_of(state_dir, self.rosters.lookup(config.device))
        self._state_dir, self._device, self._log = state_dir, config.device, log
        boot = cell_config.next_boot(state_dir)
        topics = Topics(config.fleet, config.cell)
        will = Will(topics.gone(config.device), msg.encode(msg.Gone(boot)))
        self.transport = make_transport(config, folder, will=will, offline=None, on_state=lambda _: None, part=boot)
        self.post = Post(
            self.transport,
            topics,
            device=config.device,
            boot=boot,
            seed=key.seed,
            lookup=self.rosters.lookup,
            log=log,
            cipher=load_cipher(config, folder),
            check=self.rosters.check,
        )
        self.peer = Peer(self.post, self.rosters, log=log)
        self.peer.addresses[controller] = topics.controller
        self._rows: dict[bytes, asyncio.Queue[tuple[list[Any], bool, str]]] = {}
        self.peer.letters[msg.AppMessage] = self._told

    async def __aenter__(self) -> Console:
        self.peer.start()
        await self.transport.start(CONNECT_S)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self.transport.is_connected and console_renewal.is_due(self, self._device):
            try:
                await console_renewal.renew(self, self._state_dir, self._device)
            except (EdgeSwarmError, OSError) as error:  # there are months left
                self._log.warning("certificate_not_renewed", error=str(error))
        await self.peer.close()
        await self.transport.close()
        try:
            roots.follow(cell_config.folder(self._state_dir), self.rosters, self._log)
        except OSError as error:
            self._log.error("root_not_kept", error=str(error))

    async def call(self, what: str, args: dict[str, Any]) -> Any:
        """Raises CallError, OutcomeUnknownError, LimitError."""
        body = codec.dumps([what, args])
        return codec.loads(await self.peer.call(self.controller, METHOD, body, deadline_s=FLEET_CALL_S))

    async def follow(self, what: str, args: dict[str, Any]) -> AsyncIterator[Any]:
        """Rows until the controller ends them."""
        id_ = os.urandom(16)
        queue: asyncio.Queue[tuple[list[Any], bool, str]] = asyncio.Queue(FOLLOW_LINES_MAX)
        self._rows[id_] = queue
        try:
            await self.peer.call(self.controller, FOLLOW, codec.dumps([what, args, id_]), deadline_s=FLEET_CALL_S)
            kept = time.monotonic()
            while True:
                try:
                    async with asyncio.timeout(FLEET_FOLLOW_S / 3):
                        rows, ended, why = await queue.get()
                except TimeoutError:
                    rows, ended, why = [], False, ""
                for row in rows:
                    yield row
                if why:
                    raise RemoteError(why, who=self.controller)
                if ended:
                    return
                if time.monotonic() - kept > FLEET_FOLLOW_S / 3:
                    kept = time.monotonic()
                    await self.peer.call(self.controller, KEEP, id_, deadline_s=FLEET_FOLLOW_S)
        finally:
            del self._rows[id_]

    def _told(self, sender: str, message: msg.AppMessage) -> None:
        if message.name != ROWS or sender != self.controller:
            return
        match codec.loads(message.body, who=sender):
            case [bytes(id_), list(rows), bool(ended), str(why)]:
                queue = self._rows.get(id_)
                if queue is not None and not queue.full():  # a reader that is too slow loses the newest
                    queue.put_nowait((rows, ended, why))
            case _:
                raise RemoteError("fleet.rows: expected [id, rows, ended, why]", who=sender)
