"""A device and what rollouts want of it: real supervisor, real jails, real broker."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from brokers import Mosquitto
from rollouts import advance_command, plan_of, start_command, steer_command
from swarm_cells import Fleet, Member, Stranger, fleet, member, until

from edgeswarm.app.swarm import converge_disk
from edgeswarm.app.swarm.hosted import Hosted
from edgeswarm.core.cell import commands as cmd
from edgeswarm.core.rollout.steps import Row
from edgeswarm.drivers import keys
from edgeswarm.drivers.store import StoreError
from edgeswarm.errors import EdgeSwarmError, KernelError
from edgeswarm.wire import messages as msg
from edgeswarm.wire.certificate import Signatory
from edgeswarm.wire.rollout import Gate, Plan, seal_plan


def version(one: Member, number: int, name: str = "pump", **changes: Any) -> bytes:
    return one.mlp(name, agent_version=f"1.0.{number}", **changes)


def row_of(one: Member, agent: str = "pump") -> Row | None:
    return next((row for row in one.node.converge.rows() if row.agent == agent), None)


def runs(one: Member, data: bytes, agent: str = "pump") -> bool:
    found = one.supervisor.node.table.agents.get(agent)  # type: ignore[call-overload]
    artefact = hashlib.sha256(data).hexdigest()
    return found is not None and (found.plan.artefact, found.status.value) == (artefact, "running")


@dataclasses.dataclass
class Rig:
    """One device that leads its cell of one, and what it is told."""

    cell: Fleet
    one: Member

    async def ask(self, command: bytes) -> None:
        await until(lambda: self.one.node.replica.state.version >= 3, "feature version 3")
        await self.one.node.propose(command)

    async def roll(
        self, data: bytes, number: int, *, by: Signatory | None = None, put: bool = True, **changes: Any
    ) -> Plan:
        if put:
            await self.one.node.artefacts.put(data)
        plan = plan_of(data, number, **changes)
        await self.ask(start_command(self.cell.made, plan, by=by))
        await self.ask(advance_command(plan, "d1"))
        return plan

    async def end(self, plan: Plan, state: str = "done", why: str = "", **changes: Any) -> None:
        signed = {"signed": False} if state == "done" else {}
        await self.ask(steer_command(self.cell.made, plan, state, why, **{**signed, **changes}))

    async def comes_to(self, state: str, rollout: Plan) -> Row:
        def look() -> Row | None:
            row = row_of(self.one)
            return row if row is not None and (row.state, row.rollout) == (state, rollout.rollout) else None

        found = await until(look, f"{state}, found {row_of(self.one)}")
        assert isinstance(found, Row)
        return found

    async def again(self) -> None:
        """The device ends with a word, and starts."""
        await self.one.end()
        self.one = self.cell.members["d1"] = member(self.cell.states["d1"])
        await converge_disk.look(self.one.supervisor.settings, self.one.log)
        await self.one.begin()


@asynccontextmanager
async def rigged(broker: Mosquitto, folder: Path) -> AsyncIterator[Rig]:
    async with fleet(broker, folder, 1) as cell:
        yield Rig(cell, await cell.leader())


@pytest.fixture
async def rig(broker: Mosquitto, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rigged(broker, tmp_path) as found:
        yield found


async def test_rollout_runs_is_watched_and_reported_and_survives_a_restart(rig: Rig, broker: Mosquitto) -> None:
    data = version(rig.one, 1)
    plan = await rig.roll(data, 1)
    await rig.comes_to("running", plan)
    await rig.comes_to("healthy", plan)
    assert runs(rig.one, data)
    async with Stranger(broker.url) as stranger:
        heard = await stranger.hears(rig.cell.topics.reported("d1"))
        await until(lambda: heard, "the retained report")
    await rig.again()
    await rig.comes_to("healthy", plan)
    assert runs(rig.one, data)  # it is the device's own: no leader was asked first
    assert not rig.one.node.hosted.is_of_cell("pump")


async def test_bad_version_goes_back_by_itself_and_is_not_tried_again(rig: Rig) -> None:
    """It traps at each row: its golden vectors pass, its breaker opens, and what ran before runs again."""
    good, bad = version(rig.one, 1, "bad"), rig.one.bad("trap", agent_version="1.0.2")
    good = rig.one.bad("nan", agent_version="1.0.1")
    await rig.one.supervisor.deploy([("by hand", good)])
    plan = await rig.roll(bad, 2, gate=Gate(healthy_s=60))
    await until(lambda: runs(rig.one, bad, "bad"), "on trial")
    for _ in range(6):
        try:
            await rig.one.supervisor.ask("bad", [0.9], 2.0)
        except EdgeSwarmError:
            pass

    def back() -> Row | None:
        row = row_of(rig.one, "bad")
        return row if row is not None and row.state == "failed" and runs(rig.one, good, "bad") else None

    row = await until(back, "what ran before")
    assert row.rollout == plan.rollout and ("calls failed" in row.why or "it is paused" in row.why)
    await rig.again()
    assert (await until(back, "it stays so")).why == row.why


async def test_golden_vectors_that_fail_keep_it_from_being_swapped_in(rig: Rig) -> None:
    good = version(rig.one, 1)
    await rig.roll(good, 1)
    await until(lambda: runs(rig.one, good), "the first")
    await rig.comes_to("healthy", plan_of(good, 1))
    await rig.end(plan_of(good, 1))
    seen: list[str] = []
    host = rig.one.supervisor.host
    assert host is not None

    async def fails(artefact: Any, _host: Any) -> None:
        seen.append(artefact.plan.artefact)
        raise KernelError("golden row 0 column 0: expected 1, found 2", who="pump")

    rig.one.supervisor.shelf.prepare = fails  # type: ignore[method-assign]
    plan = await rig.roll(version(rig.one, 2), 2)
    row = await rig.comes_to("failed", plan)
    assert "golden row 0" in row.why and len(seen) == 1 and runs(rig.one, good)


async def test_unknown_publisher_is_refused_and_nothing_is_touched(rig: Rig, tmp_path: Path) -> None:
    stranger, _ = keys.load_or_make(tmp_path / "stranger.key")
    plan = await rig.roll(version(rig.one, 1, key=stranger), 1)
    row = await rig.comes_to("failed", plan)
    assert "publisher" in row.why and "pump" not in rig.one.supervisor.node.table.agents


async def test_fault_of_ours_while_it_is_checked_is_told_and_tried_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is raised, a rollout does not hang in `fetching` without a word."""
    monkeypatch.setattr("edgeswarm.core.rollout.converge.ROLLOUT_RETRY_S", 0.1)
    prepare, broken = rig.one.supervisor.shelf.prepare, True

    async def fails(artefact: Any, host: Any) -> None:
        if broken:
            raise RuntimeError("a fault of ours")
        await prepare(artefact, host)

    monkeypatch.setattr(rig.one.supervisor.shelf, "prepare", fails)
    plan = await rig.roll(version(rig.one, 1), 1)
    row = await rig.comes_to("failed", plan)
    assert row.why == "a fault of ours" and rig.one.events("swarm_fault")
    broken = False
    await rig.comes_to("healthy", plan)


@pytest.mark.parametrize("signer", ["issuer", "device", "nobody"])
async def test_plan_that_no_operator_signed_is_refused(rig: Rig, signer: str) -> None:
    """Whoever leads the cell may write it into the log: devices do not take it."""
    made = rig.cell.made
    by = {"issuer": made.issuer, "device": made.device("d1"), "nobody": Signatory.from_seed(os.urandom(32))}[signer]
    plan = await rig.roll(version(rig.one, 1), 1, by=by)
    row = await rig.comes_to("refused", plan)
    assert "no key of this id" in row.why and "pump" not in rig.one.supervisor.node.table.agents


async def test_plan_of_another_rollout_is_refused(rig: Rig) -> None:
    """A leader that takes a true plan and writes another artefact beside it."""
    data, other = version(rig.one, 1), version(rig.one, 2)
    await rig.one.node.artefacts.put(other)
    plan = plan_of(data, 1)
    sealed = seal_plan(plan, fleet=rig.cell.made.fleet, cell=rig.cell.made.cell, by=rig.cell.made.operator)
    await rig.ask(cmd.encode(cmd.StartRollout(plan.rollout, "pump", plan_of(other, 1).digest, sealed, "d1")))
    await rig.ask(advance_command(plan, "d1"))
    row = await rig.comes_to("refused", plan)
    assert "expected rollout" in row.why and "pump" not in rig.one.supervisor.node.table.agents


async def test_downgrade_is_refused_unless_the_plan_allows(rig: Rig) -> None:
    await rig.one.supervisor.deploy([("by hand", version(rig.one, 5))])
    plan = await rig.roll(version(rig.one, 4), 1)
    row = await rig.comes_to("refused", plan)
    assert "1.0.4 is older than 1.0.5" in row.why
    await rig.end(plan, "aborted")
    again = await rig.roll(version(rig.one, 4), 2, allow_downgrade=True)
    await rig.comes_to("healthy", again)


async def test_plan_of_long_ago_is_not_obeyed_again(rig: Rig) -> None:
    """The cell has forgotten that rollout; who kept its plan is no operator, and cannot bring the old version back."""
    five = version(rig.one, 5)
    now = await rig.roll(five, 1)
    await rig.comes_to("healthy", now)
    await rig.end(now)
    old = await rig.roll(version(rig.one, 4), 2, allow_downgrade=True, created_s=now.created_s - 1)

    def refused() -> str:
        loop = rig.one.node.converge.loops.get("pump")
        return loop.wanted.refused.fault if loop is not None and loop.wanted.refused is not None else ""

    assert "older than the one before it" in await until(refused, "the old plan is refused")
    await rig.again()
    assert "older than the one before it" in await until(refused, "and after a restart")
    await until(lambda: runs(rig.one, five), "what ran before")
    await rig.end(old, "aborted")
    again = await rig.roll(version(rig.one, 4), 3, allow_downgrade=True)
    await rig.comes_to("healthy", again)


async def test_operators_roll_back_is_obeyed_and_an_unsigned_one_is_not(rig: Rig) -> None:
    first, second = version(rig.one, 1), version(rig.one, 2)
    one = await rig.roll(first, 1)
    await rig.comes_to("healthy", one)
    await rig.end(one)
    two = await rig.roll(second, 2)
    await rig.comes_to("healthy", two)
    await rig.end(two, "rolled_back", "the leader says so", signed=False)
    await until(lambda: rig.one.events("rollout_order_refused"), "refused")
    assert runs(rig.one, second) and row_of(rig.one).state == "healthy"  # type: ignore[union-attr]
    third = await rig.roll(version(rig.one, 3), 3)
    await rig.comes_to("healthy", third)
    await rig.end(third, "rolled_back", "too loud", by=rig.cell.made.issuer)
    await until(lambda: runs(rig.one, second), "what ran before")


async def test_agent_of_the_cell_and_of_a_rollout_cannot_have_one_name(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hosted, "is_of_cell", lambda _, name: name == "pump")
    plan = await rig.roll(version(rig.one, 1), 1)
    row = await rig.comes_to("refused", plan)
    assert "the cell has placed an agent of this name" in row.why
    assert "pump" not in rig.one.supervisor.node.table.agents


async def test_full_disk_is_reported_and_the_running_version_goes_on(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    first = version(rig.one, 1)
    await rig.comes_to("healthy", one := await rig.roll(first, 1))
    await rig.end(one)
    store = rig.one.node.artefacts.exchange.store
    full = True
    read = store.read

    async def reads(digest: bytes) -> bytes | None:
        if full and digest != one.digest:
            raise StoreError("artefacts: no space left on device")
        return await read(digest)

    monkeypatch.setattr(store, "read", reads)
    monkeypatch.setattr("edgeswarm.core.rollout.converge.ROLLOUT_RETRY_S", 0.1)
    monkeypatch.setattr("edgeswarm.core.rollout.converge.ROLLOUT_RETRY_S_MAX", 0.2)
    two = await rig.roll(version(rig.one, 2), 2)
    row = await rig.comes_to("failed", two)
    assert "no space left on device" in row.why and runs(rig.one, first)
    full = False
    await rig.comes_to("healthy", two)


async def test_journal_that_cannot_be_written_holds_everything(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not on disk is not begun."""
    save, full = converge_disk.save, True

    def saves(where: Path, journal: Any) -> None:
        if full:
            raise OSError(28, "No space left on device")
        save(where, journal)

    monkeypatch.setattr(converge_disk, "save", saves)
    monkeypatch.setattr("edgeswarm.app.swarm.converge_agent.LOOK_IDLE_S", 0.2)
    plan = await rig.roll(version(rig.one, 1), 1)
    await until(lambda: rig.one.events("journal_not_kept"), "told")
    assert "pump" not in rig.one.supervisor.node.table.agents
    full = False
    await rig.comes_to("healthy", plan)


async def test_goes_back_with_the_broker_gone(rig: Rig, broker: Mosquitto) -> None:
    good, bad = rig.one.bad("nan", agent_version="1.0.1"), rig.one.bad("trap", agent_version="1.0.2")
    await rig.one.supervisor.deploy([("by hand", good)])
    await rig.roll(bad, 2, gate=Gate(healthy_s=60))
    await until(lambda: runs(rig.one, bad, "bad"), "on trial")
    broker.kill()
    for _ in range(6):
        try:
            await rig.one.supervisor.ask("bad", [0.9], 2.0)
        except EdgeSwarmError:
            pass
    await until(lambda: runs(rig.one, good, "bad"), "what ran before")


async def test_damaged_journal_is_set_aside(rig: Rig) -> None:
    data = version(rig.one, 1)
    plan = await rig.roll(data, 1)
    await rig.comes_to("healthy", plan)
    where = rig.one.node.converge.folder / "pump.journal"
    await rig.one.end()
    where.write_bytes(where.read_bytes()[:-3])
    rig.one = rig.cell.members["d1"] = member(rig.cell.states["d1"])
    await rig.one.begin()
    await rig.comes_to("healthy", plan)
    assert rig.one.events("journal_refused") and where.with_suffix(".bad").exists() and runs(rig.one, data)


async def test_report_is_a_message_that_others_read(rig: Rig, broker: Mosquitto) -> None:
    plan = await rig.roll(version(rig.one, 1), 1)
    await rig.comes_to("healthy", plan)
    row = msg.RolloutRow("pump", plan.rollout, plan.digest, "healthy", "")
    data = msg.encode(msg.ReportedState(1, 2, rig.one.node.reports.agents(), (row,)))
    assert msg.decode(data) == msg.ReportedState(1, 2, rig.one.node.reports.agents(), (row,))
