"""The file of the fleet's index: opens it or makes it anew, and writes what was heard, one transaction a batch.

It is an index: the log, the roster and the retained states are the truth.  So a file that is broken, or of another
schema, is put aside (one such file is kept) and filled again; nothing is migrated.  Blocking; used from one thread at a
time.  Bounded: devices, events by count and age, alerts (acknowledged ones go first).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, bindparam, case, create_engine, delete, event, func, select, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DatabaseError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from edgeswarm.app.fleet import index_sql
from edgeswarm.app.fleet import index_tables as t
from edgeswarm.app.fleet.index_rows import AgentRow, AlertRow, Batch, EventRow, HeardRow, MemberRow
from edgeswarm.errors import LocalError
from edgeswarm.limits import INDEX_ALERTS_MAX, INDEX_DEVICES_MAX, INDEX_EVENTS_AGE_S, INDEX_EVENTS_MAX

_PRUNE_EVERY = 500  # events between two looks at the bounds
_BUSY_MS = 5_000  # somebody else reads the file with sqlite3


class Store:
    """path: of the file; its folder is there."""

    def __init__(self, path: Path) -> None:
        """Raises LocalError where not even a new file can be made."""
        self.path = path
        self.set_aside = ""  # why a file was, last
        self._since_prune = 0
        self._open()

    def _open(self) -> None:
        try:
            self._connect()
        except (DatabaseError, _OtherSchemaError) as error:
            self._put_aside(error)
            try:
                self._connect()
            except SQLAlchemyError as again:
                raise LocalError(f"{self.path}: the fleet's index cannot be made: {_short(again)}") from None
        self.members: dict[str, MemberRow] = {}  # as written by this process; the first batch writes all
        self._unsure = True
        rows = self.connection.execute(select(t.devices.c.device).where(t.devices.c.state == "silent"))
        self._silent = set(rows.scalars())
        self.connection.rollback()

    def _connect(self) -> None:
        self.engine = _engine(self.path)
        self.connection = self.engine.connect()
        try:
            fresh = not _scalar(self.connection, "SELECT count(*) FROM sqlite_master")
            if fresh:
                t.metadata.create_all(self.connection)
                self.connection.exec_driver_sql(f"PRAGMA application_id = {t.APPLICATION}")
                self.connection.exec_driver_sql(f"PRAGMA user_version = {t.SCHEMA}")
                self.connection.commit()
            found = tuple(_scalar(self.connection, f"PRAGMA {name}") for name in ("application_id", "user_version"))
            if found != (t.APPLICATION, t.SCHEMA):
                raise _OtherSchemaError(f"expected schema {t.SCHEMA}, found {found[1]} of application {found[0]:#x}")
            if (health := _scalar(self.connection, "PRAGMA quick_check(1)")) != "ok":
                raise _OtherSchemaError(f"damaged: {health}")
            self.connection.rollback()
        except BaseException:
            self.close()
            raise

    def _put_aside(self, error: Exception) -> None:
        self.set_aside = _short(error)
        for suffix in ("-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        try:
            self.path.replace(self.path.with_name(self.path.name + ".aside"))
        except FileNotFoundError:
            pass
        except OSError as fault:
            raise LocalError(f"{self.path}: broken ({self.set_aside}), and cannot be put aside: {fault}") from None

    def renew(self, error: Exception) -> None:
        """After a write failed since the file is damaged: a new one."""
        self.close()
        self._put_aside(error)
        self._open()

    def close(self) -> None:
        self.connection.close()
        self.engine.dispose()

    # --- writing ------------------------------------------------------------------------------------------------------

    def write(self, batch: Batch, *, now_s: float, silent_before_s: float | None = None) -> list[EventRow]:
        """All of it or nothing; what it came to beside (a device that fell silent, came, went).

        silent_before_s: who was last heard before that is silent; None: no look.  Raises SQLAlchemyError.
        """
        told: list[EventRow] = []
        with self.connection.begin():
            run = self.connection
            before = (set(self._silent), dict(self.members), self._unsure)
            try:
                if batch.members is not None:
                    told += self._members(run, batch.members, now_s)
                if batch.labels is not None:
                    _labels(run, batch.labels)
                told += self._heard(run, batch.heard.values(), now_s, silent_before_s)
                _each_device(run, t.reported, batch.reported)
                if batch.metrics:
                    rows = [{"key": key, "json": _json(value)} for key, value in batch.metrics.items()]
                    run.execute(_update({"metrics": bindparam("json")}), rows)
                _each(
                    run,
                    t.reports,
                    list(batch.reports),
                    [_plain(one) for some in batch.reports.values() for one in some],
                )
                for alert in batch.alerts:
                    _alert(run, alert)
                if silent_before_s is not None:
                    told += self._sweep(run, now_s, silent_before_s)
                self._events(run, [*batch.events, *told], now_s)
            except BaseException:
                self._silent, self.members, self._unsure = before
                raise
        return told

    def _members(self, run: Connection, members: dict[str, MemberRow], now_s: float) -> list[EventRow]:
        """The roster: rows for who is new, changed, gone."""
        told: list[EventRow] = []
        there = set(run.execute(select(t.devices.c.device)).scalars()) if self._unsure else set(self.members)
        gone = there - set(members)
        for table in (t.devices, t.labels, t.grants, t.has, t.agents, t.reported, t.reports):
            if gone:
                run.execute(delete(table).where(table.c.device == bindparam("gone")), [{"gone": one} for one in gone])
        told += [
            EventRow(now_s, one, "device.left", "warning", text="it is not in the roster any more") for one in gone
        ]
        changed = [one for one in members.values() if self.members.get(one.device) != one][:INDEX_DEVICES_MAX]
        if changed:
            statement = insert(t.devices)
            columns = ("role", "number", "grants", "serial", "not_before_s", "not_after_s")
            run.execute(
                statement.on_conflict_do_update(
                    index_elements=["device"], set_={name: statement.excluded[name] for name in columns}
                ),
                [{**_plain(one), "grants": _json(one.grants)} for one in changed],
            )
            rows = [{"device": one.device, **_grant(grant)} for one in changed for grant in one.grants]
            _each(run, t.grants, [one.device for one in changed], rows)
        told += [
            EventRow(now_s, one.device, "device.joined", text=f"as {one.role}")
            for one in changed
            if there and one.device not in there  # a new index does not tell of those who were there before it
        ]
        self.members, self._unsure = dict(members), False
        self._silent -= gone
        return told

    def _heard(
        self, run: Connection, heard: Iterable[HeardRow], now_s: float, silent_before_s: float | None
    ) -> list[EventRow]:
        heard = list(heard)
        by_columns: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for one in heard:
            row = {**one.facts, "said": one.said} if one.said else dict(one.facts)
            row |= {"seen_s": one.seen_s} if one.seen_s else {}
            row |= {"delegates": _json(one.delegates)} if one.delegates is not None else {}
            row |= {"sensors": _json(one.sensors)} if one.sensors is not None else {}
            by_columns.setdefault(tuple(row), []).append(
                {f"new_{name}": row[name] for name in row} | {"key": one.device}
            )
        for columns, rows in by_columns.items():
            run.execute(_update({name: bindparam(f"new_{name}") for name in columns}), rows)
        live = [one.device for one in heard if one.seen_s]
        if heard:
            run.execute(
                _update({"state": _state(silent_before_s if silent_before_s is not None else 0)}),
                [{"key": one.device} for one in heard],
            )
        _each_device(run, t.agents, {one.device: one.agents for one in heard if one.agents is not None})
        named = [one for one in heard if one.delegates is not None or one.sensors is not None]
        rows = [
            {"device": one.device, "name": name}
            for one in named
            for name in {*(one.delegates or ()), *(one.sensors or ())}
        ]
        _each(run, t.has, [one.device for one in named], rows)
        back = self._silent.intersection(live)
        self._silent -= back
        return [EventRow(now_s, one, "device.back", text="it is heard again") for one in sorted(back)]

    def _sweep(self, run: Connection, now_s: float, before_s: float) -> list[EventRow]:
        """Who has not been heard for too long."""
        late = (t.devices.c.state.in_(("online", "draining"))) & (t.devices.c.seen_s < before_s)
        found = [
            (str(device), int(seen))
            for device, seen in run.execute(select(t.devices.c.device, t.devices.c.seen_s).where(late))
        ]
        if not found:
            return []
        run.execute(_update({"state": "silent"}), [{"key": device} for device, _ in found])
        self._silent.update(device for device, _ in found)
        return [
            EventRow(
                now_s,
                device,
                "device.silent",
                "warning",
                text=f"not heard for {max(0, round(now_s - seen))} s" if seen else "not heard since this index began",
            )
            for device, seen in sorted(found)
        ]

    def _events(self, run: Connection, events: Sequence[EventRow], now_s: float) -> None:
        if events:
            run.execute(insert(t.events), [one.plain() for one in events[-INDEX_EVENTS_MAX:]])
        self._since_prune += len(events)
        if self._since_prune >= _PRUNE_EVERY or not self._since_prune:
            self._prune(run, now_s)

    def _prune(self, run: Connection, now_s: float) -> None:
        self._since_prune = 1
        newest = select(func.coalesce(func.max(t.events.c.id), 0)).scalar_subquery()
        run.execute(delete(t.events).where(t.events.c.id <= newest - INDEX_EVENTS_MAX))
        run.execute(delete(t.events).where(t.events.c.at_s < now_s - INDEX_EVENTS_AGE_S))

    # --- what an operator changes -------------------------------------------------------------------------------------

    def acknowledge(self, ids: Sequence[int], who: str, now_s: float) -> list[int]:
        """Those of `ids` that were open."""
        with self.connection.begin():
            still = t.alerts.c.id.in_(ids) & (t.alerts.c.acked_by == "")
            found = list(self.connection.execute(select(t.alerts.c.id).where(still).order_by(t.alerts.c.id)).scalars())
            self.connection.execute(update(t.alerts).where(still).values(acked_by=who, acked_s=now_s))
        return found


class _OtherSchemaError(Exception):
    pass


def _engine(path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool, connect_args={"check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may cost the last batches, never the file
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
        connection.execute("PRAGMA trusted_schema = OFF")
        index_sql.register(connection)

    return engine


def _scalar(run: Connection, statement: str) -> Any:
    return run.exec_driver_sql(statement).scalar()


def _short(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error)[:200]


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _plain(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__slots__}


def _grant(grant: str) -> dict[str, str]:
    capability, _, agent = grant.partition("@")
    return {"capability": capability, "agent": agent}


def _update(values: dict[str, Any]) -> Any:
    """Of one device a row: {"key": device, ...}."""
    return update(t.devices).where(t.devices.c.device == bindparam("key")).values(values)


def _state(silent_before_s: float) -> Any:
    """What a device is, from what it said and when it was heard."""
    said, seen = t.devices.c.said, t.devices.c.seen_s
    return case(
        (said == "offline", "offline"),
        ((said == "") & (seen == 0), "never"),
        ((seen == 0) | (seen < silent_before_s), "silent"),
        (said == "", "online"),
        else_=said,
    )


def _replace(run: Connection, table: Any, rows: list[dict[str, Any]]) -> None:
    if rows:
        run.execute(insert(table).prefix_with("OR REPLACE"), rows)


def _each(run: Connection, table: Any, devices: Sequence[str], rows: list[dict[str, Any]]) -> None:
    """`rows` in the place of all that `table` has of these devices."""
    if devices:
        run.execute(delete(table).where(table.c.device == bindparam("key")), [{"key": device} for device in devices])
    _replace(run, table, rows)


def _each_device(run: Connection, table: Any, agents: dict[str, tuple[AgentRow, ...]]) -> None:
    rows = [{"device": device, **_plain(one)} for device, some in agents.items() for one in some]
    _each(run, table, list(agents), rows)


def _labels(run: Connection, labels: dict[str, tuple[str, ...]]) -> None:
    """labels: of each device whose labels changed, "key=value"; empty where it has none any more."""
    rows = [
        {"device": device, "key": key, "value": value}
        for device, some in labels.items()
        for key, _, value in (one.partition("=") for one in some)
    ]
    _each(run, t.labels, list(labels), rows)
    if labels:
        changed = [{"key": device, "json": _json(sorted(some))} for device, some in labels.items()]
        run.execute(_update({"labels": bindparam("json")}), changed)


def _alert(run: Connection, alert: AlertRow) -> None:
    """Onto the open one of the same device, code and agent, or a new one; the bound is kept."""
    same = (
        (t.alerts.c.acked_by == "")
        & (t.alerts.c.device == alert.device)
        & (t.alerts.c.code == alert.code)
        & (t.alerts.c.agent == alert.agent)
    )
    done = run.execute(
        update(t.alerts)
        .where(same)
        .values(
            count=func.min(t.alerts.c.count + alert.count, 1 << 62),
            last_s=alert.at_s,
            text=alert.text,
            severity=alert.severity,
        )
    )
    if done.rowcount:
        return
    run.execute(
        insert(t.alerts).values(
            first_s=alert.at_s,
            last_s=alert.at_s,
            device=alert.device,
            severity=alert.severity,
            code=alert.code,
            agent=alert.agent,
            text=alert.text,
            count=alert.count,
        )
    )
    surplus = (run.execute(select(func.count()).select_from(t.alerts)).scalar() or 0) - INDEX_ALERTS_MAX
    if surplus > 0:
        oldest = select(t.alerts.c.id).order_by(t.alerts.c.acked_by == "", t.alerts.c.last_s).limit(surplus)
        run.execute(delete(t.alerts).where(t.alerts.c.id.in_(oldest)))
