"""What the op `upgrade` refuses, with everything going on; how a supervisor comes to rest; and a whole one unpacked."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2
import pytest
from supervised import Bench, until

from edgeswarm.app import handover_pack
from edgeswarm.app import upgrade as up
from edgeswarm.app.control_loop import Refused
from edgeswarm.app.control_ops import ControlOps
from edgeswarm.app.handover_pack import Departure
from edgeswarm.drivers.handover import Packer
from edgeswarm.drivers.notify import Notifier
from edgeswarm.errors import EdgeSwarmError, HandingOverError, LimitError, LocalError, RemoteError


@pytest.fixture
def ops(bench: Bench) -> ControlOps:
    found = ControlOps(bench.supervisor, lambda: None)
    up.Upgrade(
        bench.supervisor,
        found,
        arguments=["run", "--state", str(bench.state)],
        ended=asyncio.Event(),
        swarm=None,  # type: ignore[arg-type]  # nobody gets so far
        control=None,  # type: ignore[arg-type]
        notifier=Notifier(),
    )
    return found


def says(text: str, code: int = 0) -> list[str]:
    return [sys.executable, "-c", f"import sys; print({text!r}); sys.exit({code})"]


@pytest.mark.parametrize(
    ("args", "error", "text"),
    [
        ({}, RemoteError, "program: missing"),
        ({"program": "edgeswarm"}, RemoteError, "program: expected list"),
        ({"program": []}, RemoteError, "expected 1 to 64"),
        ({"program": ["/bin/true"] * 65}, RemoteError, "expected 1 to 64"),
        ({"program": ["/bin/true", 7]}, RemoteError, "expected words"),
        ({"program": ["/bin/true", "a\0b"]}, RemoteError, "expected words"),
        ({"program": ["/bin/true", "x" * 5000]}, RemoteError, "expected words"),
        ({"program": ["edgeswarm"]}, LocalError, "absolute path of an executable"),
        ({"program": ["/there/is/none"]}, LocalError, "absolute path of an executable"),
        ({"program": ["/etc/passwd"]}, LocalError, "absolute path of an executable"),
        ({"program": ["/bin/true"], "start_s": 0.0}, RemoteError, "start_s: expected 0.1 to 3600"),
        ({"program": ["/bin/true"], "healthy_s": 1e9}, RemoteError, "healthy_s: expected 0.1 to 3600"),
        ({"program": ["/bin/true"], "healthy_s": float("nan")}, RemoteError, "healthy_s: expected a number"),
        ({"program": ["/bin/true"]}, RemoteError, "did not say which hand-overs it reads"),
        ({"program": ["/bin/false"]}, RemoteError, "ended with exit code 1"),
        ({"program": says('{"version": 1}')}, RemoteError, "did not say"),
        ({"program": says("[]")}, RemoteError, "did not say"),
        ({"program": says('{"version": "2", "formats": [2, 3]}')}, RemoteError, "format [2, 3], ours is 1"),
        ({"program": says('{"version": "2", "formats": [1]}', 4)}, RemoteError, "exit code 4"),
    ],
)
async def test_program_that_cannot_take_over_is_refused_and_nothing_changes(
    bench: Bench, ops: ControlOps, args: dict[str, Any], error: type[EdgeSwarmError], text: str
) -> None:
    with pytest.raises(error) as found:
        await ops.answer("upgrade", args)  # type: ignore[misc]
    assert text in str(found.value)
    assert not bench.supervisor.leaving
    assert (await ops.answer("upgrade_status", {}))["state"] == "none"  # type: ignore[misc]
    await bench.supervisor.deploy([("a", bench.mlp())])


async def test_self_check_that_does_not_end_is_refused(ops: ControlOps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up, "UPGRADE_CHECK_S", 0.2)
    with pytest.raises(LimitError, match="no self-check within 0.2 s"):
        await ops.answer("upgrade", {"program": [sys.executable, "-c", "import time; time.sleep(60)"]})  # type: ignore[misc]


def busy_deploying(bench: Bench) -> Callable[[], None]:
    bench.supervisor._claimed.add("a")  # type: ignore[arg-type]
    return lambda: bench.supervisor._claimed.discard("a")  # type: ignore[arg-type]


def busy_swapping(bench: Bench) -> Callable[[], None]:
    agent = bench.supervisor.node.table.agents["a"]  # type: ignore[index]
    agent.pending = agent.plan
    return lambda: setattr(agent, "pending", None)


def busy_with_memory(bench: Bench) -> Callable[[], None]:
    [jail] = bench.supervisor.jails.values()
    jail._own[1] = asyncio.get_running_loop().create_future()
    return jail._own.clear


def file_gone(bench: Bench) -> Callable[[], None]:
    [path] = (bench.state / "agents").glob("a.*.af")
    data = path.read_bytes()
    path.unlink()
    return lambda: path.write_bytes(data) and None  # type: ignore[func-returns-value]


@pytest.mark.parametrize(
    ("busy", "text"),
    [
        (busy_deploying, "agent a is being deployed or swapped; try again"),
        (busy_swapping, "agent a is being swapped; try again"),
        (busy_with_memory, "is taking weights or memory; try again"),
        (file_gone, "agent a: its file is not in"),
    ],
)
async def test_supervisor_that_does_not_come_to_rest_stays_and_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, busy: Callable[[Bench], Callable[[], None]], text: str
) -> None:
    monkeypatch.setattr(handover_pack, "UPGRADE_REST_S", 0.05)
    sup = bench.supervisor
    await sup.deploy([("a", bench.mlp())])
    again = busy(bench)
    with pytest.raises(Refused) as found:
        await Departure(sup).rest()
    assert text in str(found.value)
    again()
    assert not sup.leaving
    assert await sup.ask("a", [1.0, 2.0, 3.0, 4.0], 5.0) is not None
    await Departure(sup).rest()
    sup.leaving = ""


async def test_nothing_new_begins_while_it_rests_and_who_asks_is_told_to_ask_again(bench: Bench) -> None:
    sup = bench.supervisor
    await sup.deploy([("a", bench.mlp())])
    departure = Departure(sup)
    await departure.rest()
    for refused in (
        sup.ask("a", [1.0, 2.0, 3.0, 4.0], 5.0),
        sup.deploy([("b", bench.mlp("b"))]),
        sup.stop("a"),
        sup.remove("a"),
        sup.swap_weights("a", b""),
    ):
        with pytest.raises(HandingOverError, match="ask again in a moment"):
            await refused
    departure.stay()
    assert await sup.ask("a", [1.0, 2.0, 3.0, 4.0], 5.0) is not None


async def test_row_that_is_not_answered_in_time_is_told_and_counts_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover_pack, "UPGRADE_ASKS_S", 0.05)
    sup = bench.supervisor
    await sup.deploy([("a", bench.mlp())])
    flow = sup.flows.flows["a"]  # type: ignore[index]
    flow.pause()
    asking = asyncio.create_task(sup.ask("a", [1.0, 2.0, 3.0, 4.0], 5.0))
    await until(lambda: flow._asked)
    departure = Departure(sup)
    await departure.rest()
    departure._tell_who_asks()
    with pytest.raises(HandingOverError, match="agent a: the supervisor is handing over"):
        await asking
    departure.stay()
    flow.resume()
    await until(lambda: flow.pipeline.counters.answered == 1)  # it had been taken


async def test_state_of_a_supervisor_is_cbor_and_names_every_descriptor_it_needs(bench: Bench) -> None:
    sup = bench.supervisor
    await sup.deploy([("a", bench.mlp()), ("b", bench.mlp("b"))])
    departure = Departure(sup)
    await departure.rest()
    packer = Packer()
    state = cbor2.loads(cbor2.dumps(departure.pack(packer)))
    departure.stay()
    assert {name for name, _ in state["node"]["agents"]} == {"a", "b"}
    assert sup.host is not None and sup.store is not None
    assert packer.children == [sup.host.zygote_pid]
    jails = len(sup.jails)
    assert len(packer.fds) == 1 + 6 * jails + 1  # the zygote's, six of each jail, the lock
    assert all(Path(f"/proc/self/fd/{fd}").exists() for fd in packer.fds)
