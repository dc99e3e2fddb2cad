"""Every agent's flow on this device, and how they are joined: to each other, and to slots of jails.

The supervisor's effects that concern the data plane end here.  Takes no decision: when to attach, pause or switch is
the node's, what becomes of a frame is the pipeline's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgeswarm.agentfile.header import Header
from edgeswarm.agentfile.sections import first_not_finite
from edgeswarm.agentfile.wiring import AgentSource, source_width
from edgeswarm.app.delegated import DelegatedPort
from edgeswarm.app.joins import Joins
from edgeswarm.app.lifecycle import Lifecycle
from edgeswarm.app.pump import AgentFlow, Port
from edgeswarm.app.shelf import Artefact
from edgeswarm.app.space import FRAMES, WEIGHTS
from edgeswarm.app.turns import Keepers
from edgeswarm.compile.path_i8 import check_path
from edgeswarm.core import events as ev
from edgeswarm.core.breaker import State as BreakerState
from edgeswarm.drivers import checkpoints
from edgeswarm.drivers.jails import Jail, JailExit, Reply
from edgeswarm.drivers.quota import AGENT_DATA, QuotaError
from edgeswarm.errors import ConfigError, EdgeSwarmError, InputError, LimitError, LocalError
from edgeswarm.ids import AgentName, JailId
from edgeswarm.jail.frames import FaultCode, Kind
from edgeswarm.limits import DRAIN_S_MAX
from edgeswarm.stream import graph
from edgeswarm.stream.bucket import bandwidth
from edgeswarm.stream.flight import SetAside
from edgeswarm.stream.pipeline import Pipeline
from edgeswarm.stream.score import emit_width

if TYPE_CHECKING:
    from edgeswarm.app.supervisor import Supervisor


def row_width(header: Header) -> int:
    """Values of one joined row of an agent."""
    return (header.neural_config.input_size - header.memory.width) // header.wiring.window.rows


def stream_width(header: Header) -> int:
    """Values of one row of an agent's own stream."""
    return emit_width(header.wiring.emit, width=row_width(header), output_width=header.payload_width)


def upstreams(header: Header) -> tuple[str, ...]:
    """The agents of this device whose streams it reads."""
    sources = header.wiring.sources
    return tuple(source.agent for source in sources if isinstance(source, AgentSource) and not source.device)


def source_widths(header: Header, known: Mapping[str, Header]) -> list[int]:
    """Width of each source.  Raises ConfigError for an agent that is not there."""
    widths = []
    for source in header.wiring.sources:
        width = source_width(source)
        if width is None:
            assert isinstance(source, AgentSource)
            if source.agent not in known:
                raise ConfigError(f"agent {header.name}: its source agent {source.agent!r} does not exist")
            width = stream_width(known[source.agent])
        widths.append(width)
    return widths


class Flows:
    """Flows by agent name; which flow sits in which jail and slot."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._sup = supervisor
        self.flows: dict[AgentName, AgentFlow] = {}
        self._seats: dict[tuple[JailId, int], AgentFlow] = {}
        self._keepers = Keepers(lambda jail_id: supervisor.delegation.cpu_ns(jail_id))
        self.life = Lifecycle(supervisor, remake=self._remake)
        self.joins = Joins(supervisor, self.flows, self.life)

    # --- the graph ------------------------------------------------------------------------------------------------

    def check_graph(self, new: Sequence[Header]) -> None:
        """Agents known here and `new` together, before any of them is deployed or swapped.

        Raises ConfigError for a circle (with its path), an unknown upstream agent, or rows of the wrong width.
        """
        known = {header.name: header for header in [*self._sup.shelf.known(), *new]}
        names = {header.name for header in new}
        # one that failed long ago for want of its upstream stops nobody else
        wanted = {name for header in known.values() if header.name not in names for name in upstreams(header)}
        graph.check({name: upstreams(header) for name, header in known.items()}, known=wanted)
        stdin = [name for name, header in known.items() if any(s.type == "jsonl" for s in header.wiring.sources)]
        if len(stdin) > 1:
            raise ConfigError(f"standard input (source jsonl) has one reader, found agents {', '.join(stdin)}")
        for header in known.values():
            if header.wiring.sources and (header.name in names or names & set(upstreams(header))):
                self.make_pipeline(header, known)

    def make_pipeline(self, header: Header, known: Mapping[str, Header]) -> Pipeline:
        name = header.name
        return Pipeline(
            header.wiring,
            source_widths=source_widths(header, known),
            frame_width=header.neural_config.input_size - header.memory.width,
            output_width=header.payload_width,
            memory_width=header.memory.width,
            name=name,
            on_event=self.life.on_event(AgentName(name)),
            on_space=lambda _index: self._space(AgentName(name)),
        )

    def _remake(self, name: AgentName) -> Pipeline:
        header = self._sup.shelf.current(name).header
        return self.make_pipeline(header, {h.name: h for h in self._sup.shelf.known()})

    def _space(self, name: AgentName) -> None:
        """Not at once: the pipeline is in the middle of a call."""
        flow = self.flows.get(name)
        if flow is not None:
            asyncio.get_running_loop().call_soon(flow.has_space)

    # --- opening and closing --------------------------------------------------------------------------------------

    async def open(self, name: AgentName, artefact: Artefact) -> None:
        """A flow with its state, sources and sinks, joined to those of its neighbours."""
        header = artefact.header
        flow = self.make_flow(name, header)
        old = self.flows.get(name)
        if old is not None:
            self.joins.unjoin(old)
            flow.inherit(old)
        self.flows[name] = flow
        await self.life.open(flow, artefact)
        self.life.start_sources(flow, header)
        self.joins.join(flow)
        if self._sup.remote is not None:
            self._sup.remote.opened(flow, header)

    def make_flow(self, name: AgentName, header: Header) -> AgentFlow:
        """A flow without anything around it."""
        allowance = self._sup.shelf.current(name).allowance
        return AgentFlow(
            name=name,
            pipeline=self.make_pipeline(header, {h.name: h for h in self._sup.shelf.known()}),
            on_fault=self._fault,
            on_probed=self._probed,
            on_set_aside=self._set_aside,
            version=header.agent_version,
            bandwidth=bandwidth(allowance.bandwidth_mbps, time.monotonic_ns()),
        )

    async def close(self, name: AgentName) -> None:
        """Answer what is in flight, save the state, close sources and sinks."""
        flow = self.flows.get(name)
        if flow is not None:
            await self.life.close(flow, self._sup.shelf.current(name).header)
            self.detach(name, suspected=False)
            flow.give_up("it was stopped before it answered")
            self.joins.leave_writers(flow)
            if self._sup.remote is not None:
                self._sup.remote.closed(flow)

    async def checkpoint(self, name: AgentName) -> None:
        if name in self.flows:
            await self.life.checkpoint(self.flows[name])

    def rejoin(self, name: AgentName) -> None:
        """Another version of it may read other streams, and publish its own otherwise."""
        self.joins.rejoin(self.flows[name])
        if self._sup.remote is not None:
            self._sup.remote.opened(self.flows[name], self._sup.shelf.current(name).header)

    def remote_came(self) -> None:
        """This device came into a cell: sources and streams of open agents that wait for that."""
        for name, flow in self.flows.items():
            if self._sup.remote is not None and self.life.is_open(name):
                header = self._sup.shelf.current(name).header
                self.life.start_remote(flow, header)
                self._sup.remote.opened(flow, header)
        self.joins.rejoin_remote()

    def forget(self, name: AgentName) -> None:
        """The agent is removed for good."""
        flow = self.flows.pop(name, None)
        if flow is not None:
            self.joins.unjoin(flow)
            flow.pipeline.abandon()
            flow.end_followers()
            self.joins.forget(name)
        self.life.space.forget(name)

    async def end(self) -> None:
        """The supervisor ends: nothing more will come of any agent."""
        for flow in self.flows.values():
            flow.end_followers()
        await self.life.closed()

    # --- jails ----------------------------------------------------------------------------------------------------

    def attach(self, name: AgentName, jail_id: JailId, jail: Port | None, slot: int) -> None:
        flow = self.flows.get(name)
        if flow is None or jail is None:
            return  # the jail's exit is in the inbox already
        if self._seats.get((jail_id, slot)) is flow and flow.port is not None:
            return  # a swap has done it
        self._sit(flow, jail_id, slot)
        flow.attach(jail, slot)
        self._sup.delegation.attached(flow, self._sup.shelf.current(name), jail_id, jail, slot)

    def delegate_handed(self, flow: AgentFlow) -> None:
        """An agent that came with a hand-over computes on its kernel; a delegate may take over again."""
        for (jail_id, slot), seated in self._seats.items():
            if seated is flow and flow.port is not None:
                artefact = self._sup.shelf.current(flow.name)
                self._sup.delegation.attached(flow, artefact, jail_id, flow.port, slot)

    def detach(self, name: AgentName, *, suspected: bool, last_try: bool = False) -> None:
        flow = self.flows.get(name)
        if flow is not None:
            self._sup.delegation.detached(name)
            self._rise(flow)
            flow.detach(suspected=suspected, last_try=last_try)

    def jail_died(self, jail_id: JailId) -> None:
        """Its end is in the inbox; whoever waits for its answers need not any more."""
        for (number, _), flow in self._seats.items():
            if number == jail_id:
                flow.jail_died()

    def _sit(self, flow: AgentFlow, jail_id: JailId, slot: int) -> None:
        self._rise(flow)
        self._seats[(jail_id, slot)] = flow
        self._keepers.sit(flow, jail_id, self._sup.jails.get(jail_id), slot)

    def _rise(self, flow: AgentFlow) -> None:
        for seat in [seat for seat, other in self._seats.items() if other is flow]:
            del self._seats[seat]
            self._keepers.rise(flow, *seat)

    async def switch(self, name: AgentName, artefact: Artefact, jail_id: JailId, jail: Jail, slot: int) -> None:
        """Answer what is in flight in the old jail, then go on with the new version in its own.

        Raises LocalError, with the old version going on, when the old one does not come to rest or the new one cannot
        take over from it.
        """
        flow = self.flows[name]
        flow.switching = True
        try:
            if not await flow.drain(DRAIN_S_MAX):
                raise LocalError(f"agent {name}: frames still unanswered after {DRAIN_S_MAX:g} s")
            if not jail.alive:
                raise LocalError(f"agent {name}: the new version's jail ended before it was used")
            known = {header.name: header for header in self._sup.shelf.known()}
            pipeline = self.make_pipeline(artefact.header, {**known, name: artefact.header})
            if pipeline.memory and len(pipeline.memory) == len(flow.pipeline.memory):
                await jail.set_memory(slot, flow.pipeline.memory)
            last = self._sup.shelf.current(name).header
            await self.life.rewire(flow, last, artefact.header, lambda: pipeline.adopt(flow.pipeline))
            if flow.bandwidth is not None:
                flow.bandwidth.become(bandwidth(artefact.allowance.bandwidth_mbps, time.monotonic_ns()))
            self.life.space.of(name, artefact.allowance.disk_bytes)
            flow.pipeline = pipeline
            flow.version = artefact.header.agent_version
            self._sit(flow, jail_id, slot)
            flow.attach(jail, slot)
            self._sup.delegation.attached(flow, artefact, jail_id, jail, slot)
        finally:
            if flow.switching:
                flow.switching = False
                flow.send()

    def pause(self, name: AgentName) -> None:
        if name in self.flows:
            self.flows[name].pause()

    def probe(self, name: AgentName) -> None:
        if name in self.flows:
            self.flows[name].probe()

    def resume(self, name: AgentName) -> None:
        if name in self.flows:
            self.flows[name].resume()

    def resume_handed(self, name: AgentName) -> None:
        """An agent that came paused with a hand-over may run; one that its breaker holds waits for its probe."""
        agent, flow = self._sup.node.table.agents.get(name), self.flows.get(name)
        if agent is not None and flow is not None and flow.paused and agent.breaker.state is BreakerState.CLOSED:
            flow.resume()

    def suspects(self, jail_id: JailId, exit_: JailExit) -> tuple[AgentName, ...]:
        """The agent whose call was running; if the jail misbehaved and nobody knows, all with a frame in flight."""
        seated = {slot: flow for (number, slot), flow in self._seats.items() if number == jail_id}
        if exit_.slot is not None:
            return (seated[exit_.slot].name,) if exit_.slot in seated else ()
        if not exit_.quarantine:
            return ()
        return tuple(
            flow.name for _, flow in sorted(seated.items(), key=lambda pair: pair[0]) if not flow.pipeline.idle
        )

    async def restore_memory(self, name: AgentName, jail: Jail, slot: int, *, opened: bool) -> None:
        """Give a new jail the memory that the agent had after its last answer; before it is opened, at its last
        checkpoint, which is what `open` will restore."""
        memory = self.flows[name].pipeline.memory if opened else self.life.checkpointed_memory(name)
        if memory:
            await jail.set_memory(slot, memory)

    def reply(self, jail_id: JailId, reply: Reply) -> None:
        """One frame from a jail."""
        flow = self._seats.get((jail_id, reply.slot))
        if flow is None or (isinstance(flow.port, DelegatedPort) and flow.port.kernel_replied(reply)):
            return
        if flow.turns is not None:
            self._keepers.answered(jail_id, reply)
        if reply.kind == Kind.REPLY:
            flow.answered(reply.seq, reply.payload)
        elif reply.fault is not FaultCode.MEMORY or self._sup.renew_jail(jail_id, flow.name, reply.text):
            flow.faulted(reply.seq, reply.text)  # else: it goes to the next jail, and is not to blame

    # --- what the data plane tells the control plane ----------------------------------------------------------------

    def _fault(self, name: AgentName, why: str) -> None:
        cause = self._sup.cause(f"fault-{name}")
        self._sup.log.warning("agent_fault", agent=name, why=why, cause=cause)
        try:
            self._sup.post(ev.AgentFaulted(name, why, cause))
        except LimitError:  # thousands of events wait, and five faults among them open the breaker
            self._sup.log.warning("fault_not_counted", agent=name, cause=cause)

    def _set_aside(self, name: AgentName, aside: SetAside) -> None:
        """A frame that nobody could answer is kept with its bytes, as far as the agent's disk goes."""
        quota = self.life.quota(name)
        try:
            quota.claim(AGENT_DATA, FRAMES, quota.size(AGENT_DATA, FRAMES) + len(aside.frame.payload))
        except QuotaError as error:
            self._sup.log.warning("frame_not_kept", agent=name, seq=aside.frame.seq, text=aside.text, error=str(error))
            self._sup._task(self.life.count_frames(name))  # older ones may have gone since
            return
        self._sup.set_aside(name, aside)

    def _probed(self, name: AgentName) -> None:
        self._sup.post(ev.AgentProbed(name, self._sup.cause(f"probe-{name}")))

    async def swap_weights(self, name: AgentName, weights: bytes, topology: str = "") -> None:
        """Raises LocalError if the agent has no jail, InputError if the weights do not fit or hold NaN."""
        flow = self.flows.get(name)
        jail = None if flow is None else flow.port.kernel if isinstance(flow.port, DelegatedPort) else flow.port
        if flow is None or not isinstance(jail, Jail):
            raise LocalError(f"agent {name}: it is in no jail; start it first")
        artefact = self._sup.shelf.current(name)
        expected, own = artefact.layout.weights.size, artefact.layout.topology
        if topology not in ("", own):  # as long, and yet of another net: it would answer, and wrongly
            text = f"expected those of a kernel of topology {own[:16]}..., found {topology[:16]}..."
            raise InputError(f"agent {name}: weights: {text}; a file with another kernel is swapped whole")
        if len(weights) != expected:
            raise InputError(f"agent {name}: weights: expected {expected} bytes, found {len(weights)}")
        floats = any(entry.name == "neural_weights" and entry.dtype == "f32" for entry in artefact.header.sections)
        if floats and (found := first_not_finite(weights)) is not None:
            raise InputError(f"agent {name}: weights: expected finite numbers, found {found[1]} at index {found[0]}")
        if artefact.header.kernel.quantization is not None:
            check_path(weights, artefact.header.kernel.quantization.path, who=f"agent {name}")
        self._sup.delegation.weights_swapped(name)
        await jail.swap_weights(flow.slot, weights)
        artefact.weights = weights
        self._sup.log.info("weights_swapped", agent=name, size_bytes=len(weights))
        try:
            path, data = self._sup.shelf.seal_weights(artefact)
            self.life.quota(name).claim(AGENT_DATA, WEIGHTS, len(data))
            await self._sup.in_disk_thread(lambda: checkpoints.write(path, data))
        except (EdgeSwarmError, OSError) as error:
            self.life.space.recount(name, WEIGHTS)
            self._sup.log.error("weights_not_kept", agent=name, error=str(error))
