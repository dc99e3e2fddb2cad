"""`edgeswarm fleet rotate operator|issuer|root`: other keys for who speaks for a fleet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeswarm.app.cli import output, passphrase
from edgeswarm.app.cli.root import CONTEXT_SETTINGS, LazyGroup

if TYPE_CHECKING:
    from edgeswarm.app.fleet.folder import FleetFolder
    from edgeswarm.app.fleet.link import Link

COMMANDS: dict[str, tuple[str, str, str]] = {
    "issuer": ("fleet_rotate", "issuer", "A new issuer's key: devices renew their certificates with it."),
    "operator": ("fleet_rotate", "operator", "A new operator's key; the old one speaks for the fleet no more."),
    "root": ("fleet_rotate", "root", "A new root key, which the old one vouches for."),
}


@click.command(cls=LazyGroup, table=COMMANDS, context_settings=CONTEXT_SETTINGS)
def rotate() -> None:
    """Replace the key of an operator, of the issuer or of the root; needs the root's key and passphrase.

    Devices renew their own certificates by themselves, at two thirds of their life.

    \b
    Examples:
      edgeswarm fleet rotate operator
      edgeswarm fleet rotate issuer
      edgeswarm fleet rotate issuer --finish
      edgeswarm fleet rotate root
    """


@click.command()
@click.option("--name", default="", help="Which operator (default: the one whose key lies here).")
@click.option("--force", is_flag=True, help="Also while the cell is stopped or rollouts run.")
@passphrase.passphrase_option
@output.fleet_option
@output.json_option
def operator(name: str, force: bool, passphrase_file: Path | None, fleet_dir: Path | None, as_json: bool) -> None:
    """A new operator's key, appointed by the root; from then on nobody believes what the old one signs.

    A stop order and the plans of rollouts that run were signed with the old key: resume, and let them end, first.
    The old key stays beside the new one, sealed, as NAME.key.old: destroy it.

    \b
    Example:
      edgeswarm fleet rotate operator
    """
    import time

    from edgeswarm.app.fleet import authorities
    from edgeswarm.app.fleet.folder import FleetFolder, default_path
    from edgeswarm.app.fleet.link import open_link
    from edgeswarm.app.fleet.roster_put import put_next
    from edgeswarm.drivers import keys
    from edgeswarm.drivers.files import write_whole
    from edgeswarm.drivers.pki import sealed
    from edgeswarm.errors import LocalError
    from edgeswarm.wire.certificate import Signatory

    folder = FleetFolder(fleet_dir or default_path())
    name = name or folder.config.operator
    root = Signatory.from_seed(
        sealed.load_key(folder.root_key, passphrase.asker(passphrase_file, "the fleet's root")).seed
    )
    word = passphrase.asker(passphrase_file, f"operator {name}'s key (the new one)", fresh=True)()
    with open_link(fleet_dir) as link:
        status = link.call("status")
        if not force and (status["stopped"] or status["rollouts_running"]):
            raise LocalError(
                "the cell is stopped, or rollouts run: what was signed for them would hold no more (--force)"
            )
        new = authorities.next_operator(folder, name, word)
        now_s = int(time.time())
        roster = put_next(link, root.public, lambda r: authorities.rotate_operator(r, name, new, root, now_s=now_s))
    old = authorities.use_operator(folder, name)
    line = keys.pub_line(new.public, name)
    write_whole(folder.operator_key(name).with_suffix(".pub"), line.encode(), mode=0o644)
    found = {
        "operator": name,
        "key": new.kid.decode(),
        "roster_version": roster.version,
        "old_key": str(old) if old else "",
    }
    text = f"operator {name} signs with key {new.kid.decode()} from roster {roster.version} on"
    output.emit(found, as_json=as_json, text=lambda: text + (f"; destroy {old}" if old else ""))


@click.command()
@click.option("--finish", is_flag=True, help="End the old issuer's office: devices that have not renewed are shut out.")
@click.option("--force", is_flag=True, help="With --finish: although devices have not renewed yet.")
@passphrase.passphrase_option
@output.fleet_option
@output.json_option
def issuer(finish: bool, force: bool, passphrase_file: Path | None, fleet_dir: Path | None, as_json: bool) -> None:
    """A new issuer's key and certificate, signed by the root; run it on the controller's machine.

    Devices renew their certificates with it within a minute of hearing of it; until --finish both issuers are
    believed.  Tokens that are not used up are revoked: they pin the old issuer.  Interrupted, run it again.

    \b
    Examples:
      edgeswarm fleet rotate issuer
      edgeswarm fleet rotate issuer --finish
    """
    import time

    from edgeswarm.app.fleet import authorities
    from edgeswarm.app.fleet.folder import FleetFolder, default_path
    from edgeswarm.app.fleet.link import open_link
    from edgeswarm.app.fleet.root_rotation import change_path
    from edgeswarm.app.fleet.roster_put import put_next
    from edgeswarm.drivers.pki import sealed
    from edgeswarm.errors import LocalError
    from edgeswarm.wire.certificate import Signatory

    folder = FleetFolder(fleet_dir or default_path())
    if not folder.issuer_key.exists():
        raise LocalError(f"{folder.issuer_key}: is not here; run this on the controller's machine")
    if change_path(folder).exists():
        raise LocalError("the root is being replaced: run `edgeswarm fleet rotate root` again first")
    root_key = sealed.load_key(folder.root_key, passphrase.asker(passphrase_file, "the fleet's root"))
    root = Signatory.from_seed(root_key.seed)
    now_s = int(time.time())
    with open_link(fleet_dir) as link:
        left: dict[str, Any] = link.call("issuer.left")
        if finish:
            if left["devices"] and not force:
                count, some = len(left["devices"]), ", ".join(left["devices"][:8])
                raise LocalError(f"{count} devices have not renewed yet ({some}): wait for them, or --force")
            by = passphrase.operator(folder, passphrase_file)
            stays = left["issuer"].encode()
            put_next(link, root.public, lambda r: authorities.retire_issuers(r, stays, root, by, now_s=now_s))
            link.call("issuer.retired")
            authorities.old_path(folder.issuer_key).unlink(missing_ok=True)
            found: dict[str, Any] = {"issuer": left["issuer"], "shut_out": left["devices"]}
            output.emit(found, as_json=as_json, text=lambda: f"issuer {left['issuer']} is the only one")
            return
        under_way = authorities.old_path(folder.issuer_key).exists()
        if not under_way or authorities.next_path(folder.issuer_key).exists():  # else only the controller is told again
            new = authorities.next_issuer(folder, root_key.seed, now_s=now_s)
            put_next(link, root.public, lambda r: authorities.rotate_issuer(r, new, root, now_s=now_s))
            authorities.use_issuer(folder)
        found = link.call("issuer.changed")
    text = f"issuer {found['issuer']} signs from now on; {len(found['tokens_revoked'])} tokens revoked"
    text += "\ndevices renew their certificates within minutes; then `edgeswarm fleet rotate issuer --finish`"
    output.emit(found, as_json=as_json, text=lambda: text)


@click.command()
@click.option("--finish", is_flag=True, help="TLS trusts the old root no more; devices that are off follow later.")
@passphrase.passphrase_option
@output.fleet_option
@output.json_option
def root(finish: bool, passphrase_file: Path | None, fleet_dir: Path | None, as_json: bool) -> None:
    """A new root key, signed by the old one; run it on the controller's machine, with the old key as FLEET/root.key.

    Devices follow by themselves, also those that were off; keys, certificates and tokens stay.  --finish needs no
    root's key.  A root whose key is lost cannot be replaced: docs/security.md.  Interrupted, run it again.

    \b
    Examples:
      edgeswarm fleet rotate root
      edgeswarm fleet rotate root --finish
    """
    from edgeswarm.app.fleet import root_rotation
    from edgeswarm.app.fleet.folder import FleetFolder, default_path
    from edgeswarm.app.fleet.link import open_link

    folder = FleetFolder(fleet_dir or default_path())
    root_rotation.check_quiet(folder)
    with open_link(fleet_dir) as link:
        found = (_finish_root if finish else _rotate_root)(folder, link, passphrase_file)
    text = f"root {found['root']} is the only one that is trusted; destroy the old one's key and its copies"
    if not finish:
        text = (
            f"root {found['root']} has replaced {found['old']} from roster {found['roster_version']} on\n"
            f"move {folder.root_key} to its medium, make a backup (`edgeswarm fleet backup`: older ones have the old"
            " root), then `edgeswarm fleet rotate root --finish`"
        )
    output.emit(found, as_json=as_json, text=lambda: text)


def _rotate_root(folder: FleetFolder, link: Link, passphrase_file: Path | None) -> dict[str, Any]:
    """Raises LocalError, ConfigError, RosterError, CertificateError, and what the controller says."""
    import time

    from edgeswarm.app.fleet import root_rotation
    from edgeswarm.app.fleet.roster_put import put_next
    from edgeswarm.drivers import keys
    from edgeswarm.drivers.pki import sealed
    from edgeswarm.wire.root_change import open_change
    from edgeswarm.wire.roster import Roster

    now_s = int(time.time())
    public = keys.read_pub(folder.root_pub)
    roster = Roster.open(link.call("roster.get")["data"], root_public=public)
    path = root_rotation.change_path(folder)
    old = None
    if root_rotation.read_change(folder) is None:
        old = sealed.load_key(folder.root_key, passphrase.asker(passphrase_file, "the fleet's root (the old one)"))
        root_rotation.check_old(folder, roster, old)
    word = passphrase.asker(passphrase_file, "the fleet's root (the new one)", fresh=True)()
    new = root_rotation.next_root(folder, word)
    by = passphrase.operator(folder, passphrase_file)
    if old is not None:
        root_rotation.make_change(folder, roster, old, new, now_s=now_s)
    data = path.read_bytes()
    change = open_change(data, fleet=folder.config.fleet)
    link.call("root.change", data=data)
    roster = put_next(link, public, lambda r: root_rotation.rotate_root(r, data, new, by, now_s=now_s))
    root_rotation.use_authorities(folder, change)
    link.call("root.changed")  # the broker trusts both before anybody shows what the new one signed
    kept = root_rotation.use_root(folder, change)
    link.call("root.changed")
    return {
        "root": keys.key_id(change.new),
        "old": keys.key_id(change.old),
        "number": change.number,
        "roster_version": roster.version,
        "old_key": str(kept) if kept.exists() else "",
    }


def _finish_root(folder: FleetFolder, link: Link, passphrase_file: Path | None) -> dict[str, Any]:
    import time

    from edgeswarm.app.fleet import root_rotation
    from edgeswarm.app.fleet.roster_put import put_next
    from edgeswarm.drivers import keys
    from edgeswarm.wire.roster import Roster

    public = keys.read_pub(folder.root_pub)
    roster = Roster.open(link.call("roster.get")["data"], root_public=public)
    root_rotation.finish_authorities(folder, roster)
    link.call("root.changed")
    by = passphrase.operator(folder, passphrase_file)
    now_s = int(time.time())
    roster = put_next(link, public, lambda r: root_rotation.finish_roster(r, public, by, now_s=now_s))
    return {"root": keys.key_id(roster.newest_root(public)), "roster_version": roster.version}
