"""When a device votes, when it ceases to, and what its leader keeps on the broker for all to check.

It votes where its roster says so, or its disk says that it did; not while its disk fails; and no more once voters of
a roster without it have elected a leader (its log is put aside then, and it follows the feed).
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeswarm.app.log import Log
from edgeswarm.app.swarm.config import CellConfig
from edgeswarm.app.swarm.duties import Duties
from edgeswarm.app.swarm.feed import FeedFollower, FeedServer, FeedWriter
from edgeswarm.app.swarm.orders import Orders
from edgeswarm.app.swarm.peer import Leader, Peer
from edgeswarm.app.swarm.post import Letter, Post
from edgeswarm.app.swarm.replica import Replica
from edgeswarm.app.swarm.rosters import RosterBook
from edgeswarm.app.swarm.voter import Voter
from edgeswarm.core.raft.member import Turn
from edgeswarm.drivers.mqtt.transport import Priority
from edgeswarm.errors import EdgeSwarmError, LocalError
from edgeswarm.wire import messages as msg
from edgeswarm.wire.raft import ConfState
from edgeswarm.wire.topics import Topics

STORE_RETRY_S = 5.0
CLONE_TOLD_S = 10.0
CLONE_LIVES = 3  # connections in a row that end at once: somebody takes our place at the broker
FACTS_AGAIN_S = 0.5
"""After which a leader that finds its retained facts gone or replaced says them again: no storm, whoever forges."""


class Voting(ABC):
    """The part of SwarmNode that begins and ends its vote."""

    config: CellConfig
    folder: Path
    log: Log
    topics: Topics
    post: Post
    peer: Peer
    rosters: RosterBook
    replica: Replica
    orders: Orders
    duties: Duties
    voter: Voter | None
    follower: FeedFollower | None
    _writer: FeedWriter | None
    _facts: asyncio.TimerHandle | None
    _voting: asyncio.Lock
    _closed: bool
    _failed: bool = False  # its log failed, and has not been opened since
    _unhear: tuple[Callable[[], None], ...] = ()

    @property
    def leads(self) -> bool:
        return self.voter is not None and self.voter.leads

    @abstractmethod
    def task(self, work: Any) -> None:
        """Run a coroutine until this device leaves its cell."""

    @abstractmethod
    def _role(self, leads: bool) -> None:
        """This device begins or ceases to lead."""

    @abstractmethod
    def _applied(self, turn: Turn) -> None:
        """Entries were applied."""

    @abstractmethod
    def _word(self, term: int, commit: int) -> None:
        """This voter's leader has spoken."""

    @abstractmethod
    def _gone(self, letter: Letter) -> None:
        """A last will came."""

    async def _maybe_vote(self) -> None:
        """Take part in Raft where the roster has this device as a voter, or its disk says that it was one."""
        async with self._voting:
            await self._vote()

    async def _vote(self) -> None:
        path = self.folder / "raft.db"
        roster = self.rosters.current
        number = self.rosters.number_of(self.config.device)
        if self.voter is not None or number is None or not (path.exists() or roster.is_voter(self.config.device)):
            return
        if self._failed and not path.exists():
            # only a person may take a voter's log away, and only from one that votes no more: docs/recovery.md
            raise LocalError(f"{path}: it is gone; start this device again once the roster does not have it as a voter")
        first = self.rosters.first
        begins = number in first.voters() and roster.voters_since == first.voters_since
        store = await Voter.open_store(path, ConfState(first.voters()) if begins else None, first.version, self.replica)
        try:
            self.voter = Voter(
                self.config,
                self.peer,
                self.replica,
                store,
                log=self.log,
                on_role=self._role,
                on_applied=self._applied,
                on_word=self._word,
                on_failed=self._voter_failed,
            )
        except BaseException:
            await store.close()
            raise
        self._failed = False
        self._writer = FeedWriter(self.peer, self.voter)
        FeedServer(self.peer, self.voter)
        # voters only: among a thousand devices that all heard each other's last wills, half dying would be a storm
        aways = self.topics.events(msg.event_priority("away"), "away")
        self._unhear = (
            self.post.on(self.topics.goners(), self._gone, qos=1),
            self.post.on(aways, self.duties.away, qos=1),
        )
        if self.follower is not None:
            self.follower.follow(False)

    def _voter_failed(self, error: BaseException) -> None:
        """Its disk failed: it votes again once the log opens anew and is whole."""
        voter = self._vote_no_more()
        if voter is None:
            return

        async def again() -> None:
            await voter.close()
            await self._vote_later()

        self.task(again())

    async def _vote_first(self) -> None:
        """At the start.  A log that cannot be opened keeps this device from voting, and from nothing else."""
        try:
            await self._maybe_vote()
        except (EdgeSwarmError, OSError) as error:
            self.log.error("voter_failed", error=str(error), again_s=STORE_RETRY_S)
            self._failed = True
            self.task(self._vote_later())

    async def _vote_later(self) -> None:
        self._failed, told = True, ""
        while not self._closed:
            await asyncio.sleep(STORE_RETRY_S)
            try:
                await self._maybe_vote()
                return
            except (EdgeSwarmError, OSError) as error:
                if str(error) != told:
                    told = str(error)
                    self.log.error("voter_failed", error=told)

    def _vote_no_more(self) -> Voter | None:
        voter, self.voter, self._writer = self.voter, None, None
        for unhear in self._unhear:
            unhear()
        for method in ("feed.fetch", "snapshot.fetch"):
            self.peer.methods.pop(method, None)
        if self.follower is not None:
            self.follower.follow(True)
            self.follower.catch_up()
        return voter

    def _led(self, leader: Leader | None) -> None:
        """Where voters of a roster without this device have elected, its log is of a configuration that is over."""
        roster, number = self.rosters.current, self.rosters.number_of(self.config.device)
        voters = {*roster.voters(), *roster.voters_outgoing()}
        if self.voter is None or leader is None or leader.device == self.config.device or number in voters:
            return
        if leader.roster_version >= roster.voters_since:
            self.task(self._retire())

    async def _retire(self) -> None:
        """Put the log aside and follow the feed; should the cell want this device's vote again, it sends a snapshot."""
        async with self._voting:
            voter = self._vote_no_more()
            if voter is None:
                return
            await voter.close()
            number = 1
            while (aside := self.folder / f"raft.db.retired-{number}").exists():
                number += 1
            for path in sorted(self.folder.glob("raft.db*")):
                if path.name in ("raft.db", "raft.db-wal", "raft.db-shm", "raft.db.lock"):
                    path.rename(aside.with_name(aside.name + path.name.removeprefix("raft.db")))
            self.log.warning("voter_retired", roster=self.rosters.current.version, kept=aside.name)

    def _facts_soon(self) -> None:
        """Roster, certificate and order are retained by the broker; while this device leads it sees to it."""
        if self.leads and self._facts is None and not self._closed:
            self._facts = asyncio.get_running_loop().call_later(FACTS_AGAIN_S, self._say_facts)

    def _say_facts(self) -> None:
        self._facts = None
        leader = self.peer.leader
        if not self.leads or leader is None or leader.device != self.config.device:
            return
        self.post.send_raw(self.topics.roster, self.rosters.current.data, priority=Priority.HIGH)
        self.post.send_raw(self.topics.leader, leader.certificate, priority=Priority.HIGH)
        self.orders.say_again()
