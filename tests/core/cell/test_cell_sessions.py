"""Exactly once: a command that arrives again is answered, not applied."""

from __future__ import annotations

import pytest
from cell_commands import WHO, Cell

from edgeswarm.core.cell import changes as ch
from edgeswarm.core.cell import commands as c
from edgeswarm.core.cell import state as state_module
from edgeswarm.core.cell.types import AgentSpec
from edgeswarm.limits import CELL_SESSIONS_PER_CLIENT_MAX, SESSION_ANSWERS_MAX


def opened(cell: Cell, client: str = "ann") -> int:
    change = cell(c.OpenSession(client))[-1]
    assert isinstance(change, ch.SessionOpened)
    assert change.client == client
    return change.session


def within(session: int, seq: int, command: c.Command, acked: int = 0) -> c.WithSession:
    return c.WithSession(session, seq, acked, c.encode(command))


def notes(cell: Cell) -> list[str]:
    return [record.what for record in cell.state.audit]


@pytest.fixture
def cell() -> Cell:
    return Cell()


def test_a_repeated_command_is_answered_from_memory(cell: Cell) -> None:
    session = opened(cell)
    once = within(session, 1, c.Note(WHO, "once"))
    assert cell(once) == [ch.Answered(session, 1, 3, "")]
    assert cell(once) == [ch.Answered(session, 1, 3, "", repeated=True)]
    assert notes(cell) == ["once"]


def test_a_rejection_is_remembered_like_a_success(cell: Cell) -> None:
    session = opened(cell)
    remove = within(session, 1, c.Remove("a", WHO))
    first = cell(remove)
    assert first == [ch.Rejected("agent a is not deployed"), ch.Answered(session, 1, 3, "agent a is not deployed")]
    cell(c.Deploy(AgentSpec("a", bytes(32)), 0, WHO))
    assert cell(remove) == [ch.Answered(session, 1, 3, "agent a is not deployed", repeated=True)]
    assert "a" in cell.state.agents


def test_commands_under_way_together_may_arrive_in_any_order(cell: Cell) -> None:
    session = opened(cell)
    for seq in (3, 1, 2, 3, 1, 2):
        cell(within(session, seq, c.Note(WHO, str(seq))))
    assert notes(cell) == ["3", "1", "2"]


def test_what_was_acknowledged_or_is_too_far_back_is_never_applied_again(cell: Cell) -> None:
    session = opened(cell)
    cell(within(session, 1, c.Note(WHO, "1")))
    cell(within(session, 2, c.Note(WHO, "2"), acked=1))
    forgotten = "answered before, and the answer is forgotten"
    assert cell(within(session, 1, c.Note(WHO, "1"))) == [ch.Answered(session, 1, 5, forgotten)]
    far = 2 + SESSION_ANSWERS_MAX
    cell(within(session, far, c.Note(WHO, "far")))
    assert cell(within(session, 2, c.Note(WHO, "2"))) == [ch.Answered(session, 2, 7, forgotten)]
    assert len(cell.state.sessions[session].answers) <= SESSION_ANSWERS_MAX
    assert notes(cell) == ["1", "2", "far"]


def test_a_command_of_a_session_that_is_gone_is_not_applied(cell: Cell) -> None:
    session = opened(cell)
    cell(within(session, 1, c.Note(WHO, "1")))
    assert cell(c.CloseSession(session)) == [ch.SessionClosed(session)]
    assert cell(c.CloseSession(session)) == []
    again = opened(cell)
    assert again != session
    answer = cell(within(session, 1, c.Note(WHO, "1")))
    assert answer == [ch.Answered(session, 1, 7, "there is no such session (any more)")]
    assert notes(cell) == ["1"]


def test_a_client_that_opens_many_sessions_evicts_its_own(cell: Cell) -> None:
    bob = opened(cell, "bob")
    own = [opened(cell, "ann") for _ in range(CELL_SESSIONS_PER_CLIENT_MAX + 1)]
    assert set(cell.state.sessions) == {bob, *own[1:]}


def test_the_longest_unused_session_goes_first(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "CELL_SESSIONS_MAX", 2)
    ann, bob = opened(cell, "ann"), opened(cell, "bob")
    cell(within(ann, 1, c.Noop()))
    assert cell(c.OpenSession("eve")) == [ch.SessionClosed(bob), ch.SessionOpened(5, "eve")]
    assert set(cell.state.sessions) == {ann, 5}


def test_a_session_may_close_itself(cell: Cell) -> None:
    session = opened(cell)
    changes = cell(within(session, 1, c.CloseSession(session)))
    assert changes == [ch.SessionClosed(session), ch.Answered(session, 1, 3, "")]
    assert cell.state.sessions == {}


def test_sessions_do_not_nest_but_batches_hold_them(cell: Cell) -> None:
    session = opened(cell)
    inner = within(session, 2, c.Noop())
    assert isinstance(cell(within(session, 1, inner))[0], ch.Rejected)
    assert isinstance(cell(c.WithSession(session, 3, 0, c.encode(c.Batch((c.encode(c.Noop()),)))))[0], ch.Rejected)
    both = c.Batch((c.encode(within(session, 4, c.Note(WHO, "4"))), c.encode(within(session, 5, c.Noop()))))
    assert cell(both) == [ch.Answered(session, 4, 5, ""), ch.Answered(session, 5, 5, "")]


def test_a_batch_opens_one_session_at_most(cell: Cell) -> None:
    open_ann, open_bob = c.encode(c.OpenSession("ann")), c.encode(c.OpenSession("bob"))
    changes = cell(c.Batch((open_ann, open_bob)))
    assert changes == [ch.SessionOpened(2, "ann"), ch.Rejected("one entry opens one session")]
