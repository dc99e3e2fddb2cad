"""What `edgeswarm fleet devices|show|top|events|...` share: rows as JSON, pages, tables.  Pure but for the link.

Everything that a device says is somebody else's text: to a terminal only without what it would act upon, in JSON
escaped.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from edgeswarm.app.cli import output

if TYPE_CHECKING:
    from edgeswarm.app.fleet.link import Link

PAGE_ROWS = 10_000
"""The controller may give fewer at a time."""
COLOURS = {"warning": "yellow", "error": "red", "critical": "bright_red"}
STATE_COLOURS = {"silent": "yellow", "offline": "yellow", "never": "bright_black"}


_ENCODER = json.JSONEncoder(default=str, separators=(",", ":"))  # one for all: json.dumps would make one each time


def dumps(value: Any) -> str:
    """JSON in one line, with nothing that a terminal acts upon (DEL is the one that json leaves)."""
    text = _ENCODER.encode(value)
    return text.replace("\x7f", "\\u007f") if "\x7f" in text else text


def rows_json(head: Mapping[str, Any], name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """An object of `head` and a list, one row a line: much quicker than an indented one, and as easy to read."""
    start = "".join(f"{dumps(key)}: {dumps(value)},\n " for key, value in head.items())
    inner = ",\n  ".join(map(dumps, rows))
    return f"{{{start}{dumps(name)}: [" + (f"\n  {inner}\n" if rows else "") + " ]}"


def devices(link: Link, *, limit: int | None, **asked: Any) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """All pages together: (rows, state -> how many devices match in all)."""
    collects = gc.isenabled()
    gc.disable()  # rows hold no cycles; looking for some takes a tenth of the time for 10,000 of them
    try:
        return _devices(link, limit, asked)
    finally:
        if collects:
            gc.enable()


def _devices(link: Link, limit: int | None, asked: Mapping[str, Any]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    rows: list[dict[str, Any]] = []
    states: dict[str, int] = {}
    cursor = ""
    while True:
        size = PAGE_ROWS if limit is None else min(PAGE_ROWS, limit - len(rows))
        page = link.call("devices", limit=size, cursor=cursor, **asked)
        columns, states = page["columns"], page.get("states", states)
        for row in page["rows"]:
            row[-1] = labels_of(row[-1])
            rows.append(dict(zip(columns, row, strict=True)))
        cursor = page["next"]
        if not cursor or (limit is not None and len(rows) >= limit):
            return rows, states


def labels_of(labels: Sequence[str]) -> dict[str, str]:
    return {key: value for key, _, value in (one.partition("=") for one in labels)}


def ago(seen_s: float, now_s: float) -> str:
    """3 s, 12 min, 5 h, 9 d; - when never."""
    if not seen_s:
        return "-"
    age = max(0, int(now_s - seen_s))
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if age >= 2 * size:
            return f"{age // size} {unit}"
    return f"{age} s"


def moment(at_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(at_s))


def share(used: int, all_: int) -> str:
    return f"{100 * used // all_} %" if all_ else "-"


def devices_table(rows: Sequence[Mapping[str, Any]], states: Mapping[str, int], now_s: float) -> list[str]:
    """Lines; who is silent or offline is yellow, who has failed agents red."""
    header = ("device", "state", "role", "tier", "profile", "agents", "cpu", "free", "temp", "seen", "labels")
    cells = [
        (
            row["device"],
            row["state"],
            row["role"],
            row["tier"] or "-",
            row["profile"] or "-",
            f"{row['agents']}" + (f" ({row['failed']} failed)" if row["failed"] else ""),
            share(row["cpu_used_milli"], row["cpu_milli"]),
            output.size(row["memory_free_bytes"]) if row["memory_free_bytes"] else "-",
            "-" if row["temperature_c"] is None else f"{row['temperature_c']:.0f} °C",
            ago(row["seen_s"], now_s),
            " ".join(f"{key}={value}" for key, value in row["labels"].items()),
        )
        for row in rows
    ]
    lines = output.table(header, cells, right=(6, 7, 8, 9)).splitlines()
    for at, row in enumerate(rows, 2):
        colour = "red" if row["failed"] else STATE_COLOURS.get(row["state"])
        lines[at] = click.style(lines[at], fg=colour) if colour else lines[at]
    total = sum(states.values())
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    more = f"; the first {len(rows)} are shown" if len(rows) < total else ""
    return [*lines, f"{total} devices" + (f": {counts}" if counts else "") + more]


def event_line(row: Mapping[str, Any]) -> str:
    where = f"{row['device']}/{row['agent']}" if row["agent"] else row["device"] or "-"
    text = f"{moment(row['at_s'])}  {row['severity']:<8}  {where}  {row['event']}  {row['text']}".rstrip()
    line = output.plain(text)
    return click.style(line, fg=COLOURS[row["severity"]]) if row["severity"] in COLOURS else line


def agent_lines(agents: Sequence[Mapping[str, Any]], *, wanted: bool = False) -> list[str]:
    if not agents:
        return ["none"]
    if wanted:
        cells = [(one["agent"], one["artefact"][:12], one["by"]) for one in agents]
        return output.table(("agent", "artefact", "by"), cells).splitlines()
    rows = [(one["agent"], one["artefact"][:12], one["state"], one["epoch"], one["restarts"]) for one in agents]
    return output.table(("agent", "artefact", "state", "epoch", "restarts"), rows, right=(3, 4)).splitlines()


def device_lines(row: Mapping[str, Any], now_s: float) -> list[str]:
    """Everything about one device, for people."""

    def names(key: str) -> str:
        return ", ".join(row[key]) or "none"

    cell, twin = row["cell"], row["twin"]
    pairs = [
        ("device", f"{row['device']}, {row['role']}, raft number {row['number']}"),
        ("state", f"{row['state']}, heard {ago(row['seen_s'], now_s)} ago" if row["seen_s"] else row["state"]),
        ("board", f"{row['profile'] or '-'}, tier {row['tier'] or '-'}, {row['architecture'] or '-'}"),
        ("software", row["software"] or "-"),
        ("up", f"{row['uptime_s']} s"),
        (
            "load",
            f"cpu {share(row['cpu_used_milli'], row['cpu_milli'])}, memory free {output.size(row['memory_free_bytes'])}"
            f", {row['queue_rows']} rows waiting"
            + ("" if row["temperature_c"] is None else f", {row['temperature_c']:.1f} °C"),
        ),
        ("labels", names("labels")),
        ("grants", names("grants")),
        ("has", ", ".join([*row["delegates"], *row["sensors"]]) or "nothing told"),
        ("certificate", f"serial {row['serial']}, until {moment(row['not_after_s'])}"),
        ("roster", f"version {row['roster_version']}, applied {row['applied']}, term {row['term']}"),
        (
            "cell",
            "not registered"
            if cell is None
            else f"{'alive' if cell['alive'] else 'lost'}, epoch {cell['epoch']}"
            + (", drained" if cell["drained"] else ""),
        ),
    ]
    lines = [f"{name:<12} {output.plain(str(value))}" for name, value in pairs]
    lines += ["", "wanted:", *(f"  {line}" for line in agent_lines(twin["desired"], wanted=True))]
    lines += ["", "there:", *(f"  {line}" for line in agent_lines(twin["reported"]))]
    lines += [f"  ! {output.plain(line)}" for line in twin["differs"]]
    if row["rollouts"]:
        cells = [
            (one["rollout"], one["agent"], one["artefact"][:12], one["state"], one["text"]) for one in row["rollouts"]
        ]
        lines += ["", "rollouts:"]
        lines += [
            f"  {one}" for one in output.table(("rollout", "agent", "artefact", "state", "why"), cells).splitlines()
        ]
    if row["metrics"]:
        lines += [
            "",
            "metrics:",
            *(f"  {output.plain(name)} {value:g}" for name, value in sorted(row["metrics"].items())),
        ]
    if row["alerts"]:
        lines += ["", "alerts:", *(f"  {line}" for line in alerts_table(row["alerts"]))]
    if row["events"]:
        lines += ["", "events:", *(f"  {event_line(one)}" for one in row["events"])]
    return lines


def alerts_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    header = ("id", "last", "severity", "device", "code", "times", "acknowledged", "text")
    cells = [
        (
            row["id"],
            moment(row["last_s"]),
            row["severity"],
            f"{row['device']}/{row['agent']}" if row["agent"] else row["device"],
            row["code"],
            row["count"],
            row["acked_by"] or "-",
            row["text"],
        )
        for row in rows
    ]
    return output.table(header, cells, right=(0, 5)).splitlines()


def top_lines(now: Mapping[str, Any], now_s: float) -> list[str]:
    states = ", ".join(f"{count} {state}" for state, count in sorted(now["states"].items()))
    events = ", ".join(f"{count} {name}" for name, count in sorted(now["events"].items())) or "none"
    leader = now["leader"] or "nobody known"
    counts = f"agents {now['agents']}, failed {now['failed']}, restarts {now['restarts']}"
    lines = [
        f"fleet {now['fleet']}/{now['cell']}: {now['devices']} devices ({states}), leader {leader}"
        + ("" if now["connected"] else ", NO BROKER"),
        f"{counts}; open alerts {now['alerts_open']}; events {events}",
        "software " + (", ".join(f"{count} x {name or 'unknown'}" for name, count in now["software"].items()) or "-"),
        "",
    ]
    header = ("device", "state", "agents", "failed", "restarts", "cpu", "free", "temp", "waiting", "seen")
    cells = [
        (
            row["device"],
            row["state"],
            row["agents"],
            row["failed"],
            row["restarts"],
            f"{row['busy_permille'] / 10:.0f} %",
            output.size(row["memory_free_bytes"]),
            "-" if row["temperature_c"] is None else f"{row['temperature_c']:.0f} °C",
            row["queue_rows"],
            ago(row["seen_s"], now_s),
        )
        for row in now["busiest"]
    ]
    lines += output.table(header, cells, right=range(2, 10)).splitlines()
    agents = [(row["agent"], row["devices"], row["failed"]) for row in now["by_agent"]]
    lines += ["", *output.table(("agent", "devices", "failed"), agents, right=(1, 2)).splitlines()] if agents else []
    return [output.plain(line) for line in lines]


def each(pages: Iterator[Any]) -> Iterator[Any]:
    """What is followed, until ctrl-c."""
    try:
        yield from pages
    except KeyboardInterrupt:
        pass  # how one leaves it
