"""What an operator or a program asks of a supervisor: deploy, swap, stop, start, remove, ask, stream.

Each is an event for the node like any other; a call returns when the node has announced what became of it.
Invariant: at most one deploy or swap of a name is under way.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from edgeswarm.app.config import Settings
from edgeswarm.app.control_loop import ENDED, REMOVED, STARTED, SWAPPED, ControlLoop, Refused
from edgeswarm.app.flows import Flows, upstreams
from edgeswarm.app.metrics import Sample
from edgeswarm.app.remote import RemoteStreams
from edgeswarm.app.shelf import Artefact, Shelf
from edgeswarm.core import events as ev
from edgeswarm.core.table import ALIVE
from edgeswarm.drivers.store import Deployed, Store
from edgeswarm.errors import EdgeSwarmError, LimitError, LocalError, RemoteError
from edgeswarm.ids import AgentName
from edgeswarm.limits import FOLLOW_LINES_MAX
from edgeswarm.stream.pipeline import Outcome


class Operations(ControlLoop):
    """The supervisor, seen from outside."""

    settings: Settings
    flows: Flows
    shelf: Shelf
    store: Store | None
    remote: RemoteStreams | None = None  # set while this device is in a cell
    status: dict[AgentName, tuple[str, str]]
    _claimed: set[AgentName]
    swarm_samples: Callable[[], Iterator[Sample]] | None = None
    """What a device in a cell adds to the metrics."""

    # --- versions -----------------------------------------------------------------------------------------------------

    async def deploy(self, files: Sequence[tuple[str, bytes]]) -> list[dict[str, Any]]:
        """Deploy agents together; [(where it came from, agent file bytes)].

        All are checked before the first one is deployed.  Raises AgentFileError, SignatureError, ConfigError (a
        cycle, with its path), Refused, StoreError.  One that does not start is taken back, with those that read it;
        the others run.
        """
        artefacts = [self.shelf.admit(data, who=who) for who, data in files]
        names = [artefact.plan.name for artefact in artefacts]
        for artefact, (who, _) in zip(artefacts, files, strict=True):
            if artefact.plan.name in self.node.table.agents or names.count(artefact.plan.name) > 1:
                raise Refused(f"{who}: agent {artefact.plan.name}: a second agent of that name; swap or remove it")
        with self._claim(names):
            self.flows.check_graph([artefact.header for artefact in artefacts])
            results = await self._deploy([(artefact, True) for artefact in artefacts])
            for index, artefact in enumerate(artefacts):
                if not isinstance(results[index], BaseException):
                    results[index] = await self._keep(artefact) or results[index]
            faults = [result for result in results if isinstance(result, BaseException)]
            await self._take_back(
                [a for a, result in zip(artefacts, results, strict=True) if result in faults], artefacts
            )
        if faults:
            raise faults[0]
        return [
            {"name": artefact.plan.name, "artefact": artefact.plan.artefact, "status": str(result)}
            for artefact, result in zip(artefacts, results, strict=True)
        ]

    @contextmanager
    def _claim(self, names: Sequence[AgentName]) -> Iterator[None]:
        """No other deploy or swap of these until this one is over.  Raises Refused, HandingOverError."""
        self.check_stays()
        for name in names:
            if name in self._claimed:
                raise Refused(f"agent {name}: a deploy or a swap of it is under way")
        self._claimed.update(names)
        try:
            yield
        finally:
            self._claimed.difference_update(names)

    async def _deploy(self, artefacts: Sequence[tuple[Artefact, bool]]) -> list[str | BaseException]:
        """All at once, so that those of one network start together; [(artefact, start it)]."""
        asked = []
        for artefact, start in artefacts:
            name = artefact.plan.name
            self.shelf.put(artefact)
            event = ev.AgentDeployed(artefact.plan, self.cause(f"deploy-{name}"), start)
            asked.append(self._ask(event, name, STARTED))
        return await asyncio.gather(*asked, return_exceptions=True)

    async def _keep(self, artefact: Artefact) -> BaseException | None:
        """For the next start of the supervisor.  The error, if the disk does not take it."""
        if artefact.plan.name not in self.node.table.agents:
            return None  # removed meanwhile
        try:
            self.shelf.keep(artefact)
            await self._remember(artefact.plan.name, "running")
        except (EdgeSwarmError, OSError) as error:
            return Refused(f"agent {artefact.plan.name}: it cannot be kept in {self.settings.state_dir}: {error}")
        return None

    async def _take_back(self, failed: Sequence[Artefact], deployed: Sequence[Artefact]) -> None:
        """So that they can be deployed again once they are mended."""
        gone = {artefact.plan.name for artefact in failed}
        for _ in deployed:  # the longest chain of readers
            gone |= {one.plan.name for one in deployed if gone & set(one.plan.upstream)}
        for name in gone:
            if name in self.node.table.agents:
                await self._ask(ev.AgentRemoveAsked(name, self.cause(f"remove-{name}")), name, REMOVED)
            else:
                self.shelf.forget(name)

    async def swap(self, name: str, who: str, data: bytes) -> dict[str, Any]:
        """Another version of a running agent, with no sample lost.  Raises as deploy; then the old version goes on."""
        artefact = self.shelf.admit(data, who=who)
        plan = artefact.plan
        if plan.name != name:
            raise RemoteError(f"expected a version of agent {name}, found agent {plan.name}", who=who)
        if plan.name not in self.node.table.agents:
            raise Refused(f"agent {name}: no agent of that name is deployed")
        with self._claim([plan.name]):
            self.flows.check_graph([artefact.header])
            try:
                self.shelf.put_pending(artefact)
                self.shelf.keep(artefact)
                status = await self._ask(ev.AgentSwapAsked(plan, self.cause(f"swap-{name}")), plan.name, SWAPPED)
                if status in ENDED:
                    raise Refused(f"agent {name}: {status} before the swap was done")
            except OSError as error:
                self.shelf.discard(artefact)
                raise Refused(f"agent {name}: it cannot be kept in {self.settings.state_dir}: {error}") from None
            except EdgeSwarmError:
                self.shelf.discard(artefact)
                raise
            if status == "replaced":  # it does not run now: the new version is what its next start starts
                self.shelf.promote(plan.name, artefact)
                await self._remember(name, "running" if self.status[plan.name][0] == "failed" else "stopped")
        return {"name": name, "artefact": plan.artefact, "status": status}

    # --- life ---------------------------------------------------------------------------------------------------------

    async def stop(self, name: str) -> str:
        status = await self._ask(ev.AgentStopAsked(AgentName(name), self.cause(f"stop-{name}")), AgentName(name), ENDED)
        await self._remember(name, "stopped")
        return status

    async def start_agent(self, name: str) -> str:
        event = ev.AgentStartAsked(AgentName(name), self.cause(f"start-{name}"))
        status = await self._ask(event, event.name, STARTED)
        await self._remember(name, "running")
        return status

    async def remove(self, name: str) -> str:
        """Raises LocalError while another agent reads its stream."""
        readers = [header.name for header in self.shelf.known() if name in upstreams(header) and header.name != name]
        if readers:
            raise LocalError(f"agent {name}: {', '.join(readers)} reads its stream; remove that first")
        event = ev.AgentRemoveAsked(AgentName(name), self.cause(f"remove-{name}"))
        return await self._ask(event, event.name, REMOVED)

    async def _remember(self, name: str, wanted: str) -> None:
        agent = self.node.table.agents.get(AgentName(name))
        if agent is not None:
            await self._put(agent.plan.name, agent.plan.artefact, wanted)

    async def _put(self, name: AgentName, artefact: str, wanted: str) -> None:
        if self.store is not None:
            await self.store.put_agent(Deployed(name, artefact, wanted))

    # --- data ---------------------------------------------------------------------------------------------------------

    async def ask(self, name: str, row: Sequence[float], timeout_s: float) -> Outcome | None:
        """One row for source 0 of an agent with an `api` source, and its answer.

        Raises LocalError where there is no such agent or source, InputError, TrapError, JailGoneError, HandingOverError
        (then the row may have been taken, and its answer goes to the sinks).
        """
        self.check_stays()
        flow = self.flows.flows.get(AgentName(name))
        if flow is None:
            raise LocalError(f"agent {name}: no agent of that name runs")
        agent = self.node.table.agents.get(flow.name)
        if agent is None or agent.status not in ALIVE:
            raise LocalError(f"agent {name}: it is {self.status.get(flow.name, ('removed', ''))[0]}; start it first")
        sources = self.shelf.current(flow.name).header.wiring.sources
        if not sources or sources[0].type != "api":
            raise LocalError(f"agent {name}: expected an `api` source, found {sources[0].type if sources else 'none'}")
        try:
            return await flow.ask(row, timeout_s)
        except TimeoutError:
            status = self.status.get(flow.name, ("unknown", ""))[0]
            raise LimitError(f"agent {name}: no answer within {timeout_s:g} s; it is {status}") from None

    async def stream(self, name: str) -> AsyncIterator[dict[str, Any]]:
        """The agent's answers from now on, until it is removed; a reader too slow for FOLLOW_LINES_MAX of them loses
        the oldest."""
        flow = self.flows.flows.get(AgentName(name))
        if flow is None:
            raise LocalError(f"agent {name}: no agent of that name runs")
        waiting: deque[dict[str, Any] | None] = deque(maxlen=FOLLOW_LINES_MAX)
        news = asyncio.Event()

        def follow(record: dict[str, Any] | None) -> None:
            waiting.append(record)
            news.set()

        followers = flow.followers  # the agent's next lives have the same list
        followers.append(follow)
        try:
            while True:
                await news.wait()
                news.clear()
                while waiting:
                    record = waiting.popleft()
                    if record is None:
                        return
                    yield record
        finally:
            followers.remove(follow)

    def is_deployed(self, data: bytes) -> bool:
        """True when exactly this agent file is deployed already."""
        artefact = hashlib.sha256(data).hexdigest()
        return any(agent.plan.artefact == artefact for agent in self.node.table.agents.values())

    async def swap_weights(self, name: str, weights: bytes, *, topology: str = "") -> None:
        """Other weights for a running agent, without a compile and without a lost sample.

        topology: that of the kernel for which they are packed; "": nobody says.
        Raises LocalError if the agent has no jail, InputError if the weights do not fit or hold NaN.
        """
        with self._claim([AgentName(name)]):
            await self.flows.swap_weights(AgentName(name), weights, topology)
