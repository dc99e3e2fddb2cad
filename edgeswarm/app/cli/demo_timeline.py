"""What is seen of the demo: looks that wait, a timeline in numbers, the labels, and where agents ran by the logs."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any, TypeVar

import click

from edgeswarm.app.cli.demo import FUSE, Seen
from edgeswarm.app.cli.demo_cell import DemoCell
from edgeswarm.app.cli.demo_writer import Audit, Written
from edgeswarm.errors import EdgeSwarmError

WAIT_S = 15.0
LABELS_S = 12.0  # three seconds of learning, some windows, and room for a slow machine
LOOK_S = 0.005
T = TypeVar("T")


def until(look: Callable[[], T], within_s: float = WAIT_S) -> T | None:
    """The first true answer; None when none came.  A device that cannot answer has not answered yet."""
    end = time.monotonic() + within_s
    while True:
        with contextlib.suppress(EdgeSwarmError, OSError):
            if found := look():
                return found
        if time.monotonic() > end:
            return None
        time.sleep(LOOK_S)


@dataclass(slots=True)
class Proof:
    """A leader's certificate, checked with the root's public key and the roster alone."""

    device: str
    term: int
    votes: int
    voters: int


@dataclass(slots=True)
class Facts:
    """What was seen; None and empty: it was not.  Milliseconds from the cause."""

    broker: str = ""
    leader: Proof | None = None
    forgery: str = ""
    """Why a certificate with one bit changed was refused."""
    placed: dict[str, str] = field(default_factory=dict)
    killed: str = ""
    killed_led: bool = False
    killed_agents: tuple[str, ...] = ()
    next_leader: Proof | None = None
    next_leader_ms: float | None = None
    first_write_ms: float | None = None
    moved_ms: float | None = None
    labels_again_ms: float | None = None
    back_ms: float | None = None
    back_runs_copy: bool | None = None
    cut: str = ""
    cut_agents: tuple[str, ...] = ()
    cut_stopped_ms: float | None = None
    cut_moved_ms: float | None = None
    mended_ms: float | None = None
    mended_runs_copy: bool | None = None
    broker_listens_ms: float | None = None
    broker_write_ms: float | None = None
    broker_labels_ms: float | None = None
    overlap_ms: float | None = None
    """The longest time that one agent ran on two devices, by the logs of all; negative: so long it ran nowhere."""
    caught_up: bool = False
    written: Written = field(default_factory=Written)
    audit: Audit | None = None


class Timeline:
    """One line an event: seconds since the start, what, and milliseconds where something was waited for."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self.began = time.monotonic()
        self.events: list[dict[str, Any]] = []

    @property
    def now(self) -> float:
        return time.monotonic() - self.began

    def note(self, text: str) -> None:
        """A line without a time."""
        if not self._quiet:
            click.echo(text)

    def say(self, text: str, ms: float | None = None) -> None:
        self.events.append({"at_s": round(self.now, 3), "what": text, **({} if ms is None else {"ms": round(ms, 1)})})
        if not self._quiet:
            click.echo(f"  {self.now:5.1f} s  {text:<78}" + ("" if ms is None else f"{ms:7.0f} ms"))

    def since(self, text: str, ms: float | None) -> float | None:
        """What has come of an act; `ms` is None where nothing did."""
        self.say(f"  {text}" if ms is not None else f"  LATE, not seen: {text}", ms)
        return ms


class Labels:
    """Every label of the fuse, from whichever device runs it.  Times: seconds of the timeline."""

    def __init__(self, cell: DemoCell, line: Timeline) -> None:
        self.seen = Seen()
        self._cell, self._line = cell, line
        self._ended = threading.Event()
        threading.Thread(target=self._follow, name="labels", daemon=True).start()

    def _follow(self) -> None:
        devices = list(self._cell.devices.values())
        while not self._ended.wait(0.05):
            for device in devices:
                with contextlib.suppress(EdgeSwarmError, OSError), device.connect(2.0) as client:
                    if FUSE not in client.call("swarm", what="status")["agents"]:
                        continue
                    for record in client.follow("stream", name=FUSE):
                        self.seen.labels.append((self._line.now, record["label"]))
                        if self._ended.is_set():
                            return

    def after(self, at: float) -> bool:
        return bool(self.seen.labels) and self.seen.labels[-1][0] > at

    def stop(self) -> None:
        self._ended.set()


# --- one agent, one device --------------------------------------------------------------------------------------------


def overlap_ms(cell: DemoCell, killed: dict[str, float], ended: float) -> float | None:
    """The longest time that an agent ran on two devices; negative: the shortest time between two.  None: none moved.

    By the devices' logs, which share this machine's clock.  killed: device -> when its log broke off.
    """
    spans: dict[str, list[tuple[float, float, str]]] = {}
    for device in cell.devices.values():
        for agent, start, end in runs_of(device.events(*RUN_EVENTS), killed.get(device.name), ended):
            spans.setdefault(agent, []).append((start, end, device.name))
    found = [
        first[1] - second[0]
        for each in spans.values()
        for first, second in pairwise(sorted(each))
        if first[2] != second[2]
    ]
    return max(found) * 1000 if found else None


RUN_EVENTS = ("cell_agent_runs", "cell_agent_stopped", "supervisor_stopped", "swarm_joined")


def runs_of(rows: list[dict[str, Any]], killed_at: float | None, ended: float) -> list[tuple[str, float, float]]:
    """(agent, from, to) in seconds, from a device's log; what was never stopped ran until it was killed, or the end."""
    open_: dict[str, float] = {}
    found: list[tuple[str, float, float]] = []
    for row in rows:
        at = datetime.fromisoformat(row["at"]).timestamp()
        match row["event"]:
            case "cell_agent_runs":
                open_.setdefault(row["agent"], at)
            case "cell_agent_stopped" if row["agent"] in open_:
                found.append((row["agent"], open_.pop(row["agent"]), at))
            case "swarm_joined":  # another life: the one before was killed
                found += [(agent, start, killed_at or at) for agent, start in open_.items()]
                open_.clear()
    return found + [(agent, start, ended) for agent, start in open_.items()]
