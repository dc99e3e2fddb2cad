"""Questions to the fleet's index: pages of devices, one device, events, alerts, totals.  Blocking, read only.

A page goes on where the last one ended (a cursor names its last row), so that what changes between two pages neither
doubles a row nor skips one that stayed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Integer, func, or_, select, tuple_

from edgeswarm.app.fleet import index_tables as t
from edgeswarm.app.fleet.index_sql import condition
from edgeswarm.core.selector import EVERYBODY, Selector
from edgeswarm.errors import RemoteError
from edgeswarm.limits import INDEX_PAGE_BYTES_MAX, INDEX_PAGE_ROWS_MAX

COLUMNS: Final = (
    "device", "role", "state", "tier", "profile", "architecture", "software", "seen_s", "agents", "failed",
    "cpu_milli", "cpu_used_milli", "memory_bytes", "memory_free_bytes", "temperature_c", "uptime_s", "not_after_s",
    "labels",
)  # fmt: skip
"""Of a row of a page, in this order."""
SORTS: Final = ("device", "role", "state", "tier", "profile", "software", "seen_s", "agents", "failed", "uptime_s")
_CURSOR_CHARS_MAX = 2_000
_ROW_BYTES = 100  # of a row without its texts


def page(
    run: Connection,
    selector: Selector,
    *,
    seed: str = "",
    sort: str = "device",
    descending: bool = False,
    limit: int = INDEX_PAGE_ROWS_MAX,
    cursor: str = "",
) -> dict[str, Any]:
    """{columns, rows, next}; next: cursor of the next page, or nothing.  The first page counts states, too."""
    key, device = t.devices.c[sort], t.devices.c.device
    where = condition(selector, seed=seed)
    bounds = [where]
    if cursor:
        bounds.append(_after(key, device, _cursor(cursor), descending))
    order = [key.desc(), device.desc()] if descending else [key, device]
    columns = [t.devices.c[name] for name in COLUMNS]
    found = run.execute(select(*columns, key).where(*bounds).order_by(*order).limit(limit + 1)).all()
    rows: list[list[Any]] = []
    size = 0
    for one in found[:limit]:
        row = list(one[:-1])
        size += _ROW_BYTES + len(row[0]) + len(row[4]) + len(row[6]) + len(row[-1])
        if size > INDEX_PAGE_BYTES_MAX and rows:
            break
        row[-1] = json.loads(row[-1])
        rows.append(row)
    answer: dict[str, Any] = {"columns": list(COLUMNS), "rows": rows, "next": ""}
    if len(found) > len(rows):
        last = found[len(rows) - 1]
        answer["next"] = json.dumps([last[-1], last[0]])
    if not cursor:
        whole = not answer["next"]
        answer["states"] = dict(Counter(str(row[2]) for row in rows)) if whole else states(run, where)
    return answer


def _after(
    key: ColumnElement[Any], device: ColumnElement[str], last: tuple[Any, str], descending: bool
) -> ColumnElement[bool]:
    here, there = tuple_(key, device), tuple_(*last)
    return here < there if descending else here > there


def _cursor(text: str) -> tuple[Any, str]:
    try:
        found = json.loads(text[:_CURSOR_CHARS_MAX])
    except ValueError:
        found = None
    match found:
        case [str() | int() as value, str(device)]:
            return value, device
        case _:
            raise RemoteError(f"fleet: cursor: expected what a page gave as next, found {text[:80]!r}")


def states(run: Connection, where: ColumnElement[bool]) -> dict[str, int]:
    """State -> how many devices."""
    counted = select(t.devices.c.state, func.count()).where(where).group_by(t.devices.c.state)
    return {str(state): int(count) for state, count in run.execute(counted)}


def ids(run: Connection, selector: Selector, *, seed: str = "") -> list[str]:
    """Device ids, sorted."""
    chosen = select(t.devices.c.device).where(condition(selector, seed=seed)).order_by(t.devices.c.device)
    return [str(one) for one in run.execute(chosen).scalars()]


def device(run: Connection, name: str) -> dict[str, Any] | None:
    """Everything that is known of one, or None."""
    row = run.execute(select(t.devices).where(t.devices.c.device == name)).mappings().first()
    if row is None:
        return None
    found: dict[str, Any] = dict(row)
    for key in ("labels", "grants", "delegates", "sensors", "metrics"):
        found[key] = json.loads(found[key])
    found["running"] = agents_of(run, t.agents, name)
    found["reported"] = agents_of(run, t.reported, name)
    found["rollouts"] = _rows(
        run, select(t.reports).where(t.reports.c.device == name).order_by(t.reports.c.at_s.desc())
    )
    return found


def agents_of(run: Connection, table: Any, name: str) -> list[dict[str, Any]]:
    columns = [table.c[key] for key in ("agent", "artefact", "state", "epoch", "restarts")]
    return _rows(run, select(*columns).where(table.c.device == name).order_by(table.c.agent))


def events(
    run: Connection,
    *,
    device: str = "",
    severities: Sequence[str] = (),
    event: str = "",
    before: int = 0,
    limit: int = 100,
) -> dict[str, Any]:
    """{events: newest first, next: what to give as `before` for those before them, or 0}."""
    where = [
        *([t.events.c.device == device] if device else []),
        *([t.events.c.severity.in_(severities)] if severities else []),
        *([t.events.c.event == event] if event else []),
        *([t.events.c.id < before] if before else []),
    ]
    rows = _rows(run, select(t.events).where(*where).order_by(t.events.c.id.desc()).limit(limit + 1))
    return {"events": rows[:limit], "next": rows[limit - 1]["id"] if len(rows) > limit else 0}


def alerts(
    run: Connection, *, device: str = "", acknowledged: bool = False, before: int = 0, limit: int = 100
) -> dict[str, Any]:
    """{alerts: newest first, next, open: how many are}.  acknowledged: those too."""
    where = [
        *([t.alerts.c.device == device] if device else []),
        *([] if acknowledged else [t.alerts.c.acked_by == ""]),
        *([t.alerts.c.id < before] if before else []),
    ]
    rows = _rows(run, select(t.alerts).where(*where).order_by(t.alerts.c.id.desc()).limit(limit + 1))
    return {
        "alerts": rows[:limit],
        "next": rows[limit - 1]["id"] if len(rows) > limit else 0,
        "open": _open_alerts(run),
    }


def _open_alerts(run: Connection) -> int:
    return int(run.execute(select(func.count()).where(t.alerts.c.acked_by == "")).scalar() or 0)


def summary(run: Connection, *, since_s: float, busiest: int = 10) -> dict[str, Any]:
    """Totals of the fleet, and the devices that one looks at first.  since_s: from when events are counted."""
    d = t.devices.c
    everybody = condition(EVERYBODY)
    counted = select(t.events.c.severity, func.count()).where(t.events.c.at_s >= since_s).group_by(t.events.c.severity)
    total = run.execute(select(func.count(), func.sum(d.agents), func.sum(d.failed), func.sum(d.restarts))).one()
    share = d.cpu_used_milli * 1000 // func.max(d.cpu_milli, 1, type_=Integer)
    rank = or_(d.failed > 0, d.state == "silent").desc()
    columns = [d.device, d.state, d.agents, d.failed, d.restarts, share.label("busy_permille"), d.memory_bytes,
               d.memory_free_bytes, d.temperature_c, d.queue_rows, d.seen_s]  # fmt: skip
    looked_at = select(*columns).where(d.state != "never").order_by(rank, share.desc(), d.device).limit(busiest)
    agents = (
        select(t.agents.c.agent, func.count().label("devices"), func.sum(t.agents.c.state == "failed").label("failed"))
        .group_by(t.agents.c.agent)
        .order_by(func.count().desc(), t.agents.c.agent)
        .limit(busiest)
    )
    return {
        "devices": int(total[0] or 0),
        "agents": int(total[1] or 0),
        "failed": int(total[2] or 0),
        "restarts": int(total[3] or 0),
        "states": states(run, everybody),
        "tiers": _counts(run, d.tier),
        "profiles": _counts(run, d.profile),
        "software": _counts(run, d.software),
        "events": {str(severity): int(count) for severity, count in run.execute(counted)},
        "alerts_open": _open_alerts(run),
        "busiest": _rows(run, looked_at),
        "by_agent": _rows(run, agents),
    }


def _counts(run: Connection, column: ColumnElement[Any]) -> dict[str, int]:
    counted = select(column, func.count()).group_by(column).order_by(func.count().desc()).limit(20)
    return {str(value): int(count) for value, count in run.execute(counted)}


def rollout(run: Connection, name: str) -> list[dict[str, Any]]:
    """How the devices of a rollout stand, by device."""
    return _rows(run, select(t.reports).where(t.reports.c.rollout == name).order_by(t.reports.c.device))


def _rows(run: Connection, statement: Any) -> list[dict[str, Any]]:
    return [dict(row) for row in run.execute(statement).mappings()]
