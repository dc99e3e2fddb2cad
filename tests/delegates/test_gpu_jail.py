"""LiteRT's WebGPU accelerator in a jail of policy `gpu`, on the Vulkan that Debian's chromium package brings."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import delegated as d
import pytest
from delegated import ask, right, row_of, runs_on
from supervised import until

pytestmark = pytest.mark.e2e

SWIFTSHADER = Path("/usr/lib/chromium/vk_swiftshader_icd.json")
LOADERS = ("/usr/lib/x86_64-linux-gnu/libvulkan.so.1", "/usr/lib/aarch64-linux-gnu/libvulkan.so.1")


@pytest.fixture
def gpu() -> dict[str, Any]:
    """Settings of a device whose GPU is played by SwiftShader."""
    packages = d.real_packages("ai_edge_litert")
    if not packages:
        pytest.skip("ai-edge-litert is not installed, in no environment of build/peers either")
    if not SWIFTSHADER.is_file() or not any(Path(path).is_file() for path in LOADERS):
        pytest.skip("no software Vulkan here: apt install chromium libvulkan1")
    return {
        "delegates.packages": packages,
        "delegates.order": ["gpu", "wasm"],
        "delegates.gpu_driver": str(SWIFTSHADER),
        "delegates.gpu_memory_mb": 64,
    }


async def test_a_gpu_computes_in_a_jail_of_its_policy(serve: Any, gpu: dict[str, Any]) -> None:
    """The kernel is made slow, as SwiftShader is no fast GPU."""
    bench = await serve(d.TINY, loops=10 * d.SLOW, kernel={"deadline_ms": 10_000}, **gpu)
    await runs_on(bench, "gpu")
    await right(bench, 10)
    row = row_of(bench)
    assert not row["failures"] and row["us"]["gpu"] < row["us"]["wasm"]
    assert bench.supervisor.delegation.gpu.allocate(1).budget_bytes < 64 << 20


async def test_several_agents_take_turns_at_one_accelerator(serve: Any, gpu: dict[str, Any]) -> None:
    bench = await serve(d.TINY, **gpu, **{"delegates.agents": ["*=gpu"]})
    await bench.supervisor.deploy([("a test", d.agent_file(bench.publisher, d.TINY, name="b"))])
    await runs_on(bench, "gpu")
    await until(lambda: (bench.supervisor.delegation.row("b") or {})["runs_on"] == "gpu", within_s=20)

    async def many(name: str) -> None:
        for last in range(30):
            found = await bench.supervisor.ask(name, [1, 2, 3, last], 10)
            assert found is not None and list(found.output) == d.answer([1, 2, 3, last])

    await asyncio.gather(many("a"), many("b"), many("a"), many("b"))
    assert not row_of(bench)["failures"]


async def test_without_memory_of_the_accelerator_agents_compute_on_the_cpu(serve: Any, gpu: dict[str, Any]) -> None:
    bench = await serve(d.TINY, **(gpu | {"delegates.gpu_memory_mb": 0}))
    await right(bench)
    row = row_of(bench)
    assert row["runs_on"] == "wasm" and "cpu_only" in row["why"] and not row["failures"]
    assert len(bench.events("gpu_cpu_only")) == 1


async def test_a_machine_without_a_driver_computes_on_the_cpu(serve: Any, gpu: dict[str, Any], tmp_path: Path) -> None:
    nothing = tmp_path / "icd.json"
    nothing.write_text('{"file_format_version": "1.0.0", "ICD": {"library_path": "/none.so", "api_version": "1.1.0"}}')
    bench = await serve(d.TINY, **(gpu | {"delegates.gpu_driver": str(nothing)}))
    await right(bench)
    row = row_of(bench)
    assert row["runs_on"] == "wasm" and row["failures"] == {"refused": 1}, row


async def test_a_gpu_that_dies_while_it_serves_loses_no_frame(serve: Any, gpu: dict[str, Any]) -> None:
    bench = await serve(d.TINY, **gpu, **{"delegates.agents": ["a=gpu"]})
    await runs_on(bench, "gpu")
    asked = [asyncio.create_task(ask(bench, last, 30)) for last in range(40)]
    await asked[3]
    seat = bench.supervisor.delegation._seats["a"]  # type: ignore[index]
    assert seat.port is not None and seat.port._delegate is not None
    seat.port._delegate.kill()
    assert await asyncio.gather(*asked) == [d.answer([1, 2, 3, last]) for last in range(40)]
    assert row_of(bench)["failures"] == {"crash": 1} and row_of(bench)["runs_on"] == "wasm"


async def test_a_dispatch_library_that_is_none_leaves_the_kernel_computing(serve: Any, tmp_path: Path) -> None:
    """An NPU was not at hand: what is tried is that nothing but the delegate fails without one."""
    packages = d.real_packages("ai_edge_litert")
    if not packages:
        pytest.skip("ai-edge-litert is not installed, in no environment of build/peers either")
    (tmp_path / "libLiteRtDispatch_Nobody.so").write_text("this is no library")
    settings = {"delegates.order": ["npu", "wasm"], "delegates.npu_dispatch": str(tmp_path)}
    bench = await serve(d.TINY, **settings, **{"delegates.packages": packages})
    await right(bench)
    row = row_of(bench)
    assert row["runs_on"] == "wasm" and row["failures"] == {"refused": 1}


async def test_without_a_dispatch_library_there_is_no_npu(serve: Any, tmp_path: Path) -> None:
    settings = {"delegates.order": ["npu", "wasm"], "delegates.npu_dispatch": str(tmp_path)}
    bench = await serve(d.fake_model(), **settings)
    await right(bench)
    assert "libLiteRtDispatch_*.so" in row_of(bench)["why"] and not row_of(bench)["failures"]


async def test_who_gets_nothing_of_the_accelerator_computes_on_the_next_best_and_asks_again(
    serve: Any, gpu: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory is another's at first; once that has left, the agent moves to the accelerator by itself."""
    monkeypatch.setattr("edgeswarm.app.delegation.GPU_RETRY_S", 0.3)
    settings = gpu | {"delegates.order": ["gpu", "litert", "wasm"], "delegates.choose": "first"}
    bench = await serve(None, name="z", **settings)
    manager = bench.supervisor.delegation.gpu
    assert not manager.join("another", weight=1.0, wants_bytes=64 << 20).cpu_only
    await bench.supervisor.deploy([("a test", d.agent_file(bench.publisher, d.TINY))])
    await runs_on(bench, "litert")
    await right(bench, 5)
    assert "cpu_only" in row_of(bench)["why"] and len(bench.events("gpu_cpu_only")) == 1
    manager.leave("another")
    await runs_on(bench, "gpu")
    await right(bench, 5)
    assert not row_of(bench)["failures"]
