"""A voter whose leadership anybody can check: RawNode, and the signatures around it.  Pure.

A granted vote carries a signature over (fleet, cell, roster version, term, candidate, the candidate's last entry,
voter).  It is made when the vote is to be sent, which is after the vote is on disk.  A candidate checks the signature
before it counts the vote; a quorum of them is the leader's certificate (`wire.leadership`).
Pre-votes are not signed: they elect nobody.  Appends are signed as whole packets, by the envelope that carries them.

A packet is what one voter sends another at one time: [version, roster version, [message, ...]].

Invariants: a packet is from the voter that its envelope names; the roster version that a candidate cites is the one
whose voters its configuration holds (`roster_version`, set together with the configuration).
Does not protect against a voter that signs two votes in a term, or a quorum of stolen keys: Raft is not BFT.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from edgeswarm.core.raft.change import ConfChangeV2, decode_entry
from edgeswarm.core.raft.config import ReadState, SoftState, StateType
from edgeswarm.core.raft.rawnode import RawNode, Ready
from edgeswarm.core.raft.tracker import ProgressState
from edgeswarm.errors import CodecError, RemoteError
from edgeswarm.limits import RAFT_PACKET_BYTES_MAX, RAFT_PACKET_MESSAGES_MAX, RAFT_SNAPSHOT_ELECTIONS
from edgeswarm.wire import codec, raft
from edgeswarm.wire.leadership import LeaderCertificate, VoteStatement
from edgeswarm.wire.raft import ConfState, Entry, EntryType, HardState, Message, MessageType, Snapshot

PACKET_VERSION = 1
_OF_LEADERS = (MessageType.APP, MessageType.HEARTBEAT, MessageType.SNAP, MessageType.TIMEOUT_NOW)
Sign = Callable[[bytes], bytes]
"""Bytes -> a detached Ed25519 signature of this device."""
Verify = Callable[[int, bytes, bytes], bool]
"""(voter's raft number, signed bytes, signature) -> it holds."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One round of work, in the order of its fields: see `app.swarm.raft_loop`.

    early: packets that promise nothing, so they need not wait for the disk (a leader's appends: Raft thesis 10.2.1).
    hard_state, entries, snapshot: to be written before anything in `late` is sent.
    late: packets that promise what was written.  committed: to be applied, in order.
    certificate: this device has just become leader, and this proves it.
    """

    early: list[tuple[int, bytes]]
    hard_state: HardState | None
    entries: Sequence[Entry]
    snapshot: Snapshot | None
    late: list[tuple[int, bytes]]
    committed: Sequence[Entry]
    reads: Sequence[ReadState] = ()
    soft_state: SoftState | None = None
    certificate: LeaderCertificate | None = None
    ready: Ready | None = field(default=None, repr=False)

    @property
    def writes(self) -> bool:
        return self.hard_state is not None or bool(self.entries) or self.snapshot is not None


class Member:
    """fleet, cell: what the statements name.  number: this device's raft number in the roster.

    leads(number, term): whether a verified certificate shows that it leads in that term.  Who has no vote as far as
    this device knows is a leader only then: it may be that this device lags behind, and it may be that it lies.
    """

    def __init__(
        self,
        node: RawNode,
        *,
        number: int,
        fleet: str,
        cell: str,
        roster_version: int,
        sign: Sign,
        verify: Verify,
        leads: Callable[[int, int], bool] = lambda number, term: True,
    ) -> None:
        self.node = node
        self.number = number
        self.roster_version = roster_version
        self.conf: ConfState = node.raft.tracker.conf_state()
        self._fleet, self._cell = fleet, cell
        self._sign, self._verify, self._leads = sign, verify, leads
        self._asked: dict[int, VoteStatement] = {}  # candidate -> what it asked in the highest term we saw it in
        self._mine: VoteStatement | None = None  # what our own candidacy states
        self._votes: dict[int, bytes] = {}
        self._snapshot_ticks: dict[int, int] = {}  # member -> ticks since a snapshot went out to it

    # --- in -----------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """One tick of the clock; a snapshot that nobody acknowledged for long is taken for lost.

        The core sends nothing but heartbeats to a member whose snapshot is on its way and waits to be told of its fate;
        a broker tells nobody.  Without this a member whose snapshot (or its answer) was lost is never heard of again.
        """
        self.node.tick()
        raft = self.node.raft
        if raft.state is not StateType.LEADER:
            self._snapshot_ticks.clear()
            return
        for number, progress in raft.tracker.progress.items():
            if progress.state is not ProgressState.SNAPSHOT:
                self._snapshot_ticks.pop(number, None)
                continue
            ticks = self._snapshot_ticks[number] = self._snapshot_ticks.get(number, 0) + 1
            if ticks >= RAFT_SNAPSHOT_ELECTIONS * raft.election_ticks:
                self.node.report_snapshot(number, False)

    def receive(self, sender: int, packet: bytes) -> None:
        """Take in a packet whose envelope was signed by voter `sender`.

        Raises CodecError for a packet that does not read, RemoteError for one that lies; nothing of it is taken in.
        """
        who = f"raft number {sender}"
        match codec.loads(packet, who=who):
            case [int(version), int(roster_version), list(items), *_] if version >= PACKET_VERSION:
                pass
            case _:
                raise CodecError("expected [version, roster version, messages]", who=who)
        if not 0 < len(items) <= RAFT_PACKET_MESSAGES_MAX:
            raise CodecError(f"packet: expected 1 to {RAFT_PACKET_MESSAGES_MAX} messages, found {len(items)}", who=who)
        messages = [raft.decode(item, who=who) for item in items if isinstance(item, bytes)]
        if len(messages) != len(items):
            raise CodecError("packet: expected byte strings", who=who)
        for message in messages:
            self._check(sender, message, roster_version, who)
        for message in messages:
            self.node.step(message)

    def _check(self, sender: int, message: Message, roster_version: int, who: str) -> None:
        if message.sender != sender or message.to != self.number:
            raise RemoteError(f"a message from {message.sender} to {message.to} came to {self.number}", who=who)
        if message.type in _OF_LEADERS and sender not in (*self.conf.voters, *self.conf.voters_outgoing):
            if not self._leads(sender, message.term):
                raise RemoteError(
                    f"{message.type.name} of term {message.term}: it has no vote, and does not lead", who=who
                )
        if message.type is MessageType.VOTE:
            self._asked[sender] = self._statement(message, sender, roster_version)
            if len(self._asked) > 64:
                self._asked.pop(next(iter(self._asked)))
        elif message.type is MessageType.VOTE_RESP and not message.reject:
            mine = self._mine
            if mine is None or message.term != mine.term:
                return  # late, or not ours: the core drops it
            statement = mine.by(sender)
            if not self._verify(sender, statement.to_be_signed(), message.signature):
                raise RemoteError(f"vote for term {message.term}: the signature does not hold", who=who)
            self._votes[sender] = message.signature

    def _statement(self, message: Message, candidate: int, roster_version: int) -> VoteStatement:
        return VoteStatement(
            fleet=self._fleet,
            cell=self._cell,
            roster_version=roster_version,
            term=message.term,
            candidate=candidate,
            last_index=message.index,
            last_term=message.log_term,
            voter=self.number,
        )

    @property
    def commit_waits(self) -> bool:
        return self.node.commit_waits

    def tell_commits(self) -> None:
        self.node.tell_commits()

    # --- out ----------------------------------------------------------------------------------------------------------

    def has_turn(self) -> bool:
        return self.node.has_ready()

    def turn(self) -> Turn:
        """What is to be done now; `done` must follow before the next."""
        ready = self.node.ready()
        certificate = self._note_state()
        early, late = ready.split()
        return Turn(
            self._packets(early),
            ready.hard_state,
            ready.entries,
            ready.snapshot,
            self._packets(late),
            ready.committed_entries,
            ready.read_states,
            ready.soft_state,
            certificate,
            ready,
        )

    def done(self, turn: Turn) -> None:
        """The turn was written, said and applied; changes of members among what it committed take effect."""
        if turn.snapshot is not None:
            self.conf = turn.snapshot.conf
        for entry in turn.committed:
            if entry.type != EntryType.NORMAL:
                self._change_members(entry)
        self.node.advance()

    def propose_members(self, change: ConfChangeV2, *, roster_version: int) -> None:
        """Propose a change of members to those of this roster.  Raises ProposalDroppedError."""
        context = codec.dumps([roster_version])
        self.node.propose_conf_change(ConfChangeV2(change.changes, change.transition, context))

    def _change_members(self, entry: Entry) -> None:
        change = decode_entry(entry.type, entry.data, who=f"entry {entry.index}")
        self.conf = self.node.apply_conf_change(change)
        match codec.loads(change.context) if change.context else None:
            case [int(version), *_]:
                self.roster_version = version

    def _note_state(self) -> LeaderCertificate | None:
        """Open the book of votes when a candidacy begins, close it with a certificate when it is won.

        By term, not by a change of state: a candidate that times out is a candidate again, in the next term.
        """
        raft = self.node.raft
        mine = self._mine
        if raft.state is StateType.CANDIDATE and (mine is None or mine.term != raft.term):
            last = self.node.last_entry_id()
            self._mine = VoteStatement(
                fleet=self._fleet,
                cell=self._cell,
                roster_version=self.roster_version,
                term=raft.term,
                candidate=self.number,
                last_index=last[0],
                last_term=last[1],
                voter=self.number,
            )
            self._votes = {self.number: self._sign(self._mine.to_be_signed())}
        elif raft.state is StateType.LEADER and mine is not None and mine.term == raft.term:
            self._mine = None
            return LeaderCertificate.make(mine, self._votes)
        return None

    def _packets(self, messages: Sequence[Message]) -> list[tuple[int, bytes]]:
        by_peer: dict[int, list[bytes]] = {}
        for message in messages:
            if message.sender != self.number:
                continue  # forwarded twice: who gets it could not tell it from a lie, and who asked will ask again
            if message.type is MessageType.VOTE_RESP and not message.reject:
                asked = self._asked.get(message.to)
                if asked is None or asked.term != message.term:
                    continue  # a vote nobody asked for in this life: the candidate will ask again
                message.signature = self._sign(asked.to_be_signed())
            by_peer.setdefault(message.to, []).append(raft.encode(message))
        return [(to, packet) for to, items in by_peer.items() for packet in self._packed(items)]

    def _packed(self, items: list[bytes]) -> Iterator[bytes]:
        part: list[bytes] = []
        size = 0
        for item in items:
            if part and (len(part) >= RAFT_PACKET_MESSAGES_MAX or size + len(item) > RAFT_PACKET_BYTES_MAX):
                yield codec.dumps([PACKET_VERSION, self.roster_version, part])
                part, size = [], 0
            part.append(item)
            size += len(item)
        yield codec.dumps([PACKET_VERSION, self.roster_version, part])
