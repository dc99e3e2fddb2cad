"""What a device asks of its cell, and what peers ask of it: commands for the log, fresh looks, rosters, a hand-over.

Invariant: a command is proposed again only where it is sure that nothing was proposed before.
"""

from __future__ import annotations

import asyncio
from typing import Any

from edgeswarm.app.swarm.audited import Audited
from edgeswarm.app.swarm.config import CellConfig
from edgeswarm.app.swarm.feed import FeedFollower
from edgeswarm.app.swarm.orders import Orders
from edgeswarm.app.swarm.peer import CallError, Peer, Reply, outcome_bytes
from edgeswarm.app.swarm.replica import Applied, OutcomeUnknownError, RejectedError, Replica
from edgeswarm.app.swarm.rosters import RosterBook
from edgeswarm.app.swarm.voter import Voter
from edgeswarm.core.cell import changes as ch
from edgeswarm.core.raft.config import ProposalDroppedError
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.wire import codec

PROPOSE_AGAIN_S = 0.02
COMMIT_S = 5.0


def outcome(applied: Applied) -> tuple[int, str, Any]:
    """(index, why it was rejected, what its proposer wants to know)."""
    value = next((change.session for change in applied.changes if isinstance(change, ch.SessionOpened)), None)
    return applied.index, applied.reason, value


class Asking:
    """The part of SwarmNode that asks and answers."""

    config: CellConfig
    peer: Peer
    orders: Orders
    replica: Replica
    rosters: RosterBook
    voter: Voter | None
    follower: FeedFollower | None
    audited: Audited

    def serve(self) -> None:
        """Answer from now on."""
        self.peer.direct["propose"] = self._propose
        self.peer.methods |= {
            "read.index": self._read_index,
            "transfer": self._transfer,
        }

    async def propose(self, command: bytes, *, deadline_s: float = 5.0) -> tuple[int, Any]:
        """Have `command` committed: (index, value).

        Raises RejectedError, NoLeaderError, OutcomeUnknownError; RemoteError where it is not this device's to propose.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline_s
        while (await self.peer.wait_leader(max(0.001, end - loop.time()))).device == self.config.device:
            self.orders.check_may_propose(self.config.device, command)  # it leads, and has no more rights than before
            try:
                async with asyncio.timeout(max(0.001, end - loop.time())):
                    index, reason, value = await self._commit(command)
            except (ProposalDroppedError, CallError):  # nothing was proposed: another will lead soon
                if loop.time() >= end:
                    raise
                await asyncio.sleep(PROPOSE_AGAIN_S)
                continue
            except TimeoutError:
                raise OutcomeUnknownError(f"not applied within {deadline_s:g} s") from None
            if reason:
                raise RejectedError(reason)
            return index, value
        outcome = await self.peer.propose(command, deadline_s=max(0.001, end - loop.time()))
        return outcome.index, outcome.value

    async def _commit(self, command: bytes) -> tuple[int, str, Any]:
        return outcome(await self._begin(command))

    def _begin(self, command: bytes) -> asyncio.Future[Applied]:
        if self.voter is None or not self.voter.leads:
            raise CallError("not the leader", who=self.config.device, code="not-leader")
        return self.voter.propose(command)

    async def commit(self, command: bytes) -> int:
        """A command of the leader's own, to this device only: the index it was applied at.  Raises as propose."""
        try:
            async with asyncio.timeout(COMMIT_S):
                index, reason, _ = await self._commit(command)
        except TimeoutError:
            raise OutcomeUnknownError(f"not applied within {COMMIT_S:g} s") from None
        if reason:
            raise RejectedError(reason)
        return index

    def _propose(self, sender: str, body: bytes, reply: Reply) -> None:
        """A peer's command: into the log, and the answer when it is applied."""

        def answer(future: asyncio.Future[Applied]) -> None:
            if future.cancelled():
                return
            error = future.exception()
            if error is not None:  # this device leads no more: who asked need not wait for its deadline
                reply(b"", "unknown", str(error))
            else:
                reply(outcome_bytes(*outcome(future.result())), "", "")

        if self.voter is None or not self.voter.leads:
            raise CallError("not the leader", who=self.config.device, code="not-leader")
        try:
            self.orders.check_may_propose(sender, body)
        except EdgeSwarmError as error:
            self.audited.refused("proposal", error, who=sender)
            raise
        try:
            self._begin(body).add_done_callback(answer)
        except ProposalDroppedError as error:
            raise CallError(str(error), who=self.config.device, code="not-leader") from None

    async def barrier(self) -> None:
        """Returns once this copy holds everything that was committed before.  Raises NoLeaderError, CallError, ..."""
        if self.voter is not None:
            await self.voter.read_barrier()
            return
        match codec.loads(await self.ask_leader("read.index", b"")):
            case [int(index)]:
                pass
            case _:
                raise CallError("read.index: expected [index]", who="leader", code="error")
        while self.replica.index < index:
            if self.follower is not None:
                self.follower.catch_up()
            await asyncio.sleep(0.01)

    async def ask_leader(self, method: str, body: bytes, *, deadline_s: float = 5.0) -> bytes:
        """The leader's answer.  Raises NoLeaderError, CallError, OutcomeUnknownError."""
        leader = await self.peer.wait_leader(deadline_s)
        if leader.device == self.config.device:  # brokers do not bring us what we say
            try:
                async with asyncio.timeout(deadline_s):
                    return await self.peer.methods[method](leader.device, body)
            except TimeoutError:
                raise OutcomeUnknownError(f"{method}: no answer within {deadline_s:g} s") from None
        return await self.peer.call(leader.device, method, body, deadline_s=deadline_s)

    async def _read_index(self, sender: str, body: bytes) -> bytes:
        """The index of everything committed until now: what a follower waits for before it looks."""
        voter = self.voter
        try:
            if voter is None:
                raise ProposalDroppedError("not a voter")
            await voter.read_barrier()
        except ProposalDroppedError as error:
            raise CallError(str(error), who=self.config.device, code="not-leader") from None
        return codec.dumps([self.replica.index])

    async def _transfer(self, sender: str, body: bytes) -> bytes:
        """Hand over to another voter; only coordinators and administrators may ask."""
        number = self.rosters.number_of(body.decode(errors="replace"))
        if self.rosters.current.role(sender) not in ("coordinator", "administrator") or number is None:
            raise CallError("not yours to ask", who=sender, code="forbidden")
        voter = self.voter
        if voter is None or not voter.leads:
            raise CallError("not the leader", who=self.config.device, code="not-leader")
        voter.loop.step(lambda: voter.member.node.transfer_leader(number))
        return b""
