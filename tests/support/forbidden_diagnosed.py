"""As `forbidden_worker`, but that the jail is one that tells what it was stopped for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import forbidden_worker

from edgeswarm.jail import diagnose_worker, plan, wasm, worker

FDS = worker.FDS


def start(
    job: dict[str, Any],
    fds: Sequence[int],
    engine: wasm.Engine,
    steps: Sequence[plan.Step],
    forked: Callable[[int], NoReturn],
) -> NoReturn:
    real = worker.start
    worker.start = diagnose_worker.start if job["kind"] == "serve" else real
    diagnose_worker.worker.start = worker.start
    forbidden_worker.start(job, fds, engine, steps, forked)
