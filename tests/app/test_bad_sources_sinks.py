"""Sources that are missing, vanish, flood, die, stall, and sinks that are full: told, counted, and the others go on."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from supervised import Bench, until

from edgeswarm.app.control_loop import Refused
from edgeswarm.drivers import sources
from edgeswarm.errors import AgentFileError
from edgeswarm.ids import AgentName

XY = ["x", "y"]


def wired(
    bench: Bench, source: dict[str, Any] | None = None, *sinks: dict[str, Any], name: str = "a", **more: Any
) -> bytes:
    """An agent of two inputs with every capability."""
    source = source or {"type": "api", "width": 2}
    can = ["exec_source", "exec_sink", "file_source", "file_sink"]
    return bench.mlp(name, (2, 4, 2), wiring={"sources": [source], "sinks": list(sinks)}, capabilities=can, **more)


def numbers(bench: Bench, name: str = "a") -> dict[str, Any]:
    """The agent's row of `status`."""
    from edgeswarm.app import report

    return report.agent(bench.supervisor, AgentName(name))


def told(bench: Bench, event: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in bench.events(event)]


async def neighbour_answers(bench: Bench) -> None:
    assert await bench.supervisor.ask("n", [0.1, 0.2], 5.0) is not None


async def deploy(bench: Bench, data: bytes) -> None:
    """Beside a neighbour that must not notice anything."""
    await bench.supervisor.deploy([("t", data), ("t", wired(bench, name="n"))])


# --- sources ----------------------------------------------------------------------------------------------------------


async def test_file_that_is_missing_is_told_by_path_and_read_once_it_comes(bench: Bench) -> None:
    await deploy(bench, wired(bench, {"type": "csv", "path": "rows.csv", "columns": XY, "speed": 0.0}))
    [event] = await until(lambda: told(bench, "source_failed"))
    assert event["agent"] == "a" and "rows.csv" in event["error"] and event["kind"] == "open"
    await neighbour_answers(bench)
    (bench.state / "rows.csv").write_text("x,y\n1,2\n3,4\n")
    await until(lambda: bench.tally("a")["answered"] == 2)
    assert numbers(bench)["sources"][0]["failed"] >= 1


async def test_file_without_the_column_is_told_with_the_columns_that_are_there(bench: Bench) -> None:
    (bench.state / "rows.csv").write_text("x,z\n1,2\n")
    await deploy(bench, wired(bench, {"type": "csv", "path": "rows.csv", "columns": XY, "speed": 0.0}))
    [event] = await until(lambda: told(bench, "source_failed"))
    assert "rows.csv" in event["error"] and "'y'" in event["error"]
    await neighbour_answers(bench)


async def test_lines_that_are_no_rows_are_counted_by_kind_and_the_others_answered(bench: Bench) -> None:
    lines = ["x,y", "1,2", "1", "a,b", "nan,1", "inf,1", "1e39,1", "3,4", "x" * (2 << 20)]
    (bench.state / "rows.csv").write_text("\n".join(lines) + "\n5,6\n")
    await deploy(bench, wired(bench, {"type": "csv", "path": "rows.csv", "columns": XY, "speed": 0.0}))
    await until(lambda: bench.tally("a")["answered"] == 3)
    malformed = numbers(bench)["sources"][0]["malformed"]
    assert malformed == {"width": 1, "type": 1, "nan": 1, "infinity": 1, "too_large": 1, "line_too_long": 1}
    assert {event["kind"] for event in told(bench, "source_malformed")} == set(malformed)
    await neighbour_answers(bench)


async def test_followed_file_that_vanishes_is_told_and_followed_again(bench: Bench) -> None:
    path = bench.state / "live.jsonl"
    path.write_text("")
    await deploy(bench, wired(bench, {"type": "tail", "path": "live.jsonl", "fields": XY}))
    await until(lambda: numbers(bench)["sources"][0]["opened"] == 1)
    with path.open("a") as file:
        file.write('{"x": 1, "y": 2}\n')
    await until(lambda: bench.tally("a")["answered"] == 1)
    path.unlink()
    [event] = await until(lambda: told(bench, "source_vanished"))
    assert str(path) in event["path"] and event["agent"] == "a"
    path.write_text('{"x": 3, "y": 4}\n')
    await until(lambda: bench.tally("a")["answered"] == 2)
    assert numbers(bench)["sources"][0]["vanished"] == 1
    await neighbour_answers(bench)


async def test_command_that_dies_is_told_with_its_last_words_and_started_again(bench: Bench) -> None:
    script = 'echo \'{"x": 1, "y": 2}\'; echo out of paper >&2; exit 3'
    await deploy(bench, wired(bench, {"type": "exec", "command": ["sh", "-c", script], "fields": XY}))
    [event] = (await until(lambda: told(bench, "source_exited")))[:1]
    assert (event["code"], event["stderr"]) == (3, "out of paper")
    await until(lambda: bench.tally("a")["answered"] >= 3)
    assert numbers(bench)["sources"][0]["vanished"] >= 2
    await neighbour_answers(bench)


async def test_command_that_is_not_there_is_told_by_name(bench: Bench) -> None:
    await deploy(bench, wired(bench, {"type": "exec", "command": ["/no/such/thing"], "fields": XY}))
    [event] = await until(lambda: told(bench, "source_failed"))
    assert event["kind"] == "start" and "/no/such/thing" in event["error"]
    await neighbour_answers(bench)


async def test_source_that_stalls_is_told_and_told_again_when_it_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "SOURCE_STALL_MS", 50.0)
    monkeypatch.setattr(sources, "SOURCE_LOOK_MS", 10.0)
    (bench.state / "live.jsonl").write_text("")
    await deploy(bench, wired(bench, {"type": "tail", "path": "live.jsonl", "fields": XY}))
    [event] = await until(lambda: told(bench, "source_stalled"))
    assert event["agent"] == "a" and event["after_ms"] >= 50
    with (bench.state / "live.jsonl").open("a") as file:
        file.write('{"x": 1, "y": 2}\n')
    await until(lambda: told(bench, "source_resumed"))
    assert numbers(bench)["sources"][0]["stalls"] == 1
    await neighbour_answers(bench)


@pytest.mark.parametrize("policy", ["block", "drop_oldest", "latest_only"])
async def test_flood_is_held_back_or_dropped_as_declared_and_every_row_is_counted(bench: Bench, policy: str) -> None:
    """20,000 rows at once into a queue of 16 whose agent is paused; the neighbour is answered meanwhile."""
    rows, name = 20_000, AgentName("a")
    queue = {"policy": policy, "rows": 16}
    source = {"type": "csv", "path": "flood.csv", "columns": XY, "speed": 0.0, "queue": queue}
    await deploy(bench, wired(bench, source))
    bench.supervisor.flows.pause(name)
    (bench.state / "flood.csv").write_text("x,y\n" + "1,2\n" * rows)
    if policy == "block":
        await until(lambda: bench.tally("a")["queued"] == 16)
    else:
        await until(lambda: told(bench, "source_ended"), within_s=30.0)
    for _ in range(5):
        await neighbour_answers(bench)
    bench.supervisor.flows.resume(name)
    await until(lambda: told(bench, "source_ended"), within_s=30.0)
    await until(lambda: not bench.tally("a")["queued"] and bench.supervisor.flows.flows[name].pipeline.idle)
    tally = bench.tally("a")
    assert tally["rows_in"] == rows == tally["answered"] + tally["dropped"]
    assert tally["dropped"] == {"block": 0, "drop_oldest": rows - 16, "latest_only": rows - 1}[policy]
    assert tally["lost"] == 0
    assert [event["agent"] for event in told(bench, "rows_dropped")[:1]] == ([] if policy == "block" else ["a"])


async def test_agent_without_the_capability_is_refused_with_the_one_it_needs(bench: Bench) -> None:
    with pytest.raises(AgentFileError, match="csv needs the capability file_source; add it to `capabilities`"):
        bench.mlp("a", (2, 4, 2), wiring={"sources": [{"type": "csv", "path": "x", "columns": XY}]})


async def test_field_that_this_machine_does_not_have_fails_its_agent_alone(bench: Bench) -> None:
    source = {"type": "vitals", "fields": ["cpu_percent", "flux_capacitor"]}
    with pytest.raises(Refused, match="agent a: failed: .*flux_capacitor"):
        await deploy(bench, wired(bench, source))
    await neighbour_answers(bench)


# --- sinks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)  # a sink may hold a file in it still


async def ask_many(bench: Bench, count: int, name: str = "a") -> None:
    await asyncio.gather(*(bench.supervisor.ask(name, [0.1, 0.2], 20.0) for _ in range(count)))


async def test_sink_on_a_full_disk_keeps_what_it_can_and_counts_the_rest(bench: Bench, small_disk: Path) -> None:
    """The other sink and the neighbour get everything; when there is room again, whole lines go on."""
    full = {"type": "jsonl", "path": str(small_disk / "out")}
    await deploy(bench, wired(bench, None, full, {"type": "jsonl", "path": "fine"}))
    await ask_many(bench, 2_000)
    [event] = told(bench, "sink_failed")[:1]
    assert event["agent"] == "a" and event["error"] == "No space left on device" and event["sink"] == "jsonl"
    bad, good = numbers(bench)["sinks"]
    assert bad["failed"] and bad["accepted"] == 2_000 == bad["written"] + bad["waiting"] + bad["dropped"]
    assert (good["written"], good["failed"]) == (2_000, 0)
    await neighbour_answers(bench)
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)  # noqa: ASYNC221
    await asyncio.sleep(0.6)  # it tries again every half second
    await ask_many(bench, 1)
    assert told(bench, "sink_recovered")
    lines = (small_disk / "out").read_text().splitlines()
    sink = numbers(bench)["sinks"][0]
    assert (sink["waiting"], sink["written"], len(lines)) == (0, 2_001 - sink["dropped"], 2_001 - sink["dropped"])
    assert all(json.loads(line)["agent"] == "a" for line in lines)


async def test_device_that_is_always_full_stops_nobody(bench: Bench) -> None:
    await deploy(bench, wired(bench, None, {"type": "jsonl", "path": "/dev/full", "rotate_mb": 1000.0}))
    await ask_many(bench, 10)
    await until(lambda: told(bench, "sink_failed"))
    assert numbers(bench)["sinks"][0]["written"] == 0
    await neighbour_answers(bench)


async def test_sink_that_is_a_folder_or_a_link_is_told_and_not_followed(bench: Bench) -> None:
    (bench.state / "folder").mkdir()
    (bench.state / "secret").write_text("mine\n")
    (bench.state / "link").symlink_to(bench.state / "secret")
    await deploy(bench, wired(bench, None, *({"type": "jsonl", "path": path} for path in ("folder", "link"))))
    await ask_many(bench, 1)
    assert [row["failed"] for row in numbers(bench)["sinks"]] == [1, 1]
    assert (bench.state / "secret").read_text() == "mine\n"
    await neighbour_answers(bench)


async def test_command_that_dies_under_its_sink_is_told_and_started_again(bench: Bench) -> None:
    await deploy(bench, wired(bench, None, {"type": "exec", "command": ["sh", "-c", "read line; exit 7"]}))
    for _ in range(3):
        await ask_many(bench, 1)
        await asyncio.sleep(0.05)
    [event] = (await until(lambda: told(bench, "sink_failed")))[:1]
    assert (event["sink"], event["code"]) == ("exec", 7)
    await until(lambda: numbers(bench)["sinks"][0]["started"] >= 2)
    await neighbour_answers(bench)


async def test_command_behind_a_sink_has_every_record_before_the_supervisor_ends(bench: Bench) -> None:
    await deploy(bench, wired(bench, None, {"type": "exec", "command": ["sh", "-c", "cat > got"]}))
    await ask_many(bench, 50)
    await bench.supervisor.close()
    assert len((bench.state / "got").read_text().splitlines()) == 50


async def test_reader_of_a_socket_that_reads_nothing_holds_nobody_back(bench: Bench) -> None:
    await deploy(bench, wired(bench, None, {"type": "socket", "name": "s"}))
    reader, writer = await asyncio.open_unix_connection(str(bench.state / "run" / "s.sock"))
    _, sleeper = await asyncio.open_unix_connection(str(bench.state / "run" / "s.sock"), limit=1024)
    sleeper.transport.pause_reading()  # type: ignore[attr-defined]
    await until(lambda: numbers(bench)["sinks"][0]["readers"] == 2)
    for _ in range(10):
        await ask_many(bench, 300)
        got = [json.loads(await reader.readline())["seq"] for _ in range(300)]
    assert got[-1] == 3_000
    assert numbers(bench)["sinks"][0]["dropped"] > 0
    assert told(bench, "sink_dropped")[0]["kind"] == "slow_reader"
    for one in (writer, sleeper):
        one.close()
    await neighbour_answers(bench)
