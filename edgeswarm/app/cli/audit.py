"""`edgeswarm audit`: who changed what on this device or this fleet's controller, and whether the log of it is whole."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from edgeswarm.app.cli import common, output
from edgeswarm.app.cli.root import CONTEXT_SETTINGS, LazyGroup
from edgeswarm.errors import ConfigError, LocalError, RemoteError

COMMANDS: dict[str, tuple[str, str, str]] = {
    "export": ("audit", "export", "Copy the log elsewhere: what is copied cannot be undone here."),
    "show": ("audit", "show", "Show who changed what."),
    "verify": ("audit", "verify", "Find the first line that was tampered with, removed or moved."),
}
FOLLOW_S = 0.5
_COLOURS = {"refused": "yellow", "failed": "red"}


class AuditFaultError(RemoteError):
    """The log was tampered with, or a part of it is missing."""

    exit_code = 5


@click.command(cls=LazyGroup, table=COMMANDS, context_settings=CONTEXT_SETTINGS)
def audit() -> None:
    """Who changed what on this device, or on the fleet's controller, and whether the log of it is whole.

    \b
    Examples:
      edgeswarm audit show --since 1d
      edgeswarm audit verify
      edgeswarm audit verify --fleet /var/lib/edgeswarm-fleet
    """


def _folder(state: Path | None, fleet_dir: Path | None, folder: Path | None) -> tuple[Path, Path | None]:
    """The log's folder, and the state directory that it belongs to."""
    if folder is not None:
        return folder, None
    if fleet_dir is not None:
        from edgeswarm.app.fleet.folder import FleetFolder

        state_dir = FleetFolder(fleet_dir).controller
    else:
        state_dir = common.settings_of(state).state_dir
    return state_dir / "audit", state_dir


def known_keys(state_dir: Path) -> set[bytes]:
    """Public keys that this device has had: of its files, and of its certificates in the rosters that it keeps."""
    from edgeswarm.app.swarm import config as cell_config
    from edgeswarm.app.swarm.rosters import RosterBook
    from edgeswarm.drivers import keys

    found = set()
    for path in sorted((state_dir / "keys").glob("device.key*")):
        if not path.name.endswith(".new"):
            found.add(keys.load_or_make(path)[0].public)
    if not found:
        raise ConfigError(f"{state_dir}/keys: no device key is here; name it with --key")
    if cell_config.is_member(state_dir):
        config = cell_config.load(state_dir)
        member = RosterBook.load(state_dir, fleet=config.fleet, cell=config.cell).current.member(config.device)
        found |= set() if member is None else {key.certificate.public for key in member.keys}
    return found


def _keys(texts: tuple[str, ...], state_dir: Path | None) -> set[bytes] | None:
    if texts:
        try:
            given = {bytes.fromhex(text) for text in texts}
        except ValueError:
            given = {b""}
        if any(len(key) != 32 for key in given):
            raise LocalError("--key: expected 64 hex digits")
        return given
    return None if state_dir is None else known_keys(state_dir)


def _where(function: Any) -> Any:
    folder = click.option(
        "--folder", type=click.Path(path_type=Path, file_okay=False), help="A log that was copied with `audit export`."
    )
    return output.state_option(_fleet(folder(function)))


def _fleet(function: Any) -> Any:
    return click.option(
        "--fleet",
        "fleet_dir",
        type=click.Path(path_type=Path, file_okay=False),
        help="The controller's log, of the fleet in this directory.",
    )(function)


@click.command()
@_where
@click.option("--key", "key_texts", multiple=True, metavar="HEX", help="Public key that must have signed (may repeat).")
@output.json_option
def verify(
    state: Path | None, fleet_dir: Path | None, folder: Path | None, key_texts: tuple[str, ...], as_json: bool
) -> int:
    """Find the first line that was tampered with, removed or moved; exit code 5 when there is one.

    Each line holds the hash of the one before, and the device signs the last: any single change is found.  Who has the
    device's key can write another log, and who puts back all files of an earlier day undoes what came since: compare
    with a copy (`audit export`) that is kept elsewhere.

    \b
    Examples:
      edgeswarm audit verify
      edgeswarm audit verify --folder copy/ --key 8f2c...
    """
    from edgeswarm.app import audit as log

    path, state_dir = _folder(state, fleet_dir, folder)
    keys = _keys(key_texts, state_dir)
    fault, lines, behind = log.verify(path, keys)
    if fault is not None:
        if not as_json:
            raise AuditFaultError(str(fault), who=str(path))
        row = {"segment": fault.segment, "line": fault.line, "seq": fault.seq, "kind": fault.kind, "text": fault.text}
        click.echo(json.dumps({"ok": False, "folder": str(path), "fault": row}, indent=2))
        return AuditFaultError.exit_code
    entry = next(log.entries(path), None)
    since = "" if entry is None else str(entry["time"])
    found = {
        "ok": True,
        "folder": str(path),
        "lines": lines,
        "since": since,
        "unsigned": behind,
        "key_checked": keys is not None,
    }

    def text() -> str:
        said = [f"{path}: {lines} lines since {since or '-'}, each where and as it was written"]
        if behind:
            said.append(f"the last {behind} are not signed yet: the device was stopped while it wrote, or writes now")
        if keys is None:
            said.append("whose key signed was not checked: name it with --key")
        return "\n".join(said)

    output.emit(found, as_json=as_json, text=text)
    return 0


@click.command()
@_where
@click.option("-n", "--lines", type=click.IntRange(0, 1_000_000), default=50, show_default=True, help="The last N.")
@click.option("-f", "--follow", is_flag=True, help="Go on with each new line until ctrl-c.")
@click.option("--action", metavar="PREFIX", default="", help="Only actions that start so: `agent.`, `order.stop`.")
@click.option("--who", metavar="TEXT", default="", help="Only of a name or key id with TEXT in it.")
@click.option("--outcome", type=click.Choice(["ok", "refused", "failed"]), help="Only those that ended so.")
@click.option("--since", metavar="TIME", default="", help="From then on: 2026-11-21, 2026-11-21T04:00, 90s, 15m, 1d.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def show(
    state: Path | None,
    fleet_dir: Path | None,
    folder: Path | None,
    lines: int,
    follow: bool,
    action: str,
    who: str,
    outcome: str | None,
    since: str,
    as_json: bool,
) -> None:
    """Show who changed what.  Whether the log is whole is `audit verify`'s matter.

    \b
    Examples:
      edgeswarm audit show -n 20
      edgeswarm audit show --fleet /var/lib/edgeswarm-fleet --action fleet. --since 1d
      edgeswarm audit show -f --outcome refused --json
    """
    from edgeswarm.app import audit as log

    begin = _since(since)
    path, _ = _folder(state, fleet_dir, folder)
    if not log.paths_of(path):
        raise LocalError(f"{path}: no audit log is here")

    def wanted(entries: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for entry in entries:
            if not entry["action"].startswith(action) or entry["time"] < begin:
                continue
            if (who in entry["name"] or who in entry["kid"]) and outcome in (None, entry["outcome"]):
                yield entry

    from collections import deque

    last = 0
    for entry in deque(wanted(log.entries(path)), maxlen=lines):
        click.echo(json.dumps(entry) if as_json else pretty(entry))
    try:
        last = max((entry["seq"] for entry in log.entries(path)), default=0) if follow else 0
        while follow:
            time.sleep(FOLLOW_S)
            for entry in log.entries(path, last):
                last = entry["seq"]
                for one in wanted(iter([entry])):
                    click.echo(json.dumps(one) if as_json else pretty(one))
                    sys.stdout.flush()
    except KeyboardInterrupt:
        pass  # how one leaves --follow


@click.command()
@_where
@click.argument("target", type=click.Path(path_type=Path, file_okay=False))
@output.json_option
def export(state: Path | None, fleet_dir: Path | None, folder: Path | None, target: Path, as_json: bool) -> None:
    """Copy the log into the folder TARGET (made anew), once it is found to be whole.

    \b
    Example:
      edgeswarm audit export /mnt/audit/d1-2026-11
    """
    from edgeswarm.app import audit as log
    from edgeswarm.drivers.files import write_whole

    path, state_dir = _folder(state, fleet_dir, folder)
    keys = None if state_dir is None else known_keys(state_dir)
    fault, lines, _ = log.verify(path, keys)
    if fault is not None:
        raise AuditFaultError(str(fault), who=str(path))
    if target.exists() and any(target.iterdir()):
        raise LocalError(f"{target}: expected no folder or an empty one")
    segments, head = log.read(path)
    for segment in segments:
        write_whole(target / segment.name, segment.data)
    if head is not None:
        write_whole(target / log.HEAD, head)
    known = sorted(key.hex() for key in keys or ())
    write_whole(target / "keys.txt", "".join(f"{key}\n" for key in known).encode())
    found = {"folder": str(target), "lines": lines, "keys": known}
    output.emit(found, as_json=as_json, text=lambda: f"{target}: {lines} lines; `edgeswarm audit verify --folder` it")


def _since(text: str) -> str:
    """A prefix of the times in the log.  Raises LocalError."""
    import re

    from edgeswarm.app import audit as log

    if not text:
        return ""
    if found := re.fullmatch(r"(\d{1,6})([smhd])", text):
        return log.text_of(max(0.0, time.time() - int(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]))
    if re.fullmatch(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d)?)?Z?", text):
        return text.removesuffix("Z")
    raise LocalError(f"--since: expected a date (2026-11-21, 2026-11-21T04:00) or an age (15m, 1d), found {text!r:.40}")


def pretty(entry: dict[str, Any]) -> str:
    """One line for people."""
    role = f" ({entry['role']})" if entry["role"] else ""
    reason = f": {entry['reason']}" if entry["reason"] else ""
    cause = f"  [{entry['cause']}]" if entry["cause"] else ""
    outcome = "" if entry["outcome"] == "ok" else f"  {entry['outcome']}"
    what = f"{entry['time'][:19]}  {entry['action']}  {entry['target']}"
    text = output.plain(f"{what}  by {entry['name']}{role}{outcome}{reason}{cause}")
    return click.style(text, fg=_COLOURS[entry["outcome"]]) if entry["outcome"] in _COLOURS else text
