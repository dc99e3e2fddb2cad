"""Agent files named at the start of a supervisor."""

from __future__ import annotations

from supervised import Bench

from edgeswarm.app.daemon import bring


async def test_file_named_at_the_start_is_deployed_kept_or_swapped_to(bench: Bench) -> None:
    first, second = bench.mlp(), bench.mlp(sizes=(4, 16, 2), agent_version="2.0.0")
    await bring(bench.supervisor, [("a.af", first), ("b.af", bench.mlp("b"))])
    await bring(bench.supervisor, [("a.af", first)])
    flows = bench.supervisor.flows.flows
    assert {str(name): flow.version for name, flow in flows.items()} == {"a": "1.0.0", "b": "1.0.0"}
    await bring(bench.supervisor, [("a.af", second)])
    assert flows["a"].version == "2.0.0"  # type: ignore[index]
