"""`edgeswarm demo` as a user runs it, without bursts of load: what it breaks, what it counts, what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from processes import descendants, is_alive, wait_for

pytestmark = pytest.mark.e2e
DEMO = [sys.executable, "-m", "edgeswarm", "demo", "--quick"]


@pytest.fixture
def scratch() -> Path:
    """An empty TMPDIR: what the demo leaves there is seen.  Short, for the sockets below it."""
    return Path(tempfile.mkdtemp(prefix="es-"))


def environment(scratch: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1"}


def test_every_item_of_the_check_list_is_seen_and_nothing_is_left_behind(scratch: Path) -> None:
    done = subprocess.run(
        [*DEMO, "--json"],
        env=environment(scratch),
        capture_output=True,
        text=True,
        timeout=90,
        stdin=subprocess.DEVNULL,
    )
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert [text for text, ok in found["checks"].items() if not ok] == [], found["timeline"]
    assert done.returncode == 0
    facts = found["facts"]
    assert (facts["audit"]["logs"], facts["audit"]["lost"]) == (5, [])
    assert facts["written"]["acknowledged"] > 0
    assert len(set(facts["placed"].values())) == 3
    assert facts["next_leader"]["device"] != facts["killed"]
    assert list(scratch.iterdir()) == []


def test_ctrl_c_ends_everything_that_it_started(scratch: Path) -> None:
    with open(scratch / "said", "wb") as said:
        process = subprocess.Popen(
            DEMO, env=environment(scratch), stdout=said, stderr=said, stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        wait_for(lambda: b"leads in term" in (scratch / "said").read_bytes(), "a leader", within_s=40)
        below = descendants(process.pid)
        assert len(below) >= 6  # five devices and a broker, at least
        process.send_signal(signal.SIGINT)
        assert process.wait(30) in (130, -signal.SIGINT)  # a shell says 130 of both
        wait_for(lambda: not [pid for pid, at in below.items() if is_alive(pid, at)], "all of it is gone")
        assert [path.name for path in scratch.iterdir()] == ["said"]
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
