"""Operators: a key that the root appoints, and a console identity with which its commands reach the controller.

Made where the keys of root, issuer and an operator are (the controller's machine, with the root's medium at hand).  The
new operator takes a kit home: one sealed file that becomes a FLEET directory of theirs, without issuer or root key.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

from edgeswarm.app.fleet import backup
from edgeswarm.app.fleet.folder import FleetFolder
from edgeswarm.app.fleet.init import CONSOLE_GRANTS, DAY_S, EARLY_S, console_of, write_member
from edgeswarm.app.swarm import config as cell_config
from edgeswarm.app.swarm.connect import CONTENT_KEYS
from edgeswarm.drivers import keys
from edgeswarm.drivers.files import write_whole
from edgeswarm.drivers.pki import sealed
from edgeswarm.errors import LocalError
from edgeswarm.limits import FLEET_CONSOLE_DAYS, FLEET_OPERATOR_DAYS
from edgeswarm.wire.certificate import Authority, Certificate, Signatory, sign_authority, sign_certificate
from edgeswarm.wire.roster import Roster
from edgeswarm.wire.roster_change import new_entry, next_roster
from edgeswarm.wire.roster_form import Entry


def names(roster: Roster, root_public: bytes) -> list[dict[str, object]]:
    """The operators of a roster: name, key id, until when."""
    found = roster.open_authorities(root_public)
    return [
        {"name": one.name, "key": one.kid.decode(), "until_s": one.not_after_s}
        for one in sorted(found.values(), key=lambda one: one.name)
        if one.duty == "operator"
    ]


def appoint(
    folder: FleetFolder,
    roster: Roster,
    name: str,
    *,
    root: Signatory,
    by: Signatory,
    operator_seed: bytes,
    console_seed: bytes,
    now_s: int,
) -> Roster:
    """The next roster, with operator `name` and its console.  by: an operator.  Raises LocalError, RosterError."""
    fleet = folder.config.fleet
    console = console_of(name)
    if any(one["name"] == name for one in names(roster, root.public)) or roster.member(console) is not None:
        raise LocalError(f"operator {name}: there is one of that name")
    issuer = Signatory.from_seed(keys.load_or_make(folder.issuer_key)[0].seed)
    begin = now_s - EARLY_S
    office = Authority(
        fleet, "operator", name, Signatory.from_seed(operator_seed).public, begin, begin + FLEET_OPERATOR_DAYS * DAY_S
    )
    entry = Entry(console, roster.number_next, "administrator", tuple(sorted(CONSOLE_GRANTS)), 1)
    public = Signatory.from_seed(console_seed).public
    until = begin + FLEET_CONSOLE_DAYS * DAY_S
    certificate = Certificate(fleet, console, public, 1, begin, until, ("administrator",))
    fresh = next_roster(
        roster,
        created_s=now_s,
        by=by,
        entries=[new_entry(roster, entry, by)],
        certificates={console: sign_certificate(certificate, issuer)},
        authorities=[*roster.authorities, sign_authority(office, root)],
    )
    fresh.verify(root.public, roster)
    return fresh


def kit(
    folder: FleetFolder,
    roster: Roster,
    name: str,
    *,
    root_public: bytes,
    operator_seed: bytes,
    console_seed: bytes,
    passphrase: str,
    now_s: int,
    cost: sealed.Cost = sealed.MODERATE,
) -> bytes:
    """What operator `name` takes to another machine, sealed: a FLEET directory without root and issuer."""
    with tempfile.TemporaryDirectory(prefix="edgeswarm-kit-") as scratch:
        path = Path(scratch) / "fleet"
        path.mkdir(mode=0o700)
        own = FleetFolder(path)
        own.save(replace(folder.config, operator=name))
        write_whole(own.root_pub, folder.root_pub.read_bytes(), mode=0o644)
        sealed.save_key(own.operator_key(name), operator_seed, passphrase, cost=cost)
        console = console_of(name)
        write_member(folder, own.console, console, console_seed, roster, root_public, now_s, days=FLEET_CONSOLE_DAYS)
        content = cell_config.folder(folder.controller) / CONTENT_KEYS
        if content.exists():
            write_whole(cell_config.folder(own.console) / CONTENT_KEYS, content.read_bytes())
        return backup.backup(own, passphrase, cost=cost)


def fresh_seeds() -> tuple[bytes, bytes]:
    """(operator, console)"""
    return os.urandom(32), os.urandom(32)
