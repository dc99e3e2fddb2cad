"""`edgeswarm fleet backup` and `restore`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from edgeswarm.app.cli import common, output, passphrase
from edgeswarm.errors import ConfigError


@click.command()
@click.option(
    "-o",
    "--output",
    "target",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write it; - for standard output.",
)
@passphrase.passphrase_option
@output.fleet_option
@output.json_option
def backup(target: Path, passphrase_file: Path | None, fleet_dir: Path | None, as_json: bool) -> None:
    """Write keys and controller into one encrypted file; the controller may run meanwhile.

    \b
    Examples:
      edgeswarm fleet backup -o /media/usb/plant-7.backup
      edgeswarm fleet backup -o - --passphrase-file pass > plant-7.backup
    """
    from edgeswarm.app.fleet import backup as work
    from edgeswarm.app.fleet.folder import FleetFolder, default_path
    from edgeswarm.app.fleet.link import open_link
    from edgeswarm.drivers.control import NotRunningError

    folder = FleetFolder(fleet_dir or default_path())
    _ = folder.config
    ask = passphrase.asker(passphrase_file, "the backup", fresh=True)
    raft = b""
    try:
        with open_link(fleet_dir) as link:
            raft = link.call("backup.log")["raft"]
    except NotRunningError:
        pass  # then the file is nobody's
    data = work.backup(folder, ask(), raft=raft)
    if str(target) == "-":
        sys.stdout.buffer.write(data)
        return
    common.write_file(target, data)
    target.chmod(0o600)
    found = {"file": str(target), "bytes": len(data), "fleet": folder.config.fleet}
    output.emit(found, as_json=as_json, text=lambda: f"wrote {target} ({output.size(len(data))})")


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--reason", default="restored from a backup", show_default=True, help="For the audit of the cell.")
@click.option("--yes", is_flag=True, help="The old controller will never come back; do it.")
@passphrase.passphrase_option
@output.fleet_option
@output.json_option
def restore(
    file: Path, reason: str, yes: bool, passphrase_file: Path | None, fleet_dir: Path | None, as_json: bool
) -> None:
    """Bring a fleet back from a backup, on a machine whose folder for it is empty.

    Only when the old controller is gone for good: two of them would sign with one key.  Where other voters live, it
    comes back without a vote; where it was the only one, what was committed after the backup is lost.

    \b
    Example:
      edgeswarm fleet restore /media/usb/plant-7.backup --yes
    """
    from edgeswarm.app.fleet import backup as work
    from edgeswarm.app.fleet.folder import default_path
    from edgeswarm.drivers.pki import sealed
    from edgeswarm.limits import BACKUP_BYTES_MAX

    path = (fleet_dir or default_path()).absolute()
    data = common.read_file(file, bytes_max=2 * BACKUP_BYTES_MAX, bound="BACKUP_BYTES_MAX", error=ConfigError)
    if not yes:
        output.confirm("Is the old controller gone for good?")
    ask = passphrase.asker(passphrase_file, "the backup")
    folder = work.restore(path, data, ask(), who=str(file))
    name = folder.config.operator
    key = sealed.load_key(folder.operator_key(), passphrase.asker(passphrase_file, f"operator {name}"))
    kept = work.settle(folder, key, reason=reason, name=name)
    found = {"path": str(path), "fleet": folder.config.fleet, "vote": kept}
    how = "it votes alone, as before" if kept == "alone" else "it follows the other voters, without a vote"
    output.emit(found, as_json=as_json, text=lambda: f"fleet {found['fleet']} is in {path}; {how}\nnext: fleet serve")
