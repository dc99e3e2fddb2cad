"""Other keys for who speaks for a fleet: an operator's, the issuer's.  The root's word makes them; rosters carry it.

Operator: one roster, signed by the new key, in which the root has appointed it in the place of the old one; what the
old one had signed (entries of coordinators and administrators) is signed anew.
Issuer: a roster in which both are in office; devices see the newer one and renew their certificates with it within
RENEWAL's spread; then `retire` ends the old one's office: its certificates of before still verify, a roster or a
certificate that it signs from then on does not (it would be dated after its office).
Files change in an order in which a command that was interrupted can be run again: the next key is on disk first.
"""

from __future__ import annotations

import os
from pathlib import Path

from edgeswarm.app.fleet.folder import FleetFolder
from edgeswarm.app.fleet.init import DAY_S, EARLY_S, ISSUER_GRANTS
from edgeswarm.drivers import keys
from edgeswarm.drivers.files import write_whole
from edgeswarm.drivers.pki import sealed, x509
from edgeswarm.errors import LocalError
from edgeswarm.limits import FLEET_ISSUER_DAYS, FLEET_OPERATOR_DAYS
from edgeswarm.wire.certificate import Authority, Signatory, sign_authority
from edgeswarm.wire.roster import Roster
from edgeswarm.wire.roster_change import new_entry, next_roster


def _office_of(roster: Roster, root: Signatory, kid: bytes, duty: str) -> Authority | None:
    found = roster.open_authorities(root.public).get(kid)
    return found if found is not None and found.duty == duty else None


def _signed_by_kid(roster: Roster, root: Signatory) -> dict[bytes, bytes]:
    """Key id -> the root's statement."""
    return dict(zip(roster.open_authorities(root.public), roster.authorities, strict=True))


# --- operator -------------------------------------------------------------------------------------------------------


def next_operator(folder: FleetFolder, name: str, passphrase: str, *, cost: sealed.Cost = sealed.MODERATE) -> Signatory:
    """The operator's next key, sealed beside the one in use; the one that was made before, if it was not used yet."""
    path = next_path(folder.operator_key(name))
    if not path.exists():
        sealed.save_key(path, os.urandom(32), passphrase, cost=cost)
    return Signatory.from_seed(sealed.load_key(path, lambda: passphrase).seed)


def rotate_operator(roster: Roster, name: str, new: Signatory, root: Signatory, *, now_s: int) -> Roster | None:
    """The next roster, with `new` as operator `name` in the place of the key that has the name; None: it is so.

    Raises LocalError where there is no operator of that name.
    """
    offices = roster.open_authorities(root.public)
    olds = [one for one in offices.values() if one.duty == "operator" and one.name == name]
    if not olds:
        known = ", ".join(sorted(one.name for one in offices.values() if one.duty == "operator"))
        raise LocalError(f"operator {name}: expected one of {known}")
    gone = {one.kid for one in olds if one.kid != new.kid}
    if not gone:
        return None
    now_s = max(now_s, roster.created_s)
    begin = now_s - EARLY_S
    office = Authority(roster.fleet, "operator", name, new.public, begin, begin + FLEET_OPERATOR_DAYS * DAY_S)
    kept = [signed for kid, signed in _signed_by_kid(roster, root).items() if kid not in gone and kid != new.kid]
    entries = [new_entry(roster, member.entry, new) for member in roster.members if member.signer in gone]
    fresh = next_roster(
        roster, created_s=now_s, by=new, entries=entries, authorities=[*kept, sign_authority(office, root)]
    )
    fresh.verify(root.public, roster)
    fresh.verify(root.public)  # as who knows no other will
    return fresh


def use_operator(folder: FleetFolder, name: str) -> Path | None:
    """The next key is the operator's key from here on; where the old one is kept (sealed), None: that was done."""
    path = folder.operator_key(name)
    following = next_path(path)
    if not following.exists():
        return None
    old = path.with_name(f"{path.name}.old")
    if path.exists():
        write_whole(old, path.read_bytes())
    write_whole(path, following.read_bytes())
    following.unlink()
    return old


def next_path(path: Path) -> Path:
    """Of the key that comes after the one in `path`."""
    return path.with_name(path.name + ".next")


# --- issuer ---------------------------------------------------------------------------------------------------------


def next_issuer(folder: FleetFolder, root_seed: bytes, *, now_s: int) -> Signatory:
    """The next issuer's key and its X.509 certificate, beside those in use."""
    new, _ = keys.load_or_make(next_path(folder.issuer_key))
    path = next_path(folder.pki / "issuer.crt")
    if not path.exists():
        pem = x509.make_issuer(root_seed, new.public, folder.config.fleet, now_s - EARLY_S)
        write_whole(path, pem, mode=0o644)
    return Signatory.from_seed(new.seed)


def rotate_issuer(roster: Roster, new: Signatory, root: Signatory, *, now_s: int) -> Roster | None:
    """The next roster, in which `new` is an issuer too; None: it is so.  Signed by it, in office by the root's word."""
    if _office_of(roster, root, new.kid, "issuer") is not None:
        return None
    now_s = max(now_s, roster.created_s)
    issuers = [one for one in roster.open_authorities(root.public).values() if one.duty == "issuer"]
    # devices take the one that begins last for the newest
    begin = max([now_s - EARLY_S, *(one.not_before_s + 1 for one in issuers)])
    end = begin + FLEET_ISSUER_DAYS * DAY_S
    grants = tuple(sorted({*ISSUER_GRANTS, *(grant for one in issuers for grant in one.grants)}))
    office = Authority(roster.fleet, "issuer", "issuer", new.public, begin, end, grants)
    authorities = [*roster.authorities, sign_authority(office, root)]
    fresh = next_roster(roster, created_s=max(now_s, begin), by=new, authorities=authorities)
    fresh.verify(root.public, roster)
    return fresh


def use_issuer(folder: FleetFolder) -> bool:
    """The next issuer's files are the issuer's from here on; False: that was done.

    Interrupted between certificate and key, nothing can be issued until it is run again.
    """
    key, certificate = folder.issuer_key, folder.pki / "issuer.crt"
    if not next_path(key).exists():
        return False
    if keys.load_or_make(key)[0].public != keys.load_or_make(next_path(key))[0].public:
        write_whole(old_path(key), key.read_bytes())
        if x509.public_of(certificate.read_bytes()) == keys.load_or_make(key)[0].public:
            write_whole(old_path(certificate), certificate.read_bytes(), mode=0o644)
    write_whole(certificate, next_path(certificate).read_bytes(), mode=0o644)
    write_whole(key, next_path(key).read_bytes())
    next_path(key).unlink()
    next_path(certificate).unlink()
    return True


def old_path(path: Path) -> Path:
    """Of the key that came before the one in `path`."""
    return path.with_name(path.name + ".old")


def not_renewed(roster: Roster, issuer: bytes, now_s: int) -> list[str]:
    """Devices whose newest certificate is of another issuer than the one of this key id, and has not run out."""
    return [
        member.entry.device
        for member in roster.members
        if member.keys[-1].certificate.issuer != issuer and not member.keys[-1].certificate.expired(now_s)
    ]


def retire_issuers(roster: Roster, current: bytes, root: Signatory, by: Signatory, *, now_s: int) -> Roster | None:
    """The next roster, in which every issuer but the one of key id `current` is out of office; None: it is so.

    by: an operator.  Raises LocalError where `current` is no issuer.
    """
    offices = roster.open_authorities(root.public)
    if _office_of(roster, root, current, "issuer") is None:
        raise LocalError("the issuer's key of this controller is not in office: run `edgeswarm fleet rotate issuer`")
    now_s = max(now_s, roster.created_s)
    statements, changed = [], False
    for one, signed in zip(offices.values(), roster.authorities, strict=True):
        if one.duty != "issuer" or one.kid == current or one.not_after_s < now_s:
            statements.append(signed)
            continue
        # certificates that it made hold, so the office must cover their beginnings; nothing later
        end = max(one.not_before_s, roster.created_s - 1)
        short = Authority(one.fleet, one.duty, one.name, one.public, one.not_before_s, end, one.grants)
        statements.append(sign_authority(short, root))
        changed = True
    if not changed:
        return None
    fresh = next_roster(roster, created_s=max(now_s, roster.created_s), by=by, authorities=statements)
    fresh.verify(root.public, roster)
    fresh.verify(root.public)
    return fresh
