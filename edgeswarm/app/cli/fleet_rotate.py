"""`edgeswarm fleet rotate operator|issuer`: other keys for who speaks for a fleet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeswarm.app.cli import output, passphrase
from edgeswarm.app.cli.root import CONTEXT_SETTINGS, LazyGroup

COMMANDS: dict[str, tuple[str, str, str]] = {
    "issuer": ("fleet_rotate", "issuer", "A new issuer's key: devices renew their certificates with it."),
    "operator": ("fleet_rotate", "operator", "A new operator's key; the old one speaks for the fleet no more."),
}


@click.command(cls=LazyGroup, table=COMMANDS, context_settings=CONTEXT_SETTINGS)
def rotate() -> None:
    """Replace the key of an operator or of the issuer; needs the root's key and passphrase.

    Devices renew their own certificates by themselves, at two thirds of their life.

    \b
    Examples:
      edgeswarm fleet rotate operator
      edgeswarm fleet rotate issuer
      edgeswarm fleet rotate issuer --finish
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
    from edgeswarm.drivers import keys
    from edgeswarm.drivers.files import write_whole
    from edgeswarm.drivers.pki import sealed
    from edgeswarm.errors import LocalError
    from edgeswarm.wire.certificate import Signatory
    from edgeswarm.wire.roster import Roster

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
        roster = Roster.open(link.call("roster.get")["data"], root_public=root.public)
        fresh = authorities.rotate_operator(roster, name, new, root, now_s=int(time.time()))
        if fresh is not None:
            link.call("roster.put", data=fresh.data)
    old = authorities.use_operator(folder, name)
    line = keys.pub_line(new.public, name)
    write_whole(folder.operator_key(name).with_suffix(".pub"), line.encode(), mode=0o644)
    version = roster.version if fresh is None else fresh.version
    found = {"operator": name, "key": new.kid.decode(), "roster_version": version, "old_key": str(old) if old else ""}
    text = f"operator {name} signs with key {new.kid.decode()} from roster {version} on"
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
    from edgeswarm.drivers.pki import sealed
    from edgeswarm.errors import LocalError
    from edgeswarm.wire.certificate import Signatory
    from edgeswarm.wire.roster import Roster

    folder = FleetFolder(fleet_dir or default_path())
    if not folder.issuer_key.exists():
        raise LocalError(f"{folder.issuer_key}: is not here; run this on the controller's machine")
    root_key = sealed.load_key(folder.root_key, passphrase.asker(passphrase_file, "the fleet's root"))
    root = Signatory.from_seed(root_key.seed)
    now_s = int(time.time())
    with open_link(fleet_dir) as link:
        left: dict[str, Any] = link.call("issuer.left")
        roster = Roster.open(link.call("roster.get")["data"], root_public=root.public)
        if finish:
            if left["devices"] and not force:
                count, some = len(left["devices"]), ", ".join(left["devices"][:8])
                raise LocalError(f"{count} devices have not renewed yet ({some}): wait for them, or --force")
            by = passphrase.operator(folder, passphrase_file)
            fresh = authorities.retire_issuers(roster, left["issuer"].encode(), root, by, now_s=now_s)
            if fresh is not None:
                link.call("roster.put", data=fresh.data)
            link.call("issuer.retired")
            authorities.old_path(folder.issuer_key).unlink(missing_ok=True)
            found: dict[str, Any] = {"issuer": left["issuer"], "shut_out": left["devices"]}
            output.emit(found, as_json=as_json, text=lambda: f"issuer {left['issuer']} is the only one")
            return
        under_way = authorities.old_path(folder.issuer_key).exists()
        if not under_way or authorities.next_path(folder.issuer_key).exists():  # else only the controller is told again
            new = authorities.next_issuer(folder, root_key.seed, now_s=now_s)
            fresh = authorities.rotate_issuer(roster, new, root, now_s=now_s)
            if fresh is not None:
                link.call("roster.put", data=fresh.data)
            authorities.use_issuer(folder)
        found = link.call("issuer.changed")
    text = f"issuer {found['issuer']} signs from now on; {len(found['tokens_revoked'])} tokens revoked"
    text += "\ndevices renew their certificates within minutes; then `edgeswarm fleet rotate issuer --finish`"
    output.emit(found, as_json=as_json, text=lambda: text)
