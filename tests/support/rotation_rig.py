"""A fleet in this loop: its hardened broker (real mosquitto, both listeners), its controller, devices of any age.

async with rig(tmp_path) as r:
    d1 = await r.add("d1", age_days=21)          # in the roster, with a certificate of 30 days made so long ago
    await r.begin("d1")                          # a Member: the device inside this loop
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from brokers import free_port, needs_mosquitto
from swarm_cells import Member, until

from edgeswarm.app.fleet import broker_guard, issued, issuer, overview, revocation, root_rotation, rotation
from edgeswarm.app.fleet.controller import Controller
from edgeswarm.app.fleet.folder import FleetFolder
from edgeswarm.app.fleet.init import Wanted, init, write_member
from edgeswarm.app.fleet.roster_changes import RosterChanges
from edgeswarm.app.log import Log
from edgeswarm.core.cell import commands as cmd
from edgeswarm.drivers.files import write_whole
from edgeswarm.drivers.pki import sealed, x509
from edgeswarm.errors import RemoteError
from edgeswarm.wire.certificate import Certificate, Role, Signatory, sign_certificate
from edgeswarm.wire.roster import Roster
from edgeswarm.wire.roster_change import new_entry, next_roster
from edgeswarm.wire.roster_form import Entry

PASSPHRASE = "correct horse battery staple"
CHEAP = sealed.Cost(1, 8_192)
DAY_S = 86_400
GRANTS = ("memory.access", "neural.compute", "stream.publish:*")


@dataclass
class Rig:
    """folder: the FLEET directory.  members: what runs, the controller's device among them."""

    home: Path
    folder: FleetFolder
    log: Log
    stack: AsyncExitStack
    seeds: dict[str, bytes] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)
    controller: Controller = field(init=False)
    renewer: rotation.Renewer = field(init=False)
    broker: AsyncExitStack = field(default_factory=AsyncExitStack)
    parts: AsyncExitStack = field(default_factory=AsyncExitStack)

    def state(self, device: str) -> Path:
        return self.folder.controller if device == self.folder.config.controller else self.home / device

    @property
    def operator(self) -> Signatory:
        return Signatory.from_seed(sealed.load_key(self.folder.operator_key(), lambda: PASSPHRASE).seed)

    @property
    def root(self) -> Signatory:
        return Signatory.from_seed(sealed.load_key(self.folder.root_key, lambda: PASSPHRASE).seed)

    @property
    def seed_of_root(self) -> bytes:
        return sealed.load_key(self.folder.root_key, lambda: PASSPHRASE).seed

    @property
    def roster(self) -> Roster:
        return self.controller.node.rosters.current

    # --- the fleet's own ----------------------------------------------------------------------------------------------

    async def start_broker(self) -> None:
        await self.broker.enter_async_context(broker_guard.run_broker(self.folder, self.log))

    async def stop_broker(self) -> None:
        await self.broker.aclose()

    async def start_controller(self) -> None:
        name = self.folder.config.controller
        member = self.members[name] = await Member(self.folder.controller).begin()
        await until(lambda: member.node.replica.state.version >= 3, "the controller's cell has version 3")
        controller = self.controller = Controller(self.folder, member.node, member.log)
        controller.audit = member.supervisor.audit
        self.parts.push_async_callback(controller.close)
        guard = broker_guard.register(controller)
        self.parts.push_async_callback(guard.close)
        await guard.start()
        made = issuer.register(controller)
        made.start()
        self.parts.push_async_callback(made.close)
        self.renewer = rotation.register(controller)
        self.parts.push_async_callback(self.renewer.close)
        root_rotation.register(controller)
        overview.register(controller)
        revoker = revocation.register(controller)
        self.parts.push_async_callback(revoker.close)
        controller.listen()

    async def stop_controller(self) -> None:
        await self.parts.aclose()
        await self.members.pop(self.folder.config.controller).end()

    # --- devices ------------------------------------------------------------------------------------------------------

    async def add(
        self,
        device: str,
        *,
        role: Role = "worker",
        age_days: float = 0.0,
        life_days: float = 30.0,
        issuer_seed: bytes = b"",
        issuer_pem: bytes = b"",
    ) -> Path:
        """In the roster, and a state directory with which it can start.  issuer: of its X.509 certificate only."""
        seed = self.seeds[device] = os.urandom(32)
        enrolment = self.controller.issuer.enrolment
        now_s = int(time.time())
        begin = now_s - 300 - int(age_days * DAY_S)
        end = begin + int(life_days * DAY_S)
        public = Signatory.from_seed(seed).public

        def build(roster: Roster) -> Roster:
            entry = Entry(device, roster.number_next, role, GRANTS, 1)
            certificate = Certificate(roster.fleet, device, public, 1, begin, end, (role,))
            return next_roster(
                roster, created_s=now_s, by=self.operator, entries=[new_entry(roster, entry, self.operator)],
                certificates={device: sign_certificate(certificate, enrolment.by)},
            )  # fmt: skip

        # an old certificate needs an issuer that was in office then: see `rig`
        roster = await RosterChanges(self.controller.node).change(build)
        await self.controller.broker.update()
        state, root_public = self.state(device), self.root.public
        write_member(self.folder, state, device, seed, self.first, root_public, now_s, days=30)
        write_whole(state / "swarm" / "rosters" / f"{roster.version}.cbor", roster.data)
        pem = issuer_pem or enrolment.key.pem
        leaf = x509.make_device(issuer_seed or enrolment.key.key.seed, pem, device, public, begin, end)
        write_whole(state / "swarm" / "device.crt", x509.chain(leaf, pem))
        issued.note(self.folder, device, x509.serial_of(leaf), end, now_s=now_s)
        return state

    @property
    def first(self) -> Roster:
        return self.controller.node.rosters.first

    async def begin(self, device: str) -> Member:
        member = self.members[device] = await Member(self.state(device)).begin()
        return member

    async def end(self, device: str) -> None:
        await self.members.pop(device).end()

    async def up(self, device: str) -> None:
        """It is in the cell: the controller's copy of the state has it alive."""
        state = self.controller.node.replica.state
        await until(lambda: device in state.devices and state.devices[device].alive, f"{device} is in the cell")

    def revocation(self, *devices: str) -> bytes:
        return revocation.without(self.roster, list(devices), by=self.operator, now_s=int(time.time())).data

    async def revoke(self, device: str, reason: str) -> None:
        """As the command does it: signed anew where another change of the roster came first."""
        for left in (4, 3, 2, 1, 0):
            try:
                await self.controller.revoker.revoke({"data": self.revocation(device), "reason": reason}, "local")
                return
            except RemoteError:
                if not left:
                    raise

    async def note(self, device: str, text: str) -> None:
        """A command of the device, committed: its messages are taken.  On a busy machine it may be there twice."""

        async def committed() -> bool:
            await self.members[device].node.propose(cmd.encode(cmd.Note(device, text)))
            return True

        await until(committed, f"{device} has said {text}")


@asynccontextmanager
async def rig(home: Path, *, ago_days: float = 60.0) -> AsyncIterator[Rig]:
    """ago_days: when the fleet was made, so that certificates may be old."""
    needs_mosquitto()
    wanted = Wanted(
        "plant", ("localhost",), port=free_port(), join_port=free_port(), bind="127.0.0.1", timing="lan",
    )  # fmt: skip
    made_s = int(time.time() - ago_days * DAY_S)
    folder = init(home / "fleet", wanted, passphrase=PASSPHRASE, now_s=made_s, cost=CHEAP)
    async with AsyncExitStack() as stack:
        found = Rig(home, folder, Log(stream=None, level="debug"), stack)
        stack.push_async_callback(found.broker.aclose)
        await found.start_broker()

        async def end_all() -> None:
            for name in [name for name in found.members if name != folder.config.controller]:
                await found.end(name)
            if folder.config.controller in found.members:
                await found.stop_controller()

        stack.push_async_callback(end_all)
        await found.start_controller()
        yield found
