"""A device is thrown out: no peer takes its messages, no broker lets it in, its live sessions end.  Within 5 s.

    an operator signs the roster without it  -> the cell commits it: peers refuse its messages at once
    -> access list and revocation list, SIGHUP  -> it is forgotten, its agents move  -> its sessions are ended
What is not done when the controller dies in between is done when it is back: FLEET/revocations/<device>.json stays
until every step is.  The roster on every device and the list beside the broker's configuration last, whoever restarts.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeswarm.app.control_ops import argument
from edgeswarm.app.fleet import issued
from edgeswarm.app.fleet.roster_changes import RosterChanges
from edgeswarm.app.swarm.replica import RejectedError
from edgeswarm.core.cell import commands as cmd
from edgeswarm.drivers.files import write_whole
from edgeswarm.drivers.pki import x509
from edgeswarm.errors import EdgeSwarmError, LocalError, RemoteError
from edgeswarm.limits import ROSTER_BYTES_MAX
from edgeswarm.wire.certificate import CertificateError, Signatory
from edgeswarm.wire.roster import Roster
from edgeswarm.wire.roster_change import next_roster
from edgeswarm.wire.topics import is_device

if TYPE_CHECKING:
    from edgeswarm.app.fleet.controller import Controller

TOLD_S = 1.0
"""Between the new roster and the end of the sessions: the device is told by it why it is let in no more."""
AGAIN_S = 10.0


def without(roster: Roster, devices: list[str], *, by: Signatory, now_s: int, controller: str = "") -> Roster:
    """The roster after `roster`, without these, signed by an operator.  Raises LocalError."""
    for device in devices:
        if roster.member(device) is None:
            raise LocalError(f"device {device}: not in the roster of version {roster.version}")
        if device == controller:
            raise LocalError(f"device {device}: it is the controller, which answers this; take its place first")
    gone = {member.entry.number for member in roster.members if member.entry.device in devices}
    voters = [number for number in roster.voters() if number not in gone]
    if not voters:
        raise LocalError("nobody would be left to vote: let the cell grow first (`edgeswarm swarm members`)")
    changed = set(voters) != set(roster.voters())
    outgoing = () if changed else roster.voters_outgoing()
    return next_roster(
        roster,
        created_s=max(now_s, roster.created_s),
        by=by,
        remove=devices,
        voters=voters if changed else None,
        outgoing=outgoing,
    )


class Revoker:
    """One for each controller."""

    def __init__(self, controller: Controller) -> None:
        self._controller, self._node, self._folder = controller, controller.node, controller.folder
        self._changes = RosterChanges(controller.node)
        self._open = controller.folder.path / "revocations"
        self._task: asyncio.Task[None] | None = None
        self._busy: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Go on with what was not finished."""
        self._task = asyncio.create_task(self._finish_all(), name="revocations")

    async def close(self) -> None:
        tasks = [*self._busy, *([] if self._task is None else [self._task])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- asked --------------------------------------------------------------------------------------------------------

    async def revoke(self, args: dict[str, Any], who: str) -> dict[str, Any]:
        """data: the next roster, signed by an operator, without the devices; reason: for people.

        Answers once every peer that is connected refuses them and new connections are refused; `ended`: live sessions
        are ended too.  Raises RosterError, RemoteError, LocalError.
        """
        data, reason = argument(args, "data", bytes), argument(args, "reason", str, "")[:512]
        if len(data) > ROSTER_BYTES_MAX:
            raise RemoteError(f"roster: at most {ROSTER_BYTES_MAX} bytes, found {len(data)}", who=who)
        book, config = self._node.rosters, self._node.config
        before = book.current
        roster = Roster.open(data, root_public=book.root_public, previous=before, fleet=config.fleet, cell=config.cell)
        devices = sorted(set(before.devices()) - set(roster.devices()))
        if not devices:
            raise RemoteError("the roster removes nobody", who=who)
        if config.device in devices:
            raise RemoteError("the roster removes the controller itself", who=who)
        began, now_s = time.monotonic(), int(time.time())
        for device in devices:
            row = {"device": device, "reason": reason, "who": who, "at_s": now_s, "version": roster.version}
            await asyncio.to_thread(write_whole, self._path(device), json.dumps(row).encode())
        if not await self._changes.put(roster):
            for device in devices:
                self._path(device).unlink(missing_ok=True)
            raise RemoteError("another change of the roster came first; try again", who=who)
        audit = self._controller.audit
        for device in devices:
            if audit is not None:
                audit.record("device.revoke", who=who, capability="revoke", target=device, reason=reason)
        done = await asyncio.gather(*(self._finish(device) for device in devices))
        ms = round((time.monotonic() - began) * 1000)
        self._controller.log.warning("devices_revoked", devices=devices, version=roster.version, who=who, ms=ms)
        return {"devices": devices, "version": roster.version, "ended": all(done), "ms": ms}

    async def kick(self, args: dict[str, Any], who: str) -> dict[str, Any]:
        """End a device's sessions at the broker; it may come back at once."""
        device = argument(args, "device", str)
        if not is_device(device):
            raise RemoteError(f"expected a device id, found {device!r:.80}", who=who)
        if device not in self._node.rosters.current.devices() and not self._path(device).exists():
            raise RemoteError(f"device {device}: not in the roster; `fleet devices` lists them", who=who)
        if self._controller.broker is None:
            raise LocalError("this controller has no broker to tell")
        return {"device": device, "ended": bool(await self._controller.broker.kick(device))}

    # --- doing --------------------------------------------------------------------------------------------------------

    def _path(self, device: str) -> Path:
        return self._open / f"{device}.json"

    async def _finish(self, device: str) -> bool:
        """Every step after the roster, each of which may be done twice; False: the rest is done later."""
        controller, log = self._controller, self._controller.log
        try:
            if self._node.rosters.current.member(device) is not None:
                self._path(device).unlink(missing_ok=True)  # it never came to it, or has joined again since
                return True
            guard = controller.broker
            if guard is not None:
                now_s = int(time.time())
                serials = await asyncio.to_thread(self._serials, device, now_s)
                await guard.revoke([(serial, now_s) for serial in serials])
            await self._forget(device)
            if guard is not None:
                await asyncio.sleep(TOLD_S)
                if not await guard.kick(device):
                    return False  # the guard goes on trying by itself
            self._path(device).unlink(missing_ok=True)
            return True
        except (EdgeSwarmError, OSError) as error:
            log.error("revocation_not_finished", device=device, error=str(error))
            return False

    def _serials(self, device: str, now_s: int) -> list[int]:
        """Of all certificates that it was given and that have not run out."""
        found = set(issued.serials_of(self._folder, device, now_s))
        console = self._folder.console / "swarm" / "device.crt"
        if console.exists():
            try:
                pem = console.read_bytes()
                found |= {x509.serial_of(pem)} if x509.name_of(pem) == device else set()
            except CertificateError:
                pass
        return sorted(found)

    async def _forget(self, device: str) -> None:
        """The cell knows it no more: its agents go elsewhere at once."""
        if device not in self._node.replica.state.devices:
            return
        try:
            await self._node.propose(cmd.encode(cmd.ForgetDevice(device, self._node.config.device)))
        except RejectedError as error:
            self._controller.log.info("device_not_forgotten", device=device, error=str(error))

    async def _finish_all(self) -> None:
        """What an earlier life, or a broker that was down, left."""
        while True:
            paths = sorted(self._open.glob("*.json")) if self._open.is_dir() else []
            for path in paths:
                if is_device(path.stem):
                    await self._finish(path.stem)
            await asyncio.sleep(AGAIN_S)


def register(controller: Controller) -> Revoker:
    """The controller's revocations; `close` it at the end."""
    revoker = Revoker(controller)
    controller.revoker = revoker
    controller.one |= {"revoke": revoker.revoke, "kick": revoker.kick}
    controller.needs |= {"revoke": "revoke", "kick": "revoke"}
    revoker.start()
    return revoker
