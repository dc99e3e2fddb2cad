"""`agent population`: what a population costs, in real jails; numbers are shapes here, their size is the bench's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

SOURCE = """\
version: "1.0"
name: boid
neural_config: {input_size: 4, output_size: 2, hidden_layers: [8]}
"""


@pytest.fixture
def boid(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("agent.yaml").write_text(SOURCE)
    assert cli("agent", "build", "agent.yaml", "--random-seed", 3).code == 0
    return tmp_path / "boid.af"


@pytest.mark.parametrize(("flags", "isolation"), [((), "instance"), (("--packed",), "packed")])
def test_memory_and_speed_are_told(cli, boid: Path, flags: tuple[str, ...], isolation: str) -> None:
    done = cli("agent", "population", boid, "--count", 30, "--seconds", 0.05, "--json", *flags)
    assert done.code == 0
    told = json.loads(done.out)
    assert (told["agent"], told["isolation"], told["count"], told["faults"]) == ("boid", isolation, 30, 0)
    assert told["ticks"] >= 5
    assert told["agent_ticks_per_s"] > 0
    assert told["memory_bytes"]["each"] * 30 <= told["memory_bytes"]["held"] + told["memory_bytes"]["page_tables"]
    text = cli("agent", "population", boid, "--count", 30, "--seconds", 0.05, *flags).out
    assert "30 agents" in text
    assert "agent ticks/s" in text


def test_too_many_agents_are_refused_with_the_bound(cli, boid: Path) -> None:
    done = cli("agent", "population", boid, "--count", 16_385)
    assert done.code == 6
    assert "POPULATION_INSTANCES_MAX" in done.err
    assert "packed" in done.err
    assert cli("agent", "population", boid, "--count", 0).code == 2
    assert cli("agent", "population", boid, "--count", "many").code == 2


def test_a_file_that_is_none_is_refused(cli, tmp_path: Path) -> None:
    (tmp_path / "x.af").write_bytes(b"nothing")
    assert cli("agent", "population", tmp_path / "x.af").code == 3
    assert cli("agent", "population", tmp_path / "absent.af").code == 3
