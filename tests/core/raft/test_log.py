"""The log against a dumb model: a plain list from the first entry on, and three numbers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from raft_nodes import entries

from edgeswarm.core.raft.log import UNKNOWN_TERM, RaftLog
from edgeswarm.core.raft.storage import (
    ENTRY_OVERHEAD_BYTES,
    CompactedError,
    MemoryStorage,
    UnavailableError,
    limit_bytes,
)
from edgeswarm.errors import LocalError, RemoteError
from edgeswarm.wire.raft import ConfState, Entry, EntryType, HardState, Snapshot

ENTRY_BYTES = ENTRY_OVERHEAD_BYTES + 3  # of entries(): data "t/i" with one digit each


def stored(*terms: int, **settings: int) -> RaftLog:
    storage = MemoryStorage()
    storage.append(entries(*terms))
    return RaftLog(storage, **settings)


def unstored(*terms: int, **settings: int) -> RaftLog:
    log = RaftLog(MemoryStorage(), **settings)
    if terms:
        log.append(entries(*terms))
    return log


class LogMachine(RuleBasedStateMachine):
    """Everything that may happen to a log, in any order.  Model: entries by position, and what was promised."""

    def __init__(self) -> None:
        super().__init__()
        self.storage = MemoryStorage()
        self.log = RaftLog(self.storage)
        self.model: list[Entry] = []  # model[i] is entry i + 1, kept even where the log was compacted
        self.newest = 1  # the highest term there was
        self.snapshot = Snapshot()
        self.applied: list[Entry] = []
        self.handed_out: list[Entry] = []
        self.in_storage: tuple[int, int] | None = None

    def last_term(self) -> int:
        return self.model[-1].term if self.model else 1

    @rule(count=st.integers(1, 4), step=st.integers(0, 2))
    def append(self, count: int, step: int) -> None:
        self.newest = term = max(self.newest, self.last_term() + step)
        new = entries(*[term] * count, first=len(self.model) + 1)
        assert self.log.append(new) == len(self.model) + count
        self.model += new

    @rule(back=st.integers(0, 5), again=st.integers(0, 3), count=st.integers(0, 4), commit=st.integers(0, 30))
    def append_of_a_leader(self, back: int, again: int, count: int, commit: int) -> None:
        """From a place where both agree and which is at or above the commit index, as Raft promises: first entries that
        may be here already, then entries of a term that nobody has seen."""
        start = max(len(self.model) - back, self.log.committed)
        term = self.model[start - 1].term if start else 0
        new = self.model[start : start + again]
        new += entries(*[self.newest + 1] * count, first=start + len(new) + 1)
        self.newest += 1
        last = self.log.maybe_append(start, term, tuple(new), commit)
        assert last == start + len(new)
        if self.model[start:last] != new:
            agree = start
            while agree < min(last, len(self.model)) and self.model[agree].term == new[agree - start].term:
                agree += 1
            self.model = self.model[:agree] + (new[agree - start :] if agree < last else self.model[agree:])

    @rule(back=st.integers(0, 5))
    def append_after_another_term_is_refused(self, back: int) -> None:
        index = max(len(self.model) - back, 0)
        before = self.log.entries_from(self.log.first_index())
        if index:
            assert self.log.maybe_append(index, self.newest + 9, (), index) is None
        assert self.log.maybe_append(len(self.model) + 1, self.last_term(), (), index) is None
        assert self.log.entries_from(self.log.first_index()) == before

    @rule(up=st.integers(0, 4))
    def commit(self, up: int) -> None:
        self.log.commit_to(min(self.log.committed + up, len(self.model)))

    @precondition(lambda self: self.in_storage is None)
    @rule()
    def hand_out(self) -> None:
        """A Ready begins: what is new goes to the storage."""
        new = self.log.next_unstable()
        snapshot = self.log.next_snapshot()
        if snapshot is not None:
            self.storage.apply_snapshot(snapshot)
        self.storage.append(new)
        self.in_storage = (self.log.last_index(), self.log.last_term()) if self.log.entries else (0, 0)
        self.log.accept_unstable()
        assert not self.log.has_next_unstable()
        assert self.log.next_unstable() == []

    @precondition(lambda self: self.in_storage is not None)
    @rule()
    def storage_answers(self) -> None:
        assert self.in_storage is not None
        index, term = self.in_storage
        self.in_storage = None
        self.log.stable_to(index, term)
        self.log.stable_snapshot_to(self.snapshot.index)
        if self.snapshot.index > self.log.applied:
            self.log.applied_to(self.snapshot.index, 0)
            self.applied = list(self.model[: self.snapshot.index])

    @rule()
    def apply(self) -> None:
        new = self.log.next_committed(True)
        assert new == ([] if self.log.snapshot is not None else self.model[self.log.applying : self.log.committed])
        if new:
            self.log.accept_applying(new[-1].index, 0, True)
            self.log.applied_to(new[-1].index, 0)
            self.applied += new

    @precondition(lambda self: self.in_storage is None and self.log.snapshot is None)
    @rule(gap=st.integers(1, 4))
    def snapshot_arrives(self, gap: int) -> None:
        """Beyond the whole log: it replaces it."""
        index = len(self.model) + gap
        self.newest += 1
        term = self.newest
        self.snapshot = Snapshot(index, term, ConfState((1,)), b"state")
        self.log.restore(self.snapshot)
        kept = self.log.applied
        self.model = [*self.model[:kept], *entries(*[term] * (index - kept), first=kept + 1)]

    @precondition(lambda self: self.in_storage is None and self.log.snapshot is None)
    @rule(back=st.integers(0, 3))
    def compact(self, back: int) -> None:
        index = min(self.log.applied, self.log.offset - 1) - back
        if index > self.storage.start and index > self.storage.snapshot_.index:
            self.snapshot = self.storage.create_snapshot(index, ConfState((1,)), b"state")
            self.storage.compact(index)

    @invariant()
    def reads_agree(self) -> None:
        log, first = self.log, self.log.first_index()
        assert log.last_index() == len(self.model)
        assert log.entries_from(first) == self.model[first - 1 :]
        for index in range(first, len(self.model) + 1):
            assert log.term(index) == self.model[index - 1].term
            assert log.slice(index, len(self.model) + 1, 1) == self.model[index - 1 : index]
        assert log.term(len(self.model) + 1) == UNKNOWN_TERM
        if first > 1:
            assert log.term(first - 1) == self.snapshot.term
        if first > 2:
            assert log.term(first - 2) == UNKNOWN_TERM

    @invariant()
    def numbers_are_in_order(self) -> None:
        log = self.log
        assert log.applied <= log.applying <= log.committed <= log.last_index()
        assert log.offset <= log.offset_in_progress <= log.last_index() + 1
        assert [entry.index for entry in log.entries] == list(range(log.offset, log.offset + len(log.entries)))

    @invariant()
    def what_was_applied_stays(self) -> None:
        assert [entry.index for entry in self.applied] == list(range(1, len(self.applied) + 1))
        assert self.applied[self.snapshot.index :] == self.model[self.snapshot.index : len(self.applied)]


LogMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_log_agrees_with_a_plain_list = LogMachine.TestCase


# --- by example -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [stored, unstored])
def test_log_matches_where_index_and_term_agree(make: type[RaftLog]) -> None:
    log = make(1, 1, 2)
    assert log.matches(0, 0) and log.matches(2, 1) and log.matches(3, 2)
    assert not log.matches(3, 1) and not log.matches(4, 2) and not log.matches(4, 0)


@pytest.mark.parametrize(
    ("index", "term", "found"),
    [(3, 9, (3, 3)), (3, 3, (3, 3)), (3, 2, (1, 1)), (3, 0, (0, 0)), (0, 5, (0, 0)), (9, 3, (9, 0))],
)
def test_conflict_by_term_skips_what_cannot_match(index: int, term: int, found: tuple[int, int]) -> None:
    assert stored(1, 3, 3).find_conflict_by_term(index, term) == found


def test_conflict_by_term_stops_at_the_snapshot() -> None:
    storage = MemoryStorage()
    storage.apply_snapshot(Snapshot(5, 4, ConfState((1,))))
    assert RaftLog(storage).find_conflict_by_term(5, 2) == (4, 0)


@pytest.mark.parametrize(
    ("index", "term", "up_to_date"),
    [(1, 4, True), (9, 2, False), (3, 3, True), (4, 3, True), (2, 3, False)],
)
def test_log_with_the_later_last_term_is_more_up_to_date(index: int, term: int, up_to_date: bool) -> None:
    assert stored(1, 2, 3).is_up_to_date(index, term) is up_to_date


def test_entries_that_contradict_the_committed_are_the_senders_fault() -> None:
    log = stored(1, 1, 1)
    log.commit_to(2)
    with pytest.raises(RemoteError, match="node 7: raft: entry 2 of term 2 contradicts what is committed up to 2"):
        log.maybe_append(1, 1, tuple(entries(2, first=2)), 2, who="node 7")
    assert log.entries_from(1) == entries(1, 1, 1)


def test_entries_already_there_change_nothing() -> None:
    log = unstored(1, 1, 2)
    log.accept_unstable()
    assert log.maybe_append(1, 1, tuple(entries(1, first=2)), 0) == 2
    assert log.last_index() == 3 and not log.has_next_unstable()


def test_commit_of_an_append_ends_with_its_entries() -> None:
    """What follows them here may differ from the leader's log."""
    log = stored(1, 1, 1)
    log.maybe_append(1, 1, tuple(entries(1, first=2)), 3)
    assert log.committed == 2


def test_replaced_entries_are_stored_again_and_others_are_not() -> None:
    log = unstored(1, 1, 1)
    log.accept_unstable()
    log.append(entries(2, 2, first=2))
    assert log.next_unstable() == entries(2, 2, first=2)


def test_storage_that_answers_for_replaced_entries_is_ignored() -> None:
    log = unstored(1, 1)
    log.accept_unstable()
    log.append(entries(2, first=2))
    log.stable_to(2, 1)
    assert log.entries == [*entries(1), *entries(2, first=2)]
    log.stable_to(1, 1)
    assert log.offset == 2


@pytest.mark.parametrize("make", [stored, unstored])
def test_slice_keeps_to_its_bytes_but_returns_one_entry(make: type[RaftLog]) -> None:
    log = make(1, 1, 1, 1)
    for allowed, count in ((0, 1), (ENTRY_BYTES, 1), (2 * ENTRY_BYTES, 2), (2 * ENTRY_BYTES + 1, 2), (1 << 40, 4)):
        assert len(log.slice(1, 5, allowed)) == count


def test_slice_across_the_storage_keeps_to_its_bytes() -> None:
    log = stored(1, 1)
    log.append(entries(1, 1, first=3))
    for count in range(1, 5):
        assert len(log.slice(1, 5, count * ENTRY_BYTES)) == count
    assert [e.index for e in log.slice(2, 4)] == [2, 3]
    assert log.slice(3, 3) == []


def test_slice_before_the_log_is_compacted() -> None:
    storage = MemoryStorage()
    storage.apply_snapshot(Snapshot(5, 1, ConfState((1,))))
    with pytest.raises(CompactedError):
        RaftLog(storage).slice(5, 7)


def test_entries_handed_out_to_be_applied_stay_within_their_bytes() -> None:
    log = stored(1, 1, 1, 1, max_applying_bytes=2 * ENTRY_BYTES)
    log.commit_to(4)
    first = log.next_committed(True)
    assert [e.index for e in first] == [1, 2]
    log.accept_applying(2, 2 * ENTRY_BYTES, True)
    assert not log.has_next_committed(True) and log.next_committed(True) == []
    log.applied_to(2, 2 * ENTRY_BYTES)
    assert [e.index for e in log.next_committed(True)] == [3, 4]


def test_handing_out_pauses_when_the_next_entry_would_not_fit() -> None:
    log = stored(1, 1, max_applying_bytes=2 * ENTRY_BYTES - 1)
    log.commit_to(2)
    log.accept_applying(1, ENTRY_BYTES, True)
    assert log.applying_bytes < log.max_applying_bytes and not log.has_next_committed(True)


def test_unstored_entries_are_applied_only_where_that_is_allowed() -> None:
    log = unstored(1, 1)
    log.commit_to(2)
    assert log.next_committed(False) == [] and len(log.next_committed(True)) == 2


def test_nothing_is_applied_before_a_snapshot_that_waits() -> None:
    log = stored(1, 1)
    log.restore(Snapshot(5, 2, ConfState((1,))))
    log.append(entries(2, first=6))
    log.commit_to(6)
    assert not log.has_next_committed(True)
    log.stable_snapshot_to(4)
    assert not log.has_next_committed(True)
    log.stable_snapshot_to(5)
    log.applied_to(5, 0)
    assert [e.index for e in log.next_committed(True)] == [6]


# --- the storage in memory ------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 30), max_size=8), st.integers(0, 200))
def test_limit_bytes_returns_the_longest_head_that_fits(sizes: list[int], allowed: int) -> None:
    found = [Entry(1, i, EntryType.NORMAL, bytes(size)) for i, size in enumerate(sizes, 1)]
    kept = limit_bytes(found, allowed)
    totals = [sum(sizes[:n]) + ENTRY_OVERHEAD_BYTES * n for n in range(len(sizes) + 1)]
    fitting = max(n for n in range(len(sizes) + 1) if totals[n] <= allowed or n == 0)
    assert kept == found[: max(fitting, 1)]


def test_storage_replaces_entries_from_the_first_index_on() -> None:
    storage = MemoryStorage()
    storage.append(entries(1, 1, 1))
    storage.append(entries(2, first=2))
    assert storage.entries(1, 3, 1 << 20) == [*entries(1), *entries(2, first=2)]
    assert (storage.first_index(), storage.last_index()) == (1, 2)


def test_storage_refuses_a_gap() -> None:
    storage = MemoryStorage()
    with pytest.raises(LocalError, match="the log ends at 0, the next entry is 2"):
        storage.append(entries(1, first=2))


def test_storage_ignores_entries_that_its_snapshot_holds() -> None:
    storage = MemoryStorage()
    storage.apply_snapshot(Snapshot(3, 1, ConfState((1,))))
    storage.append(entries(1, 1, first=2))
    assert storage.last_index() == 3
    storage.append(entries(1, 1, first=3))
    assert storage.last_index() == 4


def test_storage_compacts_up_to_a_snapshot() -> None:
    storage = MemoryStorage()
    storage.append(entries(1, 1, 2, 2))
    assert storage.create_snapshot(3, ConfState((1,)), b"s") == Snapshot(3, 2, ConfState((1,)), b"s")
    storage.compact(3)
    assert (storage.first_index(), storage.term(3), storage.last_index()) == (4, 2, 4)
    for call in (lambda: storage.entries(3, 4, 9), lambda: storage.term(2), lambda: storage.compact(3)):
        with pytest.raises(CompactedError):
            call()
    for call in (lambda: storage.entries(4, 6, 9), lambda: storage.term(5)):
        with pytest.raises(UnavailableError):
            call()


def test_storage_refuses_an_older_snapshot() -> None:
    storage = MemoryStorage()
    storage.apply_snapshot(Snapshot(3, 1, ConfState((1, 2))))
    for index in (2, 3):
        with pytest.raises(CompactedError):
            storage.apply_snapshot(Snapshot(index, 1))
    assert storage.initial_state() == (HardState(), ConfState((1, 2)))
