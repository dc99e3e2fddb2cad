"""A supervisor leaves: it comes to rest, falls silent, and packs everything that the next one needs to go on.

Three steps, each of which may still be refused with nothing changed but the first silence:
`rest`    nothing new is begun; what was begun ends (starts, swaps, what programs ask); bounded
`hush`    nobody reads jails, sources and timers any more: what they say waits in pipes, rings, files
`pack`    the state, in one go, without a wait in it
What is in flight stays in flight.  What cannot be handed over is told: see docs/upgrade.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import cbor2

from edgeswarm.app.control_loop import Refused
from edgeswarm.app.pump import AgentFlow
from edgeswarm.core import handover as core
from edgeswarm.drivers import jail_handover
from edgeswarm.drivers.handover import Packer
from edgeswarm.drivers.sinks import Sink
from edgeswarm.errors import HandingOverError
from edgeswarm.ids import AgentName
from edgeswarm.limits import UPGRADE_ASKS_S, UPGRADE_REST_S
from edgeswarm.stream import handover as stream

if TYPE_CHECKING:
    from edgeswarm.app.supervisor import Supervisor

State = dict[str, Any]
_LOOK_S = 0.01
_TELL_S = 0.02
"""So that who is told to ask again has the answer before the connection ends."""
WHY = "the supervisor is handing over to another version of itself; ask again in a moment"


class Departure:
    """One attempt to leave.  `stay` ends it, as long as `hush` was not called."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._sup = supervisor
        self.packer = Packer()
        self._parcels: dict[AgentName, State] = {}

    # --- rest -----------------------------------------------------------------------------------------------------

    def busy(self) -> str:
        """What is under way and must end first; an empty text: nothing."""
        sup = self._sup
        if sup.host is None or sup._closing:
            return "the supervisor is ending"
        if sup._claimed:
            return f"agent {min(sup._claimed)} is being deployed or swapped"
        if why := core.busy(sup.node) or jail_handover.busy(sup.host):
            return why
        if sup._waiters:
            return f"agent {sup._waiters[0].name} is being started or stopped"
        if len(sup._inbox) or sup._tasks or sup._unopened:
            return "events are being handled"
        if sup.flows.life.is_closing:
            return "a sink is being closed"
        for flow in sup.flows.flows.values():
            if flow.switching:
                return f"agent {flow.name} is being swapped"
        return ""

    async def rest(self) -> None:
        """Nothing new begins from now on.  Raises Refused when what was begun does not end in time, or an agent's file
        is not on disk: then everything goes on as before.  When it returns nothing is under way."""
        sup = self._sup
        sup.leaving = WHY
        until = asyncio.get_running_loop().time() + UPGRADE_REST_S
        try:
            for name in sup.node.table.agents:
                if not sup.shelf.is_kept(name):
                    raise Refused(f"upgrade: agent {name}: its file is not in {sup.settings.state_dir} any more")
            await sup.delegation.leave()
            await self._until(lambda: not self._asks(), UPGRADE_ASKS_S)
            while True:
                if not await self._until(lambda: not self.busy(), until - asyncio.get_running_loop().time()):
                    raise Refused(f"upgrade: {self.busy()}; try again when it is over")
                for name in list(sup.flows.flows):
                    if sup.flows.life.is_open(name):
                        await sup.flows.checkpoint(name)  # for the worst case
                if not self.busy():  # a jail may have died meanwhile
                    break
            cbor2.dumps(self.pack(Packer()))  # what cannot be packed is found while everything runs
        except BaseException:
            self.stay()
            raise

    def stay(self) -> None:
        self._sup.leaving = ""
        self._sup.delegation.back()

    def _asks(self) -> int:
        return sum(len(flow._asked) + len(flow._waiters) for flow in self._sup.flows.flows.values())

    @staticmethod
    async def _until(condition: Any, within_s: float) -> bool:
        until = asyncio.get_running_loop().time() + within_s
        while not condition():
            if asyncio.get_running_loop().time() > until:
                return False
            await asyncio.sleep(_LOOK_S)
        return True

    # --- silence --------------------------------------------------------------------------------------------------

    async def hush(self) -> None:
        """Stop listening to everybody.  After this there is no way on but an exec."""
        sup = self._sup
        assert sup.host is not None
        sup.host.listen(on=False)
        for timer in sup._timers.values():
            timer.cancel()
        inlets = [inlet for life in sup.flows.life._inlets.values() for inlet in life.values()]
        for inlet in inlets:
            if not inlet.task.done():
                inlet.source.leaving = True
                inlet.task.cancel()
        await asyncio.gather(*(inlet.task for inlet in inlets), return_exceptions=True)
        self._tell_who_asks()
        await asyncio.sleep(_TELL_S)
        await self._until(lambda: not len(sup._inbox) and not sup._tasks, UPGRADE_REST_S)
        if sup._loop_task is not None:
            sup._loop_task.cancel()
            await asyncio.gather(sup._loop_task, return_exceptions=True)

    def _tell_who_asks(self) -> None:
        for flow in self._sup.flows.flows.values():
            waiting = [*(asked.answer for asked in flow._asked), *flow._waiters.values()]
            for answer in [*waiting, *cast("list[asyncio.Future[Any]]", flow._room)]:
                if not answer.done():
                    answer.set_exception(HandingOverError(f"agent {flow.name}: {WHY}"))
            flow._asked.clear()
            flow._waiters.clear()

    async def gather(self) -> None:
        """After `hush`: the parcels of sources and sinks, and the store is closed, but not unlocked."""
        sup = self._sup
        for name, flow in sup.flows.flows.items():
            self._parcels[name] = {
                "sources": dict(self._sources(name)),
                "sinks": [await cast("Sink", sink).parcel(self.packer) for sink in flow.sinks],
            }
        if sup.store is not None:
            await sup.store.close(unlock=False)

    def _sources(self, name: AgentName) -> Iterator[tuple[int, State]]:
        life = self._sup.flows.life
        for index, inlet in life._inlets.get(name, {}).items():
            yield index, {"over": not inlet.source.leaving, "parcel": inlet.source.parcel(self.packer)}
        for (agent, index), parcel in life.parcels.items():
            if agent == name:
                yield index, {"over": False, "parcel": parcel}

    # --- the state ------------------------------------------------------------------------------------------------

    def pack(self, packer: Packer | None = None) -> State:
        """Everything, CBOR-able.  packer: of a rehearsal; its state is of no use but to be encoded."""
        sup, packer = self._sup, packer or self.packer
        assert sup.host is not None and sup.store is not None
        host_ids = {number: jail.id for number, jail in sup.jails.items()}
        return {
            "device": sup.settings.device,
            "started_at": sup.started_at,
            "cause": sup._cause,
            "node": core.pack(sup.node),
            "publishers": {name: agent.plan.publisher for name, agent in sup.node.table.agents.items()},
            "host": jail_handover.pack_host(sup.host, packer),
            "jails": host_ids,
            "golden": sorted(sup.shelf.golden_passed),
            "status": {name: list(found) for name, found in sup.status.items()},
            "timers": [[*key, due.at_ms, due.cause] for key, due in sup._due.items()],
            "guilty": dict(sup._guilty),
            "beyond_repair": dict(sup._beyond_repair),
            "flows": [self._flow(flow) for flow in sup.flows.flows.values()],
            "log": list(sup.log.ring.lines),
            "lock": packer.fd(sup.store.lock_fd),
        }

    def _flow(self, flow: AgentFlow) -> State:
        flows = self._sup.flows
        seat = next(([number, slot] for (number, slot), one in flows._seats.items() if one is flow), None)
        latency = flow.latency
        return {
            "name": flow.name,
            "open": flows.life.is_open(flow.name),
            "pipeline": stream.pack(flow.pipeline),
            "seat": seat if flow.port is not None else None,
            "paused": [flow.paused, flow.probing],
            "faults": flow.faults,
            "latency": [latency.count, latency.sum_ns, latency.buckets],
            "held": [[reader.flow.name, reader.index, list(row), at_ns] for reader, row, at_ns in flow._held],
            **self._parcels.get(flow.name, {"sources": {}, "sinks": []}),
        }
