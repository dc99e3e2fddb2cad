"""Waves: the controller takes each rollout from wave to wave, as its plan says and its devices report.

All of its state is in the cell's log and in what devices retain: it may be down, be killed, be another one tomorrow; a
wave waits meanwhile.  It resolves selectors and proposes; what it proposes is bound to a plan that an operator signed,
and it can take back by itself (the issuer's signature), but bring nothing.
core.rollout.waves decides; here is who is heard, who is asked, and what operators may ask.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgeswarm.app.swarm.post import Letter
from edgeswarm.core import selector as sel
from edgeswarm.core.cell import changes as ch
from edgeswarm.core.cell import commands as cmd
from edgeswarm.core.cell.types import RolloutState
from edgeswarm.core.rollout import waves as core
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.limits import ROLLOUT_HEARD_S, WHY_BYTES_MAX
from edgeswarm.wire import messages as msg
from edgeswarm.wire import rollout as wire
from edgeswarm.wire.certificate import Signatory

if TYPE_CHECKING:
    from edgeswarm.app.fleet.controller import Controller
    from edgeswarm.app.fleet.waves_asked import WavesAsked

LOOK_S, LOOK_MIN_S = 5.0, 0.2  # between two looks at all rollouts
RUNS = frozenset({"coordinator", "worker"})  # roles whose devices run agents


@dataclass(slots=True)
class _Device:
    """heard: when something of it came last (monotonic); rollouts: id -> what it last said of it."""

    heard: float = -1e9
    gone: bool = False
    status: msg.DeviceStatus | None = None
    rollouts: dict[str, core.Report] = field(default_factory=dict)


@dataclass(slots=True)
class Clock:
    """Since when this state of a rollout is known here."""

    wave: int
    reached: int
    wave_at: float
    well_at: float | None = None
    why: str = ""


class Waves:
    """controller: its node is started.  start() listens and goes on with what the log says."""

    def __init__(self, controller: Controller) -> None:
        self._controller, self._node, self._log = controller, controller.node, controller.log
        self._devices: dict[str, _Device] = {}
        self.clocks: dict[str, Clock] = {}
        self._plans: dict[tuple[str, int], wire.Plan | str] = {}
        self.wake = asyncio.Event()
        self.news: set[asyncio.Event] = set()
        self._task: asyncio.Task[None] | None = None
        self._ends: list[Any] = []
        self.asked: WavesAsked | None = None

    def start(self) -> None:
        post, topics = self._node.post, self._node.topics
        self._ends = [
            post.on(topics.statuses(), self._status, qos=1, again=True),
            post.on(topics.statuses().replace("/status", "/reported"), self._reported, qos=1, again=True),
            post.on(topics.goners(), self._gone, qos=1),
        ]
        self._node.replica.listeners.append(self._changed)
        self._task = asyncio.create_task(self._run(), name="waves")

    async def close(self) -> None:
        for end in self._ends:
            end()
        if self._changed in self._node.replica.listeners:
            self._node.replica.listeners.remove(self._changed)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self.asked is not None:
            self.asked.uploads.close()

    # --- what is heard ----------------------------------------------------------------------------------------------

    def _device(self, name: str) -> _Device:
        """Only devices of the roster are kept, so this is bounded as the roster is."""
        if self._node.rosters.current.member(name) is None:
            return _Device()
        return self._devices.setdefault(name, _Device())

    def _status(self, letter: Letter) -> None:
        status = msg.decode(letter.payload, who=letter.sender, kinds=(msg.DeviceStatus,))
        if letter.sender == letter.topic.device and isinstance(status, msg.DeviceStatus):
            found = self._device(letter.sender)
            found.status, found.heard, found.gone = status, time.monotonic(), status.state == "offline"
            self.wake.set()

    def _reported(self, letter: Letter) -> None:
        state = msg.decode(letter.payload, who=letter.sender, kinds=(msg.ReportedState,))
        if letter.sender == letter.topic.device and isinstance(state, msg.ReportedState):
            found = self._device(letter.sender)
            found.rollouts = {row.rollout: core.Report(row.state, row.why) for row in state.rollouts}
            if not letter.retained:
                found.heard, found.gone = time.monotonic(), False
            self.wake.set()

    def _gone(self, letter: Letter) -> None:
        """A last will, signed by nobody: it may make us wait for one device less, and that is all."""
        if letter.topic.device in self._devices:
            self._devices[letter.topic.device].gone = True
            self.wake.set()

    def _changed(self, changes: Any) -> None:
        if any(isinstance(change, (ch.RolloutChanged, ch.RosterChanged, ch.LabelsChanged)) for change in changes):
            self.wake.set()

    # --- what the selector matches ----------------------------------------------------------------------------------

    def _selectable(self, name: str) -> sel.Device:
        roster, found = self._node.rosters.current, self._devices.get(name, _Device())
        member, status = roster.member(name), found.status
        labels = self._node.replica.state.labels.get(name, ())
        offer = status.capabilities if status is not None else None
        state = "never" if status is None else status.state if self._is_there(name) else "silent"
        return sel.Device(
            id=name,
            role=roster.role(name) or "",
            state=state,
            tier=offer.tier if offer else "",
            profile=offer.profile if offer else "",
            architecture=offer.architecture if offer else "",
            software=offer.software if offer else "",
            labels=tuple((key, value) for key, _, value in (label.partition("=") for label in labels)),
            delegates=offer.delegates if offer else (),
            sensors=offer.sensors if offer else (),
            grants=tuple(member.entry.capabilities) if member is not None else (),
            agents=tuple(agent.agent for agent in status.agents) if status is not None else (),
        )

    def match(self, selector: str, *, seed: str = "") -> list[str]:
        """Devices that can run agents and that the selector names; never the controller.  Raises SelectorError."""
        wanted = sel.parse(selector)
        roster, own = self._node.rosters.current, self._node.config.device
        names = (name for name in roster.devices() if name != own and roster.role(name) in RUNS)
        return [name for name in names if wanted.matches(self._selectable(name), seed=seed)]

    def _is_there(self, name: str) -> bool:
        found = self._devices.get(name)
        return found is not None and not found.gone and time.monotonic() - found.heard < ROLLOUT_HEARD_S

    # --- one look after the other -----------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            self.wake.clear()
            wait_s = LOOK_S
            for rollout in list(self._node.replica.state.rollouts.values()):
                if rollout.state != "running":
                    continue
                try:
                    wait_s = min(wait_s, await self._turn(rollout))
                except EdgeSwarmError as error:  # no leader, no quorum: the wave waits
                    self._log.warning("rollout_waits", rollout=rollout.id, error=str(error))
                except Exception as error:  # whatever it is: the other rollouts go on
                    self._log.crash("fleet_fault", error)
            for news in self.news:
                news.set()
            await asyncio.sleep(LOOK_MIN_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, wait_s - LOOK_MIN_S)):
                    await self.wake.wait()

    async def _turn(self, rollout: RolloutState) -> float:
        """Seconds until it should be looked at again."""
        plan, now = self.plan(rollout), time.monotonic()
        clock = self._clock(rollout, now)
        if isinstance(plan, str):
            clock.why = plan
            return LOOK_S
        step = core.decide(plan, self.seen(rollout, plan, clock), now)
        clock.why = step.why if isinstance(step, (core.Hold, core.TakeBack)) else ""
        match step:
            case core.Hold(_, s, well):
                clock.well_at = (clock.well_at or now) if well else None
                return LOOK_S if s is None else s
            case core.Advance(wave, devices):
                await self.propose(cmd.AdvanceRollout(rollout.id, wave, devices, self._node.config.device))
                self._log.info("rollout_advanced", rollout=rollout.id, wave=wave, devices=len(devices))
            case core.Finish():
                await self.propose(cmd.SteerRollout(rollout.id, "done", b"", "", self._node.config.device))
                self._log.info("rollout_done", rollout=rollout.id, devices=len(rollout.devices))
            case core.TakeBack(why):
                await self._take_back(rollout, why)
        return 0.0

    async def _take_back(self, rollout: RolloutState, why: str) -> None:
        """The gate has failed: signed by the issuer, or devices would not obey."""
        node = self._node
        order = wire.Order(rollout.id, "rolled_back", why, int(time.time()))
        data = wire.seal_order(order, fleet=node.config.fleet, cell=node.config.cell, by=self._issuer())
        wire.open_order(data, roster=node.rosters.current, root_public=node.rosters.root_public)
        await self.propose(cmd.SteerRollout(rollout.id, "rolled_back", data, short(why), node.config.device))
        self._log.warning("rollout_taken_back", rollout=rollout.id, why=why)

    def _issuer(self) -> Signatory:
        from edgeswarm.drivers.pki.sealed import load_key

        return Signatory.from_seed(load_key(self._controller.folder.issuer_key, None).seed)

    async def propose(self, command: Any) -> None:
        await self._node.propose(cmd.encode(command))

    def _clock(self, rollout: RolloutState, now: float) -> Clock:
        """wave_at and well_at begin anew with each wave, and with each life of the controller."""
        clock = self.clocks.get(rollout.id)
        if clock is None or (clock.wave, clock.reached) != (rollout.wave, len(rollout.devices)):
            clock = self.clocks[rollout.id] = Clock(rollout.wave, len(rollout.devices), now)
            known = self._node.replica.state.rollouts
            self.clocks = {name: found for name, found in self.clocks.items() if name in known}
        return clock

    def plan(self, rollout: RolloutState) -> wire.Plan | str:
        """Verified once for each roster; a text says why it is not."""
        rosters = self._node.rosters
        key = rollout.id, rosters.current.version
        found = self._plans.get(key)
        if found is None:
            self._plans = {one: plan for one, plan in self._plans.items() if one[1] == rosters.current.version}
            try:
                found = wire.open_plan(rollout.plan, roster=rosters.current, root_public=rosters.root_public)
            except EdgeSwarmError as error:
                found = str(error)
                self._log.error("plan_refused", rollout=rollout.id, error=found)
            self._plans[key] = found
        return found

    def seen(self, rollout: RolloutState, plan: wire.Plan, clock: Clock) -> core.Seen:
        reports = {
            device: report
            for device in rollout.devices
            if device in self._devices and (report := self._devices[device].rollouts.get(rollout.id)) is not None
        }
        there = {device for device in rollout.devices if self._is_there(device)}
        matched = self.match(plan.selector, seed=rollout.id)
        return core.Seen(matched, rollout.wave, rollout.devices, reports, there, clock.wave_at, clock.well_at)


def short(why: str) -> str:
    """As much of a reason as the log takes; the order has all of it."""
    return why.encode()[:WHY_BYTES_MAX].decode(errors="ignore")


def register(controller: Controller) -> Waves:
    """The part, and what operators may ask of it; start() it once the cell's version is 3."""
    from edgeswarm.app.fleet.waves_asked import WavesAsked

    waves = controller.waves = Waves(controller)
    asked = waves.asked = WavesAsked(controller, waves)
    controller.one |= {
        "rollout.start": asked.started,
        "rollout.match": asked.matched,
        "rollout.list": asked.listed,
        "rollout.show": asked.shown,
        "rollout.steer": asked.steered,
        "artefact.put": asked.put,
    }
    controller.many["rollout.watch"] = asked.watched
    controller.needs |= dict.fromkeys(("rollout.start", "rollout.steer", "artefact.put"), "deploy")
    return waves
