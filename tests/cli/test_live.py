"""Commands that ask a supervisor, against a control server that answers as one: what is asked, printed and returned."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import select
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeswarm import agentfile
from edgeswarm.app import config
from edgeswarm.drivers.control import ControlServer
from edgeswarm.errors import LocalError, UnknownPublisherError

AGENT = {
    "name": "watch",
    "network": "watch",
    "version": "1.0.0",
    "status": "running",
    "detail": "",
    "restarts": 0,
    "counters": {"rows_in": 10, "answered": 10, "lost": 0},
    "latency": {"count": 10, "p50_us": 90.0, "p99_us": 120.0},
    "last": {"label": "busy", "score": 0.9, "flagged": True, "values": [0.9]},
}
STATUS = {
    "version": "0.1.0",
    "device": "pi",
    "profile": "default",
    "pid": 7,
    "tier": "A",
    "uptime_s": 60.0,
    "rss_bytes": 40 << 20,
    "agents": [AGENT],
    "jails": [],
    "totals": {"rows_in": 10, "lost": 0},
}
LINES = [
    {"at": "2026-01-02T03:04:05.678Z", "level": "debug", "event": "event", "cause": "deploy-watch-1"},
    {"at": "2026-01-02T03:04:05.679Z", "level": "info", "event": "agent_running", "cause": "deploy-watch-1"},
    {"at": "2026-01-02T03:04:06.000Z", "level": "error", "event": "jail_exited", "cause": "jail1-exit-2"},
]


class Double:
    """Answers as a supervisor does, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.tier = "A"
        self.starting = 0
        self.leaders: list[str | None] = []

    def answer(self, op: str, args: dict[str, Any]) -> Awaitable[Any] | AsyncIterator[Any]:
        self.asked.append((op, args))
        return self._lines(args) if op == "logs" else self._one(op, args)

    async def _one(self, op: str, args: dict[str, Any]) -> Any:
        if args.get("name") == "nobody":
            raise LocalError("agent nobody: no agent of that name is deployed")
        if op == "deploy":
            if any(item["data"] == b"unknown" for item in args["files"]):
                raise UnknownPublisherError("publisher 00 is not trusted here", who="x.af")
            return [{"name": "watch", "artefact": "ab" * 32, "status": "running"} for _ in args["files"]]
        if op == "status" and self.starting:
            self.starting -= 1
            return {**STATUS, "tier": None}
        if op == "swarm":
            if not self.leaders:
                raise LocalError("this device is not in its cell yet")
            return {"leader": self.leaders.pop(0)}
        answers = {
            "status": STATUS,
            "ping": {"tier": self.tier, "degraded": "" if self.tier == "A" else "no namespaces"},
            "metrics": {"text": "edgeswarm_up 1\n"},
            "config": {"limits.memory_mb": {"value": 64, "origin": "flag"}},
            "swap": {"name": args.get("name"), "artefact": "cd" * 32, "status": "swapped"},
        }
        done = {"stop": "stopped", "start": "running", "remove": "removed", "weights": "weights_swapped"}
        return answers.get(op) or {"name": args.get("name"), "status": done[op]}

    async def _lines(self, args: dict[str, Any]) -> AsyncIterator[Any]:
        for line in LINES[-args["lines"] :]:
            yield json.dumps(line)


@pytest.fixture
def double(state: Path) -> Iterator[Double]:
    """A control server on the socket where the state directory's supervisor would be."""
    found, ready, end = Double(), threading.Event(), threading.Event()
    path = config.load(state=state).socket_path

    async def serve() -> None:
        server = ControlServer(path, found.answer)
        await server.start()
        ready.set()
        await asyncio.to_thread(end.wait)
        await server.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(10)
    yield found
    end.set()
    thread.join(10)


@pytest.mark.parametrize(
    "command",
    [
        ("status",), ("top",), ("logs",), ("metrics",), ("config", "show", "--running"), ("agent", "list"),
        ("agent", "stop", "a"), ("agent", "start", "a"), ("agent", "remove", "a"), ("agent", "deploy", "/dev/null"),
        ("agent", "swap", "a", "/dev/null"),
    ],
)  # fmt: skip
def test_without_a_supervisor_the_code_is_8_and_the_text_says_what_to_do(command: tuple[str, ...], cli) -> None:
    done = cli(*command)
    assert (done.code, "edgeswarm run" in done.err, "--state" in done.err) == (8, True, True)


def test_status_list_and_metrics(cli, double: Double) -> None:
    assert cli("status", "--json").json() == STATUS
    assert "pi, tier A" in cli("status").out
    assert cli("agent", "list", "--json").json() == [AGENT]
    assert "watch" in cli("agent", "list").out
    assert cli("metrics").out == "edgeswarm_up 1\n"
    assert cli("metrics", "--json").json() == {"text": "edgeswarm_up 1\n"}
    assert cli("config", "show", "--running", "--json").json()["limits.memory_mb"]["origin"] == "flag"


def test_status_waits_until_the_supervisor_has_started(cli, double: Double) -> None:
    double.starting = 3
    assert cli("status", "--json").json()["tier"] is None
    assert "tier not known yet" in cli("status").out
    assert cli("status", "--wait", 30, "--json").json() == STATUS
    double.starting = 1_000
    done = cli("status", "--wait", 0.01)
    assert (done.code, "still starting" in done.err) == (8, True)


def test_status_waits_for_a_supervisor_that_is_not_there_yet(cli, state: Path) -> None:
    done = cli("status", "--wait", 0.01)
    assert (done.code, "no supervisor runs on" in done.err) == (8, True)


def test_swarm_status_waits_until_the_device_is_in_its_cell_and_knows_a_leader(cli, double: Double) -> None:
    assert cli("swarm", "status", "--json").code == 2
    double.leaders = [None, None, "d1"]
    assert cli("swarm", "status", "--wait", 30, "--json").json() == {"leader": "d1"}
    double.leaders = [None] * 100
    assert cli("swarm", "status", "--json").json() == {"leader": None}
    done = cli("swarm", "status", "--wait", 0.01)
    assert (done.code, "still has no leader" in done.err) == (3, True)


def test_deploy_hands_over_all_files_at_once(cli, double: Double, tmp_path: Path) -> None:
    (tmp_path / "a.af").write_bytes(b"one")
    (tmp_path / "b.af").write_bytes(b"two")
    done = cli("agent", "deploy", tmp_path / "a.af", tmp_path / "b.af")
    assert done.out.splitlines() == ["watch: running (abababababab)"] * 2
    files = [{"who": str(tmp_path / name), "data": data} for name, data in (("a.af", b"one"), ("b.af", b"two"))]
    assert double.asked == [("deploy", {"files": files}), ("ping", {})]
    assert "degraded" not in done.err
    (tmp_path / "b.af").write_bytes(b"unknown")
    done = cli("agent", "deploy", tmp_path / "b.af", "--json")
    assert (done.code, json.loads(done.err)["error"]["kind"]) == (5, "UnknownPublisherError")
    assert cli("agent", "deploy", tmp_path / "none.af").code == 3
    assert [op for op, _ in double.asked] == ["deploy", "ping", "deploy"], "what cannot be read is not sent"


def test_deploy_on_a_weaker_machine_says_which_layers_its_jails_lack(cli, double: Double, tmp_path: Path) -> None:
    (tmp_path / "a.af").write_bytes(b"one")
    double.tier = "B"
    done = cli("agent", "deploy", tmp_path / "a.af")
    assert done.code == 0
    assert "tier B DEGRADED: no namespaces" in done.err
    assert "edgeswarm doctor --explain" in done.err


def test_stop_start_remove_say_what_was_done_before_a_refusal(cli, double: Double) -> None:
    assert cli("agent", "stop", "a", "b").out == "a: stopped\nb: stopped\n"
    assert [row["name"] for row in cli("agent", "start", "a", "b", "--json").json()] == ["a", "b"]
    done = cli("agent", "remove", "a", "nobody", "b")
    assert (done.code, done.out.startswith("a: "), "no agent of that name" in done.err) == (2, True, True)
    assert ("remove", {"name": "b"}) not in double.asked


def test_swap_of_a_version_and_of_weights(cli, double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("agent", "new", "watch").code == 0
    assert cli("agent", "build", "watch/agent.yaml", "--weights", "watch/weights.json").code == 0
    assert "watch: swapped" in cli("agent", "swap", "watch", "watch.af").out
    assert double.asked[-1][1]["data"] == Path("watch.af").read_bytes()
    assert cli("agent", "swap", "watch", "--weights", "watch.af").code == 0
    op, args = double.asked[-1]
    assert (op, args["name"], len(args["data"])) == ("weights", "watch", 64)
    file = agentfile.read(Path("watch.af").read_bytes(), who="watch.af")
    assert args["topology"] == file.header.kernel.topology  # with which the supervisor compares its own
    assert cli("agent", "swap", "watch").code == 2
    assert cli("agent", "swap", "watch", "watch.af", "--weights", "watch.af").code == 2
    assert cli("agent", "build", "watch/agent.yaml", "--random-seed", 1, "--key", "k", "-o", "other.af").code == 0
    asked = len(double.asked)
    assert cli("agent", "swap", "watch", "--weights", "other.af").code == 5
    assert len(double.asked) == asked, "weights of nobody trusted are not sent"


def test_logs_can_be_narrowed(cli, double: Double) -> None:
    assert [json.loads(line) for line in cli("logs", "--json").out.splitlines()] == LINES
    assert cli("logs", "-n", 1).out == "03:04:06.000  error    jail_exited  cause=jail1-exit-2\n"
    assert double.asked[-1] == ("logs", {"lines": 1, "follow": False})
    assert len(cli("logs", "--level", "info").out.splitlines()) == 2
    assert len(cli("logs", "--grep", "deploy-watch-1").out.splitlines()) == 2
    assert cli("logs", "-f").code == 0
    assert double.asked[-1][1]["follow"] is True


def test_top_without_a_terminal_prints_one_picture_an_interval(cli, double: Double) -> None:
    done = cli("top", "--count", 2, "--interval", 0.1)
    assert done.out.count("pi, tier A") == 2
    assert "\x1b" not in done.out
    done = cli("top", "--count", 3, "--interval", 0.1, "--json")
    assert [json.loads(line) for line in done.out.splitlines()] == [STATUS] * 3


def test_names_of_agents_are_completed(double: Double, state: Path) -> None:
    environ = {**os.environ, "_EDGESWARM_COMPLETE": "bash_complete", "COMP_WORDS": "edgeswarm agent stop w"}
    code = "import sys; sys.argv = ['edgeswarm']; from edgeswarm.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**environ, "COMP_CWORD": "3"}, capture_output=True, text=True, timeout=30
    )
    assert done.stdout.strip() == "plain,watch"


# --- top on a terminal -----------------------------------------------------------------------------------------------


TOP = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that ctrl-c on it is a signal
sys.argv = ['edgeswarm', 'top', '--interval', '60']
from edgeswarm.__main__ import main
main()
"""


def on_terminal(key: bytes) -> tuple[int, str]:
    """`edgeswarm top` on a pseudo-terminal until `key` is pressed, once a second; exit code and everything it drew."""
    terminal, theirs = pty.openpty()
    environ = {**os.environ, "COLUMNS": "90", "LINES": "20"}
    process = subprocess.Popen(
        [sys.executable, "-c", TOP], stdin=theirs, stdout=theirs, stderr=theirs, env=environ, start_new_session=True
    )
    os.close(theirs)
    drawn, press_at, until = b"", 0.0, time.monotonic() + 30
    while time.monotonic() < until:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                drawn += os.read(terminal, 65_536)
            except OSError:
                break  # the other end is closed
        if b"q quits" in drawn and time.monotonic() >= press_at:
            press_at = time.monotonic() + 1
            os.write(terminal, key)
    os.close(terminal)
    return process.wait(10), drawn.decode()


@pytest.mark.parametrize("key", [b"q", b"\x03"])
def test_top_draws_in_place_and_gives_the_screen_back(key: bytes, double: Double) -> None:
    code, drawn = on_terminal(key)
    assert code == 0
    assert drawn.startswith("\x1b[?1049h\x1b[?25l")
    assert drawn.endswith("\x1b[?25h\x1b[?1049l")
    assert "watch" in drawn
    assert "\x1b[31m" in drawn, "what is flagged is red"
