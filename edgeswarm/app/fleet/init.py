"""`edgeswarm fleet init`: a fleet's keys and certificates, its first roster, its controller and its first console.

Everything is written into a folder beside the wanted one and moved there at the end: there is a whole fleet, or none.
The root's key is sealed under a passphrase and needed for nothing daily: move it away (docs/security.md).
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from edgeswarm.app.fleet import issued
from edgeswarm.app.fleet.folder import FleetConfig, FleetFolder
from edgeswarm.app.swarm import config as cell_config
from edgeswarm.app.swarm.config import CellConfig, TimingName
from edgeswarm.app.swarm.connect import save_content_key
from edgeswarm.app.swarm.rosters import RosterBook
from edgeswarm.drivers import keys
from edgeswarm.drivers.broker_fleet import BIND_PATTERN, HOST_PATTERN
from edgeswarm.drivers.files import write_whole
from edgeswarm.drivers.pki import sealed, x509
from edgeswarm.errors import LocalError
from edgeswarm.limits import FLEET_CONSOLE_DAYS, FLEET_ISSUER_DAYS, FLEET_OPERATOR_DAYS
from edgeswarm.wire import topics
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

DAY_S = 24 * 3600
EARLY_S = 300  # certificates begin this long ago: clocks differ
ISSUER_GRANTS = ("memory.access", "neural.compute", "stream.publish:*", "tool:*")
"""What a join token may give without an operator's signature on the device itself."""
CONTROLLER_GRANTS = ("deploy", "revoke", "token", "tool:logs")
CONSOLE_GRANTS = ("deploy", "memory.access", "neural.compute", "revoke", "stream.publish:*", "token", "tool:*")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the fleet shall be.  hosts: names and addresses under which devices reach the broker, the first is used."""

    fleet: str
    hosts: tuple[str, ...]
    cell: str = "main"
    controller: str = "controller"
    operator: str = "operator"
    port: int = 8883
    join_port: int = 8884
    bind: str = "0.0.0.0"
    timing: TimingName = "default"
    encrypt: bool = False

    def check(self) -> None:
        """Raises LocalError, in the words of who typed it."""
        name, host = "a-z, 0-9 and -, at most 32", "a host name or an address"
        cell = f"{name}, and not {' or '.join(sorted(topics.RESERVED_CELLS))}"
        rules = (
            ("name", self.fleet, topics.is_fleet(self.fleet), name),
            ("cell", self.cell, topics.is_cell(self.cell), cell),
            ("operator", self.operator, topics.is_fleet(self.operator), name),
            *(("host", text, re.fullmatch(HOST_PATTERN, text), host) for text in self.hosts),
            ("bind", self.bind, re.fullmatch(BIND_PATTERN, self.bind), "an address of this machine"),
        )
        for what, text, fits, expected in rules:
            if not fits:
                raise LocalError(f"{what}: expected {expected}, found {text[:60]!r}")

    @property
    def config(self) -> FleetConfig:
        host = f"[{self.hosts[0]}]" if ":" in self.hosts[0] else self.hosts[0]
        return FleetConfig(
            self.fleet,
            self.cell,
            self.controller,
            (f"mqtts://{host}:{self.port}",),
            (f"mqtts://{host}:{self.join_port}",),
            self.timing,
            self.encrypt,
            self.operator,
        )


@dataclass(frozen=True, slots=True)
class _Keys:
    root: bytes
    issuer: bytes
    operator: bytes
    controller: bytes
    console: bytes


def init(
    path: Path, wanted: Wanted, *, passphrase: str, now_s: int, cost: sealed.Cost = sealed.MODERATE
) -> FleetFolder:
    """Make the fleet in `path`, which must not exist or be empty.  passphrase: of the root's and the operator's key.

    Raises LocalError, ConfigError, OSError.
    """
    from edgeswarm.app.fleet import broker_guard

    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise LocalError(f"{path}: expected no folder or an empty one; a fleet is made once")
    wanted.check()
    draft = path.parent / f".{path.name}.{os.getpid()}.new"
    path.parent.mkdir(parents=True, exist_ok=True)
    draft.mkdir(mode=0o700)
    try:
        folder = FleetFolder(draft)
        seeds = _Keys(*(os.urandom(32) for _ in range(5)))
        folder.save(wanted.config)
        roster = _roster(wanted, seeds, now_s)
        _write_keys(folder, wanted, seeds, passphrase, cost)
        _write_certificates(folder, wanted, seeds, now_s)
        content_key = os.urandom(32)
        for name, seed, state in (
            (wanted.controller, seeds.controller, folder.controller),
            (console_of(wanted.operator), seeds.console, folder.console),
        ):
            days = FLEET_CONSOLE_DAYS
            write_member(folder, state, name, seed, roster, Signatory.from_seed(seeds.root).public, now_s, days=days)
            if wanted.encrypt:
                save_content_key(cell_config.folder(state), 1, content_key)
        broker_guard.write_first(
            folder,
            roster,
            hosts=wanted.hosts,
            port=wanted.port,
            join_port=wanted.join_port,
            bind=wanted.bind,
            now_s=now_s,
            home=path,
        )
        if path.exists():
            path.rmdir()
        draft.rename(path)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return FleetFolder(path)


def console_of(operator: str) -> str:
    """Device id of an operator's console."""
    return f"console-{operator}"[:63]


def _write_keys(folder: FleetFolder, wanted: Wanted, seeds: _Keys, passphrase: str, cost: sealed.Cost) -> None:
    sealed.save_key(folder.root_key, seeds.root, passphrase, cost=cost)
    root_public = Signatory.from_seed(seeds.root).public
    write_whole(folder.root_pub, keys.pub_line(root_public, f"root of {wanted.fleet}").encode(), mode=0o644)
    path = folder.operator_key(wanted.operator)
    sealed.save_key(path, seeds.operator, passphrase, cost=cost)
    line = keys.pub_line(Signatory.from_seed(seeds.operator).public, wanted.operator)
    write_whole(path.with_suffix(".pub"), line.encode(), mode=0o644)
    write_whole(folder.issuer_key, seeds.issuer.hex().encode() + b"\n")


def _write_certificates(folder: FleetFolder, wanted: Wanted, seeds: _Keys, now_s: int) -> None:
    root = x509.make_root(seeds.root, wanted.fleet, now_s - EARLY_S)
    issuer_public = Signatory.from_seed(seeds.issuer).public
    issuer = x509.make_issuer(seeds.root, issuer_public, wanted.fleet, now_s - EARLY_S)
    for name, data in (("root.crt", root), ("issuer.crt", issuer), ("ca.crt", root)):
        write_whole(folder.pki / name, data, mode=0o644)


def _roster(wanted: Wanted, seeds: _Keys, now_s: int) -> Roster:
    """Version 1: the controller, which votes, and the operator's console."""
    root, issuer, operator = (Signatory.from_seed(seed) for seed in (seeds.root, seeds.issuer, seeds.operator))
    begin = now_s - EARLY_S
    until = begin + FLEET_ISSUER_DAYS * DAY_S
    authorities = [
        sign_authority(Authority(wanted.fleet, "issuer", "issuer", issuer.public, begin, until, ISSUER_GRANTS), root),
        sign_authority(
            Authority(
                wanted.fleet, "operator", wanted.operator, operator.public, begin, begin + FLEET_OPERATOR_DAYS * DAY_S
            ),
            root,
        ),
    ]
    rows = []
    members: tuple[tuple[str, bytes, Role, tuple[str, ...]], ...] = (
        (wanted.controller, seeds.controller, "coordinator", CONTROLLER_GRANTS),
        (console_of(wanted.operator), seeds.console, "administrator", CONSOLE_GRANTS),
    )
    for number, (device, seed, role, grants) in enumerate(members, 1):
        entry = Entry(device, number, role, tuple(sorted(grants)), 1)
        certificate = Certificate(
            wanted.fleet,
            device,
            Signatory.from_seed(seed).public,
            1,
            begin,
            begin + FLEET_CONSOLE_DAYS * DAY_S,
            ROLES,
        )
        signed = sign_entry(entry, fleet=wanted.fleet, cell=wanted.cell, by=operator)
        rows.append((signed, sign_certificate(certificate, issuer)))
    roster = first_roster(
        fleet=wanted.fleet,
        cell=wanted.cell,
        created_s=now_s,
        authorities=authorities,
        entries=rows,
        voters=[1],
        by=operator,
    )
    roster.verify(root.public)
    return roster


def write_member(
    folder: FleetFolder,
    state: Path,
    device: str,
    seed: bytes,
    roster: Roster,
    root_public: bytes,
    now_s: int,
    *,
    days: int,
) -> None:
    """A state directory with which `device` (in the roster) can start: key, cell.toml, TLS files, roster."""
    fleet = folder.config
    write_whole(state / "keys" / "device.key", seed.hex().encode() + b"\n")
    base = cell_config.folder(state)
    issuer_seed = keys.load_or_make(folder.issuer_key)[0].seed
    issuer = (folder.pki / "issuer.crt").read_bytes()
    public = Signatory.from_seed(seed).public
    begin = now_s - EARLY_S
    leaf = x509.make_device(issuer_seed, issuer, device, public, begin, begin + days * DAY_S)
    issued.note(folder, device, x509.serial_of(leaf), x509.not_after_of(leaf), now_s=now_s)
    write_whole(base / "ca.crt", (folder.pki / "ca.crt").read_bytes(), mode=0o644)
    write_whole(base / "device.crt", x509.chain(leaf, issuer), mode=0o644)
    write_whole(base / "device.pem", x509.pkcs8_pem(seed))
    RosterBook.save_first(state, root_public, roster)
    cell_config.save(
        state,
        CellConfig(
            fleet.fleet,
            fleet.cell,
            device,
            fleet.brokers,
            fleet.timing,
            fleet.encrypt,
            tls_ca="ca.crt",
            tls_cert="device.crt",
            tls_key="device.pem",
        ),
    )
