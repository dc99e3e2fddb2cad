"""The whole command line against a real supervisor in another process, agents in real jails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e
RUN = "import sys; from edgeswarm.app.cli import root; sys.exit(root.run(sys.argv[1:]))"


@pytest.fixture
def watch(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An agent file that watches this machine's vitals."""
    monkeypatch.chdir(tmp_path)
    assert cli("agent", "new", "watch").code == 0
    assert cli("agent", "build", "watch/agent.yaml", "--weights", "watch/weights.json").code == 0
    return tmp_path / "watch.af"


@pytest.fixture
def supervisor(watch: Path, state: Path, cli) -> Iterator[subprocess.Popen[str]]:
    """`edgeswarm run watch.af`, once its agent runs."""
    log = state / "log.txt"
    with open(log, "w") as file:
        process = subprocess.Popen([sys.executable, "-c", RUN, "run", str(watch)], stderr=file, stdout=file, text=True)
    until = time.monotonic() + 30
    while '"running"' not in cli("agent", "list", "--json").out:
        assert process.poll() is None and time.monotonic() < until, log.read_text()
        time.sleep(0.05)
    yield process
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()


def until(cli, wanted) -> list[dict]:
    """Agents by `agent list`, once `wanted(agents)` holds."""
    end = time.monotonic() + 30
    while True:
        agents = cli("agent", "list", "--json").json()
        if wanted(agents):
            return agents
        assert time.monotonic() < end, agents
        time.sleep(0.05)


def test_a_day_in_the_life_of_an_agent(cli, watch: Path, supervisor: subprocess.Popen[str]) -> None:
    """It runs, is swapped, gets other weights, is stopped, started, removed; the log tells of it; SIGTERM ends all."""
    agents = until(cli, lambda rows: rows and rows[0]["counters"].get("answered", 0) > 1)
    assert (agents[0]["name"], agents[0]["status"]) == ("watch", "running")
    assert "watch" in cli("status").out

    Path("watch/agent.yaml").write_text(Path("watch/agent.yaml").read_text().replace('"1.0.0"', '"1.1.0"'))
    assert cli("agent", "build", "watch/agent.yaml", "--weights", "watch/weights.json", "-o", "next.af").code == 0
    assert "watch: swapped" in cli("agent", "swap", "watch", "next.af").out
    assert until(cli, lambda rows: rows[0]["version"] == "1.1.0")[0]["counters"]["lost"] == 0
    assert cli("agent", "swap", "watch", "--weights", "watch.af").code == 0

    assert cli("agent", "deploy", watch).code == 2, "two agents of one name"
    assert cli("agent", "stop", "watch").out == "watch: stopped\n"
    assert until(cli, lambda rows: rows[0]["status"] == "stopped")
    assert cli("agent", "start", "watch").code == 0
    assert until(cli, lambda rows: rows[0]["status"] == "running")
    assert cli("agent", "remove", "watch").code == 0
    assert until(cli, lambda rows: not rows) == []
    assert cli("agent", "remove", "watch").code == 2

    events = [json.loads(line)["event"] for line in cli("logs", "--json", "-n", 1000).out.splitlines()]
    for event in ("supervisor_started", "jail_ready", "agent_running", "agent_swapped", "agent_removed"):
        assert event in events
    assert "edgeswarm_supervisor_memory_bytes" in cli("metrics").out
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(30) == 0
    assert cli("status").code == 8


def test_files_that_a_supervisor_refuses(cli, watch: Path, supervisor: subprocess.Popen[str]) -> None:
    """Nobody trusted, nobody's, changed, cut: each with its code, and the agent that runs goes on."""
    assert cli("agent", "new", "other").code == 0
    build = ("agent", "build", "other/agent.yaml", "--weights", "other/weights.json")
    assert cli(*build, "--key", "k", "-o", "foreign.af").code == 0
    assert cli(*build, "--unsigned", "-o", "unsigned.af").code == 0
    assert cli(*build, "-o", "good.af").code == 0
    good = Path("good.af").read_bytes()
    Path("changed.af").write_bytes(good.replace(b"rate_hz: 5.0", b"rate_hz: 9.0", 1))
    Path("cut.af").write_bytes(good[:-500])
    codes = {"foreign": 5, "unsigned": 5, "changed": 5, "cut": 3}
    for name, code in codes.items():
        done = cli("agent", "deploy", f"{name}.af")
        assert (name, done.code, f"{name}.af" in done.err) == (name, code, True), done.err
    assert [row["status"] for row in cli("agent", "list", "--json").json()] == ["running"]


def test_a_second_supervisor_on_the_same_state_is_refused(
    cli, watch: Path, supervisor: subprocess.Popen[str], state: Path
) -> None:
    done = subprocess.run([sys.executable, "-c", RUN, "run"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "runs on this state directory already" in done.stderr


def test_a_supervisor_that_cannot_start_says_why(cli, watch: Path, state: Path) -> None:
    assert cli("run", "none.af").code == 3
    done = cli("run", "--profile", "nonsense")
    assert (done.code, "expected one of" in done.err) == (2, True)
    Path("bad.toml").write_text("[limits]\nmemory_mb = -1\ncores = 2\n")
    done = cli("run", "-c", "bad.toml")
    assert (done.code, "limits.memory_mb" in done.err, "limits.cores" in done.err) == (2, True, True)
    assert sorted(os.listdir(state)) == ["keys", "swarm.lock", "trust.d"]
