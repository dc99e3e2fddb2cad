"""A supervisor as its own process: killed, ended, started again, as root and as nobody, and asked by strangers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from processes import (
    NOBODY,
    Daemon,
    Start,
    command_line,
    descendants,
    is_alive,
    publisher,
    python,
    wait_for,
    write_agent,
)
from supervised import header_tree

pytestmark = pytest.mark.e2e
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
GONE_WITHIN_S = 1.0


def counter(state: Path, path: Path, name: str = "a") -> bytes:
    """An agent that counts its rows, with a normaliser that learns: output = row + memory, kept every second."""
    import numpy as np

    from edgeswarm.model import from_arrays

    model = from_arrays([np.ones((2, 2), np.float32)], [np.zeros(2, np.float32)])
    wiring = {
        "sources": [{"type": "api", "width": 1}],
        "normalize": {"method": "minmax", "warmup_rows": 2, "clip": 0.0},
    }
    tree = header_tree(name, 2, 2, memory={"width": 1, "checkpoint_s": 1.0}, wiring=wiring)
    return write_agent(path, tree, model, publisher(state))


def ask(daemon: Daemon, value: float, name: str = "a") -> float | None:
    [answer] = daemon.call("ask", name=name, rows=[[value]])
    return None if answer is None else float(answer["values"][0])


def test_deploy_over_the_command_line_then_kill_then_go_on_from_the_checkpoint(daemons: Start, state: Path) -> None:
    """kill -9 takes the zygote and every jail along within a second; the next start has memory and scale again."""
    state.mkdir()
    counter(state, state / "a.af")
    daemon = daemons(state).ready()
    done = command_line("agent", "deploy", state / "a.af", "--state", state)
    assert done.returncode == 0, done.stderr
    assert [ask(daemon, value) for value in (0.0, 10.0)] == [None, None]  # warm-up: 0 .. 10 is the scale
    assert [ask(daemon, 10.0) for _ in range(3)] == [1.0, 2.0, 3.0]
    daemon.call("checkpoint", name="a")
    assert ask(daemon, 10.0) == 4.0
    below = descendants(daemon.process.pid)
    assert len(below) >= 2
    daemon.process.kill()
    killed = time.monotonic()
    daemon.process.wait()
    wait_for(lambda: not [pid for pid, at in below.items() if is_alive(pid, at)], "its jails are gone")
    assert time.monotonic() - killed < GONE_WITHIN_S
    assert daemon.sockets  # nobody was left to remove it
    again = daemons(state).ready()
    assert ask(again, 10.0) == 4.0
    [restored] = again.events("checkpoint_restored")
    assert restored["agent"] == "a"


def test_checkpoint_of_every_second_is_what_a_kill_leaves(daemons: Start, state: Path) -> None:
    state.mkdir()
    counter(state, state / "a.af")
    daemon = daemons(state, str(state / "a.af")).ready()
    for value in (0.0, 10.0, 10.0, 10.0):
        ask(daemon, value)
    path = state / "agents" / "a.checkpoint"
    wait_for(path.exists, "the first checkpoint")
    written = path.stat().st_mtime_ns
    wait_for(lambda: path.stat().st_mtime_ns != written, "the second checkpoint")
    daemon.end(signal.SIGKILL)
    assert ask(daemons(state).ready(), 10.0) == 3.0


def test_sigterm_ends_it_with_a_checkpoint_and_leaves_nothing_running(daemons: Start, state: Path) -> None:
    state.mkdir()
    counter(state, state / "a.af")
    daemon = daemons(state, str(state / "a.af")).ready()
    for value in (0.0, 10.0, 10.0):
        ask(daemon, value)
    below = descendants(daemon.process.pid)
    assert daemon.end() == 0
    assert daemon.events("supervisor_stopped")
    assert not [pid for pid, at in below.items() if is_alive(pid, at)]
    assert not daemon.sockets
    again = daemons(state).ready()
    assert ask(again, 10.0) == 2.0
    assert again.call("shutdown") == {} and again.process.wait(20) == 0


def test_second_supervisor_on_one_state_is_refused_and_the_first_goes_on(daemons: Start, state: Path) -> None:
    first = daemons(state).ready()
    second = daemons(state)
    assert second.process.wait(20) == 2
    assert "a supervisor runs on this state directory already" in second.said()
    (state / "other.toml").write_text('device = "other"\n')  # another name, so another socket, but the same state
    third = daemons(state, "-c", str(state / "other.toml"))
    assert third.process.wait(20) == 2
    assert f"state directory {state}: another supervisor uses it" in third.said()
    assert first.call("ping")["pid"] == first.process.pid


def test_two_supervisors_with_a_state_each_do_not_meet(daemons: Start, state: Path) -> None:
    one, other = daemons(state / "1").ready(), daemons(state / "2").ready()
    assert one.call("ping")["pid"] != other.call("ping")["pid"]


@pytest.mark.parametrize("kind", ["root", pytest.param("nobody", marks=ROOT_ONLY)])
def test_control_socket_is_its_owner_s_alone(daemons: Start, state: Path, kind: str) -> None:
    state.mkdir()
    if kind == "nobody":
        os.chown(state, NOBODY, NOBODY)
    daemon = daemons(state, user=NOBODY if kind == "nobody" else None).ready()
    [path] = daemon.sockets
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((state / "run").stat().st_mode) == 0o700
    assert stat.S_IMODE((state / "keys" / "device.key").stat().st_mode) == 0o600
    assert daemon.call("ping")["tier"] in "ABC"  # root may ask in any case


@ROOT_ONLY
def test_whole_story_as_an_ordinary_user(daemons: Start, state: Path) -> None:
    state.mkdir()
    counter(state, state / "a.af")
    for path in [state, *state.rglob("*")]:
        os.chown(path, NOBODY, NOBODY)
    daemon = daemons(state, str(state / "a.af"), user=NOBODY).ready()
    assert os.stat(f"/proc/{daemon.process.pid}").st_uid == NOBODY
    assert [ask(daemon, value) for value in (0.0, 10.0, 10.0)] == [None, None, 1.0]
    below = descendants(daemon.process.pid)
    daemon.process.kill()
    killed = time.monotonic()
    daemon.process.wait()
    wait_for(lambda: not [pid for pid, at in below.items() if is_alive(pid, at)], "its jails are gone")
    assert time.monotonic() - killed < GONE_WITHIN_S


STRANGER = """
import socket, sys
with socket.socket(socket.AF_UNIX) as s:
    s.connect(sys.argv[1])
    try:
        s.sendall(bytes.fromhex("00000009a1626f706470696e67"))
        print(len(s.recv(100)))
    except ConnectionError as error:
        print(type(error).__name__)
"""


@ROOT_ONLY
def test_another_user_is_turned_away_by_the_folder_the_mode_and_the_peer_s_credentials(
    daemons: Start, state: Path
) -> None:
    daemon = daemons(state).ready()
    [path] = daemon.sockets

    def stranger() -> subprocess.CompletedProcess[str]:
        return python("-c", STRANGER, str(path), user=NOBODY)

    assert "PermissionError" in stranger().stderr
    for opened in (state, state / "run"):
        opened.chmod(0o755)
    assert "PermissionError" in stranger().stderr  # the socket's own mode
    path.chmod(0o666)
    assert stranger().stdout in ("0\n", "BrokenPipeError\n", "ConnectionResetError\n")  # SO_PEERCRED: hung up on
    asked = command_line("status", "--state", state, "--json", user=NOBODY)
    assert asked.returncode != 0 and json.loads(asked.stderr)["error"]
    assert daemon.call("ping")


@ROOT_ONLY
def test_state_that_may_not_be_written_is_exit_code_4_and_names_the_path(daemons: Start, state: Path) -> None:
    state.mkdir(mode=0o755)
    daemon = daemons(state, user=NOBODY)
    assert daemon.process.wait(20) == 4
    assert str(state) in daemon.said() and "Traceback" not in daemon.said()


def bad_state(state: Path, kind: str) -> list[str]:
    """Prepare what is wrong; the arguments of `run`."""
    state.mkdir()
    counter(state, state / "a.af")
    if kind == "profile":
        return ["--profile", "toaster"]
    if kind == "settings":
        (state / "x.toml").write_text("[limits]\nmemory_mb = 'much'\nmemroy_mb = 1\n")
        return ["-c", str(state / "x.toml")]
    if kind == "database":
        (state / "edgeswarm.db").write_bytes(b"not a database " * 500)
    if kind == "key":
        (state / "keys" / "device.key").write_text("hello")
        (state / "keys" / "device.key").chmod(0o600)
    if kind == "readable key":
        (state / "keys" / "device.key").write_text("0" * 64)
        (state / "keys" / "device.key").chmod(0o644)
    if kind == "untrusted":
        shutil.rmtree(state / "trust.d")
        return [str(state / "a.af")]
    if kind == "truncated":
        path = state / "a.af"
        path.write_bytes(path.read_bytes()[:-300])
        return [str(path)]
    if kind == "missing":
        return [str(state / "none.af")]
    return []


@pytest.mark.parametrize(
    ("kind", "code", "text"),
    [
        ("profile", 2, "profile"),
        ("settings", 2, "limits.memroy_mb"),
        ("database", 3, "not a database"),
        ("key", 2, "64 hex digits"),
        ("readable key", 4, "chmod 600"),
        ("untrusted", 5, "trust.d"),
        ("truncated", 3, "a.af"),
        ("missing", 3, "none.af"),
    ],
)
def test_bad_start_ends_with_its_exit_code_and_a_text_that_names_what_is_wrong(
    daemons: Start, state: Path, kind: str, code: int, text: str
) -> None:
    daemon = daemons(state, *bad_state(state, kind))
    assert daemon.process.wait(20) == code, daemon.said()
    assert text in daemon.said() and "Traceback" not in daemon.said()


def test_agents_of_the_settings_run_and_a_bad_one_among_them_stops_nobody(daemons: Start, state: Path) -> None:
    state.mkdir()
    counter(state, state / "a.af")
    bad = state / "b.af"
    bad.write_bytes((state / "a.af").read_bytes()[:-300])
    agents = [str(state / "a.af"), str(bad), str(state / "none.af")]
    (state / "x.toml").write_text(f"agents = {json.dumps(agents)}\n")
    daemon = daemons(state, "-c", str(state / "x.toml"), str(state / "a.af")).ready()
    assert {row["name"]: row["status"] for row in daemon.call("status")["agents"]} == {"a": "running"}
    files = [event["file"] for event in daemon.events("agent_not_deployed")]
    assert files == agents[1:]


def test_metrics_are_served_on_the_port_of_the_settings(daemons: Start, state: Path) -> None:
    import urllib.request

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    daemon = daemons(state, env={"EDGESWARM_METRICS__PORT": str(port)}).ready()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert "edgeswarm_supervisor_memory_bytes" in answer.read().decode()
    second = daemons(state.parent / "t", env={"EDGESWARM_METRICS__PORT": str(port)})
    assert second.process.wait(20) == 2
    assert f"metrics.port: cannot listen on 127.0.0.1:{port}" in second.said()
    assert daemon.call("ping")


def test_log_on_standard_error_is_one_json_object_a_line(daemons: Start, state: Path) -> None:
    state.mkdir()
    counter(state, state / "a.af")
    daemon = daemons(state, str(state / "a.af"), "--log-level", "debug").ready()
    daemon.end()
    entries: list[dict[str, Any]] = [json.loads(line) for line in daemon.said().splitlines()]
    assert {"at", "level", "event"} <= set.intersection(*(set(entry) for entry in entries))
    cause = next(entry["cause"] for entry in entries if entry["event"] == "agent_running")
    story = [entry["event"] for entry in entries if entry.get("cause") == cause]
    assert story[0] == "event" and {"agent_preparing", "jail_ready", "agent_running"} <= set(story)
