"""A token bucket: so many bytes a second on average, and so many at once.

Invariants: in any span of time at most burst + rate x span is taken, and as much more as the largest single amount is
above the burst; tokens never exceed the burst; whoever waits `wait_ns` may take then, if nobody took meanwhile.
An amount above the burst passes when the bucket is full, and leaves a debt: it is slow, but it is not stuck for ever.
Pure: the time is an argument, in ns, and may stand still; where it goes back nothing happens.
"""

from __future__ import annotations

from edgeswarm.limits import BANDWIDTH_BURST_BYTES_MIN, BANDWIDTH_BURST_S


class TokenBucket:
    """Starts full."""

    __slots__ = ("_at_ns", "_rate", "_tokens", "burst", "refused", "taken")

    def __init__(self, rate: float, burst: float, now_ns: int) -> None:
        """rate: tokens a second, above 0.  burst: tokens at once, above 0."""
        assert rate > 0 and burst > 0, f"a bucket of rate {rate}, burst {burst} lets nothing through"
        self._rate = rate / 1e9
        self.burst = burst
        self._tokens = burst
        self._at_ns = now_ns
        self.taken = 0.0
        self.refused = 0

    def become(self, other: TokenBucket) -> None:
        """From now on of another's rate and burst; what was taken stays taken."""
        spent = self.burst - self._tokens
        self._rate, self.burst = other._rate, other.burst
        self._tokens = min(self.burst, self.burst - spent)

    def take(self, amount: float, now_ns: int) -> bool:
        """All of it, or nothing."""
        if self.wait_ns(amount, now_ns):
            self.refused += 1
            return False
        self._tokens -= amount
        self.taken += amount
        return True

    def wait_ns(self, amount: float, now_ns: int) -> int:
        """How long until `amount` can be taken; 0: now."""
        elapsed_ns = now_ns - self._at_ns
        if elapsed_ns > 0:
            self._at_ns = now_ns
            self._tokens = min(self.burst, self._tokens + elapsed_ns * self._rate)
        missing = min(amount, self.burst) - self._tokens
        return 0 if missing <= 0 else int(missing / self._rate) + 1


def bandwidth(mbps: float, now_ns: int) -> TokenBucket:
    """A bucket of bytes for `mbps` Mbit/s (10^6 bits)."""
    rate = mbps * 125_000
    return TokenBucket(rate, max(rate * BANDWIDTH_BURST_S, BANDWIDTH_BURST_BYTES_MIN), now_ns)
