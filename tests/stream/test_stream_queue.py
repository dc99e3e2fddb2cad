"""The bounded queue and the joins in front of a pipeline."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.errors import ConfigError, LimitError, LocalError
from edgeswarm.limits import QUEUE_ROWS_MAX, SOURCES_PER_AGENT_MAX
from edgeswarm.stream.join import Inlet, Intake, LatestIntake, SingleIntake, ZipIntake, make_intake
from edgeswarm.stream.queue import RowQueue, Sample


def sample(number: float, width: int = 1, at_ns: int = 0) -> Sample:
    return Sample(at_ns, (float(number),) * width)


def taken(intake: Intake) -> list[tuple[float, ...]]:
    rows = []
    while (one := intake.take()) is not None:
        rows.append(one.values)
    return rows


def check_counts(intake: Intake) -> None:
    for one in intake.counts():
        assert one.rows_in == one.joined + one.dropped + one.queued


def test_block_refuses_and_keeps_what_it_has() -> None:
    queue = RowQueue("block", 2)
    assert [queue.push(sample(i)).accepted for i in range(3)] == [True, True, False]
    assert [one.values[0] for one in queue.items] == [0.0, 1.0]
    assert (queue.pushed, queue.dropped, queue.full) == (2, 0, True)


def test_drop_oldest_makes_room_and_counts() -> None:
    queue = RowQueue("drop_oldest", 2)
    assert [queue.push(sample(i)).dropped for i in range(4)] == [0, 0, 1, 1]
    assert [one.values[0] for one in queue.items] == [2.0, 3.0]
    assert (queue.pushed, queue.dropped) == (4, 2)


def test_latest_only_keeps_one_row_whatever_its_bound() -> None:
    queue = RowQueue("latest_only", 256)
    for i in range(5):
        queue.push(sample(i))
    assert [one.values[0] for one in queue.items] == [4.0]
    assert queue.dropped == 4
    assert queue.pop() == sample(4)
    assert queue.pop() is None


@pytest.mark.parametrize("rows", [0, -1, QUEUE_ROWS_MAX + 1])
def test_queue_has_a_bound(rows: int) -> None:
    with pytest.raises(LimitError, match="queue rows"):
        RowQueue("block", rows)


@given(
    policy=st.sampled_from(["block", "drop_oldest", "latest_only"]),
    rows=st.integers(1, 5),
    steps=st.lists(st.booleans(), max_size=60),
)
def test_queue_agrees_with_a_list(policy: str, rows: int, steps: list[bool]) -> None:
    """True pushes, False pops; what a plain list does under the same policy is what the queue does."""
    queue, plain, dropped = RowQueue(policy, rows), list[Sample](), 0  # type: ignore[arg-type]
    bound = 1 if policy == "latest_only" else rows
    for number, push in enumerate(steps):
        if not push:
            assert queue.pop() == (plain.pop(0) if plain else None)
            continue
        accepted = queue.push(sample(number)).accepted
        assert accepted == (policy != "block" or len(plain) < bound)
        if accepted:
            plain.append(sample(number))
            if len(plain) > bound:
                plain.pop(0)
                dropped += 1
    assert list(queue.items) == plain
    assert queue.dropped == dropped


def test_latest_joins_the_values_that_were_current_when_the_first_source_spoke() -> None:
    intake = make_intake([Inlet(1), Inlet(1), Inlet(2)], "latest")
    intake.offer(0, sample(1))  # before the others: waits
    intake.offer(1, sample(10))
    assert intake.take() is None
    intake.offer(2, sample(20, 2))
    intake.offer(0, sample(2))
    intake.offer(1, sample(11))
    intake.offer(0, sample(3))
    assert taken(intake) == [(1.0, 11.0, 20.0, 20.0), (2.0, 10.0, 20.0, 20.0), (3.0, 11.0, 20.0, 20.0)]
    check_counts(intake)


def test_latest_counts_side_rows_that_nobody_used_as_dropped() -> None:
    intake = make_intake([Inlet(1), Inlet(1)], "latest")
    for i in range(5):
        intake.offer(1, sample(i))
    intake.offer(0, sample(1))
    intake.offer(1, sample(9))
    assert taken(intake) == [(1.0, 4.0)]
    side = intake.counts()[1]
    assert (side.rows_in, side.joined, side.dropped, side.queued) == (6, 1, 4, 1)


def test_zip_takes_one_row_of_each_in_order_and_the_newest_time() -> None:
    intake = make_intake([Inlet(1), Inlet(2)], "zip")
    for i in range(3):
        intake.offer(0, Sample(i, (float(i),)))
    intake.offer(1, Sample(100, (7.0, 8.0)))
    assert intake.take() == Sample(100, (0.0, 7.0, 8.0))
    assert intake.take() is None
    assert [one.queued for one in intake.counts()] == [2, 0]


def test_full_says_which_source_is_held_back() -> None:
    for join in ("latest", "zip"):
        intake = make_intake([Inlet(1, "block", 1), Inlet(1, "block", 1)], join)  # type: ignore[arg-type]
        intake.offer(0, sample(1))
        assert intake.full(0)
        assert not intake.full(1)
        assert not intake.offer(0, sample(2)).accepted


def test_number_of_sources_is_bounded() -> None:
    for count in (0, SOURCES_PER_AGENT_MAX + 1):
        with pytest.raises(ConfigError, match=r"wiring\.sources"):
            make_intake([Inlet(1)] * count, "latest")


@given(
    join=st.sampled_from(["latest", "zip"]),
    policies=st.lists(st.sampled_from(["block", "drop_oldest", "latest_only"]), min_size=1, max_size=3),
    rows=st.integers(1, 4),
    steps=st.lists(st.integers(-1, 2), max_size=80),
)
@settings(max_examples=150)
def test_no_row_disappears_in_a_join(join: str, policies: list[str], rows: int, steps: list[int]) -> None:
    """-1 takes, others offer: after each step every source's rows are joined, dropped or queued; order is kept."""
    intake = make_intake([Inlet(1, policy, rows) for policy in policies], join)  # type: ignore[arg-type]
    accepted, heads = [0] * len(policies), list[float]()
    for number, step in enumerate(steps):
        if step < 0:
            one = intake.take()
            if one is not None:
                assert len(one.values) == len(policies)
                heads.append(one.values[0])
        elif step < len(policies):
            accepted[step] += intake.offer(step, sample(number)).accepted
        check_counts(intake)
    assert [one.rows_in for one in intake.counts()] == accepted
    assert heads == sorted(set(heads))


@pytest.mark.parametrize("join", ["latest", "zip"])
@pytest.mark.parametrize("count", [1, 2])
def test_next_version_takes_waiting_rows_over(join: str, count: int) -> None:
    old = make_intake([Inlet(1, "block", 8)] * count, join)  # type: ignore[arg-type]
    for i in range(5):
        for index in range(count):
            old.offer(index, sample(10 * index + i))
    old.take()
    new = make_intake([Inlet(1, "drop_oldest", 2)] * count, join)  # type: ignore[arg-type]
    new.adopt(old)
    check_counts(new)
    assert taken(old) == []
    rows = taken(new)
    assert [row[0] for row in rows] == [3.0, 4.0]
    check_counts(new)
    assert new.counts()[0].dropped == 2


def test_next_version_with_other_sources_is_told_to_wait() -> None:
    pairs: list[tuple[Intake, Intake]] = [
        (SingleIntake(Inlet(1)), SingleIntake(Inlet(2))),
        (ZipIntake([Inlet(1), Inlet(1)]), LatestIntake([Inlet(1), Inlet(1)])),
        (LatestIntake([Inlet(1), Inlet(1)]), ZipIntake([Inlet(1), Inlet(1)])),
    ]
    for new, old in pairs:
        with pytest.raises(LocalError, match="drain"):
            new.adopt(old)
