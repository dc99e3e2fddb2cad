"""The feed: the leader says each committed entry once, signed, and everybody who does not vote follows.

A follower takes entries of the verified leader only, in order; a gap, or a start, is closed by asking that leader for
what is missing: entries, or its snapshot in pieces where they are compacted.  A beat without entries comes every third
of a lease; whoever has applied what a beat says is committed holds the lease anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from edgeswarm.app.log import Log
from edgeswarm.app.swarm.peer import CallError, Leader, Peer
from edgeswarm.app.swarm.post import Letter
from edgeswarm.app.swarm.replica import Replica
from edgeswarm.app.swarm.voter import Voter, unpack_snapshot
from edgeswarm.core.cell.fencing import Lease
from edgeswarm.core.raft.storage import CompactedError
from edgeswarm.drivers.mqtt.transport import Priority
from edgeswarm.errors import CodecError, EdgeSwarmError, RemoteError
from edgeswarm.limits import FEED_BYTES_MAX, FEED_ENTRIES_MAX, RAFT_SNAPSHOT_BYTES_MAX, SNAPSHOT_PIECE_BYTES
from edgeswarm.wire import codec
from edgeswarm.wire import messages as msg
from edgeswarm.wire.raft import Entry

SAY_S = 0.005
FETCH_S = 5.0
RETRY_S = 0.2


class LeaseKeeper:
    """The lease of this device, in ms of the loop's clock.  changed: told when it may have begun."""

    def __init__(self, replica: Replica, lease_ms: float, changed: Callable[[], None]) -> None:
        self.lease = Lease()
        self._replica, self._lease_ms, self._changed = replica, lease_ms, changed
        self._word: tuple[int, int, float] | None = None  # term, commit, when it came

    def now(self) -> float:
        return asyncio.get_running_loop().time() * 1000

    @property
    def held(self) -> bool:
        return self.lease.held(self.now())

    def word(self, term: int, commit: int, at: float | None = None) -> None:
        """The leader of `term` has said, no earlier than `at`, that everything up to `commit` is committed."""
        if term >= self.lease.term:
            self._word = (term, commit, self.now() if at is None else at)
            self.applied()

    def applied(self) -> None:
        """Entries were applied: the last word may count now, from when it came."""
        if self._word is None or self._replica.index < self._word[1]:
            return
        term, commit, at = self._word
        self._word = None
        began = not self.held
        self.lease = self.lease.renewed(
            term=term, commit=commit, applied=self._replica.index, now=at, lease_ms=self._lease_ms
        )
        if began:
            self._changed()


class FeedWriter:
    """The leader's side.  Entries wait SAY_S for others: followers learn a moment later, and open fewer envelopes."""

    def __init__(self, peer: Peer, voter: Voter) -> None:
        self._peer, self._voter = peer, voter
        self._waiting: list[Entry] = []
        self._size_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def say(self, entries: Sequence[Entry]) -> None:
        """Publish these entries, just applied, with those that follow in a moment."""
        roster = self._peer.rosters.current
        if len(roster.members) <= len(roster.voters()):
            return  # everybody hears it from Raft
        self._waiting += entries
        self._size_bytes += sum(len(entry.data) for entry in entries)
        if self._size_bytes > FEED_BYTES_MAX // 4 or len(self._waiting) >= FEED_ENTRIES_MAX:
            self._flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SAY_S, self._flush)

    def beat(self) -> None:
        """That this device leads, and how far the log is committed."""
        self._flush()
        self._publish(())

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        entries, self._waiting, self._size_bytes = self._waiting, [], 0
        if entries and self._voter.leads:
            self._publish(entries)

    def _publish(self, entries: Sequence[Entry]) -> None:
        topic, term = self._peer.post.topics.feed, self._voter.member.node.basic_status().term
        for feed in feeds(self._voter, entries, term=term, commit=self._voter.replica.index):
            self._peer.post.send(topic, msg.encode(feed), priority=Priority.HIGH)


def feeds(voter: Voter, entries: Sequence[Entry], *, term: int, commit: int) -> list[msg.Feed]:
    """Entries as messages within their bounds; without entries one that holds none."""
    version = voter.peer.rosters.current.version
    if not entries:
        return [msg.Feed(term, commit, voter.replica.term, (), commit, version)]
    found: list[msg.Feed] = []
    part: list[msg.FeedEntry] = []
    size, previous = 0, entries[0].index - 1
    for entry in entries:
        if part and (len(part) >= FEED_ENTRIES_MAX or size + len(entry.data) > FEED_BYTES_MAX - 65_536):
            found.append(_feed(voter, term, previous, part, commit, version))
            previous, part, size = entry.index - 1, [], 0
        part.append(msg.FeedEntry(entry.term, int(entry.type), entry.data))
        size += len(entry.data) + 32
    return [*found, _feed(voter, term, previous, part, commit, version)]


def _feed(voter: Voter, term: int, previous: int, part: Sequence[msg.FeedEntry], commit: int, version: int) -> msg.Feed:
    return msg.Feed(term, previous, voter.store.storage.term(previous), tuple(part), commit, version)


class FeedServer:
    """Answers of any voter to those that lack entries."""

    def __init__(self, peer: Peer, voter: Voter) -> None:
        self._voter = voter
        peer.methods["feed.fetch"] = self._fetch
        peer.methods["snapshot.fetch"] = self._piece

    async def _fetch(self, sender: str, body: bytes) -> bytes:
        ask = msg.decode(body, who=sender, kinds=(msg.FeedFetch,))
        assert isinstance(ask, msg.FeedFetch)
        voter = self._voter
        term, applied = voter.member.node.basic_status().term, voter.replica.index
        if ask.first_index > applied:
            return msg.encode(msg.Feed(term, applied, voter.replica.term, (), applied, 0))
        try:
            size = min(ask.bytes_max, FEED_BYTES_MAX // 2)
            entries = voter.store.storage.entries(ask.first_index, applied + 1, size)
            voter.store.storage.term(ask.first_index - 1)
        except CompactedError:
            raise CallError("compacted; take the snapshot", who=voter.config.device, code="compacted") from None
        part = entries[: min(ask.entries_max, FEED_ENTRIES_MAX)]
        return msg.encode(feeds(voter, part, term=term, commit=applied)[0])

    async def _piece(self, sender: str, body: bytes) -> bytes:
        match codec.loads(body, who=sender):
            case [int(index), int(offset)] if offset >= 0:
                snapshot = self._voter.store.storage.snapshot()
            case _:
                raise CodecError("snapshot.fetch: expected [index, offset]", who=sender)
        if index not in (0, snapshot.index):
            offset = 0  # another snapshot has taken its place: begin anew
        piece = snapshot.data[offset : offset + SNAPSHOT_PIECE_BYTES]
        return codec.dumps([snapshot.index, snapshot.term, len(snapshot.data), offset, piece])


class FeedFollower:
    """The side of everybody else.  on_word(term, commit): the leader has spoken, now or, if it lay about, before."""

    def __init__(
        self,
        peer: Peer,
        replica: Replica,
        lease: LeaseKeeper,
        *,
        log: Log,
        votes: Callable[[], bool],
        on_word: Callable[[int, int], None],
    ) -> None:
        self._peer, self._replica, self._lease, self._log, self._votes = peer, replica, lease, log, votes
        self._on_word = on_word
        self._astray = False  # this copy holds entries that the cell has lost (docs/recovery.md)
        self._catching_up: asyncio.Task[None] | None = None
        self.refused = 0
        peer.on_leader.append(self._new_leader)
        self.follow(not votes())

    def follow(self, on: bool) -> None:
        """Voters hear the same, and sooner, from Raft."""
        topic = self._peer.post.topics.feed
        self._peer.post.transport.unsubscribe(topic)
        if on:
            self._peer.post.on(topic, self._feed)

    async def close(self) -> None:
        if self._catching_up is not None:
            self._catching_up.cancel()
            await asyncio.gather(self._catching_up, return_exceptions=True)

    def _new_leader(self, leader: Leader | None) -> None:
        if leader is not None and leader.device != self._peer.post.device and not self._votes():
            self.catch_up()

    def _feed(self, letter: Letter) -> None:
        leader = self._peer.leader
        feed = msg.decode(letter.payload, who=letter.sender, kinds=(msg.Feed,))
        assert isinstance(feed, msg.Feed)
        if leader is None or letter.sender != leader.device or feed.term != leader.term:
            self.refused += 1
            if leader is None or feed.term > leader.term:
                return  # its certificate has not come yet
            raise RemoteError(f"a feed of term {feed.term} by one who does not lead it", who=letter.sender)
        self._take(feed)
        if not self._astray:
            self._on_word(feed.term, feed.commit)

    def _take(self, feed: msg.Feed) -> None:
        """Apply what follows; what is known already is passed over."""
        if self._is_astray(feed):
            self.catch_up()
            return
        if feed.previous_index > self._replica.index:
            self.catch_up()
            return
        index = feed.previous_index
        for entry in feed.entries:
            index += 1
            if index == self._replica.index + 1:
                self._replica.apply(Entry(entry.term, index, entry.type, entry.data))
        self._lease.applied()
        if feed.commit > self._replica.index:
            self.catch_up()

    def _is_astray(self, feed: msg.Feed) -> bool:
        """Equal terms at one index are equal entries up to there (Raft 5.3); after a recovery they may be others."""
        if not self._astray and self._replica.differs(feed.previous_index, feed.previous_term):
            self._astray = True
            self._log.warning("feed_astray", index=feed.previous_index, term=feed.term)
        return self._astray

    def catch_up(self) -> None:
        if self._catching_up is None or self._catching_up.done():
            self._catching_up = asyncio.create_task(self._catch_up())

    async def _catch_up(self) -> None:
        while (leader := self._peer.leader) is not None and not self._votes():
            try:
                if self._astray:
                    await self._take_snapshot(leader.device)
                if await self._fetch(leader.device):
                    return
            except EdgeSwarmError as error:
                self._log.warning("feed_fetch_failed", leader=leader.device, error=str(error))
                await asyncio.sleep(RETRY_S)

    async def _fetch(self, device: str) -> bool:
        """Ask for what follows; True when there is no more.  Raises EdgeSwarmError."""
        ask = msg.FeedFetch(first_index=self._replica.index + 1, entries_max=FEED_ENTRIES_MAX)
        try:
            body = await self._peer.call(device, "feed.fetch", msg.encode(ask), deadline_s=FETCH_S)
        except CallError as error:
            if error.code == "compacted":
                await self._take_snapshot(device)
            else:
                await asyncio.sleep(RETRY_S)
            return False
        feed = msg.decode(body, who=device, kinds=(msg.Feed,))
        assert isinstance(feed, msg.Feed)
        if self._is_astray(feed):
            return False
        if not feed.entries or feed.previous_index > self._replica.index:
            self._lease.applied()
            return True
        before = self._replica.index
        self._take_fetched(feed)
        return self._replica.index == before

    def _take_fetched(self, feed: msg.Feed) -> None:
        index = feed.previous_index
        for entry in feed.entries:
            index += 1
            if index == self._replica.index + 1:
                self._replica.apply(Entry(entry.term, index, entry.type, entry.data))
        self._lease.applied()

    async def _take_snapshot(self, device: str) -> None:
        """Piece by piece; a snapshot that changes meanwhile begins anew.  Raises EdgeSwarmError."""
        index, data = 0, b""
        while True:
            body = await self._peer.call(device, "snapshot.fetch", codec.dumps([index, len(data)]), deadline_s=FETCH_S)
            match codec.loads(body, who=device):
                case [int(now), int(term), int(total), int(offset), bytes(piece)] if total <= RAFT_SNAPSHOT_BYTES_MAX:
                    pass
                case _:
                    raise CodecError("snapshot.fetch: expected [index, term, size, offset, piece]", who=device)
            if now != index or offset != len(data):
                index, data = now, b""
                if offset:
                    continue
            data += piece
            if len(data) >= total or not piece:
                break
        if index > self._replica.index or self._astray:
            _, cell = unpack_snapshot(data, who=device)
            self._replica.restore(cell, index=index, term=term)
            self._astray = False
            self._log.info("snapshot_taken", leader=device, index=index, size_bytes=len(data))
