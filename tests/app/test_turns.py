"""Agents that share a jail share its CPU: in real jails, and the keeper alone."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import pytest
from supervised import Bench, header_tree, until

from edgeswarm import agentfile
from edgeswarm.agentfile.file import Section
from edgeswarm.app.turns import Keeper
from edgeswarm.compile import Layout, Rows, Weights, attach_layout
from edgeswarm.drivers.cpu_clock import cpu_ns
from edgeswarm.drivers.jails import Reply
from edgeswarm.ids import AgentName, JailId
from edgeswarm.jail.frames import FaultCode, Kind
from edgeswarm.limits import TURN_BURST_S
from edgeswarm.schema import decode

SLOW, QUICK = AgentName("slow"), AgentName("quick")
LOOP = """(local $n i32) (local.set $n (i32.trunc_f32_s (f32.mul (f32.load (i32.const 0)) (f32.const 1000000))))
  (loop $l (local.set $n (i32.sub (local.get $n) (i32.const 1))) (br_if $l (i32.gt_s (local.get $n) (i32.const 0))))
  (f32.store (i32.const 64) (f32.load (i32.const 0)))"""


def looping(bench: Bench, name: str, **changes: Any) -> bytes:
    """An agent whose input says how many million times it goes round."""
    import wasmtime

    text = f"""(module (memory (export "memory") 1)
      (func (export "run") {LOOP}) (func (export "run_batch") (param i32) {LOOP}))"""
    layout = Layout(1, True, Rows(0, 64, 1), Rows(64, 64, 1), Weights(128, 0, (0,)), 65536, "0" * 64)
    header = decode(header_tree(name, 1, 1, **changes), agentfile.Header)
    section = Section(attach_layout(bytes(wasmtime.wat2wasm(text)), layout))
    return agentfile.build(header, {"wasm_kernel": section}, publisher_key=bench.publisher.seed)


def answered(bench: Bench, name: str) -> int:
    return int(bench.tally(name)["answered"])


async def test_an_agent_with_slow_calls_leaves_its_neighbour_every_other_turn(bench: Bench) -> None:
    """Of 60 slow calls that wait, one or two go before each call of its neighbour, not all of them."""
    await bench.supervisor.deploy(
        [("t", looping(bench, name, supervision={"network": "n"})) for name in ("slow", "quick")]
    )
    agents = bench.supervisor.node.table.agents
    assert agents[SLOW].jail == agents[QUICK].jail
    for _ in range(60):
        await bench.supervisor.flows.flows[SLOW].offer(0, (60.0,), 0)
    await until(lambda: answered(bench, "slow") >= 2)
    for _ in range(5):
        before = answered(bench, "slow")
        await bench.supervisor.flows.flows[QUICK].ask((0.001,), 30.0)
        assert answered(bench, "slow") - before <= 3
    row = next(one for one in (await status(bench))["agents"] if one["name"] == "slow")
    assert row["limits"]["cpu_cores"]["put_off"] > 0
    assert row["limits"]["cpu_cores"]["used_s"] > 0
    await bench.supervisor.remove("slow")
    assert await bench.supervisor.flows.flows[QUICK].ask((0.001,), 30.0) is not None


async def status(bench: Bench) -> dict[str, Any]:
    from edgeswarm.app import report

    return report.status(bench.supervisor)


async def test_an_agent_keeps_to_its_part_of_a_core(bench: Bench) -> None:
    """CPU time, as its jail's clock has it, against what it was given since it sat down; no call is lost over it."""
    resources = {"limits": {"cpu_cores": 0.2}}
    await bench.supervisor.deploy([("t", looping(bench, "slow", resources=resources, isolation="own-jail"))])
    flow = bench.supervisor.flows.flows[SLOW]
    began, calls = time.monotonic(), 40
    for _ in range(calls):
        await flow.offer(0, (10.0,), 0)
    await until(lambda: answered(bench, "slow") == calls, within_s=60)
    assert flow.turns is not None
    share = flow.turns.share(flow.slot)
    assert share is not None
    budget_s = 0.2 * (TURN_BURST_S + time.monotonic() - began)
    longest_s = share.used_ns / 1e9 / calls * 16
    assert share.used_ns / 1e9 <= budget_s + longest_s
    assert share.put_off > 0 or share.used_ns / 1e9 < 0.2 * TURN_BURST_S


async def test_a_paused_neighbour_that_waited_for_its_turn_stops_nobody(bench: Bench) -> None:
    await bench.supervisor.deploy(
        [("t", looping(bench, name, supervision={"network": "n"})) for name in ("slow", "quick")]
    )
    for name in (SLOW, QUICK):
        for _ in range(60):
            await bench.supervisor.flows.flows[name].offer(0, (20.0,), 0)
    await until(lambda: answered(bench, "slow") >= 3 and answered(bench, "quick") >= 3)
    bench.supervisor.flows.pause(QUICK)
    await until(lambda: answered(bench, "slow") == 60, within_s=60)
    bench.supervisor.flows.resume(QUICK)
    await until(lambda: answered(bench, "quick") == 60, within_s=60)


class Flow:
    """What a keeper needs of a flow: it sends as long as it may."""

    def __init__(self, keeper: Keeper, slot: int, calls: int) -> None:
        self.keeper, self.slot, self.calls = keeper, slot, calls
        self.sent = 0

    def send(self) -> None:
        while self.calls and self.keeper.admit(self.slot):
            self.calls -= 1
            self.sent += 1


def reply(slot: int, kind: Kind = Kind.REPLY, aux: int = 1, rows: int = 1) -> Reply:
    return Reply(JailId(1), slot, int(kind), 1, rows, aux, b"")


async def test_answers_that_come_together_are_charged_by_what_each_took() -> None:
    clock = iter((0, 90_000_000))
    keeper = Keeper(lambda: next(clock), {0: 300, 1: 300, 2: 600})
    for slot in range(3):
        keeper.join(slot, Flow(keeper, slot, 0), 1.0)  # type: ignore[arg-type]
        assert keeper.admit(slot)
    for one in (reply(0, aux=0), reply(1, aux=299_999), reply(2, Kind.FAULT, FaultCode.DEADLINE, rows=0)):
        keeper.answered(one)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    used = [share.used_ns for slot in range(3) if (share := keeper.share(slot)) is not None]
    assert used[0] == pytest.approx(100, rel=1e-3)
    assert used[1:] == pytest.approx([30_000_000, 60_000_000], rel=1e-3)
    assert sum(used) == pytest.approx(90_000_000)


@pytest.mark.parametrize("code", [FaultCode.TRAP, FaultCode.NON_FINITE, FaultCode.DEADLINE], ids=lambda code: code.name)
async def test_a_call_that_faults_is_paid_by_who_made_it(code: FaultCode) -> None:
    """One computes for long and answers NaN: its neighbour's answer, which comes with it, is not charged for that."""
    clock = iter((0, 90_000_000))
    keeper = Keeper(lambda: next(clock), {0: 100, 1: 100})
    for slot in range(2):
        keeper.join(slot, Flow(keeper, slot, 0), 1.0)  # type: ignore[arg-type]
        assert keeper.admit(slot)
    keeper.answered(reply(0, Kind.FAULT, code, rows=89_900))
    keeper.answered(reply(1, aux=100))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    used = [share.used_ns for slot in range(2) if (share := keeper.share(slot)) is not None]
    assert used == pytest.approx([89_900_000, 100_000])


async def test_who_ran_out_of_its_share_is_woken_when_it_has_some_again() -> None:
    used = [0]
    keeper = Keeper(lambda: used[0], {0: 300})
    flow = Flow(keeper, 0, 2)
    keeper.join(0, flow, 1.0)  # type: ignore[arg-type]
    flow.send()
    used[0] = int(TURN_BURST_S * 1e9) + 30_000_000  # 30 ms more than it had
    assert flow.sent == 1, "nobody knows yet what its calls cost"
    keeper.answered(reply(0))
    await until(lambda: flow.sent == 2)
    keeper.close()


def test_the_clock_of_a_process_is_its_cpu_time() -> None:
    before = cpu_ns(os.getpid())
    while time.process_time_ns() < before:
        pass
    assert 0 < before <= cpu_ns(os.getpid())
    assert cpu_ns(0) == cpu_ns(-1) == 0
    assert cpu_ns(4_000_000) == 0
