"""A delegate library by path from the settings: one that is right, and everything that is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import delegated as d
import pytest
from delegated import right, row_of, runs_on
from supervised import Bench, until

pytestmark = pytest.mark.e2e

WANTED = {"delegates.agents": ["a=external"]}


@pytest.mark.parametrize("module", ["ai_edge_litert", "tflite_runtime"])
async def test_a_library_is_used_by_a_real_runtime(serve: Any, tmp_path: Path, module: str) -> None:
    packages = d.real_packages(module)
    if not packages:
        pytest.skip(f"{module} is not installed, in no environment of build/peers either")
    path = d.library(tmp_path)
    bench = await serve(d.TINY, **WANTED, **{"delegates.packages": packages, "delegates.library": path})
    await runs_on(bench, "external")
    await right(bench)
    assert "libdelegate.so" in bench.events("delegate_serves")[0]


async def out(bench: Bench) -> str:
    await right(bench)
    row = row_of(bench)
    assert row["runs_on"] == "wasm" and row["failures"] == {"refused": 1}
    assert len(bench.events("delegate_failed")) == 1
    return str(row["out"]["external"])


async def test_a_file_that_is_no_library_is_refused_by_name(serve: Any, tmp_path: Path) -> None:
    path = tmp_path / "notes.so"
    path.write_text("this is no library")
    bench = await serve(d.fake_model(), **WANTED, **{"delegates.library": str(path)})
    assert f"delegate library {path}" in await out(bench)


async def test_a_library_of_something_else_is_refused(serve: Any, tmp_path: Path) -> None:
    path = d.library(tmp_path, text="int answer(void) { return 42; }")
    bench = await serve(d.fake_model(), **WANTED, **{"delegates.library": path})
    assert "tflite_plugin_create_delegate" in await out(bench)


async def test_a_library_that_makes_nothing_is_refused(serve: Any, tmp_path: Path) -> None:
    settings = {"delegates.library": d.library(tmp_path), "delegates.library_options": ["make=nothing"]}
    bench = await serve(d.fake_model(), **WANTED, **settings)
    assert "it made no delegate" in await out(bench)


@pytest.mark.parametrize("flag", ["-DCRASH", "-DCRASH_AT_LOAD"])
async def test_a_library_that_crashes_costs_its_jail_and_nothing_else(serve: Any, tmp_path: Path, flag: str) -> None:
    bench = await serve(d.fake_model(), **WANTED, **{"delegates.library": d.library(tmp_path, flag)})
    assert "ended" in await out(bench)
    assert bench.supervisor.host is not None and bench.supervisor.host.zygote_starts == 1


@pytest.mark.parametrize("path", ["/there/is/none.so", "relative.so", "/tmp"])
async def test_a_library_that_is_not_there_is_told_and_no_failure(serve: Any, path: str) -> None:
    bench = await serve(d.fake_model(), **WANTED, **{"delegates.library": path})
    await right(bench)
    row = row_of(bench)
    assert row["runs_on"] == "wasm" and not row["failures"]
    (line,) = bench.events("delegate_missing")
    assert path in json.loads(line)["error"]


async def test_another_build_of_a_library_is_measured_again(serve: Any, tmp_path: Path) -> None:
    path = tmp_path / "libdelegate.so"
    path.write_text("this is no library")
    settings = {"delegates.library": str(path), "delegates.packages": str(d.FAKE), **WANTED}
    bench = await serve(d.fake_model(), **settings)
    assert row_of(bench)["runs_on"] == "wasm"
    await bench.supervisor.close()
    d.library(tmp_path)
    bench.supervisor = bench.make(**settings)
    await bench.supervisor.start()
    await runs_on(bench, "external")
    await until(lambda: len(bench.events("delegate_contest")) == 2)
    await bench.supervisor.close()
