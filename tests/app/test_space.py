"""What is kept on disk for an agent of a running supervisor stays within its disk_mb, and shows in status."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from supervised import Bench, until

from edgeswarm.app import config, report
from edgeswarm.app.control_loop import Refused
from edgeswarm.app.space import Space
from edgeswarm.drivers.quota import AGENT_DATA, MODEL_CACHE, Quota
from edgeswarm.ids import AgentName

A = AgentName("a")


def to_file(path: str) -> dict[str, Any]:
    return {"sources": [{"type": "api", "width": 4}], "sinks": [{"type": "jsonl", "path": path}]}


def disk(bench: Bench) -> dict[str, Any]:
    row = report.agent(bench.supervisor, A)["limits"]["disk_mb"]
    assert row["used_bytes"] == sum(row["volumes"].values())
    return dict(row)


def quota_of(bench: Bench) -> Quota:
    return bench.supervisor.flows.life.quota(A)


async def feed(bench: Bench, rows: int) -> None:
    before = bench.tally("a")["answered"]
    for _ in range(rows):
        await bench.supervisor.flows.flows[A].offer(0, (0.1, 0.2, 0.3, 0.4), 0)
    await until(lambda: bench.tally("a")["answered"] == before + rows)


async def test_files_checkpoints_and_code_count_and_are_counted_anew_at_the_next_start(bench: Bench) -> None:
    await bench.supervisor.deploy(
        [("t", bench.mlp(wiring=to_file("agent_data/out.jsonl"), capabilities=["file_sink"]))]
    )
    await feed(bench, 5)
    path = bench.state / "volumes" / "a" / "agent_data" / "out.jsonl"
    assert len(path.read_text().splitlines()) == 5
    code = disk(bench)["volumes"][MODEL_CACHE]
    assert code > 1000
    await bench.supervisor.stop("a")  # which writes its checkpoint
    kept = path.stat().st_size + (bench.state / "agents" / "a.checkpoint").stat().st_size
    assert disk(bench)["volumes"][AGENT_DATA] == kept
    bench.supervisor.flows.life.space._quotas.clear()
    await bench.supervisor.start_agent("a")
    assert disk(bench)["volumes"] == {AGENT_DATA: kept, MODEL_CACHE: code, "temp_workspace": 0}
    await bench.supervisor.remove("a")
    assert not path.exists()
    assert not (bench.state / "volumes" / "a").exists()


async def test_past_its_disk_nothing_more_is_kept_and_the_agent_goes_on(bench: Bench) -> None:
    resources = {"limits": {"disk_mb": 0}}
    file = bench.mlp(wiring=to_file("out.jsonl"), capabilities=["file_sink"], resources=resources)
    await bench.supervisor.deploy([("t", file)])
    assert bench.events("code_not_kept")
    assert not list((bench.state / "cache").glob("*.cwasm"))
    await feed(bench, 3)
    assert disk(bench)["used_bytes"] == 0
    path = bench.state / "out.jsonl"
    assert not path.exists() or path.stat().st_size == 0
    [sink] = report.agent(bench.supervisor, A)["sinks"]
    assert (sink["waiting"], sink["failed"] > 0) == (3, True)
    await bench.supervisor.stop("a")
    text = json.loads(bench.events("checkpoint_failed")[0])["error"]
    assert text.startswith("agent a: no space left for agent_data/checkpoint")
    assert not (bench.state / "agents" / "a.checkpoint").exists()


async def test_a_frame_that_nobody_could_answer_is_kept_as_far_as_there_is_room(bench: Bench) -> None:
    await bench.supervisor.deploy([("t", bench.bad("trap", "a"))])
    flow = bench.supervisor.flows.flows[A]
    await flow.offer(0, (1.0,), 0)
    await until(lambda: bench.tally("a")["rows_set_aside"] == 1)
    assert quota_of(bench).size(AGENT_DATA, "frames set aside") == 4
    current = bench.supervisor.shelf.current(A)
    current.allowance = replace(current.allowance, disk_bytes=0)
    bench.supervisor.flows._set_aside(A, flow.pipeline.counters.last_set_aside)  # type: ignore[arg-type]
    assert bench.events("frame_not_kept")
    assert bench.supervisor.store is not None
    assert len(await bench.supervisor.store.frames_set_aside("a")) == 1
    quota_of(bench).found(AGENT_DATA, "frames set aside", 999)  # more than there are by now
    bench.supervisor.flows._set_aside(A, flow.pipeline.counters.last_set_aside)  # type: ignore[arg-type]
    await until(lambda: quota_of(bench).size(AGENT_DATA, "frames set aside") == 4)


async def test_temp_workspace_is_empty_whenever_the_agent_starts(bench: Bench) -> None:
    file = bench.mlp(wiring=to_file("temp_workspace/out.jsonl"), capabilities=["file_sink"])
    await bench.supervisor.deploy([("t", file)])
    await feed(bench, 2)
    path = bench.state / "volumes" / "a" / "temp_workspace" / "out.jsonl"
    assert disk(bench)["volumes"]["temp_workspace"] == path.stat().st_size > 0
    await bench.supervisor.stop("a")
    await bench.supervisor.start_agent("a")
    assert disk(bench)["volumes"]["temp_workspace"] == 0
    await feed(bench, 1)
    assert len(path.read_text().splitlines()) == 1


@pytest.mark.parametrize("path", ["agent_data/../../x", "agent_data/a/b", "temp_workspace/.x"])
async def test_a_path_that_leads_out_of_a_volume_is_refused(bench: Bench, path: str) -> None:
    with pytest.raises(Refused, match="expected a name of letters"):
        await bench.supervisor.deploy([("t", bench.mlp(wiring=to_file(path), capabilities=["file_sink"]))])
    assert not list(bench.state.rglob("x"))


async def test_a_link_in_a_volumes_place_is_refused(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (bench.state / "volumes" / "a").mkdir(parents=True)
    Path(bench.state / "volumes" / "a" / "agent_data").symlink_to(elsewhere)
    with pytest.raises(Refused, match="expected a folder of ours"):
        await bench.supervisor.deploy(
            [("t", bench.mlp(wiring=to_file("agent_data/x.jsonl"), capabilities=["file_sink"]))]
        )
    assert list(elsewhere.iterdir()) == []


def test_volumes_that_go_take_nothing_along_that_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").touch()
    space = Space(config.load(state=tmp_path / "state", environ={}))
    for place in (space.folder(A), space.folder(A) / "agent_data"):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(tmp_path / "elsewhere")
        space.forget(A)
        assert (tmp_path / "elsewhere" / "kept").exists()
        if place.is_symlink():
            place.unlink()


async def test_another_version_brings_its_own_disk_limit(bench: Bench) -> None:
    await bench.supervisor.deploy([("t", bench.mlp())])
    assert quota_of(bench).limit_bytes == 100 << 20
    resources = {"limits": {"disk_mb": 7}}
    await bench.supervisor.swap("a", "t", bench.mlp(resources=resources, agent_version="2.0.0"))
    assert disk(bench)["value"] == 7
    assert quota_of(bench).limit_bytes == 7 << 20


def test_what_a_coordinator_keeps_is_shown_against_its_class(tmp_path: Path) -> None:
    space = Space(config.load(state=tmp_path, environ={}))
    assert space.coordinator(1000, -20.0) is None
    (tmp_path / "swarm" / "artefacts" / "inner").mkdir(parents=True)
    (tmp_path / "swarm" / "raft.db").write_bytes(b"x" * 300)
    (tmp_path / "swarm" / "link").symlink_to("/etc/passwd")
    (tmp_path / "swarm" / "artefacts" / "inner" / "one").write_bytes(b"x" * 500)
    expected = {
        "coordination_data": {"used_bytes": 500, "quota_bytes": 1000},
        "swarm_state": {"used_bytes": 300, "quota_bytes": 1000},
    }
    assert space.coordinator(1000, 0.0) == expected
    (tmp_path / "swarm" / "raft.db").write_bytes(b"x" * 400)
    assert space.coordinator(1000, 9.0) == expected, "counted every ten seconds at most"
    found = space.coordinator(1000, 11.0)
    assert found is not None
    assert found["swarm_state"]["used_bytes"] == 400
