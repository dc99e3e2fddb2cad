"""The controller's hand on the broker: access list and revocation list follow the roster, sessions of the revoked end.

    guard = BrokerGuard(folder, log, roster=lambda: node.rosters.current)
    await guard.start();  await guard.update();  await guard.revoke([(serial, at_s)]);  await guard.kick("d1")

Order of a revocation: lists on disk, SIGHUP, then the sessions: who comes back is refused.  A session that could not be
ended (the broker is down, or does not answer) is remembered on disk and tried again, unless the broker was started
anew meanwhile: then there is none.  The broker is expected on this machine, found by its pid file.
Nothing depends on this being up: it only follows.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeswarm.app.fleet import broker_files, issued
from edgeswarm.app.fleet.broker_files import Issuer, write_first
from edgeswarm.app.fleet.broker_run import run_broker
from edgeswarm.app.fleet.folder import FleetFolder
from edgeswarm.app.log import Log
from edgeswarm.drivers import broker_fleet
from edgeswarm.drivers.broker_fleet import Files
from edgeswarm.drivers.broker_fleet_acl import CONTROL, GUARD
from edgeswarm.drivers.broker_fleet_client import TAKEN, Session, Where, connect, context, reason
from edgeswarm.drivers.files import write_whole
from edgeswarm.drivers.pki import x509
from edgeswarm.errors import EdgeSwarmError, LocalError, RemoteError
from edgeswarm.limits import BROKER_GUARD_S, BROKER_PROBE_S, DEVICES_MAX
from edgeswarm.wire import topics
from edgeswarm.wire.roster import Roster

if TYPE_CHECKING:
    from edgeswarm.app.fleet.controller import Controller

__all__ = ["BrokerGuard", "refresh", "register", "run_broker", "write_first"]

GUARD_S = 600  # the guard's own certificate holds so long: it is made for one connection
PENDING = "kicks.json"
FOLLOW_S = 0.5  # between two looks at the roster


class BrokerError(RemoteError):
    """The broker does not answer, or refuses what the guard asks of it."""


class BrokerGuard:
    """roster: gives the newest verified one.  clock: seconds since 1970."""

    def __init__(
        self, folder: FleetFolder, log: Log, *, roster: Callable[[], Roster], clock: Callable[[], float] = time.time
    ) -> None:
        self.folder, self.log = folder, log
        self.files = Files(folder.broker.absolute())
        self.answers: bool | None = None
        self.trouble = ""
        self._roster, self._clock = roster, clock
        self._version = 0
        self._revoked: dict[int, int] = {}
        self._gone_of: object = None  # what `_gone` has looked at
        self._writing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._pending: dict[str, int] = _load_pending(self.files / PENDING)

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Lists are right and valid when this returns: one that had expired is signed again first of all."""
        await self.update(force=True)
        self._task = asyncio.create_task(self._follow(), name="broker guard")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # --- doing --------------------------------------------------------------------------------------------------------

    def write(self, roster: Roster | None = None, revoked: Iterable[tuple[int, int]] = ()) -> set[str]:
        """Bring the files up to date and have mosquitto read them; what changed.  Blocking, some 10 ms.

        roster: None takes the newest.  revoked: (serial number, seconds since 1970), added to what is revoked.
        Raises ConfigError, LocalError, CertificateError, OSError.
        """
        roster = roster or self._roster()
        changed = broker_files.write(self.folder, roster, revoked, now_s=int(self._clock()))
        if changed & broker_files.RELOADED and self._signal(self.files.pid, signal.SIGHUP):
            self.log.info("broker_reloaded", changed=sorted(changed))
        if changed & {"server.crt", "ca.crt"}:
            self._signal(self.files.join_pid, signal.SIGHUP)
        if changed & broker_files.JOIN_RESTARTED and self._signal(self.files.join_pid, signal.SIGTERM):
            self.log.info("broker_join_restarted", changed=sorted(changed))  # whoever runs it starts it again
        if changed & broker_files.RESTARTED and _pid_of(self.files.pid, self.files.config):
            self.log.warning("broker_restart_needed", changed=sorted(changed))
        return changed

    async def update(self, revoked: Iterable[tuple[int, int]] = (), *, force: bool = False) -> None:
        """The broker knows the newest roster when this returns; many at once cost one writing.  Raises as `write`."""
        self._revoked |= dict(revoked)
        wanted = self._roster().version
        async with self._writing:
            if self._version >= wanted and not self._revoked and not force:
                return
            roster, more, self._revoked = self._roster(), self._revoked, {}
            try:
                more = await self._gone() | more
                changed = await asyncio.to_thread(self.write, roster, more.items())
            except BaseException:
                self._revoked |= more
                raise
            self._version = roster.version
            if changed & broker_files.RELOADED:
                await asyncio.to_thread(self._settle)

    async def _gone(self) -> dict[int, int]:
        """Certificates of who is in no roster any more, however it left: serial number -> now.

        What was given out is read first: who got something then was in a roster by then.  Empty where nothing is new.
        """
        now_s = int(self._clock())
        paths = issued.path_of(self.folder), self.files / "crl.pem"
        seen = [(found.st_size, found.st_mtime_ns) for found in (path.stat() for path in paths if path.exists())]
        devices = set(self._roster().devices())
        if self._gone_of == (seen, devices):
            return {}
        rows = await asyncio.to_thread(issued.rows, self.folder, now_s)
        members = set(self._roster().devices())
        self._gone_of = seen, devices
        return {serial: now_s for device, serial in rows if device not in members}

    def _settle(self) -> None:
        """Once somebody new is connected, the lists are read: mosquitto looks at a SIGHUP after its next events."""
        with suppress(BrokerError):  # it does not run: `look` says so
            self._touch()

    def _touch(self) -> None:
        """Connect and go.  Raises BrokerError."""
        self.session().close()

    async def revoke(self, revoked: Iterable[tuple[int, int]]) -> None:
        """New connections with these certificates are refused when this returns; `kick` ends the live ones."""
        await self.update(revoked)

    async def kick(self, device: str) -> bool:
        """End every session of the device.  False: the broker did not do it yet; the guard goes on trying."""
        if not topics.is_device(device):
            raise LocalError(f"expected a device id, found {device!r:.80}")
        self._pending[device] = _started_s(self.files)
        self._save_pending()
        return await self._kick_pending()

    async def _kick_pending(self) -> bool:
        started_s = _started_s(self.files)
        devices = sorted(device for device, since_s in self._pending.items() if since_s == started_s and started_s)
        try:
            if devices:
                await asyncio.to_thread(self.end_sessions, devices)
        except EdgeSwarmError as error:
            self.log.error("broker_kick_failed", devices=devices[:8], count=len(devices), error=str(error))
            return False
        for device in list(self._pending):
            if device in devices or self._pending[device] != started_s:
                del self._pending[device]
        self._save_pending()
        if devices:
            self.log.info("broker_sessions_ended", devices=devices[:8], count=len(devices))
        return True

    def end_sessions(self, devices: Iterable[str]) -> None:
        """Blocking: tell the plugin.  Raises BrokerError."""
        orders: list[dict[str, str]] = []
        for device in devices:
            orders.append({"command": "createClient", "username": device, "password": secrets.token_hex(16)})
            orders.append({"command": "deleteClient", "username": device})
        with self.session() as session:
            session.subscribe(f"{CONTROL}/response")
            code = session.publish(CONTROL, json.dumps({"commands": orders}).encode())
            if code not in TAKEN:
                raise BrokerError(f"the broker does not end sessions: {reason(code)}")
            said = session.message(BROKER_PROBE_S)
        if said is None:
            raise BrokerError("the broker does not say that it ended sessions: is its dynamic-security plugin loaded?")
        _check_answer(said.payload)

    def session(self) -> Session:
        """A connection of the guard's own identity, with a certificate made for it.  Raises BrokerError."""
        settings, issuer = broker_fleet.load_settings(self.folder.broker), Issuer.load(self.folder)
        now_s, seed = int(self._clock()), os.urandom(32)
        public = x509.public_of_key(x509.pkcs8_pem(seed))
        leaf = x509.make_device(issuer.key.seed, issuer.pem, GUARD, public, now_s - GUARD_S, now_s + GUARD_S)
        ca, chain = (self.folder.pki / "ca.crt").read_bytes(), x509.chain(leaf, issuer.pem)
        try:
            with context(ca, chain, x509.pkcs8_pem(seed)) as tls:
                return connect(
                    Where(settings.local, settings.port, tls),
                    client_id=f"{GUARD}-{secrets.token_hex(8)}",
                    timeout_s=BROKER_PROBE_S,
                )
        except RemoteError as error:
            raise BrokerError(str(error)) from None

    # --- following ----------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        look_at = 0.0
        while True:
            now = asyncio.get_running_loop().time()
            try:
                due = now >= look_at
                if due or self._roster().version > self._version:
                    await self.update(force=due)
                if due:
                    look_at = now + BROKER_GUARD_S
                    await self.look()
            except (EdgeSwarmError, OSError) as error:
                look_at = now + BROKER_GUARD_S
                self.log.error("broker_guard_failed", error=str(error))
            await asyncio.sleep(FOLLOW_S)

    async def look(self) -> bool:
        """Whether the broker answers; said in the log when that changes.  Sessions that must end are ended."""
        try:
            await asyncio.to_thread(self._touch)
            answers, self.trouble = True, ""
        except EdgeSwarmError as error:
            answers, self.trouble = False, str(error)
        if answers != self.answers:
            if answers:
                self.log.info("broker_answers")
            else:
                self.log.error("broker_silent", error=self.trouble)
        self.answers = answers
        if answers and self._pending:
            await self._kick_pending()
        return answers

    def status(self) -> dict[str, Any]:
        """Plain values for people and scripts."""
        crls = x509.read_crls((self.files / "crl.pem").read_bytes())
        settings = broker_fleet.load_settings(self.folder.broker)
        return {
            "answers": self.answers,
            "trouble": self.trouble,
            "pid": _pid_of(self.files.pid, self.files.config),
            "hosts": list(settings.hosts),
            "port": settings.port,
            "join_port": settings.join_port,
            "server_until_s": x509.not_after_of((self.files / "server.crt").read_bytes()),
            "crl_until_s": min((crl.until_s for crl in crls), default=0),
            "revoked": sum(len(crl.revoked) for crl in crls) - 1,  # one is the probes'
            "roster_version": self._version,
            "sessions_to_end": sorted(self._pending),
        }

    # --- parts --------------------------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Have mosquitto read access list, revocation list and certificates again.  Raises LocalError."""
        self._signal(self.files.pid, signal.SIGHUP)

    def _signal(self, pid_file: Path, number: signal.Signals) -> bool:
        """False when that mosquitto does not run here: then it reads its files when it starts."""
        config = self.files.config if pid_file == self.files.pid else self.files.join_config
        pid = _pid_of(pid_file, config)
        if not pid:
            return False
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        except PermissionError:
            raise LocalError(
                f"broker: process {pid} belongs to another user: the controller must run as root, or as that user"
            ) from None
        return True

    def _save_pending(self) -> None:
        write_whole(self.files / PENDING, json.dumps(self._pending).encode())


def refresh(folder: FleetFolder, log: Log) -> None:
    """Before anything of ours connects: the files by what is on disk, and mosquitto told.  What fails is logged.

    For a broker that somebody else runs here, whose revocation list has expired: the controller itself could not
    connect, and its guard starts only after that.
    """
    guard = BrokerGuard(folder, log, roster=lambda: broker_files.newest_roster(folder))
    try:
        guard.write()
    except (EdgeSwarmError, OSError) as error:
        log.error("broker_guard_failed", error=str(error))


async def _status(guard: BrokerGuard) -> dict[str, Any]:
    return await asyncio.to_thread(guard.status)


def register(controller: Controller) -> BrokerGuard:
    """The controller's guard; `start` it, `close` it at the end."""
    guard = BrokerGuard(controller.folder, controller.log, roster=lambda: controller.node.rosters.current)
    controller.broker = guard

    async def status(args: dict[str, Any], who: str) -> Any:
        return await _status(guard)

    controller.one["broker_status"] = status
    return guard


def _check_answer(payload: bytes) -> None:
    """Raises BrokerError unless every session was ended.  A client left behind by a crash is deleted all the same."""
    try:
        rows = json.loads(payload)["responses"]
        wrong = [row["error"] for row in rows if row["command"] == "deleteClient" and "error" in row]
    except (ValueError, KeyError, TypeError) as error:
        raise BrokerError(f"the broker's answer is none of its plugin: {error}") from None
    if wrong:
        raise BrokerError(f"the broker did not end sessions: {wrong[0]!s:.200}")


def _pid_of(pid_file: Path, config: Path) -> int:
    """The running mosquitto with this configuration; 0 where there is none: pid files outlive their process."""
    try:
        pid = int(pid_file.read_text()[:20])
        command = Path(f"/proc/{pid}/cmdline")
        if Path("/proc/self/cmdline").exists() and os.fsencode(config) not in command.read_bytes().split(b"\0"):
            return 0
        return pid
    except (OSError, ValueError):
        return 0


def _started_s(files: Files) -> int:
    """A number that names the run of the broker; 0 while it does not run."""
    pid = _pid_of(files.pid, files.config)
    return 0 if not pid else int(files.pid.stat().st_mtime) * 10_000_000 + pid % 10_000_000


def _load_pending(path: Path) -> dict[str, int]:
    """Sessions that still have to end: device -> the run of the broker that they are of."""
    try:
        tree = json.loads(path.read_bytes()[: 1 << 20])
        return {key: value for key, value in list(tree.items())[:DEVICES_MAX] if isinstance(value, int)}
    except (OSError, ValueError, AttributeError):
        return {}
