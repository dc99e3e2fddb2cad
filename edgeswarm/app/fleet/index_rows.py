"""What goes into the fleet's index, before it is a row: facts of a device, cleaned and bounded.  Pure, no database.

Texts of devices lose NUL (SQLite ends a text there) and what is past INDEX_TEXT_CHARS_MAX; whole numbers are cut to
what SQLite holds.  Times are the controller's clock: those of devices are hours off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from edgeswarm.limits import INDEX_METRICS_MAX, INDEX_TEXT_CHARS_MAX
from edgeswarm.wire import messages as msg
from edgeswarm.wire.roster import Member

SEVERITIES: Final = ("info", "warning", "error", "critical")
_BY_PRIORITY: Final = {"critical": "critical", "high": "warning"}
_INTEGER_MAX: Final = (1 << 63) - 1


def clean(text: str) -> str:
    if len(text) > INDEX_TEXT_CHARS_MAX:
        text = text[: INDEX_TEXT_CHARS_MAX - 3] + "..."
    return text.replace("\0", "?").encode("utf-8", "replace").decode()


def whole(number: int) -> int:
    return min(number, _INTEGER_MAX)


@dataclass(frozen=True, slots=True)
class MemberRow:
    """A device as the roster has it.  Dates: of its newest certificate, unix seconds."""

    device: str
    role: str
    number: int
    grants: tuple[str, ...]
    serial: int
    not_before_s: int
    not_after_s: int

    @classmethod
    def of(cls, member: Member) -> MemberRow:
        entry, certificate = member.entry, member.keys[-1].certificate
        return cls(
            entry.device,
            entry.role,
            entry.number,
            tuple(sorted(clean(one) for one in entry.capabilities)),
            whole(certificate.serial),
            whole(certificate.not_before_s),
            whole(certificate.not_after_s),
        )


@dataclass(frozen=True, slots=True)
class AgentRow:
    agent: str
    artefact: str
    state: str
    epoch: int
    restarts: int


def agent_rows(agents: Sequence[msg.RunningAgent]) -> tuple[AgentRow, ...]:
    """One a name: a device that says a name twice has its last word."""
    named = {
        one.agent: AgentRow(one.agent, one.artefact.hex(), one.state, whole(one.epoch), one.restarts) for one in agents
    }
    return tuple(named.values())


@dataclass(frozen=True, slots=True)
class HeardRow:
    """What a sign of life or a status says of now.  seen_s: 0 where it was retained, and proves no life."""

    device: str
    seen_s: int
    said: str
    facts: Mapping[str, Any]
    """Column -> value."""
    delegates: tuple[str, ...] | None = None
    sensors: tuple[str, ...] | None = None
    agents: tuple[AgentRow, ...] | None = None

    @classmethod
    def of_health(cls, device: str, health: msg.Health, now_s: int) -> HeardRow:
        facts = {**_load(health.load), **_known(health), "agents": health.agents}
        return cls(device, now_s, "", facts)

    @classmethod
    def of_status(cls, device: str, status: msg.DeviceStatus, now_s: int) -> HeardRow:
        has = status.capabilities
        agents = agent_rows(status.agents)
        facts = {
            **_load(status.load),
            **_known(status),
            "uptime_s": whole(status.uptime_s),
            "tier": has.tier,
            "profile": has.profile,
            "architecture": has.architecture,
            "software": clean(has.software),
            "memory_bytes": whole(has.memory_bytes),
            "cpu_milli": has.cpu_milli,
            "agents_max": has.agents_max,
            "speaks": has.speaks,
            "agents": len(agents),
            "failed": sum(one.state == "failed" for one in agents),
            "restarts": sum(one.restarts for one in agents),
        }
        return cls(device, now_s, status.state, facts, _names(has.delegates), _names(has.sensors), agents)

    def before(self, newer: HeardRow) -> HeardRow:
        """Both together, where they disagree the newer."""
        return HeardRow(
            self.device,
            max(self.seen_s, newer.seen_s),
            newer.said or self.said,
            {**self.facts, **newer.facts},
            self.delegates if newer.delegates is None else newer.delegates,
            self.sensors if newer.sensors is None else newer.sensors,
            self.agents if newer.agents is None else newer.agents,
        )


def _names(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted({clean(name) for name in names}))


def _load(load: msg.Load) -> dict[str, Any]:
    return {
        "cpu_used_milli": load.cpu_milli,
        "memory_free_bytes": whole(load.memory_free_bytes),
        "queue_rows": load.queue_rows,
        "temperature_c": load.temperature_c,
    }


def _known(said: msg.Health | msg.DeviceStatus) -> dict[str, int]:
    return {
        "roster_version": whole(said.roster_version),
        "term": whole(said.term),
        "applied": whole(said.applied),
        "stop_number": whole(said.stop_number),
    }


@dataclass(frozen=True, slots=True)
class EventRow:
    at_s: float
    device: str
    name: str
    severity: str = "info"
    agent: str = ""
    text: str = ""
    cause: str = ""

    def plain(self) -> dict[str, Any]:
        return {
            "at_s": self.at_s,
            "device": self.device,
            "event": self.name,
            "severity": self.severity,
            "agent": self.agent,
            "text": self.text,
            "cause": self.cause,
        }


@dataclass(frozen=True, slots=True)
class AlertRow:
    at_s: float
    device: str
    severity: str
    code: str
    text: str
    agent: str = ""
    count: int = 1

    def plain(self) -> dict[str, Any]:
        return {
            "at_s": self.at_s,
            "device": self.device,
            "severity": self.severity,
            "code": self.code,
            "agent": self.agent,
            "text": self.text,
            "count": self.count,
        }


@dataclass(frozen=True, slots=True)
class ReportRow:
    """How a device stands in a rollout."""

    device: str
    rollout: str
    agent: str
    artefact: str
    state: str
    at_s: float
    text: str = ""


def report_rows(device: str, said: msg.ReportedState, now_s: float) -> tuple[ReportRow, ...]:
    """How far each rollout has come on a device, as it says."""
    named = {
        one.rollout: ReportRow(device, one.rollout, one.agent, one.artefact.hex(), one.state, now_s, clean(one.why))
        for one in said.rollouts
    }
    return tuple(named.values())


def event_of(name: str, priority: str, sender: str, message: msg.Message, now_s: float) -> EventRow:
    """What a device tells of an event.  priority: the level of its topic."""
    severity = _BY_PRIORITY.get(priority, "info")
    match message:
        case msg.AgentLifecycle():
            if message.event == "failed":
                severity = "error"
            text = clean(f"{message.event}: {message.text}" if message.text else message.event)
            return EventRow(now_s, sender, name, severity, message.agent, text, clean(message.cause))
        case msg.Alert():
            text = clean(f"{message.code}: {message.text}")
            return EventRow(now_s, sender, name, message.severity, message.agent or "", text)
        case msg.ErrorReport():
            text = clean(f"task {message.ref.job}/{message.ref.task}: {message.code}: {message.text}")
            return EventRow(now_s, sender, name, "warning", "", text)
        case msg.AppMessage():
            return EventRow(now_s, sender, name, severity, "", f"{message.name}, {len(message.body)} bytes")
        case _:
            return EventRow(now_s, sender, name, severity)


def alert_of(name: str, sender: str, message: msg.Message, now_s: float) -> AlertRow:
    """Anything that comes as critical."""
    if isinstance(message, msg.Alert):
        text, code = clean(message.text), clean(message.code)
        return AlertRow(now_s, sender, message.severity, code, text, message.agent or "", message.count)
    event = event_of(name, "critical", sender, message, now_s)
    return AlertRow(now_s, sender, "critical", clean(name), event.text, event.agent)


def metrics_of(message: msg.Metrics) -> dict[str, float]:
    """The first INDEX_METRICS_MAX of them."""
    return {one.name: one.value for one in message.values[:INDEX_METRICS_MAX]}


_CHANGES: Final[dict[str, tuple[str, str]]] = {  # change of the replicated state -> event, severity
    "DeviceDown": ("device.lost", "warning"),
    "DeviceForgotten": ("device.forgotten", "info"),
    "Stopped": ("cell.stopped", "critical"),
    "Resumed": ("cell.resumed", "warning"),
    "Moved": ("agent.moved", "info"),
    "Unplaced": ("agent.unplaced", "warning"),
    "RolloutChanged": ("rollout.changed", "info"),
    "RootRotated": ("fleet.root_rotated", "warning"),
}


def event_of_change(change: Any, now_s: float) -> EventRow | None:
    """What operators hear of a change of the replicated state; None of most."""
    found = _CHANGES.get(type(change).__name__)
    if found is None:
        return None
    device, agent = str(getattr(change, "device", "") or ""), str(getattr(change, "agent", "") or "")
    names = [name for name in getattr(change, "__slots__", ()) if name not in ("device", "agent", "epoch")]
    text = ", ".join(f"{name} {getattr(change, name)}" for name in names)
    return EventRow(now_s, device, found[0], found[1], agent, clean(text))


@dataclass
class Batch:
    """What was heard since the last one.  members: all of them, where the roster changed."""

    members: dict[str, MemberRow] | None = None
    labels: dict[str, tuple[str, ...]] | None = None
    heard: dict[str, HeardRow] = field(default_factory=dict)
    reported: dict[str, tuple[AgentRow, ...]] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    events: list[EventRow] = field(default_factory=list)
    alerts: list[AlertRow] = field(default_factory=list)
    reports: dict[str, tuple[ReportRow, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return (
            self.members is not None
            or self.labels is not None
            or any((self.heard, self.reported, self.metrics, self.events, self.alerts, self.reports))
        )
