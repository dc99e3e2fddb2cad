"""One delegate made to run the test model in a jail, without a supervisor: for `doctor`, and to see what it says.

The jail is what a supervisor would make: the runtime's own zygote, its policy, the best tier that there is.
"""

from __future__ import annotations

import secrets
import statistics
import tempfile
import time
from array import array
from pathlib import Path
from typing import Final

from edgeswarm.assets import asset
from edgeswarm.compile.abi import ALIGN_BYTES, Layout, Rows, Weights
from edgeswarm.drivers.delegates.hosts import policy_of, spec_for
from edgeswarm.drivers.delegates.runtimes import Delegate
from edgeswarm.drivers.jail_sync import SyncHost
from edgeswarm.drivers.jail_zygote import Program
from edgeswarm.errors import JailError
from edgeswarm.jail import delegate_model
from edgeswarm.limits import MIB

_CALLS: Final = 100
_DEADLINE_MS: Final = 5_000


def layout_of(width_in: int, width_out: int) -> Layout:
    """A layout of these widths: what a jail wants of a model that has no kernel."""

    def padded(width: int) -> int:
        return -(-4 * width // ALIGN_BYTES) * ALIGN_BYTES

    into, out = padded(width_in), padded(width_out)
    return Layout(
        batch_max=1,
        deterministic=False,
        input=Rows(0, into, width_in),
        output=Rows(into, out, width_out),
        weights=Weights(into + out, 0, (0,)),
        memory_bytes=max(MIB, into + out),
        topology="0" * 64,
    )


def run_test_model(delegate: Delegate) -> str:
    """What was seen: version, tier, time to a ready jail, time of one call there and back.

    Raises JailError, TrapError, TierError; JailError when the answer is wrong.
    """
    layout = layout_of(delegate_model.WIDTH_IN, delegate_model.WIDTH_OUT)
    spec = spec_for(
        delegate, name="test", model=delegate_model.model(), layout=layout, deadline_ms=_DEADLINE_MS, threads=1
    )
    runtime = delegate.runtime
    with tempfile.TemporaryDirectory(prefix="edgeswarm-doctor-") as folder:
        host = SyncHost(
            policy_dir=asset("sandbox"),
            cache_dir=Path(folder) / "cache",
            mac_key=secrets.token_bytes(32),
            program=Program(runtime.package.worker, (runtime.folder,)),
        )
        with host, host.spawn([spec], policy=policy_of(delegate)) as jail:
            if jail.faults:
                raise JailError(f"{delegate.title}: {jail.faults[0]}")
            took_us = []
            for _ in range(_CALLS):
                began = time.perf_counter_ns()
                found = jail.call(0, delegate_model.INPUT)
                took_us.append((time.perf_counter_ns() - began) / 1000)
            answer = tuple(array("f", found))
            if answer != delegate_model.ANSWER:
                raise JailError(f"{delegate.title}: expected {delegate_model.ANSWER}, found {answer}")
            us, ready_ms = statistics.median(took_us), jail.started_ms
            return (
                f"{delegate.title}: test model right, {us:.1f} us a call, jail in {ready_ms:.0f} ms, tier {host.tier}"
            )
