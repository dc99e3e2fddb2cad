"""`agent bench --delegates`: the choice of a supervisor, on the command line, and the verdict that it leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import delegated as d
import pytest
from supervised import Bench

from edgeswarm.app.cli import root

pytestmark = pytest.mark.e2e


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    def run(model: bytes | None, **environ: str) -> Done:
        made = Bench(tmp_path / "state")
        path = tmp_path / "a.af"
        path.write_bytes(d.agent_file(made.publisher, model, loops=d.SLOW))
        wanted = {"EDGESWARM_DELEGATES__PACKAGES": str(d.FAKE), "EDGESWARM_JAILS__MIN_TIER": "C"} | environ
        for name, value in wanted.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        code = root.run(["agent", "bench", str(path), "--delegates", "--json", "--state", str(tmp_path / "state")])
        return Done(code, *capsys.readouterr())

    return run


def test_the_fastest_that_is_right_is_chosen_and_kept_for_the_supervisor(bench: Any, tmp_path: Path) -> None:
    done = bench(d.fake_model())
    assert done.code == 0, done.err
    row = json.loads(done.out)
    assert row["choice"] == "litert" and row["us"]["litert"] < row["us"]["wasm"]
    kept = json.loads((tmp_path / "state" / "delegates.json").read_text())["verdicts"]
    assert [verdict["choice"] for verdict in kept.values()] == ["litert"]


def test_one_that_is_wrong_is_out_with_its_reason(bench: Any) -> None:
    row = json.loads(bench(d.fake_model(bad="wrong")).out)
    assert row["choice"] == "wasm" and "golden row 0 column 0: expected 2.5" in row["out"]["litert"]


def test_the_settings_overrule_it(bench: Any) -> None:
    row = json.loads(bench(d.fake_model(), EDGESWARM_DELEGATES__AGENTS='["a=wasm"]').out)
    assert row["choice"] == "wasm" and not row["us"]


def test_a_file_without_a_model_is_refused_by_its_name(bench: Any) -> None:
    done = bench(None)
    assert done.code != 0 and "it brings no TFLite model" in done.err


@pytest.mark.parametrize(("said", "kept"), [("wasm", "*=wasm"), ("a=litert", "a=litert")])
def test_the_command_line_of_the_supervisor_says_who_computes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, kept: str
) -> None:
    """What it would run with, and with which words an upgrade would start it again."""
    seen: dict[str, Any] = {}

    async def serve(settings: Any, log: Any, *, deploy: Any, arguments: list[str]) -> int:
        seen.update(agents=settings.profile.delegates.agents, arguments=arguments)
        return 0

    monkeypatch.setattr("edgeswarm.app.daemon.serve", serve)
    assert root.run(["run", "--state", str(tmp_path), "--delegate", said]) == 0
    assert seen["agents"] == (kept,)
    assert seen["arguments"][-2:] == ["--delegate", said]


def test_a_delegate_that_nobody_knows_is_refused_with_the_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert root.run(["run", "--state", str(tmp_path), "--delegate", "a=magic"]) != 0
    assert "delegates.agents[0]" in capsys.readouterr().err
