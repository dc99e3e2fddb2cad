"""What the controller says of the fleet as a whole, and rosters that operators have signed."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import edgeswarm
from edgeswarm.app.control_ops import argument
from edgeswarm.app.fleet.controller import LOCAL
from edgeswarm.core.cell import commands as cmd
from edgeswarm.errors import LimitError, RemoteError
from edgeswarm.limits import BACKUP_LOG_BYTES_MAX, ROSTER_BYTES_MAX
from edgeswarm.wire.roster import Roster

if TYPE_CHECKING:
    from edgeswarm.app.fleet.controller import Controller


def register(controller: Controller) -> None:
    began = time.monotonic()
    node = controller.node

    async def status(args: dict[str, Any], who: str) -> Any:
        roster, state, leader = node.rosters.current, node.replica.state, node.peer.leader
        alive = sum(device.alive for device in state.devices.values())
        return {
            "fleet": node.config.fleet,
            "cell": node.config.cell,
            "controller": node.config.device,
            "version": edgeswarm.__version__,
            "uptime_s": int(time.monotonic() - began),
            "broker": node.transport.url,
            "broker_connected": node.transport.is_connected,
            "leader": None if leader is None else leader.device,
            "term": node.peer.term_seen,
            "voters": [node.rosters.device_of(number) for number in roster.voters()],
            "roster_version": roster.version,
            "devices": len(roster.members),
            "devices_alive": alive,
            "state_version": state.version,
            "stopped": state.stop is not None,
            "rollouts_running": sum(rollout.state == "running" for rollout in state.rollouts.values()),
        }

    async def get(args: dict[str, Any], who: str) -> Any:
        """The roster of now, for who signs the next one."""
        return {"data": node.rosters.current.data, "root_public": node.rosters.root_public}

    async def put(args: dict[str, Any], who: str) -> Any:
        """A roster that an operator has signed: it goes into the log if every device will accept it."""
        data = argument(args, "data", bytes)
        if len(data) > ROSTER_BYTES_MAX:
            raise RemoteError(f"roster: at most {ROSTER_BYTES_MAX} bytes, found {len(data)}", who=who)
        roster = Roster.open(
            data,
            root_public=node.rosters.root_public,
            previous=node.rosters.current,
            fleet=node.config.fleet,
            cell=node.config.cell,
        )
        index, _ = await node.propose(cmd.encode(cmd.SetRoster(roster.version, roster.previous, data)))
        return {"version": roster.version, "index": index}

    async def log(args: dict[str, Any], who: str) -> Any:
        """The controller's own log, for a backup made on this machine."""
        if who != LOCAL:
            raise RemoteError("backup.log: expected to be asked on the controller's machine", who=who)
        if node.voter is None:
            return {"raft": b""}
        with tempfile.TemporaryDirectory(prefix="edgeswarm-backup-") as scratch:
            path = Path(scratch) / "raft.db"
            await node.voter.store.copy(path)
            if path.stat().st_size > BACKUP_LOG_BYTES_MAX:
                raise LimitError(f"backup: a log of at most {BACKUP_LOG_BYTES_MAX} bytes, found {path.stat().st_size}")
            return {"raft": await asyncio.to_thread(path.read_bytes)}

    controller.one |= {"status": status, "roster.get": get, "roster.put": put, "backup.log": log}
    controller.needs["roster.put"] = "revoke"
