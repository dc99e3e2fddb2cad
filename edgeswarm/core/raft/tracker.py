"""What a leader knows of every member: how far its log matches, what is on its way to it, and whether it is paused.

Invariants: match < next for every member; inflights hold at most `size` messages, their indexes ascending; the members
with a Progress are exactly those the configuration names.
Hot path: `ProgressTracker.committed`, `Progress.is_paused`, `maybe_update` run once a message; they allocate nothing
for 1 and 3 voters.
Source: Ongaro 2014, 3.5, 4.2 and 10.2; the three states follow etcd's raft (probe, replicate, snapshot).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from edgeswarm.core.raft.quorum import INDEX_ALL, VoteResult, joint_vote, majority_of_sorted, median
from edgeswarm.wire.raft import ConfState

INFLIGHT_START: Final = 16  # slots a ring starts with; it doubles up to its size as they are needed


class ProgressState(IntEnum):
    """How the leader sends to a member."""

    PROBE = 0  # one message at a time, until a point is found where both logs match
    REPLICATE = 1  # optimistically, as many messages as inflights allow
    SNAPSHOT = 2  # nothing: a snapshot is on its way

    def __str__(self) -> str:
        return f"State{self.name.capitalize()}"


class Inflights:
    """A ring of the append messages that are on their way: for each its last index and its bytes of payload.

    size: messages at most, > 0.  max_bytes: no message is added once so many bytes are on their way; 0 is no bound.
    """

    __slots__ = ("_bytes", "_indexes", "_start", "bytes_total", "count", "max_bytes", "size")

    def __init__(self, size: int, max_bytes: int = 0) -> None:
        self.size = size
        self.max_bytes = max_bytes
        self._start = 0
        self.count = 0  # messages on their way
        self.bytes_total = 0  # their payload
        self._indexes = [0] * min(size, INFLIGHT_START)
        self._bytes = [0] * min(size, INFLIGHT_START)

    def full(self) -> bool:
        """Whether nothing may be added now."""
        return self.count == self.size or (self.max_bytes != 0 and self.bytes_total >= self.max_bytes)

    def add(self, last_index: int, bytes_: int) -> None:
        """Notes a message that ends at `last_index`; indexes are added ascending, and never when full."""
        assert not self.full(), "inflights are full"
        slots = len(self._indexes)
        if self.count == slots:
            self._grow()
            slots = len(self._indexes)
        at = self._start + self.count
        if at >= slots:
            at -= slots
        self._indexes[at] = last_index
        self._bytes[at] = bytes_
        self.count += 1
        self.bytes_total += bytes_

    def _grow(self) -> None:
        slots = min(2 * len(self._indexes), self.size)
        start = self._start
        for name in ("_indexes", "_bytes"):
            old: list[int] = getattr(self, name)
            setattr(self, name, old[start:] + old[:start] + [0] * (slots - len(old)))
        self._start = 0

    def free_to(self, index: int) -> None:
        """Forgets every message that ends at `index` or before: the member has them."""
        start, slots = self._start, len(self._indexes)
        while self.count and self._indexes[start] <= index:
            self.count -= 1
            self.bytes_total -= self._bytes[start]
            start += 1
            if start == slots:
                start = 0
        self._start = start

    def reset(self) -> None:
        """Forgets everything."""
        self._start = self.count = self.bytes_total = 0


class Progress:
    """One member as the leader sees it.

    match: the highest index known to be in the member's log.  next: the first index of the next message to it.
    pending_snapshot: index of the snapshot on its way, 0 if there is none.  recent_active: heard of since the last
    check of the quorum.  msg_app_flow_paused: nothing more until an answer or a heartbeat.  sent_commit: the highest
    commit index that was sent.
    """

    __slots__ = (
        "inflights",
        "is_learner",
        "match",
        "msg_app_flow_paused",
        "next",
        "pending_snapshot",
        "recent_active",
        "sent_commit",
        "state",
    )

    def __init__(
        self,
        *,
        next: int,  # noqa: A002 - the name the Raft paper gives it
        inflights: Inflights,
        match: int = 0,
        is_learner: bool = False,
        recent_active: bool = False,
    ) -> None:
        self.match = match
        self.next = next
        self.state = ProgressState.PROBE
        self.pending_snapshot = 0
        self.recent_active = recent_active
        self.msg_app_flow_paused = False
        self.inflights = inflights
        self.is_learner = is_learner
        self.sent_commit = 0

    def copy(self) -> Progress:
        """A copy that shares the inflights, so that a change of members can be tried and thrown away."""
        other = Progress(
            next=self.next,
            inflights=self.inflights,
            match=self.match,
            is_learner=self.is_learner,
            recent_active=self.recent_active,
        )
        other.state = self.state
        other.pending_snapshot = self.pending_snapshot
        other.msg_app_flow_paused = self.msg_app_flow_paused
        other.sent_commit = self.sent_commit
        return other

    def _reset_state(self, state: ProgressState) -> None:
        self.msg_app_flow_paused = False
        self.pending_snapshot = 0
        self.state = state
        self.inflights.reset()

    def become_probe(self) -> None:
        """Goes back to one message at a time; after a snapshot, the probe starts behind it."""
        pending = self.pending_snapshot if self.state == ProgressState.SNAPSHOT else 0
        self._reset_state(ProgressState.PROBE)
        self.next = max(self.match, pending) + 1
        self.sent_commit = min(self.sent_commit, self.next - 1)

    def become_replicate(self) -> None:
        """The logs match at `match`: from there on, optimistically."""
        self._reset_state(ProgressState.REPLICATE)
        self.next = self.match + 1

    def become_snapshot(self, index: int) -> None:
        """A snapshot up to `index` is on its way; next and sent_commit are what holds once it has arrived."""
        self._reset_state(ProgressState.SNAPSHOT)
        self.pending_snapshot = index
        self.next = index + 1
        self.sent_commit = index

    def sent_entries(self, count: int, bytes_: int) -> None:
        """Notes that a message with `count` entries (bytes_ of payload) was sent, and pauses if it was the last."""
        if self.state == ProgressState.REPLICATE:
            if count > 0:
                self.next += count
                self.inflights.add(self.next - 1, bytes_)
            self.msg_app_flow_paused = self.inflights.full()
        elif self.state == ProgressState.PROBE:
            if count > 0:
                self.msg_app_flow_paused = True
        else:
            raise AssertionError(f"entries sent in {self.state}")

    def can_bump_commit(self, index: int) -> bool:
        """Whether sending commit `index` tells the member something: it is higher than what was sent, and what was sent
        does not yet cover all of the log that the member has or is about to have."""
        return index > self.sent_commit < self.next - 1

    def sent_commit_update(self, index: int) -> None:
        """Notes that commit `index` was sent."""
        self.sent_commit = index

    def maybe_update(self, index: int) -> bool:
        """The member says that its log matches up to `index`; returns whether that is news."""
        if index <= self.match:
            return False
        self.match = index
        if self.next <= index:
            self.next = index + 1
        self.msg_app_flow_paused = False
        return True

    def maybe_decr_to(self, rejected: int, hint: int) -> bool:
        """The member refused a message whose previous index was `rejected`; its log may match up to `hint`.

        Returns False for a stale refusal, one that no message now on its way can have caused.
        """
        if self.state == ProgressState.REPLICATE:
            if rejected <= self.match:
                return False
            self.next = self.match + 1
            self.sent_commit = min(self.sent_commit, self.next - 1)
            return True
        if self.next - 1 != rejected:  # a probe's only message was the one before `next`
            return False
        self.next = max(min(rejected, hint + 1), self.match + 1)
        self.sent_commit = min(self.sent_commit, self.next - 1)
        self.msg_app_flow_paused = False
        return True

    def is_paused(self) -> bool:
        """Whether no entries may be sent now."""
        return self.msg_app_flow_paused or self.state == ProgressState.SNAPSHOT

    def __str__(self) -> str:
        parts = [f"{self.state} match={self.match} next={self.next}"]
        if self.is_learner:
            parts.append("learner")
        if self.is_paused():
            parts.append("paused")
        if self.pending_snapshot:
            parts.append(f"pendingSnap={self.pending_snapshot}")
        if not self.recent_active:
            parts.append("inactive")
        if self.inflights.count:
            parts.append(f"inflight={self.inflights.count}" + ("[full]" if self.inflights.full() else ""))
        return " ".join(parts)


def _ids_text(ids: Iterable[int]) -> str:
    return f"({' '.join(map(str, ids))})"


@dataclass(frozen=True, slots=True)
class TrackerConfig:
    """Who is a member, and as what; each field holds raft numbers, ascending and without repetition.

    voters_outgoing: the old voters while a joint change is under way, else empty.  learners_next: voters of
    voters_outgoing that become learners when the joint configuration is left.  auto_leave: the leader leaves it by
    itself.
    """

    voters_incoming: tuple[int, ...] = ()
    voters_outgoing: tuple[int, ...] = ()
    learners: tuple[int, ...] = ()
    learners_next: tuple[int, ...] = ()
    auto_leave: bool = False

    @property
    def joint(self) -> bool:
        """Whether a joint change is under way."""
        return bool(self.voters_outgoing)

    def is_voter(self, id_: int) -> bool:
        """Whether `id_` votes in either half."""
        return id_ in self.voters_incoming or id_ in self.voters_outgoing

    def voters(self) -> tuple[int, ...]:
        """Voters of both halves, ascending."""
        if not self.voters_outgoing:
            return self.voters_incoming
        return tuple(sorted({*self.voters_incoming, *self.voters_outgoing}))

    def __str__(self) -> str:
        text = f"voters={_ids_text(self.voters_incoming)}"
        if self.voters_outgoing:
            text += f"&&{_ids_text(self.voters_outgoing)}"
        if self.learners:
            text += f" learners={_ids_text(self.learners)}"
        if self.learners_next:
            text += f" learners_next={_ids_text(self.learners_next)}"
        return text + (" autoleave" if self.auto_leave else "")


def _committed(half: tuple[Progress, ...]) -> int:
    """The highest index that a majority of one half has."""
    count = len(half)
    if count == 3:
        return median(half[0].match, half[1].match, half[2].match)
    if count == 1:
        return half[0].match
    if count == 0:
        return INDEX_ALL
    return majority_of_sorted(sorted([one.match for one in half]))


class ProgressTracker:
    """All members as the leader sees them, and the votes of the election under way.

    `config` and `progress` are changed by `install` only: what `committed` reads is kept beside them.
    max_inflight: messages on their way to one member at most.  max_inflight_bytes: their payload, 0 is no bound.
    """

    __slots__ = (
        "_incoming",
        "_outgoing",
        "config",
        "ids",
        "max_inflight",
        "max_inflight_bytes",
        "progress",
        "voters",
        "votes",
    )

    def __init__(self, max_inflight: int, max_inflight_bytes: int = 0) -> None:
        self.max_inflight = max_inflight
        self.max_inflight_bytes = max_inflight_bytes
        self.votes: dict[int, bool] = {}
        self.install(TrackerConfig(), {})

    def install(self, config: TrackerConfig, progress: dict[int, Progress]) -> None:
        """Takes over a configuration with its members, as `confchange.Changer` returns them."""
        self.config = config
        self.progress = progress
        self.ids = tuple(sorted(progress))  # every member, ascending: the order messages are sent in
        self.voters = config.voters()  # of both halves, ascending
        self._incoming = tuple([progress[id_] for id_ in config.voters_incoming])
        self._outgoing = tuple([progress[id_] for id_ in config.voters_outgoing])

    def new_progress(self, *, next_index: int, is_learner: bool, recent_active: bool = False) -> Progress:
        """A member nothing is known of."""
        inflights = Inflights(self.max_inflight, self.max_inflight_bytes)
        return Progress(next=next_index, inflights=inflights, is_learner=is_learner, recent_active=recent_active)

    def reset_progress(self, *, next_index: int, self_id: int, self_match: int) -> None:
        """Forgets what is known of everybody, at the start of a term: next = next_index; self matches self_match."""
        fresh = {
            id_: self.new_progress(next_index=next_index, is_learner=old.is_learner)
            for id_, old in self.progress.items()
        }
        if self_id in fresh:
            fresh[self_id].match = self_match
        self.install(self.config, fresh)

    def committed(self) -> int:
        """The highest index that the voters have; INDEX_ALL where there are none."""
        first = _committed(self._incoming)
        if not self._outgoing:
            return first
        second = _committed(self._outgoing)
        return first if first < second else second

    def is_singleton(self) -> bool:
        """Whether one voter decides alone."""
        return len(self._incoming) == 1 and not self._outgoing

    def reset_votes(self) -> None:
        """Forgets the votes."""
        self.votes = {}

    def record_vote(self, id_: int, granted: bool) -> None:
        """Notes a vote; the first of each voter counts."""
        self.votes.setdefault(id_, granted)

    def tally_votes(self) -> tuple[int, int, VoteResult]:
        """(yes, no, result); votes of learners and strangers do not count."""
        granted = rejected = 0
        for id_ in self.voters:
            vote = self.votes.get(id_)
            if vote is not None:
                granted += vote
                rejected += not vote
        config = self.config
        return granted, rejected, joint_vote(config.voters_incoming, config.voters_outgoing, self.votes)

    def quorum_active(self) -> bool:
        """Whether a quorum of voters was heard of since recent_active was last cleared."""
        active = {id_: self.progress[id_].recent_active for id_ in self.voters}
        return joint_vote(self.config.voters_incoming, self.config.voters_outgoing, active) == VoteResult.WON

    def conf_state(self) -> ConfState:
        """The configuration as it is kept in snapshots."""
        config = self.config
        return ConfState(
            voters=config.voters_incoming,
            voters_outgoing=config.voters_outgoing,
            learners=config.learners,
            learners_next=config.learners_next,
            auto_leave=config.auto_leave,
        )

    def __str__(self) -> str:
        return "".join(f"{id_}: {self.progress[id_]}\n" for id_ in self.ids)
