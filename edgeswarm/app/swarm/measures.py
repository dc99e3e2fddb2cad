"""This device's part in its cell as Prometheus samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgeswarm.app.metrics import Sample

if TYPE_CHECKING:
    from edgeswarm.app.swarm.node import SwarmNode


def samples(node: SwarmNode) -> Iterator[Sample]:
    """Samples of one name in one run, as the format wants them."""
    transport, voter = node.transport.stats(), node.voter
    yield "edgeswarm_swarm_connected", "gauge", {}, float(transport["connected"])
    yield "edgeswarm_swarm_leads", "gauge", {}, float(node.leads)
    yield "edgeswarm_swarm_votes", "gauge", {}, float(voter is not None)
    yield "edgeswarm_swarm_term", "gauge", {}, float(node.peer.term_seen)
    yield "edgeswarm_swarm_applied_index", "gauge", {}, float(node.replica.index)
    yield "edgeswarm_swarm_lease_held", "gauge", {}, float(node.lease.held)
    yield "edgeswarm_swarm_stopped", "gauge", {}, float(node.orders.halted)
    yield "edgeswarm_swarm_roster_version", "gauge", {}, float(node.rosters.current.version)
    yield "edgeswarm_swarm_cell_agents_running", "gauge", {}, float(len(node.hosted.running))
    if voter is not None:
        stats = voter.store.stats()
        yield "edgeswarm_raft_saves_total", "counter", {}, float(stats.saves)
        yield "edgeswarm_raft_syncs_total", "counter", {}, float(stats.commits)
        yield "edgeswarm_raft_commit_index", "gauge", {}, float(voter.member.node.basic_status().commit)
    for reason, count in sorted(node.post.refused.items()):
        yield "edgeswarm_swarm_refused_total", "counter", {"reason": reason}, float(count)
    for priority, kinds in transport["dropped"].items():
        for kind, count in kinds.items():
            yield "edgeswarm_swarm_dropped_total", "counter", {"priority": priority, "why": kind}, float(count)
    yield "edgeswarm_swarm_stored_offline_total", "counter", {}, float(transport["stored_offline"])
    counts = node.streams.counts()
    for way in ("out", "in"):
        for name, numbers in sorted(counts[way].items()):
            for what, count in numbers.items():
                labels = {"way": way, "stream": name, "what": what}
                yield "edgeswarm_swarm_stream_total", "counter", labels, float(count)
