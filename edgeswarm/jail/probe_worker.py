"""A worker that turns against its host: becomes a jail as the real one does, then makes one attempt from inside.

The zygote of `edgeswarm sandbox probe` loads it; no supervisor does.  `probe` in the order says which attempt, and
which layers to leave out of the plan: the only place where a plan is altered, so that a layer that stops nothing shows.
What came of the attempt goes out as the fault of slot 0, in the one message that a jail sends: "open: ..." or
"blocked: ...".  When seccomp kills the jail there is no message; its exit says SIGSYS.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

from edgeswarm.errors import JailError
from edgeswarm.jail import enter, plan, probes, probes_ring, wasm, worker

FDS: Final = worker.FDS
PROBES: Final = probes.load_all()  # here, in the zygote: a jail has no files to import from


def without(steps: Sequence[plan.Step], layers: Sequence[str]) -> tuple[plan.Step, ...]:
    """The plan less the steps of these layers.  Raises JailError for a name that is no layer."""
    for layer in layers:
        if layer not in probes.LAYERS:
            raise JailError(f"layer: expected one of {', '.join(probes.LAYERS)}, found {layer!r}")
    left_out = {step for layer in layers for step in probes.LAYERS[layer]}
    return tuple(step for step in steps if plan.name_of(step).partition("(")[0] not in left_out)


class ProbeJail(worker.Jail):
    """A real jail that makes an attempt before it says ready, or lies once it has said so."""

    def __init__(self, order: dict[str, Any], fds: Sequence[int], engine: wasm.Engine) -> None:
        super().__init__(order, fds, engine)
        self.wanted: dict[str, Any] = order["probe"]
        self.place = probes.Place(
            keep=self.keep,
            sibling=int(self.wanted["sibling"]),
            supervisor=int(self.wanted["supervisor"]),
            zygote=os.getppid(),  # asked before the first step: within a namespace nobody is there
        )

    def test_self(self, entered: enter.Entered) -> None:
        if not self.wanted["without"]:  # a jail that lacks a layer would find that, and not become ready
            super().test_self(entered)

    def serve(self, ready: dict[str, Any]) -> NoReturn:
        name = self.wanted["name"]
        if name in probes_ring.LIES:
            probes_ring.lie(name, self, ready)
        if name:
            self.place.code = next(iter(self.code()), (0, 0))
            worked, text = PROBES[name].outcome(self.place)
            self.faults = {0: f"{'open' if worked else 'blocked'}: {text}"}
        super().serve(ready)


def start(
    job: dict[str, Any],
    fds: Sequence[int],
    engine: wasm.Engine,
    steps: Sequence[plan.Step],
    forked: Callable[[int], NoReturn],
) -> NoReturn:
    if "probe" not in job:
        worker.start(job, fds, engine, steps, forked)
    ProbeJail(job, fds, engine).become(without(steps, job["probe"]["without"]), forked=forked)
