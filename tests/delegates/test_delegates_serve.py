"""An agent whose file brings its model: who computes it, and what happens when a delegate fails."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import delegated as d
import pytest
from delegated import ask, right, row_of, runs_on
from supervised import until

from edgeswarm.app import report
from edgeswarm.app.handover_pack import Departure
from edgeswarm.drivers.handover import Packer

pytestmark = pytest.mark.e2e


async def test_the_faster_one_computes_and_status_and_metrics_say_so(serve: Any) -> None:
    bench = await serve(d.fake_model())
    await runs_on(bench, "litert")
    await right(bench)
    await until(lambda: row_of(bench)["checks"] == 1)  # the kernel's own answer to the first frame
    row = row_of(bench)
    assert row["frames"] == 20 and not row["failures"]
    assert row["us"]["litert"] < row["us"]["wasm"]
    text = report.metrics(bench.supervisor)
    assert 'edgeswarm_agent_runs_on{agent="a",delegate="litert"} 1' in text
    assert 'edgeswarm_agent_runs_on{agent="a",delegate="wasm"} 0' in text
    assert 'edgeswarm_agent_delegate_frames_total{agent="a"} 20' in text


async def test_the_kernel_computes_where_it_is_faster(serve: Any) -> None:
    bench = await serve(d.fake_model(slow_ms=2), loops=0)
    await right(bench)
    assert row_of(bench)["runs_on"] == "wasm"
    assert "the fastest here" in row_of(bench)["why"]


async def test_a_file_without_a_model_is_no_matter_for_delegates(serve: Any) -> None:
    bench = await serve(None)
    await right(bench)
    assert row_of(bench) is None


@pytest.mark.parametrize(
    ("model", "kind", "said"),
    [
        (d.fake_model(bad="wrong"), "wrong", "golden row 0 column 0: expected 2.5, found 102.5"),
        (d.fake_model(bad="crash"), "refused", "ended"),
        (d.fake_model(bad="crash", at="load"), "refused", "ended"),
        (d.fake_model(bad="raise"), "refused", "the fake runtime says no"),
        (d.fake_model(bad="nan", after=4), "refused", "NaN"),
        (b"no model at all", "refused", "TFL3"),
        (d.fake_model(weights=[[1.0, 2.0]], bias=[0.0]), "refused", "4 values"),
    ],
    ids=["wrong", "crash", "crash-at-load", "raise", "nan", "no-model", "other-widths"],
)
async def test_a_delegate_that_fails_its_contest_never_computes(serve: Any, model: bytes, kind: str, said: str) -> None:
    bench = await serve(model)
    await right(bench)
    row = row_of(bench)
    assert row["runs_on"] == "wasm" and row["failures"] == {kind: 1}
    assert said in row["out"]["litert"]
    (line,) = bench.events("delegate_failed")
    assert json.loads(line)["goes_on"] == "wasm"


@pytest.mark.parametrize(("bad", "kind"), [("crash", "crash"), ("raise", "fault"), ("nan", "fault"), ("hang", "hang")])
async def test_a_delegate_that_fails_while_it_serves_loses_no_frame(serve: Any, bad: str, kind: str) -> None:
    """Several frames are under way when it happens: the kernel answers them, in order, and all that follow."""
    model = d.fake_model(bad=bad, when=1003)
    bench = await serve(model, kernel={"deadline_ms": 200})
    await runs_on(bench, "litert")
    answers = await asyncio.gather(*(ask(bench, 1000 + last, 30) for last in range(40)))
    assert answers == [d.answer([1, 2, 3, 1000 + last]) for last in range(40)]
    row = row_of(bench)
    assert row["runs_on"] == "wasm" and row["failures"] == {kind: 1}
    assert len(bench.events("delegate_failed")) == 1
    assert f'edgeswarm_agent_delegate_failures_total{{agent="a",kind="{kind}"}} 1' in report.metrics(bench.supervisor)
    agent = bench.supervisor.node.table.agents["a"]  # type: ignore[index]
    assert agent.restarts_total == 0, "the agent itself never stopped"


async def test_a_delegate_that_begins_to_lie_is_found_by_the_next_check(serve: Any) -> None:
    bench = await serve(d.fake_model(bad="wrong", when=30), **{"delegates.check_every": 5})
    await runs_on(bench, "litert")
    for last in range(60):
        await ask(bench, last)
    await runs_on(bench, "wasm")
    row = row_of(bench)
    assert row["failures"] == {"wrong": 1} and "otherwise than the kernel" in row["why"]
    await right(bench)


async def test_a_runtime_that_is_missing_is_no_failure(serve: Any, tmp_path: Any) -> None:
    bench = await serve(d.fake_model(), **{"delegates.packages": str(tmp_path)})
    await right(bench)
    row = row_of(bench)
    assert row["runs_on"] == "wasm" and not row["failures"]
    assert "ai-edge-litert is not installed" in row["why"]


async def test_the_settings_have_the_last_word(serve: Any) -> None:
    bench = await serve(d.fake_model(), **{"delegates.agents": ["*=wasm"]})
    await right(bench)
    assert row_of(bench)["runs_on"] == "wasm"
    assert not d.jails_left(), "nothing was even tried"


@pytest.mark.parametrize(("module", "threads"), [("ai_edge_litert", 1), ("ai_edge_litert", 2), ("tflite_runtime", 2)])
async def test_a_real_runtime_computes_the_test_model(serve: Any, module: str, threads: int) -> None:
    packages = d.real_packages(module)
    if not packages:
        pytest.skip(f"{module} is not installed, in no environment (CONTRIBUTING: build/peers)")
    name = {"ai_edge_litert": "litert", "tflite_runtime": "tflite"}[module]
    settings = {"delegates.packages": packages, "delegates.threads": threads, "classes.agent.cpu_cores": 2.0}
    bench = await serve(d.TINY, resources={"limits": {"cpu_cores": 2.0}}, **settings)
    await runs_on(bench, name)
    await right(bench)
    assert not row_of(bench)["failures"]


async def test_a_verdict_is_kept_and_the_next_start_needs_no_contest(serve: Any) -> None:
    bench = await serve(d.fake_model())
    await runs_on(bench, "litert")
    await bench.supervisor.close()
    bench.supervisor = bench.make(**{"delegates.packages": str(d.FAKE)})
    await bench.supervisor.start()
    await runs_on(bench, "litert")
    assert len(bench.events("delegate_contest")) == 1
    await bench.supervisor.close()
    (bench.state / "delegates.json").write_text('{"form": 1, "verdicts": {"x": 7}}')
    bench.supervisor = bench.make(**{"delegates.packages": str(d.FAKE)})
    await bench.supervisor.start()
    await runs_on(bench, "litert")
    assert len(bench.events("delegate_contest")) == 2, "a file that is broken counts as none"
    await bench.supervisor.close()


async def test_other_weights_are_the_kernels_to_compute(serve: Any) -> None:
    bench = await serve(d.fake_model())
    await runs_on(bench, "litert")
    bench.supervisor.delegation.weights_swapped("a")  # type: ignore[arg-type]
    await right(bench)
    row = row_of(bench)
    assert row["runs_on"] == "wasm" and "weights were swapped" in row["why"] and not row["failures"]


async def test_when_the_kernels_jail_dies_the_agent_restarts_and_the_delegate_comes_back(serve: Any) -> None:
    bench = await serve(d.fake_model())
    await runs_on(bench, "litert")
    (jail,) = bench.supervisor.jails.values()
    jail.kill()
    await until(lambda: bench.supervisor.node.table.agents["a"].restarts_total == 1)
    await runs_on(bench, "litert")
    await right(bench)


async def test_an_upgrade_finds_the_kernels_computing_and_one_that_fails_brings_the_delegates_back(serve: Any) -> None:
    """What is under way at the delegate is the kernel's before anything is packed."""
    bench = await serve(d.fake_model())
    await runs_on(bench, "litert")
    asked = [asyncio.create_task(ask(bench, last)) for last in range(20)]
    await asyncio.sleep(0)
    departure = Departure(bench.supervisor)
    await departure.rest()
    assert row_of(bench)["runs_on"] == "wasm" and not d.jails_left()
    assert await asyncio.gather(*asked) == [d.answer([1, 2, 3, last]) for last in range(20)]
    departure.pack(Packer())
    departure.stay()
    await runs_on(bench, "litert")
    await right(bench)
    assert not row_of(bench)["failures"]


async def test_what_a_delegate_uses_counts_as_its_agents_cpu_time(serve: Any) -> None:
    """Two agents of a jail that a delegate computes for, one of which may use a fifth of a core: it waits for it."""
    settings = {"delegates.agents": ["*=litert"]}
    bench = await serve(d.fake_model(slow_ms=4), resources={"limits": {"cpu_cores": 0.2}}, **settings)
    await runs_on(bench, "litert")
    await asyncio.gather(*(ask(bench, last, 60) for last in range(100)))
    flow = bench.supervisor.flows.flows["a"]  # type: ignore[index]
    assert flow.turns is not None
    share = flow.turns.share(flow.slot)
    assert share is not None and share.used_ns > 180e6 and share.put_off, "100 calls of 4 ms, a fifth of a core"
