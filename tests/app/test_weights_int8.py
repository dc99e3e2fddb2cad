"""Weights of an int8 agent: float ones are rounded with the file's ranges, others than its own path's are refused."""

from __future__ import annotations

import asyncio

import pytest
from supervised import Bench, header_tree

from edgeswarm import agentfile, model
from edgeswarm.agentfile.file import Section
from edgeswarm.agentfile.header import Quantization
from edgeswarm.app import builder
from edgeswarm.compile.lower_i8 import compile_i8
from edgeswarm.compile.pack_i8 import pack
from edgeswarm.errors import InputError, KernelError
from edgeswarm.ids import AgentName
from edgeswarm.model.quantize import QuantizedMlp, Steps, forward, quantize
from edgeswarm.schema import decode

SIZES = (16, 32, 2)
STEPS = (Steps(1 / 64, 60), Steps(1 / 32, 0))
ROW = [0.5] * 16


def whole(seed: int, path: str = "i7") -> QuantizedMlp:
    return quantize(model.random_mlp(SIZES, "relu", "linear", seed), STEPS, path)


def agent_file(bench: Bench, *, version: str = "1.0.0", path: str = "i7") -> bytes:
    kernel = compile_i8(whole(1), batch_max=8)
    tree = header_tree("a", 16, 2, hidden=(32,))
    tree |= {"agent_version": version, "kernel": {"quantization": {"path": path}}}
    sections = {
        "neural_weights": Section(kernel.weights, "u8", (len(kernel.weights),)),
        "wasm_kernel": Section(kernel.wasm),
    }
    return agentfile.build(decode(tree, agentfile.Header), sections, publisher_key=bench.publisher.seed)


async def answer(bench: Bench) -> tuple[float, ...]:
    found = await bench.supervisor.ask("a", ROW, 5.0)
    assert found is not None
    return found.output


async def test_float_weights_are_rounded_with_the_ranges_of_the_file(bench: Bench) -> None:
    await bench.supervisor.deploy([("t", agent_file(bench))])
    assert await answer(bench) == tuple(forward(whole(1), [ROW])[0])
    running = bench.supervisor.shelf.current(AgentName("a"))
    weights = model.random_mlp(SIZES, "relu", "linear", 2)
    packed = builder.repack(running.header, running.layout, running.weights, weights, delta=False)
    await bench.supervisor.swap_weights("a", packed)
    assert await answer(bench) == tuple(forward(whole(2), [ROW])[0])
    with pytest.raises(InputError, match="an int8 agent takes whole weights"):
        builder.repack(running.header, running.layout, running.weights, weights, delta=True)


async def test_weights_of_another_path_are_refused_and_the_old_ones_go_on(bench: Bench) -> None:
    await bench.supervisor.deploy([("t", agent_file(bench))])
    before = await answer(bench)
    for other in (pack(whole(2, "i7x4")), bytes(len(pack(whole(1))))):
        with pytest.raises(InputError, match="agent a: weights: expected int8 weights of the path i7"):
            await bench.supervisor.swap_weights("a", other)
    assert await answer(bench) == before


async def test_an_agent_goes_from_float_to_8_bits_and_back_while_rows_flow(bench: Bench) -> None:
    """Every row is answered, by the one or the other; the new outlives a restart, and refuses weights of the old."""
    net = model.random_mlp(SIZES, "relu", "linear", 1)

    def floats(version: str) -> bytes:
        tree = header_tree("a", 16, 2, hidden=(32,)) | {"agent_version": version}
        return builder.build(tree, net, key=bench.publisher)

    await bench.supervisor.deploy([("t", floats("1.0.0"))])
    before, after = await answer(bench), tuple(forward(whole(1), [ROW])[0])
    assert before != after
    old = bench.supervisor.shelf.current(AgentName("a")).weights
    asking = [asyncio.create_task(bench.supervisor.ask("a", ROW, 10.0)) for _ in range(200)]
    await bench.supervisor.swap("a", "t", agent_file(bench, version="2.0.0"))
    outcomes = [outcome.output for outcome in await asyncio.gather(*asking) if outcome is not None]
    assert len(outcomes) == 200 and set(outcomes) <= {before, after}
    with pytest.raises(InputError, match="expected 1280 bytes, found 2752"):
        await bench.supervisor.swap_weights("a", old)
    await bench.supervisor.close()
    bench.supervisor = bench.make()
    await bench.supervisor.start()
    assert await answer(bench) == after
    await bench.supervisor.swap("a", "t", floats("3.0.0"))
    assert await answer(bench) == before


async def test_a_file_whose_weights_are_of_another_path_than_its_header_says_is_refused(bench: Bench) -> None:
    """Other weights are checked against the header's word: it must be true."""
    for path in ("i7x4", "exact"):
        with pytest.raises(KernelError, match=f"neural_weights: expected int8 weights of the path {path}, found i7"):
            await bench.supervisor.deploy([("t", agent_file(bench, path=path))])
    assert not bench.supervisor.node.table.agents


def test_a_header_says_a_path_that_exists() -> None:
    from edgeswarm.compile.path_i8 import NUMBERS
    from edgeswarm.model.quantize import PATHS

    assert set(NUMBERS) == set(PATHS)
    for path in PATHS:
        tree = header_tree("a", 16, 2, hidden=(32,)) | {"kernel": {"quantization": {"path": path}}}
        assert decode(tree, agentfile.Header).kernel.quantization == Quantization(path=path)  # type: ignore[arg-type]
