"""Questions and answers between two devices, proposals to the leader, and what the learners follow.

A span of time is relative to when the message was sent: clocks of devices are hours off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from edgeswarm import limits
from edgeswarm.wire.messages.base import (
    Chars,
    Count,
    DeviceId,
    Digest,
    Id16,
    Items,
    Message,
    Ms,
    Num,
    Size,
    Text,
    Uint,
    Word,
    message,
)

BODY_BYTES_MAX = limits.INBOX_BYTES_MAX - 8 * limits.KIB
Body = Annotated[bytes, Size(BODY_BYTES_MAX)]
Code = Annotated[str, Chars(64, 0, "[a-z0-9.-]*")]


@message("request", bytes_max=limits.INBOX_BYTES_MAX)
class Request(Message):
    """A question.  The answer goes to device/<sender>/inbox with the same id."""

    id: Id16
    method: Word  # "feed.fetch"
    deadline_ms: Ms  # from when it was sent; nobody waits longer
    body: Body = b""


@message("response", bytes_max=limits.INBOX_BYTES_MAX)
class Response(Message):
    """The answer to the request of this id.  code: empty when all is well, else a stable word."""

    id: Id16
    code: Code = ""
    body: Body = b""
    text: Text = ""  # what went wrong, for people


@message("message", bytes_max=limits.EVENT_BYTES_MAX)
class AppMessage(Message):
    """A message of an application: what `send_message` and `broadcast` carry."""

    name: Word
    body: Annotated[bytes, Size(limits.EVENT_BYTES_MAX - limits.KIB)]


@message("propose", bytes_max=limits.COMMAND_BYTES_MAX + limits.KIB)
class Propose(Message):
    """A command for the log, from any device to the leader."""

    client: Id16  # of a session; (client, seq) is applied once
    seq: Uint
    deadline_ms: Ms
    command: Annotated[bytes, Size(limits.COMMAND_BYTES_MAX, 1)]


@message("propose.reply", bytes_max=limits.COMMAND_BYTES_MAX + limits.KIB)
class ProposeReply(Message):
    """What became of a proposal.  "unknown": nobody can tell; ask again with the same seq."""

    client: Id16
    seq: Uint
    status: Literal["applied", "rejected", "not-leader", "busy", "unknown"]
    index: Uint = 0  # of the entry, when applied
    term: Uint = 0
    result: Annotated[bytes, Size(limits.COMMAND_BYTES_MAX)] = b""
    leader: DeviceId | None = None  # who to ask instead
    text: Text = ""


@dataclass(frozen=True, slots=True)
class FeedEntry:
    """A committed log entry; its index follows from its place in the feed."""

    term: Uint
    type: Annotated[int, Num(0, 255)]  # raft.EntryType
    data: Annotated[bytes, Size(limits.COMMAND_BYTES_MAX + limits.KIB)]


@dataclass(frozen=True, slots=True)
class SnapshotOffer:
    """A snapshot that can be fetched as an artefact."""

    index: Uint
    term: Uint
    digest: Digest
    size_bytes: Annotated[int, Num(0, limits.RAFT_BYTES_MAX)]


@message("feed", bytes_max=limits.FEED_BYTES_MAX)
class Feed(Message):
    """Committed entries, published once by the leader for all learners, or sent to one that has a gap.

    A learner checks the leader's certificate for `term`, the envelope, and that (previous_index, previous_term) is what
    it applied last.
    """

    term: Uint  # of the leader
    previous_index: Uint
    previous_term: Uint
    entries: Annotated[tuple[FeedEntry, ...], Items(limits.FEED_ENTRIES_MAX)]
    commit: Uint
    roster_version: Uint
    snapshot: SnapshotOffer | None = None

    @property
    def first_index(self) -> int:
        return self.previous_index + 1


@message("feed.fetch", bytes_max=1 * limits.KIB)
class FeedFetch(Message):
    """A learner that has a gap asks any voter, as the body of a request; the answer's body is a Feed."""

    first_index: Annotated[int, Num(1)]
    entries_max: Annotated[int, Num(1, limits.FEED_ENTRIES_MAX)]
    bytes_max: Count = limits.FEED_BYTES_MAX - 64 * limits.KIB


@message("batch", bytes_max=limits.INBOX_BYTES_MAX)
class Batch(Message):
    """Several messages in one envelope, each encoded; a batch in a batch is refused by whoever unpacks it."""

    items: Annotated[tuple[Annotated[bytes, Size(limits.EVENT_BYTES_MAX)], ...], Items(limits.MESSAGE_ITEMS_MAX)]
