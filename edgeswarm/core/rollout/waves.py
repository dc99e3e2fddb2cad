"""What the controller does next with a rollout: the next wave, a wait, a roll-back, or nothing more to do.

A wave is a share of all devices that the selector matches.  Who is in which wave follows from a hash of the rollout and
the device, so that the canary is another one each time and every controller says the same.
A device that is not there holds nothing back: it stays in its wave, and converges when it comes.  But a wave of which
nobody was seen healthy is followed by none, and one device too many that failed (or refused) rolls all of it back.
Level-triggered: looks at everything, says one thing.  Pure: `now` (seconds, monotonic) is an argument.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from edgeswarm.core.rollout.steps import State
from edgeswarm.limits import ROLLOUT_ADVANCE_MAX, ROLLOUT_SILENT_S, ROLLOUT_WHY_CHARS_MAX
from edgeswarm.wire.rollout import Plan, Share

_BAD: Final = frozenset({"failed", "refused", "rolled_back"})


@dataclass(frozen=True, slots=True)
class Report:
    """What a device last said of this rollout."""

    state: State
    why: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """A rollout as the controller sees it.

    matched: what the selector matches now.  wave, devices: as the log says.  there: devices of which something was
    heard lately.  wave_at: since when this wave is known here; well_at: since when all has been well with it, or None.
    """

    matched: Collection[str]
    wave: int
    devices: Sequence[str]
    reports: Mapping[str, Report]
    there: Collection[str]
    wave_at: float
    well_at: float | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """Devices that the rollout has reached, each in one of the five."""

    reached: int = 0
    healthy: int = 0
    failed: int = 0
    silent: int = 0
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Advance:
    """Propose: these devices too; wave: its number from then on."""

    wave: int
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TakeBack:
    """Propose: rolled back."""

    why: str


@dataclass(frozen=True, slots=True)
class Finish:
    """Propose: done."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Look again in `s` seconds (None: when something changes).  well: nothing but the pause holds it."""

    why: str
    s: float | None = None
    well: bool = False


Decision = Advance | TakeBack | Finish | Hold


def order(rollout: str, devices: Collection[str]) -> list[str]:
    """The devices in the order in which the rollout reaches them."""
    return sorted(devices, key=lambda device: (hashlib.sha256(f"{rollout}/{device}".encode()).digest(), device))


def sizes(waves: Sequence[str], matched: int) -> list[int]:
    """How many devices have it after each wave: never fewer than after the one before."""
    found: list[int] = []
    for text in waves:
        wanted = min(matched, Share.parse(text).of(matched, up=True))
        found.append(max([wanted, *found[-1:]]))
    return found


def state_of(device: str, seen: Seen, now: float) -> str:
    """healthy, failed, silent or waiting."""
    report = seen.reports.get(device)
    if report is not None and report.state == "healthy":
        return "healthy"
    if report is not None and report.state in _BAD:
        return "failed"
    late = report is None and now - seen.wave_at >= ROLLOUT_SILENT_S
    return "silent" if device not in seen.there or late else "waiting"


def count(seen: Seen, now: float) -> Counts:
    states = [state_of(device, seen, now) for device in seen.devices]
    return Counts(len(states), *(states.count(name) for name in ("healthy", "failed", "silent", "waiting")))


def decide(plan: Plan, seen: Seen, now: float) -> Decision:
    """What to do with a rollout that is running."""
    counts, gate = count(seen, now), plan.gate
    if not seen.wave:
        return _advance(plan, seen, 1) or Hold("the selector matches no device")
    if counts.failed > Share.parse(gate.failed_max).of(counts.reached, up=False):
        return TakeBack(_why_failed(seen, counts, gate.failed_max))
    late = _advance(plan, seen, min(seen.wave, len(plan.waves)), same=True)
    if late is not None:
        return late  # the rest of a large wave, and devices that match only now
    if counts.waiting:
        wait_s = max(1.0, seen.wave_at + ROLLOUT_SILENT_S - now)
        return Hold(f"{counts.waiting} of {counts.reached} devices are at it", wait_s)
    if not counts.healthy:
        return Hold(f"nobody of {counts.reached} devices was seen healthy")
    if counts.silent > Share.parse(gate.silent_max).of(counts.reached, up=False):
        return Hold(f"{counts.silent} of {counts.reached} devices are silent, the gate allows {gate.silent_max}")
    if seen.wave >= len(plan.waves):
        return Finish()
    if seen.well_at is None:
        return Hold(f"wave {seen.wave} is well", float(gate.pause_s), well=True)
    left_s = seen.well_at + gate.pause_s - now
    if left_s > 0:
        return Hold(f"wave {seen.wave} is well", left_s, well=True)
    for wave in range(seen.wave + 1, len(plan.waves) + 1):  # of few devices, some waves bring nobody new
        if (found := _advance(plan, seen, wave)) is not None:
            return found
    return Finish()


def _advance(plan: Plan, seen: Seen, wave: int, *, same: bool = False) -> Advance | None:
    """The devices that this wave lacks; None: it lacks nobody."""
    size = sizes(plan.waves, len(seen.matched))[wave - 1]
    has = set(seen.devices)
    lacking = size - len(has & set(seen.matched))
    new = [device for device in order(plan.rollout, seen.matched) if device not in has][: max(0, lacking)]
    new = new[:ROLLOUT_ADVANCE_MAX]
    return Advance(seen.wave if same else seen.wave + 1, tuple(sorted(new))) if new else None


def _why_failed(seen: Seen, counts: Counts, allowed: str) -> str:
    first = next(
        (device for device in seen.devices if (r := seen.reports.get(device)) is not None and r.state in _BAD), ""
    )
    report = seen.reports.get(first)
    text = f"{counts.failed} of {counts.reached} devices failed, the gate allows {allowed}"
    return f"{text}: {first}: {report.why}"[:ROLLOUT_WHY_CHARS_MAX] if report is not None else text
