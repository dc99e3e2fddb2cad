"""Streams of other devices: every row at most once, in order, counted whatever the network does to the messages."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.errors import CodecError, LimitError
from edgeswarm.limits import REMOTE_BATCH_BYTES_MAX, REMOTE_BATCH_ROWS_MAX, REMOTE_SENDERS_MAX
from edgeswarm.stream import remote
from edgeswarm.stream.remote import Batch, Publisher, RemoteRow, Subscriber
from edgeswarm.wire.codec import dumps, loads

NOW = 1_700_000_000_000  # ms
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def publisher(**options: int) -> Publisher:
    given_ = {"width": 1, "life": 1, "rows": 2, "batch_ms": 50, "expire_ms": 10_000, **options}
    return Publisher("vitals", **given_)


def subscriber(device: str = "pi-7", **options: int) -> Subscriber:
    return Subscriber("vitals", device, **{"width": 1, **options})


def message(*values: float, seq: int = 0, life: int = 1, epoch: int = 0, sent_ms: int = NOW, age: int = 0) -> bytes:
    rows = tuple((float(value),) for value in values)
    return remote.encode(Batch(life, epoch, seq, sent_ms, 10_000, 1, (age,) * len(rows), rows))


def numbers(rows: list[RemoteRow]) -> list[float]:
    return [row.values[0] for row in rows]


def hear(sub: Subscriber, data: bytes, *, sender: str = "pi-7", boot: int = 1, now_ms: int = NOW) -> list[float]:
    rows = numbers(sub.receive(data, sender=sender, boot=boot, now_ms=now_ms))
    balanced(sub)
    return rows


def balanced(sub: Subscriber) -> None:
    c = sub.counts
    assert c.rows == c.delivered + c.duplicates + c.expired + c.foreign + c.stale


# --- messages -------------------------------------------------------------------------------------------------------


@given(
    numbers_=st.tuples(*[st.integers(0, 2**60)] * 4),
    width=st.integers(1, 8),
    data=st.data(),
)
def test_message_comes_back_as_it_was(numbers_: tuple[int, int, int, int], width: int, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.tuples(*[FLOATS] * width), min_size=1, max_size=20))
    ages = data.draw(st.lists(st.integers(0, 1000), min_size=len(rows), max_size=len(rows)))
    batch = Batch(*numbers_, 10_000, width, tuple(ages), tuple(rows))
    assert remote.decode(remote.encode(batch)) == batch


def test_message_of_the_next_version_is_read_and_of_one_after_it_refused() -> None:
    item = loads(message(1.0))
    assert isinstance(item, list)
    assert remote.decode(dumps([2, *item[1:], "news"])).rows == ((1.0,),)
    with pytest.raises(CodecError, match="version 1"):
        remote.decode(dumps([3, *item[1:]]))


@pytest.mark.parametrize(
    ("index", "value", "words"),
    [
        (1, -1, "whole numbers"),
        (2, True, "whole numbers"),
        (5, 0, "expire_ms 0"),
        (6, 0, "width 0"),
        (6, 2, "rows of 2 float32"),
        (7, [], "1 to 1024 rows"),
        (7, "x", "1 to 1024 rows"),
        (7, [-1, 0], "ages"),
        (7, [0, 1.5], "ages"),
        (8, b"", "float32"),
        (8, "text", "float32"),
        (8, struct.pack("<2f", 1.0, float("nan")), "finite"),
        (8, struct.pack("<2f", 1.0, float("inf")), "finite"),
    ],
)
def test_message_with_one_thing_wrong_is_refused_with_it(index: int, value: object, words: str) -> None:
    item = loads(message(1.0, 2.0))
    assert isinstance(item, list)
    tree: list[object] = list(item)
    tree[index] = value
    with pytest.raises(CodecError, match=words):
        remote.decode(dumps(tree))


@given(data=st.binary(max_size=200))
def test_garbage_is_counted_and_raises_nothing(data: bytes) -> None:
    sub = subscriber()
    assert hear(sub, data) == []
    assert sub.counts.malformed == 1 and sub.last_fault.startswith("pi-7: ")


def test_message_over_its_bound_is_refused_unread() -> None:
    sub = subscriber()
    assert hear(sub, bytes(REMOTE_BATCH_BYTES_MAX + 1)) == []
    assert "at most" in sub.last_fault


def test_rows_of_another_width_are_malformed() -> None:
    sub = subscriber(width=2)
    assert hear(sub, message(1.0)) == []
    assert "rows of 2 values expected, found 1" in sub.last_fault


# --- batching -------------------------------------------------------------------------------------------------------


def test_message_is_due_when_it_is_full_or_when_its_oldest_row_has_waited() -> None:
    pub = publisher(rows=3)
    assert pub.due_ms is None and pub.flush(NOW) is None
    assert pub.add((1.0,), NOW) is None
    assert pub.add((2.0,), NOW + 20) is None
    assert pub.due_ms == NOW + 50
    first = pub.flush(NOW + 50)
    assert first is not None
    assert remote.decode(first).ages_ms == (50, 30)
    assert [pub.add((float(n),), NOW + 60) is not None for n in range(6)] == [False, False, True] * 2
    assert pub.counts() == {"rows": 8, "waiting": 0, "malformed": 0, "messages": 3}


def test_wide_rows_make_shorter_messages_within_the_bound() -> None:
    pub = publisher(width=4096, rows=REMOTE_BATCH_ROWS_MAX)
    data = None
    while data is None:
        data = pub.add((1.5,) * 4096, NOW)
    assert len(data) <= REMOTE_BATCH_BYTES_MAX < len(data) + 2 * 4 * 4096


def test_rows_that_are_none_are_counted_and_left_out() -> None:
    pub = publisher(rows=1)
    for row in ((1.0, 2.0), (float("nan"),), (1e39,)):
        assert pub.add(row, NOW) is None
    assert pub.counts()["malformed"] == 3 and pub.counts()["rows"] == 0


@pytest.mark.parametrize("options", [{"width": 0}, {"expire_ms": 0}, {"batch_ms": -1}])
def test_publisher_refuses_what_makes_no_sense(options: dict[str, int]) -> None:
    with pytest.raises(LimitError):
        publisher(**options)


# --- once, in order, with gaps --------------------------------------------------------------------------------------


def test_rows_come_once_however_often_their_message_does() -> None:
    sub = subscriber()
    assert hear(sub, message(1, 2)) == [1, 2]
    assert hear(sub, message(1, 2)) == []
    assert hear(sub, message(2, 3, seq=1)) == [3]
    assert sub.counts.duplicates == 3 and sub.counts.gaps == 0


def test_missing_rows_are_a_gap_with_their_number() -> None:
    sub = subscriber()
    hear(sub, message(1, 2))
    assert hear(sub, message(6, seq=5)) == [6]
    assert (sub.counts.gaps, sub.counts.missing) == (1, 3)


def test_subscriber_that_comes_late_has_no_gap() -> None:
    sub = subscriber()
    assert hear(sub, message(6, seq=500)) == [6]
    assert sub.counts.gaps == 0


def test_device_that_starts_again_goes_on_and_its_past_is_stale() -> None:
    sub = subscriber()
    hear(sub, message(1, 2, 3), boot=4)
    assert hear(sub, message(1, 2), boot=5) == [1, 2]
    assert hear(sub, message(9, seq=3), boot=4) == []
    assert hear(sub, message(7, life=2), boot=5) == [7]
    assert hear(sub, message(3, seq=2, life=1), boot=5) == []
    assert sub.counts.stale == 2 and sub.counts.gaps == 0


@settings(max_examples=60)
@given(data=st.data())
def test_whatever_the_network_does_rows_are_in_order_and_at_most_once(data: st.DataObject) -> None:
    """Messages of several lives are dropped, doubled and put in any order within a small window."""
    wire: list[tuple[int, bytes]] = []
    for boot in range(1, data.draw(st.integers(1, 3)) + 1):
        pub = publisher(rows=data.draw(st.integers(1, 4)), life=boot)
        for number in range(data.draw(st.integers(0, 12))):
            made = pub.add((float(100 * boot + number),), NOW)
            if made is not None:
                wire += [(boot, made)] * data.draw(st.integers(0, 2))
    sub, got = subscriber(), []
    order = sorted(range(len(wire)), key=lambda index: index + data.draw(st.integers(0, 3)))
    for index in order:
        got += hear(sub, wire[index][1], boot=wire[index][0])
    assert got == sorted(set(got))


# --- age and clocks -------------------------------------------------------------------------------------------------


def test_late_rows_say_so_and_expired_ones_are_dropped() -> None:
    sub = subscriber(late_ms=1_000, expire_ms=5_000)
    assert hear(sub, message(0)) == [0]
    late = sub.receive(message(1, seq=1, age=1_500), sender="pi-7", boot=1, now_ms=NOW)
    assert late == [RemoteRow((1.0,), "pi-7", 1_500, 1_500)]
    assert hear(sub, message(2, seq=2, age=5_001)) == []
    assert hear(sub, message(3, seq=3), now_ms=NOW + 3_000) == [3]
    assert hear(sub, message(4, seq=4), now_ms=NOW + 6_000) == []
    assert (sub.counts.late, sub.counts.expired) == (2, 2)


@pytest.mark.parametrize("skew_ms", [7_200_000, -7_200_000])
def test_clock_that_is_hours_off_makes_nothing_late_and_delay_still_shows(skew_ms: int) -> None:
    sub = subscriber()
    for number in range(5):
        at = NOW + 100 * number
        rows = sub.receive(message(number, seq=number, sent_ms=at + skew_ms), sender="pi-7", boot=1, now_ms=at + 10)
        assert [row.late_ms for row in rows] == [0]
    rows = sub.receive(message(9, seq=5, sent_ms=NOW + 500 + skew_ms), sender="pi-7", boot=1, now_ms=NOW + 3_500)
    assert [row.late_ms for row in rows] == [2_990]


def test_clock_that_is_set_back_recovers_within_two_windows() -> None:
    sub = subscriber()
    hear(sub, message(0))
    late = []
    for minute in range(1, 5):
        at = NOW + 60_000 * minute
        rows = sub.receive(message(minute, seq=minute, sent_ms=at - 3_600_000), sender="pi-7", boot=1, now_ms=at)
        late.append([row.late_ms > 0 for row in rows])
    assert late == [[], [False], [False], [False]]


# --- any device -----------------------------------------------------------------------------------------------------


def test_named_device_is_the_only_one_that_counts() -> None:
    sub = subscriber("pi-7")
    assert hear(sub, message(1), sender="pi-8") == []
    assert hear(sub, message(1), sender="pi-7") == [1]
    sub.follow("pi-8", 9, NOW)
    assert hear(sub, message(2), sender="pi-8") == []
    assert sub.counts.foreign == 2


def test_any_follows_the_first_that_speaks_until_it_is_silent() -> None:
    sub = subscriber("any", silence_ms=3_000)
    assert hear(sub, message(1), sender="a") == [1]
    assert hear(sub, message(1), sender="b", now_ms=NOW + 2_999) == []
    assert hear(sub, message(2, seq=1), sender="b", now_ms=NOW + 3_000) == [2]
    assert hear(sub, message(3, seq=1), sender="a", now_ms=NOW + 3_001) == []
    assert sub.device == "b" and sub.counts.switches == 1


def test_any_goes_to_a_higher_epoch_at_once_and_never_back() -> None:
    """The old device is cut off and goes on: its rows are fenced off by the epoch of its placement."""
    sub = subscriber("any")
    assert hear(sub, message(1, epoch=3), sender="a") == [1]
    assert hear(sub, message(1, epoch=4), sender="b") == [1]
    assert hear(sub, message(2, seq=1, epoch=3), sender="a", now_ms=NOW + 60_000) == []
    assert (sub.counts.stale, sub.counts.switches) == (1, 1)


def test_any_is_told_where_the_agent_went_before_it_speaks() -> None:
    sub = subscriber("any")
    hear(sub, message(1, epoch=3), sender="a")
    sub.follow("b", 4, NOW)
    assert hear(sub, message(2, seq=1, epoch=3), sender="a") == []
    assert hear(sub, message(1, epoch=4), sender="b") == [1]
    sub.follow("a", 2, NOW)
    assert sub.device == "b"


def test_rows_are_not_repeated_when_the_stream_comes_back_to_a_device() -> None:
    sub = subscriber("any", silence_ms=1)
    hear(sub, message(1, 2), sender="a")
    hear(sub, message(1), sender="b", now_ms=NOW + 5)
    assert hear(sub, message(2, 3, seq=1), sender="a", now_ms=NOW + 10) == [3]
    assert sub.counts.duplicates == 1


def test_senders_that_are_remembered_are_bounded() -> None:
    sub = subscriber("any", silence_ms=1)
    for number in range(3 * REMOTE_SENDERS_MAX):
        assert hear(sub, message(number), sender=f"d{number}", now_ms=NOW + 10 * number) == [number]
    assert len(sub._senders) == REMOTE_SENDERS_MAX
