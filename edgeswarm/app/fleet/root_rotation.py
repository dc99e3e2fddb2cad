"""Another root key for a fleet: a statement that both roots sign goes into the log, then a roster of the new root.

    the next key, sealed -> the statement, kept as FLEET/root.change -> the log -> the roster that carries it, with
    every authority's office signed anew -> the broker trusts both roots -> files of the new root, the old key aside
`finish`: TLS trusts the old root no more.  Devices follow the roster, whenever they hear of it; keys of issuer,
operators and devices stay, and so does every certificate of a device: the issuer's key signed it, and whoever trusts
the new root has the issuer's certificate by it (root_change.RootChange.authorities).  The broker goes on showing the
one by the old root, so that a device which was off all the time can verify it.
Each step can be taken again: a command that was interrupted is run again.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeswarm.app.control_ops import argument
from edgeswarm.app.fleet.authorities import next_path, old_path
from edgeswarm.app.fleet.folder import FleetFolder
from edgeswarm.app.fleet.init import EARLY_S
from edgeswarm.app.swarm.roots import authorities
from edgeswarm.core.cell import commands as cmd
from edgeswarm.drivers import keys
from edgeswarm.drivers.files import write_whole
from edgeswarm.drivers.pki import sealed, x509
from edgeswarm.errors import ConfigError, LocalError, RemoteError
from edgeswarm.limits import ROOT_ROTATION_BYTES_MAX
from edgeswarm.wire import root_change
from edgeswarm.wire.certificate import CertificateError, Signatory, sign_authority
from edgeswarm.wire.root_change import RootChange
from edgeswarm.wire.roster import Roster
from edgeswarm.wire.roster_change import next_roster

if TYPE_CHECKING:
    from edgeswarm.app.fleet.controller import Controller

COMMIT_S = 15.0


# --- the operator's side: keys and files ------------------------------------------------------------------------------


def change_path(folder: FleetFolder) -> Path:
    """Of the statement, there while a change is under way."""
    return folder.path / "root.change"


def check_quiet(folder: FleetFolder) -> None:
    """Raises LocalError where another key is being replaced just now."""
    if not folder.issuer_key.exists():
        raise LocalError(f"{folder.issuer_key}: is not here; run this on the controller's machine")
    for path in (next_path(folder.issuer_key), old_path(folder.issuer_key)):
        if path.exists():
            raise LocalError(f"{path}: the issuer is being replaced; `edgeswarm fleet rotate issuer --finish` first")


def next_root(folder: FleetFolder, passphrase: str, *, cost: sealed.Cost = sealed.MODERATE) -> keys.SigningKey:
    """The root's next key, sealed beside the one in use; the one that was made before, if there is one."""
    path = next_path(folder.root_key)
    if path.exists():
        return sealed.load_key(path, lambda: passphrase)
    change = read_change(folder)
    if change is not None:
        current = sealed.load_key(folder.root_key, lambda: passphrase)
        if current.public == change.new:  # cut off after the very last key
            return current
        raise LocalError(f"{path}: is not here, and {change_path(folder)} names it: put it back, or remove both")
    sealed.save_key(path, os.urandom(32), passphrase, cost=cost)
    return sealed.load_key(path, lambda: passphrase)


def check_old(folder: FleetFolder, roster: Roster, old: keys.SigningKey) -> None:
    """Raises LocalError, RosterError unless `old` is the root of now, and may be replaced."""
    if roster.newest_root(old.public) != old.public:
        raise LocalError(f"{folder.root_key}: it is a root of this fleet that was replaced; the newest is needed")
    roster.open_authorities(old.public)
    if roster.roots_done < len(roster.roots):
        raise LocalError(
            "the root was changed before, and that is not finished: `edgeswarm fleet rotate root --finish`"
        )


def read_change(folder: FleetFolder) -> RootChange | None:
    """The change that is under way.  Raises ConfigError."""
    try:
        data = change_path(folder).read_bytes()
    except FileNotFoundError:
        return None
    try:
        return root_change.open_change(data, fleet=folder.config.fleet)
    except CertificateError as error:
        raise ConfigError(f"{change_path(folder)}: {error}") from None


def make_change(
    folder: FleetFolder, roster: Roster, old: keys.SigningKey, new: keys.SigningKey, *, now_s: int
) -> bytes:
    """The statement, on disk when this returns.  old: the root of now.  Raises LocalError, RosterError."""
    check_old(folder, roster, old)
    issuer = keys.load_or_make(folder.issuer_key)[0]
    root_pem = x509.make_root(new.seed, roster.fleet, now_s - EARLY_S)
    issuer_pem = x509.make_issuer(new.seed, issuer.public, roster.fleet, now_s - EARLY_S)
    change = RootChange(
        roster.fleet, len(roster.roots) + 2, old.public, new.public, now_s, _der(root_pem), _der(issuer_pem)
    )
    data = root_change.sign_change(change, old=Signatory.from_seed(old.seed), new=Signatory.from_seed(new.seed))
    root_change.open_row([*roster.roots, data], fleet=roster.fleet)
    write_whole(change_path(folder), data)
    return data


def rotate_root(roster: Roster, data: bytes, key: keys.SigningKey, by: Signatory, *, now_s: int) -> Roster | None:
    """The next roster, of the new root; None: it is so.  data: the statement.  key: of the new root.  by: an operator.

    Raises CertificateError, RosterError.
    """
    if data in roster.roots:
        return None
    change, new = root_change.open_change(data, fleet=roster.fleet), Signatory.from_seed(key.seed)
    if change.new != new.public:
        raise LocalError("the root's next key is not the one that the change names")
    offices = roster.open_authorities(change.old).values()
    fresh = next_roster(
        roster,
        created_s=max(now_s, roster.created_s),
        by=by,
        authorities=[sign_authority(office, new) for office in offices],
        roots=[*roster.roots, data],
    )
    fresh.verify(change.old, roster)
    fresh.verify(change.old)  # as a device that was off will
    fresh.verify(new.public)  # as a new one will
    return fresh


def use_authorities(folder: FleetFolder, change: RootChange) -> None:
    """TLS trusts both roots."""
    path = folder.pki / "ca.crt"
    write_whole(path, authorities(path.read_bytes(), [change], done=False), mode=0o644)


def use_root(folder: FleetFolder, change: RootChange) -> Path:
    """The new root's files are the fleet's from here on; where the old key is kept, sealed."""
    certificate, before = folder.pki / "issuer.crt", x509_before(folder)
    pem = certificate.read_bytes()
    if not x509.signed_by(pem, change.new):
        # the oldest one of this issuer's key is shown: who trusts a later root has a later one at hand
        if not before.exists() or x509.public_of(before.read_bytes()) != x509.public_of(pem):
            write_whole(before, pem, mode=0o644)
        write_whole(certificate, root_change.pem(change.issuer_certificate), mode=0o644)
    write_whole(folder.pki / "root.crt", root_change.pem(change.root_certificate), mode=0o644)
    line = keys.pub_line(change.new, f"root of {change.fleet}")
    write_whole(folder.root_pub, line.encode(), mode=0o644)
    following, old = next_path(folder.root_key), old_path(folder.root_key)
    if following.exists():
        data = following.read_bytes()
        if folder.root_key.exists() and folder.root_key.read_bytes() != data:
            write_whole(old, folder.root_key.read_bytes())
        write_whole(folder.root_key, data)
        following.unlink()
    change_path(folder).unlink(missing_ok=True)
    return old


def x509_before(folder: FleetFolder) -> Path:
    """Of the issuer's certificate by the root before, which the broker goes on showing (broker_files)."""
    return folder.pki / "issuer.before.crt"


def finish_roster(roster: Roster, root_public: bytes, by: Signatory, *, now_s: int) -> Roster | None:
    """The next roster, by which TLS trusts the old root no more; None: it is so.  by: an operator."""
    if roster.roots_done == len(roster.roots):
        return None
    fresh = next_roster(roster, created_s=max(now_s, roster.created_s), by=by, roots_done=len(roster.roots))
    fresh.verify(root_public, roster)
    return fresh


def finish_authorities(folder: FleetFolder, roster: Roster) -> None:
    """ca.crt without the old root.  Raises LocalError where no change is there to be finished."""
    if not roster.roots:
        raise LocalError("the root of this fleet was never changed")
    if change_path(folder).exists():
        raise LocalError("the change of the root is under way: run `edgeswarm fleet rotate root` again")
    path = folder.pki / "ca.crt"
    row = root_change.open_row(roster.roots, fleet=roster.fleet)
    write_whole(path, authorities(path.read_bytes(), row, done=True), mode=0o644)


def _der(pem: bytes) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem.decode())


# --- the controller's side --------------------------------------------------------------------------------------------


def register(controller: Controller) -> None:
    """Answer operators that change the root."""
    node = controller.node

    async def change(args: dict[str, Any], who: str) -> dict[str, Any]:
        """data: the statement; in the log when this returns.  Raises CertificateError, RemoteError, RejectedError."""
        data = argument(args, "data", bytes)
        if len(data) > ROOT_ROTATION_BYTES_MAX:
            raise RemoteError(f"root change: at most {ROOT_ROTATION_BYTES_MAX} bytes, found {len(data)}", who=who)
        found = root_change.open_change(data, fleet=node.config.fleet)
        await node.propose(cmd.encode(cmd.RotateRoot(data, node.config.device)), deadline_s=COMMIT_S)
        return {"number": found.number, "root": keys.key_id(found.new)}

    async def changed(args: dict[str, Any], who: str) -> dict[str, Any]:
        """There are other certificates on disk: the issuer and the broker take them."""
        if controller.issuer is not None:
            controller.issuer.enrolment.reload()
        if controller.broker is not None:
            await controller.broker.update(force=True)
        return {"root": keys.key_id(node.rosters.root_public)}

    controller.one |= {"root.change": change, "root.changed": changed}
    controller.needs |= {"root.change": "revoke", "root.changed": "revoke"}
