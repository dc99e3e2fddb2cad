"""What waits: strict priority, bounds, and who goes first when there is no room."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.drivers.mqtt.queue import Drops, Outgoing, Priority, PriorityQueue

CRITICAL, HIGH, MEDIUM, LOW = Priority


def message(
    priority: Priority, payload: bytes = b"", *, expires_at: float | None = None, told: list[str | None] | None = None
) -> Outgoing:
    settled = told.append if told is not None else None
    return Outgoing("t", payload, priority, expires_at=expires_at, settled=settled)


def take_all(queue: PriorityQueue, now: float = 0.0) -> list[Outgoing]:
    taken = []
    while (each := queue.take(now, may_send=lambda _: True)) is not None:
        taken.append(each)
    return taken


def test_the_most_urgent_goes_first_and_then_the_oldest() -> None:
    queue = PriorityQueue(Drops())
    for priority, payload in [(LOW, b"1"), (CRITICAL, b"2"), (HIGH, b"3"), (CRITICAL, b"4"), (MEDIUM, b"5")]:
        queue.put(message(priority, payload))
    assert [m.payload for m in take_all(queue)] == [b"2", b"4", b"3", b"5", b"1"]
    assert not queue and queue.size_bytes == 0


def test_a_full_class_loses_its_oldest() -> None:
    drops, told = Drops(), list[str | None]()
    queue = PriorityQueue(drops, messages_max=2)
    queue.put(message(LOW, b"1", told=told))
    queue.put(message(LOW, b"2"))
    queue.put(message(LOW, b"3"))
    assert [m.payload for m in take_all(queue)] == [b"2", b"3"]
    assert told == ["full"] and drops.full == [0, 0, 0, 1]


def test_when_bytes_are_short_low_is_dropped_first() -> None:
    drops = Drops()
    queue = PriorityQueue(drops, bytes_max=4 * 1_300)
    for priority in (LOW, MEDIUM, HIGH, LOW):
        queue.put(message(priority, b"x" * 1_000))
    queue.put(message(CRITICAL, b"x" * 1_000))
    queue.put(message(CRITICAL, b"x" * 1_000))
    assert [m.priority for m in take_all(queue)] == [CRITICAL, CRITICAL, HIGH, MEDIUM]
    assert drops.full == [0, 0, 0, 2]


def test_what_is_less_urgent_than_all_that_waits_is_dropped_itself() -> None:
    drops, told = Drops(), list[str | None]()
    queue = PriorityQueue(drops, bytes_max=1_300)
    queue.put(message(HIGH, b"x" * 1_000))
    queue.put(message(LOW, b"x" * 1_000, told=told))
    assert [m.priority for m in take_all(queue)] == [HIGH]
    assert told == ["full"]


def test_a_message_larger_than_the_queue_is_dropped_and_pushes_nothing_out() -> None:
    drops = Drops()
    queue = PriorityQueue(drops, bytes_max=1_000)
    queue.put(message(LOW))
    queue.put(message(CRITICAL, b"x" * 2_000))
    assert len(queue) == 1 and drops.full == [1, 0, 0, 0]


def test_what_has_expired_is_not_sent_and_is_counted() -> None:
    drops, told = Drops(), list[str | None]()
    queue = PriorityQueue(drops)
    queue.put(message(HIGH, b"old", expires_at=5.0, told=told))
    queue.put(message(HIGH, b"new", expires_at=15.0))
    queue.put(message(LOW, b"older", expires_at=1.0))
    queue.expire(2.0)
    assert drops.expired == [0, 0, 0, 1]
    assert [m.payload for m in take_all(queue, 10.0)] == [b"new"]
    assert told == ["expired"] and drops.expired == [0, 1, 0, 1]


def test_a_class_that_may_not_go_lets_others_go_first() -> None:
    queue = PriorityQueue(Drops())
    queue.put(message(HIGH, b"waits for an acknowledgement"))
    queue.put(message(LOW, b"goes"))
    taken = queue.take(0.0, may_send=lambda m: m.priority is LOW)
    assert taken is not None and taken.payload == b"goes"
    assert queue.take(0.0, may_send=lambda m: m.priority is LOW) is None
    assert len(queue) == 1


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(list(Priority)), st.integers(0, 3_000), st.booleans()),
        st.tuples(st.just("take"), st.just(LOW), st.just(0), st.booleans()),
    ),
    max_size=60,
)


@given(OPERATIONS)
def test_nothing_is_lost_uncounted_and_the_bounds_hold(operations: list[tuple[str, Priority, int, bool]]) -> None:
    drops = Drops()
    queue = PriorityQueue(drops, messages_max=5, bytes_max=12_000)
    put = taken = 0
    for operation, priority, size, flag in operations:
        if operation == "put":
            queue.put(message(priority, b"x" * size), first=flag)
            put += 1
        else:
            taken += queue.take(0.0, may_send=lambda _: True) is not None
        assert put == taken + len(queue) + drops.total
        assert queue.size_bytes <= 12_000
        assert all(queue.depth(p) <= 5 for p in Priority)
        assert bool(queue) == (len(queue) > 0)
    assert len(list(queue.clear())) == put - taken - drops.total
    assert queue.size_bytes == 0
