"""What a device that votes does with its Raft: the disk, the packets, the log applied, its leadership proved.

Joins `RaftLoop` (the order of things) with the post, the replica and the store.  Decides nothing of Raft's.
A snapshot holds [1, roster version of the configuration, state of the cell].
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

from edgeswarm.app.log import Log
from edgeswarm.app.swarm.config import CellConfig
from edgeswarm.app.swarm.peer import Peer
from edgeswarm.app.swarm.post import Letter
from edgeswarm.app.swarm.raft_loop import RaftLoop
from edgeswarm.app.swarm.replica import Applied, Replica
from edgeswarm.core.raft.config import Config, ProposalDroppedError, StateType
from edgeswarm.core.raft.member import Member, Turn
from edgeswarm.core.raft.rawnode import RawNode
from edgeswarm.drivers.mqtt.transport import Priority
from edgeswarm.drivers.raft_store import RaftStore
from edgeswarm.errors import CodecError, EdgeSwarmError, LimitError, RemoteError
from edgeswarm.limits import MQTT_CONTROL_BYTES_MAX, RAFT_SNAPSHOT_EVERY
from edgeswarm.wire import codec
from edgeswarm.wire.raft import ConfState, EntryType, HardState, Snapshot

GENESIS_INDEX = GENESIS_TERM = 1
HASTEN_TICKS_MAX = 3
APPEND_BYTES_MAX = 256 << 10  # of entries in one append: 20 ms of a 100 Mbit/s line
WILL_FALSE_S = 10.0


def pack_snapshot(roster_version: int, cell: bytes) -> bytes:
    return codec.dumps([1, roster_version, cell])


def unpack_snapshot(data: bytes, who: str = "snapshot") -> tuple[int, bytes]:
    """(roster version of the configuration, state of the cell).  Raises CodecError."""
    match codec.loads(data, who=who):
        case [1, int(version), bytes(cell), *_]:
            return version, cell
        case _:
            raise CodecError("expected [1, roster version, state]", who=who)


class _Loop(RaftLoop):
    """A fault of ours in a turn ends the voter as a failing disk does: it is made anew from what is on its disk.

    Otherwise it would be half alive: its clock runs, and nothing that it hears is ever applied.
    """

    def _tick(self) -> None:
        self._guarded(super()._tick)

    def _turn(self) -> None:
        self._guarded(super()._turn)

    def _saved(self, turn: Turn, error: BaseException | None) -> None:
        self._guarded(partial(super()._saved, turn, error))

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:
            if not self._ended:
                self.close()
                self._hands.failed(error)


class Voter:
    """on_role(leads): this device begins or ceases to lead.  on_word(term, commit): its leader has spoken.
    on_failed: its disk failed, it votes no more.
    """

    def __init__(
        self,
        config: CellConfig,
        peer: Peer,
        replica: Replica,
        store: RaftStore,
        *,
        log: Log,
        on_role: Callable[[bool], None],
        on_applied: Callable[[Turn], None],
        on_word: Callable[[int, int], None],
        on_failed: Callable[[BaseException], None],
    ) -> None:
        self.config, self.peer, self.replica, self.store, self.log = config, peer, replica, store, log
        self._on_role, self._on_applied, self._on_failed = on_role, on_applied, on_failed
        self._on_word = on_word
        self.leads = False
        self._rng = random.Random()
        self._inbox_of: dict[int, str] = {}
        self._reads: dict[bytes, asyncio.Future[None]] = {}
        self._reads_due: list[tuple[int, bytes]] = []
        self._read_count = 0
        self._life = os.urandom(8)
        rosters, times = peer.rosters, config.times
        number = rosters.number_of(config.device)
        assert number is not None, "only devices of the roster vote"
        snapshot = store.storage.snapshot()
        roster_version = rosters.first.version
        if snapshot.index:
            roster_version, cell = unpack_snapshot(snapshot.data)
            if snapshot.index > replica.index:
                replica.restore(cell, index=snapshot.index, term=snapshot.term)
        node = RawNode(
            Config(
                id=number,
                storage=store.storage,
                rng=self._rng,
                election_ticks=times.election_ticks,
                heartbeat_ticks=times.heartbeat_ticks,
                applied=snapshot.index,
                max_size_per_msg=APPEND_BYTES_MAX,
                max_inflight_msgs=times.appends_max,
                batch_appends=True,
                lazy_commits=True,
                step_down_on_removal=True,
                commit_by_vote=True,
            )
        )
        self.member = Member(
            node,
            number=number,
            fleet=config.fleet,
            cell=config.cell,
            roster_version=roster_version,
            sign=lambda data: peer.post.seal_sign(data),  # it changes with the device's key
            verify=self._verify,
            leads=self._known_to_lead,
        )
        self._conf = self.member.conf
        self._applied = snapshot.index  # of the log; the copy may be ahead, when the feed was
        self._will: tuple[str, int] | None = None  # device and boot of the last will that was believed
        self._deaf_until = 0.0
        self._encoding: asyncio.Future[bytes] | None = None  # a snapshot on its way to the disk
        self._closed = False
        self.loop = _Loop(self.member, store, self, tick_s=times.tick_ms / 1000)
        peer.post.on(peer.post.topics.raft(config.device), self._packet)

    @staticmethod
    async def open_store(path: Path, first: ConfState | None, roster_version: int, replica: Replica) -> RaftStore:
        """first: the configuration that a cell begins with, given to its first voters; None: wait to be brought in."""
        store = await RaftStore.open(path)
        hard, conf = store.storage.initial_state()
        if first is not None and not conf.voters and not hard.term:
            data = pack_snapshot(roster_version, replica.state.to_snapshot())
            await store.save(
                HardState(GENESIS_TERM, 0, GENESIS_INDEX), (), Snapshot(GENESIS_INDEX, GENESIS_TERM, first, data)
            )
        return store

    async def close(self) -> None:
        self._closed = True
        self.loop.close()
        self.peer.post.transport.unsubscribe(self.peer.post.topics.raft(self.config.device))
        for future in [*self._reads.values()]:
            if not future.done():
                future.set_exception(ProposalDroppedError("this device votes no more"))
        await self.store.close()

    # --- in -----------------------------------------------------------------------------------------------------------

    def _packet(self, letter: Letter) -> None:
        number = self.peer.rosters.number_of(letter.sender)
        if number is None or not self._may_vote(letter.sender, number):
            raise RemoteError("it may not vote in this cell", who=letter.sender)
        if self._will == (letter.sender, letter.boot):  # it was false, or the device is back already
            self._will = None
            self._deaf_until = asyncio.get_running_loop().time() + WILL_FALSE_S
        try:
            self.loop.step(lambda: self.member.receive(number, letter.payload))
        except ProposalDroppedError:
            return  # who asked will find another leader
        raft = self.member.node.raft
        if raft.lead == number:
            self._on_word(raft.term, raft.log.committed)

    def _may_vote(self, sender: str, number: int) -> bool:
        """Or any device could propose what it likes, and lead by saying so.

        A coordinator, not only a voter: who lags behind does not know the newest voters yet, and they need its vote.
        """
        return self.peer.rosters.current.role(sender) == "coordinator" or number in self.member.conf.voters

    def _known_to_lead(self, number: int, term: int) -> bool:
        leader = self.peer.leader
        return leader is not None and (leader.device, leader.term) == (self.peer.rosters.device_of(number), term)

    def _verify(self, voter: int, signed: bytes, signature: bytes) -> bool:
        public = self.peer.rosters.public_of(voter)
        return public is not None and self.peer.rosters.check(public, signed, signature)

    def propose(self, command: bytes) -> asyncio.Future[Applied]:
        """What will have become of a command of ours.  Raises ProposalDroppedError when nothing was proposed."""
        data, future = self.replica.ask(command)
        try:
            self.loop.step(lambda: self.member.node.propose(data))
        except BaseException:
            future.cancel()
            raise
        return future

    async def read_barrier(self) -> None:
        """Returns once everything committed before this call is applied here (ReadIndex).  Raises as propose."""
        self._read_count += 1
        context = self._life + self._read_count.to_bytes(8, "big")  # the leader tells reads of all voters apart by it
        future = self._reads[context] = asyncio.get_running_loop().create_future()
        try:
            self.loop.step(lambda: self.member.node.read_index(context))
            await future
        finally:
            self._reads.pop(context, None)

    def leader_gone(self, device: str) -> None:
        """A last will of the leader came: go on without it, and soon.  It elects nobody by itself.

        Wills are unsigned.  One that proves false, because its device is heard afterwards, costs wills their hearing
        for WILL_FALSE_S: then a dead leader is noticed by its silence only.
        """
        if asyncio.get_running_loop().time() < self._deaf_until:
            return
        boot = self.peer.post.replay.boot_of(device)
        self._will = None if boot is None else (device, boot)

        def act() -> None:
            self.member.node.forget_leader()
            self.member.node.hasten_election(self._rng.randint(1, HASTEN_TICKS_MAX))

        self.loop.step(act)

    # --- hands of the loop --------------------------------------------------------------------------------------------

    def send(self, to: int, packet: bytes) -> None:
        topic = self._inbox_of.get(to)
        if topic is None:
            device = self.peer.rosters.device_of(to)
            if device is None:
                return
            topic = self._inbox_of[to] = self.peer.post.topics.raft(device)
        expiry_s = max(1, round(self.config.times.election_ticks * self.config.times.tick_ms / 1000))
        bulk = len(packet) > MQTT_CONTROL_BYTES_MAX  # a snapshot: nothing waits behind it
        try:
            self.peer.post.send(topic, packet, priority=Priority.HIGH, expiry_s=expiry_s, bulk=bulk)
        except LimitError as error:
            self.log.error("packet_not_sent", to=to, error=str(error))

    def apply(self, turn: Turn) -> None:
        wanted = turn.ready is not None and turn.ready.snapshot_wanted
        if (self.member.conf != self._conf or wanted) and self._snapshot():
            self._conf = self.member.conf  # a newcomer takes no snapshot that does not name it
        if turn.snapshot is not None:
            self._conf, self._applied = turn.snapshot.conf, turn.snapshot.index
            self.member.roster_version, cell = unpack_snapshot(turn.snapshot.data)
            if turn.snapshot.index > self.replica.index:
                self.replica.restore(cell, index=turn.snapshot.index, term=turn.snapshot.term)
        for entry in turn.committed:
            self._applied = entry.index
            if entry.index > self.replica.index:  # the feed may have been ahead, before this device voted (again)
                self.replica.apply(entry)
        if turn.certificate is not None:
            data = turn.certificate.encode()
            # the roster first: who does not know it yet can check the certificate only then
            roster = self.peer.rosters.current.data
            self.peer.post.send_raw(self.peer.post.topics.roster, roster, priority=Priority.HIGH)
            self.peer.post.send_raw(self.peer.post.topics.leader, data, priority=Priority.HIGH)
            self._believe(data)
        self._on_applied(turn)
        self._serve_reads(turn)
        if turn.soft_state is not None:
            leads = turn.soft_state.state is StateType.LEADER
            if leads != self.leads:
                self.leads = leads
                self._on_role(leads)
        # Members change when the turn is done: a snapshot now would cover their entry without their change.
        settled = all(entry.type == EntryType.NORMAL for entry in turn.committed)
        if settled and self.replica.index - self.store.storage.snapshot().index >= RAFT_SNAPSHOT_EVERY:
            self._snapshot_soon()

    def _believe(self, certificate: bytes) -> None:
        try:
            self.peer.take_certificate(certificate)
        except EdgeSwarmError as error:
            self.log.error("own_certificate_refused", error=str(error))

    def _serve_reads(self, turn: Turn) -> None:
        self._reads_due += [(state.index, state.context) for state in turn.reads]
        waiting = []
        for index, context in self._reads_due:
            if index > self.replica.index:
                waiting.append((index, context))
            elif (future := self._reads.get(context)) is not None and not future.done():
                future.set_result(None)
        self._reads_due = waiting

    def _snapshot(self) -> bool:
        """False while the copy is ahead of the log: it would be a snapshot of what the log has not got."""
        if self._applied != self.replica.index:
            return False
        data = pack_snapshot(self.member.roster_version, self.replica.state.to_snapshot())
        self.store.compact_soon(Snapshot(self.replica.index, self.replica.term, self.member.conf, data))
        return True

    def _snapshot_soon(self) -> None:
        """The same, written in another thread: a cell of a thousand takes 140 ms, and a heartbeat is due each 50."""
        if self._applied != self.replica.index or self._encoding is not None:
            return
        index, term, conf = self.replica.index, self.replica.term, self.member.conf
        version, frozen = self.member.roster_version, self.replica.state.freeze()

        def done(future: asyncio.Future[bytes]) -> None:
            self._encoding = None
            if future.cancelled() or self._closed:
                return
            try:
                self.store.compact_soon(Snapshot(index, term, conf, pack_snapshot(version, future.result())))
            except EdgeSwarmError as error:
                self.log.error("snapshot_not_kept", index=index, error=str(error))

        self._encoding = asyncio.get_running_loop().run_in_executor(None, frozen.encode)
        self._encoding.add_done_callback(done)

    def failed(self, error: BaseException) -> None:
        if isinstance(error, EdgeSwarmError):
            self.log.error("voter_failed", error=str(error))
        else:
            self.log.crash("swarm_fault", error)
        if self.leads:
            self.leads = False
            self._on_role(False)
        self.replica.give_up("this device ceased to vote")
        self._on_failed(error)
