"""What must hold after every step, whatever the faults: the five promises of Figure 3 of the Raft paper, and ours.

Each check is incremental: it looks at what the step changed, and at a registry of all that any node ever did.  A check
that fails raises Violation with the checker's name; the names are in CHECKERS.
The registries are kept by an observer that sees all nodes at once and forgets nothing, not by the nodes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sim_world import World

from edgeswarm.core.raft.config import StateType
from edgeswarm.core.raft.member import Turn
from edgeswarm.wire.raft import ConfState, Entry, Message, MessageType

if TYPE_CHECKING:
    from sim_node import SimNode

CHECKERS = {
    "election safety": "at most one leader in a term",
    "leader append-only": "a leader never replaces or drops entries of its log",
    "log matching": "two logs with an entry of the same index and term are the same up to there",
    "leader completeness": "what was committed in a term is in the logs of the leaders of all later terms",
    "state machine safety": "no two nodes apply (or commit) different entries at one index, or reach different states",
    "commit is monotonic": "commit and term never fall in a life; applied <= commit <= last; nothing committed is lost",
    "persist before promise": "a vote or an acknowledgement leaves only after the disk has what it promises",
    "one vote a term": "a node never gives its vote to two candidates of one term, lives and crashes included",
    "check quorum": "a leader that hears of no quorum for two election timeouts of its own clock stops to lead",
    "same configuration": "all nodes that applied an index have the same members there",
    "certificate": "a leader's certificate holds, and names the one leader of its term",
    "authenticity": "nothing is taken in that its named sender did not send, and nothing twice",
    "linearizability": "what clients saw can be put into one order",
    "liveness": "once faults stop, a leader is elected and a write goes through",
    "no crash": "no exception but those that an interface promises",
}


class Violation(AssertionError):
    """checker: a key of CHECKERS."""

    def __init__(self, checker: str, text: str) -> None:
        assert checker in CHECKERS, checker
        super().__init__(f"{checker}: {text}")
        self.checker = checker


class _View:
    """What one life of a node looked like after the step before."""

    __slots__ = ("applied", "commit", "leader_last", "leader_last_term", "leader_term", "term")

    def __init__(self) -> None:
        self.term = self.commit = self.applied = 0
        self.leader_term = self.leader_last = self.leader_last_term = 0


def fingerprint(entry: Entry) -> int:
    return zlib.crc32(entry.data, int(entry.type))


class Checkers:
    """committed: index -> (term of the entry, fingerprint, term it was committed in)."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.leaders: dict[int, int] = {}
        self.committed: dict[int, tuple[int, int, int]] = {}
        self.commit_max = 0
        self.seen: dict[tuple[int, int], tuple[int, int]] = {}  # (index, term) -> (fingerprint, term before)
        self.voted: dict[tuple[int, int], int] = {}
        self.digests: dict[int, int] = {}
        self.confs: dict[int, ConfState] = {}
        self._views: dict[int, _View] = {}
        self.on_leader: Callable[[int], object] | None = None
        self.promises = True  # a mutation may ask to be caught by what follows from it instead

    def born(self, number: int) -> None:
        """A node starts: what only lived in memory may be less than before."""
        self._views[number] = _View()

    # --- after every step -------------------------------------------------------------------------------------------

    def observe(self, node: SimNode) -> None:
        raft, view, number = node.raft, self._views[node.number], node.number
        log = raft.log
        if raft.term != view.term:
            if raft.term < view.term:
                raise Violation("commit is monotonic", f"{number}: term {view.term} -> {raft.term}")
            view.term = raft.term
        if raft.state is StateType.LEADER:
            self._observe_leader(node, view)
        committed = log.committed
        if committed != view.commit:
            if committed < view.commit:
                raise Violation("commit is monotonic", f"{number}: commit {view.commit} -> {committed}")
            self._observe_commit(node, view.commit, committed)
            view.commit = committed
        if log.applied > committed or log.applied < view.applied or committed > log.last_index():
            raise Violation(
                "commit is monotonic",
                f"{number}: applied {log.applied} (was {view.applied}), commit {committed}, last {log.last_index()}",
            )
        view.applied = log.applied

    def _observe_leader(self, node: SimNode, view: _View) -> None:
        log, term = node.raft.log, node.raft.term
        if view.leader_term != term:
            other = self.leaders.setdefault(term, node.number)
            if other != node.number:
                raise Violation("election safety", f"term {term}: {other} and {node.number} lead")
            self._world.note(f"{node.number} leads term {term}")
            self._observe_new_leader(node)
            view.leader_term = term
            if self.on_leader is not None:
                self.on_leader(node.number)
        elif log.last_index() < view.leader_last or log.term(view.leader_last) != view.leader_last_term:
            raise Violation(
                "leader append-only",
                f"{node.number}, leader of term {term}: entry {view.leader_last} was of term {view.leader_last_term}, "
                f"is {log.term(view.leader_last)} (last {log.last_index()})",
            )
        view.leader_last = log.last_index()
        view.leader_last_term = log.term(view.leader_last)

    def _observe_new_leader(self, node: SimNode) -> None:
        """Every entry committed in an earlier term; by log matching the last few tell."""
        log, term = node.raft.log, node.raft.term
        for index in range(self.commit_max, max(self.commit_max - 20, 0), -1):
            known = self.committed.get(index)
            if known is None or known[2] >= term:
                continue
            ours = log.term(index)
            if ours != known[0] and not (ours < 0 and index <= log.first_index() - 1):
                raise Violation(
                    "leader completeness",
                    f"{node.number} leads term {term} with term {ours} at index {index}, where an entry of term "
                    f"{known[0]} was committed in term {known[2]}",
                )

    def _observe_commit(self, node: SimNode, before: int, commit: int) -> None:
        log, term = node.raft.log, node.raft.term
        for index in range(max(before + 1, log.first_index()), commit + 1):
            entry = log.slice(index, index + 1)[0]
            known = self.committed.get(index)
            if known is None:
                self.committed[index] = (entry.term, fingerprint(entry), term)
            elif known[:2] != (entry.term, fingerprint(entry)):
                raise Violation(
                    "state machine safety",
                    f"{node.number} commits index {index} with term {entry.term}, before it was term {known[0]} "
                    f"(committed in term {known[2]})",
                )
        self.commit_max = max(self.commit_max, commit)

    # --- a turn -----------------------------------------------------------------------------------------------------

    def on_turn(self, node: SimNode, turn: Turn) -> None:
        """A turn begins: what it says at once promises nothing, what it will write fits what others have written."""
        assert turn.ready is not None
        self._check_promises(node, turn.ready.split()[0])
        entries: Sequence[Entry] = turn.entries
        if not entries:
            return
        log, commit = node.raft.log, self._views[node.number].commit
        before = log.term(entries[0].index - 1)
        for entry in entries:
            known = self.seen.setdefault((entry.index, entry.term), (fingerprint(entry), before))
            same = known[0] == fingerprint(entry)
            if not same or (known[1] != before and min(known[1], before) >= 0):
                raise Violation(
                    "log matching",
                    f"{node.number} stores entry {entry.index} of term {entry.term} after one of term {before}; "
                    f"another log has it after term {known[1]}{'' if same else ', with other data'}",
                )
            held = self.committed.get(entry.index)
            if held is not None and entry.index <= commit and held[0] != entry.term:
                raise Violation(
                    "commit is monotonic", f"{node.number} replaces entry {entry.index}, committed with term {held[0]}"
                )
            before = entry.term

    def on_saved(self, node: SimNode, turn: Turn) -> None:
        """A turn's promises have just left: the disk must hold what they say."""
        assert turn.ready is not None
        hard = node.store.durable
        if hard.vote:
            self._vote(node.number, hard.term, hard.vote)
        self._check_promises(node, turn.ready.messages)

    def _check_promises(self, node: SimNode, messages: Sequence[Message]) -> None:
        store, number = node.store, node.number
        hard = store.durable
        for m in messages:
            if m.to == number or m.reject:
                continue
            if m.type is MessageType.VOTE_RESP:
                self._vote(number, m.term, m.to)
                if (hard.term, hard.vote) != (m.term, m.to) and hard.term <= m.term and self.promises:
                    raise Violation(
                        "persist before promise", f"{number} votes for {m.to} in term {m.term}, on its disk is {hard}"
                    )
            elif m.type is MessageType.APP_RESP and m.index > store.durable_last and self.promises:
                # In one turn a node may take in the entry, then a newer term, then that leader's truncation.  What
                # is on its disk is what it would be had there been two turns, and the answer of the first came late.
                if m.term < hard.term:
                    continue
                raise Violation(
                    "persist before promise",
                    f"{number} acknowledges {m.index} to {m.to}, its disk ends at {store.durable_last}",
                )

    def _vote(self, number: int, term: int, candidate: int) -> None:
        if self.voted.setdefault((number, term), candidate) != candidate:
            raise Violation(
                "one vote a term", f"{number} votes for {self.voted[number, term]} and for {candidate} in term {term}"
            )

    def on_applied(self, node: SimNode, entry: Entry, digest: int) -> None:
        """A node has applied an entry; digest: of all it has applied so far."""
        known = self.committed.get(entry.index)
        if known is None:
            raise Violation(
                "state machine safety", f"{node.number} applies entry {entry.index}, which nobody committed"
            )
        if known[:2] != (entry.term, fingerprint(entry)):
            raise Violation(
                "state machine safety",
                f"{node.number} applies index {entry.index} of term {entry.term}, committed was term {known[0]}",
            )
        self.on_state(node, entry.index, digest)

    def on_state(self, node: SimNode, index: int, digest: int) -> None:
        """A node's state machine has come to `index`, by entries or by a snapshot."""
        if self.digests.setdefault(index, digest) != digest:
            raise Violation("state machine safety", f"{node.number} has another state after index {index}")

    def on_tick(self, node: SimNode) -> None:
        """A node's clock ticked; node.heard_tick: voter -> the tick in which something of it came."""
        raft = node.raft
        config = raft.tracker.config
        if raft.state is not StateType.LEADER or not raft.check_quorum:
            node.leading_ticks = 0
            return
        if raft.lead_transferee or config != node.leading_config:  # both give the leader more time, as they should
            node.leading_ticks, node.leading_config = 0, config
        node.leading_ticks += 1
        floor = node.ticks - 2 * raft.election_ticks - 1
        if node.leading_ticks <= 2 * raft.election_ticks + 1:
            return
        for half in (config.voters_incoming, config.voters_outgoing):
            heard = sum(number == node.number or node.heard_tick.get(number, 0) >= floor for number in half)
            if half and heard <= len(half) // 2:
                raise Violation(
                    "check quorum",
                    f"{node.number} leads term {raft.term} and has heard of {heard} of {half} since long",
                )

    def on_conf(self, node: SimNode, index: int, conf: ConfState) -> None:
        if self.confs.setdefault(index, conf) != conf:
            raise Violation(
                "same configuration", f"{node.number} at index {index}: {conf}, another had {self.confs[index]}"
            )
