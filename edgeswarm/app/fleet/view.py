"""What an operator may ask of the fleet: devices, one device, its twin, events, alerts, labels, logs.

Arguments are checked here; answers are plain values.  What changes something goes through the log (labels), or stays
in the index (acknowledged alerts).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import edgeswarm
from edgeswarm.app.control_ops import argument
from edgeswarm.app.fleet import index_read
from edgeswarm.app.fleet.alerts import Alerts
from edgeswarm.app.fleet.index import Index
from edgeswarm.app.fleet.index_rows import SEVERITIES, EventRow
from edgeswarm.app.swarm import log_tail
from edgeswarm.app.swarm.peer import CallError
from edgeswarm.core import selector as sel
from edgeswarm.core.cell import commands as cmd
from edgeswarm.errors import EdgeSwarmError, LocalError, RemoteError
from edgeswarm.limits import INDEX_PAGE_REMOTE_ROWS_MAX, INDEX_PAGE_ROWS_MAX, LABELS_PER_DEVICE_MAX, LOG_TAIL_LINES_MAX
from edgeswarm.wire import codec
from edgeswarm.wire.topics import is_device

if TYPE_CHECKING:
    from edgeswarm.app.fleet.controller import Controller

LOCAL = "local"  # app/fleet/controller.py: the control socket of this machine
LOOK_S = 1.5
LOGS_S = 10.0
RECENT = 10
ACKS_MAX = 1_000
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,62}")
_VALUE = re.compile(r"[^\x00-\x1f\x7f]{0,63}")


async def start(controller: Controller, *, on_alert: str = "") -> list[Callable[[], Awaitable[None]]]:
    """The index and what asks it; what closes them, in this order.  Raises ConfigError, LocalError."""
    alerts = Alerts(controller.log, on_alert)
    index = Index(controller)
    index.on_alert.append(alerts.heard)
    await index.start()
    controller.index = index
    alerts.start()
    register(controller)
    return [index.close, alerts.close]


def register(controller: Controller) -> None:
    """controller.index: started."""
    view = View(controller)
    controller.one |= {
        "devices": view.devices,
        "device": view.device,
        "desired": view.desired,
        "reported": view.reported,
        "events": view.events,
        "alerts": view.alerts,
        "alerts.ack": view.acknowledge,
        "labels.get": view.labels,
        "labels.set": view.set_labels,
        "logs": view.logs,
        "top": view.top,
        "support": view.support,
    }
    controller.many |= {"events.follow": view.follow_events}
    controller.needs |= {"labels.set": "deploy"}  # a label decides where a rollout goes


class View:
    def __init__(self, controller: Controller) -> None:
        self._controller, self._node = controller, controller.node
        self._index: Index = controller.index

    # --- devices ------------------------------------------------------------------------------------------------------

    async def devices(self, args: dict[str, Any], who: str) -> Any:
        """A page: selector, seed, sort, descending, limit, cursor."""
        selector = sel.parse(argument(args, "selector", str, "all"))
        sort = argument(args, "sort", str, "device")
        if sort not in index_read.SORTS:
            raise RemoteError(f"devices: sort: expected one of {', '.join(index_read.SORTS)}, found {sort[:80]!r}")
        cursor = argument(args, "cursor", str, "")
        if not cursor:
            await self._index.flush()  # who has just labelled a device finds it by that
        return await self._index.read(
            index_read.page,
            selector,
            seed=argument(args, "seed", str, ""),
            sort=sort,
            descending=argument(args, "descending", bool, False),
            limit=_count(args, "limit", _rows_max(who), _rows_max(who)),
            cursor=cursor,
        )

    async def device(self, args: dict[str, Any], who: str) -> Any:
        """Everything about one."""
        name = self._named(args)
        await self._index.flush()
        row = await self._index.read(index_read.device, name)
        if row is None:
            raise LocalError(f"device {name}: it is in the roster since a moment; ask again")
        state = self._node.replica.state
        known = state.devices.get(name)
        row["cell"] = (
            None
            if known is None
            else {"alive": known.alive, "epoch": known.epoch, "drained": known.drained, "boot": known.boot}
        )
        row["twin"] = self._twin(name, row)
        row["events"] = (await self._index.read(index_read.events, device=name, limit=RECENT))["events"]
        row["alerts"] = (await self._index.read(index_read.alerts, device=name, acknowledged=True, limit=RECENT))[
            "alerts"
        ]
        return row

    async def desired(self, args: dict[str, Any], who: str) -> Any:
        """What the log wants on a device."""
        name = self._named(args)
        fresh = await self._fresh()
        return {"device": name, "agents": self._wanted(name), "index": self._node.replica.index, "stale": not fresh}

    async def reported(self, args: dict[str, Any], who: str) -> Any:
        """What a device said that it has, and how that differs from what is wanted."""
        name = self._named(args)
        await self._index.flush()
        row = await self._index.read(index_read.device, name)
        if row is None:
            raise LocalError(f"device {name}: it is in the roster since a moment; ask again")
        twin = self._twin(name, row)
        keys = ("state", "seen_s", "applied")
        return {
            "device": name,
            "agents": twin["reported"],
            "differs": twin["differs"],
            **{key: row[key] for key in keys},
        }

    def _wanted(self, name: str) -> list[dict[str, Any]]:
        """By agent.  A rollout says which artefact; the cell says what is placed here."""
        state = self._node.replica.state
        found: dict[str, dict[str, Any]] = {}
        for agent in state.agents_on(name):
            placed = state.agents[agent]
            found[agent] = {"agent": agent, "artefact": placed.spec.artefact.hex(), "by": "cell", "epoch": placed.epoch}
        for agent, artefact, rollout in state.desired(name):
            found[agent] = {"agent": agent, "artefact": artefact.hex(), "by": f"rollout {rollout}", "epoch": 0}
        return [found[agent] for agent in sorted(found)]

    def _twin(self, name: str, row: dict[str, Any]) -> dict[str, Any]:
        wanted, has = self._wanted(name), row["reported"] or row["running"]
        return {"desired": wanted, "reported": has, "differs": differences(wanted, has)}

    def _named(self, args: dict[str, Any]) -> str:
        name = argument(args, "device", str)
        if not is_device(name) or self._node.rosters.current.member(name) is None:
            raise LocalError(f"device {name[:80]!r}: not in the roster of this fleet")
        return name

    async def _fresh(self) -> bool:
        """Wait until this copy of the log holds what was committed before; False where nobody can say."""
        try:
            async with asyncio.timeout(LOOK_S):
                await self._node.barrier()
        except (EdgeSwarmError, TimeoutError):
            return False
        return True

    # --- what happened ------------------------------------------------------------------------------------------------

    async def events(self, args: dict[str, Any], who: str) -> Any:
        """device, severity (that and worse), event, before, limit: newest first."""
        await self._index.flush()
        return await self._index.read(
            index_read.events,
            device=argument(args, "device", str, ""),
            severities=_severities(args),
            event=argument(args, "event", str, ""),
            before=max(0, argument(args, "before", int, 0)),
            limit=_count(args, "limit", 100, _rows_max(who)),
        )

    async def follow_events(self, args: dict[str, Any], who: str) -> AsyncIterator[Any]:
        """device, severity, event: from now on."""
        device, event = argument(args, "device", str, ""), argument(args, "event", str, "")
        severities = _severities(args)

        def wanted(row: EventRow) -> bool:
            return (
                (not device or row.device == device)
                and (not event or row.name == event)
                and (not severities or row.severity in severities)
            )

        async with aclosing(self._index.follow(wanted)) as rows:
            async for row in rows:
                yield row.plain()

    async def alerts(self, args: dict[str, Any], who: str) -> Any:
        """device, all (acknowledged ones too), before, limit: newest first."""
        await self._index.flush()
        return await self._index.read(
            index_read.alerts,
            device=argument(args, "device", str, ""),
            acknowledged=argument(args, "all", bool, False),
            before=max(0, argument(args, "before", int, 0)),
            limit=_count(args, "limit", 100, _rows_max(who)),
        )

    async def acknowledge(self, args: dict[str, Any], who: str) -> Any:
        """ids of alerts."""
        ids = argument(args, "ids", list)
        if not 0 < len(ids) <= ACKS_MAX or not all(type(one) is int and 0 < one < 1 << 63 for one in ids):
            raise RemoteError(f"alerts: expected 1 to {ACKS_MAX} numbers of alerts")
        done = await self._index.acknowledge(ids, who)
        self._note("alerts.ack", who, f"alerts {' '.join(map(str, done))}"[:200])
        return {"acknowledged": done, "open": (await self._index.read(index_read.alerts, limit=1))["open"]}

    def _note(self, action: str, who: str, target: str) -> None:
        if self._controller.audit is not None:
            self._controller.audit.record(f"fleet.{action}", who=who, target=target)

    async def top(self, args: dict[str, Any], who: str) -> Any:
        """Totals, and the devices that one looks at first: busiest (how many), minutes of events."""
        minutes = max(1, min(10_080, argument(args, "minutes", int, 15)))
        busiest = _count(args, "busiest", 10, 100)
        found = await self._index.summarise(minutes * 60.0, busiest)
        node = self._node
        leader = node.peer.leader
        return {
            **found,
            "fleet": node.config.fleet,
            "cell": node.config.cell,
            "leader": None if leader is None else leader.device,
            "connected": node.transport.is_connected,
            "index": dict(self._index.counts),
        }

    # --- labels -------------------------------------------------------------------------------------------------------

    async def labels(self, args: dict[str, Any], who: str) -> Any:
        name = self._named(args)
        fresh = await self._fresh()
        return {"device": name, "labels": list(self._node.replica.state.labels.get(name, ())), "stale": not fresh}

    async def set_labels(self, args: dict[str, Any], who: str) -> Any:
        """set: "key=value" each; remove: keys."""
        name, changes, gone = self._named(args), argument(args, "set", list, []), argument(args, "remove", list, [])
        if not await self._fresh():
            raise RemoteError("labels: no leader answers: what the log holds is not known, so nothing is changed")
        before = self._node.replica.state.labels.get(name, ())
        now = dict(one.partition("=")[::2] for one in before)
        for one in changes:
            key, sign, value = one.partition("=") if isinstance(one, str) else ("", "", "")
            if not sign or not _KEY.fullmatch(key) or not _VALUE.fullmatch(value):
                raise LocalError(
                    f"label {str(one)[:80]!r}: expected key=value; a key is up to 63 of A-Z a-z 0-9 _ . / -"
                )
            now[key] = value
        for key in gone:
            if not isinstance(key, str) or key not in now:
                raise LocalError(f"label {str(key)[:80]!r}: device {name} has none of that name")
            del now[key]
        if len(now) > LABELS_PER_DEVICE_MAX:
            raise LocalError(f"labels: at most {LABELS_PER_DEVICE_MAX} on one device, found {len(now)}")
        labels = tuple(sorted(f"{key}={value}" for key, value in now.items()))
        if labels != tuple(before):
            await self._node.propose(cmd.encode(cmd.SetLabels(name, labels, who)))
        return {"device": name, "labels": list(labels), "stale": False}

    # --- logs and support ---------------------------------------------------------------------------------------------

    async def logs(self, args: dict[str, Any], who: str) -> Any:
        """The last lines of a device's log, asked of it now."""
        name, count = self._named(args), _count(args, "lines", 100, LOG_TAIL_LINES_MAX)
        node = self._node
        if name == node.config.device:
            return {"device": name, "lines": log_tail.last(node.log, count)}
        try:
            body = await node.peer.call(name, log_tail.METHOD, codec.dumps([count]), deadline_s=LOGS_S)
        except CallError as error:
            if error.code == "unknown-method":
                raise RemoteError("its software is too old to show its log", who=name) from None
            raise
        lines = codec.loads(body, who=name)
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            raise RemoteError(f"{log_tail.METHOD}: expected a list of lines", who=name)
        return {"device": name, "lines": lines[-count:]}

    async def support(self, args: dict[str, Any], who: str) -> Any:
        """What a support bundle holds of the controller while it runs: no key, no payload."""
        node = self._node
        return {
            "version": edgeswarm.__version__,
            "top": await self.top({"busiest": 20, "minutes": 1_440}, who),
            "transport": node.transport.stats(),
            "refused": dict(node.post.refused),
            "events": (await self.events({"limit": 500, "severity": "warning"}, who))["events"],
            "alerts": (await self.alerts({"limit": 200, "all": True}, who))["alerts"],
            "log": log_tail.last(node.log, 1_000),
            "rollouts": [
                {
                    "rollout": one.id,
                    "agent": one.agent,
                    "state": one.state,
                    "wave": one.wave,
                    "devices": len(one.devices),
                }
                for one in node.replica.state.rollouts.values()
            ],
        }


def differences(wanted: list[dict[str, Any]], has: list[dict[str, Any]]) -> list[str]:
    """One line for each agent that is not as it is wanted; agents that nobody asked for are the device's own."""
    found = []
    there = {row["agent"]: row for row in has}
    for row in wanted:
        now = there.get(row["agent"])
        if now is None:
            found.append(f"{row['agent']}: wanted, not there")
        elif now["artefact"] != row["artefact"]:
            found.append(f"{row['agent']}: wants {row['artefact'][:12]}, has {now['artefact'][:12]}")
        elif now["state"] != "ready":
            found.append(f"{row['agent']}: {now['state']}")
    return found


def _rows_max(who: str) -> int:
    return INDEX_PAGE_ROWS_MAX if who == LOCAL else INDEX_PAGE_REMOTE_ROWS_MAX


def _count(args: dict[str, Any], key: str, default: int, most: int) -> int:
    return max(1, min(most, argument(args, key, int, default)))


def _severities(args: dict[str, Any]) -> tuple[str, ...]:
    """That one and worse; empty for all."""
    least = argument(args, "severity", str, "info")
    if least not in SEVERITIES:
        raise RemoteError(f"severity: expected one of {', '.join(SEVERITIES)}, found {least[:80]!r}")
    return () if least == SEVERITIES[0] else SEVERITIES[SEVERITIES.index(least) :]
