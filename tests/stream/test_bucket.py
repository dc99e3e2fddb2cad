"""The laws of a token bucket, for any takers and any clock that does not go back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.limits import BANDWIDTH_BURST_BYTES_MIN
from edgeswarm.stream.bucket import TokenBucket, bandwidth

amounts = st.floats(0.001, 1e6)
steps = st.lists(st.tuples(st.integers(0, 3_000_000_000), amounts), min_size=1, max_size=60)


@given(st.floats(0.1, 1e6), st.floats(1.0, 1e6), steps)
def test_no_span_of_time_holds_more_than_a_burst_and_its_rate(
    rate: float, burst: float, takes: list[tuple[int, float]]
) -> None:
    bucket = TokenBucket(rate, burst, 0)
    now, taken = 0, []
    for pause_ns, amount in takes:
        now += pause_ns
        if bucket.take(amount, now):
            taken.append((now, amount))
    for first in range(len(taken)):
        whole = 0.0
        for at, amount in taken[first:]:
            whole += amount
            span_s = (at - taken[first][0]) / 1e9
            above = max(0.0, max(one for _, one in taken) - burst)
            assert whole <= (burst + rate * span_s + above) * (1 + 1e-9) + 1e-6
    assert bucket.taken == sum(amount for _, amount in taken)
    assert bucket.refused == len(takes) - len(taken)


@given(st.floats(0.1, 1e6), st.floats(1.0, 1e6), steps)
def test_who_waits_as_long_as_told_may_take_and_not_much_earlier(
    rate: float, burst: float, takes: list[tuple[int, float]]
) -> None:
    bucket = TokenBucket(rate, burst, 0)
    now = 0
    for pause_ns, amount in takes:
        now += pause_ns
        wait = bucket.wait_ns(amount, now)
        if wait > 1000:
            assert bucket.wait_ns(amount, now + int(wait * 0.99)) > 0
        now += wait
        # what is computed in floating point may be a token short by a rounding: then one ns, or 1e-6 of the wait, more
        again = bucket.wait_ns(amount, now)
        assert again <= 2 + wait * 1e-6 + 1e-6 * burst / rate * 1e9
        assert bucket.take(amount, now + again + 1 + int(wait * 1e-6))
        now += again + 1 + int(wait * 1e-6)


@given(steps)
def test_a_clock_that_goes_back_gives_nothing(takes: list[tuple[int, float]]) -> None:
    bucket = TokenBucket(10.0, 10.0, 10**15)
    whole = sum(amount for pause_ns, amount in takes if bucket.take(amount, 10**15 - pause_ns))
    assert whole <= 10.0 + max(0.0, max(amount for _, amount in takes) - 10.0)


def test_what_is_larger_than_the_burst_passes_when_the_bucket_is_full_and_is_paid_back() -> None:
    bucket = TokenBucket(100.0, 10.0, 0)
    assert bucket.take(60.0, 0)
    assert not bucket.take(1.0, 500_000_000), "50 are owed"
    assert bucket.take(1.0, 520_000_000)


def test_a_megabit_is_125000_bytes_a_second() -> None:
    bucket = bandwidth(1.0, 0)
    assert bucket.take(125_000, 0)
    assert bucket.wait_ns(125_000, 0) // 1_000_000 == 1000
    assert bandwidth(0.001, 0).burst == BANDWIDTH_BURST_BYTES_MIN
