"""A control plane that is packed at rest and unpacked goes on as if nothing had happened."""

from __future__ import annotations

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.core import effects as do
from edgeswarm.core import events as ev
from edgeswarm.core import handover
from edgeswarm.core.node import Node
from edgeswarm.core.resources import Capacity
from edgeswarm.errors import LocalError
from edgeswarm.ids import AgentName, Cause, JailId, NetworkName

C = Cause("c1")
NEED = ev.Need(memory_bytes_min=1, memory_bytes=1 << 20, cpu_cores_min=0.1, cpu_cores=1.0)
NAMES = ["a", "b", "c"]


def make() -> Node:
    return Node(Capacity(memory_bytes=1 << 30, cpu_cores=8.0, agents_max=32, jails_max=5), agents_per_jail=4)


def plan(name: str, artefact: str, strategy: ev.Strategy = "one_for_one", *, own_jail: bool = False) -> ev.AgentPlan:
    supervision = ev.Supervision(NetworkName("n"), strategy=strategy)
    return ev.AgentPlan(AgentName(name), artefact, "p", "strict", own_jail, NEED, supervision)


def moved(node: Node) -> Node:
    new = make()
    plans = {name: agent.plan for name, agent in node.table.agents.items()}
    handover.unpack(new, cbor2.loads(cbor2.dumps(handover.pack(node))), plans)
    return new


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 8), st.sampled_from(NAMES), st.integers(1, 30)), max_size=60),
    st.sampled_from(["one_for_one", "one_for_all", "rest_for_one"]),
)
def test_node_that_moves_whenever_it_rests_does_what_one_that_stays_does(
    steps: list[tuple[int, str, int]], strategy: ev.Strategy
) -> None:
    stays, moves = make(), make()
    timers: list[tuple[str, str]] = []
    for now, (kind, text, number) in enumerate(steps):
        name, jail = AgentName(text), JailId(number % (stays.table.jail_last + 1))
        agent = stays.table.agents.get(name)
        artefact = (agent.pending or agent.plan).artefact if agent else "none"
        choices: list[list[ev.Event]] = [
            [  # a whole start, so that many steps begin at rest
                ev.AgentDeployed(plan(text, f"v{number}", strategy, own_jail=number % 3 == 0), C),
                ev.KernelPrepared(name, f"v{number}", C),
                ev.JailReady(JailId(stays.table.jail_last + 1), C),
            ],
            [ev.AgentStartAsked(name, C), ev.KernelPrepared(name, artefact, C)],
            [ev.JailReady(jail, C)],
            [ev.AgentStopAsked(name, C)],
            [ev.AgentRemoveAsked(name, C)],
            [ev.JailExited(jail, "gone", number % 4 == 0, C, suspects=(name,))],
            [ev.AgentFaulted(name, "trap", C)] * (number % 7),
            [ev.AgentProbed(name, C)],
            [ev.TimerFired(timers[number % len(timers)] if timers else ("probe", text), C)],
        ]
        for event in choices[kind]:
            effects = stays.handle(event, float(now))
            assert moves.handle(event, float(now)) == effects
            timers += [effect.key for effect in effects if isinstance(effect, do.ArmTimer)]
        if not handover.busy(stays):
            moves = moved(moves)
    assert moves.table.agents == stays.table.agents and moves.table.jails == stays.table.jails


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ([ev.AgentDeployed(plan("a", "v1"), C)], "agent a is preparing"),
        ([ev.AgentDeployed(plan("a", "v1"), C), ev.KernelPrepared(AgentName("a"), "v1", C)], "agent a is starting"),
        (
            [
                ev.AgentDeployed(plan("a", "v1"), C),
                ev.KernelPrepared(AgentName("a"), "v1", C),
                ev.JailReady(JailId(1), C),
                ev.AgentSwapAsked(plan("a", "v2"), C),
            ],
            "agent a is being swapped",
        ),
        (
            [
                ev.AgentDeployed(plan("a", "v1"), C),
                ev.KernelPrepared(AgentName("a"), "v1", C),
                ev.JailReady(JailId(1), C),
                ev.AgentStopAsked(AgentName("a"), C),
            ],
            "jail 1 is ending",
        ),
    ],
)
def test_node_that_does_not_rest_is_not_packed(events: list[ev.Event], why: str) -> None:
    node = make()
    for event in events:
        node.handle(event, 0.0)
    with pytest.raises(LocalError, match=why):
        handover.pack(node)


def test_agent_without_its_plan_is_refused() -> None:
    node = make()
    node.handle(ev.AgentDeployed(plan("a", "v1"), C, start=False), 0.0)
    state = handover.pack(node)
    for plans in ({}, {AgentName("a"): plan("a", "v2")}):
        with pytest.raises(LocalError, match="agent a: expected artefact v1"):
            handover.unpack(make(), state, plans)


def test_table_that_does_not_add_up_is_refused() -> None:
    node = make()
    for event in (
        ev.AgentDeployed(plan("a", "v1"), C),
        ev.KernelPrepared(AgentName("a"), "v1", C),
        ev.JailReady(JailId(1), C),
    ):
        node.handle(event, 0.0)
    state = handover.pack(node)
    state["agents"][0][1]["status"] = "stopped"
    with pytest.raises(AssertionError):
        handover.unpack(make(), state, {AgentName("a"): plan("a", "v1")})
