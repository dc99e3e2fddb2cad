"""What a supervisor says of itself: status, metrics, settings.  Reads, changes nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from edgeswarm import __version__, schema
from edgeswarm.app import delegation_rows, isolation, limits_of_use
from edgeswarm.app import metrics as metric
from edgeswarm.app.config import Settings
from edgeswarm.app.pump import AgentFlow
from edgeswarm.stream.pipeline import Outcome

if TYPE_CHECKING:
    from edgeswarm.app.supervisor import Supervisor

GAUGES = frozenset({"queued", "held", "flying", "in_flight", "again", "lost", "waiting", "readers"})
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def rss_bytes() -> int:
    """Resident memory of this process."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * PAGE_BYTES


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def outcome(found: Outcome) -> dict[str, Any]:
    decision = found.decision
    return {"label": decision.label, "score": decision.score, "flagged": decision.flagged, "values": list(found.output)}


def agent(supervisor: Supervisor, name: Any) -> dict[str, Any]:
    """One row of status: what the control plane and the data plane know of an agent."""
    entry = supervisor.node.table.agents[name]
    status, detail = supervisor.status.get(name, (entry.status.value, ""))
    flow: AgentFlow | None = supervisor.flows.flows.get(name)
    jail = supervisor.jails.get(entry.jail) if entry.jail is not None else None
    return {
        "name": name,
        "network": entry.plan.supervision.network,
        "version": supervisor.shelf.current(name).header.agent_version,
        "artefact": entry.plan.artefact,
        "publisher": entry.plan.publisher,
        "status": status,
        "detail": detail,
        "jail": entry.jail,
        "pid": jail.pid if jail is not None else None,
        "slot": flow.slot if flow is not None and flow.port is not None else None,
        "limits": limits_of_use.agent(supervisor, name),
        "restarts": entry.restarts_total,
        "faults": flow.faults if flow is not None else 0,
        "counters": flow.pipeline.tally() if flow is not None else {},
        "sources": supervisor.flows.life.source_counts(name),
        "sinks": [{"type": sink.kind, **sink.counts()} for sink in flow.sinks] if flow is not None else [],
        "delegate": supervisor.delegation.row(name),
        "latency": flow.latency.summary() if flow is not None else None,
        "last": outcome(flow.last) if flow is not None and flow.last is not None else None,
    }


def status(supervisor: Supervisor) -> dict[str, Any]:
    """The answer of the op `status`."""
    agents = [agent(supervisor, name) for name in supervisor.node.table.agents]
    jails = [
        {
            "jail": number,
            "pid": jail.pid,
            "policy": supervisor.node.table.jails[number].policy,
            "agents": list(supervisor.node.table.jails[number].agents),
            "memory_bytes": jail.memory_bytes(),
            "cpu_seconds": cpu_seconds(jail.pid),
            "in_flight": jail.in_flight,
            "limits": limits_of_use.jail(supervisor, jail),
        }
        for number, jail in supervisor.jails.items()
        if number in supervisor.node.table.jails
    ]
    keys = ("rows_in", "decisions", "dropped", "rows_set_aside", "lost")
    host = supervisor.host if supervisor.host and supervisor.host.layers else None  # None while it starts
    return {
        "version": __version__,
        "device": supervisor.settings.device,
        "profile": supervisor.settings.profile_name,
        "pid": os.getpid(),
        "tier": host.tier if host is not None else None,
        "degraded": isolation.degraded(host.tier, host.layers) if host is not None else "",
        "uptime_s": round(time.time() - supervisor.started_at, 3),
        "rss_bytes": rss_bytes(),
        "mechanisms": limits_of_use.mechanisms(supervisor),
        "volumes": limits_of_use.volumes(supervisor),
        "agents": agents,
        "jails": jails,
        "totals": {key: sum(row["counters"].get(key, 0) for row in agents) for key in keys},
    }


def metrics(supervisor: Supervisor) -> str:
    """Prometheus text: counters of every agent, memory, latency histograms."""
    row = status(supervisor)
    cpu = os.times()

    def samples() -> Iterator[metric.Sample]:
        yield "edgeswarm_supervisor_memory_bytes", "gauge", {}, row["rss_bytes"]
        yield "edgeswarm_supervisor_cpu_seconds_total", "counter", {}, cpu.user + cpu.system
        for one in row["jails"]:
            yield "edgeswarm_jail_memory_bytes", "gauge", {"jail": str(one["jail"])}, one["memory_bytes"]
        for one in row["jails"]:
            yield "edgeswarm_jail_cpu_seconds_total", "counter", {"jail": str(one["jail"])}, one["cpu_seconds"]
        for one in row["agents"]:
            yield "edgeswarm_agent_running", "gauge", {"agent": one["name"]}, float(one["status"] == "running")
        for one in row["agents"]:
            yield "edgeswarm_agent_restarts_total", "counter", {"agent": one["name"]}, one["restarts"]
        yield from limits_of_use.samples(row)
        yield from delegation_rows.samples(row["agents"])
        yield from _families("edgeswarm_agent_", [({"agent": one["name"]}, one["counters"]) for one in row["agents"]])
        for part in ("source", "sink"):
            rows = [
                ({"agent": one["name"], part: f"{index}:{counts['type']}"}, counts)
                for one in row["agents"]
                for index, counts in enumerate(one[f"{part}s"])
            ]
            yield from _families(f"edgeswarm_{part}_", rows)
        if supervisor.swarm_samples is not None:
            yield from supervisor.swarm_samples()

    def histograms() -> Iterator[tuple[str, dict[str, str], metric.Histogram]]:
        for name, flow in supervisor.flows.flows.items():
            yield "edgeswarm_agent_sample_to_decision_seconds", {"agent": name}, flow.latency

    return metric.prometheus(samples(), histograms())


def _families(prefix: str, rows: list[tuple[dict[str, str], dict[str, Any]]]) -> Iterator[metric.Sample]:
    """Every number of the rows, one family after the other; a table of numbers has its keys as the label `kind`."""
    for key in sorted({key for _, counts in rows for key in counts}):
        kind = "gauge" if key in GAUGES else "counter"
        name = prefix + key + ("_total" if kind == "counter" else "")
        for labels, counts in rows:
            value = counts.get(key)
            if isinstance(value, int):
                yield name, kind, labels, value
            elif isinstance(value, dict):
                for which, number in value.items():
                    yield name, kind, {**labels, "kind": which}, number


def config(settings: Settings) -> dict[str, dict[str, Any]]:
    """dotted key -> its value and where it came from."""
    flat: dict[str, Any] = {}
    _flatten({**schema.encode(settings.profile), "agents": [], **schema.encode(settings.place)}, "", flat)
    return {key: {"value": value, "origin": settings.origin.get(key, "default")} for key, value in sorted(flat.items())}


def _flatten(tree: dict[str, Any], at: str, flat: dict[str, Any]) -> None:
    for key, value in tree.items():
        path = f"{at}.{key}" if at else key
        if isinstance(value, dict):
            _flatten(value, path, flat)
        else:
            flat[path] = value
