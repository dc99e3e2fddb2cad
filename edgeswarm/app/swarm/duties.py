"""What the leader does beside replicating: who lives, where agents go, what tasks are given out.

All of it is decided by pure modules (core.health, core.placement, core.jobs) and goes through the log as commands, so
that a new leader goes on where this one stopped.  Nothing here is remembered that the cell must not lose.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edgeswarm.app.swarm import growth, rights
from edgeswarm.app.swarm.post import Letter
from edgeswarm.app.swarm.tasks import TaskDuty
from edgeswarm.core import placement
from edgeswarm.core.cell import changes as ch
from edgeswarm.core.cell import commands as cmd
from edgeswarm.core.cell.types import Move
from edgeswarm.core.health import Back, Health, Life, Lost
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.limits import COMMAND_BATCH_MAX
from edgeswarm.wire import messages as msg

if TYPE_CHECKING:
    from edgeswarm.app.swarm.node import SwarmNode

PLAN_SOON_S = 0.02  # changes that come together are planned together
PLAN_AGAIN_S = 1.0  # after a proposal that was not applied
WILL_KEPT_S = 10.0
TEND_S = 1.0
_REPLAN = (ch.DeviceUp, ch.DeviceDown, ch.DeviceChanged, ch.DeviceForgotten, ch.Deployed, ch.Removed, ch.Unplaced)


class Duties:
    """active: this device leads."""

    def __init__(self, node: SwarmNode) -> None:
        self._node = node
        self.active = False
        self.health = Health(node.config.times.health)
        self.load: dict[str, int] = {}  # device -> thousandths of it that are busy
        self._follows: dict[str, tuple[int, int]] = {}  # device -> the newest term and roster that it knows
        self.unplaced: dict[str, str] = {}
        self._wills: dict[str, float] = {}
        self._aways: dict[str, float] = {}  # device -> ms of the clock until which it said that it is silent
        self._due: asyncio.TimerHandle | None = None
        self._plan_due: asyncio.TimerHandle | None = None
        self._planning = False
        self._statuses: dict[str, Callable[[], None]] = {}
        self._tending = False
        self._tended_at = 0.0
        self.jobs = TaskDuty(node)

    def _now(self) -> float:
        return asyncio.get_running_loop().time() * 1000

    # --- beginning and end --------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """This device leads from now on: watch everybody afresh, as the cell has them."""
        self.active = True
        now = self._now()
        self.health = Health(self._node.config.times.health)
        for device in self._node.replica.state.devices.values():
            self.health.watch(device.id, now, alive=device.alive)
        for device_id, at in self._wills.items():
            if now - at < WILL_KEPT_S * 1000:
                self.health.will(device_id, now)
        for device_id, until in self._aways.items():
            self.health.away(device_id, until)
        self._node.post.on(self._node.topics.events("low", "health"), self._heard)
        self._watch()
        self._planning = False
        self._plan_soon()
        self.jobs.begin()

    def end(self) -> None:
        """Another device leads, or nobody."""
        if not self.active:
            return
        self.active = False
        self.jobs.end()
        self._node.transport.unsubscribe(self._node.topics.events("low", "health"))
        for timer in (self._due, self._plan_due):
            if timer is not None:
                timer.cancel()
        self._due = self._plan_due = None

    async def close(self) -> None:
        self.end()

    # --- who lives ----------------------------------------------------------------------------------------------------

    def _heard(self, letter: Letter) -> None:
        health = msg.decode(letter.payload, who=letter.sender, kinds=(msg.Health,))
        assert isinstance(health, msg.Health)
        self._wills.pop(letter.sender, None)
        if self.health.heard(letter.sender, letter.boot, letter.seq, self._now()):
            device = self._node.replica.state.devices.get(letter.sender)
            cores = device.capabilities.cpu_milli if device is not None else 0
            self.load[letter.sender] = min(1000, health.load.cpu_milli * 1000 // cores) if cores else 0
            self._follows[letter.sender] = health.term, health.roster_version
            self._watch()

    def follows(self, device: str) -> bool:
        """It lives and follows this leader, in its own words: the cell's `alive` may be of a leader before."""
        term, roster_version = self._follows.get(device, (0, 0))
        return (
            self.health.life(device) is Life.ALIVE
            and term == self._node.peer.term_seen
            and roster_version >= self._node.rosters.current.voters_since
        )

    def alive(self) -> None:
        """This device hears itself: brokers do not send it what it says."""
        node = self._node
        now = self._now()
        if self.active and now - self._tended_at > TEND_S * 1000:
            self._tended_at = now
            self._tend_soon()
        if self.active and self.health.heard(node.config.device, node.boot, node.post.seq, self._now()):
            self.load[node.config.device] = node.reports.busy_permille

    def hear_statuses(self, devices: Sequence[str]) -> None:
        """Follow the retained statuses of these, while this device leads."""
        for device in devices:
            if device not in self._statuses:
                topic = self._node.topics.status(device)
                self._statuses[device] = self._node.post.on(topic, self._node.reports.heard)

    def gone(self, device: str) -> None:
        """The broker tells a last will."""
        if device == self._node.config.device:
            return  # of an earlier connection of ours
        now = self._now()
        self._wills[device] = now
        if len(self._wills) > 2 * len(self._node.rosters.current.members) + 64:
            self._wills.clear()
        if self.active:
            self.health.will(device, now)
            self._watch()

    def away(self, letter: Letter) -> None:
        """Every voter remembers it: the device that goes away for a moment may be the leader."""
        away = msg.decode(letter.payload, who=letter.sender, kinds=(msg.Away,))
        assert isinstance(away, msg.Away)
        now = self._now()
        self._aways = {device: until for device, until in self._aways.items() if until > now}
        self._aways[letter.sender] = until = now + away.back_ms
        if self.active and self.health.heard(letter.sender, letter.boot, letter.seq, now):
            self.health.away(letter.sender, until)
            self._watch()

    def listen_again(self) -> None:
        """The broker is back: nobody could be heard meanwhile."""
        if self.active:
            self.health.listen_again(self._now())
            self._watch()

    def _watch(self) -> None:
        """Look again when the next one is due."""
        at = self.health.next_at()
        if at is None or not self.active:
            return
        loop = asyncio.get_running_loop()
        if self._due is not None:
            if self._due.when() <= at / 1000:
                return
            self._due.cancel()
        self._due = loop.call_at(at / 1000, self._look)

    def _look(self) -> None:
        self._due = None
        node, now = self._node, self._now()
        if not node.transport.is_connected:
            self.health.listen_again(now)  # we hear nobody: that says nothing about them
        for event in self.health.due(now):
            device = node.replica.state.devices.get(getattr(event, "device", ""))
            if device is None:
                continue
            match event:
                case Lost() if device.id != node.config.device:
                    silent_ms = round(event.silent_ms)
                    node.log.warning("device_lost", device=device.id, silent_ms=silent_ms, will=event.will)
                    self._propose(cmd.DeviceLost(device.id, device.epoch))
                case Back():
                    node.log.info("device_back", device=device.id)
                    self._propose(cmd.DeviceBack(device.id, device.epoch))
                case _:
                    node.log.info("device_suspected", device=device.id)
        self._watch()

    # --- what the cell says -------------------------------------------------------------------------------------------

    def changed(self, changes: Sequence[Any]) -> None:
        """Entries were applied: on every device; here only while it leads."""
        if not self.active:
            return
        now = self._now()
        for change in changes:
            match change:
                case ch.DeviceUp():
                    self.health.watch(change.device, now, alive=True)
                case ch.DeviceDown():
                    self.health.watch(change.device, now, alive=False)
                case ch.DeviceForgotten():
                    self.health.forget(change.device)
                    self.load.pop(change.device, None)
                    self._follows.pop(change.device, None)
            if isinstance(change, _REPLAN):
                self._plan_soon()
        self._watch()
        self.jobs.changed(changes)

    def restored(self) -> None:
        self.jobs.restored()
        if self.active:
            self._plan_soon()

    # --- where agents go ----------------------------------------------------------------------------------------------

    def _plan_soon(self, delay_s: float = PLAN_SOON_S) -> None:
        if self._plan_due is None and self.active:
            self._plan_due = asyncio.get_running_loop().call_later(delay_s, self._plan)

    def _plan(self) -> None:
        self._plan_due = None
        if self._planning or not self.active:
            return
        state = self._node.replica.state
        devices = [rights.placeable(self._node.rosters.current, device) for device in state.devices.values()]
        plan = placement.plan(devices, state.agents.values(), load=self.load)
        for agent, why in plan.unplaced.items():
            if self.unplaced.get(agent) != why:
                self._node.log.warning("agent_unplaced", agent=agent, why=why)
        self.unplaced = dict(plan.unplaced)
        moves = [Move(move.agent, move.device, move.epoch) for move in plan.moves]
        if moves:
            self._planning = True
            self._propose(cmd.Place(tuple(moves[:COMMAND_BATCH_MAX])), then=self._planned)

    def _tend_soon(self) -> None:
        """Look after who votes, now and then and after changes: rarely anything is to be done."""
        if self._tending or not self.active:
            return
        self._tending = True

        async def work() -> None:
            try:
                await growth.tend(self._node)
            except EdgeSwarmError as error:
                self._node.log.info("duty_not_done", command="voters", error=str(error))
            finally:
                self._tending = False

        self._node.task(work())

    def _planned(self, ok: bool) -> None:
        self._planning = False
        self._plan_soon(PLAN_SOON_S if ok else PLAN_AGAIN_S)

    def _propose(self, command: cmd.Command, then: Callable[[bool], None] | None = None) -> None:
        async def propose() -> None:
            ok = False
            try:
                await self._node.commit(cmd.encode(command))
                ok = True
            except EdgeSwarmError as error:
                self._node.log.info("duty_not_done", command=type(command).__name__, error=str(error))
            finally:
                if then is not None:
                    then(ok)

        self._node.task(propose())
