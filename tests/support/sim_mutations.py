"""The core broken on purpose, one known way at a time: each must be caught, or the simulator sees nothing.

A mutation is a context manager that patches the product's code while seeds run.  They are written against its present
shape; one that no longer finds what it patches fails by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partialmethod
from typing import Any
from unittest.mock import patch

from sim_disk import SimStore
from sim_network import Weather
from sim_node import Keys, Setting
from sim_run import PLANS, Plan
from sim_world import MS, S

from edgeswarm.core.raft import confchange, election, membership, raft, rawnode, reads, replication
from edgeswarm.core.raft.config import StateType
from edgeswarm.core.raft.log import RaftLog
from edgeswarm.core.raft.member import Member
from edgeswarm.core.raft.quorum import joint_vote
from edgeswarm.core.raft.raft import Raft
from edgeswarm.core.raft.tracker import ProgressTracker
from edgeswarm.wire.raft import HardState, Message, MessageType
from edgeswarm.wire.replay import ReplayWindow

Patch = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Mutation:
    """plan: where it shows soonest; it must be caught within seeds_max seeds, by any of `checkers`."""

    name: str
    apply: Patch
    checkers: frozenset[str]
    plan: Plan = field(default_factory=Plan)
    seeds_max: int = 60
    slow: bool = False  # takes more than a few seconds: for `make soak`


MUTATIONS: dict[str, Mutation] = {}


def mutation(
    *checkers: str, plan: Plan | None = None, seeds_max: int = 60, slow: bool = False
) -> Callable[[Patch], Patch]:
    def register(apply: Patch) -> Patch:
        name = apply.__name__.removeprefix("_").replace("_", " ")
        MUTATIONS[name] = Mutation(name, apply, frozenset(checkers), plan or Plan(), seeds_max, slow)
        return apply

    return register


def handler(kind: MessageType, states: tuple[StateType, ...], changed: Callable[[Raft, Message], None]) -> Any:
    """Replaces the handler of a message in some states."""
    table = {state: dict(of) for state, of in raft._HANDLERS.items()}
    for state in states:
        assert kind in table[state], f"{state} does not handle {kind}"
        table[state][kind] = changed
    return patch.object(raft, "_HANDLERS", table)


EVERY = tuple(StateType)
CRASHES = Plan(voters=3, kinds=["power loss", "blackout", "slow disk", "isolate"], operator=False, attacker=False)
SPLITS = Plan(voters=5, kinds=["split", "pairs", "isolate", "storm", "deaf or mute"], operator=False, attacker=False)


CONSEQUENCES = (
    "election safety",
    "state machine safety",
    "leader completeness",
    "leader append-only",
    "log matching",
    "commit is monotonic",
    "one vote a term",
    "certificate",
    "linearizability",
    "no crash",  # the core notices itself that something cannot be
)


# --- votes ----------------------------------------------------------------------------------------------------------


@mutation("persist before promise", "one vote a term", plan=CRASHES)
def _the_vote_is_not_persisted_before_it_is_given() -> Any:
    """The hard state reaches the disk without its vote: a restart may vote again."""
    save = SimStore.save_soon

    def forgetful(self: SimStore, hard: HardState | None, *rest: Any) -> None:
        save(self, hard._replace(vote=0) if hard is not None else None, *rest)

    return patch.object(SimStore, "save_soon", forgetful)


@mutation(*CONSEQUENCES, plan=replace(CRASHES, promises=False, voters=5), seeds_max=300, slow=True)
def _the_vote_is_not_persisted_by_its_consequences() -> Any:
    return _the_vote_is_not_persisted_before_it_is_given()


@mutation("one vote a term", "election safety", plan=SPLITS)
def _two_votes_in_one_term() -> Any:
    """A vote for one is no reason to refuse another."""
    before = election.handle_vote

    def generous(node: Raft, m: Message) -> None:
        if m.type is MessageType.VOTE:
            node.vote = node.lead = 0
        before(node, m)

    return handler(MessageType.VOTE, EVERY, generous)


@mutation("leader completeness", "state machine safety", "commit is monotonic", "no crash", plan=SPLITS)
def _a_vote_without_looking_at_the_log() -> Any:
    return patch.object(RaftLog, "is_up_to_date", lambda self, index, term: True)


@mutation("election safety", "certificate", plan=SPLITS)
def _a_candidate_needs_one_vote_less() -> Any:
    before = ProgressTracker.tally_votes

    def modest(self: ProgressTracker) -> Any:
        granted, rejected, result = before(self)
        if granted + 1 > len(self.voters) // 2:
            result = election.VoteResult.WON
        return granted, rejected, result

    return patch.object(ProgressTracker, "tally_votes", modest)


# --- the log --------------------------------------------------------------------------------------------------------


FIGURE_8 = Plan(
    voters=3,
    kinds=["ambush"],
    every_us=(500 * MS, 1_500 * MS),
    faults_us=(6 * S, 8 * S),
    setting={"max_size_per_msg": 1, "max_inflight_msgs": 1, "batch_appends": False},
    weather=Weather(delay_us=(5 * MS, 40 * MS)),
    clients=10,
    patience_us=(30 * MS, 200 * MS),
    operator=False,
    attacker=False,
)


@mutation(*CONSEQUENCES, plan=FIGURE_8, seeds_max=150, slow=True)
def _an_entry_of_an_older_term_is_committed_by_counting() -> Any:
    """Figure 8 of the Raft paper: copies of an older term's entry may still be replaced."""

    def maybe_commit(self: RaftLog, index: int, term: int) -> bool:
        if index > self.committed and self.term(index) > 0:
            self.commit_to(index)
            return True
        return False

    return patch.object(RaftLog, "maybe_commit", maybe_commit)


@mutation("log matching", "state machine safety", "commit is monotonic", "no crash", plan=SPLITS)
def _an_append_is_taken_whatever_comes_before_it() -> Any:
    """The term of the entry before is not compared."""
    before = RaftLog.maybe_append

    def careless(self: RaftLog, index: int, term: int, *rest: Any, **named: Any) -> int | None:
        if self.committed <= index <= self.last_index():
            term = self.term(index)
        return before(self, index, term, *rest, **named)

    return patch.object(RaftLog, "maybe_append", careless)


@mutation("state machine safety", "log matching", "commit is monotonic", "no crash", plan=SPLITS)
def _conflicting_entries_are_not_replaced() -> Any:
    """A follower keeps what it has at an index, and says that it has the leader's."""

    def find_conflict(self: RaftLog, entries: Any) -> int:
        for at, entry in enumerate(entries):
            if entry.index > self.last_index():
                return at
        return len(entries)

    return patch.object(RaftLog, "find_conflict", find_conflict)


@mutation("commit is monotonic", "state machine safety", "no crash", plan=SPLITS)
def _committed_entries_are_replaced() -> Any:
    """An append that comes late cuts off what follows its entries, committed or not."""

    def maybe_append(self: RaftLog, index: int, term: int, entries: Any, commit: int, *, who: str = "") -> int | None:
        if self.term(index) != term:
            return None
        if entries:
            self.offset = min(self.offset, entries[0].index)
            del self.entries[max(entries[0].index - self.offset, 0) :]
            self.entries.extend(entries)
            self.offset_in_progress = min(self.offset_in_progress, entries[0].index)
        if commit > self.committed:
            self.commit_to(min(commit, index + len(entries)))
        return index + len(entries)

    def append(node: Raft, m: Message) -> None:
        node.election_elapsed, node.lead = 0, m.sender
        last = node.log.maybe_append(m.index, m.log_term, m.entries, m.commit)
        kind, here = MessageType.APP_RESP, node.log.last_index()
        if last is None:
            node.send(
                Message(kind, m.sender, node.id, node.term, 0, m.index, reject=True, reject_hint=min(m.index, here))
            )
        else:
            node.send(Message(kind, m.sender, node.id, node.term, index=last))

    @contextmanager
    def both() -> Iterator[None]:
        with (
            patch.object(RaftLog, "maybe_append", maybe_append),
            handler(MessageType.APP, (StateType.FOLLOWER,), append),
        ):
            yield

    return both()


@mutation("persist before promise", plan=CRASHES)
def _an_acknowledgement_before_the_fsync() -> Any:
    """What promises leaves at once, while the disk still writes."""
    return patch.object(rawnode.Ready, "split", lambda self: (self.messages, []))


@mutation(*CONSEQUENCES, plan=replace(CRASHES, promises=False), seeds_max=300)
def _an_acknowledgement_before_the_fsync_by_its_consequences() -> Any:
    return patch.object(rawnode.Ready, "split", lambda self: (self.messages, []))


@mutation("state machine safety", "commit is monotonic", "linearizability", plan=SPLITS)
def _entries_are_applied_before_they_are_committed() -> Any:
    return patch.object(RaftLog, "max_appliable", lambda self, allow_unstable: self.last_index())


@mutation("commit is monotonic", "state machine safety", "no crash", plan=SPLITS, seeds_max=150)
def _a_heartbeat_commits_beyond_what_the_follower_has() -> Any:
    """The commit index of a heartbeat is the leader's, and the follower takes as much of it as its log is long."""
    before = replication._heartbeat

    def heartbeat(node: Raft, m: Message) -> None:
        m.commit = min(m.commit, node.log.last_index())
        before(node, m)

    broadcast = replication.broadcast_heartbeat

    def eager(node: Raft, context: bytes | None = None) -> None:
        broadcast(node, context)
        for message in node.msgs:
            if message.type is MessageType.HEARTBEAT:
                message.commit = node.log.committed

    @contextmanager
    def both() -> Iterator[None]:
        with (
            patch.object(replication, "_heartbeat", heartbeat),
            patch.object(replication, "broadcast_heartbeat", eager),
        ):
            yield

    return both()


SNAPSHOTS = Plan(
    voters=3,
    kinds=["isolate", "snapshot", "misreport"],
    setting={"snapshot_every": 5, "snapshot_keep": 0, "replay_window": False},
    weather=Weather(duplicate=0.3, late=0.3, reorder=True),
)


@mutation("commit is monotonic", "state machine safety", "no crash", plan=SNAPSHOTS)
def _an_old_snapshot_replaces_a_newer_state() -> Any:
    """A follower restores whatever snapshot it is sent."""

    def restore(node: Raft, snapshot: Any, who: str) -> bool:
        membership.restore_conf(node, snapshot.conf, snapshot.index)
        node.log.restore(snapshot)
        return True

    return patch.object(replication, "_restore", restore)


# --- reads, leases, members -----------------------------------------------------------------------------------------


STALE = Plan(voters=3, kinds=["isolate", "split", "deaf or mute"], setting={"check_quorum": False}, clients=8)


@mutation("linearizability", plan=STALE, seeds_max=150)
def _a_read_is_answered_without_a_quorum() -> Any:
    """The leader believes that it still leads."""

    def request(node: Raft, m: Message) -> None:
        reads._answer(node, m, node.log.committed)

    return handler(MessageType.READ_INDEX, (StateType.LEADER,), request)


@mutation("linearizability", plan=PLANS["single"], seeds_max=150)
def _a_single_voter_reads_before_its_first_commit() -> Any:
    """What was found here on 2026-11-21."""
    before = reads.request

    def hasty(node: Raft, m: Message) -> None:
        if node.tracker.is_singleton():
            reads._answer(node, m, node.log.committed)
        else:
            before(node, m)

    return handler(MessageType.READ_INDEX, (StateType.LEADER,), hasty)


@mutation("linearizability", plan=PLANS["removed-leader"], seeds_max=200)
def _a_leader_takes_the_only_voter_for_itself() -> Any:
    """What was found here on 2026-11-21."""
    before = reads._start

    def hasty(node: Raft, m: Message) -> None:
        if node.tracker.is_singleton():
            reads._answer(node, m, node.log.committed)
        else:
            before(node, m)

    return patch.object(reads, "_start", hasty)


MEMBERS = Plan(voters=3, kinds=["split", "pairs", "isolate", "kill", "transfer"], operator=True, big_changes=True)


@mutation(*CONSEQUENCES, "liveness", plan=MEMBERS, seeds_max=300)
def _members_change_at_once_without_a_joint_configuration() -> Any:
    """Half of the old voters and half of the new ones need not have anybody in common."""

    def apply(self: Any, change: Any) -> Any:
        draft = self._draft()
        draft.apply(change.changes)
        return draft.done()

    return patch.object(confchange.Changer, "apply", apply)


@mutation(*CONSEQUENCES, plan=MEMBERS, seeds_max=300)
def _the_old_half_of_a_joint_configuration_does_not_count() -> Any:
    """Neither for what is committed nor for who is elected."""
    install, tally = ProgressTracker.install, ProgressTracker.tally_votes

    def half(self: ProgressTracker, config: Any, progress: Any) -> None:
        install(self, config, progress)
        self._outgoing = ()

    def count(self: ProgressTracker) -> Any:
        granted, rejected, _ = tally(self)
        return granted, rejected, joint_vote(self.config.voters_incoming, (), self.votes)

    @contextmanager
    def both() -> Iterator[None]:
        with patch.object(ProgressTracker, "install", half), patch.object(ProgressTracker, "tally_votes", count):
            yield

    return both()


@mutation("liveness", plan=PLANS["lost-snapshot"], seeds_max=300, slow=True)
def _a_lost_snapshot_is_waited_for_for_ever() -> Any:
    """What was found here on 2026-11-21."""
    return patch.object(Member, "tick", lambda self: self.node.tick())


@mutation("liveness", plan=PLANS["demoted"], seeds_max=600, slow=True)
def _who_refuses_a_vote_keeps_the_commit_index_to_itself() -> Any:
    """What was found here on 2026-11-21."""
    return patch.object(Setting, "__init__", partialmethod(Setting.__init__, commit_by_vote=False))


@mutation(
    "check quorum", plan=Plan(voters=5, kinds=["isolate", "deaf or mute", "split"], setting={"check_quorum": True})
)
def _a_leader_without_a_quorum_goes_on() -> Any:
    """CheckQuorum does nothing."""
    return patch.object(election, "check_quorum", lambda node: None)


@mutation("certificate")
def _a_candidate_counts_votes_that_are_not_signed() -> Any:
    """Voters forget to sign, the candidate to check."""

    def unchecked(self: Member, *rest: Any) -> None:
        self._verify = lambda *_: True
        check(self, *rest)

    def unsigned(self: Member, messages: Any) -> Any:
        sign, self._sign = self._sign, lambda _: bytes(64)
        try:
            return packets(self, messages)
        finally:
            self._sign = sign

    check, packets = Member._check, Member._packets

    @contextmanager
    def both() -> Iterator[None]:
        with patch.object(Member, "_check", unchecked), patch.object(Member, "_packets", unsigned):
            yield

    return both()


@mutation("authenticity")
def _a_replayed_message_is_taken_in() -> Any:
    return patch.object(ReplayWindow, "admit", lambda *_, **__: None)


@mutation("authenticity", "certificate", plan=Plan(attacker=True))
def _a_signature_is_not_checked() -> Any:
    return patch.object(Keys, "check", lambda *_: True)
