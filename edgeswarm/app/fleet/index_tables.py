"""The tables of the fleet's index: SQLite through SQLAlchemy Core.  A column more is a SCHEMA more.

`labels`, `grants`, `has` and `agents` stand beside `devices` so that a selector finds them by an index; `devices` holds
them once more as JSON, so that a page is one read of one table.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Column, Float, Index, Integer, MetaData, PrimaryKeyConstraint, String, Table

SCHEMA: Final = 1
"""PRAGMA user_version: a file of any other is set aside, and made anew."""
APPLICATION: Final = 0x65736964
"""PRAGMA application_id: "esid"."""

metadata: Final = MetaData()


def _text(name: str) -> Column[str]:
    return Column(name, String, nullable=False, server_default="")


def _number(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False, server_default="0")


devices: Final = Table(
    "devices",
    metadata,
    Column("device", String, primary_key=True),
    _text("role"),
    _number("number"),
    Column("state", String, nullable=False, server_default="never"),
    _text("said"),
    _number("seen_s"),
    _text("tier"),
    _text("profile"),
    _text("architecture"),
    _text("software"),
    _number("uptime_s"),
    _number("memory_bytes"),
    _number("memory_free_bytes"),
    _number("cpu_milli"),
    _number("cpu_used_milli"),
    _number("queue_rows"),
    Column("temperature_c", Float),
    _number("agents"),
    _number("agents_max"),
    _number("failed"),
    _number("restarts"),
    _number("speaks"),
    _number("roster_version"),
    _number("term"),
    _number("applied"),
    _number("stop_number"),
    _number("serial"),
    _number("not_before_s"),
    _number("not_after_s"),
    Column("labels", String, nullable=False, server_default="[]"),
    Column("grants", String, nullable=False, server_default="[]"),
    Column("delegates", String, nullable=False, server_default="[]"),
    Column("sensors", String, nullable=False, server_default="[]"),
    Column("metrics", String, nullable=False, server_default="{}"),
    Index("devices_state", "state"),
    sqlite_with_rowid=False,
)
labels: Final = Table(
    "labels",
    metadata,
    _text("device"),
    _text("key"),
    _text("value"),
    PrimaryKeyConstraint("device", "key"),
    Index("labels_key", "key", "value", "device"),
    sqlite_with_rowid=False,
)
grants: Final = Table(
    "grants",
    metadata,
    _text("device"),
    _text("capability"),
    _text("agent"),
    PrimaryKeyConstraint("device", "capability", "agent"),
    sqlite_with_rowid=False,
)
has: Final = Table(
    "has",
    metadata,
    _text("device"),
    _text("name"),
    PrimaryKeyConstraint("device", "name"),
    Index("has_name", "name", "device"),
    sqlite_with_rowid=False,
)
agents: Final = Table(
    "agents",
    metadata,
    _text("device"),
    _text("agent"),
    _text("artefact"),
    _text("state"),
    _number("epoch"),
    _number("restarts"),
    PrimaryKeyConstraint("device", "agent"),
    Index("agents_agent", "agent", "device"),
    sqlite_with_rowid=False,
)
reported: Final = Table(
    "reported",
    metadata,
    _text("device"),
    _text("agent"),
    _text("artefact"),
    _text("state"),
    _number("epoch"),
    _number("restarts"),
    PrimaryKeyConstraint("device", "agent"),
    sqlite_with_rowid=False,
)
events: Final = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at_s", Float, nullable=False),
    _text("device"),
    _text("event"),
    _text("severity"),
    _text("agent"),
    _text("text"),
    _text("cause"),
    Index("events_device", "device", "id"),
)
alerts: Final = Table(
    "alerts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("first_s", Float, nullable=False),
    Column("last_s", Float, nullable=False),
    _text("device"),
    _text("severity"),
    _text("code"),
    _text("agent"),
    _text("text"),
    _number("count"),
    _text("acked_by"),
    Column("acked_s", Float, nullable=False, server_default="0"),
    Index("alerts_open", "acked_by", "device", "code", "agent"),
)
reports: Final = Table(
    "reports",
    metadata,
    _text("device"),
    _text("rollout"),
    _text("agent"),
    _text("artefact"),
    _text("state"),
    _text("text"),
    Column("at_s", Float, nullable=False),
    PrimaryKeyConstraint("device", "rollout"),
    Index("reports_rollout", "rollout", "state"),
    sqlite_with_rowid=False,
)
