"""The audit log on disk: over restarts, power cuts, full disks, and what somebody does to it meanwhile."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import environment

from edgeswarm.app import audit
from edgeswarm.app.audit import Audit
from edgeswarm.app.log import Log
from edgeswarm.limits import AUDIT_CHECKPOINT_LINES, AUDIT_WAITING_MAX
from edgeswarm.wire.certificate import Signatory

KEY = Signatory.from_seed(b"\1" * 32)
NEXT = Signatory.from_seed(b"\2" * 32)


class Clock:
    now = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def log() -> Log:
    return Log(stream=None)


@pytest.fixture
def opened(tmp_path: Path, log: Log) -> Iterator[Audit]:
    made = Audit(tmp_path, KEY, log)
    yield made
    made.close()


def sound(folder: Path, *keys: Signatory) -> int:
    """The number of lines of a log without a fault."""
    fault, lines, behind = audit.verify(folder, [key.public for key in keys or (KEY,)])
    assert fault is None, fault
    assert behind == 0
    return lines


def actions(folder: Path) -> list[str]:
    return [entry["action"] for entry in audit.entries(folder)]


def test_what_is_told_is_on_disk_in_order_and_verifies(opened: Audit, tmp_path: Path) -> None:
    opened.kid_of = {"root(0)": "k1"}.__getitem__
    for number in range(200):
        opened.record("agent.deploy", who="root(0)", target=f"a{number}", outcome="failed", reason="no", cause="c1")
    opened.flush()
    found = list(audit.entries(tmp_path))
    assert [entry["target"] for entry in found] == [f"a{number}" for number in range(200)]
    assert found[0] == {
        "seq": 2,
        "time": found[0]["time"],
        "action": "agent.deploy",
        "name": "root(0)",
        "kid": "k1",
        "role": "",
        "capability": "",
        "target": "a0",
        "outcome": "failed",
        "reason": "no",
        "cause": "c1",
    }
    assert sound(tmp_path) >= 200 + 200 // AUDIT_CHECKPOINT_LINES


def test_each_run_goes_on_where_the_last_one_ended(tmp_path: Path, log: Log) -> None:
    for run in range(3):
        one = Audit(tmp_path, KEY, log)
        one.record("run", who="d1", target=str(run))
        one.close()
        one.close()
        one.record("late", who="d1")
        sound(tmp_path)
    assert actions(tmp_path) == ["run", "run", "run"]
    assert len(audit.paths_of(tmp_path)) == 1


def test_old_segments_go_and_the_rest_verifies(tmp_path: Path, log: Log) -> None:
    one = Audit(tmp_path, KEY, log, segment_bytes=4_000, bytes_max=60_000)
    for number in range(400):
        one.record("x", who="d1", target=str(number))
        if number % 50 == 0:
            one.flush()
            sound(tmp_path)
    one.close()
    paths = audit.paths_of(tmp_path)
    assert sum(path.stat().st_size for path in paths) < 90_000 and len(paths) > 2
    assert int(paths[0].stem) > 1
    sound(tmp_path)
    assert list(audit.entries(tmp_path))[-1]["target"] == "399"


def test_segments_that_are_too_old_go(tmp_path: Path, log: Log) -> None:
    clock = Clock()
    one = Audit(tmp_path, KEY, log, clock=clock, segment_s=100.0, age_s_max=1_000.0)
    for _ in range(30):
        clock.now += 101
        one.record("x", who="d1")
        one.flush()
        for path in audit.paths_of(tmp_path):
            if path.stat().st_mtime > clock.now + 1 or abs(path.stat().st_mtime - clock.now) > 10_000:
                os.utime(path, (clock.now, clock.now))
    one.close()
    sound(tmp_path)
    assert 8 <= len(audit.paths_of(tmp_path)) <= 13


def test_torn_last_line_is_cut_off_and_noted(tmp_path: Path, log: Log) -> None:
    one = Audit(tmp_path, KEY, log)
    one.record("first", who="d1")
    one.close()
    path = audit.paths_of(tmp_path)[0]
    with open(path, "ab") as file:
        file.write(b'{"action":"half a li')
    assert audit.verify(tmp_path)[0] is not None
    two = Audit(tmp_path, KEY, log)
    two.record("second", who="d1")
    two.close()
    sound(tmp_path)
    assert actions(tmp_path) == ["first", "audit.repair", "second"]


def test_lines_removed_while_the_device_was_off_stay_missed(tmp_path: Path, log: Log) -> None:
    one = Audit(tmp_path, KEY, log)
    for name in ("a", "b", "c"):
        one.record(name, who="d1")
    one.close()
    path = audit.paths_of(tmp_path)[0]
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-3]))
    fault = audit.verify(tmp_path)[0]
    assert fault is not None and fault.kind == "truncated tail"
    two = Audit(tmp_path, KEY, log)
    two.record("d", who="d1")
    two.close()
    fault = audit.verify(tmp_path)[0]
    assert fault is not None and fault.kind == "missing"
    repairs = [entry["reason"] for entry in audit.entries(tmp_path) if entry["action"] == "audit.repair"]
    assert len(repairs) == 1 and "were not here" in repairs[0]


def test_key_that_changes_vouches_for_what_the_old_one_signed(opened: Audit, tmp_path: Path) -> None:
    opened.record("before", who="d1")
    opened.new_signer(NEXT)
    opened.record("after", who="d1")
    opened.flush()
    sound(tmp_path, NEXT)
    assert audit.verify(tmp_path, [KEY.public])[0] is not None


def test_full_disk_is_counted_logged_and_written_down_later(
    opened: Audit, tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened.record("before", who="d1")
    opened.flush()
    real, full = os.write, True

    def write(descriptor: int, data: bytes) -> int:
        if full and b'"prev"' in data:
            real(descriptor, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    for _ in range(5):
        opened.record("during", who="d1")
        opened.flush()
    assert opened.lost == 5
    assert len([line for line in log.ring.lines if "audit_not_written" in line]) == 1
    full = False
    opened.record("after", who="d1")
    opened.flush()
    assert opened.lost == 0
    assert "during" not in actions(tmp_path) and actions(tmp_path)[-1] == "after"
    [lost] = [entry["reason"] for entry in audit.entries(tmp_path) if entry["action"] == "audit.lost"]
    assert lost.startswith("5 lines")
    sound(tmp_path)


def test_who_tells_more_than_the_disk_takes_does_not_wait(
    opened: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, entered, real = threading.Event(), threading.Event(), os.fdatasync

    def stuck(descriptor: int) -> None:
        entered.set()
        gate.wait(20)
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", stuck)
    opened.record("x", who="d1")
    entered.wait(20)
    for _ in range(AUDIT_WAITING_MAX + 50):
        opened.record("x", who="d1")
    assert opened.lost == 50
    gate.set()
    opened.flush()
    opened.record("last", who="d1")
    opened.flush()
    assert opened.lost == 0 and "audit.lost" in actions(tmp_path)
    sound(tmp_path)


def test_folder_that_cannot_be_written_raises_nothing(tmp_path: Path, log: Log) -> None:
    (tmp_path / "file").write_text("")
    one = Audit(tmp_path / "file" / "audit", KEY, log)
    one.record("x", who="d1")
    one.kid_of = lambda who: 1 // 0  # type: ignore[assignment,return-value]
    one.record("x", who="d1")
    one.flush()
    one.close()
    assert one.lost == 2


WRITER = """
import sys
from pathlib import Path
from edgeswarm.app.audit import Audit
from edgeswarm.app.log import Log
from edgeswarm.wire.certificate import Signatory
one = Audit(Path(sys.argv[1]), Signatory.from_seed(bytes([1]) * 32), Log(stream=None), segment_bytes=20_000)
for number in range(10**9):
    one.record("x", who="d1", target=str(number))
    if number % 7 == 0:
        one.flush()
        print(number, flush=True)
"""


@pytest.mark.parametrize("seed", range(4))
def test_killed_writer_leaves_a_log_that_verifies_after_the_next_start(tmp_path: Path, log: Log, seed: int) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(home=tmp_path)) as child:
        assert child.stdout is not None
        said: Any = b""
        for _ in range(5 + 9 * seed):
            said = child.stdout.readline()
        child.kill()
    two = Audit(tmp_path, KEY, log)
    two.record("again", who="d1")
    two.close()
    sound(tmp_path)
    targets = [entry["target"] for entry in audit.entries(tmp_path) if entry["action"] == "x"]
    assert targets == [str(number) for number in range(len(targets))]
    assert len(targets) > int(said), "a line that was flushed is gone"
