"""Weights alone: swapped while rows flow, kept over a restart, refused when they hold what is no number."""

from __future__ import annotations

import asyncio
import struct

import pytest
from supervised import Bench, header_tree

from edgeswarm import agentfile
from edgeswarm.agentfile.file import Section
from edgeswarm.app import builder
from edgeswarm.app.control_loop import Refused
from edgeswarm.compile import compile_mlp
from edgeswarm.errors import AgentFileError, InputError, LocalError
from edgeswarm.ids import AgentName
from edgeswarm.model import random_mlp
from edgeswarm.schema import decode

A = AgentName("a")


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
async def test_agent_file_with_weights_that_are_no_numbers_is_refused(
    bench: Bench, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The builder would refuse as well: this file is signed by somebody whose builder does not."""
    kernel = compile_mlp(builder.model_of(None, sizes=(4, 8, 2), activation="relu", output_activation="linear"))
    header = decode(header_tree("a", 4, 2, hidden=(8,)), agentfile.Header)
    weights = struct.pack("<f", value).rjust(len(kernel.weights), b"\0")
    sections = {
        "neural_weights": Section(weights, "f32", kernel.layout.weights.shape),
        "wasm_kernel": Section(kernel.wasm),
    }
    with monkeypatch.context() as patch:
        patch.setattr("edgeswarm.agentfile.sections.first_not_finite", lambda _: None)
        data = agentfile.build(header, sections, publisher_key=bench.publisher.seed)
    text = f"section neural_weights: expected finite numbers, found {value} at index {len(weights) // 4 - 1}"
    with pytest.raises(AgentFileError, match=rf"x\.af: offset \d+: {text}"):
        await bench.supervisor.deploy([("x.af", data)])
    assert not bench.supervisor.node.table.agents


async def test_swapped_weights_that_are_no_numbers_are_refused_and_the_old_ones_go_on(bench: Bench) -> None:
    await bench.supervisor.deploy([("t", bench.mlp())])
    before = await bench.supervisor.ask("a", [1.0] * 4, 5.0)
    size = bench.supervisor.shelf.current(A).layout.weights.size
    bad = struct.pack("<f", float("nan")).rjust(size, b"\0")
    with pytest.raises(InputError, match=f"agent a: weights: expected finite .* index {size // 4 - 1}"):
        await bench.supervisor.swap_weights("a", bad)
    after = await bench.supervisor.ask("a", [1.0] * 4, 5.0)
    assert before is not None and after is not None and before.output == after.output


async def test_weights_of_another_kernel_are_refused_though_they_are_as_long(bench: Bench) -> None:
    """An activation, or an order of layers, is in the code: bytes of the same length would answer, and wrongly."""
    await bench.supervisor.deploy([("t", bench.mlp())])
    own = bench.supervisor.shelf.current(A)
    before = await bench.supervisor.ask("a", [1.0] * 4, 5.0)
    for topology in ("0" * 64, own.layout.topology.upper(), own.layout.topology[:16]):
        with pytest.raises(InputError, match="agent a: weights: expected those of a kernel of topology"):
            await bench.supervisor.swap_weights("a", bytes(len(own.weights)), topology=topology)
    after = await bench.supervisor.ask("a", [1.0] * 4, 5.0)
    assert before is not None and after is not None and before.output == after.output
    await bench.supervisor.swap_weights("a", bytes(len(own.weights)), topology=own.layout.topology)
    outcome = await bench.supervisor.ask("a", [1.0] * 4, 5.0)
    assert outcome is not None and outcome.output == (0.0, 0.0)


async def test_weights_are_swapped_between_two_rows_and_none_is_lost(bench: Bench) -> None:
    await bench.supervisor.deploy([("t", bench.mlp())])
    own = bench.supervisor.shelf.current(A).weights
    first = await bench.supervisor.ask("a", [1.0] * 4, 5.0)
    assert first is not None
    asking = [asyncio.create_task(bench.supervisor.ask("a", [1.0] * 4, 10.0)) for _ in range(300)]
    for weights in (bytes(len(own)), own, bytes(len(own))):
        await bench.supervisor.swap_weights("a", weights)
    answers = [answer.output for answer in await asyncio.gather(*asking) if answer]
    assert len(answers) == 300 and set(answers) <= {first.output, (0.0, 0.0)}


async def test_swapped_weights_outlive_a_restart_and_end_with_their_version(bench: Bench) -> None:
    await bench.supervisor.deploy([("t", bench.mlp())])
    await bench.supervisor.swap_weights("a", bytes(len(bench.supervisor.shelf.current(A).weights)))
    await bench.supervisor.close()
    bench.supervisor = bench.make()
    await bench.supervisor.start()
    outcome = await bench.supervisor.ask("a", [1.0] * 4, 5.0)
    assert outcome is not None and outcome.output == (0.0, 0.0)
    await bench.supervisor.swap("a", "t", bench.mlp(agent_version="2.0.0"))
    outcome = await bench.supervisor.ask("a", [1.0] * 4, 5.0)
    assert outcome is not None and outcome.output != (0.0, 0.0)
    await bench.supervisor.remove("a")
    assert not list((bench.state / "agents").iterdir())


async def test_damaged_file_of_swapped_weights_is_logged_and_the_file_s_own_are_used(bench: Bench) -> None:
    await bench.supervisor.deploy([("t", bench.mlp())])
    await bench.supervisor.swap_weights("a", bytes(len(bench.supervisor.shelf.current(A).weights)))
    await bench.supervisor.close()
    path = bench.state / "agents" / "a.weights"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    bench.supervisor = bench.make()
    await bench.supervisor.start()
    outcome = await bench.supervisor.ask("a", [1.0] * 4, 5.0)
    assert outcome is not None and outcome.output != (0.0, 0.0)
    [line] = bench.events("weights_refused")
    assert "MAC does not match" in line


async def test_weights_that_do_not_fit_or_have_nowhere_to_go_are_refused(bench: Bench) -> None:
    await bench.supervisor.deploy([("t", bench.mlp())])
    with pytest.raises(InputError, match=r"agent a: weights: expected \d+ bytes, found 8"):
        await bench.supervisor.swap_weights("a", bytes(8))
    with pytest.raises(LocalError, match="agent b: it is in no jail"):
        await bench.supervisor.swap_weights("b", bytes(8))
    swap = asyncio.create_task(bench.supervisor.swap("a", "t", bench.mlp(agent_version="2.0.0")))
    await asyncio.sleep(0)
    with pytest.raises(Refused, match="agent a: a deploy or a swap of it is under way"):
        await bench.supervisor.swap_weights("a", bytes(8))
    assert (await swap)["status"] == "swapped"


async def test_kernels_of_one_topology_are_compiled_once_and_a_swap_of_weights_compiles_nothing(bench: Bench) -> None:
    def compiled() -> dict[str, int]:
        return {path.name: path.stat().st_ino for path in bench.state.rglob("*.cwasm")}

    def file(name: str, seed: int, hidden: int = 8) -> bytes:
        model = random_mlp([4, hidden, 2], "relu", "linear", seed)
        return builder.build(header_tree(name, 4, 2, hidden=(hidden,)), model, key=bench.publisher)

    await bench.supervisor.deploy([("a", file("a", 1))])
    once = compiled()
    assert len(once) == 1
    await bench.supervisor.deploy([("b", file("b", 2))])
    other = bench.supervisor.shelf.current(AgentName("b")).weights
    assert other != bench.supervisor.shelf.current(A).weights
    await bench.supervisor.swap_weights("a", other)
    row = [1.0, -1.0, 0.5, 2.0]
    a, b = [await bench.supervisor.ask(name, row, 5.0) for name in ("a", "b")]
    assert a is not None and b is not None and a.output == b.output
    assert compiled() == once
    await bench.supervisor.deploy([("c", file("c", 1, hidden=9))])
    assert len(compiled()) == 2
