"""Deploy and swap when things collide: two operators at once, versions that do not fit, disks that are full."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from supervised import Bench, header_tree, until

from edgeswarm.app import builder
from edgeswarm.app.control_loop import Refused
from edgeswarm.core.table import Status
from edgeswarm.drivers.store import Deployed, StoreError
from edgeswarm.errors import ConfigError, LocalError, RemoteError, TrapError
from edgeswarm.ids import AgentName

A, B, BAD = AgentName("a"), AgentName("b"), AgentName("bad")


def counting(bench: Bench, *, memory: int = 1, version: str = "1.0.0", **changes: Any) -> bytes:
    """An agent that counts: each of its `memory` outputs is the input plus all that it remembers."""
    import numpy as np

    from edgeswarm.model import from_arrays

    width = 1 + memory
    model = from_arrays([np.ones((width, width), np.float32)], [np.zeros(width, np.float32)])
    wiring = {"sources": [{"type": "api", "width": 1}]}
    tree = header_tree("a", width, width, memory={"width": memory}, wiring=wiring, agent_version=version, **changes)
    return builder.build(tree, model, key=bench.publisher)


async def count(bench: Bench) -> float:
    outcome = await bench.supervisor.ask("a", [1.0], 10.0)
    assert outcome is not None
    return outcome.output[0]


async def restarted(bench: Bench) -> None:
    await bench.supervisor.close()
    bench.supervisor = bench.make()
    await bench.supervisor.start()


async def test_two_deploys_of_one_name_at_once_leave_one_agent_that_works(bench: Bench) -> None:
    files = [bench.mlp(), bench.mlp(sizes=(4, 16, 2))]
    results = await asyncio.gather(*(bench.supervisor.deploy([("t", data)]) for data in files), return_exceptions=True)
    assert [type(result) for result in results] == [list, Refused]
    assert "under way" in str(results[1])
    assert await bench.supervisor.ask("a", [0.0] * 4, 5.0) is not None


async def test_two_swaps_at_once_leave_one_version_and_it_outlives_a_restart(bench: Bench) -> None:
    await bench.supervisor.deploy([("t", bench.mlp())])
    files = [bench.mlp(sizes=(4, 16, 2), agent_version="2.0.0"), bench.mlp(sizes=(4, 17, 2), agent_version="3.0.0")]
    swaps = (bench.supervisor.swap("a", "t", data) for data in files)
    results = await asyncio.gather(*swaps, return_exceptions=True)
    assert [type(result) for result in results] == [dict, Refused]
    await restarted(bench)
    assert bench.supervisor.flows.flows[A].version == "2.0.0"


async def test_swap_goes_on_while_the_old_jail_dies_and_comes_back(bench: Bench) -> None:
    """The restart announces `running`, which is no answer to the one who waits for the swap."""
    await bench.supervisor.deploy([("t", bench.mlp())])
    for number in range(2, 6):
        swap = asyncio.create_task(
            bench.supervisor.swap("a", "t", bench.mlp(sizes=(4, 8 + number, 2), agent_version=f"{number}.0.0"))
        )
        await asyncio.sleep(0.02 * number)
        for jail in list(bench.supervisor.jails.values()):
            os.kill(jail.pid, signal.SIGKILL)
        try:
            assert (await swap)["status"] == "swapped"
        except Refused as error:
            assert "swap_failed" in str(error)
        await until(lambda: bench.supervisor.node.table.agents[A].status is Status.RUNNING)
        assert await bench.supervisor.ask("a", [0.0] * 4, 5.0) is not None
        bench.supervisor.node.check()
        store = bench.supervisor.store
        assert store is not None
        artefact = bench.supervisor.node.table.agents[A].plan.artefact
        assert await store.agents() == [Deployed("a", artefact, "running")]


async def test_swap_whose_jail_dies_while_the_old_one_comes_to_rest_leaves_the_old_version(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.supervisor.deploy([("t", bench.mlp())])
    flow = bench.supervisor.flows.flows[A]
    drain = type(flow).drain

    async def slow(self: Any, timeout_s: float) -> bool:
        jail = bench.supervisor.jails[max(bench.supervisor.jails)]
        os.kill(jail.pid, signal.SIGKILL)
        await until(lambda: not jail.alive)
        await asyncio.sleep(0.05)  # its end is heard
        return await drain(self, timeout_s)

    monkeypatch.setattr(type(flow), "drain", slow)
    with pytest.raises(Refused, match="swap_failed"):
        await bench.supervisor.swap("a", "t", bench.mlp(sizes=(4, 9, 2), agent_version="2.0.0"))
    assert await bench.supervisor.ask("a", [0.0] * 4, 5.0) is not None
    assert flow.version == "1.0.0"


async def test_swap_under_load_to_another_window_loses_no_row(bench: Bench) -> None:
    """Windows of 1, 4 and 3 rows: rows that a window holds at the cut-over are windowed anew."""
    await bench.supervisor.deploy([("t", bench.mlp(wiring=windowed(1)))])
    flow, sent, stop = bench.supervisor.flows.flows[A], 0, False

    async def feed() -> None:
        nonlocal sent
        while not stop:
            await flow.offer(0, (0.1, 0.2, 0.3, 0.4), 0)
            sent += 1
            await asyncio.sleep(0.0005)

    feeding = asyncio.create_task(feed())
    for number, rows in enumerate((4, 3, 1), start=2):
        await asyncio.sleep(0.03)
        data = bench.mlp(sizes=(4 * rows, 8, 2), wiring=windowed(rows), agent_version=f"{number}.0.0")
        assert (await bench.supervisor.swap("a", "t", data))["status"] == "swapped"
    await asyncio.sleep(0.03)
    stop = True
    await feeding
    await until(lambda: flow.pipeline.idle and not bench.tally("a")["queued"])
    tally = bench.tally("a")
    assert tally["rows_in"] == tally["joined"] == sent
    assert tally["rows_answered"] + tally["held"] == sent
    assert (tally["lost"], tally["dropped"], tally["rows_set_aside"]) == (0, 0, 0)


def windowed(rows: int) -> dict[str, Any]:
    return {"sources": [{"type": "api", "width": 4}], "window": {"rows": rows, "hop": rows}}


async def test_version_whose_stream_does_not_fit_its_readers_is_refused(bench: Bench) -> None:
    down = {"sources": [{"type": "agent", "agent": "a"}]}
    await bench.supervisor.deploy([("t", bench.mlp()), ("t", bench.mlp("b", (2, 4, 2), wiring=down))])
    with pytest.raises(ConfigError, match="1 rows with 3 values makes frames of 3, but the kernel takes 2"):
        await bench.supervisor.swap("a", "t", bench.mlp(sizes=(4, 8, 3), agent_version="2.0.0"))
    assert await bench.supervisor.ask("a", [0.0] * 4, 5.0) is not None
    await until(lambda: bench.tally("b")["answered"] == 1)
    with pytest.raises(ConfigError, match="agent c: its source agent 'nobody' does not exist"):
        wiring = {"sources": [{"type": "agent", "agent": "nobody"}]}
        await bench.supervisor.deploy([("t", bench.mlp("c", (2, 4, 2), wiring=wiring))])


async def test_version_with_other_sources_is_refused_and_the_old_one_goes_on(bench: Bench) -> None:
    await bench.supervisor.deploy([("t", bench.mlp())])
    with pytest.raises(Refused, match="swap_failed: swap: rows of the last version: expected sources"):
        await bench.supervisor.swap("a", "t", bench.mlp(sizes=(5, 8, 2), agent_version="2.0.0"))
    assert await bench.supervisor.ask("a", [0.0] * 4, 5.0) is not None
    assert bench.supervisor.flows.flows[A].version == "1.0.0"
    assert len(list((bench.state / "agents").glob("a.*.af"))) == 1


async def test_agent_that_failed_is_mended_by_a_swap(bench: Bench) -> None:
    """The version that runs then is the new one in all its parts: kernel, header, and what the store knows."""
    supervision = {"restarts_max": 0, "backoff_ms": 10.0}
    await bench.supervisor.deploy([("t", bench.mlp(supervision=supervision))])
    [jail] = bench.supervisor.jails.values()
    os.kill(jail.pid, signal.SIGKILL)
    await until(lambda: bench.supervisor.status[A][0] == "failed")
    done = await bench.supervisor.swap("a", "t", bench.mlp(sizes=(6, 8, 2), agent_version="2.0.0"))
    assert done["status"] == "replaced" and bench.supervisor.status[A][0] == "failed"
    assert await bench.supervisor.start_agent("a") == "running"
    assert await bench.supervisor.ask("a", [0.0] * 6, 5.0) is not None
    await restarted(bench)
    assert await bench.supervisor.ask("a", [0.0] * 6, 5.0) is not None


async def test_swap_and_stop_at_the_same_time_leave_what_the_store_can_find_again(bench: Bench) -> None:
    """`stopped` is the answer to the stop, and none to the swap behind it in the queue."""
    await bench.supervisor.deploy([("t", bench.mlp())])
    version = bench.mlp(sizes=(4, 16, 2), agent_version="2.0.0")
    stopped, swapped = await asyncio.gather(
        bench.supervisor.stop("a"), bench.supervisor.swap("a", "t", version), return_exceptions=True
    )
    assert stopped == "stopped" and (isinstance(swapped, Refused) or swapped["status"] == "replaced")  # type: ignore[index]
    await restarted(bench)
    assert bench.supervisor.status[A][0] == "stopped" and not bench.events("agent_not_resumed")
    assert await bench.supervisor.start_agent("a") == "running"
    assert bench.supervisor.flows.flows[A].version == ("1.0.0" if isinstance(swapped, Refused) else "2.0.0")


async def test_swap_of_what_is_not_deployed_or_named_otherwise_leaves_nothing_behind(bench: Bench) -> None:
    with pytest.raises(Refused, match="agent a: no agent of that name is deployed"):
        await bench.supervisor.swap("a", "t", bench.mlp())
    await bench.supervisor.deploy([("t", bench.mlp())])
    with pytest.raises(RemoteError, match="expected a version of agent a, found agent b"):
        await bench.supervisor.swap("a", "t", bench.mlp("b"))
    with pytest.raises(Refused, match="is what runs already"):
        await bench.supervisor.swap("a", "t", bench.supervisor.shelf.current(A).data)
    assert len(list((bench.state / "agents").iterdir())) == 1
    await restarted(bench)
    assert await bench.supervisor.ask("a", [0.0] * 4, 5.0) is not None


async def test_memory_goes_along_with_a_swap_where_it_fits_and_starts_afresh_where_not(bench: Bench) -> None:
    await bench.supervisor.deploy([("t", counting(bench))])
    assert [await count(bench) for _ in range(3)] == [1.0, 2.0, 3.0]
    await bench.supervisor.swap("a", "t", counting(bench, version="2.0.0", description="the same widths"))
    assert await count(bench) == 4.0
    await bench.supervisor.swap("a", "t", counting(bench, version="3.0.0", memory=2))
    assert [await count(bench) for _ in range(3)] == [1.0, 3.0, 7.0]


async def test_agent_goes_on_from_the_checkpoint_that_is_there_when_it_starts(bench: Bench) -> None:
    """The jail has the memory of the checkpoint, not of what the agent did after it."""
    await bench.supervisor.deploy([("t", counting(bench))])
    assert [await count(bench) for _ in range(3)] == [1.0, 2.0, 3.0]
    await bench.supervisor.flows.checkpoint(A)
    path = bench.supervisor.shelf.checkpoint_path("a")
    kept = path.read_bytes()
    assert [await count(bench) for _ in range(2)] == [4.0, 5.0]
    await bench.supervisor.stop("a")
    path.write_bytes(kept)
    await bench.supervisor.start_agent("a")
    assert await count(bench) == 4.0


async def test_network_whose_first_agent_is_wrong_is_taken_back_with_its_readers(bench: Bench) -> None:
    wrong = builder.model_of(None, sizes=(4, 8, 2), activation="relu", output_activation="linear", seed=4)
    right = builder.model_of(None, sizes=(4, 8, 2), activation="relu", output_activation="linear", seed=0)
    bad = builder.build(header_tree("a", 4, 2, hidden=(8,)), right, key=bench.publisher, golden_of=wrong)
    reads_a, reads_b = ({"sources": [{"type": "agent", "agent": name}]} for name in "ab")
    readers = [("t", bench.mlp("c", (2, 4, 2), wiring=reads_b)), ("t", bench.mlp("b", (2, 4, 2), wiring=reads_a))]
    with pytest.raises(Refused, match="agent a: failed: a: golden row 0"):
        await bench.supervisor.deploy([*readers, ("t", bad), ("t", bench.mlp("d"))])
    assert list(bench.supervisor.node.table.agents) == ["d"]
    assert await bench.supervisor.ask("d", [0.0] * 4, 5.0) is not None
    assert await bench.supervisor.deploy([*readers, ("t", bench.mlp())])  # mended


async def test_agent_that_does_not_fit_the_device_leaves_its_name_and_the_graph_alone(bench: Bench) -> None:
    resources = {"requirements": {"minimum_cpu_cores": 64.0}, "limits": {"cpu_cores": 64.0}}
    with pytest.raises(Refused, match="agent a: cpu: needs 64 cores, free 2 of 2"):
        await bench.supervisor.deploy([("t", bench.mlp(resources=resources))])
    reads_a = {"sources": [{"type": "agent", "agent": "a"}]}
    with pytest.raises(ConfigError, match="its source agent 'a' does not exist"):
        await bench.supervisor.deploy([("t", bench.mlp("b", (2, 4, 2), wiring=reads_a))])
    assert await bench.supervisor.deploy([("t", bench.mlp())])


async def test_deploy_that_the_disk_does_not_take_is_taken_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(Refused, match="agent a: it cannot be kept in .*No space left"):
            await bench.supervisor.deploy([("t", bench.mlp())])
    assert not bench.supervisor.node.table.agents and not bench.supervisor.jails
    assert await bench.supervisor.deploy([("t", bench.mlp())])


async def test_agents_go_on_when_the_store_cannot_be_written(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Swap, set aside and remove are done; what could not be written is logged."""
    await bench.supervisor.deploy([("t", bench.bad("trap")), ("t", bench.mlp())])
    store = bench.supervisor.store
    assert store is not None

    async def full(*_: object) -> None:
        raise StoreError("database or disk is full")

    for name in ("put_agent", "set_aside", "remove_agent"):
        monkeypatch.setattr(store, name, full)
    assert (await bench.supervisor.swap("a", "t", bench.mlp(agent_version="2.0.0")))["status"] == "swapped"
    with pytest.raises(TrapError):
        await bench.supervisor.ask("bad", [1.0], 5.0)
    assert await bench.supervisor.remove("bad") == "removed"
    await until(lambda: len(bench.events("store_failed")) == 3)
    assert await bench.supervisor.ask("a", [0.0] * 4, 5.0) is not None


async def test_one_state_directory_has_one_supervisor(bench: Bench) -> None:
    with pytest.raises(LocalError, match=f"state directory {bench.state}: another supervisor uses it"):
        await bench.make().start()


async def test_what_is_asked_of_a_closed_supervisor_is_refused_and_nobody_waits_for_ever(bench: Bench) -> None:
    asked = asyncio.create_task(bench.supervisor.deploy([("t", bench.mlp())]))
    await asyncio.sleep(0)
    await bench.supervisor.close()
    with pytest.raises(Refused):
        await asked
    with pytest.raises(Refused, match="agent b: the supervisor was stopped"):
        await bench.supervisor.deploy([("t", bench.mlp("b"))])
