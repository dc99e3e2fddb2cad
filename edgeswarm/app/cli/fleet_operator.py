"""`edgeswarm fleet operator`: who may sign rollouts and revocations, and from which machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeswarm.app.cli import common, output, passphrase
from edgeswarm.app.cli.root import CONTEXT_SETTINGS, LazyGroup

COMMANDS: dict[str, tuple[str, str, str]] = {
    "add": ("fleet_operator", "add", "Appoint an operator, and write the kit with which they work elsewhere."),
    "install": ("fleet_operator", "install", "Unpack an operator's kit on the operator's machine."),
    "list": ("fleet_operator", "list_", "List the operators."),
}


@click.command(cls=LazyGroup, table=COMMANDS, context_settings=CONTEXT_SETTINGS)
def operator() -> None:
    """Who may sign rollouts and revocations, and from which machine.

    \b
    Examples:
      edgeswarm fleet operator add alice -o alice.kit
      edgeswarm fleet operator install alice.kit            (on her machine; then `edgeswarm fleet devices`)
      edgeswarm fleet rotate operator --help
    """


@click.command()
@click.argument("name")
@click.option(
    "-o",
    "--output",
    "target",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write the kit.",
)
@click.option(
    "--kit-passphrase-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File with the kit's passphrase; without it the terminal is asked.",
)
@passphrase.passphrase_option
@output.fleet_option
@output.json_option
def add(
    name: str,
    target: Path,
    kit_passphrase_file: Path | None,
    passphrase_file: Path | None,
    fleet_dir: Path | None,
    as_json: bool,
) -> None:
    """Appoint operator NAME; needs the root's passphrase, and an operator's.

    \b
    Example:
      edgeswarm fleet operator add alice -o alice.kit
    """
    import time

    from edgeswarm.app.fleet import operators
    from edgeswarm.app.fleet.folder import FleetFolder, default_path
    from edgeswarm.app.fleet.link import open_link
    from edgeswarm.app.fleet.roster_put import put_next
    from edgeswarm.drivers.pki import sealed
    from edgeswarm.errors import LocalError
    from edgeswarm.wire import topics
    from edgeswarm.wire.certificate import Signatory

    if not topics.is_fleet(name):
        raise LocalError(f"operator: expected a-z, 0-9 and -, at most 32, found {name[:60]!r}")
    folder = FleetFolder(fleet_dir or default_path())
    by = passphrase.operator(folder, passphrase_file)
    root_key = sealed.load_key(folder.root_key, passphrase.asker(passphrase_file, "the fleet's root"))
    root = Signatory.from_seed(root_key.seed)
    kit_passphrase = passphrase.asker(kit_passphrase_file, f"{name}'s kit", fresh=True)()
    operator_seed, console_seed = operators.fresh_seeds()
    now_s = int(time.time())
    with open_link(fleet_dir) as link:
        roster = put_next(
            link,
            root.public,
            lambda before: operators.appoint(
                folder,
                before,
                name,
                root=root,
                by=by,
                operator_seed=operator_seed,
                console_seed=console_seed,
                now_s=now_s,
            ),
        )
    data = operators.kit(
        folder,
        roster,
        name,
        root_public=root.public,
        operator_seed=operator_seed,
        console_seed=console_seed,
        passphrase=kit_passphrase,
        now_s=now_s,
    )
    common.write_file(target, data)
    target.chmod(0o600)
    answer = {"operator": name, "kit": str(target), "roster_version": roster.version}
    output.emit(answer, as_json=as_json, text=lambda: f"operator {name} is in roster {roster.version}; kit: {target}")


@click.command()
@click.argument("kit", type=click.Path(path_type=Path, dir_okay=False))
@passphrase.passphrase_option
@output.fleet_option
@output.json_option
def install(kit: Path, passphrase_file: Path | None, fleet_dir: Path | None, as_json: bool) -> None:
    """Unpack KIT into this machine's FLEET directory, which must be empty.

    \b
    Example:
      edgeswarm fleet operator install alice.kit
    """
    from edgeswarm.app.fleet import backup
    from edgeswarm.app.fleet.folder import default_path
    from edgeswarm.errors import ConfigError
    from edgeswarm.limits import BACKUP_BYTES_MAX

    path = (fleet_dir or default_path()).absolute()
    data = common.read_file(kit, bytes_max=2 * BACKUP_BYTES_MAX, bound="BACKUP_BYTES_MAX", error=ConfigError)
    folder = backup.restore(path, data, passphrase.asker(passphrase_file, str(kit))(), who=str(kit))
    found = {"fleet": folder.config.fleet, "operator": folder.config.operator, "path": str(path)}
    output.emit(found, as_json=as_json, text=lambda: f"operator {found['operator']} of fleet {found['fleet']}: {path}")


@click.command("list")
@output.fleet_option
@output.json_option
def list_(fleet_dir: Path | None, as_json: bool) -> None:
    """List the operators of the roster, and until when they are in office.

    \b
    Example:
      edgeswarm fleet operator list --json
    """
    import time

    from edgeswarm.app.fleet import operators
    from edgeswarm.app.fleet.link import open_link
    from edgeswarm.wire.roster import Roster

    with open_link(fleet_dir) as link:
        found: dict[str, Any] = link.call("roster.get")
    rows = operators.names(Roster.decode(found["data"]), found["root_public"])

    def text() -> str:
        return output.table(
            ("operator", "key", "until"),
            [
                (row["name"], row["key"], time.strftime("%Y-%m-%d", time.gmtime(float(str(row["until_s"])))))
                for row in rows
            ],
        )

    output.emit(rows, as_json=as_json, text=text)
