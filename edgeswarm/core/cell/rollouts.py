"""Commands on rollouts: which artefact an operator signed for an agent, and which devices it has reached.

The state does not read plans and orders: whoever obeys one checks its signature first.
Invariant: what a device runs (`desired`), and what it falls back to when that is rolled back, is not forgotten while
there is other room to be had; what it runs is not forgotten at all.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from edgeswarm.core.cell import changes as ch
from edgeswarm.core.cell import commands_fleet as cmd
from edgeswarm.core.cell.book import Book, Refused
from edgeswarm.core.cell.records import rollout_bytes
from edgeswarm.core.cell.types import RolloutState
from edgeswarm.limits import CELL_DEVICES_MAX, CELL_ROLLOUTS_BYTES_MAX, CELL_ROLLOUTS_MAX


def rollout_of(book: Book, rollout_id: str) -> RolloutState:
    rollout = book.rollouts.get(rollout_id)
    if rollout is None:
        raise Refused(f"rollout {rollout_id} is not known")
    return rollout


def desired(book: Book, device: str) -> tuple[tuple[str, bytes, str], ...]:
    """(agent, artefact, rollout) for each agent that a rollout has brought to `device`, by agent.

    It is the newest that has the device and was not rolled back; one that was aborted stays where it is.
    """
    found: dict[str, RolloutState] = {}
    for rollout in book.rollouts.values():
        if rollout.state != "rolled_back" and has(rollout, device):
            found[rollout.agent] = rollout  # the newest stands last
    return tuple((agent, rollout.artefact, rollout.id) for agent, rollout in sorted(found.items()))


def has(rollout: RolloutState, device: str) -> bool:
    at = bisect_left(rollout.devices, device)
    return at < len(rollout.devices) and rollout.devices[at] == device


def start(book: Book, command: cmd.StartRollout) -> list[ch.Change]:
    new = RolloutState(command.rollout, command.agent, command.artefact, command.plan, command.who, book.index)
    old = book.rollouts.get(new.id)
    if old is not None:
        if (old.agent, old.artefact, old.plan) == (new.agent, new.artefact, new.plan):
            return []
        raise Refused(f"rollout {new.id} is there already, of agent {old.agent}")
    for rollout in book.rollouts.values():
        if rollout.agent == new.agent and rollout.open:
            raise Refused(f"agent {new.agent}: rollout {rollout.id} is {rollout.state}; end it first")
    _make_room(book, new)
    book.rollouts[new.id] = new
    book.note(command.who, f"rollout {new.id}: {new.agent} {new.artefact.hex()[:12]}")
    return [ch.RolloutChanged(new.id)]


def advance(book: Book, command: cmd.AdvanceRollout) -> list[ch.Change]:
    rollout = rollout_of(book, command.rollout)
    if rollout.state != "running":
        raise Refused(f"rollout {rollout.id} is {rollout.state}, and does not advance")
    if command.wave not in (rollout.wave, rollout.wave + 1):
        raise Refused(f"rollout {rollout.id}: wave {command.wave}, expected {rollout.wave} or {rollout.wave + 1}")
    devices = tuple(sorted({*rollout.devices, *command.devices}))
    if len(devices) > CELL_DEVICES_MAX:
        raise Refused(f"rollout {rollout.id}: at most {CELL_DEVICES_MAX} devices, found {len(devices)}")
    if (command.wave, devices) == (rollout.wave, rollout.devices):
        return []
    if not command.wave:
        raise Refused(f"rollout {rollout.id}: wave 0 has no devices, expected 1")
    new = replace(rollout, wave=command.wave, devices=devices)
    _make_room(book, new)
    book.rollouts[rollout.id] = new
    added = len(devices) - len(rollout.devices)
    book.note(command.who, f"rollout {rollout.id}: wave {command.wave}, {added} devices more")
    return [ch.RolloutChanged(rollout.id)]


def steer(book: Book, command: cmd.SteerRollout) -> list[ch.Change]:
    rollout = rollout_of(book, command.rollout)
    if rollout.state == command.state:
        return []
    if not rollout.open and (rollout.state, command.state) != ("done", "rolled_back"):
        raise Refused(f"rollout {rollout.id} is {rollout.state}, and cannot become {command.state}")
    book.rollouts[rollout.id] = replace(rollout, state=command.state, order=command.order, why=command.why)
    book.note(command.who, f"rollout {rollout.id}: {command.state} {command.why}")
    return [ch.RolloutChanged(rollout.id)]


# --- room -----------------------------------------------------------------------------------------------------------


def _make_room(book: Book, new: RolloutState) -> None:
    """Forget what has ended and no device needs, the oldest first, until `new` fits; else nothing.  Raises Refused."""
    rest = {rollout.id: rollout_bytes(rollout) for rollout in book.rollouts.values() if rollout.id != new.id}
    held, need = sum(rest.values()), rollout_bytes(new)

    def full() -> bool:
        return len(rest) >= CELL_ROLLOUTS_MAX or held + need > CELL_ROLLOUTS_BYTES_MAX

    if not full():
        return
    for deep in (2, 1):  # what devices run and fall back to; then what they run
        kept = _needed(book.rollouts.values(), new, deep)
        for rollout_id in [one for one in rest if one not in kept]:
            if full():
                held -= rest.pop(rollout_id)
    if full():
        raise Refused(
            f"rollouts: a cell keeps {CELL_ROLLOUTS_MAX} in {CELL_ROLLOUTS_BYTES_MAX} bytes, and all are in use"
        )
    for rollout_id in [one for one in book.rollouts if one not in rest and one != new.id]:
        del book.rollouts[rollout_id]


def _needed(rollouts: Iterable[RolloutState], new: RolloutState, deep: int) -> set[str]:
    """Those that are open, or that for some device are among the `deep` newest of their agent not rolled back."""
    found: set[str] = set()
    seen: Counter[tuple[str, str]] = Counter()
    for rollout in reversed([new if one.id == new.id else one for one in rollouts]):
        if rollout.open:
            found.add(rollout.id)
        if rollout.state == "rolled_back":
            continue
        for device in rollout.devices:
            key = rollout.agent, device
            if seen[key] < deep:
                seen[key] += 1
                found.add(rollout.id)
    return found
