"""Who writes during the demo and remembers every answer; and the audit, which looks for all of it in every log.

The writer proposes a numbered note each PACE_S, whatever became of those before.  A note is `acked` when the cell said
that it is committed, at which entry; `unknown` when no answer came: it may be in the log or not, and either is right.
The audit reads the databases of the voters after they have ended: what is on disk, not what somebody says.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from edgeswarm.app.cli.demo_cell import Device
from edgeswarm.errors import EdgeSwarmError

PACE_S = 0.05
DEADLINE_S = 1.0  # for one note; so long a leader that does not answer may hold it up
HANDS = 32  # more than DEADLINE_S / PACE_S: a note that waits holds up no other


@dataclass(frozen=True, slots=True)
class Acked:
    """Times: time.monotonic()."""

    number: int
    index: int
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Unknown:
    """A note without an answer, and what was said instead."""

    number: int
    began: float
    why: str


@dataclass(slots=True)
class Written:
    acked: list[Acked] = field(default_factory=list)
    unknown: list[Unknown] = field(default_factory=list)

    def first_after(self, at: float) -> Acked | None:
        """The first answer to a note that was begun after `at`."""
        return min((one for one in list(self.acked) if one.began >= at), key=lambda one: one.ended, default=None)

    @property
    def longest_pause(self) -> tuple[float, float]:
        """(seconds between two answers that followed each other, when it began)."""
        times = sorted(one.ended for one in self.acked)
        return max(((b - a, a) for a, b in itertools.pairwise(times)), default=(0.0, 0.0))


class Writer:
    """Over `device`'s control socket, in threads of its own."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.written = Written()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._next = 0
        self._began = time.monotonic()
        self._threads = [threading.Thread(target=self._write, name="writer", daemon=True) for _ in range(HANDS)]
        for thread in self._threads:
            thread.start()

    def _take(self) -> tuple[int, float]:
        """The next number, and when it is due."""
        with self._lock:
            now = time.monotonic() - self._began
            self._next = max(self._next + 1, int(now / PACE_S))  # never a burst of those that are overdue
            return self._next, self._began + self._next * PACE_S

    def _write(self) -> None:
        client = None
        while True:
            number, due = self._take()
            if self._ended.wait(max(0.0, due - time.monotonic())):
                break
            began = time.monotonic()
            try:
                if client is None:
                    client = self.device.connect(DEADLINE_S + 2.0)
                answer = client.call("swarm", what="note", text=text_of(number), deadline_s=DEADLINE_S)
                self.written.acked.append(Acked(number, answer["index"], began, time.monotonic()))
            except (EdgeSwarmError, OSError) as error:
                self.written.unknown.append(Unknown(number, began, str(error)))
                if client is not None:
                    client.__exit__()
                client = None
        if client is not None:
            client.__exit__()

    def stop(self) -> Written:
        """Every note that was begun has its answer when this returns."""
        self._ended.set()
        for thread in self._threads:
            thread.join(DEADLINE_S + 3.0)
        return self.written


def text_of(number: int) -> str:
    return f"demo note {number}"


# --- the audit --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Audit:
    """logs: voters whose log was read.  lost: acked notes that some log does not hold where the answer said.
    found_unknown: notes without an answer that are committed all the same.  equal_to: the last entry that was compared.
    """

    logs: int
    lost: tuple[int, ...]
    found_unknown: int
    equal_to: int
    differ: bool
    faults: tuple[str, ...]


def audit(devices: Iterable[Device], written: Written, voters: int) -> Audit:
    """Compare the voters' databases with what was acknowledged, and with each other.  Nobody may have them open."""
    logs: dict[str, dict[int, tuple[int, bytes]]] = {}
    faults: list[str] = []
    commits = []
    for device in devices:
        path = device.state / "swarm" / "raft.db"
        try:
            entries, commit = read_log(path)
        except (EdgeSwarmError, OSError) as error:
            faults.append(f"{device.name}: {error}")
            continue
        logs[device.name] = entries
        commits.append(commit)
    if len(logs) < voters:
        faults.append(f"{len(logs)} of {voters} logs could be read")
    common = min(commits, default=0)
    low = max((min(log, default=0) for log in logs.values()), default=0)
    differ = len({tuple(log.get(i) for i in range(low, common + 1)) for log in logs.values()}) > 1
    lost = {one.number for one in written.acked for log in logs.values() if not _holds(log, one)}
    if not logs:
        lost = {one.number for one in written.acked}
    whole = next(iter(logs.values()), {})
    notes = {number for number in map(_number, whole.values()) if number is not None}
    found = len(notes & {one.number for one in written.unknown})
    return Audit(len(logs), tuple(sorted(lost)), found, common, differ, tuple(faults))


def read_log(path: Path) -> tuple[dict[int, tuple[int, bytes]], int]:
    """(index -> (term, data), commit index) of a database that nobody has open, checked as at every opening."""
    from edgeswarm.drivers.raft_store_check import load
    from edgeswarm.drivers.raft_store_schema import connect

    database = connect(path)
    try:
        found = load(database, path)
    finally:
        database.close()
    storage = found.storage
    low, high = storage.first_index(), storage.last_index() + 1
    entries = storage.entries(low, high, 1 << 40) if low < high else ()
    return {entry.index: (entry.term, entry.data) for entry in entries}, found.hard_state.commit


def _number(entry: tuple[int, bytes]) -> int | None:
    """The number of the note in an entry; None for any other entry."""
    from edgeswarm.app.swarm.replica import TAG_BYTES
    from edgeswarm.core.cell import commands as cmd

    try:
        command = cmd.decode(entry[1][TAG_BYTES:])
    except EdgeSwarmError:
        return None
    words = command.what.split() if isinstance(command, cmd.Note) else []
    return int(words[-1]) if words[:2] == ["demo", "note"] and words[-1].isdigit() else None


def _holds(log: dict[int, tuple[int, bytes]], acked: Acked) -> bool:
    return acked.index in log and _number(log[acked.index]) == acked.number
