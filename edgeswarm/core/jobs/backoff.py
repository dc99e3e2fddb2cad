"""How long to wait before the next attempt."""

from __future__ import annotations

import random

from edgeswarm.limits import TASK_BACKOFF_MS_MAX


def backoff_ms(failures: int, base_ms: float, rng: random.Random) -> float:
    """Doubles with each failure from base_ms on, at most TASK_BACKOFF_MS_MAX; a random half of it is taken off, so that
    what failed together is not tried together.  failures: >= 1.
    """
    doublings = min(failures - 1, 30)
    return min(base_ms * (1 << doublings), TASK_BACKOFF_MS_MAX) * (0.5 + rng.random() / 2)
