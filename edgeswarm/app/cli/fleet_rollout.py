"""`edgeswarm fleet deploy`, `rollouts`, `pause|resume|abort|rollback`: agent files to many devices, in waves.

Plans and orders are signed here, with the operator's key; the controller carries them out and cannot make any.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeswarm.app.cli import output, passphrase
from edgeswarm.errors import LocalError, NotSignedError, RemoteError, UnknownPublisherError
from edgeswarm.limits import AF_FILE_BYTES_MAX, ROLLOUT_PIECE_BYTES

if TYPE_CHECKING:
    from edgeswarm.app.fleet.folder import FleetFolder
    from edgeswarm.app.fleet.link import Link

BAR = 30


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--to", "selector", default="all", show_default=True, help="Which devices: a selector.")
@click.option("--waves", default="1,10%,50%,100%", show_default=True, help="How many have it after each wave.")
@click.option(
    "--gate",
    default="",
    metavar="healthy=60s,failed=0,silent=100%,pause=30s",
    help="What a wave must be before the next one comes.",
)
@click.option(
    "--publisher",
    "publisher_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Public key (.pub) of who signed FILE, where neither this fleet nor this user trusts it yet.",
)
@click.option("--allow-downgrade", is_flag=True, help="Also where a newer version runs.")
@click.option("--watch", is_flag=True, help="Show how it goes on, until it is over.")
@click.option("--dry-run", is_flag=True, help="Say whom it would reach, and start nothing.")
@passphrase.passphrase_option
@output.state_option
@output.fleet_option
@output.json_option
def deploy(
    file: Path,
    selector: str,
    waves: str,
    gate: str,
    publisher_file: Path | None,
    allow_downgrade: bool,
    watch: bool,
    dry_run: bool,
    passphrase_file: Path | None,
    state: Path | None,
    fleet_dir: Path | None,
    as_json: bool,
) -> None:
    """Roll the agent FILE out: to a canary, to a few, to all; back by itself where it does not run well.

    \b
    Examples:
      edgeswarm fleet deploy pump.af --to site=hall-3 --watch
      edgeswarm fleet deploy pump.af --waves 1,10%,100% --gate healthy=5m,failed=1%
      edgeswarm fleet deploy pump.af --to 'percent=5' --waves 100% --dry-run
    """
    from edgeswarm.app.fleet.folder import FleetFolder, default_path
    from edgeswarm.app.fleet.link import open_link
    from edgeswarm.core import selector as sel
    from edgeswarm.wire.rollout import parse_gate, seal_plan

    folder = FleetFolder(fleet_dir or default_path())
    sel.parse(selector)
    with open(file, "rb") as stream:
        data = stream.read(AF_FILE_BYTES_MAX + 1)
    plan = _plan(
        data,
        str(file),
        publishers=_publishers(folder, state, publisher_file),
        selector=selector,
        waves=waves,
        gate=parse_gate(gate),
        downgrade=allow_downgrade,
    )
    with open_link(fleet_dir) as link:
        found = link.call("rollout.match", selector=selector, rollout=plan.rollout)
        if dry_run:
            _dry_run(plan, found, as_json)
            return
        by = passphrase.operator(folder, passphrase_file)
        plan = replace(plan, created_s=max(plan.created_s, _signed_s(link, plan.agent)))
        signed = seal_plan(plan, fleet=folder.config.fleet, cell=folder.config.cell, by=by)
        _upload(link, data, plan.digest, quiet=as_json)
        answer = link.call("rollout.start", plan=signed)
        if not as_json:
            name = f"{plan.agent} {plan.version}"
            output.note(f"rollout {plan.rollout}: {name} to {answer['matched']} devices, in waves of {waves}")
        if watch:
            _watch(link, plan.rollout, as_json=as_json)
        elif as_json:
            output.emit(answer, as_json=True, text=str)
        else:
            click.echo(plan.rollout)


def _signed_s(link: Link, agent: str) -> int:
    """When the agent's newest plan was signed: devices take none that is older, whatever this clock says."""
    rows = link.call("rollout.list")
    return max((row["created_s"] for row in rows if row["agent"] == agent and "created_s" in row), default=0)


def _publishers(folder: FleetFolder, state: Path | None, named: Path | None) -> dict[Any, bytes]:
    """Key id -> public key, of who may have signed the file: trusted by the fleet, by this user, or named just now."""
    from edgeswarm.app.cli import common
    from edgeswarm.drivers import keys

    found = keys.trusted(folder.controller / "trust.d") | keys.trusted(common.settings_of(state).state_dir / "trust.d")
    if named is not None:
        public = keys.read_pub(named)
        found[keys.key_id(public)] = public
    return found


def _plan(
    data: bytes, who: str, *, publishers: dict[Any, bytes], selector: str, waves: str, gate: Any, downgrade: bool
) -> Any:
    """Raises AgentFileError, SignatureError, LimitError."""
    import hashlib
    import os

    from edgeswarm import agentfile
    from edgeswarm.core.rollout.pieces import pieces
    from edgeswarm.wire.rollout import Plan

    file = agentfile.read(data, who=who, wanted=())
    if file.signature is None:
        raise NotSignedError("expected a signed file, or no device takes it; `edgeswarm agent build` signs", who=who)
    try:
        publisher = publishers[agentfile.verify(file, publishers)]
    except UnknownPublisherError as error:
        raise UnknownPublisherError(f"{error}, or name it: --publisher FILE.pub") from None
    return Plan(
        rollout=os.urandom(8).hex(),
        agent=file.header.name,
        version=file.header.agent_version,
        artefact=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        selector=selector,
        waves=tuple(part.strip() for part in waves.split(",")),
        gate=gate,
        allow_downgrade=downgrade,
        created_s=int(time.time()),
        sections=pieces(data, who=who),
        publisher=publisher.hex(),
    )


def _dry_run(plan: Any, found: dict[str, Any], as_json: bool) -> None:
    from edgeswarm.core.rollout.waves import sizes

    steps = sizes(plan.waves, found["matched"])
    row = {"agent": plan.agent, "version": plan.version, **found, "waves": list(plan.waves), "sizes": steps}
    text = f"{plan.agent} {plan.version} would reach {found['matched']} devices: {', '.join(map(str, steps))}"
    output.emit(row, as_json=as_json, text=lambda: text)


def _upload(link: Link, data: bytes, digest: bytes, *, quiet: bool) -> None:
    offset = 0
    with output.progress(len(data), "upload", quiet=quiet) as step:
        while True:
            piece = data[offset : offset + ROLLOUT_PIECE_BYTES]
            found = link.call("artefact.put", sha256=digest, size=len(data), offset=offset, data=piece)
            step(found["offset"] - offset)
            offset = found["offset"]
            if found["done"]:
                return


# --- looking --------------------------------------------------------------------------------------------------------


@click.command()
@click.argument("rollout", required=False)
@click.option("--watch", is_flag=True, help="Go on until it is over.")
@output.fleet_option
@output.json_option
def rollouts(rollout: str | None, watch: bool, fleet_dir: Path | None, as_json: bool) -> None:
    """List the rollouts, or show how far ROLLOUT is, device by device.

    \b
    Examples:
      edgeswarm fleet rollouts
      edgeswarm fleet rollouts 5f2b1c0a9d8e7f60 --watch
    """
    from edgeswarm.app.fleet.link import open_link

    with open_link(fleet_dir) as link:
        if rollout is None:
            rows = link.call("rollout.list")
            output.emit(rows, as_json=as_json, text=lambda: _listed(rows))
        elif watch:
            _watch(link, _whole_id(link, rollout), as_json=as_json)
        else:
            row = link.call("rollout.show", rollout=_whole_id(link, rollout))
            output.emit(row, as_json=as_json, text=lambda: _shown(row))


def _listed(rows: Iterable[dict[str, Any]]) -> str:
    header = ("ROLLOUT", "AGENT", "VERSION", "STATE", "WAVE", "REACHED", "HEALTHY", "FAILED", "WHY")
    return output.table(
        header,
        [
            (
                row["rollout"],
                row["agent"],
                row.get("version", "?"),
                row["state"],
                f"{row['wave']}/{len(row.get('waves', ()))}",
                row["reached"],
                row.get("healthy", ""),
                row.get("failed", ""),
                row.get("fault") or row.get("waits_for") or row["why"],
            )
            for row in rows
        ],
        right=(5, 6, 7),
    )


def _shown(row: dict[str, Any]) -> str:
    lines = _bars(row)
    devices = row.get("devices", ())
    if devices:
        cells = [(one["device"], one["state"] or one["counts_as"], one["why"]) for one in devices]
        lines += ["", output.table(("DEVICE", "STATE", "WHY"), cells)]
    return "\n".join(lines)


def _bars(row: dict[str, Any]) -> list[str]:
    """A bar a wave: full where its devices are healthy, `!` where they failed, dots where something is awaited."""
    lines = [
        output.plain(f"rollout {row['rollout']}: {row['agent']} {row.get('version', '?')}, {row['state']}"),
    ]
    if "fault" in row:
        return [*lines, output.plain(f"  {row['fault']}")]
    healthy, failed, before = row["healthy"], row["failed"], 0
    for number, (wave, size) in enumerate(zip(row["waves"], row["sizes"], strict=True), 1):
        here = max(0, size - before)
        good, bad = min(here, max(0, healthy - before)), 0
        if before <= row["reached"] - failed < size or (row["reached"] <= size and number == row["wave"]):
            bad = min(here - good, failed)
        full, wrong = (BAR * good // here, -(-BAR * bad // here)) if here else (BAR, 0)
        bar = "#" * full + "!" * wrong + "." * max(0, BAR - full - wrong)
        lines.append(f"  wave {number} {wave:>5}  [{bar}] {min(size, healthy)}/{size}")
        before = size
    text = f"{row['healthy']} healthy, {row['failed']} failed, {row['waiting']} at it, {row['silent']} silent"
    lines.append(f"  {text} of {row['reached']} reached, {row['matched']} matched")
    why = row.get("waits_for") or row["why"]
    return [*lines, *([output.plain(f"  {why}")] if why else [])]


def _watch(link: Link, rollout: str, *, as_json: bool) -> None:
    """Raises RemoteError where it does not end well."""
    import json

    drawn = 0
    last: list[str] = []
    row: dict[str, Any] = {}
    for row in link.follow("rollout.watch", rollout=rollout):
        if as_json:
            click.echo(json.dumps(row))
            continue
        lines = _bars(row)
        if output.is_terminal():
            click.echo((f"\x1b[{drawn}F\x1b[J" if drawn else "") + "\n".join(lines))
            drawn = len(lines)
        elif lines[-2:] != last:
            click.echo(f"{row['state']}, wave {row['wave']}: {lines[-1].strip()}")
            last = lines[-2:]
    if row.get("state") in ("aborted", "rolled_back"):
        raise RemoteError(f"rollout {rollout}: {row['state']}: {row['why']}")


def _whole_id(link: Link, text: str) -> str:
    """A rollout by the beginning of its id (4 characters at least), or the newest of an agent.  Raises LocalError."""
    rows = link.call("rollout.list")
    found = [row["rollout"] for row in rows if len(text) >= 4 and row["rollout"].startswith(text)]
    of_agent = [row["rollout"] for row in rows if row["agent"] == text and row["state"] != "rolled_back"]
    if len(found) != 1 and not of_agent:
        raise LocalError(
            f"rollout {text!r:.40}: expected an agent's name, or the beginning of one rollout's id; found {len(found)}"
        )
    return str(found[0] if len(found) == 1 else of_agent[0])


# --- steering -------------------------------------------------------------------------------------------------------


def _steering(name: str, state: str, help_text: str) -> click.Command:
    @click.command(name, help=help_text)
    @click.argument("rollout")
    @click.option("--why", default="", help="The reason: it stands in the log, and devices report it.")
    @passphrase.passphrase_option
    @output.fleet_option
    @output.json_option
    def command(rollout: str, why: str, passphrase_file: Path | None, fleet_dir: Path | None, as_json: bool) -> None:
        from edgeswarm.app.fleet.folder import FleetFolder, default_path
        from edgeswarm.app.fleet.link import open_link
        from edgeswarm.wire.rollout import Order, seal_order

        folder = FleetFolder(fleet_dir or default_path())
        with open_link(fleet_dir) as link:
            whole = _whole_id(link, rollout)
            by = passphrase.operator(folder, passphrase_file)
            order = Order(whole, state, why, int(time.time()))  # type: ignore[arg-type]
            data = seal_order(order, fleet=folder.config.fleet, cell=folder.config.cell, by=by)
            row = link.call("rollout.steer", order=data)
        output.emit(row, as_json=as_json, text=lambda: f"rollout {whole}: {row['state']}")

    return command


pause = _steering(
    "pause",
    "paused",
    """Hold a rollout: no further wave; devices that have it go on.

    \b
    Example:
      edgeswarm fleet pause 5f2b1c0a --why "the plant manager calls"
    """,
)
resume = _steering(
    "resume",
    "running",
    """Let a rollout that was paused go on.

    \b
    Example:
      edgeswarm fleet resume 5f2b1c0a
    """,
)
abort = _steering(
    "abort",
    "aborted",
    """End a rollout where it is: devices that have it keep it.

    \b
    Example:
      edgeswarm fleet abort 5f2b1c0a
    """,
)
rollback = _steering(
    "rollback",
    "rolled_back",
    """Take a rollout back: every device goes to what it ran before, also after it is done.

    \b
    Example:
      edgeswarm fleet rollback 5f2b1c0a --why "too loud at night"
      edgeswarm fleet rollback pump-watch                 (the newest rollout of that agent)
    """,
)
