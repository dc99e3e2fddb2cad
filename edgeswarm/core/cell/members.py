"""Commands on devices and agents: who is there, what is wanted, what runs where."""

from __future__ import annotations

from dataclasses import replace

from edgeswarm.core.cell import changes as ch
from edgeswarm.core.cell import commands as cmd
from edgeswarm.core.cell.book import Book, Refused
from edgeswarm.core.cell.tasks import release_tasks
from edgeswarm.core.cell.types import AgentState, DeviceState, Move
from edgeswarm.limits import CELL_AGENTS_MAX, CELL_DEVICES_MAX


def device_of(book: Book, device_id: str) -> DeviceState:
    device = book.devices.get(device_id)
    if device is None:
        raise Refused(f"device {device_id} is not in the cell")
    return device


def agent_of(book: Book, agent_id: str) -> AgentState:
    agent = book.agents.get(agent_id)
    if agent is None:
        raise Refused(f"agent {agent_id} is not deployed")
    return agent


# --- devices --------------------------------------------------------------------------------------------------------


def register(book: Book, command: cmd.RegisterDevice) -> list[ch.Change]:
    """A device that starts again lost what it was doing: its tasks go to others; its agents stay placed on it."""
    old = book.devices.get(command.device)
    if old is None and len(book.devices) >= CELL_DEVICES_MAX:
        raise Refused(f"devices: a cell has at most {CELL_DEVICES_MAX}")
    if old is not None and command.boot < old.boot:
        raise Refused(f"device {command.device}: boot {command.boot} is over, it is at {old.boot}")
    if old is not None and old.alive and (old.boot, old.capabilities) == (command.boot, command.capabilities):
        return []
    started = old is None or not old.alive or command.boot > old.boot
    epoch = book.next_epoch() if old is None or started else old.epoch
    book.devices[command.device] = DeviceState(
        command.device,
        command.capabilities,
        command.boot,
        book.index,
        alive=True,
        epoch=epoch,
        drained=old.drained if old is not None else False,
    )
    changes: list[ch.Change] = []
    if old is not None and command.boot > old.boot:
        changes += release_tasks(book, command.device, "the device started again")
    if started:
        changes.append(ch.DeviceUp(command.device, epoch))
    if old is not None and old.capabilities != command.capabilities:
        changes.append(ch.DeviceChanged(command.device))
    return changes


def lost(book: Book, command: cmd.DeviceLost) -> list[ch.Change]:
    """Its agents stay placed on it until the leader moves them: where nothing else fits, they wait for it."""
    device = device_of(book, command.device)
    if not device.alive or device.epoch != command.epoch:
        raise Refused(f"device {device.id}: epoch {command.epoch} is over, it is at {device.epoch}")
    epoch = book.next_epoch()
    book.devices[device.id] = replace(device, alive=False, epoch=epoch)
    return [ch.DeviceDown(device.id, epoch), *release_tasks(book, device.id, "the device was lost")]


def back(book: Book, command: cmd.DeviceBack) -> list[ch.Change]:
    device = device_of(book, command.device)
    if device.alive or device.epoch != command.epoch:
        raise Refused(f"device {device.id}: epoch {command.epoch} is over, it is at {device.epoch}")
    epoch = book.next_epoch()
    book.devices[device.id] = replace(device, alive=True, epoch=epoch)
    return [ch.DeviceUp(device.id, epoch)]


def forget(book: Book, command: cmd.ForgetDevice) -> list[ch.Change]:
    device = device_of(book, command.device)
    changes: list[ch.Change] = []
    for agent_id in book.agents_on(device.id):
        epoch = book.next_epoch()
        book.put_agent(replace(book.agents[agent_id], device=None, epoch=epoch))
        changes.append(ch.Unplaced(agent_id, device.id, epoch))
    changes += release_tasks(book, device.id, "the device left the cell")
    del book.devices[device.id]
    book.labels.pop(device.id, None)
    book.note(command.who, f"forget device {device.id}")
    return [*changes, ch.DeviceForgotten(device.id)]


def drain(book: Book, command: cmd.Drain) -> list[ch.Change]:
    device = device_of(book, command.device)
    if device.drained == command.drained:
        return []
    book.devices[device.id] = replace(device, drained=command.drained)
    book.note(command.who, f"{'drain' if command.drained else 'undrain'} device {device.id}")
    return [ch.DeviceChanged(device.id)]


# --- agents ---------------------------------------------------------------------------------------------------------


def deploy(book: Book, command: cmd.Deploy) -> list[ch.Change]:
    spec = command.spec
    old = book.agents.get(spec.id)
    version = old.version if old is not None else 0
    if version != command.version:
        found = f"it is at version {version}" if old is not None else "it is not deployed"
        raise Refused(f"agent {spec.id}: expected version {command.version}, {found}")
    if old is None:
        if len(book.agents) >= CELL_AGENTS_MAX:
            raise Refused(f"agents: a cell has at most {CELL_AGENTS_MAX}")
        book.put_agent(AgentState(spec, version=1, desired_at=book.index))
        book.note(command.who, f"deploy {spec.id} {spec.artefact.hex()[:12]}")
        return [ch.Deployed(spec.id, 1)]
    switched = spec.artefact != old.spec.artefact
    desired_at = book.index if switched else old.desired_at
    book.put_agent(replace(old, spec=spec, version=version + 1, desired_at=desired_at))
    book.note(command.who, f"deploy {spec.id} {spec.artefact.hex()[:12]} version {version + 1}")
    changes: list[ch.Change] = [ch.Deployed(spec.id, version + 1)]
    return [*changes, ch.Desired(spec.id, spec.artefact, version + 1)] if switched else changes


def place(book: Book, command: cmd.Place) -> list[ch.Change]:
    changes: list[ch.Change] = []
    for move in command.moves:
        try:
            changes.append(_move(book, move))
        except Refused as refused:
            changes.append(ch.Rejected(str(refused)))
    return changes


def _move(book: Book, move: Move) -> ch.Change:
    agent = agent_of(book, move.agent)
    if agent.epoch != move.epoch:
        raise Refused(f"agent {move.agent}: epoch {move.epoch} is over, it is at {agent.epoch}")
    if agent.device == move.device:
        raise Refused(f"agent {move.agent} is there already")
    if move.device is not None:
        target = device_of(book, move.device)
        if not target.alive or target.drained:
            raise Refused(f"device {target.id} is {'drained' if target.alive else 'lost'}, nothing is placed on it")
    epoch = book.next_epoch()
    book.put_agent(replace(agent, device=move.device, epoch=epoch))
    if move.device is None:
        assert agent.device is not None
        return ch.Unplaced(move.agent, agent.device, epoch)
    if agent.device is None:
        return ch.Placed(move.agent, move.device, epoch)
    return ch.Moved(move.agent, agent.device, move.device, epoch)


def desire(book: Book, command: cmd.Desire) -> list[ch.Change]:
    for want in command.wants:
        agent_of(book, want.agent)
    changes: list[ch.Change] = []
    for want in command.wants:
        agent = book.agents[want.agent]
        if agent.spec.artefact == want.artefact:
            continue
        spec = replace(agent.spec, artefact=want.artefact)
        book.put_agent(replace(agent, spec=spec, version=agent.version + 1, desired_at=book.index))
        book.note(command.who, f"desire {want.agent} {want.artefact.hex()[:12]}")
        changes.append(ch.Desired(want.agent, want.artefact, agent.version + 1))
    return changes


def remove(book: Book, command: cmd.Remove) -> list[ch.Change]:
    agent = agent_of(book, command.agent)
    book.drop_agent(agent)
    book.note(command.who, f"remove {command.agent}")
    return [ch.Removed(command.agent, agent.device)]


def checkpoint(book: Book, command: cmd.Checkpoint) -> list[ch.Change]:
    agent = agent_of(book, command.agent)
    if not agent.spec.stateful:
        raise Refused(f"agent {command.agent} keeps no state")
    if agent.device is None or agent.epoch != command.epoch:
        raise Refused(f"agent {command.agent}: epoch {command.epoch} is over, it is at {agent.epoch}")
    if agent.checkpoint == command.digest:
        return []
    book.put_agent(replace(agent, checkpoint=command.digest))
    return [ch.Checkpointed(command.agent, command.digest)]
