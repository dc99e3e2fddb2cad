"""Which agent feeds which: the order to start them in, and the refusal of cycles with the path shown.

An edge goes the way the data goes: upstream -> downstream.  A cycle would make an agent wait for itself, so a set of
agents that holds one is refused whole.  Source: Kahn 1962 for the order; the path is found by walking upstream among
the agents that Kahn leaves over, each of which has an upstream agent in that set.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from heapq import heapify, heappop, heappush

from edgeswarm.errors import ConfigError


def check(upstreams: Mapping[str, Collection[str]], *, known: Collection[str] = ()) -> tuple[str, ...]:
    """Order in which every agent comes after those it listens to; ties by name, so that it is the same everywhere.

    upstreams: agent -> the agents whose streams it takes.  known: agents outside the mapping that exist already.
    Raises ConfigError for an unknown upstream agent, and for a cycle with its path, "a -> b -> a".
    """
    missing = sorted(
        f"agent {agent}: its source agent {upstream!r} does not exist"
        for agent, sources in upstreams.items()
        for upstream in set(sources)
        if upstream not in upstreams and upstream not in known
    )
    if missing:
        raise ConfigError("; ".join(missing))
    waits_for = {agent: {u for u in sources if u in upstreams} for agent, sources in upstreams.items()}
    feeds: dict[str, list[str]] = {agent: [] for agent in upstreams}
    for agent, sources in waits_for.items():
        for upstream in sources:
            feeds[upstream].append(agent)
    ready = [agent for agent, sources in waits_for.items() if not sources]
    heapify(ready)
    order: list[str] = []
    while ready:
        agent = heappop(ready)
        order.append(agent)
        for downstream in feeds[agent]:
            waits_for[downstream].discard(agent)
            if not waits_for[downstream]:
                heappush(ready, downstream)
    if len(order) < len(upstreams):
        left = {agent: sources for agent, sources in waits_for.items() if sources}
        raise ConfigError(f"agents feed each other in a circle: {' -> '.join(_cycle(left))}")
    return tuple(order)


def _cycle(left: Mapping[str, Collection[str]]) -> list[str]:
    """One cycle among `left`, in the direction of the data, first and last the same agent.

    left: agent -> its upstream agents that are in `left` too or behind it; every agent has at least one in `left`.
    """
    agent = min(left)
    walked: list[str] = []
    seen: dict[str, int] = {}
    while agent not in seen:
        seen[agent] = len(walked)
        walked.append(agent)
        agent = min(upstream for upstream in left[agent] if upstream in left)
    path = walked[seen[agent] :][::-1]
    first = path.index(min(path))
    path = path[first:] + path[:first]
    return [*path, path[0]]
