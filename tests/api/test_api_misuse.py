"""The Python API in hands that read no manual: what goes wrong is an error of ours, in words, and nothing hangs."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeswarm.api
from edgeswarm import Network, Runtime
from edgeswarm.api import BlockingAgent, BlockingRuntime
from edgeswarm.drivers.checkpoints import CheckpointError
from edgeswarm.errors import (
    AgentFileError,
    ConfigError,
    InputError,
    LearningNotAvailableError,
    LimitError,
    LocalError,
    ModelError,
    RemoteError,
)
from edgeswarm.model import random_mlp
from edgeswarm.model.reference import forward

ROW = [0.1, -0.2, 0.3, 0.4]
MODEL = random_mlp((4, 8, 2), "relu", "linear", 0)


@pytest.fixture(scope="module")
def runtime() -> Iterator[BlockingRuntime]:
    with Runtime() as runtime:
        yield runtime


@pytest.fixture
def agent(runtime: BlockingRuntime) -> BlockingAgent:
    return runtime.spawn(4, [8], 2, weights=MODEL)


def test_example_of_the_docstring_runs_as_it_stands() -> None:
    """In an interpreter of its own, as one would paste it; it is shorter than ten lines."""
    assert edgeswarm.api.__doc__ is not None
    code = [line[4:] for line in edgeswarm.api.__doc__.splitlines() if line.startswith("    ")]
    assert code[0] == "from edgeswarm import Runtime" and len(code) <= 10
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(code)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert re.fullmatch(r"\(-?\d+\.\d+, -?\d+\.\d+\)\n", done.stdout)


NO_ROWS: list[Any] = [
    5,
    None,
    "abcd",
    b"abcd",
    bytearray(16),
    memoryview(b"abcd"),
    {1: 2, 3: 4, 5: 6, 7: 8},
    {1.0, 2.0, 3.0, 4.0},
    iter(ROW),
    np.zeros((2, 2)),
    np.array(3.0),
    np.zeros(4, "U1"),
    np.full(4, 1j),
    (1j,) * 4,
    [ROW],
    [None] * 4,
    ROW[:3],
    [*ROW, 1.0],
    [float("nan"), *ROW[1:]],
    np.array([np.inf, 0, 0, 0]),
    [1e39, 0.0, 0.0, 0.0],
    [10**5000, 0, 0, 0],
]


@pytest.mark.parametrize("row", NO_ROWS, ids=range(len(NO_ROWS)))
def test_what_is_no_row_is_an_input_error_and_the_agent_goes_on(agent: BlockingAgent, row: Any) -> None:
    with pytest.raises(InputError, match=r"expected (one row of numbers|numbers|4 finite float32 values), found"):
        agent.process_input(row)
    assert agent.process_input(ROW) is not None


@pytest.mark.parametrize(
    "row",
    [
        tuple(ROW),
        np.array(ROW),
        np.array(ROW, np.float32),
        np.array([*ROW, 0.0, 0.0])[:4],
        np.array(ROW, np.float32)[::-1][::-1],
        memoryview(np.array(ROW, np.float32)),
        [np.float32(value) for value in ROW],
    ],
    ids=range(7),
)
def test_same_row_in_other_clothes_has_the_same_answer(agent: BlockingAgent, row: Any) -> None:
    answer = agent.process_input(row)
    assert answer is not None
    values = np.asarray(answer)
    assert values.dtype == np.float32 and values.shape == (2,)
    assert np.allclose(values, forward(MODEL, np.array([ROW], np.float32))[0], rtol=1e-5, atol=1e-6)


def test_numbers_that_are_no_floats_are_taken_as_numbers(agent: BlockingAgent) -> None:
    expected = agent.process_input([0.0, 1.0, 2.0, 3.0])
    for row in (range(4), np.arange(4), np.arange(4, dtype=np.uint8), [False, True, 2, 3]):
        assert agent.process_input(row) == expected


def test_blocking_agent_does_everything_that_an_asynchronous_one_does(runtime: BlockingRuntime) -> None:
    agent = runtime.spawn(4, [8], 2, name="all-of-it", weights=MODEL)
    assert runtime.agent("all-of-it").name == "all-of-it"
    before = agent.process_input(ROW)
    zeros = [(np.zeros((4, 8)), np.zeros(8)), (np.zeros((8, 2)), np.zeros(2))]
    agent.update_weights(zeros)
    sealed = agent.checkpoint()
    runtime.update_agent_brain("all-of-it", MODEL, delta=True)
    assert agent.process_input(ROW) == before
    agent.restore(sealed)
    with pytest.raises(CheckpointError, match="checkpoint of all-of-it"):
        agent.restore(sealed[:-1])
    with pytest.raises(LearningNotAvailableError):
        agent.learn(ROW, [1.0])
    metadata = agent.get_metadata()
    assert (metadata["status"], metadata["input_size"], metadata["counters"]["lost"]) == ("running", 4, 0)
    runtime.stop("all-of-it")
    with pytest.raises(LocalError, match="it is stopped"):
        agent.process_input(ROW)
    runtime.start("all-of-it")
    assert agent.process_input(ROW) is not None
    runtime.remove("all-of-it")
    for use in (
        agent.get_metadata,
        agent.checkpoint,
        lambda: agent.update_weights(MODEL),
        lambda: agent.restore(sealed),
    ):
        with pytest.raises(LocalError, match="agent all-of-it: no agent of that name is deployed"):
            use()


def test_stream_of_a_blocking_agent_ends_with_its_agent(runtime: BlockingRuntime) -> None:
    agent = runtime.spawn(4, [8], 2, name="streaming")
    records: list[dict[str, Any]] = []
    reading = threading.Thread(target=lambda: records.extend(agent.stream()))
    reading.start()
    flow = runtime._runtime.supervisor.flows.flows["streaming"]  # type: ignore[index]
    while not flow.followers:
        pass
    for _ in range(5):
        agent.process_input(ROW)
    runtime.remove("streaming")
    reading.join(10)
    assert not reading.is_alive() and [record["seq"] for record in records] == [1, 2, 3, 4, 5]


def test_swap_goes_over_to_another_file_and_refuses_what_does_not_fit(runtime: BlockingRuntime, tmp_path: Path) -> None:
    agent = runtime.spawn(4, [8], 2, name="swapped", weights=MODEL)
    other = runtime.spawn(4, [3], 2, name="other")
    data = runtime._runtime.supervisor.shelf.current("other").data  # type: ignore[arg-type]
    with pytest.raises(RemoteError, match="expected a version of agent swapped, found agent other"):
        runtime.swap("swapped", data)
    with pytest.raises(AgentFileError, match=r"none\.af: No such file or directory"):
        runtime.swap("swapped", tmp_path / "none.af")
    with pytest.raises(AgentFileError, match=r"folder: Is a directory"):
        (tmp_path / "folder").mkdir()
        runtime.run(tmp_path / "folder")
    with pytest.raises(AgentFileError):
        runtime.run(b"junk")
    assert agent.process_input(ROW) is not None and other.process_input(ROW) is not None


SPAWNS: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (LimitError, r"sizes\[0\]: expected 1 to", {"inputs": 0}),
    (LimitError, r"sizes\[1\]: expected 1 to", {"hidden": [0]}),
    (AgentFileError, "name: expected a name", {"name": "No Name"}),
    (AgentFileError, "capabilities.*found 'fly'", {"capabilities": ["fly"]}),
    (ModelError, "activation: expected one of", {"activation": "zigzag"}),
    (InputError, r"expected layers of \[4, 8, 2\], found \[4, 8\]", {"weights": [(np.zeros((4, 8)), np.zeros(8))]}),
    (InputError, "weights: expected a Network, .* found int", {"weights": 5}),
    (ModelError, "finite", {"weights": [(np.full((4, 8), np.nan), np.zeros(8)), (np.zeros((8, 2)), np.zeros(2))]}),
    (AgentFileError, "wiring: expected frames of 4 values", {"wiring": {"sources": [{"type": "api", "width": 3}]}}),
    (AgentFileError, "wiring: expected a table", {"wiring": 5}),
    (AgentFileError, "wiring.*sorces", {"wiring": {"sorces": []}}),
]


@pytest.mark.parametrize(("error", "text", "change"), SPAWNS, ids=range(len(SPAWNS)))
def test_agent_that_cannot_be_is_refused_with_key_and_finding(
    runtime: BlockingRuntime, error: type[Exception], text: str, change: dict[str, Any]
) -> None:
    before = len(runtime.status()["agents"])
    with pytest.raises(error, match=text):
        runtime.spawn(**{"inputs": 4, "hidden": [8], "outputs": 2, **change})
    assert len(runtime.status()["agents"]) == before


def test_delta_that_overflows_is_refused_and_the_weights_stay(agent: BlockingAgent) -> None:
    before = agent.process_input(ROW)
    huge = [(np.full((4, 8), 3e38), np.zeros(8)), (np.zeros((8, 2)), np.zeros(2))]
    agent.update_weights(huge, delta=True)
    with pytest.raises(ModelError, match="finite"):
        agent.update_weights(huge, delta=True)
    agent.update_weights(MODEL)
    assert agent.process_input(ROW) == before


def test_closed_runtime_says_so_and_nothing_of_it_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    runtime = Runtime()
    with runtime as opened:
        agent = opened.spawn(4, [8], 2)
        stream = agent.stream()
    for use in (lambda: agent.process_input(ROW), agent.get_metadata, opened.status, lambda: opened.spawn(1, [], 1)):
        with pytest.raises(LocalError, match="runtime: it is closed"):
            use()
    stream.close()
    assert not opened._thread.is_alive()
    assert not list(tmp_path.iterdir())
    with runtime as again:  # and it can be opened again, empty
        assert again.status()["agents"] == []


async def test_runtime_is_opened_once_at_a_time() -> None:
    runtime = Runtime()
    async with runtime:
        with pytest.raises(LocalError, match="open already"):
            await runtime.__aenter__()
    with pytest.raises(LocalError, match="inside `with"):
        runtime.status()


async def test_runtime_with_a_wrong_profile_or_state_does_not_open(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="toaster"):
        async with Runtime(profile="toaster"):
            pass
    async with Runtime(state=tmp_path):
        with pytest.raises(LocalError, match="another supervisor uses it"):
            async with Runtime(state=tmp_path):
                pass
    with pytest.raises(ConfigError, match=r"none\.pub"):
        async with Runtime(trust=[tmp_path / "none.pub"]):
            pass


async def test_state_that_is_kept_is_found_again_by_the_next_runtime(tmp_path: Path) -> None:
    async with Runtime(state=tmp_path) as runtime:
        await (await runtime.spawn(4, [8], 2, name="kept", weights=MODEL)).update_weights(
            [(np.zeros((4, 8)), np.zeros(8)), (np.zeros((8, 2)), np.ones(2))]
        )
    async with Runtime(state=tmp_path) as runtime:
        answer = await runtime.agent("kept").process_input(ROW)
        assert answer is not None and answer.values == (1.0, 1.0)


async def test_stream_that_is_awaited_ends_when_the_runtime_does() -> None:
    async with Runtime() as runtime:
        agent = await runtime.spawn(4, [8], 2)

        async def read() -> int:
            return len([record async for record in agent.stream()])

        reading = asyncio.create_task(read())
        await asyncio.sleep(0)
        for _ in range(3):
            await agent.process_input(ROW)
    assert await asyncio.wait_for(reading, 5) == 3


async def test_blocking_runtime_works_inside_a_running_loop_as_in_a_notebook() -> None:
    with Runtime() as runtime:
        assert runtime.spawn(4, [8], 2).process_input(ROW) is not None


async def test_hundred_rows_at_once_are_answered_each_with_its_own() -> None:
    rows = np.random.default_rng(1).normal(size=(100, 4)).astype(np.float32)
    async with Runtime() as runtime:
        agent = await runtime.spawn(4, [8], 2, weights=MODEL)
        answers = await asyncio.gather(*(agent.process_input(row) for row in rows))
    assert np.allclose(np.array([np.asarray(answer) for answer in answers]), forward(MODEL, rows), rtol=1e-4, atol=1e-6)


def test_network_refuses_what_is_no_batch_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "edgeswarm.app.config.default_dirs", lambda *_, **__: (tmp_path / "none", tmp_path / "state", tmp_path)
    )
    with Network.random((4, 8, 2)) as network:
        for bad in (None, "abcd", 5, [[1.0]], np.zeros((2, 3)), np.full((1, 4), 1e39), {}, [["a"] * 4]):
            with pytest.raises(InputError):
                network.forward(bad)
        assert network.forward(memoryview(np.zeros(4, np.float32))).shape == (2,)
        assert network.forward(np.zeros((4, 4), np.float64)[::2]).shape == (2, 2)
    with pytest.raises((RemoteError, OSError)):
        Network.load(tmp_path / "none.npz")
    (tmp_path / "bad.npz").write_bytes(b"junk")
    with pytest.raises(RemoteError, match=r"bad\.npz"):
        Network.load(tmp_path / "bad.npz")
