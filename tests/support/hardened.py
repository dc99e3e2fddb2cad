"""A fleet's hardened broker with the devices of a cell, each in its role, and their certificates.

hardened = make(tmp_path, {"c1": "coordinator", "w1": "worker"})
async with hardened.broker(): ...
with hardened.session("w1") as session: session.publish(...)
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from brokers import free_port, needs_mosquitto

from edgeswarm.app.fleet import broker_files
from edgeswarm.app.fleet.broker_guard import BrokerGuard, run_broker, write_first
from edgeswarm.app.fleet.folder import FleetConfig, FleetFolder
from edgeswarm.app.fleet.init import write_member
from edgeswarm.app.log import Log
from edgeswarm.drivers.broker_fleet import Files
from edgeswarm.drivers.broker_fleet_client import Session, Where, connect, context
from edgeswarm.drivers.files import write_whole
from edgeswarm.drivers.pki import x509
from edgeswarm.wire.certificate import (
    OPERATOR_ROLES,
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
from edgeswarm.wire.topics import Topics

FLEET, CELL = "plant", "main"
GRANTS = ("neural.compute", "stream.publish:*", "tool:*")
YEAR_S = 365 * 86_400


@dataclass
class Hardened:
    folder: FleetFolder
    roster: Roster
    seeds: dict[str, bytes]
    states: dict[str, Path]
    issuer: broker_files.Issuer
    log: Log
    port: int
    join_port: int

    @property
    def topics(self) -> Topics:
        return Topics(FLEET, CELL)

    @property
    def ca(self) -> bytes:
        return (self.folder.pki / "ca.crt").read_bytes()

    @property
    def files(self) -> Files:
        return Files(self.folder.broker)

    def guard(self, **named: object) -> BrokerGuard:
        return BrokerGuard(self.folder, self.log, roster=lambda: self.roster, **named)  # type: ignore[arg-type]

    def certificate(self, device: str, *, serial: int = 0) -> bytes:
        now_s = int(time.time())
        public = Signatory.from_seed(self.seeds[device]).public
        leaf = x509.make_device(
            self.issuer.key.seed, self.issuer.pem, device, public, now_s - 60, now_s + 86_400, serial=serial
        )
        return x509.chain(leaf, self.issuer.pem)

    def session(self, device: str, chain: bytes = b"", *, client_id: str = "") -> Session:
        """Blocking.  chain: the certificate to show instead of a fresh one."""
        key = x509.pkcs8_pem(self.seeds[device])
        with context(self.ca, chain or self.certificate(device), key) as tls:
            where = Where("127.0.0.1", self.port, tls)
            return connect(where, client_id=client_id or f"{device}-{os.urandom(4).hex()}")

    @asynccontextmanager
    async def broker(self) -> AsyncIterator[None]:
        async with run_broker(self.folder, self.log, as_is=True):
            yield

    def said(self, text: str) -> list[str]:
        """Lines of our log and of both mosquittos' with this text."""
        return [line for line in self.log.ring.lines if text in line]

    def without(self, *devices: str) -> Roster:
        """The roster as it would be without these."""
        return _roster({name: role for name, role in self._roles().items() if name not in devices}, self)

    def _roles(self) -> dict[str, Role]:
        return {member.entry.device: member.entry.role for member in self.roster.members}


def make(home: Path, roles: Mapping[str, Role], *, controller: str = "c1", start_devices: bool = False) -> Hardened:
    """FLEET in home/fleet; state directories where start_devices."""
    needs_mosquitto()
    seeds = {name: os.urandom(32) for name in roles}
    root, issuer = os.urandom(32), os.urandom(32)
    folder, now_s = FleetFolder(home / "fleet"), int(time.time())
    port, join_port = free_port(), free_port()
    url = f"mqtts://localhost:{port}"
    folder.save(FleetConfig(FLEET, CELL, controller, (url,), (f"mqtts://localhost:{join_port}",), "lan"))
    write_whole(folder.issuer_key, issuer.hex().encode())
    root_pem = x509.make_root(root, FLEET, now_s)
    issuer_pem = x509.make_issuer(root, Signatory.from_seed(issuer).public, FLEET, now_s)
    for name, data in (("root.crt", root_pem), ("issuer.crt", issuer_pem), ("ca.crt", root_pem)):
        write_whole(folder.pki / name, data)
    loaded = broker_files.Issuer.load(folder)
    found = Hardened(folder, None, seeds, {}, loaded, Log(stream=None, level="debug"), port, join_port)  # type: ignore[arg-type]
    found.roster = _roster(dict(roles), found, root)
    write_first(
        folder, found.roster, hosts=["localhost"], port=port, join_port=join_port, bind="127.0.0.1", now_s=now_s
    )
    if start_devices:
        for device, seed in seeds.items():
            state = folder.controller if device == controller else home / device
            found.states[device] = state
            root_public = Signatory.from_seed(root).public
            write_member(folder, state, device, seed, found.roster, root_public, now_s, days=30)
    return found


_OPERATOR = os.urandom(32)


def _roster(roles: dict[str, Role], of: Hardened, root_seed: bytes = b"\1" * 32) -> Roster:
    """Coordinators vote, up to three of them."""
    root, operator = Signatory.from_seed(root_seed), Signatory.from_seed(_OPERATOR)
    issuer, now_s = Signatory.from_seed(of.issuer.key.seed), int(time.time())
    begin, end = now_s - 60, now_s + YEAR_S
    authorities = [
        sign_authority(Authority(FLEET, "issuer", "issuer", issuer.public, begin, end, GRANTS), root),
        sign_authority(Authority(FLEET, "operator", "operator", operator.public, begin, end), root),
    ]
    rows = []
    for number, (device, role) in enumerate(roles.items(), 1):
        grants = () if role == "reader" else ("deploy", *GRANTS) if role in OPERATOR_ROLES else GRANTS
        entry = Entry(device, number, role, grants, 1)
        public = Signatory.from_seed(of.seeds[device]).public
        certificate = Certificate(FLEET, device, public, 1, begin, end, ROLES)
        by = operator if role in OPERATOR_ROLES else issuer
        rows.append((sign_entry(entry, fleet=FLEET, cell=CELL, by=by), sign_certificate(certificate, issuer)))
    voters = [number for number, role in enumerate(roles.values(), 1) if role == "coordinator"][:3]
    return first_roster(
        fleet=FLEET,
        cell=CELL,
        created_s=now_s,
        authorities=authorities,
        entries=rows,
        voters=voters if len(voters) != 2 else voters[:1],
        by=operator,
    )
