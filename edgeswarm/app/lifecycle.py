"""Opening and closing an agent: the steps of its workflow, its sources and sinks, its checkpoints.

The steps are the closed list of the agent file (docs/agent-file.md); they run in the file's order, and what a file
leaves out is not done.  Sources and sinks are opened last and closed in any case.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edgeswarm.agentfile.header import Header
from edgeswarm.agentfile.wiring import AgentSource, ApiSource
from edgeswarm.agentfile.wiring import Sink as SinkSpec
from edgeswarm.app.pump import AgentFlow, Sink
from edgeswarm.app.shelf import Artefact
from edgeswarm.app.space import CHECKPOINT, FRAMES, Space
from edgeswarm.app.swarm.config import is_member
from edgeswarm.drivers import checkpoints
from edgeswarm.drivers.handover import Unpacker
from edgeswarm.drivers.quota import AGENT_DATA, Quota, QuotaError
from edgeswarm.drivers.sink_limited import make_limited_sink
from edgeswarm.drivers.sinks import Sink as DriverSink
from edgeswarm.drivers.sources import Source, make_source
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.ids import AgentName
from edgeswarm.limits import DRAIN_S_MAX
from edgeswarm.stream.pipeline import Pipeline
from edgeswarm.stream.queue import Row
from edgeswarm.stream.remote import ANY
from edgeswarm.stream.report import OnEvent

if TYPE_CHECKING:
    from edgeswarm.app.supervisor import Supervisor


@dataclass(frozen=True, slots=True)
class Inlet:
    """An open source and the task that runs it."""

    source: Source
    task: asyncio.Task[None]


class Lifecycle:
    """remake(name): a fresh pipeline of that agent, for one whose checkpoint turned out to be unusable."""

    def __init__(self, supervisor: Supervisor, *, remake: Callable[[AgentName], Pipeline]) -> None:
        self._sup = supervisor
        self._remake = remake
        self.space = Space(supervisor.settings)
        self._inlets: dict[AgentName, dict[int, Inlet]] = {}  # by the source's index in the wiring
        self._closing: set[asyncio.Task[None]] = set()
        self._positions: dict[AgentName, dict[int, Any]] = {}
        self.parcels: dict[tuple[AgentName, int], Any] = {}
        """Of sources of other devices' streams, which an earlier program has handed over: until this one has them."""
        self._steps: dict[str, Callable[[AgentFlow], Awaitable[str]]] = {
            "load_neural_network": self._loaded,
            "initialize_memory": self._restore,
            "connect_to_swarm": self._swarm,
            "register_capabilities": self._register,
            "save_state": self._save,
            "disconnect_from_swarm": self._swarm,
            "cleanup_resources": self._clean_up,
        }

    def quota(self, name: AgentName) -> Quota:
        """What is kept on disk for this agent."""
        return self.space.of(name, self._sup.shelf.current(name).allowance.disk_bytes)

    def on_event(self, agent: AgentName) -> OnEvent:
        """What sources, sinks and pipelines tell, as log lines of this agent."""

        def tell(event: str, /, **fields: object) -> None:
            fields.setdefault("agent", agent)
            self._sup.log.warning(event, **fields)

        return tell

    # --- opening and closing --------------------------------------------------------------------------------------

    async def open(self, flow: AgentFlow, artefact: Artefact) -> None:
        """Run the initialization steps, then open the sinks."""
        header = artefact.header
        self.space.begin(flow.name, artefact.allowance.disk_bytes)
        self._keep_code(flow.name, artefact)
        await self.count_frames(flow.name)
        flow.silent = "send_output" not in header.workflows.execution
        await self._run(flow, "initialization", header.workflows.initialization)
        flow.sinks = []
        for spec in header.wiring.sinks:
            flow.sinks.append(self._make_sink(flow.name, spec, header))

    def _keep_code(self, name: AgentName, artefact: Artefact) -> None:
        """Its compiled code stays in the device's cache only as far as its quota goes: else it is compiled anew."""
        host, code = self._sup.host, artefact.cwasm
        if host is None or code is None:
            return
        try:
            self.space.code(name, artefact.allowance.disk_bytes, len(code))
        except QuotaError as error:
            host.cache.drop(artefact.file.sections["wasm_kernel"])
            self._sup.log.warning("code_not_kept", agent=name, error=str(error))

    async def count_frames(self, name: AgentName) -> None:
        """The frames of this agent that are kept because nobody could answer them; older ones may have gone."""
        if self._sup.store is not None:
            size_bytes = await self._sup.store.bytes_set_aside(name)
            self.quota(name).found(AGENT_DATA, FRAMES, size_bytes)

    def _make_sink(self, name: AgentName, spec: SinkSpec, header: Header, *, begins: bool = True) -> DriverSink:
        settings = self._sup.settings
        base_dir, account = self.space.place(name, spec, self.quota(name))
        return make_limited_sink(
            spec,
            agent=name,
            base_dir=base_dir,
            account=account,
            runtime_dir=settings.runtime_dir,
            capabilities=header.capabilities,
            network=settings.profile.network,
            on_event=self.on_event(name),
            begins=begins,
            bucket=self._sup.flows.flows[name].bandwidth,
        )

    def start_sources(self, flow: AgentFlow, header: Header) -> None:
        """Rows begin to flow, each source from where the checkpoint left it."""
        self._inlets[flow.name] = {}
        positions = self._positions.pop(flow.name, {})
        for index, source in self._make_sources(flow.name, header).items():
            self._start_source(flow, index, source, positions.get(index))
        if self._sup.remote is None and not is_member(self._sup.settings.state_dir):
            self._tell_alone(flow.name, header)

    def _tell_alone(self, name: AgentName, header: Header) -> None:
        """Say which of its sources give nothing as long as this device is in no cell."""
        here = {known.name for known in self._sup.shelf.known()}
        for spec in header.wiring.sources:
            if isinstance(spec, AgentSource) and spec.device and not (spec.device == ANY and spec.name in here):
                self._sup.log.warning("stream_not_in_swarm", agent=name, source=spec.agent)

    @property
    def is_closing(self) -> bool:
        """A sink has yet to let go."""
        return bool(self._closing)

    def is_open(self, name: AgentName) -> bool:
        """True from when its sources were started until it is closed."""
        return name in self._inlets

    def start_remote(self, flow: AgentFlow, header: Header) -> None:
        """The device came into a cell: sources that wait for that since the agent was opened."""
        inlets = self._inlets[flow.name]
        for index, source in self._make_sources(flow.name, header).items():
            if index not in inlets:
                if (parcel := self.parcels.pop((flow.name, index), None)) is not None:
                    source.unpack(parcel, Unpacker(()))
                self._start_source(flow, index, source, None)

    def take_over(self, name: AgentName, index: int, rows: Sequence[tuple[Row, int]]) -> bool:
        """Rows that were held for a source whose agent has left this device.  False: nobody takes them."""
        inlet = self._inlets.get(name, {}).get(index)
        return inlet is not None and self._sup.remote is not None and self._sup.remote.take_over(inlet.source, rows)

    def _make_sources(self, name: AgentName, header: Header) -> dict[int, Source]:
        """Those that have a driver, by their index.  Does no I/O."""
        made: dict[int, Source] = {}
        for index, spec in enumerate(header.wiring.sources):
            if isinstance(spec, AgentSource):
                if spec.device and self._sup.remote is not None:
                    made[index] = self._sup.remote.source(name, spec, self.on_event(name))
            elif not isinstance(spec, ApiSource):
                made[index] = make_source(
                    spec,
                    base_dir=self._sup.settings.state_dir,
                    capabilities=header.capabilities,
                    network=self._sup.settings.profile.network,
                    on_event=self.on_event(name),
                )
        return made

    def _start_source(self, flow: AgentFlow, index: int, source: Source, position: Any) -> None:
        if position is not None:
            self._go_back(flow.name, source, position)
        task = asyncio.create_task(self._run_source(flow, index, source))
        self._inlets[flow.name][index] = Inlet(source, task)

    def _go_back(self, name: AgentName, source: Source, position: Any) -> None:
        try:
            source.restore(position)
        except (EdgeSwarmError, TypeError, ValueError, KeyError, AttributeError) as error:
            self._sup.log.warning("source_position_refused", agent=name, error=str(error))

    async def _run_source(self, flow: AgentFlow, index: int, source: Source) -> None:
        async def offer(row: tuple[float, ...], at_ns: int) -> None:
            await flow.offer(index, row, at_ns)

        try:
            await source.run(offer)
            self._sup.log.info("source_ended", agent=flow.name, source=index)
        except (EdgeSwarmError, OSError) as error:
            self._sup.log.error("source_failed", agent=flow.name, source=index, error=str(error))

    async def close(self, flow: AgentFlow, header: Header) -> None:
        """Stop the sources, answer what is in flight, run the shutdown steps, close the sinks."""
        await self._stop_sources(self._inlets.get(flow.name, {}).values())
        flow.send()
        if not await flow.drain(DRAIN_S_MAX):
            self._sup.log.warning("drain_timed_out", agent=flow.name, in_flight=len(flow.pipeline.flight.in_flight))
        if not flow.pipeline.idle and "save_state" not in header.workflows.shutdown:
            count = len(flow.pipeline.flight.frames())
            self._sup.log.warning("frames_discarded", agent=flow.name, count=count, why="no save_state in its workflow")
        self._tell_discarded(flow, header)
        await self._run(flow, "shutdown", header.workflows.shutdown)
        await self._clean_up(flow)
        self._inlets.pop(flow.name, None)

    async def _stop_sources(self, inlets: Iterable[Inlet]) -> None:
        tasks = [inlet.task for inlet in inlets]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _tell_discarded(self, flow: AgentFlow, header: Header) -> None:
        """Rows that wait when the agent is closed come again from sources that can go back; the others are gone."""
        saves = "save_state" in header.workflows.shutdown
        inlets = self._inlets.get(flow.name, {})
        for index, count in enumerate(flow.pipeline.parts.intake.counts()):
            comes_again = saves and index in inlets and inlets[index].source.state() is not None
            if count.queued and not comes_again:
                self._sup.log.warning("rows_discarded", agent=flow.name, source=index, count=count.queued)

    # --- another version ------------------------------------------------------------------------------------------

    async def rewire(self, flow: AgentFlow, before: Header, after: Header, adopt: Callable[[], None]) -> None:
        """Sources and sinks that another version declares differently are changed around `adopt`; the others stay.

        Raises as `make_source`, `make_limited_sink` and `adopt`: then everything is as it was.
        """
        sources = self._make_sources(flow.name, after)
        self._change_sinks(flow, before, after)
        try:
            adopt()
        except EdgeSwarmError:
            self._change_sinks(flow, after, before)
            raise
        flow.silent = "send_output" not in after.workflows.execution
        inlets = self._inlets.get(flow.name, {})
        for index, (old, new) in enumerate(zip(before.wiring.sources, after.wiring.sources, strict=True)):
            if old == new:
                continue
            inlet = inlets.pop(index, None)
            if inlet is not None:
                await self._stop_sources([inlet])
            if index in sources:
                same = inlet is not None and getattr(old, "path", old) == getattr(new, "path", new)
                position = inlet.source.state() if inlet is not None and same else None
                self._start_source(flow, index, sources[index], position)

    def _change_sinks(self, flow: AgentFlow, before: Header, after: Header) -> None:
        old = dict(zip(before.wiring.sinks, flow.sinks, strict=False))
        for spec in old.keys() - set(after.wiring.sinks):
            self._close_sink(old.pop(spec))  # before the new ones are opened: they may want its path
        try:
            flow.sinks = []
            for spec in after.wiring.sinks:
                flow.sinks.append(old.pop(spec) if spec in old else self._make_sink(flow.name, spec, after))
        except EdgeSwarmError:
            for sink in [*flow.sinks, *old.values()]:
                self._close_sink(sink)
            flow.sinks = [self._make_sink(flow.name, spec, before) for spec in before.wiring.sinks]
            raise

    # --- numbers ---------------------------------------------------------------------------------------------------

    def source_counts(self, name: AgentName) -> list[dict[str, Any]]:
        """What each source with a driver has seen, besides the rows that the pipeline counts."""
        inlets = self._inlets.get(name, {})
        return [
            {"id": inlet.source.name, "type": inlet.source.kind, **asdict(inlet.source.counts)}
            for _, inlet in sorted(inlets.items())
        ]

    # --- steps ----------------------------------------------------------------------------------------------------

    async def _run(self, flow: AgentFlow, phase: str, steps: tuple[str, ...]) -> None:
        for step in steps:
            done = await self._steps[step](flow)
            self._sup.log.debug("workflow_step", agent=flow.name, phase=phase, step=step, done=done)

    async def _loaded(self, flow: AgentFlow) -> str:
        return "its jail was ready before this step"

    async def _swarm(self, flow: AgentFlow) -> str:
        """The device is in its cell before any agent, and stays when one goes: both steps say where it is."""
        return "not in a swarm" if self._sup.remote is None else self._sup.remote.place()

    async def _register(self, flow: AgentFlow) -> str:
        capabilities = list(self._sup.shelf.current(flow.name).header.capabilities)
        self._sup.log.info("capabilities_registered", agent=flow.name, capabilities=capabilities)
        return "registered"

    async def _save(self, flow: AgentFlow) -> str:
        await self.checkpoint(flow)
        return "saved"

    async def _clean_up(self, flow: AgentFlow) -> str:
        sinks, flow.sinks = flow.sinks, []
        for sink in sinks:
            self._close_sink(sink)
        return "closed"

    def _close_sink(self, sink: Sink) -> None:
        """It may take a while to let go (a command that still reads): nobody waits but `closed`."""
        sink.close()
        task = asyncio.create_task(sink.closed())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def closed(self) -> None:
        """All sinks have let go."""
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def _restore(self, flow: AgentFlow) -> str:
        state = self._checkpointed(flow.name)
        if state is None:
            return "fresh"
        try:
            flow.pipeline.restore(state["pipeline"], now_ns=time.monotonic_ns())
        except (EdgeSwarmError, KeyError, TypeError, ValueError) as error:
            self._refuse_checkpoint(flow.name, error)
            flow.pipeline = self._remake(flow.name)
            return "fresh"
        positions = state.get("sources")
        self._positions[flow.name] = positions if isinstance(positions, dict) else {}
        self._sup.log.info("checkpoint_restored", agent=flow.name, saved_at=state.get("saved_at"))
        return "restored"

    # --- checkpoints ----------------------------------------------------------------------------------------------

    async def checkpoint(self, flow: AgentFlow) -> None:
        """Write the agent's state: memory, normaliser, window, decider, unanswered frames, positions of its sources.

        Rows that still wait in a queue are not in it: a source that can goes back by so many.
        """
        waiting = [count.queued for count in flow.pipeline.parts.intake.counts()]
        inlets = self._inlets.get(flow.name, {})
        positions = {index: inlet.source.state(unanswered=waiting[index]) for index, inlet in inlets.items()}
        state: dict[str, Any] = {"saved_at": time.time(), "pipeline": flow.pipeline.state()}
        state["sources"] = {index: position for index, position in positions.items() if position is not None}
        path = self._sup.shelf.checkpoint_path(flow.name)
        try:
            data = checkpoints.seal(state, self._sup.shelf.checkpoint_key)
            self.quota(flow.name).claim(AGENT_DATA, CHECKPOINT, len(data))
            await self._sup.in_disk_thread(lambda: checkpoints.write(path, data))
        except (EdgeSwarmError, OSError) as error:
            self.space.recount(flow.name, CHECKPOINT)
            self._sup.log.error("checkpoint_failed", agent=flow.name, error=str(error))

    def _checkpointed(self, name: AgentName) -> dict[str, Any] | None:
        path = self._sup.shelf.checkpoint_path(name)
        try:
            return checkpoints.read(path, self._sup.shelf.checkpoint_key)
        except (EdgeSwarmError, OSError) as error:
            self._refuse_checkpoint(name, error)
            return None

    def _refuse_checkpoint(self, name: AgentName, error: Exception) -> None:
        """Set it aside: it is evidence, and the agent starts afresh."""
        path = self._sup.shelf.checkpoint_path(name)
        bad = path.with_name(path.name + ".bad")
        if path.exists():
            path.replace(bad)
        self._sup.log.error("checkpoint_refused", agent=name, error=str(error), moved_to=str(bad))

    def checkpointed_memory(self, name: AgentName) -> bytes | None:
        """The agent's memory as its last checkpoint has it; None where it starts without."""
        header = self._sup.shelf.current(name).header
        width = header.memory.width
        if not width or "initialize_memory" not in header.workflows.initialization:
            return None
        state = self._checkpointed(name)
        pipeline = state.get("pipeline") if state is not None else None
        memory = pipeline.get("memory") if isinstance(pipeline, dict) else None
        return memory if isinstance(memory, bytes) and len(memory) == 4 * width else None
