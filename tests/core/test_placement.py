"""Where agents go: what is hard, what is soft, and that nothing moves without need."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.core.cell.types import AgentSpec, AgentState, Capabilities, DeviceState, Needs
from edgeswarm.core.placement import PlannedMove, TaskChooser, plan, rebalance
from edgeswarm.core.placement.views import fits, kind_of, wish_of

MB = 1 << 20
PC = Capabilities("x86-gateway", "A", "x86_64", 1000 * MB, 4000, 16, ("litert", "wasm"), (), ("neural.compute",))
PI = Capabilities("rpi-zero-2w", "C", "aarch64", 200 * MB, 3000, 8, ("wasm",), ("temp",), (), ("site=roof",))


def device(name: str, offer: Capabilities = PC, *, alive: bool = True, drained: bool = False) -> DeviceState:
    return DeviceState(name, offer, 1, 1, alive, 1, drained)


NOTHING = Needs()


def agent(name: str, needs: Needs = NOTHING, *, on: str | None = None, **spec: object) -> AgentState:
    return AgentState(AgentSpec(name, bytes(32), needs, **spec), 1, on)  # type: ignore[arg-type]


def places(devices: list[DeviceState], agents: list[AgentState], **kwargs: object) -> dict[str, str]:
    return {move.agent: move.device for move in plan(devices, agents, **kwargs).moves}  # type: ignore[arg-type]


# --- what is hard -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("needs", "goes_to"),
    [
        (Needs(profile="rpi-zero-2w"), "pi"),
        (Needs(tier_min="B"), "pc"),
        (Needs(architectures=("aarch64", "armv7l")), "pi"),
        (Needs(delegates=("litert",)), "pc"),
        (Needs(sensors=("temp",)), "pi"),
        (Needs(grants=("neural.compute",)), "pc"),
        (Needs(labels=("site=roof",)), "pi"),
        (Needs(memory_bytes=500 * MB), "pc"),
        (Needs(cpu_milli=3500), "pc"),
    ],
)
def test_an_agent_goes_only_where_each_need_is_met(needs: Needs, goes_to: str) -> None:
    assert places([device("pc"), device("pi", PI)], [agent("a", needs)]) == {"a": goes_to}


def test_what_is_lost_or_drained_gets_nothing() -> None:
    devices = [device("a", alive=False), device("b", drained=True), device("c", PI)]
    assert places(devices, [agent("x")]) == {"x": "c"}


def test_a_pinned_agent_goes_there_or_nowhere() -> None:
    assert places([device("a"), device("b")], [agent("x", pin="b")]) == {"x": "b"}
    found = plan([device("a"), device("b", alive=False)], [agent("x", pin="b")])
    assert found.moves == ()
    assert found.unplaced == {"x": "of 2 devices 1 are lost or drained, 1 are not b, to which it is pinned"}
    assert "z, which is not in the cell" in plan([device("a")], [agent("x", pin="z")]).unplaced["x"]


def test_agents_apart_never_share_a_device() -> None:
    devices = [device("a"), device("b")]
    assert len(set(places(devices, [agent("x"), agent("y", apart=("x",))]).values())) == 2
    found = plan([device("a")], [agent("x", on="a"), agent("y", apart=("x",))])
    assert found.unplaced == {"y": "of 1 devices 1 run what it stays apart from"}
    found = plan([device("a")], [agent("x"), agent("y", on="a", apart=("x",))])  # whichever of the two says so
    assert found.unplaced == {"x": "of 1 devices 1 run what it stays apart from"}


def test_a_device_refused_to_one_agent_is_not_full_for_the_next() -> None:
    """The first is kept apart from the only device; the second, no smaller, goes there."""
    agents = [agent("first", Needs(memory_bytes=2 * MB), apart=("x",)), agent("second", Needs(memory_bytes=2 * MB))]
    found = plan([device("a")], [agent("x", on="a"), *agents])
    assert [move.agent for move in found.moves] == ["second"]
    assert list(found.unplaced) == ["first"]


def test_the_reason_counts_each_need_over_the_devices() -> None:
    devices = [device(f"pc{index}") for index in range(3)] + [device("pi", PI), device("gone", PI, alive=False)]
    full = [agent(f"f{index}", Needs(memory_bytes=195 * MB), on="pi") for index in range(1)]
    found = plan(devices, [*full, agent("x", Needs(memory_bytes=10 * MB, sensors=("temp",)))])
    assert found.unplaced == {"x": "of 5 devices 3 lack sensor temp, 1 are lost or drained, 1 lack room: memory"}
    assert plan([], [agent("x")]).unplaced == {"x": "there is no device"}


# --- what is soft -----------------------------------------------------------------------------------------------------


def test_agents_spread_by_load() -> None:
    found = places([device("a"), device("b"), device("c")], [agent(f"x{i}") for i in range(9)])
    assert sorted(found.values()) == ["a"] * 3 + ["b"] * 3 + ["c"] * 3


def test_what_a_device_reports_counts() -> None:
    assert places([device("a"), device("b")], [agent("x")], load={"a": 700}) == {"x": "b"}


def test_near_agents_are_joined_unless_that_device_is_much_fuller() -> None:
    devices = [device("a"), device("b")]
    assert places(devices, [agent("x", on="b"), agent("y", near=("x",))]) == {"y": "b"}
    assert places(devices, [agent("x", on="b"), agent("y", near=("x",))], load={"b": 900}) == {"y": "a"}


# --- stability --------------------------------------------------------------------------------------------------------


def test_an_agent_stays_where_it_is_even_if_another_device_is_emptier() -> None:
    assert plan([device("a"), device("b")], [agent(f"x{i}", on="a") for i in range(5)]).moves == ()


def test_an_agent_for_which_nothing_fits_is_not_taken_away() -> None:
    found = plan([device("pi", PI, drained=True), device("pc")], [agent("x", Needs(sensors=("temp",)), on="pi")])
    assert found.moves == ()
    assert list(found.unplaced) == ["x"]


def test_a_device_that_offers_less_lets_go_of_what_no_longer_fits() -> None:
    smaller = replace(PC, memory_bytes=100 * MB)
    agents = [agent(f"x{i}", Needs(memory_bytes=40 * MB), on="a") for i in range(4)]
    assert places([device("a", smaller), device("b")], agents) == {"x2": "b", "x3": "b"}
    without = replace(PI, sensors=())
    assert places([device("a", without), device("b", PI)], [agent("t", Needs(sensors=("temp",)), on="a")]) == {"t": "b"}


def test_a_move_names_the_epoch_that_it_was_planned_for() -> None:
    found = plan([device("a", alive=False), device("b")], [replace(agent("x", on="a"), epoch=7)])
    assert found.moves == (PlannedMove("x", "a", "b", 7),)


Cell = tuple[list[DeviceState], list[AgentState]]
OFFERS = st.sampled_from([PC, PI, replace(PI, memory_bytes=60 * MB), replace(PC, sensors=("temp",), agents_max=3)])
NEEDS = st.builds(
    Needs,
    memory_bytes=st.sampled_from([0, 10 * MB, 50 * MB, 190 * MB]),
    cpu_milli=st.sampled_from([0, 100, 2900]),
    sensors=st.sampled_from([(), ("temp",)]),
    tier_min=st.sampled_from("ABC"),
    architectures=st.sampled_from([(), ("aarch64",), ("aarch64", "x86_64")]),
)


@st.composite
def cells(draw: st.DrawFn) -> tuple[list[DeviceState], list[AgentState]]:
    devices = [device(f"d{i}", draw(OFFERS)) for i in range(draw(st.integers(1, 8)))]
    names = [f"a{i:02}" for i in range(draw(st.integers(0, 20)))]
    links = st.lists(st.sampled_from(names or ["a00"]), max_size=2, unique=True).map(lambda found: tuple(sorted(found)))
    agents = [agent(name, draw(NEEDS), near=draw(links), apart=draw(st.one_of(st.just(()), links))) for name in names]
    return devices, agents


def settle(devices: list[DeviceState], agents: list[AgentState]) -> list[AgentState]:
    found = {move.agent: move.device for move in plan(devices, agents).moves}
    return [replace(one, device=found.get(one.spec.id, one.device)) for one in agents]


def holds(devices: list[DeviceState], agents: list[AgentState]) -> None:
    """Every placed agent fits, and no device holds more than it offers."""
    by_id = {one.id: one for one in devices}
    taken: dict[str, tuple[int, int, int]] = {}
    for one in agents:
        if one.device is None:
            continue
        needs, offer = one.spec.needs, by_id[one.device].capabilities
        assert fits(wish_of(needs), kind_of(offer))
        memory, cpu, count = taken.get(one.device, (0, 0, 0))
        taken[one.device] = (memory + needs.memory_bytes, cpu + needs.cpu_milli, count + 1)
    for name, (memory, cpu, count) in taken.items():
        offer = by_id[name].capabilities
        assert memory <= offer.memory_bytes
        assert cpu <= offer.cpu_milli
        assert count <= offer.agents_max


@given(cells())
def test_plans_keep_every_bound_and_a_second_plan_moves_nothing(
    cell: Cell,
) -> None:
    devices, agents = cell
    settled = settle(devices, agents)
    holds(devices, settled)
    assert plan(devices, settled).moves == ()


@given(cells(), st.integers(0, 7))
def test_a_dead_device_moves_its_own_agents_only(cell: Cell, which: int) -> None:
    devices, agents = cell
    settled = settle(devices, agents)
    dead = devices[which % len(devices)].id
    left = [replace(one, alive=one.id != dead) for one in devices]
    found = plan(left, settled)
    on_it = {one.spec.id for one in settled if one.device == dead}
    assert {move.agent for move in found.moves} <= on_it | {one.spec.id for one in settled if one.device is None}
    assert on_it <= {move.agent for move in found.moves} | set(found.unplaced)
    assert all(move.device != dead for move in found.moves)


@given(cells(), st.randoms(use_true_random=False))
def test_the_order_in_which_things_are_listed_does_not_matter(cell: Cell, rng: random.Random) -> None:
    devices, agents = cell
    shuffled_devices, shuffled_agents = devices[:], agents[:]
    rng.shuffle(shuffled_devices)
    rng.shuffle(shuffled_agents)
    assert plan(devices, agents) == plan(shuffled_devices, shuffled_agents)


@given(cells())
def test_what_goes_unplaced_fits_nowhere_in_what_is_left(cell: Cell) -> None:
    """Against the dumb answer: look at each device for each agent that found none."""
    devices, agents = cell
    found = plan(devices, agents)
    settled = settle(devices, agents)
    where = {one.spec.id: one.device for one in settled}
    for one in settled:
        if one.spec.id not in found.unplaced:
            continue
        for candidate in devices:
            offer, needs = candidate.capabilities, one.spec.needs
            here = [other for other in settled if other.device == candidate.id]
            room = (
                sum(other.spec.needs.memory_bytes for other in here) + needs.memory_bytes <= offer.memory_bytes
                and sum(other.spec.needs.cpu_milli for other in here) + needs.cpu_milli <= offer.cpu_milli
                and len(here) < offer.agents_max
            )
            names = {*one.spec.apart, *(other.spec.id for other in agents if one.spec.id in other.spec.apart)}
            apart = any(where.get(name) == candidate.id for name in names if name != one.spec.id)
            assert not (room and fits(wish_of(needs), kind_of(offer))) or apart, (one.spec.id, candidate.id)


# --- evening out ------------------------------------------------------------------------------------------------------


def test_rebalance_moves_few_agents_from_the_fullest_to_the_emptiest() -> None:
    agents = [agent(f"x{i}", on="a") for i in range(12)]
    found = rebalance([device("a"), device("b")], agents, moves_max=3)
    assert [(move.source, move.device) for move in found] == [("a", "b")] * 3


def test_rebalance_leaves_even_loads_the_pinned_and_the_stateful_for_last() -> None:
    assert rebalance([device("a"), device("b")], [agent("x", on="a"), agent("y", on="b")]) == ()
    pinned = [agent(f"x{i}", on="a", pin="a") for i in range(12)]
    assert rebalance([device("a"), device("b")], pinned) == ()
    mixed = [agent(f"s{i}", on="a", stateful=True) for i in range(6)] + [agent(f"t{i}", on="a") for i in range(6)]
    assert all(move.agent.startswith("t") for move in rebalance([device("a"), device("b")], mixed, moves_max=4))


def test_a_busy_device_sheds_load_that_it_reports() -> None:
    agents = [agent(f"x{i}", on="a") for i in range(4)]
    found = rebalance([device("a"), device("b")], agents, load={"a": 950})
    assert 1 <= len(found) <= 2


@given(cells(), st.integers(0, 10))
@settings(max_examples=60)
def test_rebalance_is_bounded_keeps_every_bound_and_comes_to_rest(cell: Cell, moves_max: int) -> None:
    devices, agents = cell
    settled = settle(devices, agents)
    for _ in range(30):
        found = rebalance(devices, settled, moves_max=moves_max)
        assert len(found) <= moves_max
        assert len({move.agent for move in found}) == len(found)
        if not found:
            break
        to = {move.agent: move.device for move in found}
        settled = [replace(one, device=to.get(one.spec.id, one.device)) for one in settled]
        holds(devices, settled)
        assert all(move.source is None for move in plan(devices, settled).moves)  # into what was set free
    assert not found


# --- one task ---------------------------------------------------------------------------------------------------------


def test_a_task_goes_to_the_least_busy_device_that_fits() -> None:
    devices = [device("a"), device("b"), device("p", PI), device("z", alive=False)]

    def choose(needs: Needs, **given: dict[str, int]) -> str | None:
        return TaskChooser(devices, **{"load": {}, "busy": {}, **given}).choose(needs)

    assert choose(Needs(), busy={"a": 1, "p": 2}) == "b"
    assert choose(Needs(), load={"a": 500}) == "b"
    assert choose(Needs(sensors=("temp",)), busy={"p": 9}) == "p"
    assert choose(Needs(sensors=("smell",))) is None
    assert choose(Needs(memory_bytes=500 * MB), busy={"a": 3, "b": 2}) == "b"
    assert choose(Needs(memory_bytes=5000 * MB)) is None


def test_tasks_spread_until_every_device_has_its_fill() -> None:
    chooser = TaskChooser([device("a"), device("b"), device("p", PI)], load={}, busy={"a": 2}, each_max=3)
    assert [chooser.choose(Needs()) for _ in range(8)] == ["b", "p", "b", "p", "a", "b", "p", None]
    assert not chooser.takes("a")
    assert not chooser.takes("z")


@given(cells(), st.lists(NEEDS, max_size=30), st.integers(1, 4))
def test_choosing_agrees_with_looking_at_every_device(cell: Cell, wanted: list[Needs], each_max: int) -> None:
    devices, _ = cell
    busy: dict[str, int] = {}
    chooser = TaskChooser(devices, load={}, busy={}, each_max=each_max)
    for needs in wanted:
        dumb = [
            (busy.get(one.id, 0), one.id)
            for one in devices
            if fits(wish_of(needs), kind_of(one.capabilities))
            and needs.memory_bytes <= one.capabilities.memory_bytes
            and needs.cpu_milli <= one.capabilities.cpu_milli
            and busy.get(one.id, 0) < each_max
        ]
        chosen = chooser.choose(needs)
        assert chosen == (min(dumb)[1] if dumb else None)
        if chosen is not None:
            busy[chosen] = busy.get(chosen, 0) + 1
