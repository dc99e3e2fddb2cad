"""`edgeswarm swarm init|verify-leader|check|recover`: what needs no running device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeswarm.app.cli import common, output
from edgeswarm.app.cli.swarm_change import KeyOption
from edgeswarm.errors import ConfigError, LocalError


@click.command()
@click.option("--dev", "count", type=click.IntRange(1, 10_000), required=True, help="How many devices.")
@click.option(
    "--dir", "directory", type=click.Path(path_type=Path), default=Path("fleet"), show_default=True, help="Made."
)
@click.option(
    "--broker", "brokers", multiple=True, required=True, metavar="URL", help="mqtt://, mqtts://, ws://, wss://"
)
@click.option("--voters", type=click.Choice(["1", "3", "5"]), help="How many vote at first (default: 1, 3 or 5 by N).")
@click.option(
    "--timing", type=click.Choice(["lan", "default"]), default="lan", show_default=True, help="How fast it notices."
)
@click.option("--encrypt", is_flag=True, help="A256GCM over every payload: the broker sees topics only.")
@click.option("--fleet", default="dev", show_default=True, help="Its name.")
@click.option("--cell", default="cell", show_default=True, help="Name of its cell.")
@output.json_option
def init(
    count: int,
    directory: Path,
    brokers: tuple[str, ...],
    voters: str | None,
    timing: str,
    encrypt: bool,
    fleet: str,
    cell: str,
    as_json: bool,
) -> None:
    """Make a throw-away fleet for development: root, issuer, operator and publisher keys, a roster, and one state
    directory a device, ready for `edgeswarm run --state DIR/dN`.  All keys lie in DIR: not for production.

    \b
    Example:
      edgeswarm swarm init --dev 5 --dir fleet --broker mqtt://127.0.0.1:18830
    """
    from edgeswarm.app.swarm.dev import init_dev

    made, states = init_dev(
        directory,
        count,
        brokers=brokers,
        timing=timing,  # type: ignore[arg-type]
        voters=int(voters or 0),
        fleet=fleet,
        cell=cell,
        encrypt=encrypt,
    )
    found = {
        "fleet": fleet,
        "cell": cell,
        "devices": {device: str(path) for device, path in states.items()},
        "voters": [f"d{number}" for number in made.roster.voters()],
        "operator_key": str(directory / "fleet" / "operator.key"),
        "publisher_key": str(directory / "fleet" / "publisher.key"),
    }

    def text() -> str:
        first = next(iter(states.values()))
        return (
            f"{count} devices below {directory}, voters {', '.join(found['voters'])}; keys in {directory / 'fleet'}\n"
            f"not for production: whoever reads {directory} is this fleet\n"
            f"next: edgeswarm run --state {first}"
        )

    output.emit(found, as_json=as_json, text=text)


@click.command()
@click.argument("certificate", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--roster", "roster_path", type=click.Path(path_type=Path, dir_okay=False), help="roster.cbor")
@click.option("--root", "root_path", type=click.Path(path_type=Path, dir_okay=False), help="root.pub of the fleet")
@click.option(
    "--dir", "directory", type=click.Path(path_type=Path), help="Take both from DIR/fleet or a state directory."
)
@output.json_option
def verify_leader(
    certificate: Path, roster_path: Path | None, root_path: Path | None, directory: Path | None, as_json: bool
) -> None:
    """Check offline that CERTIFICATE proves who leads: a quorum of signed votes of the roster's voters.

    Trusts the root's public key and nothing else: no broker, no device.  Exit code 0 only if every check passed.

    \b
    Examples:
      edgeswarm swarm leader --state fleet/d1 -o leader.cert
      edgeswarm swarm verify-leader leader.cert --dir fleet/d2
      edgeswarm swarm verify-leader leader.cert --roster roster.cbor --root root.pub
    """
    from edgeswarm.app.swarm.rosters import roots_of
    from edgeswarm.drivers import keys
    from edgeswarm.limits import LEADER_BYTES_MAX, ROSTER_BYTES_MAX
    from edgeswarm.wire import leadership
    from edgeswarm.wire.leadership import LeaderCertificate
    from edgeswarm.wire.roster import Roster

    def read(path: Path, bytes_max: int) -> bytes:
        return common.read_file(path, bytes_max=bytes_max, bound="bytes", error=ConfigError)

    paths, root = _trust(directory, roster_path, root_path)
    public = keys.read_pub(root)
    rosters: list[Roster] = []
    roots = roots_of(Roster.decode(read(paths[-1], ROSTER_BYTES_MAX)), public)
    for path in paths:
        data = read(path, ROSTER_BYTES_MAX)
        decoded = Roster.decode(data)
        public = roots[min(len(decoded.roots), len(roots) - 1)]
        follows = bool(rosters) and decoded.version == rosters[-1].version + 1  # else: a gap
        previous = rosters[-1] if follows else None
        rosters.append(Roster.open(data, root_public=public, previous=previous))
    found = LeaderCertificate.decode(read(certificate, LEADER_BYTES_MAX))
    roster = next((one for one in rosters if one.version == found.roster_version), rosters[-1])
    leadership.verify(found, roster)
    member = roster.by_number(found.candidate)
    result: dict[str, Any] = {
        "leader": member.entry.device if member is not None else None,
        "term": found.term,
        "fleet": found.fleet,
        "cell": found.cell,
        "roster_version": roster.version,
        "votes": len(found.votes),
        "voters": len(roster.voters()),
    }

    def text() -> str:
        return (
            f"{result['leader']} leads {found.fleet}/{found.cell} in term {found.term}: "
            f"{result['votes']} of {result['voters']} voters of roster {roster.version} signed"
        )

    output.emit(result, as_json=as_json, text=text)


def _trust(directory: Path | None, roster: Path | None, root: Path | None) -> tuple[list[Path], Path]:
    """Rosters in order, and the root's public key."""
    if directory is not None:
        for base in (directory / "swarm", directory):
            if (base / "root.pub").exists():
                found = sorted((base / "rosters").glob("*.cbor"), key=lambda path: int(path.stem))
                return found or [base / "roster.cbor"], base / "root.pub"
        if (directory / "fleet" / "root.pub").exists():
            return [directory / "fleet" / "roster.cbor"], directory / "fleet" / "root.pub"
        raise ConfigError(f"{directory}: expected root.pub and a roster; a state directory or DIR of `swarm init`")
    if roster is None or root is None:
        raise click.UsageError("name --roster and --root, or --dir")
    return [roster], root


def _database(state: Path | None, config_file: Path | None) -> Path:
    return common.settings_of(state, config_file).state_dir / "swarm" / "raft.db"


@click.command()
@output.state_option
@output.config_option
@output.json_option
def check(state: Path | None, config_file: Path | None, as_json: bool) -> None:
    """Check this voter's log on disk: structure, checksums, order, and what it holds.  The device must not run.

    \b
    Example:
      edgeswarm swarm check --state /var/lib/edgeswarm
    """
    from dataclasses import asdict

    from edgeswarm.drivers.raft_store_check import verify

    report = verify(_database(state, config_file))
    rows = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(report).items()}
    output.emit(rows, as_json=as_json, text=lambda: "\n".join(f"{key:<16} {value}" for key, value in rows.items()))


@click.command()
@click.option("--reason", required=True, help="Why: kept in the audit, for good.")
@click.option("--operator", required=True, help="Who does it: kept in the audit.")
@KeyOption
@click.option("--yes", is_flag=True, help="Do it; without this the command only says what it would do.")
@output.state_option
@output.config_option
@output.json_option
def recover(
    reason: str,
    operator: str,
    key_path: Path,
    yes: bool,
    state: Path | None,
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Go on after a quorum of voters is lost for good: this device becomes the only voter of its cell.

    Everything that only the lost voters had is gone, and a voter that comes back must not run with its old log: read
    docs/recovery.md first.  The old database is kept beside the new one.  The device must not run.

    \b
    Example:
      edgeswarm swarm recover --reason "hall 2 burned down" --operator jo --operator-key operator.key --state fleet/d4
    """
    from dataclasses import asdict

    from edgeswarm.app.swarm.recovery import recover_alone
    from edgeswarm.drivers import keys

    settings = common.settings_of(state, config_file)
    if not key_path.exists():
        raise ConfigError(f"operator key {key_path}: no such file")
    if not yes:
        raise LocalError(f"device {settings.device} would become the only voter of its cell; add --yes to do it")
    audit = recover_alone(settings.state_dir, keys.load_or_make(key_path)[0], reason=reason, operator=operator)
    rows = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(audit).items()}
    output.emit(rows, as_json=as_json, text=lambda: "\n".join(f"{key:<16} {value}" for key, value in rows.items()))
