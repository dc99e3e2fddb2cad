"""What operators ask of the issuer: who waits, and yes or no."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from edgeswarm.app.fleet.issuer_enrol import Candidate, Enrolment
from edgeswarm.app.fleet.issuer_judge import identity
from edgeswarm.app.fleet.issuer_pending import PendingBook, Waiting
from edgeswarm.app.swarm.peer import CallError
from edgeswarm.errors import LocalError, RemoteError
from edgeswarm.wire.certificate import Role
from edgeswarm.wire.join import Answer, Request, Topic
from edgeswarm.wire.roster_form import entry_in

if TYPE_CHECKING:
    from edgeswarm.app.log import Log
    from edgeswarm.app.swarm.node import SwarmNode

REASON_CHARS_MAX = 256
_ROLES: dict[str, Role] = {"reader": "reader", "worker": "worker", "coordinator": "coordinator"}


class People(ABC):
    """The part of Issuer that operators speak to."""

    node: SwarmNode
    log: Log
    enrolment: Enrolment
    pending: PendingBook
    _open: dict[str, tuple[Topic, Request]]

    @abstractmethod
    async def _use(self, one: Candidate) -> None:
        """Consume its token."""

    @abstractmethod
    async def _approved(self, one: Candidate, waits: tuple[Topic, Request] | None) -> None:
        """It is in the roster; waits: where it wants to hear it."""

    @abstractmethod
    def _answer(self, topic: Topic, request: Request, answer: Answer) -> None: ...

    async def rows(self, args: dict[str, Any], who: str) -> Any:
        """`pending`: who waits; for a coordinator also the entry that an operator has to sign (`proposal`)."""
        roster = self.node.rosters.current
        rows = []
        for row in self.pending.rows():
            found = row.row()
            if row.role == "coordinator":
                token = self.node.replica.state.tokens.get(row.token)
                found["proposal"] = {
                    "fleet": roster.fleet,
                    "cell": roster.cell,
                    "device": row.device,
                    "number": roster.number_next,
                    "role": row.role,
                    "capabilities": sorted(token.grants) if token is not None else [],
                    "since": roster.version + 1,
                }
            rows.append(found)
        return rows

    async def approve(self, args: dict[str, Any], who: str) -> Any:
        """`approve`: {id, entry}.  entry: the proposal signed by an operator, for a coordinator.

        Raises CallError "stale" where the roster has changed since the proposal, RemoteError, LocalError.
        """
        row = self._waiting(args)
        token = self.node.replica.state.tokens.get(row.token)
        if token is None:
            self.pending.remove(row.id)
            raise LocalError(f"{row.id}: its token {row.token} is gone")
        entry = args.get("entry", b"")
        if not isinstance(entry, bytes):
            raise RemoteError("approve: entry: expected bytes", who=who)
        device, known = identity(row.device, row.public, self.node.rosters.current)  # others came in since it asked
        if device != row.device:
            raise LocalError(f"{row.id}: its key is {device}'s by now: it joins as that, or with a new key")
        if row.role == "coordinator" and not known:
            self._check_entry(row, entry, who)
        one = Candidate(row.device, row.public, _ROLES[row.role], token.grants, token.id, entry)
        await self._use(one)
        rosters = await self.enrolment.enrol([one])
        await self._approved(one, self._open.pop(row.id, None))
        self.pending.remove(row.id)
        self.log.info("join_approved", id=row.id, device=row.device, who=who)
        return {"id": row.id, "device": row.device, "role": row.role, "roster_version": rosters[one.device].version}

    def _check_entry(self, row: Waiting, entry: bytes, who: str) -> None:
        roster = self.node.rosters.current
        if not entry:
            raise LocalError(f"{row.id}: {row.device} would be a coordinator: an operator must sign its entry")
        said = entry_in(entry)
        if said.number != roster.number_next or said.since != roster.version + 1:
            raise CallError("the roster has changed meanwhile: sign it anew", who=who, code="stale")
        if (said.device, said.role) != (row.device, row.role):
            raise RemoteError(f"the entry is of {said.device}, {said.role}", who=who)

    async def deny(self, args: dict[str, Any], who: str) -> Any:
        """`deny`: {id, reason}."""
        row = self._waiting(args)
        why = args.get("reason") or "no reason given"
        if not isinstance(why, str) or len(why) > REASON_CHARS_MAX:
            raise RemoteError(f"deny: reason: expected a text of at most {REASON_CHARS_MAX} characters", who=who)
        self.pending.deny(row, why)
        waits = self._open.pop(row.id, None)
        if waits is not None:
            self._answer(*waits, Answer("refused", "denied", f"an operator said no: {why}"))
        self.log.info("join_denied", id=row.id, device=row.device, who=who, reason=why)
        return {"id": row.id, "device": row.device}

    def _waiting(self, args: dict[str, Any]) -> Waiting:
        id_ = args.get("id")
        row = self.pending.get(id_) if isinstance(id_, str) else None
        if row is None or row.denied:
            raise LocalError(f"{id_!r:.40}: no request of that id waits; `edgeswarm fleet pending` lists them")
        return row
