"""`edgeswarm swarm status|leader|members|whereis|topology|log|watch`: questions to a running device of a cell."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from edgeswarm.app.cli import common, output
from edgeswarm.errors import RemoteError

STALE = "(no leader answers: this is what the asked device knows)"


def ask(state: Path | None, config_file: Path | None, what: str, **args: Any) -> Any:
    """One answer of the running device."""
    with common.connect(state, config_file) as client:
        return client.call("swarm", what=what, **args)


def plain_json(value: Any) -> Any:
    """Bytes as hex, for JSON."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: plain_json(item) for key, item in value.items()}
    return [plain_json(item) for item in value] if isinstance(value, (list, tuple)) else value


def _with_age(text: str, found: dict[str, Any]) -> str:
    return f"{text}\n{STALE}" if found.get("stale") else text


@click.command()
@common.wait_option
@output.state_option
@output.config_option
@output.json_option
def status(wait_s: float, state: Path | None, config_file: Path | None, as_json: bool) -> None:
    """Show this device's part in its cell: role, leader, term, log, lease, broker, what was refused.

    \b
    Examples:
      edgeswarm swarm status
      edgeswarm swarm status --wait 30          (after `edgeswarm run &`: until it is in its cell and knows the leader)
      edgeswarm swarm status --json | jq .raft.commit
    """

    def own() -> dict[str, Any]:
        found: dict[str, Any] = ask(state, config_file, "status")
        if wait_s and found["leader"] is None:
            raise RemoteError(f"the cell still has no leader, {wait_s:g} s on")
        return found

    found = common.patiently(own, wait_s)

    def text() -> str:
        raft, transport = found.get("raft"), found["transport"]
        votes = "leads" if found["leads"] else "votes" if found["votes"] else "follows"
        rows = [
            ("device", f"{found['device']} of {found['fleet']}/{found['cell']}, {found['role']}, {votes}"),
            ("leader", f"{found['leader'] or 'nobody known'}, term {found['term']}"),
            ("log", f"applied {found['applied']}" + (f", committed {raft['commit']}" if raft else "")),
            ("roster", f"version {found['roster_version']}"),
            ("lease", "held" if found["lease"] else "none: agents of the cell do not run here"),
            ("agents", ", ".join(found["agents"]) or "none of the cell"),
            ("broker", f"{transport['broker']}, {'connected' if transport['connected'] else 'not connected'}"),
            ("refused", ", ".join(f"{n} {why}" for why, n in found["refused"].items()) or "nothing"),
        ]
        if found["stopped"]:
            rows.append(("stopped", f"by order {found['stop_number']}"))
        return "\n".join(f"{name:<8} {output.plain(value)}" for name, value in rows)

    output.emit(plain_json(found), as_json=as_json, text=text)


@click.command()
@click.option("-o", "--output", "path", type=click.Path(path_type=Path), help="Write the certificate to this file.")
@output.state_option
@output.config_option
@output.json_option
def leader(path: Path | None, state: Path | None, config_file: Path | None, as_json: bool) -> None:
    """Show who leads.  Exit code 1 when nobody is known to.

    \b
    Examples:
      edgeswarm swarm leader
      edgeswarm swarm leader -o leader.cert && edgeswarm swarm verify-leader leader.cert --dir fleet
    """
    found = ask(state, config_file, "leader")
    if path is not None and found["leader"] is not None:
        common.write_file(path, found["certificate"])
    known = found["leader"] is not None

    def text() -> str:
        return f"{found['leader']} leads in term {found['term']}" if known else "nobody is known to lead"

    output.emit(plain_json(found), as_json=as_json, text=text)
    if not known:
        sys.exit(1)


@click.command()
@output.state_option
@output.config_option
@output.json_option
def members(state: Path | None, config_file: Path | None, as_json: bool) -> None:
    """List the devices of the cell: role, vote, life, agents.

    \b
    Examples:
      edgeswarm swarm members
      edgeswarm swarm members --json | jq -r '.members[] | select(.state=="lost") | .device'
    """
    found = ask(state, config_file, "members")

    def text() -> str:
        rows = [
            (
                row["device"],
                row["role"],
                "leads" if row["leads"] else "votes" if row["votes"] else "",
                row["state"],
                row["tier"],
                row["profile"],
                row["agents"],
            )
            for row in found["members"]
        ]
        header = ("device", "role", "vote", "state", "tier", "profile", "agents")
        return _with_age(output.table(header, rows, right=(6,)), found)

    output.emit(plain_json(found), as_json=as_json, text=text)


@click.command()
@click.argument("agent", required=False)
@output.state_option
@output.config_option
@output.json_option
def whereis(agent: str | None, state: Path | None, config_file: Path | None, as_json: bool) -> None:
    """Show which device runs AGENT, or where every agent of the cell is.

    \b
    Examples:
      edgeswarm swarm whereis
      edgeswarm swarm whereis vitals-fuse --json | jq -r .device
    """
    found = ask(state, config_file, "agents") if agent is None else ask(state, config_file, "whereis", agent=agent)

    def text() -> str:
        rows = found["agents"] if agent is None else [found]
        if not rows:
            return "the cell has no agents"
        cells = [
            (row["agent"], row["device"] or "nowhere", row["epoch"], row["version"], row["artefact"][:12], row["why"])
            for row in rows
        ]
        header = ("agent", "device", "epoch", "version", "artefact", "why")
        return _with_age(output.table(header, cells, right=(2, 3)), found)

    output.emit(plain_json(found), as_json=as_json, text=text)


@click.command()
@output.state_option
@output.config_option
@output.json_option
def topology(state: Path | None, config_file: Path | None, as_json: bool) -> None:
    """Show devices, votes and agents as a tree.

    \b
    Example:
      edgeswarm swarm topology
    """
    found = ask(state, config_file, "topology")

    def text() -> str:
        lines = [found["broker"]]
        for row in found["devices"]:
            marks = [mark for mark in ("leads" if row["leads"] else "votes" if row["votes"] else "",) if mark]
            marks += [] if row["alive"] else ["lost"]
            lines.append(f"  {row['device']}" + (f" ({', '.join(marks)})" if marks else ""))
            lines += [f"    {output.plain(name)}" for name in row["agents"]]
        return _with_age("\n".join(lines), found)

    output.emit(plain_json(found), as_json=as_json, text=text)


@click.command("log")
@click.option("-n", "--count", type=click.IntRange(1, 1_000), default=20, show_default=True, help="How many of each.")
@output.state_option
@output.config_option
@output.json_option
def log_(count: int, state: Path | None, config_file: Path | None, as_json: bool) -> None:
    """Show the audit of the cell, and, on a voter, the last entries of its log.

    \b
    Examples:
      edgeswarm swarm log -n 50
      edgeswarm swarm log --json | jq .audit
    """
    found = ask(state, config_file, "log", count=count)

    def text() -> str:
        lines = ["audit:"] + [f"  {row['index']:>8}  {row['who']}: {row['what']}" for row in found["audit"]]
        if found["entries"]:
            lines += ["log:"] + [f"  {row['index']:>8}  {row['term']:>4}  {row['command']}" for row in found["entries"]]
        return _with_age("\n".join(output.plain(line) for line in lines), found)

    output.emit(plain_json(found), as_json=as_json, text=text)


@click.command()
@click.option("--event", "wanted", metavar="NAME", help="Only events of this name: agent.lifecycle, alert, Moved, ...")
@output.state_option
@output.config_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def watch(wanted: str | None, state: Path | None, config_file: Path | None, as_json: bool) -> None:
    """Follow what happens in the cell until ctrl-c: who leads, agents' lives, changes of the log, alerts.

    \b
    Examples:
      edgeswarm swarm watch
      edgeswarm swarm watch --event alert --json
    """
    with common.connect(state, config_file, timeout_s=common.FOLLOW_S_MAX) as client:
        try:
            for row in client.follow("swarm_watch"):
                if wanted is None or row["event"] == wanted:
                    line = " ".join(f"{key}={value}" for key, value in row.items() if key != "event")
                    click.echo(json.dumps(plain_json(row)) if as_json else f"{row['event']:<18} {output.plain(line)}")
                    sys.stdout.flush()
        except KeyboardInterrupt:
            pass  # how one leaves it
