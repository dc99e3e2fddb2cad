"""What the control plane of one supervisor tells that of the next: who runs where, and what is still held against whom.

Only at rest: nobody is being prepared, started or swapped, so that every agent and every jail is in a state that lasts.
Plans are not in it: they follow from the agent files and the settings, which the next supervisor reads by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeswarm.core.breaker import Breaker
from edgeswarm.core.breaker import State as BreakerState
from edgeswarm.core.events import AgentPlan
from edgeswarm.core.node import Node
from edgeswarm.core.supervision import Intensity
from edgeswarm.core.table import Agent, Jail, Status
from edgeswarm.errors import LocalError
from edgeswarm.ids import AgentName, JailId

State = dict[str, Any]


def busy(node: Node) -> str:
    """What keeps the node from being at rest; an empty text: nothing."""
    for name, agent in node.table.agents.items():
        if agent.status in (Status.PREPARING, Status.STARTING):
            return f"agent {name} is {agent.status.value}"
        if agent.pending is not None:
            return f"agent {name} is being swapped"
    for number, jail in node.table.jails.items():
        if jail.dying or not jail.ready:
            return f"jail {number} is {'ending' if jail.dying else 'starting'}"
    return ""


def pack(node: Node) -> State:
    """What `unpack` takes: CBOR-able.  Raises LocalError where `busy` says why not."""
    if why := busy(node):
        raise LocalError(why)
    return {
        "agents": [[name, _pack_agent(agent)] for name, agent in node.table.agents.items()],
        "jails": [[number, jail.policy, list(jail.agents)] for number, jail in node.table.jails.items()],
        "jail_last": node.table.jail_last,
        "networks": {name: list(one.times) for name, one in node.networks.items()},
        "waiting": {key: list(names) for key, names in node._waiting.items()},
    }


def unpack(node: Node, state: Mapping[str, Any], plans: Mapping[AgentName, AgentPlan]) -> None:
    """Into a fresh node.  plans: of every agent that was handed over, and of no other artefact.

    Raises LocalError, KeyError, TypeError, ValueError; AssertionError where the table does not add up.
    """
    for name, packed in state["agents"]:
        if name not in plans or plans[name].artefact != packed["artefact"]:
            raise LocalError(f"agent {name}: expected artefact {packed['artefact'][:12]}")
        node.table.agents[AgentName(name)] = _unpack_agent(packed, plans[name])
    for number, policy, agents in state["jails"]:
        node.table.jails[JailId(number)] = Jail(policy, tuple(agents), ready=True)
    node.table.jail_last = state["jail_last"]
    node.networks = {name: Intensity(tuple(times)) for name, times in state["networks"].items()}
    node._waiting = {key: tuple(AgentName(name) for name in names) for key, names in state["waiting"].items()}
    node.check()


def _pack_agent(agent: Agent) -> State:
    breaker = agent.breaker
    return {
        "artefact": agent.plan.artefact,
        "status": agent.status.value,
        "prepared": agent.prepared,
        "opened": agent.opened,
        "alone": agent.alone,
        "jail": agent.jail,
        "breaker": [breaker.state.value, list(breaker.faults), breaker.pause_ms],
        "restarts": list(agent.restarts.times),
        "restarts_total": agent.restarts_total,
    }


def _unpack_agent(packed: Mapping[str, Any], plan: AgentPlan) -> Agent:
    state, faults, pause_ms = packed["breaker"]
    return Agent(
        plan,
        status=Status(packed["status"]),
        prepared=packed["prepared"],
        opened=packed["opened"],
        alone=packed["alone"],
        jail=None if packed["jail"] is None else JailId(packed["jail"]),
        breaker=Breaker(state=BreakerState(state), faults=tuple(faults), pause_ms=pause_ms),
        restarts=Intensity(tuple(packed["restarts"])),
        restarts_total=packed["restarts_total"],
    )
