"""Raft's messages, log entries and snapshots, and their bytes.

One message is one deterministic CBOR array; the position says what an item is (`_encode_fields`).  The envelope around
it (wire/envelope.py) says who sent it and proves it: `sender` in here is what the sender claims, and a driver compares
the two before it steps the message.
Invariants: decode(encode(m)) == m for every message that may travel; encode(decode(b)) == b when b has no items of the
future; what decode() returns is within every bound below, its entries follow each other without a gap, and it is never
one of the messages that a node sends to itself (`LOCAL_TYPES`).
Mixed versions: a newer peer appends items at the end of the array and an older one ignores them, so that a cell may
run two neighbouring versions; a message type that is not known here is a CodecError, which the driver counts and drops.
Names follow raftpb of etcd-io/raft (Apache-2.0), so that its transcripts read the same here; the numbers are our own.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

import cbor2

from edgeswarm.errors import CodecError, LimitError, LocalError
from edgeswarm.limits import (
    RAFT_CONTEXT_BYTES_MAX,
    RAFT_ENTRIES_MAX,
    RAFT_ENTRY_BYTES_MAX,
    RAFT_MEMBERS_MAX,
    RAFT_MESSAGE_BYTES_MAX,
    RAFT_NUMBER_MAX,
    RAFT_SIGNATURE_BYTES_MAX,
    RAFT_SNAPSHOT_BYTES_MAX,
)


class EntryType(IntEnum):
    """What the data of a log entry is."""

    NORMAL = 0  # opaque bytes of the application; empty: the entry with which a leader opens its term
    CONF_CHANGE = 1  # one change of one member, the older form
    CONF_CHANGE_V2 = 2  # several changes at once; empty data: leave the joint configuration


class Entry(NamedTuple):
    """One entry of the log.  term >= 1, index >= 1 and without gaps; both are 0 in a proposal."""

    term: int
    index: int  # type: ignore[assignment]  # hides a method of tuple that nobody needs here
    type: EntryType | int
    data: bytes


class HardState(NamedTuple):
    """What a node must find again after a crash.  vote: raft number, 0 = nobody in this term."""

    term: int = 0
    vote: int = 0
    commit: int = 0


@dataclass(frozen=True, slots=True)
class ConfState:
    """A configuration as raft numbers in rising order.  Joint while voters_outgoing is not empty.

    learners_next: voters of the outgoing half that become learners when the joint configuration is left.
    auto_leave: whether the leader leaves the joint configuration by itself.
    """

    voters: tuple[int, ...] = ()
    voters_outgoing: tuple[int, ...] = ()
    learners: tuple[int, ...] = ()
    learners_next: tuple[int, ...] = ()
    auto_leave: bool = False


class Snapshot(NamedTuple):
    """The state machine after `index`, and the configuration in force there.  index 0: no snapshot."""

    index: int = 0  # type: ignore[assignment]
    term: int = 0
    conf: ConfState = ConfState()
    data: bytes = b""


class MessageType(IntEnum):
    """What a message asks or answers.  1-19 travel; 32 and up a node sends to itself."""

    PROP = 1  # a follower forwards a proposal
    APP = 2  # AppendEntries, Raft paper 5.3
    APP_RESP = 3
    VOTE = 4  # RequestVote, 5.2
    VOTE_RESP = 5
    PRE_VOTE = 6  # thesis 9.6
    PRE_VOTE_RESP = 7
    SNAP = 8  # InstallSnapshot, paper 7
    HEARTBEAT = 9
    HEARTBEAT_RESP = 10
    TRANSFER_LEADER = 11  # thesis 3.10; sender = the one that is to lead
    TIMEOUT_NOW = 12
    READ_INDEX = 13  # thesis 6.4
    READ_INDEX_RESP = 14
    HUP = 32
    BEAT = 33
    CHECK_QUORUM = 34
    UNREACHABLE = 35
    SNAP_STATUS = 36
    FORGET_LEADER = 37
    STORAGE_APPEND = 40
    STORAGE_APPEND_RESP = 41
    STORAGE_APPLY = 42
    STORAGE_APPLY_RESP = 43


LOCAL_TYPES: Final = frozenset(t for t in MessageType if t >= MessageType.HUP)
RESPONSE_TYPES: Final = frozenset(
    {
        MessageType.APP_RESP,
        MessageType.VOTE_RESP,
        MessageType.PRE_VOTE_RESP,
        MessageType.HEARTBEAT_RESP,
        MessageType.READ_INDEX_RESP,
        MessageType.UNREACHABLE,
    }
)
# Two receivers that no device can be: the storage threads of a node with asynchronous writes.
LOCAL_APPEND: Final = (1 << 64) - 1
LOCAL_APPLY: Final = (1 << 64) - 2


@dataclass(slots=True)
class Message:
    """One message.  Fields that its type does not use stay at their defaults.

    to, sender: raft numbers.  term: 0 for messages that have none (PROP, READ_INDEX, local ones).
    index, log_term: APP: the entry before `entries`; VOTE: the candidate's last; APP_RESP: the last that matches, or
    the one refused (reject_hint and log_term then say where to try next).
    vote: HardState.vote in STORAGE_APPEND only.  signature: the detached signed vote on a granted VOTE_RESP.
    responses: of STORAGE_APPEND and STORAGE_APPLY: to be delivered when the storage has done them; never travels.
    """

    type: MessageType
    to: int = 0
    sender: int = 0
    term: int = 0
    log_term: int = 0
    index: int = 0
    entries: tuple[Entry, ...] = ()
    commit: int = 0
    snapshot: Snapshot | None = None
    reject: bool = False
    reject_hint: int = 0
    context: bytes = b""
    vote: int = 0
    signature: bytes = b""
    responses: tuple[Message, ...] = ()


# --- encode ---------------------------------------------------------------------------------------------------------

FIELDS: Final = 14  # items of the array; below 24, so that its head is one byte
_TYPES: Final = {int(t): t for t in MessageType if t not in LOCAL_TYPES}
_ENTRY_TYPES: Final = {int(t): t for t in EntryType}


def encode(message: Message) -> bytes:
    """The bytes of `message`.  Raises LocalError for a local type, LimitError past RAFT_MESSAGE_BYTES_MAX."""
    if message.type in LOCAL_TYPES:
        raise LocalError(f"raft: {message.type.name} is a message of a node to itself: it does not travel")
    data: bytes = cbor2.dumps(_encode_fields(message))
    if len(data) > RAFT_MESSAGE_BYTES_MAX:
        raise LimitError(f"raft: at most {RAFT_MESSAGE_BYTES_MAX} bytes a message, found {len(data)}")
    return data


def _encode_fields(m: Message) -> list[object]:
    return [
        int(m.type),
        m.to,
        m.sender,
        m.term,
        m.log_term,
        m.index,
        m.commit,
        m.reject,
        m.reject_hint,
        m.context,
        m.vote,
        m.signature,
        None if m.snapshot is None else _encode_snapshot(m.snapshot),
        [[term, index, int(kind), data] for term, index, kind, data in m.entries],
    ]


def _encode_snapshot(snapshot: Snapshot) -> list[object]:
    return [snapshot.index, snapshot.term, conf_to_list(snapshot.conf), snapshot.data]


def conf_to_list(conf: ConfState) -> list[object]:
    """The five items of a configuration, as CBOR takes them."""
    return [
        list(conf.voters),
        list(conf.voters_outgoing),
        list(conf.learners),
        list(conf.learners_next),
        conf.auto_leave,
    ]


# --- decode ---------------------------------------------------------------------------------------------------------


def decode(data: bytes, *, who: str = "") -> Message:
    """The message that `data` holds, within all bounds.  Raises CodecError (naming `who`) for anything else."""
    if len(data) > RAFT_MESSAGE_BYTES_MAX:
        raise CodecError(f"raft: at most {RAFT_MESSAGE_BYTES_MAX} bytes a message, found {len(data)}", who=who)
    try:
        items = cbor2.loads(data)
    except Exception as error:  # cbor2 builds what tags name (dates, patterns, ...): any of them may refuse its own way
        raise CodecError(f"raft: not CBOR: {type(error).__name__}: {error}", who=who) from None
    try:
        message = _decode_fields(items)
    except _WrongError as error:
        raise CodecError(f"raft: {error}", who=who) from None
    known: bytes = cbor2.dumps(items[:FIELDS])
    if not data.startswith(known[1:], 1) or (len(items) == FIELDS and len(known) != len(data)):
        raise CodecError("raft: not the deterministic encoding of what it says", who=who)
    return message


class _WrongError(Exception):
    """What is wrong with an item; decode() adds who sent it."""


def _decode_fields(items: object) -> Message:
    if type(items) is not list or not FIELDS <= len(items) < 24:
        raise _WrongError(f"expected an array of {FIELDS} to 23 items")
    kind, to, sender, term, log_term, index, commit, reject, hint, context, vote, signature, snapshot, entries = items[
        :FIELDS
    ]
    for number in (kind, to, sender, term, log_term, index, commit, hint, vote):
        if type(number) is not int or not 0 <= number <= RAFT_NUMBER_MAX:
            raise _WrongError("a number is not an integer of 0 to 2^63 - 1")
    message_type = _TYPES.get(kind)
    if message_type is None:
        raise _WrongError(f"message type {kind} is not known here")
    if type(reject) is not bool:
        raise _WrongError("reject is not a boolean")
    if type(context) is not bytes or len(context) > RAFT_CONTEXT_BYTES_MAX:
        raise _WrongError(f"context is not bytes, at most {RAFT_CONTEXT_BYTES_MAX}")
    if type(signature) is not bytes or len(signature) > RAFT_SIGNATURE_BYTES_MAX:
        raise _WrongError(f"signature is not bytes, at most {RAFT_SIGNATURE_BYTES_MAX}")
    return Message(
        message_type,
        to,
        sender,
        term,
        log_term,
        index,
        _decode_entries(entries) if entries else _no_entries(entries),
        commit,
        None if snapshot is None else _decode_snapshot(snapshot),
        reject,
        hint,
        context,
        vote,
        signature,
    )


def _no_entries(items: object) -> tuple[Entry, ...]:
    if type(items) is not list:
        raise _WrongError("entries are not an array")
    return ()


def _decode_entries(items: object) -> tuple[Entry, ...]:
    if type(items) is not list or len(items) > RAFT_ENTRIES_MAX:
        raise _WrongError(f"entries are not an array of at most {RAFT_ENTRIES_MAX}")
    entries = []
    for item in items:
        if type(item) is not list or len(item) != 4:
            raise _WrongError("an entry is not [term, index, type, data]")
        term, index, kind, data = item
        if type(term) is not int or type(index) is not int or type(kind) is not int or type(data) is not bytes:
            raise _WrongError("an entry is not [term, index, type, data]")
        if not (0 <= term <= RAFT_NUMBER_MAX and 0 <= index <= RAFT_NUMBER_MAX and 0 <= kind <= 255):
            raise _WrongError("a number of an entry is out of its range")
        if len(data) > RAFT_ENTRY_BYTES_MAX:
            raise _WrongError(f"an entry has {len(data)} bytes, at most {RAFT_ENTRY_BYTES_MAX}")
        entries.append(Entry(term, index, _ENTRY_TYPES.get(kind, kind), data))
    return tuple(entries)


def _decode_snapshot(item: object) -> Snapshot:
    if type(item) is not list or len(item) != 4:
        raise _WrongError("a snapshot is not [index, term, configuration, data]")
    index, term, conf, data = item
    if type(index) is not int or type(term) is not int or type(data) is not bytes:
        raise _WrongError("a snapshot is not [index, term, configuration, data]")
    if not (0 <= index <= RAFT_NUMBER_MAX and 0 <= term <= RAFT_NUMBER_MAX):
        raise _WrongError("a number of a snapshot is out of its range")
    if len(data) > RAFT_SNAPSHOT_BYTES_MAX:
        raise _WrongError(f"a snapshot has {len(data)} bytes, at most {RAFT_SNAPSHOT_BYTES_MAX}")
    decoded = conf_from_list(conf)
    if decoded is None:
        raise _WrongError("a snapshot's configuration is not five lists of raft numbers, each rising")
    return Snapshot(index, term, decoded, data)


def conf_from_list(item: object) -> ConfState | None:
    """The configuration that conf_to_list() made, or None where it is none within RAFT_MEMBERS_MAX."""
    if type(item) is not list or len(item) != 5 or type(item[4]) is not bool:
        return None
    for numbers in item[:4]:
        if type(numbers) is not list or len(numbers) > RAFT_MEMBERS_MAX:
            return None
        previous = 0
        for number in numbers:
            if type(number) is not int or not previous < number <= RAFT_NUMBER_MAX:
                return None
            previous = number
    voters, outgoing, learners, learners_next, auto_leave = item
    return ConfState(tuple(voters), tuple(outgoing), tuple(learners), tuple(learners_next), auto_leave)
