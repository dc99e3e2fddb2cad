"""Isolated agents in one jail: what one does wrong is its own, the others are ticked once, and pages are shared."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jail_kernels as k
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeswarm.app.population import Population
from edgeswarm.compile.packed import driver_wasm
from edgeswarm.drivers.jail_population import PopulationSpec, SyncPopulation, spans_of
from edgeswarm.drivers.jail_sync import SyncHost
from edgeswarm.drivers.jail_sync_life import readable
from edgeswarm.errors import JailError, JailGoneError, LimitError, LocalError
from edgeswarm.jail import pages
from edgeswarm.jail.frames import FaultCode
from edgeswarm.jail.table import Blame, TableSpec
from edgeswarm.limits import POPULATION_INSTANCES_MAX, POPULATION_MEMORY_BYTES_MAX
from edgeswarm.model import random_mlp, random_rows, reference

pytestmark = pytest.mark.e2e

COUNT = 12
# counts its ticks in its own memory: answers (weight * second, ticks so far); moods as of jail_kernels.MOODY
COUNTING = k.MOODY.replace(
    '(func (export "run") (call $row (i32.const 0)))',
    """
 (func (export "run")
  (i32.store (i32.const 4096) (i32.add (i32.load (i32.const 4096)) (i32.const 1)))
  (call $row (i32.const 0))
  (f32.store (i32.const 65540) (f32.convert_i32_u (i32.load (i32.const 4096)))))""",
)
# writes 1.0 everywhere it may, its own weights included, then answers
VANDAL = f"""(module (memory (export "memory") 2 64)
 (func (export "run") (local $at i32)
  (if (f32.eq (f32.load (i32.const 0)) (f32.const {k.SCRIBBLE})) (then
   (loop $l (f32.store (local.get $at) (f32.const 1))
    (br_if $l (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 4))) (i32.const 131072))))))
  (f32.store (i32.const {k.OUTPUT}) (f32.mul (f32.load (i32.const {k.WEIGHTS})) (f32.load (i32.const 4)))))
 (func (export "run_batch") (param i32)))"""


class Agents:
    """A population of moody agents, and its inputs and outputs."""

    def __init__(self, host: SyncHost, text: str, count: int, **more: Any) -> None:
        layout = k.LAYOUT
        places = (layout.input, layout.output)
        spec = PopulationSpec(
            name="moody",
            count=count,
            cwasm=host.compile(k.assemble(text)),
            driver=host.compile(driver_wasm()),
            spans=spans_of(*((place.offset, place.offset + 8) for place in places)),
            weights=struct.pack("<f", 2.0),
            weights_offset=layout.weights.offset,
            memory_bytes=layout.memory_bytes,
            deadline_ms=more.pop("deadline_ms", 50),
            **more,
        )
        self.jail = SyncPopulation(host, spec)
        floats = np.frombuffer(self.jail.link.view, np.float32, count * spec.stride // 4, self.jail.link.spans_at)
        rows = floats.reshape(count, -1)
        self.inputs, self.outputs = rows[:, :2], rows[:, pages.PAGE // 4 : pages.PAGE // 4 + 2]
        self.calm()

    def calm(self) -> None:
        self.inputs[:, 0] = k.ADD
        self.inputs[:, 1] = np.arange(len(self.inputs))


@contextlib.contextmanager
def populate(host: SyncHost, text: str = k.MOODY, count: int = COUNT, **more: Any) -> Iterator[Agents]:
    agents = Agents(host, text, count, **more)
    try:
        yield agents
    finally:
        agents.jail.close()


def test_every_agent_computes_on_its_own_row(sync_host: SyncHost) -> None:
    with populate(sync_host) as agents:
        assert agents.jail.tick() == []
        assert agents.outputs[:, 0].tolist() == [2.0 * i for i in range(COUNT)]


@pytest.mark.parametrize(
    ("mood", "text"),
    [
        (k.TRAP, "unreachable"),
        (k.OUTSIDE, "memory access out of bounds"),
        (k.DIVIDE, "integer division by zero"),
        (k.RECURSE, "stack overflow"),
        (k.GROW, "unreachable"),  # refused at the limit, at which it traps
        (k.SCRIBBLE, "unreachable"),
        (k.SPIN, "ran past its deadline"),
    ],
)
def test_what_one_agent_does_wrong_is_its_own(sync_host: SyncHost, mood: float, text: str) -> None:
    with populate(sync_host) as agents:
        agents.inputs[5] = (mood, 0.0)
        [fault] = agents.jail.tick()
        assert (fault.agent, fault.text) == (5, text)
        assert fault.code is (FaultCode.DEADLINE if mood == k.SPIN else FaultCode.TRAP)
        others = [i for i in range(COUNT) if i != 5]
        assert agents.outputs[others, 0].tolist() == [2.0 * i for i in others]
        assert agents.jail.tick() == []  # it is left out
        agents.jail.reset(5)
        agents.calm()
        assert agents.jail.tick() == []
        assert agents.outputs[:, 0].tolist() == [2.0 * i for i in range(COUNT)]


def test_an_agent_that_overwrites_all_it_can_reach_changes_nobody_else(sync_host: SyncHost) -> None:
    with populate(sync_host, VANDAL) as agents:
        agents.inputs[3, 0] = k.SCRIBBLE
        assert agents.jail.tick() == []
        assert agents.jail.weights_of(3) == struct.pack("<f", 1.0)
        others = [i for i in range(COUNT) if i != 3]
        assert agents.outputs[others, 0].tolist() == [2.0 * i for i in others]
        assert agents.inputs[others, 1].tolist() == others
        assert {agents.jail.weights_of(i) for i in others} == {struct.pack("<f", 2.0)}
        agents.jail.reset(3)
        assert agents.jail.weights_of(3) == struct.pack("<f", 2.0)


def test_what_a_module_brings_in_its_data_is_there_beside_inputs_and_after_a_reset(sync_host: SyncHost) -> None:
    """Data in the page of the inputs, which is laid over; in the page of the weights, which is not shared then."""
    text = f"""(module (memory (export "memory") 2)
     (data (i32.const 512) "\\00\\00\\40\\40") (data (i32.const 130000) "\\00\\00\\a0\\40")
     (func (export "run")
      (if (f32.eq (f32.load (i32.const 0)) (f32.const {k.TRAP})) (then
       (f32.store (i32.const 512) (f32.const 99)) (unreachable)))
      (f32.store (i32.const {k.OUTPUT}) (f32.add (f32.load (i32.const 512))
       (f32.mul (f32.load (i32.const {k.WEIGHTS})) (f32.load (i32.const 4)))))
      (f32.store (i32.const {k.OUTPUT + 4}) (f32.load (i32.const 130000))))
     (func (export "run_batch") (param i32)))"""
    with populate(sync_host, text) as agents:
        agents.inputs[6, 0] = k.TRAP
        assert [fault.agent for fault in agents.jail.tick()] == [6]
        agents.jail.reset(6)
        agents.calm()
        assert agents.jail.tick() == []
        assert agents.outputs.tolist() == [[3.0 + 2.0 * i, 5.0] for i in range(COUNT)]
        assert weights_pages(agents) == []


def test_memory_grows_up_to_the_limit_and_no_further(sync_host: SyncHost) -> None:
    with populate(sync_host, memory_limit_bytes=3 * 16 * 65_536) as agents:
        agents.inputs[2, 0] = k.GROW
        assert agents.jail.tick() == []
        assert agents.outputs[2, 1] == 16
        assert agents.jail.tick() == []
        [fault] = agents.jail.tick()
        assert fault.agent == 2
        agents.jail.reset(2)
        agents.calm()
        agents.jail.tick()
        assert agents.outputs[2].tolist() == [4.0, 0.0]  # globals too are a fresh instance's


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trapping=st.lists(st.sets(st.integers(0, COUNT - 1)), min_size=1, max_size=3))
def test_exactly_those_that_trap_are_reported_and_the_others_tick_once(
    counting: Agents, trapping: list[set[int]]
) -> None:
    """Any agents, in any of several ticks: reported in order, once; the others' own counts grow by one each tick."""
    agents = counting
    agents.jail.tick()
    before = agents.outputs[:, 1].copy()
    out: set[int] = set()
    for tick, chosen in enumerate(trapping, start=1):
        agents.calm()
        agents.inputs[list(chosen), 0] = k.TRAP
        faults = agents.jail.tick()
        assert [fault.agent for fault in faults] == sorted(chosen - out)
        out |= chosen
        kept = [i for i in range(COUNT) if i not in out]
        assert (agents.outputs[kept, 1] - before[kept] == tick).all()
    for agent in out:
        agents.jail.reset(agent)
    agents.calm()
    assert agents.jail.tick() == []
    assert agents.outputs[sorted(out), 1].tolist() == [1.0] * len(out)


@pytest.fixture
def counting(sync_host: SyncHost) -> Iterator[Agents]:
    with populate(sync_host, COUNTING) as agents:
        yield agents


def test_several_endless_loops_are_stopped_one_by_one(sync_host: SyncHost) -> None:
    with populate(sync_host, COUNTING, deadline_ms=20) as agents:
        agents.inputs[[0, 4, COUNT - 1], 0] = k.SPIN
        faults = agents.jail.tick()
        assert [(fault.agent, fault.code) for fault in faults] == [(i, FaultCode.DEADLINE) for i in (0, 4, COUNT - 1)]
        assert agents.outputs[[1, 2, 3, 5], 1].tolist() == [1.0] * 4


def test_slow_agents_within_their_deadline_are_nobodys_fault(sync_host: SyncHost) -> None:
    """The tick as a whole may take several deadlines; each agent is under way at one poke only."""
    with populate(sync_host, deadline_ms=400) as agents:
        agents.inputs[:, 0] = k.SLOW
        assert agents.jail.tick() == []
        assert agents.outputs[:, 0].tolist() == [2.0 * i for i in range(COUNT)]


# --- pages ------------------------------------------------------------------------------------------------------------


def weights_pages(agents: Agents) -> list[dict[str, int]]:
    """Of every private mapping of the payload: how many KiB are resident, and how many of them the agent's own."""
    with open(f"/proc/{agents.jail.pid}/smaps", encoding="ascii") as file:
        text = file.read()
    found = []
    for part in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", text):
        head = part.partition("\n")[0]
        if "rw-p" in head and "population-code" in head:
            numbers = {name: int(kib) for name, kib in re.findall(r"(?m)^(\w+):\s+(\d+) kB", part)}
            found.append({"resident": numbers["Rss"], "own": numbers["Private_Dirty"] + numbers["Anonymous"]})
    return found


def test_weights_are_shared_until_an_agent_writes_to_its_own(sync_host: SyncHost) -> None:
    """By what the kernel says of each mapping, not by the clock or by totals."""
    with populate(sync_host) as agents:
        agents.jail.tick()
        before = weights_pages(agents)
        assert len(before) == COUNT
        assert [page["own"] for page in before] == [0] * COUNT
        assert all(page["resident"] for page in before)
        agents.jail.set_weights(4, struct.pack("<f", 5.0))
        agents.jail.tick()
        assert agents.outputs[:, 0].tolist() == [(5.0 if i == 4 else 2.0) * i for i in range(COUNT)]
        assert sum(page["own"] > 0 for page in weights_pages(agents)) == 1


@given(st.integers(0, 64), st.integers(1, 64), st.lists(st.tuples(st.integers(0, 64), st.integers(1, 8)), max_size=4))
def test_spans_without_others_are_exactly_the_pages_left(first: int, size: int, others: list[tuple[int, int]]) -> None:
    def covered(spans: list[pages.Span]) -> set[int]:
        return {at for span in spans for at in range(span.first // pages.PAGE, span.end // pages.PAGE)}

    def span(at: int, count: int) -> pages.Span:
        return pages.Span(at * pages.PAGE, (at + count) * pages.PAGE)

    taken = pages.joined([span(at, count) for at, count in others])
    assert covered(pages.without(span(first, size), taken)) == covered([span(first, size)]) - covered(taken)
    assert all(a.end < b.first for a, b in itertools.pairwise(taken))


# --- deadlines' blame, bad input --------------------------------------------------------------------------------------


def test_a_deadline_is_about_an_agent_found_twice_in_one_tick() -> None:
    blame = Blame()
    assert not blame.poked(3)  # nothing runs
    blame.begin()
    assert not blame.poked(3)
    assert not blame.poked(4)  # there was progress
    assert blame.poked(4)
    assert blame.is_for(4)
    assert not blame.is_for(5)
    blame.end()
    blame.begin()
    assert not blame.poked(4)  # another tick
    assert not blame.is_for(4)


def test_an_agent_takes_as_many_mappings_as_are_counted(sync_host: SyncHost) -> None:
    def mappings(agents: Agents) -> int:
        with open(f"/proc/{agents.jail.pid}/maps", encoding="ascii") as file:
            return len(file.readlines())

    with populate(sync_host, count=10) as few, populate(sync_host, count=110) as more:
        added = mappings(more) - mappings(few)
        assert 300 <= added <= 100 * more.jail.spec.mappings + 50  # the allocator maps some blocks too


def test_populations_past_a_bound_are_refused_before_anything_starts(sync_host: SyncHost) -> None:
    spec = PopulationSpec("x", 1, b"", b"", (), b"", 0, 65_536)
    for change, text in (
        ({"count": 0}, "POPULATION_INSTANCES_MAX"),
        ({"count": POPULATION_INSTANCES_MAX + 1}, "POPULATION_INSTANCES_MAX"),
        ({"memory_limit_bytes": POPULATION_MEMORY_BYTES_MAX + 1}, "POPULATION_MEMORY_BYTES_MAX"),
        ({"spans": (pages.Span(0, 1 << 40),)}, "POPULATION_SHARED_BYTES_MAX"),
        ({"deadline_ms": 0}, "CALL_DEADLINE_MS_MAX"),
        ({"count": 16_000, "spans": spans_of((0, 1), (8192, 8193), (20_000, 20_001))}, "vm.max_map_count"),
    ):
        with pytest.raises(LimitError, match=re.escape(text)):
            replace(spec, **change).check()


@pytest.mark.parametrize(
    "change",
    [
        {"count": 0},
        {"spans": [[0, 100]]},
        {"spans": [[8192, 4096]]},
        {"spans": [[0, 1 << 20]]},
        {"weights_at": 64},
        {"weights_bytes": -1},
        {"memory_bytes": 1 << 30},
        {"name": None, "count": "many"},
    ],
)
def test_orders_that_contradict_themselves_are_refused(change: dict[str, object]) -> None:
    order = {
        "name": "x",
        "count": 2,
        "spans": [[0, 4096]],
        "spans_at": 8192,
        "weights_offset": 4096,
        "weights_bytes": 8,
    }
    order |= {"weights_at": 0, "memory_bytes": 65_536, "memory_limit_bytes": 65_536, "resets_max": 1, "filled": False}
    TableSpec.from_json(order)
    with pytest.raises(JailError):
        TableSpec.from_json(order | change)


def test_a_kernel_that_does_not_fit_its_layout_does_not_start(sync_host: SyncHost) -> None:
    with pytest.raises(JailError, match="memory of 131072 bytes expected, found 65536"):
        Agents(
            sync_host,
            '(module (memory (export "memory") 1) (func (export "run")) (func (export "run_batch") (param i32)))',
            2,
        )


def test_wrong_agents_and_weights_are_refused_and_the_population_goes_on(sync_host: SyncHost) -> None:
    with populate(sync_host, resets_max=1) as agents:
        for bad in (-1, COUNT):
            for call in (agents.jail.reset, agents.jail.weights_of, lambda i: agents.jail.set_weights(i, b"1234")):
                with pytest.raises(LocalError):
                    call(bad)
        with pytest.raises(LocalError, match="4 bytes expected, found 5"):
            agents.jail.set_weights(0, b"12345")
        agents.jail.reset(0)
        with pytest.raises(LimitError, match="no more in this jail"):
            agents.jail.reset(0)
        agents.calm()
        assert agents.jail.tick() == []


def test_a_tick_that_was_interrupted_is_not_taken_for_the_next_one(
    sync_host: SyncHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while it waits: its answer is taken first, and what it found out is told by the next tick."""

    def interrupted() -> int:
        raise KeyboardInterrupt

    with populate(sync_host, COUNTING) as agents:
        agents.inputs[3, 0] = k.TRAP
        monkeypatch.setattr(agents.jail, "_answer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            agents.jail.tick()
        monkeypatch.undo()
        assert readable(agents.jail.link.answers, 10)
        agents.calm()
        agents.inputs[1, 0] = k.TRAP
        assert [fault.agent for fault in agents.jail.tick()] == [1, 3]
        assert agents.outputs[0, 1] == 2.0
        monkeypatch.setattr(agents.jail, "_answer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            agents.jail.weights_of(2)
        monkeypatch.undo()
        assert agents.jail.tick() == []
        assert agents.jail.weights_of(2) == struct.pack("<f", 2.0)
        agents.inputs[0, 0] = k.TRAP
        monkeypatch.setattr(agents.jail, "_answer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            agents.jail.tick()
        monkeypatch.undo()
        assert readable(agents.jail.link.answers, 10)
        agents.calm()
        agents.jail.reset(0)
        assert agents.jail.tick() == [], "what the instance did that is gone is no fault of the fresh one"


def test_a_jail_that_dies_is_gone_for_every_call(sync_host: SyncHost) -> None:
    with populate(sync_host) as agents:
        os.kill(agents.jail.pid, signal.SIGKILL)
        for call in (agents.jail.tick, lambda: agents.jail.reset(0), lambda: agents.jail.weights_of(0)):
            with pytest.raises(JailGoneError):
                call()
        assert np.isfinite(agents.inputs).all()  # the views outlive it


def test_a_lie_about_faults_is_the_end_of_the_jail(sync_host: SyncHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the jail had said it: a fault of an agent that does not exist, more faults than agents."""
    for told, records in ((COUNT + 1, []), (1, [(COUNT, 1)]), (2, [(3, 1), (3, 1)]), (1, [(0, 77)])):
        with populate(sync_host) as agents:
            for number, record in enumerate(records):
                struct.pack_into("<II", agents.jail.link.view, agents.jail.link.faults_at + 8 * number, *record)
            monkeypatch.setattr(agents.jail, "_ask", lambda *_, told=told: told)
            with pytest.raises(JailGoneError, match="population"):
                agents.jail.tick()
            monkeypatch.undo()
            with pytest.raises(JailGoneError):
                agents.jail.tick()


def test_the_jail_of_a_population_is_confined_as_any_other(sync_host: SyncHost) -> None:
    """Both filters on every thread, no capability; of descriptors two more than others have: its own memory's."""
    with populate(sync_host) as agents:
        folder = f"/proc/{agents.jail.pid}"
        for thread in os.listdir(f"{folder}/task"):
            with open(f"{folder}/task/{thread}/status", encoding="ascii") as file:
                status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
            assert (status["Seccomp"], status["Seccomp_filters"], status["NoNewPrivs"]) == ("2", "2", "1")
            assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
        targets = [os.readlink(f"{folder}/fd/{fd}") for fd in os.listdir(f"{folder}/fd")]
        kinds = sorted(target.removeprefix("/memfd:").split(":")[0].split()[0].rsplit("/", 1)[-1] for target in targets)
        assert kinds == ["null"] * 3 + ["pipe"] * 3 + ["population", "population-code", "socket"]
        with open(f"{folder}/maps", encoding="ascii") as file:
            rights = [line.split()[1] for line in file]
        assert not [found for found in rights if "w" in found and "x" in found]


@pytest.mark.soak
def test_ten_thousand_agents_are_thirty_kilobytes_each(sync_host: SyncHost) -> None:
    """Resident memory and page tables of the whole jail, its interpreter included."""
    model = random_mlp((4, 8, 2), "sigmoid", "sigmoid", 0)
    rows = random_rows(10_000, 4, 1)
    with Population(model, 10_000, host=sync_host) as agents:
        assert np.abs(agents.tick(rows) - reference.forward(model, rows)).max() < 1e-6
        assert agents.memory()["each"] < 30_000


@pytest.mark.soak
def test_a_million_packed_agents_are_three_hundred_bytes_each(sync_host: SyncHost) -> None:
    model = random_mlp((4, 8, 2), "sigmoid", "sigmoid", 0)
    rows = random_rows(1_000_000, 4, 1)
    with Population(model, 1_000_000, isolation="packed", host=sync_host) as agents:
        assert np.abs(agents.tick(rows) - reference.forward(model, rows)).max() < 1e-6
        assert agents.memory()["each"] < 300
