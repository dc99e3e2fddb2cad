"""Supervisors with a runtime to compute models with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import delegated as d
import pytest
from supervised import Bench, until

Serve = Callable[..., Awaitable[Bench]]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """serve(model, loops=, golden=, agent=, **settings): a supervisor that runs the agent `a`, its contest decided."""
    benches: list[Bench] = []

    async def start(model: bytes | None, **wanted: Any) -> Bench:
        flags = {"delegates.packages": str(d.FAKE)} | {k: v for k, v in wanted.items() if "." in k}
        bench = Bench(tmp_path)
        bench.supervisor = bench.make(**flags)
        benches.append(bench)
        await bench.supervisor.start()
        more = {k: v for k, v in wanted.items() if "." not in k}
        file = d.agent_file(bench.publisher, model, **({"loops": d.SLOW} | more))
        await bench.supervisor.deploy([("a test", file)])
        if model is not None:
            await until(lambda: (bench.supervisor.delegation.row("a") or {}).get("why"), within_s=30)
        return bench

    yield start
    for bench in benches:
        await bench.supervisor.close()
        flows = bench.supervisor.flows.flows.values()
        assert all(flow.pipeline.lost == 0 for flow in flows)
        assert not bench.events("control_fault") + bench.events("task_fault") + bench.events("delegation_fault")
        assert not d.jails_left(), "a jail, or its zygote, outlived its supervisor"
