"""A fleet in this loop that devices join for real: its two mosquittos, its controller with the issuer, and newcomers.

async with join_rig(tmp_path) as r:
    text = await r.token(uses=2)
    done = await r.join("gate-1", text)             # the device's side, with a state directory r.state("gate-1")
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from brokers import free_port, needs_mosquitto
from join_made import INVENTORY
from swarm_cells import Member, until

from edgeswarm.app.fleet import broker_guard, overview
from edgeswarm.app.fleet.controller import Controller
from edgeswarm.app.fleet.folder import FleetFolder
from edgeswarm.app.fleet.init import Wanted, init
from edgeswarm.app.fleet.issuer import Issuer, register
from edgeswarm.app.join import run
from edgeswarm.app.join.line import Times
from edgeswarm.app.log import Log
from edgeswarm.core.cell.types import TokenState
from edgeswarm.drivers.pki import sealed
from edgeswarm.wire import token as wire
from edgeswarm.wire.certificate import Signatory
from edgeswarm.wire.roster import Roster
from edgeswarm.wire.token import Token

PASSPHRASE = "correct horse battery staple"
CHEAP = sealed.Cost(1, 8_192)
SOON = Times(wait=20.0, approval=20.0, ask=0.5, ask_max=1.0)


@dataclass
class JoinRig:
    """folder: the FLEET directory."""

    home: Path
    folder: FleetFolder
    log: Log
    parts: AsyncExitStack = field(default_factory=AsyncExitStack)
    member: Member = field(init=False)
    controller: Controller = field(init=False)
    issuer: Issuer = field(init=False)

    @property
    def roster(self) -> Roster:
        return self.controller.node.rosters.current

    @property
    def operator(self) -> Signatory:
        return Signatory.from_seed(sealed.load_key(self.folder.operator_key(), lambda: PASSPHRASE).seed)

    def state(self, device: str) -> Path:
        return self.home / device

    def tokens(self, text: str) -> TokenState:
        """What the cell knows of a token."""
        return self.controller.node.replica.state.tokens[wire.parse(text).id]

    # --- the controller -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        member = self.member = await Member(self.folder.controller).begin()
        await until(lambda: member.node.replica.state.version >= 3, "the cell has version 3")
        self.controller = Controller(self.folder, member.node, member.log)
        self.controller.audit = member.supervisor.audit
        guard = broker_guard.register(self.controller)
        self.parts.push_async_callback(guard.close)
        await guard.start()
        self.start_issuer()
        overview.register(self.controller)
        self.controller.listen()
        self.parts.push_async_callback(self.controller.close)

    def start_issuer(self) -> None:
        """A new one, which knows what is on disk and in the log."""
        self.issuer = register(self.controller)
        self.issuer.start()

    async def stop(self) -> None:
        await self.issuer.close()
        await self.parts.aclose()
        await self.member.end()

    async def ask(self, what: str, **args: Any) -> Any:
        return await self.controller.ask(what, args, "local")

    async def token(self, **more: Any) -> str:
        """As `edgeswarm fleet token create` makes one."""
        offer = await self.ask("token.offer")
        made = wire.make(tuple(offer["brokers"]), offer["fleet"], offer["ca"], entropy=os.urandom(24))
        args: dict[str, Any] = {
            "role": "worker", "uses": 1, "ttl_s": 3600, "approval": False, "labels": [], "grants": [], **more,
        }  # fmt: skip
        await self.ask("token.create", token=made.id, public=made.public, **args)
        return wire.text_of(made)

    # --- devices ------------------------------------------------------------------------------------------------------

    async def join(self, device: str, text: str | Token, **more: Any) -> dict[str, Any]:
        """The device's whole way, to being seen."""
        token = wire.parse(text) if isinstance(text, str) else text
        times, progress = more.pop("times", SOON), more.pop("progress", lambda text: None)
        state = more.pop("state", None) or self.state(device)
        wish = run.Wish(state, name=more.pop("name", device), found=more.pop("found", INVENTORY), **more)
        return await run.run(token, wish, times=times, progress=progress, seen_s=15.0)


@asynccontextmanager
async def join_rig(home: Path, *, fleet: str = "plant", encrypt: bool = False) -> AsyncIterator[JoinRig]:
    needs_mosquitto()
    wanted = Wanted(
        fleet, ("localhost",), port=free_port(), join_port=free_port(), bind="127.0.0.1", timing="lan",
        encrypt=encrypt,
    )  # fmt: skip
    folder = init(home / "fleet", wanted, passphrase=PASSPHRASE, now_s=int(time.time()) - 7_200, cost=CHEAP)
    log = Log(stream=None, level="debug")
    async with broker_guard.run_broker(folder, log):
        found = JoinRig(home, folder, log)
        await found.start()
        try:
            yield found
        finally:
            await found.stop()
            await asyncio.sleep(0)
