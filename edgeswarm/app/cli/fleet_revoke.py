"""`edgeswarm fleet revoke|kick`: throw a device out, or end its sessions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeswarm.app.cli import output, passphrase

TRIES = 5


@click.command()
@click.argument("devices", nargs=-1, required=True)
@click.option("--reason", default="", help="For the audit log: lost, stolen, sold, ...")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@passphrase.passphrase_option
@output.fleet_option
@output.json_option
def revoke(
    devices: tuple[str, ...],
    reason: str,
    yes: bool,
    passphrase_file: Path | None,
    fleet_dir: Path | None,
    as_json: bool,
) -> None:
    """Throw DEVICES out of the fleet: signed with the operator's key, in force within seconds, for good.

    Peers refuse their messages, the broker refuses their certificates and ends their sessions, agents placed there
    move.  A device that comes back needs a new token and a new key.

    \b
    Examples:
      edgeswarm fleet revoke press-7 --reason stolen
      edgeswarm fleet revoke press-7 press-8 --yes --json
    """
    import time

    from edgeswarm.app.fleet import revocation
    from edgeswarm.app.fleet.folder import FleetFolder, default_path
    from edgeswarm.app.fleet.link import open_link
    from edgeswarm.drivers import keys
    from edgeswarm.drivers.control import ControlError
    from edgeswarm.errors import RemoteError
    from edgeswarm.wire.roster import Roster

    folder = FleetFolder(fleet_dir or default_path())
    named = sorted(set(devices))
    if not yes and not as_json:
        output.confirm(f"Throw {', '.join(named)} out of fleet {folder.config.fleet} for good?")
    by = passphrase.operator(folder, passphrase_file)
    root_public = keys.read_pub(folder.root_pub)
    with open_link(fleet_dir) as link:
        for left in reversed(range(TRIES)):
            roster = Roster.open(link.call("roster.get")["data"], root_public=root_public)
            fresh = revocation.without(
                roster, named, by=by, now_s=int(time.time()), controller=folder.config.controller
            )
            fresh.verify(root_public, roster)
            try:
                found: dict[str, Any] = link.call("revoke", data=fresh.data, reason=reason)
                break
            except (ControlError, RemoteError):  # another roster came first?
                now = link.call("roster.get")["data"]
                if not left or now == roster.data:
                    raise
    text = f"{', '.join(named)}: revoked in {found['ms'] / 1000:.1f} s, roster {found['version']}"
    if not found["ended"]:
        text += "\nthe broker did not answer: live sessions are ended as soon as it does"
    output.emit(found, as_json=as_json, text=lambda: text)


@click.command()
@click.argument("device")
@output.fleet_option
@output.json_option
def kick(device: str, fleet_dir: Path | None, as_json: bool) -> None:
    """End the sessions of DEVICE at the broker; unless it is revoked, it may connect again at once.

    \b
    Example:
      edgeswarm fleet kick press-7
    """
    from edgeswarm.app.fleet.link import open_link

    with open_link(fleet_dir) as link:
        found: dict[str, Any] = link.call("kick", device=device)
    text = "ended" if found["ended"] else "the broker does not answer; they are ended as soon as it does"
    output.emit(found, as_json=as_json, text=lambda: f"sessions of {device}: {text}")
