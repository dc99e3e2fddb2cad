"""Checkpoints that travel: what a stateful agent of the cell remembers goes with it to its next device.

On disk a checkpoint is sealed under its device's own key, which no other device has.  A travelling one holds the same
state, signed by the device that wrote it (COSE, bound to fleet, cell and agent), is an artefact like any other, kept
by a majority of the voters before the log names it, and is checked against the roster where the agent is brought up.
The command Checkpoint names the placement's epoch: what an older copy writes is refused.
Positions of sources stay behind: they mean something only on the device that they are of.

Bytes: length of the signature (2 bytes, big endian), the detached COSE_Sign1, then CBOR {agent, epoch, state}.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cbor2

from edgeswarm.app.swarm.replica import RejectedError
from edgeswarm.core.cell import commands as cmd
from edgeswarm.core.cell.types import AgentState
from edgeswarm.drivers import checkpoints
from edgeswarm.drivers.checkpoints import CheckpointError
from edgeswarm.drivers.files import write_whole
from edgeswarm.errors import CodecError, CoseError, EdgeSwarmError
from edgeswarm.limits import CHECKPOINT_BYTES_MAX, CHECKPOINT_TRAVEL_S, CHECKPOINT_WAIT_S
from edgeswarm.wire import cose
from edgeswarm.wire.capability import MEMORY

if TYPE_CHECKING:
    from edgeswarm.app.swarm.node import SwarmNode


def purpose(fleet: str, cell: str, agent: str) -> bytes:
    """What a signature on a checkpoint is bound to."""
    return f"es/1/{fleet}/{cell}/checkpoint/{agent}".encode()


def pack(state: dict[str, Any], *, agent: str, epoch: int, device: str, sign: cose.Sign, aad: bytes) -> bytes:
    """A checkpoint's state as it travels.  Raises LimitError by `checkpoints.seal` before, never here."""
    body = cbor2.dumps({"agent": agent, "epoch": epoch, "state": {"pipeline": state.get("pipeline")}})
    signature = cose.sign1_by(body, sign=sign, kid=device.encode(), external_aad=aad, detached=True)
    return len(signature).to_bytes(2, "big") + signature + body


def unpack(
    data: bytes,
    *,
    agent: str,
    lookup: Callable[[bytes], bytes | None],
    aad: bytes,
    check: cose.Verify = cose.check,
) -> dict[str, Any]:
    """The state, once a device of the roster has signed it for this agent.  Raises CheckpointError, CoseError."""
    who = f"checkpoint of {agent}"
    at = 2 + int.from_bytes(data[:2], "big")
    if len(data) < at or len(data) > at + CHECKPOINT_BYTES_MAX + 1024:
        raise CheckpointError("truncated, or too large", who=who)
    body = data[at:]
    cose.verify1(data[2:at], lookup=lookup, payload=body, external_aad=aad, who=who, verify=check)
    try:
        found = cbor2.load(io.BytesIO(body))
    except (cbor2.CBORDecodeError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        raise CheckpointError(f"not CBOR: {error}", who=who) from None
    match found:
        case {"agent": str(name), "state": dict(state)} if name == agent and all(isinstance(key, str) for key in state):
            return state
        case _:
            raise CheckpointError("expected the state of this agent", who=who)


class Travel:
    """Looks every CHECKPOINT_TRAVEL_S at what this device's stateful agents have saved, and brings it when asked."""

    def __init__(self, node: SwarmNode) -> None:
        self._node = node
        self._folder = node.folder / "travelled"
        self._seen: dict[str, int] = {}
        self._told: set[str] = set()
        """Agent -> st_mtime_ns of the file that was sent last."""
        self._since: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _aad(self, agent: str) -> bytes:
        return purpose(self._node.config.fleet, self._node.config.cell, agent)

    def _mark(self, agent: str) -> Path:
        """Which travelling checkpoint this device's own file of `agent` is at least as new as."""
        return self._folder / agent

    # --- sending ------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(CHECKPOINT_TRAVEL_S)
            for name in list(self._node.hosted.running):
                agent = self._node.replica.state.agents.get(name)
                if agent is None or not agent.spec.stateful or not self._node.hosted.may_run(name):
                    continue
                try:
                    await self.send(name)
                except RejectedError as error:
                    self._node.log.info("checkpoint_not_taken", agent=name, error=str(error))
                except (EdgeSwarmError, OSError) as error:  # the next one may get through
                    self._node.log.warning("checkpoint_stays", agent=name, error=str(error))

    async def send(self, name: str) -> bool:
        """Give the cell this device's checkpoint of an agent.  False: it has it, or there is none."""
        node, epoch = self._node, self._node.hosted.epoch_of(name)
        shelf = node.supervisor.shelf
        path = shelf.checkpoint_path(name)
        if epoch is None or not path.exists() or not self._granted(name):
            return False
        changed = path.stat().st_mtime_ns
        if self._seen.get(name) == changed:
            return False
        state = checkpoints.read(path, shelf.checkpoint_key)
        if state is None:
            return False
        data = pack(state, agent=name, epoch=epoch, device=node.config.device, sign=node.post.sign, aad=self._aad(name))
        digest = await node.artefacts.put(data)
        await node.artefacts.spread(digest)
        await node.propose(cmd.encode(cmd.Checkpoint(name, epoch, digest)))
        self._seen[name] = changed
        write_whole(self._mark(name), digest)
        node.log.debug("checkpoint_sent", agent=name, epoch=epoch, size_bytes=len(data))
        return True

    # --- bringing -----------------------------------------------------------------------------------------------------

    async def bring(self, agent: AgentState) -> None:
        """Before a stateful agent starts here: the cell's checkpoint of it in the place of an older one.

        Raises what fetching raises, so that it is tried again; after CHECKPOINT_WAIT_S the agent starts without.
        One that is not to be believed is told, and not used.
        """
        node, name = self._node, agent.spec.id
        if not agent.spec.stateful or not agent.checkpoint or self._is_here(agent):
            return
        if not self._granted(name):
            return
        now = asyncio.get_running_loop().time()
        try:
            data = await node.artefacts.fetch(agent.checkpoint, name)
        except EdgeSwarmError as error:
            if now - self._since.setdefault(name, now) < CHECKPOINT_WAIT_S:
                raise
            node.log.error("checkpoint_lost", agent=name, error=str(error))
            node.alert("warning", "checkpoint-lost", f"agent {name} starts without its state: {error}"[:500])
            return
        finally:
            if now - self._since.get(name, now) >= CHECKPOINT_WAIT_S:
                self._since.pop(name, None)
        try:
            state = unpack(
                data, agent=name, lookup=partial(self._key_of, name), aad=self._aad(name), check=node.rosters.check_ever
            )
        except (CoseError, CodecError, CheckpointError) as error:
            node.log.error("checkpoint_refused", agent=name, error=str(error))
            node.alert("critical", "checkpoint-refused", f"agent {name}: {error}"[:500])
            return
        shelf = node.supervisor.shelf
        sealed = checkpoints.seal(state, shelf.checkpoint_key)
        await node.supervisor.in_disk_thread(lambda: checkpoints.write(shelf.checkpoint_path(name), sealed))
        self._seen[name] = shelf.checkpoint_path(name).stat().st_mtime_ns
        self._since.pop(name, None)
        write_whole(self._mark(name), agent.checkpoint)
        node.log.info("checkpoint_brought", agent=name, digest=agent.checkpoint.hex()[:12])

    def _is_here(self, agent: AgentState) -> bool:
        """This device wrote the cell's checkpoint, or has brought it, and its own file has not gone since."""
        mark = self._mark(agent.spec.id)
        path = self._node.supervisor.shelf.checkpoint_path(agent.spec.id)
        return path.exists() and mark.exists() and mark.read_bytes() == agent.checkpoint

    def _key_of(self, agent: str, kid: bytes) -> bytes | None:
        device = kid.decode(errors="replace")
        if self._node.rosters.current.role(device) == "reader" or not self._node.may(MEMORY, agent, device=device):
            return None
        return self._node.rosters.lookup(device)

    def _granted(self, agent: str) -> bool:
        """Whether this device may hold what the agent remembers; told once if not."""
        granted = self._node.may(MEMORY, agent)
        if not granted and agent not in self._told:
            why = f"{MEMORY} is not granted to {self._node.config.device}: what it remembers neither comes nor goes"
            self._node.log.error("checkpoint_not_granted", agent=agent, error=why)
        (self._told.discard if granted else self._told.add)(agent)
        return granted
