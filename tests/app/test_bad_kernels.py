"""Kernels that loop, trap, grow, write over themselves, and frames that kill: each alone, the neighbours go on."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
from typing import Any

import pytest
from supervised import Bench, header_tree, until

from edgeswarm import agentfile
from edgeswarm.agentfile.file import Section
from edgeswarm.app.control_loop import Refused
from edgeswarm.compile import Layout, Rows, Weights, attach_layout
from edgeswarm.errors import JailGoneError, KernelError, TrapError
from edgeswarm.ids import AgentName
from edgeswarm.schema import decode

A, BAD = AgentName("a"), AgentName("bad")
PAGES_AT_ONCE = 16


def hand_made(bench: Bench, body: str, name: str = "bad", *, pages: str = "1 64", **changes: Any) -> bytes:
    """An agent of one input, one output, one weight; `body` is its `run` in WebAssembly text."""
    import wasmtime

    text = f"""(module (memory (export "memory") {pages})
      (func (export "run") {body}) (func (export "run_batch") (param i32) {body}))"""
    layout = Layout(
        batch_max=1,
        deterministic=True,
        input=Rows(0, 64, 1),
        output=Rows(64, 64, 1),
        weights=Weights(128, 4, (1,)),
        memory_bytes=65536 * int(pages.split(maxsplit=1)[0]),
        topology="0" * 64,
    )
    header = decode(header_tree(name, 1, 1, **changes), agentfile.Header)
    sections = {
        "neural_weights": Section(struct.pack("<f", 2.0), "f32", (1,)),
        "wasm_kernel": Section(attach_layout(bytes(wasmtime.wat2wasm(text)), layout)),
    }
    return agentfile.build(header, sections, publisher_key=bench.publisher.seed)


IF_BAD = "(if (f32.gt (f32.load (i32.const 0)) (f32.const 0.5)) (then {bad}))"
TIMES = "(f32.store (i32.const 64) (f32.mul (f32.load (i32.const 0)) (f32.load (i32.const 128))))"
GROWING = IF_BAD.format(
    bad=f"(loop $l (br_if $l (i32.ne (memory.grow (i32.const {PAGES_AT_ONCE})) (i32.const -1)))) unreachable"
)
SCRIBBLING = IF_BAD.format(bad="(f32.store (i32.const 128) (f32.const -1)) unreachable")
LOOPING = IF_BAD.format(bad="(loop $l (br $l))")


def jail_of(bench: Bench, name: AgentName) -> Any:
    number = bench.supervisor.node.table.agents[name].jail
    return bench.supervisor.jails.get(number) if number is not None else None


def is_inside(bench: Bench, name: AgentName) -> bool:
    """The jail's own word that a call of this agent runs: whoever kills it now kills it over that frame."""
    jail, flow = jail_of(bench, name), bench.supervisor.flows.flows[name]
    return jail is not None and flow.port is jail and jail._running_slot() == flow.slot


async def answers(bench: Bench, name: str, value: float) -> float:
    outcome = await bench.supervisor.ask(name, [value], 10.0)
    assert outcome is not None
    return outcome.output[0]


async def test_kernel_that_grows_gets_its_limit_and_no_more(bench: Bench) -> None:
    """16 MB: a growth past it fails, and what the kernel does then is its own fault; its jail and neighbour live on."""
    together = {"supervision": {"network": "n"}}
    resources = {"limits": {"memory_mb": 16}}
    growing = hand_made(bench, GROWING + TIMES, pages="1 4096", resources=resources, **together)
    await bench.supervisor.deploy([("t", growing), ("t", bench.mlp(**together))])
    jail = jail_of(bench, BAD)
    before = jail.memory_bytes()
    for _ in range(3):
        with pytest.raises(TrapError, match=r"agent bad: frame \d: the kernel trapped"):
            await bench.supervisor.ask("bad", [1.0], 10.0)
        assert jail.memory_bytes() - before < 20 << 20
    assert await answers(bench, "bad", 0.25) == 0.5
    assert await bench.supervisor.ask("a", [0.0] * 4, 5.0) is not None
    assert jail_of(bench, A) is jail


async def test_kernel_that_needs_more_than_its_limit_is_refused_before_it_runs(bench: Bench) -> None:
    resources = {"limits": {"memory_mb": 1}}
    with pytest.raises(
        KernelError, match="x.af: kernel memory: resources.limits.memory_mb allows 1048576, found 2097152"
    ):
        await bench.supervisor.deploy([("x.af", hand_made(bench, TIMES, pages="32", resources=resources))])


async def test_kernel_that_needs_more_than_its_class_allows_is_refused_before_it_runs(bench: Bench) -> None:
    strict = bench.make(**{"classes.agent.memory_mb": 1})
    file = hand_made(bench, TIMES, pages="32", resources={"limits": {"memory_mb": 8}})
    with pytest.raises(KernelError, match="x.af: kernel memory: class agent allows 1048576, found 2097152"):
        strict.shelf.admit(file, who="x.af")


async def test_kernel_that_writes_over_its_weights_gets_a_new_jail_and_no_frame_pays_for_it(bench: Bench) -> None:
    """Its jail cannot mend it: the frame that did it is set aside, those behind it are answered in the next jail."""
    together = {"supervision": {"network": "n", "backoff_ms": 10.0}}
    files = [hand_made(bench, SCRIBBLING + TIMES, **together), bench.mlp(**together)]
    await bench.supervisor.deploy([("t", data) for data in files])
    values = [0.25, 0.5, 1.0, *[0.125] * 40]
    asked = [bench.supervisor.ask("bad", [value], 10.0) for value in values]
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(found[2], TrapError)
    assert [outcome.output[0] for outcome in found if not isinstance(outcome, BaseException) and outcome] == [
        value * 2 for value in values if value <= 0.5
    ]
    assert bench.tally("bad")["rows_set_aside"] == 1
    assert bench.supervisor.node.table.agents[BAD].restarts_total == 1
    assert await bench.supervisor.ask("a", [0.0] * 4, 5.0) is not None
    assert jail_of(bench, BAD) is not jail_of(bench, A)  # it had a second chance alone


async def test_frame_that_kills_its_jail_twice_is_set_aside_with_its_bytes(bench: Bench) -> None:
    """A minute's deadline, so that the loop runs when the jail is killed; the frame behind it is answered."""
    supervision = {"network": "bad", "backoff_ms": 10.0}
    await bench.supervisor.deploy(
        [
            ("t", hand_made(bench, LOOPING + TIMES, kernel={"deadline_ms": 60_000}, supervision=supervision)),
            ("t", bench.mlp(supervision={"network": "n"})),
        ]
    )
    poison = asyncio.create_task(bench.supervisor.ask("bad", [1.0], 20.0))
    behind = asyncio.create_task(bench.supervisor.ask("bad", [0.25], 20.0))
    for death in (1, 2):
        await until(lambda: is_inside(bench, BAD))
        os.kill(jail_of(bench, BAD).pid, signal.SIGKILL)
        await until(lambda: bench.supervisor.node.table.agents[BAD].restarts_total == death)  # noqa: B023
    with pytest.raises(JailGoneError, match="agent bad: the jail died 2 times while working on frame 1"):
        await poison
    outcome = await behind
    assert outcome is not None and outcome.output == (0.5,)
    store = bench.supervisor.store
    assert store is not None
    await until(lambda: bench.tally("bad")["set_aside"]["poison"] == 1)
    [(seq, why, frame)] = await store.frames_set_aside("bad")
    assert (seq, frame) == (1, struct.pack("<f", 1.0)) and why.startswith("poison: the jail died 2 times")
    assert bench.supervisor.node.table.agents[A].restarts_total == 0


async def test_neighbour_of_a_killer_is_not_blamed_and_sits_apart_from_it_afterwards(bench: Bench) -> None:
    """Both have a frame in flight when the jail dies: only the one that ran is suspected."""
    together = {"supervision": {"network": "n", "backoff_ms": 10.0}}
    killer = hand_made(bench, LOOPING + TIMES, kernel={"deadline_ms": 60_000}, **together)
    neighbour = hand_made(bench, TIMES, name="good", **together)
    await bench.supervisor.deploy([("t", neighbour), ("t", killer)])
    poison = asyncio.create_task(bench.supervisor.ask("bad", [1.0], 20.0))
    await until(lambda: is_inside(bench, BAD))
    asking = [asyncio.create_task(bench.supervisor.ask("good", [0.5], 20.0)) for _ in range(5)]
    for death in (1, 2):
        await until(lambda: is_inside(bench, BAD))
        os.kill(jail_of(bench, BAD).pid, signal.SIGKILL)
        await until(lambda: bench.supervisor.node.table.agents[BAD].restarts_total == death)  # noqa: B023
    with pytest.raises(JailGoneError):
        await poison
    assert [outcome.output for outcome in await asyncio.gather(*asking) if outcome] == [(1.0,)] * 5
    assert bench.tally("good")["rows_set_aside"] == 0
    assert bench.supervisor.node.table.agents[AgentName("good")].restarts_total == 1
    assert jail_of(bench, AgentName("good")) is not jail_of(bench, BAD)


async def test_kernel_that_ignores_its_deadline_is_killed_and_its_frame_set_aside(bench: Bench) -> None:
    """Its whole jail is stopped, so that no wake-up reaches it: two deadlines later it is ended."""
    supervision = {"network": "bad", "backoff_ms": 10.0}
    looping = hand_made(bench, LOOPING + TIMES, kernel={"deadline_ms": 150}, supervision=supervision)
    await bench.supervisor.deploy([("t", looping), ("t", bench.mlp())])
    asked = asyncio.create_task(bench.supervisor.ask("bad", [1.0], 20.0))
    for death in (1, 2):
        await until(lambda: jail_of(bench, BAD) is not None and jail_of(bench, BAD).in_flight)
        os.kill(jail_of(bench, BAD).pid, signal.SIGSTOP)
        await until(lambda: bench.supervisor.node.table.agents[BAD].restarts_total == death)  # noqa: B023
    with pytest.raises((JailGoneError, TrapError)):
        await asked
    assert await answers(bench, "bad", 0.25) == 0.5
    assert await bench.supervisor.ask("a", [0.0] * 4, 5.0) is not None


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("(i32.const 1) (drop)", ""),
        ("(unreachable)", "its jail cannot load it: "),
        ("(loop $l (br $l))", "its jail cannot load it: "),
    ],
)
async def test_kernel_that_cannot_even_be_warmed_up_is_refused_at_deploy(bench: Bench, body: str, text: str) -> None:
    data = hand_made(bench, body, kernel={"deadline_ms": 100})
    if not text:
        assert await bench.supervisor.deploy([("t", data)])
        return
    with pytest.raises(Refused, match=text):
        await bench.supervisor.deploy([("t", data)])
    assert not bench.supervisor.jails and not bench.supervisor.node.table.agents


async def test_module_that_is_no_kernel_is_refused_with_the_file_and_what_it_lacks(bench: Bench) -> None:
    import wasmtime

    header = decode(header_tree("x", 1, 1), agentfile.Header)
    bare = bytes(wasmtime.wat2wasm("(module)"))
    data = agentfile.build(header, {"wasm_kernel": Section(bare)}, publisher_key=bench.publisher.seed)
    with pytest.raises(KernelError, match=r"x\.af: section wasm_kernel: "):
        await bench.supervisor.deploy([("x.af", data)])
    with pytest.raises(KernelError, match=r"x\.af: section wasm_kernel: expected a kernel, found none"):
        await bench.supervisor.deploy([("x.af", agentfile.build(header, {}, publisher_key=bench.publisher.seed))])


async def test_kernel_whose_widths_are_not_those_of_its_header_is_refused(bench: Bench) -> None:
    body = hand_made(bench, TIMES)
    wide = decode(header_tree("bad", 3, 1), agentfile.Header)
    kernel = agentfile.read(body).sections["wasm_kernel"]
    data = agentfile.build(wide, {"wasm_kernel": Section(kernel)}, publisher_key=bench.publisher.seed)
    with pytest.raises(KernelError, match=r"x\.af: kernel width: expected \(3, 1\) \(neural_config\), found \(1, 1\)"):
        await bench.supervisor.deploy([("x.af", data)])


async def test_no_descriptors_left_is_no_jail_and_is_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.supervisor.deploy([("t", bench.mlp(supervision={"backoff_ms": 10.0}))])
    host = bench.supervisor.host
    assert host is not None
    spawn, tries = host.spawn, 0

    async def none_left(*args: Any, **more: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise OSError(24, "Too many open files")
        return await spawn(*args, **more)

    monkeypatch.setattr(host, "spawn", none_left)
    os.kill(jail_of(bench, A).pid, signal.SIGKILL)
    await until(lambda: tries == 3 and bench.supervisor.status[A][0] == "running")
    assert await bench.supervisor.ask("a", [0.0] * 4, 5.0) is not None
