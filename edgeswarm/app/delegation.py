"""Who computes each agent: its kernel, or a delegate that is faster here and answers rightly.

An agent starts on its kernel, always; meanwhile a contest is held (`drivers/delegates`), once for each file, machine
and set of delegates.  Where a delegate wins, its jail is made and the agent's frames go there (`delegated`), with the
kernel's jail kept behind it.  A delegate that fails is out at once; it is tried again a few times, later each time,
unless it lied.
Invariants: nothing here stops an agent or delays one; a delegate computes only a file's own model, with the file's own
weights, for agents without memory, in jails of policy `delegate`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from edgeswarm.app.delegated import DelegatedPort, Failure
from edgeswarm.app.delegation_choose import Chooser
from edgeswarm.app.delegation_rows import Checks, Record, golden_of, why_never
from edgeswarm.app.pump import AgentFlow
from edgeswarm.app.shelf import Artefact
from edgeswarm.drivers.cpu_clock import cpu_ns
from edgeswarm.drivers.delegates.contest import WASM
from edgeswarm.drivers.delegates.hosts import Hosts
from edgeswarm.drivers.delegates.manager import Allocation, GpuManager
from edgeswarm.drivers.delegates.runtimes import Delegate
from edgeswarm.drivers.delegates.verdicts import Verdict
from edgeswarm.drivers.jails import Jail, Reply
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.ids import AgentName, JailId
from edgeswarm.limits import (
    DELEGATE_RETRY_PUMP_S,
    DELEGATE_RETRY_S,
    DELEGATE_TRIES_MAX,
    DRAIN_S_MAX,
    GPU_RETRY_S,
)

if TYPE_CHECKING:
    from edgeswarm.app.supervisor import Supervisor

_PRIORITY: Final = {"agent": 1.0, "coordinator": 2.0}
"""Weights of classes where agents share an accelerator."""


@dataclass(slots=True)
class _Seat:
    """An agent in its jail, while it is there."""

    flow: AgentFlow
    artefact: Artefact
    jail_id: JailId
    jail: Jail
    slot: int
    port: DelegatedPort | None = None
    pid: int = 0
    cpu_ns: int = 0
    """What the delegates of this agent have used while it is here; the last one's share of it is `cpu_now_ns`."""
    cpu_now_ns: int = 0


class Delegation:
    """Of one supervisor."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._sup = supervisor
        self._settings = supervisor.settings.profile.delegates
        self.records: dict[AgentName, Record] = {}
        self._seats: dict[AgentName, _Seat] = {}
        self._tasks: dict[AgentName, asyncio.Task[None]] = {}
        self._later: dict[AgentName, asyncio.TimerHandle] = {}
        self._loose: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()  # one contest at a time
        self._away = False
        self._hosts = Hosts(supervisor.make_host)
        self.gpu = GpuManager(self._settings.gpu_memory_mb << 20, warn=self._warn_gpu)
        self._chooser = Chooser(supervisor, self.gpu)

    # --- agents come and go -----------------------------------------------------------------------------------------

    def attached(self, flow: AgentFlow, artefact: Artefact, jail_id: JailId, jail: object, slot: int) -> None:
        """The flow sends to its kernel in this jail from now on; a delegate may take over once it has won."""
        self.detached(flow.name)
        if self._away or "tflite" not in artefact.file.sections or not isinstance(jail, Jail):
            self.records.pop(flow.name, None)
            return
        record = self.records.get(flow.name)
        if record is None or record.artefact != artefact.plan.artefact:
            record = self.records[flow.name] = Record(artefact.plan.artefact)
        record.runs_on = WASM
        seat = self._seats[flow.name] = _Seat(flow, artefact, jail_id, jail, slot)
        self._begin(seat)

    def detached(self, name: AgentName) -> None:
        """It leaves its jail, whoever computed."""
        if (timer := self._later.pop(name, None)) is not None:
            timer.cancel()
        if (task := self._tasks.pop(name, None)) is not None:
            task.cancel()
        seat = self._seats.pop(name, None)
        if seat is not None and seat.port is not None:
            seat.port.forsake()
            self._count(seat.port, self.records[name])
            self.records[name].runs_on = WASM

    def weights_swapped(self, name: AgentName) -> None:
        """The agent computes with other weights than its file's model from now on."""
        seat, record = self._seats.get(name), self.records.get(name)
        if seat is None or record is None:
            return
        if seat.port is not None:
            seat.port.end()
        if (task := self._tasks.pop(name, None)) is not None:
            task.cancel()
        record.runs_on, record.why = WASM, "its weights were swapped: they are not those of its model"

    def forget(self, name: AgentName) -> None:
        """The agent is removed."""
        self.detached(name)
        self.records.pop(name, None)

    async def leave(self) -> None:
        """The kernels compute everything until `back`: another program takes over, which knows nothing of delegates."""
        self._away = True
        self._stop_waiting()
        ports = [(seat.flow.name, seat.port) for seat in self._seats.values() if seat.port is not None]
        for name, port in ports:
            port.end()
            self.records[name].runs_on = WASM
        for _ in range(int(DRAIN_S_MAX / DELEGATE_RETRY_PUMP_S)):
            if all(port.settled for _, port in ports):
                break
            await asyncio.sleep(DELEGATE_RETRY_PUMP_S)
        await self._settle()
        await self._hosts.close()

    def _stop_waiting(self) -> None:
        for timer in self._later.values():
            timer.cancel()
        self._later.clear()
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    def back(self) -> None:
        """It did not: delegates may compute again."""
        if not self._away:
            return
        self._away, self._hosts = False, Hosts(self._sup.make_host)
        for seat in list(self._seats.values()):
            self._begin(seat)

    async def close(self) -> None:
        """End every delegate."""
        self._away = True
        for name in list(self._seats):
            self.detached(name)
        await self._settle()
        await self._hosts.close()

    async def _settle(self) -> None:
        while self._loose:
            await asyncio.gather(*self._loose, return_exceptions=True)

    # --- choosing ---------------------------------------------------------------------------------------------------

    def _begin(self, seat: _Seat) -> None:
        self._tasks[seat.flow.name] = self._run(self._serve(seat))

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._loose.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._loose.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._sup.log.crash("delegation_fault", error)

    async def _serve(self, seat: _Seat) -> None:
        """Choose, and let the winner compute."""
        name, record = seat.flow.name, self.records[seat.flow.name]
        if why := why_never(seat.artefact):
            record.why = why
            return
        field = self._chooser.field(name, without=record.lied)
        without = next((text for text in field.absent if self.gpu.memory_bytes and "cpu_only" in text), "")
        if without:
            self._again(seat, GPU_RETRY_S)
        if not field.delegates:
            record.why = "; ".join(field.absent) or "only its kernel may compute it (delegates.order)"
            return
        try:
            async with self._turn:
                verdict, is_new = await self._chooser.verdict(seat.artefact, field, self._hosts)
            reason = self._chooser.reason(verdict, field)
            record.scores, record.why = verdict.scores, f"{without}; without it {reason}" if without else reason
            if is_new:
                self._tell_contest(seat, verdict)
            choice = verdict.choice
            if choice == "gpu" and record.runs_on != "gpu" and (share := self._share(seat)).cpu_only:
                choice = self._chooser.choice([one for one in verdict.scores if one.name != "gpu"], field)
                record.why = f"{share.reason}; without it {record.why}"
                self._again(seat, share.retry_s - time.monotonic())
            await self._change(seat, next((one for one in field.delegates if one.name == choice), None), record)
        except (EdgeSwarmError, OSError) as error:
            record.why = str(error)
            self._failure(seat, "delegate", "refused", str(error))

    def _tell_contest(self, seat: _Seat, verdict: Verdict) -> None:
        us = {score.name: score.us for score in verdict.scores}
        self._sup.log.info("delegate_contest", agent=seat.flow.name, choice=verdict.choice, us=us)
        for score in verdict.scores:
            if score.us is None and score.name != WASM:
                kind: str = "wrong" if score.why.startswith("wrong answer") else "refused"
                self.records[seat.flow.name].failures[kind] += 1
                self._warn_failure(seat.flow.name, score.name, kind, score.why)

    # --- serving ----------------------------------------------------------------------------------------------------

    def _share(self, seat: _Seat) -> Allocation:
        """What this agent's model may have of the accelerator."""
        return self.gpu.join(
            seat.flow.name,
            weight=_PRIORITY[seat.artefact.allowance.class_name],
            wants_bytes=2 * len(seat.artefact.file.sections["tflite"]) + seat.artefact.layout.memory_bytes,
            now_s=time.monotonic(),
        )

    async def _change(self, seat: _Seat, delegate: Delegate | None, record: Record) -> None:
        """From whoever computes now; None: to the kernel."""
        if seat.port is not None and seat.port.active:
            if delegate is not None and record.runs_on == delegate.name:
                return
            seat.port.end()
            self._count(seat.port, record)
            record.runs_on = WASM
        if delegate is not None:
            await self._install(seat, delegate, record)

    async def _install(self, seat: _Seat, delegate: Delegate, record: Record) -> None:
        """Make the delegate's jail, and send the agent's frames there."""
        flow = seat.flow
        checks = Checks(golden_of(seat.artefact, self._settings.tolerance))
        port = DelegatedPort(
            seat.jail,
            seat.slot,
            deliver=partial(self._deliver, seat),
            failed=lambda kind, text: self._failed(seat, delegate, kind, text),
            differ=checks.differ,
            check_every=self._settings.check_every,
            turns=_Turns(self.gpu, flow.name, self._sup) if delegate.name == "gpu" else None,
        )
        try:
            jail = await self._hosts.spawn(
                delegate, self._chooser.spec(seat.artefact, delegate), on_reply=port.replied, on_exit=port.exited
            )
        except BaseException:
            self.gpu.leave(flow.name)
            raise
        self._run(self._watch(jail, delegate))
        if jail.faults:
            jail.kill("it cannot compute the model")
            self.gpu.leave(flow.name)
            raise EdgeSwarmError("; ".join(jail.faults.values()))
        if self._seats.get(flow.name) is not seat or flow.port is None or self._away:
            jail.kill("nobody needs it any more")
            self.gpu.leave(flow.name)
            return
        seat.port, seat.pid = port, jail.pid
        seat.cpu_ns, seat.cpu_now_ns = seat.cpu_ns + seat.cpu_now_ns, 0
        port.begin(jail, flow.pipeline.flight.in_flight)
        flow.port = port
        record.runs_on = delegate.name
        self._sup.log.info("delegate_serves", agent=flow.name, delegate=delegate.title, pid=jail.pid)
        flow.send()

    async def _watch(self, jail: Jail, delegate: Delegate) -> None:
        """Until the jail is gone; then its zygote may go too."""
        await jail.ended()
        await self._hosts.done(delegate)

    def _deliver(self, seat: _Seat, reply: Reply) -> None:
        self._sup.flows.reply(seat.jail_id, reply._replace(jail_id=seat.jail.id))

    def _failed(self, seat: _Seat, delegate: Delegate, kind: Failure, text: str) -> None:
        """The port has gone back to the kernel."""
        name = seat.flow.name
        record = self.records[name]
        if seat.port is not None:
            self._count(seat.port, record)
        record.runs_on = WASM
        record.why = f"{delegate.name} failed: {text}"
        if kind == "wrong":
            record.lied.add(delegate.name)
        self._failure(seat, delegate.name, kind, text)

    def _failure(self, seat: _Seat, delegate: str, kind: str, text: str) -> None:
        name = seat.flow.name
        record = self.records[name]
        record.failures[kind] += 1
        record.tries += 1
        self._warn_failure(name, delegate, kind, text)
        if record.tries < DELEGATE_TRIES_MAX:
            self._again(seat, DELEGATE_RETRY_S * 2 ** (record.tries - 1))

    def _warn_failure(self, name: AgentName, delegate: str, kind: str, text: str) -> None:
        self._sup.log.warning("delegate_failed", agent=name, delegate=delegate, kind=kind, text=text, goes_on="wasm")

    def _again(self, seat: _Seat, after_s: float) -> None:
        """Try once more, later."""
        name = seat.flow.name

        def begin() -> None:
            self._later.pop(name, None)
            if self._seats.get(name) is not seat or self._away:
                return
            task = self._tasks.get(name)
            if task is None or task.done():
                self._begin(seat)
            else:  # it is still at the last try
                self._again(seat, after_s)

        if (timer := self._later.get(name)) is not None:
            timer.cancel()
        self._later[name] = asyncio.get_running_loop().call_later(max(after_s, 0.0), begin)

    def _warn_gpu(self, reason: str) -> None:
        self._sup.log.warning("gpu_cpu_only", reason=reason)

    def cpu_ns(self, jail_id: JailId) -> int:
        """CPU time that delegates have used for agents of this jail; never less than before, as long as they stay."""
        total = 0
        for seat in self._seats.values():
            if seat.jail_id == jail_id:
                if seat.port is not None and seat.port.active:
                    seat.cpu_now_ns = max(seat.cpu_now_ns, cpu_ns(seat.pid))
                total += seat.cpu_ns + seat.cpu_now_ns
        return total

    def offers(self) -> tuple[str, ...]:
        """Who could compute here, for the cell, sorted: the kernel, and delegates that are installed and wanted."""
        wanted = self._chooser.field(AgentName(""), without=(), quiet=True).delegates
        return tuple(sorted({WASM, *(one.name for one in wanted)}))

    # --- numbers ----------------------------------------------------------------------------------------------------

    def _count(self, port: DelegatedPort, record: Record) -> None:
        record.frames += port.frames
        record.checks += port.checks
        port.frames = port.checks = 0

    def row(self, name: AgentName) -> dict[str, Any] | None:
        """Of `status`; None for an agent whose file brings no model."""
        record, seat = self.records.get(name), self._seats.get(name)
        if record is None:
            return None
        if seat is not None and seat.port is not None:
            self._count(seat.port, record)
        is_served = seat is not None and seat.port is not None and seat.port.active
        return {**record.row(), "pid": seat.pid if seat is not None and is_served else None}


class _Turns:
    """One agent's turns at the accelerator (`delegated.Turns`)."""

    def __init__(self, gpu: GpuManager, name: AgentName, supervisor: Supervisor) -> None:
        self._gpu, self._name, self._sup = gpu, name, supervisor

    def begin(self) -> bool:
        return self._gpu.begin(self._name)

    def end(self, us: float) -> None:
        self._gpu.end(self._name, us)

    def call(self) -> None:
        """Those that wait, until one of them has something to send."""
        while name := self._gpu.call():
            flow = self._sup.flows.flows.get(AgentName(name))
            if flow is not None:
                flow.send()

    def leave(self) -> None:
        self._gpu.leave(self._name)
        self.call()
