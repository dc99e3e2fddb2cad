"""`edgeswarm fleet token create|list|revoke`, `fleet pending|approve|deny`: who may join."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeswarm.app.cli import output, passphrase
from edgeswarm.app.cli.root import CONTEXT_SETTINGS, LazyGroup
from edgeswarm.errors import LocalError

if TYPE_CHECKING:
    from edgeswarm.app.fleet.link import Link

COMMANDS: dict[str, tuple[str, str, str]] = {
    "create": ("fleet_token", "create", "Make a token that devices join with, and print it."),
    "list": ("fleet_token", "list_", "List the tokens that the cell knows."),
    "revoke": ("fleet_token", "revoke", "End a token: nobody joins by it any more."),
}
TRIES = 5  # to sign a coordinator's entry while the roster changes
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


@click.command(cls=LazyGroup, table=COMMANDS, context_settings=CONTEXT_SETTINGS)
def token() -> None:
    """Tokens, with which devices join.

    \b
    Examples:
      edgeswarm fleet token create --ttl 1h
      edgeswarm fleet token list
      edgeswarm fleet token revoke rm6ghjbbzydgc
    """


def seconds(text: str) -> int:
    """90, 90s, 15m, 1h, 7d, 2w.  Raises LocalError."""
    found = re.fullmatch(r"([0-9]{1,9})([smhdw]?)", text)
    if found is None:
        raise LocalError(f"--ttl: expected a number and s, m, h, d or w, as 1h, found {text!r:.40}")
    return int(found[1]) * _UNITS[found[2] or "s"]


@click.command()
@click.option(
    "--role",
    type=click.Choice(("worker", "reader", "coordinator")),
    default="worker",
    show_default=True,
    help="What a device is: workers run agents, coordinators may vote and lead as well, readers only read.",
)
@click.option("--ttl", default="1h", show_default=True, help="How long it is good: 90s, 15m, 1h, 7d.")
@click.option("--uses", type=click.IntRange(1, 10_000), default=1, show_default=True, help="How many devices.")
@click.option("--approval", is_flag=True, help="A person has to agree to each (`fleet approve`); coordinators always.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="What a device is labelled with.")
@click.option(
    "--grant", "grants", multiple=True, metavar="CAPABILITY", help="What it is granted (docs/capabilities.md)."
)
@click.option("--qr/--no-qr", default=None, help="Also as a QR code (default: on a terminal).")
@output.fleet_option
@output.json_option
def create(
    role: str,
    ttl: str,
    uses: int,
    approval: bool,
    labels: tuple[str, ...],
    grants: tuple[str, ...],
    qr: bool | None,
    fleet_dir: Path | None,
    as_json: bool,
) -> None:
    """Make a token and print it.  This is the only time that it is seen: whoever has it can join, so keep it like a
    password until it is used.

    \b
    Examples:
      edgeswarm fleet token create --ttl 15m
      edgeswarm fleet token create --uses 40 --ttl 1d --label line=3 --grant stream.publish:*
      edgeswarm fleet token create --role coordinator | ssh press-2 edgeswarm join -
    """
    import os

    from edgeswarm.app.fleet.link import open_link
    from edgeswarm.app.join import inventory
    from edgeswarm.wire import capability
    from edgeswarm.wire import token as wire

    ttl_s, wanted = seconds(ttl), inventory.labels(labels)
    with open_link(fleet_dir) as link:
        offer = link.call("token.offer")
        made = wire.make(tuple(offer["brokers"]), offer["fleet"], offer["ca"], entropy=os.urandom(24))
        found: dict[str, Any] = link.call(
            "token.create",
            token=made.id,
            public=made.public,
            role=role,
            uses=uses,
            ttl_s=ttl_s,
            approval=approval,
            labels=list(wanted),
            grants=list(capability.grants_of(grants) or capability.defaults(role)),
        )
    text = wire.text_of(made)
    if as_json:
        output.emit({**found, "id": made.id, "token": text}, as_json=True, text=str)
        return
    if qr or (qr is None and output.is_terminal()):
        output.note(drawn(text))
    click.echo(text)
    many = "one device" if uses == 1 else f"{uses} devices"
    output.note(f"token {made.id}: {many}, {role}, until {_when(found['expires_s'])}")
    if found["approval"]:
        output.note("each waits for a person: `edgeswarm fleet pending`")


def drawn(text: str) -> str:
    """A QR code of half blocks, dark on light as scanners want it."""
    import segno

    code = segno.make(text, error="l", micro=False)
    rows = [[bool(cell) for cell in row] for row in code.matrix_iter(border=2)]
    if len(rows) % 2:
        rows.append([False] * len(rows[0]))
    chars = {(False, False): "█", (False, True): "▀", (True, False): "▄", (True, True): " "}
    return "\n".join(
        "".join(chars[upper, lower] for upper, lower in zip(*rows[at : at + 2], strict=True))
        for at in range(0, len(rows), 2)
    )


@click.command("list")
@output.fleet_option
@output.json_option
def list_(fleet_dir: Path | None, as_json: bool) -> None:
    """List the tokens that the cell knows: open, used, expired, revoked.

    \b
    Example:
      edgeswarm fleet token list --json | jq '.[] | select(.state == "open")'
    """
    from edgeswarm.app.fleet.link import open_link

    with open_link(fleet_dir) as link:
        rows: list[dict[str, Any]] = link.call("token.list")
    header = ("TOKEN", "STATE", "ROLE", "USED", "UNTIL", "APPROVAL", "LABELS", "GRANTS", "BY")

    def text() -> str:
        return output.table(
            header,
            [
                (
                    row["token"],
                    row["state"],
                    row["role"],
                    f"{len(row['used'])}/{row['uses']}",
                    _when(row["expires_s"]),
                    "yes" if row["approval"] else "",
                    ",".join(row["labels"]),
                    ",".join(row["grants"]),
                    row["who"],
                )
                for row in rows
            ],
        )

    output.emit(rows, as_json=as_json, text=text)


@click.command()
@click.argument("token_id", metavar="TOKEN")
@output.fleet_option
@output.json_option
def revoke(token_id: str, fleet_dir: Path | None, as_json: bool) -> None:
    """End a token.  TOKEN is its id, as `list` shows it.  Devices that joined by it stay: `fleet revoke` ends those.

    \b
    Example:
      edgeswarm fleet token revoke rm6ghjbbzydgc
    """
    from edgeswarm.app.fleet.link import open_link

    with open_link(fleet_dir) as link:
        row: dict[str, Any] = link.call("token.revoke", token=token_id)
    output.emit(row, as_json=as_json, text=lambda: f"token {row['token']}: {row['state']}")


# --- who waits --------------------------------------------------------------------------------------------------------


@click.command()
@output.fleet_option
@output.json_option
def pending(fleet_dir: Path | None, as_json: bool) -> None:
    """List the devices that wait for a person.

    \b
    Example:
      edgeswarm fleet pending
    """
    from edgeswarm.app.fleet.link import open_link

    with open_link(fleet_dir) as link:
        rows: list[dict[str, Any]] = link.call("pending")
    shown = [row | {"proposal": None} if "proposal" in row else row for row in rows]

    def text() -> str:
        header = ("ID", "DEVICE", "KEY", "ROLE", "TOKEN", "SINCE", "PROFILE", "TIER", "SOFTWARE")
        table = [
            (
                row["id"], row["device"], row["key"][:16], row["role"], row["token"], _when(row["at_s"]),
                row["inventory"]["profile"], row["inventory"]["tier"], row["inventory"]["software"],
            )
            for row in rows
        ]  # fmt: skip
        return output.table(header, table) if rows else "nobody waits"

    output.emit(shown, as_json=as_json, text=text)


@click.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@passphrase.passphrase_option
@output.fleet_option
@output.json_option
def approve(ids: tuple[str, ...], passphrase_file: Path | None, fleet_dir: Path | None, as_json: bool) -> None:
    """Let devices in that wait.  For a coordinator your operator's key signs: it may vote, and lead.

    Compare the key that `pending` shows with what the device says.

    \b
    Example:
      edgeswarm fleet approve 4f1d09aa3c7e
    """
    from edgeswarm.app.fleet.link import open_link

    with open_link(fleet_dir) as link:
        done = [_approve(link, id_, passphrase_file, fleet_dir) for id_ in ids]
    output.emit(
        done,
        as_json=as_json,
        text=lambda: "\n".join(
            f"{row['device']}: {row['role']}, roster version {row['roster_version']}" for row in done
        ),
    )


def _approve(link: Link, id_: str, passphrase_file: Path | None, fleet_dir: Path | None) -> dict[str, Any]:
    """Sign what has to be signed, again where the roster has changed meanwhile."""
    from edgeswarm.drivers.control import ControlError
    from edgeswarm.errors import RemoteError

    signatory: Any = None
    for left in reversed(range(TRIES)):
        row = next((row for row in link.call("pending") if row["id"] == id_), None)
        if row is None:
            raise LocalError(f"{id_!r:.40}: no request of that id waits; `edgeswarm fleet pending` lists them")
        args: dict[str, Any] = {"id": id_}
        if "proposal" in row:
            signatory = signatory or _operator(fleet_dir, passphrase_file)
            args["entry"] = _signed(row["proposal"], signatory)
        try:
            found: dict[str, Any] = link.call("approve", **args)
            return found
        except (RemoteError, ControlError) as error:
            if "sign it anew" not in str(error) or not left:
                raise
    raise AssertionError("unreachable")


def _operator(fleet_dir: Path | None, passphrase_file: Path | None) -> Any:
    from edgeswarm.app.fleet.folder import FleetFolder, default_path

    return passphrase.operator(FleetFolder(fleet_dir or default_path()), passphrase_file)


def _signed(proposal: dict[str, Any], by: Any) -> bytes:
    from edgeswarm.wire.roster_form import Entry, sign_entry

    entry = Entry(
        proposal["device"],
        proposal["number"],
        proposal["role"],
        tuple(proposal["capabilities"]),
        proposal["since"],
    )
    return sign_entry(entry, fleet=proposal["fleet"], cell=proposal["cell"], by=by)


@click.command()
@click.argument("id_", metavar="ID")
@click.option("--reason", default="", help="Told to the device.")
@output.fleet_option
@output.json_option
def deny(id_: str, reason: str, fleet_dir: Path | None, as_json: bool) -> None:
    """Turn a device away that waits; by the same token and key it is not asked about again.

    \b
    Example:
      edgeswarm fleet deny 4f1d09aa3c7e --reason "not one of ours"
    """
    from edgeswarm.app.fleet.link import open_link

    with open_link(fleet_dir) as link:
        row: dict[str, Any] = link.call("deny", id=id_, reason=reason)
    output.emit(row, as_json=as_json, text=lambda: f"{row['device']}: turned away")


def _when(at_s: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at_s))
