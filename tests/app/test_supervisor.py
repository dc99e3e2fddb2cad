"""One device end to end: agents run in real jails, are killed, swapped, stopped, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest
from supervised import Bench, header_tree, until

from edgeswarm.app.control_loop import Refused
from edgeswarm.drivers import keys
from edgeswarm.errors import ConfigError, InputError, LocalError, SignatureError, TrapError
from edgeswarm.ids import AgentName

A = AgentName("a")


async def test_agent_answers_what_its_reference_says(bench: Bench) -> None:
    import numpy as np

    from edgeswarm.model import random_mlp, reference

    assert await bench.supervisor.deploy([("t", bench.mlp())])
    row = [0.1, -0.2, 0.3, 0.4]
    outcome = await bench.supervisor.ask("a", row, 5.0)
    expected = reference.forward(random_mlp((4, 8, 2), "relu", "linear", 0), np.array([row], np.float32))[0]
    assert outcome is not None
    assert np.allclose(outcome.output, expected, rtol=1e-5, atol=1e-6)


async def test_supervisor_imports_neither_wasmtime_nor_numpy(bench: Bench) -> None:
    """What loads compiled code is only ever a jail."""
    code = (
        "import sys, edgeswarm.app.daemon, edgeswarm.app.cli.root;"
        "print([m for m in ('wasmtime', 'numpy', 'cryptography') if m in sys.modules])"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert out.decode().strip() == "[]"


async def test_killed_jail_comes_back_and_every_frame_is_answered(bench: Bench) -> None:
    await bench.supervisor.deploy([("t", bench.mlp())])
    flow = bench.supervisor.flows.flows[A]
    for i in range(200):
        await flow.offer(0, (float(i), 0.0, 0.0, 0.0), 0)
        if i == 100:
            [jail] = bench.supervisor.jails.values()
            os.kill(jail.pid, signal.SIGKILL)
    await until(lambda: bench.tally("a")["answered"] == 200)
    tally = bench.tally("a")
    assert (tally["lost"], tally["rows_set_aside"], tally["dropped"]) == (0, 0, 0)
    assert bench.supervisor.node.table.agents[A].restarts_total == 1


async def test_agents_of_one_publisher_share_a_jail_unless_they_ask_for_their_own(bench: Bench) -> None:
    supervision = {"network": "n"}
    files = [("t", bench.mlp(n, supervision=supervision)) for n in ("a", "b")]
    files.append(("t", bench.mlp("c", supervision=supervision, isolation="own-jail")))
    await bench.supervisor.deploy(files)
    seats = {name: agent.jail for name, agent in bench.supervisor.node.table.agents.items()}
    assert seats[AgentName("a")] == seats[AgentName("b")] != seats[AgentName("c")]


@pytest.mark.parametrize("kind", ["trap", "loop", "nan"])
async def test_bad_kernel_faults_alone_and_its_neighbour_goes_on(bench: Bench, kind: str) -> None:
    """Both sit in one jail; the bad call is set aside with its bytes, the next one is answered."""
    supervision = {"network": "n"}
    bad = bench.bad(kind, supervision=supervision, kernel={"deadline_ms": 50})
    await bench.supervisor.deploy([("t", bad), ("t", bench.mlp(supervision=supervision))])
    assert len(bench.supervisor.jails) == 1
    with pytest.raises(TrapError, match="agent bad: frame 1"):
        await bench.supervisor.ask("bad", [1.0], 10.0)
    good = await bench.supervisor.ask("bad", [0.25], 5.0)
    assert good is not None and good.output == (0.25,)
    assert await bench.supervisor.ask("a", [0.0] * 4, 5.0) is not None
    assert bench.supervisor.node.table.agents[A].restarts_total == 0
    store = bench.supervisor.store
    assert store is not None
    [(seq, why, frame)] = await store.frames_set_aside("bad")
    assert seq == 1 and frame == b"\0\0\x80?" and why


async def test_five_faults_open_the_breaker_and_a_probe_closes_it(bench: Bench) -> None:
    await bench.supervisor.deploy([("t", bench.bad("trap"))])
    for _ in range(5):
        with pytest.raises(TrapError):
            await bench.supervisor.ask("bad", [1.0], 5.0)
    await until(lambda: bench.supervisor.status[AgentName("bad")][0] == "paused")
    flow = bench.supervisor.flows.flows[AgentName("bad")]
    await flow.offer(0, (0.5,), 0)  # waits: no frame passes an open breaker but the probe
    assert not flow.pipeline.flight.in_flight
    await until(lambda: bench.supervisor.status[AgentName("bad")][0] == "running")
    assert bench.tally("bad")["answered"] == 1


async def test_swap_goes_over_to_the_new_version_with_no_sample_lost(bench: Bench) -> None:
    await bench.supervisor.deploy([("t", bench.mlp())])
    flow, sent, stop = bench.supervisor.flows.flows[A], 0, False

    async def feed() -> None:
        nonlocal sent
        while not stop:
            await flow.offer(0, (0.1, 0.2, 0.3, 0.4), 0)
            sent += 1
            await asyncio.sleep(0.0005)

    feeding = asyncio.create_task(feed())
    await asyncio.sleep(0.05)
    done = await bench.supervisor.swap("a", "t", bench.mlp(sizes=(4, 16, 2), agent_version="2.0.0"))
    await asyncio.sleep(0.05)
    stop = True
    await feeding
    assert done["status"] == "swapped" and flow.version == "2.0.0"
    await until(lambda: bench.tally("a")["answered"] == sent)
    assert len(bench.supervisor.jails) == 1


async def test_swap_to_a_kernel_that_fails_its_golden_vectors_keeps_the_old_version(bench: Bench) -> None:
    await bench.supervisor.deploy([("t", bench.mlp())])
    from edgeswarm.app import builder

    other = builder.model_of(None, sizes=(4, 9, 2), activation="relu", output_activation="linear", seed=3)
    wrong = builder.model_of(None, sizes=(4, 9, 2), activation="relu", output_activation="linear", seed=4)

    data = builder.build(
        header_tree("a", 4, 2, hidden=(9,), agent_version="2.0.0"), other, key=bench.publisher, golden_of=wrong
    )
    with pytest.raises(Refused, match="golden row 0 column 0: expected .*, found"):
        await bench.supervisor.swap("a", "t", data)
    assert bench.supervisor.flows.flows[A].version == "1.0.0"
    assert await bench.supervisor.ask("a", [0.0] * 4, 5.0) is not None


async def test_weights_alone_are_swapped_in_the_running_jail(bench: Bench) -> None:
    await bench.supervisor.deploy([("t", bench.mlp())])
    [jail] = bench.supervisor.jails.values()
    size = bench.supervisor.shelf.current(A).layout.weights.size
    await bench.supervisor.swap_weights("a", bytes(size))
    outcome = await bench.supervisor.ask("a", [1.0, 2.0, 3.0, 4.0], 5.0)
    assert outcome is not None and outcome.output == (0.0, 0.0)
    assert [jail] == list(bench.supervisor.jails.values())
    os.kill(jail.pid, signal.SIGKILL)  # and they are what its successor starts with
    await until(lambda: bench.supervisor.node.table.agents[A].restarts_total == 1)
    outcome = await bench.supervisor.ask("a", [1.0, 2.0, 3.0, 4.0], 5.0)
    assert outcome is not None and outcome.output == (0.0, 0.0)
    with pytest.raises(InputError, match=f"expected {size} bytes, found 3"):
        await bench.supervisor.swap_weights("a", b"abc")


async def test_one_agents_stream_feeds_another_and_a_cycle_is_refused_with_its_path(bench: Bench) -> None:
    down = {"sources": [{"type": "agent", "agent": "a"}]}
    await bench.supervisor.deploy([("t", bench.mlp()), ("t", bench.mlp("b", (2, 4, 2), wiring=down))])
    for _ in range(50):
        await bench.supervisor.ask("a", [0.1, 0.2, 0.3, 0.4], 5.0)
    await until(lambda: bench.tally("b")["answered"] == 50)
    up = {"sources": [{"type": "agent", "agent": "b"}]}
    with pytest.raises(ConfigError, match="a -> b -> a|b -> a -> b"):
        await bench.supervisor.swap("a", "t", bench.mlp("a", (2, 4, 2), wiring=up))


async def test_block_policy_holds_the_writer_back_and_drops_nothing(bench: Bench) -> None:
    """The reader's queue has two rows and its jail is dead: the writer stops, and goes on when it is back."""
    down = {"sources": [{"type": "agent", "agent": "a", "queue": {"policy": "block", "rows": 2}}]}
    await bench.supervisor.deploy(
        [("t", bench.mlp()), ("t", bench.mlp("b", (2, 4, 2), wiring=down, isolation="own-jail"))]
    )
    flow = bench.supervisor.flows.flows[A]
    bench.supervisor.flows.pause(AgentName("b"))

    async def feed() -> None:
        for _ in range(600):
            await flow.offer(0, (0.1, 0.2, 0.3, 0.4), 0)

    feeding = asyncio.create_task(feed())
    await asyncio.sleep(0.2)
    assert not feeding.done() and bench.tally("b")["queued"] == 2
    bench.supervisor.flows.resume(AgentName("b"))
    await feeding
    await until(lambda: bench.tally("b")["answered"] == 600)
    assert bench.tally("b")["dropped"] == 0


async def test_unknown_publisher_is_refused_by_name_and_with_the_cure(bench: Bench) -> None:
    stranger, _ = keys.load_or_make(bench.state / "stranger.key")
    with pytest.raises(SignatureError, match=rf"{stranger.id}.*trust\.d"):
        await bench.supervisor.deploy([("t", bench.mlp(key=stranger))])
    assert not bench.supervisor.node.table.agents


async def test_second_agent_of_one_name_and_more_than_the_device_has_are_refused(bench: Bench) -> None:
    await bench.supervisor.deploy([("t", bench.mlp())])
    with pytest.raises(Refused, match="second agent of that name"):
        await bench.supervisor.deploy([("t", bench.mlp())])
    huge = {
        "requirements": {"minimum_memory_mb": 500, "minimum_cpu_cores": 64.0},
        "limits": {"memory_mb": 500, "cpu_cores": 64.0},
    }
    with pytest.raises(Refused, match="needs 64 cores"):
        await bench.supervisor.deploy([("t", bench.mlp("b", resources=huge))])
    assert await bench.supervisor.ask("a", [0.0] * 4, 5.0) is not None


async def test_input_of_wrong_width_type_or_nan_is_an_error_and_counted(bench: Bench) -> None:
    await bench.supervisor.deploy([("t", bench.mlp())])
    for row in ([1.0], [1.0] * 5, [float("nan")] * 4, [float("inf")] * 4, ["x"] * 4):
        with pytest.raises(InputError, match="agent a: expected 4 finite"):
            await bench.supervisor.ask("a", row, 5.0)  # type: ignore[arg-type]
    assert sum(bench.tally("a")["malformed"].values()) == 5
    assert await bench.supervisor.ask("a", [0.0] * 4, 5.0) is not None


async def test_stopped_agent_starts_again_and_a_removed_one_leaves_nothing(bench: Bench) -> None:
    await bench.supervisor.deploy([("t", bench.mlp())])
    assert await bench.supervisor.stop("a") == "stopped"
    assert not bench.supervisor.jails
    with pytest.raises(LocalError):
        await bench.supervisor.stop("a")
    assert await bench.supervisor.start_agent("a") == "running"
    assert await bench.supervisor.ask("a", [0.0] * 4, 5.0) is not None
    assert await bench.supervisor.remove("a") == "removed"
    assert not list((bench.state / "agents").iterdir())


async def test_agent_memory_survives_the_death_of_its_jail_and_a_restart(bench: Bench) -> None:
    """Output 1 is fed back as input 1: the kernel is the identity plus its memory, so that it counts."""
    import numpy as np

    from edgeswarm.app import builder
    from edgeswarm.model import from_arrays

    weights = np.array([[1.0, 1.0], [1.0, 1.0]], np.float32)  # both outputs = input + memory
    model = from_arrays([weights], [np.zeros(2, np.float32)])

    tree = header_tree("a", 2, 2, memory={"width": 1}, wiring={"sources": [{"type": "api", "width": 1}]})
    await bench.supervisor.deploy([("t", builder.build(tree, model, key=bench.publisher))])

    async def add_one() -> float:
        outcome = await bench.supervisor.ask("a", [1.0], 10.0)
        assert outcome is not None
        return outcome.output[0]

    assert [await add_one() for _ in range(3)] == [1.0, 2.0, 3.0]
    [jail] = bench.supervisor.jails.values()
    os.kill(jail.pid, signal.SIGKILL)
    await until(lambda: bench.supervisor.node.table.agents[A].restarts_total == 1)
    assert await add_one() == 4.0
    await bench.supervisor.close()
    bench.supervisor = bench.make()
    await bench.supervisor.start()
    assert await add_one() == 5.0


async def test_replay_of_a_file_goes_on_where_a_restart_stopped_it(bench: Bench) -> None:
    """500 rows, the supervisor restarted in the middle: every row is answered exactly once."""
    path = bench.state / "rows.csv"
    path.write_text("x\n" + "".join(f"{i}\n" for i in range(500)))
    wiring = {
        "sources": [
            {"type": "csv", "path": str(path), "columns": ["x"], "rate_hz": 2000.0, "queue": {"policy": "block"}}
        ],
        "sinks": [{"type": "jsonl", "path": str(bench.state / "out.jsonl")}],
    }
    capabilities = ["file_source", "file_sink"]
    await bench.supervisor.deploy([("t", bench.mlp("a", (1, 4, 1), wiring=wiring, capabilities=capabilities))])
    await until(lambda: bench.tally("a")["answered"] > 100)
    await bench.supervisor.close()
    bench.supervisor = bench.make()
    await bench.supervisor.start()
    lines = lambda: (bench.state / "out.jsonl").read_text().splitlines()  # noqa: E731
    await until(lambda: len(lines()) >= 500)
    assert len(lines()) == 500


async def test_stopped_agent_is_still_stopped_after_a_restart_of_the_supervisor(bench: Bench) -> None:
    await bench.supervisor.deploy([("t", bench.mlp()), ("t", bench.mlp("b"))])
    await bench.supervisor.stop("a")
    await bench.supervisor.close()
    bench.supervisor = bench.make()
    await bench.supervisor.start()
    assert {n: s for n, (s, _) in bench.supervisor.status.items()} == {"a": "stopped", "b": "running"}
    assert await bench.supervisor.start_agent("a") == "running"


async def test_damaged_checkpoint_is_set_aside_and_the_agent_starts_afresh(bench: Bench) -> None:
    await bench.supervisor.deploy([("t", bench.mlp())])
    await bench.supervisor.stop("a")
    path = bench.supervisor.shelf.checkpoint_path("a")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert await bench.supervisor.start_agent("a") == "running"
    assert bench.events("checkpoint_refused") and path.with_name("a.checkpoint.bad").exists()


async def test_agent_that_others_read_is_not_removed_under_them(bench: Bench) -> None:
    down = {"sources": [{"type": "agent", "agent": "a"}]}
    await bench.supervisor.deploy([("t", bench.mlp()), ("t", bench.mlp("b", (2, 4, 2), wiring=down))])
    with pytest.raises(LocalError, match="b reads its stream"):
        await bench.supervisor.remove("a")
    assert await bench.supervisor.remove("b") == "removed"
    assert await bench.supervisor.remove("a") == "removed"


async def test_swap_of_a_stopped_agent_is_what_its_next_start_runs(bench: Bench) -> None:
    await bench.supervisor.deploy([("t", bench.mlp())])
    await bench.supervisor.stop("a")
    await bench.supervisor.swap("a", "t", bench.mlp(sizes=(4, 16, 2), agent_version="2.0.0"))
    assert await bench.supervisor.start_agent("a") == "running"
    assert bench.supervisor.flows.flows[A].version == "2.0.0"
    assert await bench.supervisor.ask("a", [0.0] * 4, 5.0) is not None


async def test_agent_stopped_while_its_jail_starts_leaves_no_jail(bench: Bench) -> None:
    await bench.supervisor.deploy([("t", bench.mlp())])
    host = bench.supervisor.host
    assert host is not None
    for _ in range(5):
        [jail] = bench.supervisor.jails.values()
        os.kill(jail.pid, signal.SIGKILL)
        await until(lambda: bench.supervisor.node.table.agents[A].status.value in ("backing_off", "starting"))
        await asyncio.sleep(0.052)
        await bench.supervisor.stop("a")
        await until(lambda: not host.jails)
        await bench.supervisor.start_agent("a")


async def test_agent_that_fails_its_golden_vectors_can_be_deployed_again_once_mended(bench: Bench) -> None:
    from edgeswarm.app import builder

    wrong = builder.model_of(None, sizes=(4, 8, 2), activation="relu", output_activation="linear", seed=4)
    right = builder.model_of(None, sizes=(4, 8, 2), activation="relu", output_activation="linear", seed=0)
    data = builder.build(header_tree("a", 4, 2, hidden=(8,)), right, key=bench.publisher, golden_of=wrong)
    with pytest.raises(Refused, match="golden row"):
        await bench.supervisor.deploy([("t", data)])
    assert await bench.supervisor.deploy([("t", bench.mlp())])


async def test_standard_input_has_one_reader(bench: Bench) -> None:
    wiring = {"sources": [{"type": "jsonl", "fields": ["a", "b", "c", "d"]}]}
    with pytest.raises(ConfigError, match="one reader, found agents a, b"):
        await bench.supervisor.deploy([("t", bench.mlp(wiring=wiring)), ("t", bench.mlp("b", wiring=wiring))])
