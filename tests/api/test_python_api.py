"""What `import edgeswarm` offers, as a notebook and as an asyncio program would use it: real jails underneath."""

from __future__ import annotations

import asyncio
from array import array
from pathlib import Path

import numpy as np
import pytest

from edgeswarm import Network, Runtime
from edgeswarm.drivers.checkpoints import CheckpointError
from edgeswarm.errors import InputError, LearningNotAvailableError, LocalError, ModelError, SignatureError
from edgeswarm.model import random_mlp
from edgeswarm.model.reference import forward

ROW = [0.1, -0.2, 0.3, 0.4]
MODEL = random_mlp((4, 8, 2), "relu", "linear", 0)


def expected(row: list[float]) -> np.ndarray:
    return forward(MODEL, np.array([row], np.float32))[0]


def test_ten_lines_run_an_agent_from_a_notebook() -> None:
    with Runtime() as runtime:
        agent = runtime.spawn(inputs=4, hidden=[8], outputs=2)
        answer = agent.process_input(ROW)
        assert answer is not None
        assert np.allclose(np.asarray(answer), expected(ROW), rtol=1e-5, atol=1e-6)


def test_rows_may_be_lists_arrays_memoryviews_and_numpy() -> None:
    with Runtime() as runtime:
        agent = runtime.spawn(4, [8], 2)
        rows = [ROW, tuple(ROW), array("f", ROW), memoryview(array("f", ROW)), np.array(ROW, np.float32)]
        answers = {agent.process_input(row).values for row in rows}  # type: ignore[union-attr]
        assert len(answers) == 1
        for bad in ([1.0], [ROW], "1234", [float("nan")] * 4):
            with pytest.raises(InputError):
                agent.process_input(bad)  # type: ignore[arg-type]
        assert agent.process_input(ROW) is not None


async def test_async_runtime_streams_what_its_agent_says() -> None:
    async with Runtime() as runtime:
        agent = await runtime.spawn(4, [8], 2, name="pump")
        stream = agent.stream()
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        answer = await agent.process_input(ROW)
        record = await asyncio.wait_for(waiting, 5)
        assert answer is not None and record["agent"] == "pump" and record["values"] == list(answer.values)
        await stream.aclose()  # type: ignore[attr-defined]
        data = agent.get_metadata()
        assert (data["name"], data["input_size"], data["output_size"], data["status"]) == ("pump", 4, 2, "running")
        assert runtime.status()["totals"]["lost"] == 0


async def test_weights_are_replaced_or_added_to() -> None:
    """Zero weights give zero; adding the model's to them gives the model."""
    zeros = [(np.zeros((4, 8)), np.zeros(8)), (np.zeros((8, 2)), np.zeros(2))]
    async with Runtime() as runtime:
        agent = await runtime.spawn(4, [8], 2, weights=MODEL)
        await agent.update_weights(zeros)
        answer = await agent.process_input(ROW)
        assert answer is not None and answer.values == (0.0, 0.0)
        await runtime.update_agent_brain(agent.name, MODEL, delta=True)
        answer = await agent.process_input(ROW)
        assert answer is not None and np.allclose(answer.values, expected(ROW), rtol=1e-5, atol=1e-6)
        with pytest.raises(InputError, match=r"expected layers of \[4, 8, 2\], found \[4, 9, 2\]"):
            await agent.update_weights(random_mlp((4, 9, 2), "relu", "linear", 0))
        with pytest.raises(ModelError):
            await agent.update_weights([(np.full((4, 8), np.nan), np.zeros(8)), zeros[1]])
        again = await agent.process_input(ROW)
        assert again is not None and again.values == answer.values


async def test_learning_says_by_name_that_it_does_not_exist_yet() -> None:
    async with Runtime() as runtime:
        agent = await runtime.spawn(4, [8], 2)
        with pytest.raises(LearningNotAvailableError, match="update_weights"):
            await agent.learn(ROW, [1.0])


async def test_checkpoint_brings_an_agent_back_and_a_changed_one_is_refused() -> None:
    """A window of three rows: after the restore it holds the two that it held at the checkpoint."""
    wiring = {"sources": [{"type": "api", "width": 4}], "window": {"rows": 3}}
    async with Runtime() as runtime:
        agent = await runtime.spawn(12, [8], 2, wiring=wiring)
        assert [await agent.process_input(ROW) for _ in range(2)] == [None, None]
        sealed = await agent.checkpoint()
        assert await agent.process_input(ROW) is not None
        await agent.restore(sealed)
        assert await agent.process_input(ROW) is not None  # the third of the window, again
        with pytest.raises(CheckpointError):
            await agent.restore(sealed[:-1] + bytes([sealed[-1] ^ 1]))
        assert await agent.process_input(ROW) is not None


async def test_agent_file_of_a_stranger_runs_only_where_its_key_is_trusted(tmp_path: Path) -> None:
    async with Runtime(state=tmp_path / "a") as runtime:
        await runtime.spawn(4, [8], 2, name="pump")
        data = runtime.supervisor.shelf.current("pump").data  # type: ignore[arg-type]
    (tmp_path / "pump.af").write_bytes(data)
    async with Runtime() as other:
        with pytest.raises(SignatureError, match=r"trust\.d"):
            await other.run(tmp_path / "pump.af")
    [key] = (tmp_path / "a" / "trust.d").glob("*.pub")
    async with Runtime(trust=[key]) as other:
        [agent] = await other.run(tmp_path / "pump.af")
        assert await agent.process_input(ROW) is not None


def test_runtime_outside_its_with_says_so() -> None:
    runtime = Runtime()
    with pytest.raises(LocalError, match="inside `with"):
        runtime.agent("pump")


def test_network_computes_in_a_jail_what_its_reference_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "edgeswarm.app.config.default_dirs", lambda *_, **__: (tmp_path / "none", tmp_path / "state", tmp_path)
    )
    rows = np.random.default_rng(0).standard_normal((600, 4)).astype(np.float32)
    with Network(MODEL) as network:
        assert np.allclose(network.forward(rows), forward(MODEL, rows), rtol=1e-5, atol=1e-6)
        assert network.forward(rows[0]).shape == (2,)
        assert network.forward(rows[:0]).shape == (0, 2)
        for bad in (rows[:, :3], rows[None], np.full((1, 4), np.nan, np.float32)):
            with pytest.raises(InputError):
                network.forward(bad)
        for name in ("n.npz", "n.json"):
            network.save(tmp_path / name)
            with Network.load(tmp_path / name) as again:
                assert np.array_equal(again.forward(rows), network.forward(rows))
        with pytest.raises(LocalError, match=r"\.npz or \.json"):
            network.save(tmp_path / "n.txt")
    with pytest.raises(LocalError, match="closed"):
        network.forward(rows)
