"""Windows: which rows a frame holds, and that every row is accounted for once."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.errors import LimitError, LocalError
from edgeswarm.stream.window import Window


def row(number: int, width: int = 1) -> bytes:
    return struct.pack(f"<{width}f", *[float(number)] * width)


def numbers(payload: bytes, width: int = 1) -> list[float]:
    return list(struct.unpack(f"<{len(payload) // 4}f", payload))[::width]


def test_frames_are_row_major_and_oldest_first() -> None:
    window = Window(3, 2, 2)
    frames = [window.push(row(i, 2)) for i in range(7)]
    assert [numbers(f, 2) for f in frames if f is not None] == [[0, 1, 2], [2, 3, 4], [4, 5, 6]]
    assert [f is not None for f in frames] == [False, False, True, False, True, False, True]


def test_hop_beyond_the_window_passes_rows_over() -> None:
    window = Window(2, 5, 1)
    assert [numbers(f) for i in range(12) if (f := window.push(row(i))) is not None] == [[0, 1], [5, 6], [10, 11]]


@given(rows=st.integers(1, 6), hop=st.integers(1, 6), count=st.integers(0, 40), cut=st.integers(0, 40))
def test_window_agrees_with_slices_and_every_row_is_fresh_once(rows: int, hop: int, count: int, cut: int) -> None:
    """The same frames as slicing a list; sum of fresh + held is the number of rows; a restored window goes on alike."""
    window, found, fresh = Window(rows, hop, 1), [], 0
    for i in range(count):
        if i == cut:
            state, window = window.state(), Window(rows, hop, 1)
            window.restore(state)
        coming = window.fresh_next
        frame = window.push(row(i))
        if frame is not None:
            found.append(numbers(frame))
            fresh += coming
        assert fresh + window.held == i + 1
    assert found == [list(map(float, range(at, at + rows))) for at in range(0, count - rows + 1, hop)]


@pytest.mark.parametrize(("rows", "hop"), [(0, 1), (1, 0), (4097, 1), (1, 4097)])
def test_window_is_bounded(rows: int, hop: int) -> None:
    with pytest.raises(LimitError, match="window"):
        Window(rows, hop, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 2},
        {"width": 9},
        {"kept": b"123"},
        {"kept": b"1234" * 4},
        {"kept": None},
        {"until": 0},
        {"until": 99},
        {"until": "2"},
        {"wait": 7},
        {"wait": None},
    ],
)
def test_window_refuses_a_state_that_does_not_add_up(change: dict[str, object]) -> None:
    window = Window(3, 2, 1)
    window.push(row(1))
    with pytest.raises(LocalError, match="window state"):
        Window(3, 2, 1).restore({**window.state(), **change})
