"""Join tokens, labels and roots: one use is one device, whatever is repeated, and what is over stays over."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cell_commands import WHO, Cell, replayed
from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.core.cell import changes as ch
from edgeswarm.core.cell import commands as c
from edgeswarm.core.cell import fleet
from edgeswarm.core.cell.state import CellState
from edgeswarm.errors import LocalError

T, U, V = "a" * 13, "b" * 13, "c" * 13
ONE, TWO = b"\x01" * 32, b"\x02" * 32


def token(name: str = T, *, uses: int = 1, expires_s: int = 100) -> c.AddToken:
    return c.AddToken(name, ONE, "worker", uses, expires_s, False, ("room=a",), ("neural.compute",), WHO)


@pytest.fixture
def cell() -> Cell:
    return Cell(version=3)


def reason(cell: Cell, command: c.Command) -> str:
    before = cell.state.freeze()
    (change,) = cell(command)
    assert isinstance(change, ch.Rejected)
    after = cell.state.freeze()
    assert replace(before, index=after.index) == after, "what is rejected changes nothing"
    return change.reason


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_a_token_is_used_once_for_each_device(cell: Cell) -> None:
    assert cell(token(uses=2)) == [ch.TokenAdded(T)]
    assert cell(c.UseToken(T, "d1", ONE, 100)) == [ch.TokenUsed(T, "d1", ONE)]
    assert cell(c.UseToken(T, "d1", ONE, 100)) == [], "asked again: no further use"
    assert cell(c.UseToken(T, "d2", TWO, 100)) == [ch.TokenUsed(T, "d2", TWO)]
    assert reason(cell, c.UseToken(T, "d3", bytes(32), 100)) == f"token {T} is used up: 2 of 2"
    assert cell.state.tokens[T].used == (("d1", ONE), ("d2", TWO))
    assert cell(c.UseToken(T, "d2", TWO, 999)) == [], "an answer that got lost is given again, also later"


def test_two_devices_at_once_with_one_token_are_one_device(cell: Cell) -> None:
    cell(token())
    both = c.Batch((c.encode(c.UseToken(T, "d1", ONE, 1)), c.encode(c.UseToken(T, "d2", TWO, 1))))
    assert cell(both) == [ch.TokenUsed(T, "d1", ONE), ch.Rejected(f"token {T} is used up: 1 of 1")]


def test_a_token_is_of_no_use_to_who_names_a_joined_device(cell: Cell) -> None:
    cell(token(uses=9))
    cell(c.UseToken(T, "d1", ONE, 1))
    assert reason(cell, c.UseToken(T, "d1", TWO, 1)) == f"token {T}: device d1 joined with another key"


def test_a_token_that_is_unknown_expired_or_revoked_is_refused(cell: Cell) -> None:
    assert reason(cell, c.UseToken(T, "d1", ONE, 1)) == f"token {T} is not known"
    cell(token(uses=5))
    assert reason(cell, c.UseToken(T, "d1", ONE, 101)) == f"token {T} expired at 100, it is 101"
    cell(c.UseToken(T, "d1", ONE, 1))
    assert cell(c.RevokeToken(T, WHO)) == [ch.TokenRevoked(T)]
    assert cell(c.RevokeToken(T, WHO)) == []
    for device, public in (("d1", ONE), ("d2", TWO)):
        assert reason(cell, c.UseToken(T, device, public, 1)) == f"token {T} is revoked"
    assert reason(cell, c.RevokeToken(U, WHO)) == f"token {U} is not known"


def test_a_token_that_is_added_again_is_the_same_or_refused(cell: Cell) -> None:
    cell(token())
    cell(c.UseToken(T, "d1", ONE, 1))
    assert cell(token()) == []
    assert cell.state.tokens[T].used, "it does not begin anew"
    assert reason(cell, token(uses=2)) == f"token {T} is there already"


@pytest.mark.parametrize("spent", ["revoked", "used up", "expired"])
def test_the_oldest_token_that_is_spent_makes_room(cell: Cell, monkeypatch: pytest.MonkeyPatch, spent: str) -> None:
    monkeypatch.setattr(fleet, "CELL_TOKENS_MAX", 3)
    for name in (T, U, V):
        cell(token(name, uses=2, expires_s=50 if name == U else 100))
    assert "at most 3" in reason(cell, token("d" * 13))
    if spent == "revoked":
        cell(c.RevokeToken(U, WHO))
    elif spent == "used up":
        cell(c.UseToken(U, "d1", ONE, 1))
        cell(c.UseToken(U, "d2", ONE, 1))
    else:
        cell(c.UseToken(T, "d1", ONE, 51))
    cell.state = CellState.from_snapshot(cell.state.to_snapshot())
    assert cell(token("d" * 13)) == [ch.TokenAdded("d" * 13)]
    assert list(cell.state.tokens) == [T, V, "d" * 13]


def test_joins_kept_are_bounded_and_spent_tokens_give_theirs_up(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "CELL_TOKEN_USES_MAX", 3)
    cell(token(T, uses=2))
    cell(token(U, uses=9))
    for device in ("d1", "d2"):
        cell(c.UseToken(T, device, ONE, 1))
    cell(c.UseToken(U, "d3", ONE, 1))
    assert cell(c.UseToken(U, "d4", ONE, 1)) == [ch.TokenUsed(U, "d4", ONE)]
    assert list(cell.state.tokens) == [U]
    cell(c.UseToken(U, "d5", ONE, 1))
    assert "at most 3 joins" in reason(cell, c.UseToken(U, "d6", ONE, 1))


@given(st.lists(st.tuples(st.integers(1, 6), st.booleans(), st.integers(95, 105)), max_size=25), st.integers(1, 4))
def test_no_sequence_of_joins_uses_a_token_too_often(joins: list[tuple[int, bool, int]], uses: int) -> None:
    """Two keys for each device, in any order, also around the end: never more devices than uses, never two keys."""
    cell = Cell(version=3)
    cell(token(uses=uses))
    taken: dict[str, bytes] = {}
    for number, other, at_s in joins:
        device, public = f"d{number}", TWO if other else ONE
        changes = cell(c.UseToken(T, device, public, at_s))
        if changes == [ch.TokenUsed(T, device, public)]:
            assert device not in taken
            assert at_s <= 100
            taken[device] = public
        elif not changes:
            assert taken[device] == public
        else:
            assert taken.get(device) != public
    assert dict(cell.state.tokens[T].used) == taken
    assert len(taken) <= uses
    assert replayed(cell.log).to_snapshot() == cell.state.to_snapshot()


# --- labels and roots -------------------------------------------------------------------------------------------------


def test_labels_are_replaced_as_a_whole_and_go_with_their_device(cell: Cell) -> None:
    assert cell(c.SetLabels("d1", ("zone=1", "room=a"), WHO)) == [ch.LabelsChanged("d1")]
    assert cell.state.labels == {"d1": ("room=a", "zone=1")}
    assert cell(c.SetLabels("d1", ("room=a", "zone=1"), WHO)) == []
    cell.device("d1")
    assert cell.state.labels["d1"], "what was set before it registered holds"
    assert cell(c.SetLabels("d1", ("room=b",), WHO)) == [ch.LabelsChanged("d1")]
    cell(c.ForgetDevice("d1", WHO))
    assert cell.state.labels == {}
    cell(c.SetLabels("d2", ("room=b",), WHO))
    assert cell(c.SetLabels("d2", (), WHO)) == [ch.LabelsChanged("d2")]
    assert cell.state.labels == {}


def test_labels_of_devices_that_nobody_knows_do_not_fill_the_cell(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "CELL_DEVICES_MAX", 1)
    cell(c.SetLabels("d1", ("room=b",), WHO))
    assert "at most 1 devices" in reason(cell, c.SetLabels("d2", ("room=b",), WHO))
    assert cell(c.SetLabels("d1", ("room=c",), WHO)) == [ch.LabelsChanged("d1")]


def test_roots_follow_each_other_once_each(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "CELL_ROOTS_MAX", 2)
    assert cell(c.RotateRoot(b"second", WHO)) == [ch.RootRotated()]
    assert cell(c.RotateRoot(b"second", WHO)) == []
    cell(c.RotateRoot(b"third", WHO))
    assert "at most 2" in reason(cell, c.RotateRoot(b"fourth", WHO))
    assert cell.state.roots == (b"second", b"third")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (replace(token(), token="A" * 13), "a token's id of 13 characters"),
        (replace(token(), token="a" * 12), "a token's id of 13 characters"),
        (replace(token(), public=bytes(31)), "the 32 bytes of a public key, found bytes of 31"),
        (replace(token(), role="administrator"), "expected one of worker, reader, coordinator"),
        (replace(token(), uses=0), "an integer from 1 to 10000"),
        (replace(token(), uses=10_001), "an integer from 1 to 10000"),
        (replace(token(), expires_s=0), "an integer from 1"),
        (replace(token(), labels=("novalue",)), "a label as key=value"),
        (
            replace(token(), grants=tuple(f"tool:{i:03}" + "x" * 60 for i in range(10))),
            "512 bytes of labels and grants",
        ),
        (c.UseToken(T, "D1", ONE, 1), "an id of 1 to 63 characters"),
        (c.UseToken(T, "d1", b"", 1), "the 32 bytes of a public key"),
        (c.SetLabels("d1", ("a=1", "a=2"), WHO), "expected each key once, found 2 labels with 1 keys"),
        (c.SetLabels("d1", ("a=\n",), WHO), "a label as key=value"),
        (c.SetLabels("d1", tuple(f"k{i}=1" for i in range(33)), WHO), "0 to 32 items"),
        (c.SetLabels("d1", tuple(f"k{i}=" + "x" * 60 for i in range(9)), WHO), "at most 512 bytes together"),
        (c.RotateRoot(bytes(4097), WHO), "at most 4096 bytes"),
    ],
)
def test_what_is_out_of_bounds_is_refused_before_anyone_sees_it(command: c.Command, expected: str) -> None:
    with pytest.raises(LocalError, match=expected):
        c.encode(command)
