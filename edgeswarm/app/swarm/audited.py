"""What the audit log of a device tells of its cell: rosters, leaders, orders, proposals refused, agents placed here.

Hooks only, put where things happen.  What peers can make happen as often as they like (refusals) goes
through a bucket, so that nobody can push older lines out of the log; what it held back is counted in the next line.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from edgeswarm.core.audit import Outcome
from edgeswarm.drivers.keys import key_id
from edgeswarm.errors import CodecError, EdgeSwarmError
from edgeswarm.limits import AUDIT_REFUSALS_BURST, AUDIT_REFUSALS_PER_S
from edgeswarm.wire import cose

if TYPE_CHECKING:
    from edgeswarm.app.swarm.node import SwarmNode
    from edgeswarm.app.swarm.peer import Leader


class Audited:
    """One for each SwarmNode."""

    def __init__(self, node: SwarmNode) -> None:
        self._node = node
        self._audit = node.supervisor.audit
        self._version = node.rosters.current.version
        self._left, self._at, self._held = float(AUDIT_REFUSALS_BURST), time.monotonic(), 0
        self._audit.kid_of = self._kid
        node.peer.on_leader.append(self._led)
        node.peer.on_roster.append(self._roster)

    def _kid(self, who: str) -> str:
        public = self._node.rosters.lookup(who)
        return "" if public is None else str(key_id(public))

    def joined(self, *, left: bool = False) -> None:
        config = self._node.config
        action = "cell.leave" if left else "cell.start"
        self._audit.record(action, who=config.device, target=f"{config.fleet}/{config.cell} boot {self._node.boot}")

    def _led(self, leader: Leader | None) -> None:
        if leader is not None:
            role = self._node.rosters.current.role(leader.device) or ""
            self._audit.record("leader.verified", who=leader.device, role=role, target=f"term {leader.term}")

    def _roster(self) -> None:
        roster = self._node.rosters.current
        if roster.version != self._version:
            self._version = roster.version
            target = f"version {roster.version} {roster.hash.hex()[:16]}"
            self._audit.record("roster.adopted", who=self.signer(roster.signer), target=target)

    def signer(self, kid: bytes) -> str:
        """Whose key it is: an authority's name, a device, or the key id."""
        roster = self._node.rosters.current
        try:
            authority = roster.open_authorities(self._node.rosters.root_public).get(kid)
        except EdgeSwarmError:
            authority = None
        if authority is not None:
            return f"{authority.duty} {authority.name}"
        devices = (member.entry.device for member in roster.members if cose.key_id(member.public) == kid)
        return next(devices, kid.decode(errors="replace"))

    def order(self, data: bytes, *, stop: bool, number: int, reason: str) -> None:
        try:
            who = self.signer(cose.parse1(data, who="order").kid)
        except CodecError:
            who = "?"
        self._audit.record("order.stop" if stop else "order.resume", who=who, target=f"number {number}", reason=reason)

    def refused(
        self, action: str, error: EdgeSwarmError | str, *, who: str, capability: str = "", target: str = ""
    ) -> None:
        """Something that a peer asked for and may not have."""
        now = time.monotonic()
        self._left = min(AUDIT_REFUSALS_BURST, self._left + (now - self._at) * AUDIT_REFUSALS_PER_S)
        self._at = now
        if self._left < 1:
            self._held += 1
            return
        self._left -= 1
        held, self._held = self._held, 0
        more = f" ({held} more refusals before this one)" if held else ""
        role = self._node.rosters.current.role(who) or ""
        self._audit.record(
            action, who=who, role=role, capability=capability, target=target, outcome="refused", reason=f"{error}{more}"
        )

    def agent(self, agent: str, status: str, why: str) -> None:
        """The cell had it brought up or taken down."""
        leader = self._node.peer.leader
        who = "cell" if leader is None else leader.device
        outcome: Outcome = "failed" if status == "failed" else "ok"
        self._audit.record(f"agent.{status}", who=who, target=agent, outcome=outcome, reason=why)
