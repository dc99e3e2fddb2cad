"""The control plane of one device, told as events and the effects they must have."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.core import effects as do
from edgeswarm.core import events as ev
from edgeswarm.core.node import Node
from edgeswarm.core.resources import Capacity
from edgeswarm.core.table import Status
from edgeswarm.ids import AgentName, Cause, JailId, NetworkName

MB = 1 << 20
C = Cause("c1")
NEED = ev.Need(memory_bytes_min=8 * MB, memory_bytes=64 * MB, cpu_cores_min=0.1, cpu_cores=1.0)


def make_node(**changes: object) -> Node:
    capacity = Capacity(memory_bytes=512 * MB, cpu_cores=2.0, agents_max=32, jails_max=16)
    return Node(replace(capacity, **changes), agents_per_jail=4)  # type: ignore[arg-type]


def plan(name: str, artefact: str = "", *, network: str = "n", **changes: object) -> ev.AgentPlan:
    supervision = changes.pop("supervision", ev.Supervision(NetworkName(network)))
    values = {"publisher": "p", "policy": "strict", "own_jail": False, "need": NEED, "supervision": supervision}
    return ev.AgentPlan(AgentName(name), artefact or name * 8, **{**values, **changes})  # type: ignore[arg-type]


def start(node: Node, *plans: ev.AgentPlan) -> list[do.SpawnJail]:
    """Deploy, prepare, and bring every jail up; returns the spawns."""
    for p in plans:
        node.handle(ev.AgentDeployed(p, C), 0)
    spawns = []
    for p in plans:
        spawns += [e for e in node.handle(ev.KernelPrepared(p.name, p.artefact, C), 1) if isinstance(e, do.SpawnJail)]
    for spawn in spawns:
        node.handle(ev.JailReady(spawn.jail, C), 2)
    return spawns


def of(kind: type, effects: list[do.Effect]) -> list:
    return [e for e in effects if isinstance(e, kind)]


def test_deploying_an_agent_prepares_its_kernel_first() -> None:
    assert make_node().handle(ev.AgentDeployed(plan("a"), C), 0) == [
        do.Announce(AgentName("a"), "preparing", "artefact aaaaaaaa", C),
        do.PrepareKernel(AgentName("a"), "aaaaaaaa", C),
    ]


def test_second_agent_of_one_name_is_refused() -> None:
    node = make_node()
    node.handle(ev.AgentDeployed(plan("a"), C), 0)
    [refuse] = node.handle(ev.AgentDeployed(plan("a", "other"), C), 0)
    assert isinstance(refuse, do.Refuse) and "second agent of that name" in refuse.why


def test_agent_over_the_device_memory_is_refused_with_both_numbers() -> None:
    node = make_node(memory_bytes=10 * MB)
    start(node, plan("a"))
    [refuse] = node.handle(ev.AgentDeployed(plan("b"), C), 0)
    assert isinstance(refuse, do.Refuse) and "needs 8 MB, free 2 MB of 10 MB" in refuse.why


def test_agents_of_one_network_and_domain_start_together_in_one_jail() -> None:
    node = make_node()
    [spawn] = start(node, plan("a"), plan("b"), plan("c"))
    assert [name for name, _ in spawn.agents] == ["a", "b", "c"]


def test_other_publisher_other_network_and_own_jail_never_share() -> None:
    node = make_node()
    spawns = start(node, plan("a"), plan("b", publisher="q"), plan("c", network="m"), plan("d", own_jail=True))
    assert sorted(len(s.agents) for s in spawns) == [1, 1, 1, 1]


def test_a_jail_holds_no_more_agents_than_the_profile_says() -> None:
    spawns = start(make_node(), *[plan(f"a{i}") for i in range(6)])
    assert sorted(len(s.agents) for s in spawns) == [2, 4]


def test_death_of_a_jail_is_answered_by_detach_then_restart_after_back_off() -> None:
    node = make_node()
    [spawn] = start(node, plan("a"))
    effects = node.handle(ev.JailExited(spawn.jail, "killed by signal 9", False, C), 100)
    assert of(do.DetachAgent, effects) and of(do.ArmTimer, effects)[0].at_ms == 150
    [again] = node.handle(ev.TimerFired(of(do.ArmTimer, effects)[0].key, C), 150)
    assert isinstance(again, do.SpawnJail) and again.agents == spawn.agents and again.jail != spawn.jail
    effects = node.handle(ev.JailReady(again.jail, C), 160)
    assert of(do.AttachAgent, effects) and not of(do.OpenAgent, effects)  # its sources stayed open


def test_suspect_of_a_shared_jail_gets_a_jail_of_its_own() -> None:
    node = make_node()
    [spawn] = start(node, plan("a"), plan("b"), plan("c"))
    effects = node.handle(ev.JailExited(spawn.jail, "signal 11", False, C, suspects=(AgentName("b"),)), 100)
    effects = node.handle(ev.TimerFired(of(do.ArmTimer, effects)[0].key, C), 200)
    assert sorted(tuple(n for n, _ in s.agents) for s in of(do.SpawnJail, effects)) == [("a", "c"), ("b",)]


def test_sigsys_quarantines_the_suspect_and_restarts_the_others() -> None:
    node = make_node()
    [spawn] = start(node, plan("a"), plan("b"))
    node.handle(ev.JailExited(spawn.jail, "SIGSYS", True, C, suspects=(AgentName("a"),)), 100)
    assert node.table.agents[AgentName("a")].status is Status.QUARANTINED
    assert node.table.agents[AgentName("b")].status is Status.BACKING_OFF
    effects = node.handle(ev.AgentStartAsked(AgentName("a"), C), 200)  # only the operator lifts it
    assert of(do.PrepareKernel, effects)


def test_restart_intensity_ends_in_failed_not_in_a_loop() -> None:
    node = make_node()
    [spawn] = start(node, plan("a"))
    now = 0.0
    for _ in range(20):
        effects = node.handle(ev.JailExited(spawn.jail, "signal 11", False, C), now)
        timers = of(do.ArmTimer, effects)
        if not timers:
            break
        now = timers[0].at_ms
        [spawn] = of(do.SpawnJail, node.handle(ev.TimerFired(timers[0].key, C), now))
        node.handle(ev.JailReady(spawn.jail, C), now)
    assert node.table.agents[AgentName("a")].status is Status.FAILED
    assert node.table.agents[AgentName("a")].restarts_total == 6


def test_one_for_all_restarts_the_whole_network_and_rest_for_one_the_later_ones() -> None:
    for strategy, expected in (("one_for_all", ["a", "b", "c"]), ("rest_for_one", ["b", "c"])):
        node = make_node()
        sup = ev.Supervision(NetworkName("n"), strategy=strategy)  # type: ignore[arg-type]
        spawns = start(node, *[plan(n, own_jail=True, supervision=sup) for n in "abc"])
        effects = node.handle(ev.JailExited(spawns[1].jail, "gone", False, C), 100)
        assert [n for n, a in node.table.agents.items() if a.status is Status.BACKING_OFF] == expected
        assert len(of(do.KillJail, effects)) == len(expected) - 1
        node.check()


def test_five_faults_open_the_breaker_one_probe_closes_it() -> None:
    node = make_node()
    start(node, plan("a"))
    name = AgentName("a")
    for i in range(4):
        assert node.handle(ev.AgentFaulted(name, "trap", C), 100 + i) == []
    effects = node.handle(ev.AgentFaulted(name, "trap", C), 105)
    assert of(do.PauseAgent, effects) and of(do.ArmTimer, effects)[0].at_ms == 1105
    assert node.handle(ev.TimerFired(("probe", "a"), C), 1105) == [do.ProbeAgent(name, C)]
    effects = node.handle(ev.AgentFaulted(name, "trap", C), 1110)  # probe failed: twice as long
    assert of(do.ArmTimer, effects)[0].at_ms == 3110
    node.handle(ev.TimerFired(("probe", "a"), C), 3110)
    assert of(do.ResumeAgent, node.handle(ev.AgentProbed(name, C), 3111))
    assert node.table.agents[name].status is Status.RUNNING


def test_swap_brings_the_new_jail_up_before_the_old_one_goes() -> None:
    node = make_node()
    [old] = start(node, plan("a"))
    new = plan("a", "v2")
    assert node.handle(ev.AgentSwapAsked(new, C), 10) == [do.PrepareKernel(new.name, "v2", C)]
    [spawn] = node.handle(ev.KernelPrepared(new.name, "v2", C), 11)
    assert isinstance(spawn, do.SpawnJail)
    assert node.handle(ev.JailReady(spawn.jail, C), 12) == [do.SwitchAgent(new.name, "v2", spawn.jail, 0, C)]
    effects = node.handle(ev.CutOver(new.name, spawn.jail, C), 13)
    assert of(do.KillJail, effects) == [do.KillJail(old.jail, C)]
    assert node.table.agents[new.name].plan.artefact == "v2"


def test_swap_whose_old_jail_dies_after_the_switch_attaches_the_agent_again() -> None:
    """The detach that its death brings comes after the switch, and takes the new jail from the agent."""
    node = make_node()
    [old] = start(node, plan("a"))
    node.handle(ev.AgentSwapAsked(plan("a", "v2"), C), 10)
    [spawn] = node.handle(ev.KernelPrepared(AgentName("a"), "v2", C), 11)
    assert isinstance(spawn, do.SpawnJail)
    node.handle(ev.JailReady(spawn.jail, C), 12)
    assert of(do.DetachAgent, node.handle(ev.JailExited(old.jail, "signal 9", False, C), 13))
    effects = node.handle(ev.CutOver(AgentName("a"), spawn.jail, C), 14)
    assert of(do.AttachAgent, effects) == [do.AttachAgent(AgentName("a"), spawn.jail, 0, C)]
    assert node.table.agents[AgentName("a")].status is Status.RUNNING


def test_swap_whose_new_jail_dies_leaves_the_old_version_running() -> None:
    node = make_node()
    [old] = start(node, plan("a"))
    node.handle(ev.AgentSwapAsked(plan("a", "v2"), C), 10)
    [spawn] = node.handle(ev.KernelPrepared(AgentName("a"), "v2", C), 11)
    assert isinstance(spawn, do.SpawnJail)
    effects = node.handle(ev.JailExited(spawn.jail, "boom", False, C), 12)
    assert effects == [
        do.Announce(AgentName("a"), "swap_failed", "boom", C),
        do.AttachAgent(AgentName("a"), old.jail, 0, C),
    ]
    assert node.table.agents[AgentName("a")].plan.artefact == "a" * 8


def test_stop_closes_the_agent_before_its_jail_is_killed() -> None:
    node = make_node()
    start(node, plan("a"))
    kinds = [type(e) for e in node.handle(ev.AgentStopAsked(AgentName("a"), C), 10)]
    assert kinds.index(do.CloseAgent) < kinds.index(do.KillJail)


def test_a_jail_we_killed_is_no_fault_when_it_exits() -> None:
    node = make_node()
    [spawn] = start(node, plan("a"))
    node.handle(ev.AgentStopAsked(AgentName("a"), C), 10)
    assert node.handle(ev.JailExited(spawn.jail, "signal 9", False, C), 11) == []
    assert node.table.jails == {}


NAMES = ["a", "b", "c", "d"]


@pytest.mark.sim
@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.sampled_from(NAMES), st.integers(1, 30)), max_size=80), st.data())
def test_invariants_hold_under_any_interleaving(steps: list[tuple[int, str, int]], data: st.DataObject) -> None:
    """Any event, in any order, with any jail number: no agent in two jails, no jail without an owner."""
    node = make_node(jails_max=5)
    strategy = data.draw(st.sampled_from(["one_for_one", "one_for_all", "rest_for_one"]))
    sup = ev.Supervision(NetworkName("n"), strategy=strategy)
    timers: list[tuple[str, str]] = []
    for now, (kind, text, number) in enumerate(steps):
        name, jail = AgentName(text), JailId(number % (node.table.jail_last + 1))
        candidate = plan(text, f"v{number}", supervision=sup, own_jail=number % 3 == 0)
        agent = node.table.agents.get(name)
        artefact = (agent.pending or agent.plan).artefact if agent else "none"
        choices: list[ev.Event] = [
            ev.AgentDeployed(candidate, C),
            ev.AgentSwapAsked(candidate, C),
            ev.AgentStartAsked(name, C),
            ev.AgentStopAsked(name, C),
            ev.AgentRemoveAsked(name, C),
            ev.KernelPrepared(name, artefact, C),
            ev.KernelRefused(name, artefact, "bad", C),
            ev.JailReady(jail, C),
            ev.AgentNotOpened(name, "no", C),
            ev.JailExited(jail, "gone", number % 4 == 0, C, suspects=(name,)),
            ev.AgentFaulted(name, "trap", C),
            ev.CutOver(name, jail, C),
            ev.TimerFired(timers[number % len(timers)] if timers else ("probe", text), C),
        ]
        effects = node.handle(choices[kind], float(now))
        timers += [e.key for e in effects if isinstance(e, do.ArmTimer)]
        node.check()
