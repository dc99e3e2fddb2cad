"""The memory planner of graphs that go row by row: what is in use at the same time lies apart."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.compile.row_plan import arrange
from edgeswarm.compile.sharing import Life

LIVES = st.lists(
    st.builds(lambda size, first, more: Life(size, first, first + more, ""), *(st.integers(0, n) for n in (400, 9, 5))),
    min_size=1,
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(LIVES)
def test_what_is_in_use_at_the_same_time_lies_apart_with_a_vector_to_spare(lives: list[Life]) -> None:
    offsets, end = arrange(lives, 1024)
    for index, (one, at) in enumerate(zip(lives, offsets, strict=True)):
        assert at % 64 == 0 and at >= 1024 and (not one.size or at + one.size + 16 <= end)
        for other, place in list(zip(lives, offsets, strict=True))[:index]:
            together = one.size and other.size and one.first <= other.last and other.first <= one.last
            assert not together or at + one.size + 16 <= place or place + other.size + 16 <= at


def test_a_chain_takes_what_its_widest_pair_takes() -> None:
    sizes = [100, 3000, 2000, 48, 1000, 1000]
    lives = [Life(size, index, index + 1, "") for index, size in enumerate(sizes)]
    assert arrange(lives, 0)[1] == 3072 + 2048


def test_the_regions_that_hosts_know_are_apart_though_never_used_together() -> None:
    lives = [Life(512, -1, 0, "input"), Life(512, 5, 6, "output"), Life(512, 2, 3, "")]
    (first, second, between), end = arrange(lives, 0)
    assert first != second and between == first and end == 2 * 576
