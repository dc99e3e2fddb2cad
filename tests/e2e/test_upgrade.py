"""A supervisor becomes another version of itself under load, again and again; bad versions are sent back."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from processes import Daemon, Start, command_line, descendants, is_alive, publisher, wait_for, write_agent
from supervised import header_tree
from upgrades import BROKEN, GOOD, OFTEN, broken, counting, fds, settled, upgrade

pytestmark = pytest.mark.e2e
UPGRADES = 3


def identity(state: Path, name: str, *, inputs: int = 1, outputs: int = 1, **more: Any) -> str:
    """An agent whose outputs are its input each, plus its memory if it has one."""
    import numpy as np

    from edgeswarm.model import from_arrays

    model = from_arrays([np.ones((inputs, outputs), np.float32)], [np.zeros(outputs, np.float32)])
    tree = header_tree(name, inputs, outputs, **more)
    write_agent(state / f"{name}.af", tree, model, publisher(state))
    return str(state / f"{name}.af")


def story(state: Path) -> list[str]:
    """a: counts at 1 kHz, into a file.  b: reads a's stream.  m: answers programs, and remembers what it was asked."""
    a, b = ({"type": "jsonl", "path": f"{name}.jsonl"} for name in "ab")
    first = {"sources": [counting(state)], "sinks": [a]}
    second = {"sources": [{"type": "agent", "agent": "a"}], "sinks": [b]}
    asked = {"sources": [{"type": "api", "width": 1}]}
    return [
        identity(state, "a", wiring=first, capabilities=["exec_source", "file_sink"]),
        identity(state, "b", wiring=second, capabilities=["file_sink"]),
        identity(state, "m", inputs=2, outputs=2, wiring=asked, memory={"width": 1, "checkpoint_s": 1.0}),
    ]


def rows(path: Path) -> list[tuple[int, int]]:
    """(seq, value) of every record, those of older files first: on a busy machine the story is longer than 10 MB."""
    older = [path.with_name(f"{path.name}.{number}") for number in (3, 2, 1)]
    texts = [file.read_text() for file in (*older, path) if file.exists()]
    records = [json.loads(line) for text in texts for line in text.splitlines()]
    return [(record["seq"], int(record["values"][0])) for record in records]


def jails(daemon: Daemon) -> dict[int, int]:
    return {row["jail"]: row["pid"] for row in daemon.call("status")["jails"]}


def ask(daemon: Daemon, value: float) -> float:
    [answer] = daemon.call("ask", name="m", rows=[[value]])
    return float(answer["values"][0])


def all_once(state: Path) -> int:
    """Every row of the counter was answered exactly once, in order, by both agents; how many.  b may have been opened
    some rows after a."""
    a, b = rows(state / "a.jsonl"), rows(state / "b.jsonl")
    missed = len(a) - len(b)
    assert a == [(number, number) for number in range(1, len(a) + 1)]
    assert b == [(number, missed + number) for number in range(1, len(b) + 1)]
    assert 0 <= missed < 500
    return len(a)


def test_three_upgrades_under_load_lose_and_repeat_nothing_and_no_process_notices(daemons: Start, state: Path) -> None:
    state.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(state / "notify"))
        _three_upgrades(daemons(state, *story(state), env={"NOTIFY_SOCKET": str(state / "notify")}).ready(), state)
        manager.setblocking(False)
        told = [manager.recv(4096).split(b"\n")[0] for _ in range(2 + 2 * UPGRADES)]
    assert told == [b"READY=1", *([b"RELOADING=1", b"READY=1"] * UPGRADES), b"STOPPING=1"]  # and no other main process


def _three_upgrades(daemon: Daemon, state: Path) -> None:
    assert ask(daemon, 1.0) == 1.0
    before, below, open_fds = jails(daemon), descendants(daemon.process.pid), []
    for number in range(1, UPGRADES + 1):
        settled(0.2)
        found = upgrade(daemon, GOOD)
        assert (found["state"], found["count"], found["pid"]) == ("healthy", number, daemon.process.pid)
        assert jails(daemon) == before and descendants(daemon.process.pid) == below
        assert ask(daemon, 1.0) == 1.0 + number  # what it remembers came along
        open_fds.append(fds(daemon))
    assert len(set(open_fds)) == 1
    counters = {row["name"]: row["counters"] for row in daemon.call("status")["agents"]}
    assert all(one["lost"] == one["carried"] == one["resent"] == 0 for one in counters.values())
    assert counters["m"]["answered"] == UPGRADES + 1  # the counts go on
    assert "edgeswarm_agent_running" in daemon.call("metrics")["text"]
    assert len(daemon.events("jail_ready")) == len(before)
    with daemon.client() as client:  # what was logged before is still shown
        assert [line for line in client.follow("logs", lines=2000) if "supervisor_started" in line]
    restarts = len(daemon.events("jail_ready"))
    for pid in before.values():  # a jail that dies is replaced as ever
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: len(daemon.events("jail_ready")) == restarts + len(before), "the agents are back")
    wait_for(lambda: ask(daemon, 1.0) == 2.0 + UPGRADES, "it remembers")
    assert daemon.end() == 0
    assert all_once(state) > 500 * UPGRADES
    wait_for(lambda: not [pid for pid, at in below.items() if is_alive(pid, at)], "nothing is left")


@pytest.mark.parametrize("kinds", [OFTEN, pytest.param(BROKEN.keys() - set(OFTEN), marks=pytest.mark.soak)])
def test_version_that_is_broken_in_any_way_leaves_the_old_one_with_the_same_jails(
    daemons: Start, state: Path, kinds: Sequence[str]
) -> None:
    state.mkdir()
    daemon = daemons(state, *story(state)).ready()
    before, below = jails(daemon), descendants(daemon.process.pid)
    for kind in kinds:
        text = BROKEN[kind][1]
        hangs = "did not stand" in text
        found = upgrade(daemon, broken(kind), healthy_s=3.0, start_s=1.0 if hangs else 30.0)
        assert found["state"] in ("rolled_back", "refused"), kind
        assert text in found["why"], kind
        assert jails(daemon) == before and descendants(daemon.process.pid) == below, kind
    assert upgrade(daemon, GOOD)["state"] == "healthy"  # the next good one is taken all the same
    assert jails(daemon) == before
    assert daemon.end() == 0
    assert all_once(state) > 1000


def test_kill_in_the_middle_leaves_no_orphan_and_the_next_start_goes_on_from_checkpoints(
    daemons: Start, state: Path
) -> None:
    state.mkdir()
    files = story(state)
    daemon = daemons(state, *files).ready()
    assert [ask(daemon, 2.0) for _ in range(3)] == [2.0, 4.0, 6.0]
    below = descendants(daemon.process.pid)
    daemon.call("upgrade", program=broken("never stands"), start_s=60.0)
    wait_for(lambda: b"Arrival" in Path(f"/proc/{daemon.process.pid}/cmdline").read_bytes(), "it is the new program")
    daemon.process.kill()
    daemon.process.wait()
    wait_for(lambda: not [pid for pid, at in below.items() if is_alive(pid, at)], "its jails are gone")
    again = daemons(state).ready()
    assert ask(again, 2.0) == 8.0


def test_state_that_nobody_can_read_is_a_cold_start_and_no_loop(daemons: Start, state: Path) -> None:
    """Both the new and the old version find it damaged: the jails end, and come back from their checkpoints."""
    state.mkdir()
    daemon = daemons(state, *story(state)).ready()
    before, below = jails(daemon), descendants(daemon.process.pid)
    assert ask(daemon, 2.0) == 2.0
    damaging = (
        "import edgeswarm.app.handover_guard as g, os\n"
        "def bad(self): os.pwrite(self.fd, b'!!!!', os.fstat(self.fd).st_size - 4); return old(self)\n"
        "old = g.Guard.body\ng.Guard.body = bad"
    )
    code = f"import sys\n{damaging}\nfrom edgeswarm.__main__ import main\nmain()"
    ready = len(daemon.events("control_listening"))
    daemon.call("upgrade", program=[sys.executable, "-c", code])
    wait_for(lambda: len(daemon.events("control_listening")) > ready, "it serves again", within_s=30.0)
    [told] = daemon.events("handover_given_up")
    assert "do not have the digest" in told["why"] and "cold start" in told["text"]
    wait_for(lambda: not [pid for pid, at in below.items() if is_alive(pid, at)], "the old jails are gone")
    assert ask(daemon, 2.0) == 4.0
    assert not set(jails(daemon).values()) & set(before.values())
    assert daemon.end() == 0


def test_sigterm_in_the_middle_ends_it_in_its_next_life(daemons: Start, state: Path) -> None:
    state.mkdir()
    daemon = daemons(state, *story(state)).ready()
    below = descendants(daemon.process.pid)
    daemon.call("upgrade", program=GOOD)
    assert daemon.end() == 0 or daemon.process.returncode == -signal.SIGTERM
    wait_for(lambda: not [pid for pid, at in below.items() if is_alive(pid, at)], "nothing is left")
    all_once(state)


def test_upgrade_over_the_command_line(daemons: Start, state: Path) -> None:
    daemon = daemons(state).ready()
    done = command_line("daemon", "upgrade", "--state", state, "--healthy-s", "0.2", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["state"], told["pid"], told["count"]) == ("healthy", daemon.process.pid, 1)
    bad = command_line("daemon", "upgrade", "--state", state, "--program", "/bin/true")
    assert bad.returncode == 3 and "did not say which hand-overs it reads" in bad.stderr
    assert daemon.call("ping")["pid"] == daemon.process.pid


@pytest.mark.soak
def test_descriptors_do_not_leak_over_twenty_upgrades(daemons: Start, state: Path) -> None:
    state.mkdir()
    daemon = daemons(state, *story(state)).ready()
    upgrade(daemon, GOOD)
    open_fds = fds(daemon)
    for _ in range(20):
        assert upgrade(daemon, GOOD, healthy_s=0.1)["state"] == "healthy"
    assert fds(daemon) == open_fds
    assert daemon.end() == 0
    all_once(state)
