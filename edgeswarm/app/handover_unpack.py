"""A supervisor comes: it unpacks what the one before it has packed, on copies, and begins nothing before `go_live`.

So an error in `adopt` costs nobody anything: the descriptors, and what waits behind them, are as they were.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from edgeswarm.app.lifecycle import Inlet
from edgeswarm.app.pump import AgentFlow, Reader
from edgeswarm.core import effects as do
from edgeswarm.core import handover as core
from edgeswarm.core.events import AgentPlan
from edgeswarm.drivers.handover import Unpacker
from edgeswarm.drivers.jails import JailExit, Reply
from edgeswarm.drivers.sinks import Sink
from edgeswarm.drivers.sources import Source
from edgeswarm.drivers.store import Store
from edgeswarm.errors import LocalError
from edgeswarm.ids import AgentName, Cause, JailId
from edgeswarm.stream import handover as stream

if TYPE_CHECKING:
    from edgeswarm.app.supervisor import Supervisor

State = Mapping[str, Any]


class Arrival:
    """One supervisor taking over.  `adopt`, then `go_live`."""

    def __init__(self, supervisor: Supervisor, unpacker: Unpacker) -> None:
        self._sup = supervisor
        self._unpacker = unpacker
        self._sources: list[tuple[AgentFlow, int, Source]] = []
        self._timers: list[do.ArmTimer] = []

    async def adopt(self, state: State) -> None:
        """In place of `Supervisor.start`.  Raises LocalError, RemoteError, JailError, OSError, and whatever a state
        that does not fit raises."""
        sup = self._sup
        if state["device"] != sup.settings.device:
            raise LocalError(f"hand-over: expected device {sup.settings.device}, found {state['device']}")
        sup.store = await Store.open(sup.settings.state_dir / "edgeswarm.db", lock=self._unpacker.fd(state["lock"]))
        sup.settings.runtime_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        sup.started_at, sup._cause = state["started_at"], state["cause"]
        plans: dict[AgentName, AgentPlan] = {}
        for name, agent in state["node"]["agents"]:
            artefact = sup.shelf.load_handed(name, agent["artefact"], state["publishers"][name])
            sup.shelf.put(artefact)
            plans[artefact.plan.name] = artefact.plan
        core.unpack(sup.node, state["node"], plans)
        sup.status = {AgentName(name): (status, detail) for name, (status, detail) in state["status"].items()}
        sup._guilty, sup._beyond_repair = dict(state["guilty"]), dict(state["beyond_repair"])
        self._timers = [do.ArmTimer((kind, key), at_ms, Cause(cause)) for kind, key, at_ms, cause in state["timers"]]
        self._adopt_host(state)
        for packed in state["flows"]:
            self._adopt_flow(packed)
        self._join(state)
        sup.log.ring.lines.extendleft(reversed(state["log"]))

    def _adopt_host(self, state: State) -> None:
        sup = self._sup
        numbers = {host_id: JailId(number) for number, host_id in state["jails"].items()}

        def replied(host_id: JailId, reply: Reply) -> None:
            sup.flows.reply(numbers[host_id], reply)

        def exited(host_id: JailId, exit_: JailExit) -> None:
            sup._jail_exited(numbers[host_id], exit_)

        sup.host = sup.make_host()
        for jail in sup.host.adopt(state["host"], self._unpacker, on_reply=replied, on_exit=exited):
            sup.jails[numbers[jail.id]] = jail
        if sup.host.cache.binding == sup.host.binding_here():  # else other code will be compiled, and checked
            sup.shelf.golden_passed.update(state["golden"])

    def _adopt_flow(self, packed: State) -> None:
        sup, flows = self._sup, self._sup.flows
        name = AgentName(packed["name"])
        header = sup.shelf.current(name).header
        flow = flows.flows[name] = flows.make_flow(name, header)
        stream.unpack(flow.pipeline, packed["pipeline"])
        flow.silent = "send_output" not in header.workflows.execution
        flow.paused, flow.probing = packed["paused"]
        flow.faults = packed["faults"]
        flow.latency.count, flow.latency.sum_ns, flow.latency.buckets = packed["latency"]
        if packed["seat"] is not None:
            number, slot = packed["seat"]
            flows._sit(flow, JailId(number), slot)
            flow.port, flow.slot = sup.jails[JailId(number)], slot
        if packed["open"]:
            self._adopt_ends(flow, packed)

    def _adopt_ends(self, flow: AgentFlow, packed: State) -> None:
        """Its sinks and sources."""
        life, header = self._sup.flows.life, self._sup.shelf.current(flow.name).header
        for spec, parcel in zip(header.wiring.sinks, packed["sinks"], strict=True):
            sink = life._make_sink(flow.name, spec, header, begins=False)
            sink.unpack(parcel, self._unpacker)
            flow.sinks.append(sink)
        life._inlets[flow.name] = {}
        sources = life._make_sources(flow.name, header)
        for index, one in packed["sources"].items():
            source = sources.get(index)
            if source is None:  # of another device: it comes with the cell
                life.parcels[(flow.name, index)] = one["parcel"]
                continue
            source.unpack(one["parcel"], self._unpacker)
            if one["over"]:
                life._inlets[flow.name][index] = Inlet(source, asyncio.ensure_future(asyncio.sleep(0)))
            else:
                self._sources.append((flow, index, source))

    def _join(self, state: State) -> None:
        flows = self._sup.flows
        flows.joins.rejoin_remote(*flows.flows)
        for packed in state["flows"]:
            flow = flows.flows[AgentName(packed["name"])]
            for reader, index, row, at_ns in packed["held"]:
                flow._held.append((Reader(flows.flows[AgentName(reader)], index), tuple(row), at_ns))

    # --- from here on nothing may fail -----------------------------------------------------------------------------

    def go_live(self) -> None:
        """Listen to the jails, run the sources, write to the sinks, arm the timers."""
        sup = self._sup
        assert sup.host is not None
        sup._loop_task = asyncio.create_task(sup._run())
        for flow in sup.flows.flows.values():
            for sink in flow.sinks:
                cast("Sink", sink).begin()
        sup.host.listen(on=True)
        for timer in self._timers:
            sup._arm(timer)
        for flow, index, source in self._sources:
            sup.flows.life._start_source(flow, index, source, None)
        for flow in sup.flows.flows.values():
            sup._task(sup.flows.life.count_frames(flow.name))
            sup.flows.delegate_handed(flow)
            flow.send()
