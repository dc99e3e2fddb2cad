"""What status, list and top show: a supervisor's status as lines of text.  Pure; takes what the op `status` answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from edgeswarm.app.cli import output

Status = Mapping[str, Any]
AGENT_COLUMNS = (
    "agent", "status", "decision", "score", "rows/s", "rows in", "answered", "dropped", "aside", "bad", "lost",
    "p50", "p99", "restarts", "version",
)  # fmt: skip
"""What one looks at first comes first: a narrow terminal cuts the end off."""
AGENT_RIGHT = range(3, 14)
JAIL_COLUMNS = ("jail", "pid", "policy", "memory", "in flight", "agents")
JAIL_RIGHT = (0, 1, 3, 4)


def count(row: Mapping[str, Any], key: str) -> int:
    """A counter of an agent; a table of counters by kind is summed."""
    value = row.get("counters", {}).get(key, 0)
    return sum(value.values()) if isinstance(value, Mapping) else int(value)


def duration(seconds: float) -> str:
    """1 d 02:03:04, 02:03:04."""
    days, rest = divmod(int(seconds), 86_400)
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days} d {clock}" if days else clock


def micros(value: float | None) -> str:
    """850 µs, 12.3 ms, 1.20 s; - when there is none."""
    if not value:
        return "-"
    if value < 1_000:
        return f"{value:.0f} µs"
    return f"{value / 1_000:.1f} ms" if value < 1_000_000 else f"{value / 1_000_000:.2f} s"


def rates(now: Status, before: Status | None) -> dict[str, float]:
    """Rows a second of each agent between two statuses; over its whole life when there is only one."""
    since = before["uptime_s"] if before is not None and before["uptime_s"] < now["uptime_s"] else 0.0
    seconds = max(now["uptime_s"] - since, 1e-3)
    seen = {row["name"]: count(row, "rows_in") for row in before["agents"]} if before is not None and since else {}
    return {row["name"]: max(0, count(row, "rows_in") - seen.get(row["name"], 0)) / seconds for row in now["agents"]}


def agent_cells(row: Mapping[str, Any], rate: float | None) -> list[str]:
    latency, last = row.get("latency") or {}, row.get("last") or {}
    score = last.get("score")
    counts = ("rows_in", "answered", "dropped", "rows_set_aside", "malformed", "lost")
    return [
        row["name"],
        row["status"],
        str(last.get("label", "-")) or "-",
        "-" if score is None else f"{score:.4g}",
        "-" if rate is None else f"{rate:.1f}",
        *(str(count(row, key)) for key in counts),
        micros(latency.get("p50_us")),
        micros(latency.get("p99_us")),
        str(row.get("restarts", 0)),
        row.get("version") or "-",
    ]


def agents_table(agents: Sequence[Mapping[str, Any]], speed: Mapping[str, float] | None = None) -> list[str]:
    """Lines; what is flagged is red, what does not run is yellow (click takes colours off where nobody sees them)."""
    rows = [agent_cells(row, None if speed is None else speed.get(row["name"], 0.0)) for row in agents]
    lines = output.table(AGENT_COLUMNS, rows, right=AGENT_RIGHT).splitlines()
    for index, row in enumerate(agents, start=2):
        if (row.get("last") or {}).get("flagged"):
            lines[index] = click.style(lines[index], fg="red", bold=True)
        elif row["status"] != "running":
            lines[index] = click.style(lines[index], fg="yellow")
    return lines


def isolation_of(now: Status) -> str:
    """The tier, and what is missing where it is not the best."""
    if now["tier"] is None:
        return "tier not known yet"
    lost = now.get("degraded")
    return f"tier {now['tier']} DEGRADED: {lost}" if lost else f"tier {now['tier']}"


def headline(now: Status) -> str:
    return output.plain(
        f"EdgeSwarm {now['version']} on {now['device']}, {isolation_of(now)}, up {duration(now['uptime_s'])}, "
        f"supervisor pid {now['pid']} {output.size(now['rss_bytes'])}, profile {now['profile']}"
    )


def totals(now: Status) -> str:
    names = {
        "rows_in": "rows in",
        "decisions": "decisions",
        "dropped": "dropped",
        "rows_set_aside": "set aside",
        "lost": "lost",
    }
    found = now.get("totals", {})
    return "totals: " + ", ".join(f"{text} {found[key]}" for key, text in names.items() if key in found)


def jails_table(jails: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        (
            jail["jail"],
            jail["pid"],
            jail["policy"],
            output.size(jail["memory_bytes"]),
            jail["in_flight"],
            ", ".join(str(name) for name in jail["agents"]),
        )
        for jail in jails
    ]
    return output.table(JAIL_COLUMNS, rows, right=JAIL_RIGHT).splitlines()


def details(agents: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each agent that does not run, with the reason."""
    bad = [row for row in agents if row["status"] != "running" and row.get("detail")]
    return [output.plain(f"{row['name']}: {row['status']}: {row['detail']}") for row in bad]


def delegates(agents: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each agent that a delegate computes, or that one has failed."""
    rows = [(row["name"], row["delegate"]) for row in agents if row.get("delegate")]
    lines = []
    for name, row in rows:
        if row["runs_on"] != "wasm" or row["failures"]:
            failed = ", ".join(f"{count} {kind}" for kind, count in row["failures"].items())
            lines.append(f"{name}: runs on {row['runs_on']}, {row['why']}{f'; failures: {failed}' if failed else ''}")
    return [output.plain(line) for line in lines]


def lines_of(now: Status, before: Status | None = None) -> list[str]:
    """Everything, for `status` and for one picture of `top`."""
    lines = [headline(now), totals(now), ""]
    if not now["agents"]:
        return [*lines, "no agents; `edgeswarm agent deploy X.af` brings one"]
    lines += agents_table(now["agents"], rates(now, before))
    said = [*details(now["agents"]), *delegates(now["agents"])]
    lines += ["", *said] if said else []
    return [*lines, "", *jails_table(now["jails"])] if now["jails"] else lines


def fit(lines: Sequence[str], *, columns: int, rows: int) -> list[str]:
    """The lines cut to a screen; the last one says what did not fit."""
    cut = [_clip(line, columns) for line in lines[:rows]]
    if len(lines) > rows > 0:
        cut[-1] = _clip(f"... {len(lines) - rows + 1} more lines; enlarge the window, or use --json", columns)
    return cut


def _clip(line: str, columns: int) -> str:
    """At most `columns` characters of text; a style spans whole lines here, so it is taken off and put back."""
    bare = click.unstyle(line)
    if len(bare) <= columns:
        return line
    if bare == line:
        return line[:columns]
    before, _, after = line.partition(bare)
    return before + bare[:columns] + after
