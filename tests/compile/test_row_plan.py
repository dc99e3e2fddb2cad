"""The memory planner of graphs that go row by row: what is in use at the same time lies apart."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.compile.row_plan import arrange
from edgeswarm.compile.sharing import Life, Use

USES = st.builds(
    lambda low, size, first, more: Use(low, low + size, first, first + more),
    *(st.integers(0, n) for n in (300, 400, 9, 5)),
)
LIVES = st.lists(st.lists(USES, min_size=1, max_size=3).map(lambda uses: Life(tuple(uses))), min_size=1, max_size=10)


def one(size: int, first: int, last: int, *, host: bool = False) -> Life:
    return Life((Use(0, size, first, last, host),))


@settings(max_examples=100, deadline=None)
@given(LIVES)
def test_what_is_in_use_at_the_same_time_lies_apart_with_a_vector_to_spare(lives: list[Life]) -> None:
    offsets, end = arrange(lives, 1024)
    placed = [
        (use, at, number) for number, (life, at) in enumerate(zip(lives, offsets, strict=True)) for use in life.uses
    ]
    for index, (use, at, number) in enumerate(placed):
        assert at % 64 == 0 and at >= 1024 and at + use.high + 16 <= end
        for other, place, whose in placed[:index]:
            together = whose != number and use.first <= other.last and other.first <= use.last
            assert not together or at + use.high + 16 <= place + other.low or place + other.high + 16 <= at + use.low


def test_a_chain_takes_what_its_widest_pair_takes() -> None:
    sizes = [100, 3000, 2000, 48, 1000, 1000]
    lives = [one(size, index, index + 1) for index, size in enumerate(sizes)]
    assert arrange(lives, 0)[1] == 3072 + 2048


def test_what_a_piece_uses_no_more_is_free() -> None:
    shrinking = Life((Use(0, 4000, 0, 1), Use(0, 1000, 1, 5)))
    (_, second), end = arrange([shrinking, one(2900, 2, 5)], 0)
    assert 1016 <= second < 1100 and end == 4032


def test_the_regions_that_hosts_know_are_apart_though_never_used_together() -> None:
    lives = [one(512, -1, 0, host=True), one(512, 5, 6, host=True), one(512, 2, 3)]
    (first, second, between), end = arrange(lives, 0)
    assert first != second and between in (first, second) and end == 1152


def test_scratch_that_fits_nowhere_between_tensors_is_placed_before_them() -> None:
    """As in kws: the first layer's scratch is the largest, and pushes a tensor to where the next one's finds no gap."""
    tensors = [one(8000, node, node + 1) for node in range(1, 6)]
    lives = [one(490, -1, 1, host=True), *tensors, one(12288, 1, 1), one(5568, 2, 2), one(4736, 3, 3)]
    busiest = max(
        sum(life.size for life in lives if life.uses[0].first <= node <= life.uses[0].last) for node in range(6)
    )
    assert arrange(lives, 0)[1] < 1.02 * busiest
