"""A throw-away fleet for development, demos and tests: root, issuer, operator, devices and a roster of version 1.

Every key follows from `entropy`: with random bytes nobody can guess them, with fixed ones a test is the same each time.
Pure; `edgeswarm swarm init --dev N` writes what is made here to disk, and says that it is not for production.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeswarm.errors import LocalError
from edgeswarm.limits import DEVICES_MAX, VOTERS_MAX
from edgeswarm.wire.capability import ALL
from edgeswarm.wire.certificate import (
    ROLES,
    Authority,
    Certificate,
    Role,
    Signatory,
    sign_authority,
    sign_certificate,
)
from edgeswarm.wire.roster import Roster
from edgeswarm.wire.roster_change import first_roster
from edgeswarm.wire.roster_form import Entry, sign_entry

DEV_GRANTS = ALL
"""What every device of a development fleet may do."""
YEAR_S = 365 * 24 * 3600


@dataclass(frozen=True, slots=True)
class DevFleet:
    """Seeds are Ed25519 private keys, 32 bytes: to be kept like passwords."""

    fleet: str
    cell: str
    root_seed: bytes
    issuer_seed: bytes
    operator_seed: bytes
    device_seeds: Mapping[str, bytes]
    roster: Roster

    @property
    def root_public(self) -> bytes:
        return self.root.public

    @property
    def root(self) -> Signatory:
        return Signatory.from_seed(self.root_seed)

    @property
    def issuer(self) -> Signatory:
        return Signatory.from_seed(self.issuer_seed)

    @property
    def operator(self) -> Signatory:
        return Signatory.from_seed(self.operator_seed)

    def device(self, device: str) -> Signatory:
        return Signatory.from_seed(self.device_seeds[device])


def make_dev_fleet(
    count: int,
    *,
    entropy: bytes,
    now_s: int,
    fleet: str = "dev",
    cell: str = "cell",
    voters: int = 0,
    coordinators: int = 0,
    names: Sequence[str] = (),
) -> DevFleet:
    """A fleet of `count` devices called d1, d2, ... (or `names`).

    voters: how many of the first vote; 0: as many of 1, 3, 5 as there are.  coordinators: how many may vote; 0: five,
    or all where there are fewer.  now_s: seconds since 1970; certificates hold for a year from then.
    """
    if not 0 < count <= DEVICES_MAX or (names and len(names) != count):
        raise LocalError(f"expected 1 to {DEVICES_MAX} devices, found {count}, and {len(names)} names")
    names = names or [f"d{number}" for number in range(1, count + 1)]
    voters = voters or (VOTERS_MAX if count >= VOTERS_MAX else 3 if count >= 3 else 1)
    coordinators = max(voters, coordinators or min(count, VOTERS_MAX))

    def seed(of: str) -> bytes:
        return hashlib.sha256(b"edgeswarm-dev-fleet/" + entropy + b"/" + of.encode()).digest()

    root, issuer, operator = (Signatory.from_seed(seed(of)) for of in ("root", "issuer", "operator"))
    until_s = now_s + YEAR_S
    authorities = [
        sign_authority(Authority(fleet, "issuer", "dev issuer", issuer.public, now_s, until_s, DEV_GRANTS), root),
        sign_authority(Authority(fleet, "operator", "dev operator", operator.public, now_s, until_s), root),
    ]
    seeds = {name: seed(f"device/{name}") for name in names}
    rows: list[tuple[bytes, bytes]] = []
    for number, name in enumerate(names, 1):
        role: Role = "coordinator" if number <= coordinators else "worker"
        public = Signatory.from_seed(seeds[name]).public
        certificate = Certificate(fleet, name, public, 1, now_s, until_s, ROLES[:3])
        entry = Entry(name, number, role, DEV_GRANTS, 1)
        signed = sign_entry(entry, fleet=fleet, cell=cell, by=operator if role == "coordinator" else issuer)
        rows.append((signed, sign_certificate(certificate, issuer)))
    roster = first_roster(
        fleet=fleet,
        cell=cell,
        created_s=now_s,
        authorities=authorities,
        entries=rows,
        voters=range(1, voters + 1),
        by=operator,
    )
    return DevFleet(fleet, cell, seed("root"), seed("issuer"), seed("operator"), seeds, roster)
