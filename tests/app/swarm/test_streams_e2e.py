"""The vitals network over two devices of a cell: real broker, real supervisors, agents that read `any/agent`."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from brokers import a_broker
from supervised import Bench, until

from edgeswarm.app.swarm.control import SwarmControl
from edgeswarm.app.swarm.dev import init_dev
from edgeswarm.app.swarm.node import SwarmNode
from edgeswarm.drivers import keys
from edgeswarm.ids import AgentName

pytestmark = pytest.mark.e2e
VITALS = Path(__file__).resolve().parents[3] / "docs" / "examples" / "vitals"


@pytest.fixture
def network() -> ModuleType:
    if str(VITALS) not in sys.path:
        sys.path.append(str(VITALS))
    import network

    return network


async def test_vitals_network_spreads_over_devices_and_goes_on_when_an_agent_moves(
    tmp_path: Path, network: ModuleType
) -> None:
    async with a_broker() as broker:
        _, states = init_dev(tmp_path, 2, brokers=(broker.url,), voters=1)
        benches = {device: Bench(state) for device, state in states.items()}
        publisher, _ = keys.load_or_make(tmp_path / "fleet" / "publisher.key")
        nodes: dict[str, SwarmNode] = {}
        try:
            for device, bench in benches.items():
                await bench.supervisor.start()
                nodes[device] = SwarmNode(bench.supervisor)
                await nodes[device].start()
            await _spread_and_move(nodes, network.build_network(key=publisher, across_devices=True))
        finally:
            for device, bench in benches.items():
                if device in nodes:
                    await nodes[device].close()
                await bench.supervisor.close()


async def _spread_and_move(nodes: dict[str, SwarmNode], files: dict[str, bytes]) -> None:
    first, second = nodes
    ask = SwarmControl(nodes[first]).one
    await until(lambda: len(nodes[first].replica.state.devices) == 2, within_s=30)
    places = {"autoencoder": first, "scorer": second, "fuse": first}
    for name, device in places.items():
        await ask["place"]({"data": files[f"vitals-{name}.af"], "pin": device})
    decided = functools.partial(decisions, nodes[first])
    await until(lambda: decided() >= 5, within_s=60)
    heard = {**nodes[first].streams.counts()["in"], **nodes[second].streams.counts()["in"]}
    assert heard["vitals-scorer <- any/vitals-autoencoder"]["delivered"] > 0
    assert heard["vitals-fuse <- any/vitals-scorer"]["delivered"] > 0
    assert heard["vitals-fuse <- any/vitals-autoencoder"]["delivered"] == 0, "it runs beside it"

    await ask["place"]({"data": files["vitals-scorer.af"], "pin": first})
    await until(lambda: nodes[first].hosted.may_run("vitals-scorer"), within_s=30)
    before = decided()
    await until(lambda: decided() >= before + 5, within_s=60)
    flows = nodes[first].supervisor.flows.flows
    assert [writer.name for writer in flows[AgentName("vitals-scorer")].writers] == ["vitals-autoencoder"]
    assert all(flow.pipeline.lost == 0 for flow in flows.values())


def decisions(node: SwarmNode) -> int:
    flow: Any = node.supervisor.flows.flows.get(AgentName("vitals-fuse"))
    return 0 if flow is None else int(flow.pipeline.tally()["decisions"])
