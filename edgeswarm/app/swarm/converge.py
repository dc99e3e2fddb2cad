"""The agents that rollouts bring to this device: its own, run whoever leads, with the broker gone, after a restart.

Reads the rollouts of the cell's log, verifies each plan and each order against the roster, and gives every agent's loop
what counts for it.  What the cell *places* is another matter (hosted.py): an agent is one or the other.
What becomes of each is retained on device/<id>/reported, and told as an event when it changes.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgeswarm.app.swarm import converge_disk as disk
from edgeswarm.app.swarm.converge_agent import AgentLoop
from edgeswarm.core.cell import changes as ch
from edgeswarm.core.cell.types import RolloutState
from edgeswarm.core.rollout.journal import Journal
from edgeswarm.core.rollout.steps import Known, Row, wish
from edgeswarm.drivers.mqtt.transport import Priority
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.limits import ROLLOUT_ROWS_MAX
from edgeswarm.wire import messages as msg
from edgeswarm.wire import rollout as wire

if TYPE_CHECKING:
    from edgeswarm.app.swarm.node import SwarmNode

SOON_S = 0.1  # changes that come together are said together
_EVENTS: dict[str, Any] = {"healthy": "ready", "running": "swapped", "failed": "failed", "rolled_back": "failed"}


class Converge:
    """Made with its node; `disk.look` was called before the supervisor started."""

    def __init__(self, node: SwarmNode) -> None:
        self.node = node
        self.folder = disk.folder(node.supervisor.settings.state_dir)
        self.loops: dict[str, AgentLoop] = {}
        self._judged: dict[tuple[str, bytes | None, int], Known] = {}
        self._soon: asyncio.TimerHandle | None = None
        self._said: bytes = b""
        self._closed = False

    def start(self) -> None:
        for journal in disk.load(self.folder, self.node.supervisor.log):
            self._loop_of(journal.agent, journal)
        self.look()

    async def close(self) -> None:
        self._closed = True
        if self._soon is not None:
            self._soon.cancel()
        for loop in self.loops.values():
            await loop.close()

    def changed(self, changes: Any) -> None:
        kinds = (ch.RolloutChanged, ch.RosterChanged, ch.Stopped, ch.Resumed)
        if any(isinstance(change, kinds) for change in changes):
            self.look()

    # --- what is wanted ---------------------------------------------------------------------------------------------

    def look(self) -> None:
        """The cell's word may have changed."""
        if self._closed:
            return
        device, found = self.node.config.device, dict[str, list[Known]]()
        rollouts = list(self.node.replica.state.rollouts.values())
        ours = {rollout.agent for rollout in rollouts if device in rollout.devices}
        signed_s: dict[str, int] = {}  # agent -> when the newest plan before was signed
        for rollout in rollouts:
            if rollout.agent not in ours:
                continue
            known = _not_old(self._judge(rollout), signed_s.get(rollout.agent, 0))
            if known.plan is not None:
                signed_s[rollout.agent] = known.plan.created_s
            if device in rollout.devices:
                found.setdefault(rollout.agent, []).insert(0, known)  # the newest first
        for agent in [*found, *(name for name in self.loops if name not in found)]:
            loop = self._loop_of(agent)
            loop.wanted = wish(found.get(agent, []), loop.machine.journal)
            loop.wake()

    def _loop_of(self, agent: str, journal: Journal | None = None) -> AgentLoop:
        loop = self.loops.get(agent)
        if loop is None:
            loop = self.loops[agent] = AgentLoop(self, journal or Journal(agent))
            loop.start()
        return loop

    def _judge(self, rollout: RolloutState) -> Known:
        """Verified once for each roster and each order: who has left signs no more."""
        order = rollout.order if rollout.state == "rolled_back" else None
        key = rollout.id, order, self.node.rosters.current.version
        found = self._judged.get(key)
        if found is None:
            for old in [one for one in self._judged if one[0] == rollout.id]:
                del self._judged[old]
            found = self._judged[key] = self._judge_anew(rollout, order)
        return found

    def _judge_anew(self, rollout: RolloutState, order: bytes | None) -> Known:
        rosters, log = self.node.rosters, self.node.log
        artefact = rollout.artefact.hex()
        plan, fault, withdrawn, why = None, "", False, ""
        try:
            plan = wire.open_plan(rollout.plan, roster=rosters.current, root_public=rosters.root_public)
            if (plan.rollout, plan.agent, plan.artefact) != (rollout.id, rollout.agent, artefact):
                raise wire.RolloutError(
                    f"expected rollout {rollout.id} of {rollout.agent} {artefact[:12]},"
                    f" found {plan.rollout} of {plan.agent} {plan.artefact[:12]}",
                    who="plan",
                )
        except EdgeSwarmError as error:
            plan, fault = None, str(error)
            log.error("plan_refused", rollout=rollout.id, agent=rollout.agent, error=fault)
        if order is not None:
            try:
                found = wire.open_order(order, roster=rosters.current, root_public=rosters.root_public)
                if (found.rollout, found.state) != (rollout.id, "rolled_back"):
                    raise wire.RolloutError(f"of rollout {found.rollout}: {found.state}", who="order")
                withdrawn, why = True, found.why
            except EdgeSwarmError as error:  # whoever leads may say so, but not without anybody's signature
                log.error("rollout_order_refused", rollout=rollout.id, agent=rollout.agent, error=str(error))
        return Known(rollout.id, artefact, plan, fault, withdrawn, why)

    # --- what is said -----------------------------------------------------------------------------------------------

    def rows(self) -> tuple[Row, ...]:
        found = (loop.machine.row() for loop in self.loops.values())
        return tuple(row for row in found if row is not None)[:ROLLOUT_ROWS_MAX]

    def soon(self, *, again: bool = False) -> None:
        """Say what is so, unless that was said.  again: the broker may have lost it."""
        if again:
            self._said = b""
        if self._soon is None and not self._closed:
            self._soon = asyncio.get_running_loop().call_later(SOON_S, self._say)

    def _say(self) -> None:
        self._soon = None
        node = self.node
        rows = tuple(
            msg.RolloutRow(row.agent, row.rollout, bytes.fromhex(row.artefact), row.state, row.why)
            for row in self.rows()
            if row.rollout and row.artefact
        )
        agents = node.reports.agents()
        said = msg.encode(msg.ReportedState(0, 0, agents, rows))
        if said == self._said or not node.transport.is_connected:
            return
        self._said = said
        reported = msg.ReportedState(node.peer.term_seen, node.replica.index, agents, rows)
        topic = node.topics.reported(node.config.device)
        node.post.send(topic, msg.encode(reported), priority=Priority.MEDIUM, qos=1, retain=True)

    def event(self, row: Row) -> None:
        """Something happened to an agent of a rollout."""
        node, name = self.node, _EVENTS.get(row.state)
        if name is None:
            return
        event = msg.AgentLifecycle(
            device=node.config.device,
            agent=row.agent,
            event=name,
            artefact=bytes.fromhex(row.artefact) or bytes(32),
            epoch=0,
            term=node.peer.term_seen,
            cause=f"rollout-{row.rollout}",
            text=f"{row.state} {row.why}".strip(),
        )
        topic = node.topics.event(msg.event_priority("agent.lifecycle"), "agent.lifecycle")
        node.post.send(topic, msg.encode(event), priority=Priority.MEDIUM, qos=1)


def _not_old(known: Known, signed_s: int) -> Known:
    """A plan that was signed before one that the cell has had since is none: somebody kept it, and says it again."""
    plan = known.plan
    if plan is None or plan.created_s >= signed_s:
        return known
    fault = f"its plan is older than the one before it: signed {signed_s - plan.created_s} s earlier"
    return replace(known, plan=None, fault=fault)
