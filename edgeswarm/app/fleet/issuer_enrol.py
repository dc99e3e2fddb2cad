"""Devices that may join, into the roster: one next roster for all of a batch, then certificates and memberships.

The roster is made from the one that this device knows, checked as every device will, and proposed; where another came
first it is made anew.  Which certificate was given to whom is noted (issued.py) before it is given: a revocation needs
its serial number.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgeswarm.app.fleet import issued
from edgeswarm.app.fleet.broker_files import Issuer as IssuerKey
from edgeswarm.app.fleet.roster_changes import RosterChanges
from edgeswarm.app.swarm import config as cell_config
from edgeswarm.app.swarm.connect import CONTENT_KEYS
from edgeswarm.drivers import keys
from edgeswarm.errors import EdgeSwarmError, LocalError, RemoteError
from edgeswarm.limits import (
    DEVICE_DAYS,
    JOIN_PUBLISHERS_MAX,
    JOIN_REUSE_S,
    ROSTERS_KEPT_MAX,
)
from edgeswarm.wire import cose
from edgeswarm.wire.certificate import Certificate, Role, Signatory, sign_certificate
from edgeswarm.wire.join import Membership
from edgeswarm.wire.roster import Roster
from edgeswarm.wire.roster_change import new_entry, next_roster
from edgeswarm.wire.roster_form import Entry, entry_in

if TYPE_CHECKING:
    from edgeswarm.app.fleet.controller import Controller

EARLY_S: Final = 300  # certificates begin this long ago: clocks differ
DAY_S: Final = 86_400
TRIES, TRY_S = 8, 0.1  # to have a roster committed, while others change it too


@dataclass(frozen=True, slots=True)
class Candidate:
    """A device that may be in the cell.  entry: signed by an operator, where the issuer's word is not enough."""

    device: str
    public: bytes
    role: Role
    grants: tuple[str, ...]
    token: str
    entry: bytes = b""


class Enrolment:
    """controller: whose node is in the cell.  clock: seconds since 1970."""

    def __init__(self, controller: Controller, *, clock: Callable[[], float] = time.time) -> None:
        self._controller, self._clock = controller, clock
        self._node = controller.node
        self.lock = asyncio.Lock()
        """Held while a roster is made and proposed; whoever else makes rosters here may take it too."""
        self.rosters = 0
        self._changes = RosterChanges(self._node)
        self._leaves = issued.Leaves(controller.folder)
        self.key = IssuerKey.load(controller.folder)
        self.by = Signatory(self.key.key.public, cose.signer(self.key.key.seed))

    def reload(self) -> None:
        """The issuer was rotated.  Raises ConfigError."""
        self.key = IssuerKey.load(self._controller.folder)
        self.by = Signatory(self.key.key.public, cose.signer(self.key.key.seed))

    def now_s(self) -> int:
        """By this machine's clock, but not before what was signed last."""
        return max(int(self._clock()), self._node.rosters.current.created_s)

    # --- the roster ---------------------------------------------------------------------------------------------------

    async def enrol(self, wanted: Sequence[Candidate]) -> dict[str, Roster]:
        """Device -> a roster that has it with that key and can be believed by who knows no other.

        All of them are in the roster when this returns.  Raises RemoteError where no roster could be committed.
        """
        async with self.lock:
            last: EdgeSwarmError = RemoteError("the roster was not tried")
            for number in range(TRIES):
                if number:
                    await asyncio.sleep(TRY_S * number)
                await self._caught_up()
                base = self._node.rosters.current
                due = [one for one in wanted if self.fresh(one) is None]
                if not due:
                    break
                fresh = await asyncio.to_thread(self._next, base, due)
                try:
                    self.rosters += await self._changes.put(fresh)
                except EdgeSwarmError as error:  # another roster came first, or nobody knows: look, and make it anew
                    last = error
            else:
                raise RemoteError(f"the roster could not be changed: {last}")
        found = {one.device: self.fresh(one) for one in wanted}
        return {device: roster for device, roster in found.items() if roster is not None}

    async def _caught_up(self) -> None:
        """This device's book has the roster of the log."""
        for _ in range(100):
            if self._node.rosters.current.version >= self._node.replica.state.roster.version:
                return
            await asyncio.sleep(0.01)

    def fresh(self, one: Candidate) -> Roster | None:
        """The newest roster, not a leader's, that has the device with this key and a certificate made just now."""
        book = self._node.rosters
        current = book.current
        if current.lookup(one.device) != one.public:
            return None
        for version in range(current.version, max(0, current.version - ROSTERS_KEPT_MAX), -1):
            roster = book.of(version)
            member = roster.member(one.device)
            if roster.version != version or roster.leader or member is None or member.public != one.public:
                continue
            certificate = member.keys[-1].certificate
            begun_s = self.now_s() - EARLY_S - certificate.not_before_s
            if -JOIN_REUSE_S <= begun_s <= JOIN_REUSE_S:
                return roster
            return None
        return None

    def _next(self, base: Roster, due: Sequence[Candidate]) -> Roster:
        """Blocking: some 0.3 ms a device, and 0.1 ms for each that is in it.  Raises RosterError, LocalError."""
        now_s = self.now_s()
        office = base.open_authorities(self._node.rosters.root_public).get(self.by.kid)
        if office is None or office.duty != "issuer":
            raise LocalError("the issuer's key of this controller is not in office: `edgeswarm fleet rotate issuer`")
        begin = max(now_s - EARLY_S, office.not_before_s)
        entries: list[bytes] = []
        certificates: dict[str, bytes] = {}
        number = base.number_next
        for one in due:
            member = base.member(one.device)
            serial, role = 1, one.role
            if member is not None and member.public != one.public:
                raise LocalError(f"{one.device} is in the fleet with another key")  # its name is no claim to it
            if member is not None:
                serial, role = member.keys[-1].certificate.serial + 1, member.entry.role
            elif one.entry:
                entries.append(one.entry)
                number = max(number, entry_in(one.entry).number + 1)
            else:
                entry = Entry(one.device, number, one.role, tuple(sorted(set(one.grants))), base.version + 1)
                entries.append(new_entry(base, entry, self.by))
                number += 1
            end = min(begin + DEVICE_DAYS * DAY_S, office.not_after_s)
            made = Certificate(base.fleet, one.device, one.public, serial, begin, end, (role,))
            certificates[one.device] = sign_certificate(made, self.by)
        fresh = next_roster(base, created_s=now_s, by=self.by, entries=entries, certificates=certificates)
        fresh.verify(self._node.rosters.root_public, base)
        return fresh

    # --- the membership -----------------------------------------------------------------------------------------------

    def membership(self, one: Candidate, roster: Roster) -> Membership:
        """All that the device must know; its X.509 certificate is made here and noted.  Raises LocalError, OSError."""
        from edgeswarm.drivers.pki import x509

        member = roster.member(one.device)
        assert member is not None
        certificate = member.keys[-1].certificate
        folder = self._controller.folder
        config = folder.config
        end_s = min(certificate.not_after_s, x509.not_after_of(self.key.pem))
        issuer, begin_s = (self.key.key.seed, self.key.pem), certificate.not_before_s
        leaf, new = self._leaves.make(issuer, one.device, one.public, begin_s, end_s, now_s=self.now_s())
        if new and self._controller.audit is not None:
            self._controller.audit.record("join.admit", who=one.device, capability="token", target=f"token={one.token}")
        trusted = keys.trusted(folder.controller / "trust.d")
        return Membership(
            device=one.device,
            number=member.entry.number,
            role=member.entry.role,
            cell=roster.cell,
            controller=self._node.config.device,
            first=self._node.rosters.first.data,
            roster=roster.data,
            root=self._node.rosters.root_public,
            chain=x509.chain(leaf, self.key.pem),
            ca=(folder.pki / "ca.crt").read_bytes(),
            brokers=config.brokers,
            timing=config.timing,
            encrypt=config.encrypt,
            content_keys=_content_keys(cell_config.folder(folder.controller) / CONTENT_KEYS) if config.encrypt else (),
            publishers=tuple(trusted.values())[:JOIN_PUBLISHERS_MAX],
            version=self._node.replica.state.version,
            now_s=self.now_s(),
        )


def _content_keys(path: Path) -> tuple[tuple[int, bytes], ...]:
    """Of the cell: (epoch, key).  Raises LocalError."""
    try:
        rows = [line.split(" ") for line in path.read_text().splitlines()]
        return tuple((int(epoch), bytes.fromhex(key)) for epoch, key in rows)
    except (OSError, ValueError) as error:
        raise LocalError(f"{path}: expected lines of an epoch and a key: {error}") from None
