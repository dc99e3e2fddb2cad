"""One agent on its way to what a rollout wants: performs the steps that core.rollout.converge decides.

The journal is on disk before a step begins; each step may be done twice.  What takes long to fetch gives way to a newer
wish; a swap or a way back is never interrupted, save by the end of the process.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from edgeswarm.app.join.folder import trust as trust_publishers
from edgeswarm.app.swarm import converge_disk as disk
from edgeswarm.app.swarm.converge_disk import cut
from edgeswarm.app.swarm.rights import check_hosts, check_tools
from edgeswarm.core.artefacts import Manifest
from edgeswarm.core.rollout import pieces
from edgeswarm.core.rollout.converge import Converge as Machine
from edgeswarm.core.rollout.journal import Journal, Version
from edgeswarm.core.rollout.steps import Facts, GoBack, Stage, Try, Wait, Wish
from edgeswarm.drivers.store import StoreError
from edgeswarm.errors import EdgeSwarmError, JailError, LocalError, RemoteError
from edgeswarm.ids import AgentName

if TYPE_CHECKING:
    from edgeswarm.app.swarm.converge import Converge

LOOK_S = 0.5  # while a version is on trial
LOOK_IDLE_S = 15.0  # else: whether somebody has changed it by hand
COMES_UP_LOOK_S = 0.05
COMES_UP_S = 10.0  # what is being started is not swapped before it runs, or until then
FAULTS = (EdgeSwarmError, OSError)
_LOGGED = {
    "fetching": "rollout_fetching",
    "staged": "rollout_staged",
    "running": "rollout_running",
    "healthy": "rollout_healthy",
    "failed": "rollout_failed",
    "rolled_back": "rollout_rolled_back",
    "refused": "rollout_refused",
}


class AgentLoop:
    """wanted: set by the owner, who then calls wake()."""

    def __init__(self, owner: Converge, journal: Journal) -> None:
        self._owner, self._node = owner, owner.node
        self._sup = owner.node.supervisor
        self.name = AgentName(journal.agent)
        self.machine = Machine(journal)
        self.wanted = Wish()
        self._saved = journal
        self._pinned: frozenset[str] = frozenset()
        self._wake = asyncio.Event()
        self._stage: tuple[Stage, asyncio.Task[None]] | None = None
        self._task: asyncio.Task[None] | None = None
        self._told = ""

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"rollout {self.name}")

    def wake(self) -> None:
        self._wake.set()

    async def close(self) -> None:
        tasks = [task for task in (self._task, self._stage[1] if self._stage else None) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            disk.ended(self._owner.folder, self.machine.journal, self.machine.watched_s(self._now()))
        except OSError as error:
            self._sup.log.error("journal_not_kept", agent=self.name, error=str(error))

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    # --- one look after the other -----------------------------------------------------------------------------------

    async def _run(self) -> None:
        await self._stand_up()
        while True:
            self._wake.clear()
            try:
                wait_s = await self._turn()
            except OSError as error:  # the journal: what is not on disk is not begun
                self._sup.log.error("journal_not_kept", agent=self.name, error=str(error))
                wait_s = LOOK_IDLE_S
            except Exception as error:  # whatever it is: the device goes on looking after its versions
                self._sup.log.crash("swarm_fault", error)
                wait_s = LOOK_IDLE_S
            self._owner.soon()
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _stand_up(self) -> None:
        """A version on trial that the supervisor keeps as stopped: the power went in the middle of its start."""
        journal = self.machine.journal
        if journal.clean:  # the supervisor was handed over: nobody has looked at the journals in between
            self.machine.journal = journal = journal.begun()
        if journal.base is not None and self.facts().status == "stopped" and not self._node.orders.halted:
            try:
                await self._sup.start_agent(self.name)
            except FAULTS as error:
                self._sup.log.warning("rollout_agent_not_started", agent=self.name, error=str(error))

    async def _turn(self) -> float:
        """Seconds until the next look."""
        step = self.machine.decide(self.wanted, self.facts(), self._now())
        await self._save()
        if self._stage is not None and self._stage[0] != step:
            await self._drop_stage()
        match step:
            case Wait(s):
                idle_s = LOOK_IDLE_S if self.machine.journal.base is None else LOOK_S
                return idle_s if s is None else min(s, idle_s)
            case Stage():
                cut("begun")
                if self._stage is not None and self._stage[1].done():  # it is not staged, and nobody said why
                    await self._drop_stage()
                if self._stage is None:
                    task = asyncio.create_task(self._do_stage(step))
                    task.add_done_callback(lambda _: self._wake.set())
                    self._stage = step, task
                return LOOK_S
            case Try():
                await self._do_try(step)
            case GoBack():
                await self._do_go_back(step)
        await self._save()
        return 0.0

    async def _drop_stage(self) -> None:
        assert self._stage is not None
        (step, task), self._stage = self._stage, None
        if not task.done():
            self._node.artefacts.exchange.cancel(bytes.fromhex(step.version.artefact))
            task.cancel()
        (error,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(error, Exception):
            self._sup.log.crash("swarm_fault", error)
            self.machine.stage_failed(step.version, "a fault of ours", self._now(), final=False)

    async def _save(self) -> None:
        """The journal, before what it says is done.  Raises OSError, and then nothing is done."""
        journal = self.machine.journal
        if journal is self._saved:
            return
        await asyncio.to_thread(disk.save, self._owner.folder, journal)
        if self._saved.base is not None and journal.base is None:
            cut("proven")
        self._saved = journal
        keep = journal.artefacts()
        for artefact in self._pinned - keep:
            await self._pin(artefact, False)
        self._pinned = keep
        self._tell()

    async def _pin(self, artefact: str, pinned: bool) -> None:
        """So that what may be gone back to is never evicted."""
        store = self._node.artefacts.exchange.store
        try:
            if store.manifest(bytes.fromhex(artefact)) is not None:
                await store.pin(bytes.fromhex(artefact), pinned)
        except FAULTS as error:
            self._sup.log.warning("artefact_not_pinned", artefact=artefact[:12], error=str(error))

    def _tell(self) -> None:
        row = self.machine.row()
        text = "" if row is None else f"{row.rollout} {row.state} {row.why}"
        if row is None or text == self._told:
            return
        self._told = text
        bad = row.state in ("failed", "rolled_back", "refused")
        write = self._sup.log.warning if bad else self._sup.log.info
        write(_LOGGED[row.state], agent=self.name, rollout=row.rollout, artefact=row.artefact[:12], why=row.why)
        self._owner.event(row)

    def facts(self) -> Facts:
        sup, node = self._sup, self._node
        cells = node.replica.state.agents.get(self.name)
        hosted = (cells is not None and cells.device == node.config.device) or node.hosted.is_of_cell(self.name)
        agent = sup.node.table.agents.get(self.name)
        if agent is None:
            return Facts(hosted=hosted, halted=node.orders.halted)
        flow = sup.flows.flows.get(self.name)
        return Facts(
            runs=agent.plan.artefact,
            version=sup.shelf.current(self.name).header.agent_version,
            status=agent.status.value,
            hosted=hosted,
            halted=node.orders.halted,
            restarts=agent.restarts_total,
            faults=flow.faults if flow is not None else 0,
        )

    # --- fetch, verify, golden --------------------------------------------------------------------------------------

    async def _do_stage(self, step: Stage) -> None:
        version, plan = step.version, step.plan
        try:
            data = await self._fetch(step)
        except FAULTS as error:
            self.machine.stage_failed(version, str(error), self._now(), final=False)
            return
        cut("fetched")
        try:
            if plan is not None and plan.publisher:
                fleet, state_dir = self._node.config.fleet, self._sup.settings.state_dir
                trust_publishers(self._node.folder, (bytes.fromhex(plan.publisher),), fleet, state_dir)
            artefact = self._sup.shelf.admit(data, who=f"rollout {version.rollout}")
            found = (artefact.plan.name, artefact.header.agent_version, len(data))
            if plan is not None and found != (plan.agent, plan.version, plan.size_bytes):
                expected = f"{plan.agent} {plan.version} of {plan.size_bytes} bytes"
                raise RemoteError(f"expected {expected} (the plan), found {found[0]} {found[1]} of {found[2]}")
            check_hosts(self._node.rosters.current, self._node.config.device, self.name)
            check_tools(self._node.rosters.current, self._node.config.device, artefact.header)
            assert self._sup.host is not None
            await self._sup.shelf.prepare(artefact, self._sup.host)
            cut("golden")
        except FAULTS as error:
            final = not isinstance(error, (JailError, StoreError, OSError))
            self.machine.stage_failed(version, str(error), self._now(), final=final)
            return
        self.machine.staged(version)
        self._sup.log.info("rollout_checked", agent=self.name, rollout=version.rollout, artefact=version.artefact[:12])

    async def _fetch(self, step: Stage) -> bytes:
        """Only what is not here already.  Raises RemoteError, LimitError, StoreError."""
        digest, plan = bytes.fromhex(step.version.artefact), step.plan
        agent = self._sup.node.table.agents.get(self.name)
        old = self._sup.shelf.current(self.name).data if agent is not None else b""
        found: dict[bytes, dict[int, bytes]] = {}  # asked twice of one manifest

        def seed(manifest: Manifest) -> dict[int, bytes]:
            key = b"".join(manifest.chunks)
            if key not in found:
                found.clear()
                found[key] = {}
                if plan is not None and plan.sections and old:
                    try:
                        found[key] = pieces.chunks_here(manifest, plan.sections, old)
                    except EdgeSwarmError as error:
                        self._sup.log.warning("old_file_not_used", agent=self.name, error=str(error))
                if found[key]:
                    self._sup.log.info("chunks_at_hand", agent=self.name, chunks=len(found[key]), of=manifest.count)
            return found[key]

        data = await self._node.artefacts.fetch(digest, self.name, seed=seed, shared=True)
        await self._node.artefacts.exchange.store.pin(digest)
        return data

    # --- swap -------------------------------------------------------------------------------------------------------

    async def _do_try(self, step: Try) -> None:
        version, base = step.version, step.base
        cut("tried")
        try:
            data = await self._bytes_of(version)
            if base.artefact:
                await self._keep_base(base)
            cut("kept")
        except FAULTS as error:
            self.machine.try_failed(version, str(error), self._now(), final=False)
            return
        try:
            await self._bring(version.artefact, data, f"rollout {version.rollout}")
        except FAULTS as error:
            final = isinstance(error, RemoteError)  # the file is wrong in itself
            self.machine.try_failed(version, str(error), self._now(), final=final)
            return
        cut("swapped")
        self.machine.tried(version, self.facts())

    async def _keep_base(self, base: Version) -> None:
        """What may be gone back to is in the store, pinned, before anything is swapped.  Raises StoreError, ..."""
        store, digest = self._node.artefacts.exchange.store, bytes.fromhex(base.artefact)
        if await store.get(digest) is None:
            agent = self._sup.node.table.agents.get(self.name)
            if agent is None or agent.plan.artefact != base.artefact:
                raise LocalError(f"agent {self.name}: {base.artefact[:12]} is not here to be kept")
            await store.add(self._sup.shelf.current(self.name).data, pin=True)
        else:
            await store.pin(digest)

    async def _bytes_of(self, version: Version) -> bytes:
        """Of an agent file that was staged, or runs.  Raises RemoteError, ..."""
        agent = self._sup.node.table.agents.get(self.name)
        if agent is not None and agent.plan.artefact == version.artefact:
            return self._sup.shelf.current(self.name).data
        digest = bytes.fromhex(version.artefact)
        data = await self._node.artefacts.exchange.store.read(digest)
        return await self._node.artefacts.fetch(digest, self.name) if data is None else data

    async def _bring(self, artefact: str, data: bytes, who: str) -> None:
        """Let this version run, whatever runs now.  Raises as Supervisor.deploy and swap."""
        sup, name = self._sup, self.name
        agent = sup.node.table.agents.get(name)
        if agent is None:
            await sup.deploy([(who, data)])
            return
        if agent.plan.artefact != artefact:
            await self._settle()
            result = await sup.swap(name, who, data)
            cut("replaced")
            if result["status"] == "swapped":
                return
        if self.facts().status in ("failed", "quarantined", "stopped"):
            await sup.start_agent(name)

    async def _settle(self) -> None:
        """An agent on its way up cannot be swapped; one that does not come up is stopped."""
        for _ in range(round(COMES_UP_S / COMES_UP_LOOK_S)):
            if self.facts().status not in ("preparing", "starting"):
                break
            await asyncio.sleep(COMES_UP_LOOK_S)
        if self.facts().status in ("preparing", "starting", "backing_off", "paused"):
            await self._sup.stop(self.name)

    # --- back -------------------------------------------------------------------------------------------------------

    async def _do_go_back(self, step: GoBack) -> None:
        cut("back")
        base = step.base
        try:
            if base.artefact:
                await self._bring(base.artefact, await self._bytes_of(base), "what ran before")
            elif self.name in self._sup.node.table.agents:
                await self._sup.remove(self.name)
        except FAULTS as error:
            self._sup.log.error("rollout_not_undone", agent=self.name, error=str(error))
            self.machine.back_failed(str(error), self._now())
            return
        cut("restored")
        self.machine.went_back()
        self._sup.log.warning("rollout_undone", agent=self.name, why=step.why, artefact=base.artefact[:12])
