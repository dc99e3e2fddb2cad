"""A copy of the cell: entries once and in order, and whether it is of the same history as another's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.app.swarm.replica import TAG_BYTES, TERMS_KEPT, OutcomeUnknownError, Replica
from edgeswarm.core.cell import commands as cmd
from edgeswarm.core.cell.state import CellState
from edgeswarm.errors import CodecError, LimitError, LocalError
from edgeswarm.limits import PROPOSALS_WAITING_MAX
from edgeswarm.wire.raft import Entry, EntryType

EMPTY = bytes(TAG_BYTES)


def replica(index: int = 1, term: int = 1) -> Replica:
    return Replica(CellState(), index=index, term=term)


def entry(index: int, term: int, data: bytes = EMPTY) -> Entry:
    return Entry(term, index, EntryType.NORMAL, data)


@given(st.lists(st.booleans(), max_size=40), st.integers(0, 50), st.integers(0, 20))
def test_history_differs_exactly_where_another_entry_was_applied(rises: list[bool], index: int, term: int) -> None:
    copy, terms = replica(), {1: 1}
    for number, rise in enumerate(rises, 2):
        terms[number] = terms[number - 1] + rise
        copy.apply(entry(number, terms[number]))
    assert copy.differs(index, term) == (index in terms and terms[index] != term)


def test_history_is_remembered_within_a_bound_and_what_is_forgotten_is_given_the_benefit() -> None:
    copy = replica()
    for index in range(2, TERMS_KEPT + 100):
        copy.apply(entry(index, 1))
    assert len(copy._terms) == TERMS_KEPT and copy.differs(TERMS_KEPT + 99, 2) and not copy.differs(2, 2)


def test_entries_come_once_and_without_a_gap() -> None:
    copy = replica()
    copy.apply(entry(2, 1))
    for index in (1, 2, 4, 0):
        with pytest.raises(LocalError, match="expected entry 3"):
            copy.apply(entry(index, 1))


def test_bytes_that_are_no_command_change_nothing_and_raise_nothing() -> None:
    one, two = replica(), replica()
    for index, data in enumerate((b"", b"\xff" * 40, EMPTY + b"\xff", EMPTY + bytes(5000)), 2):
        one.apply(entry(index, 1, data))
        two.apply(entry(index, 1, data))
    assert one.state.to_snapshot() == two.state.to_snapshot() and one.index == 5


async def test_damaged_snapshot_is_refused_and_leaves_all_as_it_was() -> None:
    copy = replica()
    _, future = copy.ask(cmd.encode(cmd.Note("me", "x")))
    good = copy.state.to_snapshot()
    for bad in (b"", good[:-1], good[:20] + bytes([good[20] ^ 1]) + good[21:]):
        with pytest.raises(CodecError):
            copy.restore(bad, index=9, term=9)
    assert (copy.index, copy.term) == (1, 1) and not future.done()
    copy.restore(good, index=9, term=9)
    assert isinstance(future.exception(), OutcomeUnknownError) and not copy.differs(9, 9) and copy.differs(9, 8)


async def test_proposals_that_wait_are_bounded() -> None:
    copy = replica()
    futures = [copy.ask(b"x")[1] for _ in range(PROPOSALS_WAITING_MAX)]
    with pytest.raises(LimitError):
        copy.ask(b"x")
    copy.give_up("enough")
    assert all(isinstance(future.exception(), OutcomeUnknownError) for future in futures)


async def test_listener_that_fails_does_not_stop_the_log() -> None:
    copy = replica()
    faults: list[Exception] = []
    copy.on_fault = faults.append
    copy.listeners.append(lambda changes: 1 / 0)
    data, future = copy.ask(cmd.encode(cmd.Note("me", "x")))
    copy.apply(entry(2, 1, data))
    assert future.result().index == 2 and [type(fault) for fault in faults] == [ZeroDivisionError]
