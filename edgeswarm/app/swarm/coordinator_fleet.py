"""A fleet for development: a broker and N devices as processes of this machine, in a temporary directory.

They end with `close`, and at the latest with this program (atexit); a program that is killed leaves none either, the
kernel sends them SIGTERM (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from edgeswarm.app.swarm.client import SwarmClient
from edgeswarm.app.swarm.dev import init_dev
from edgeswarm.errors import EdgeSwarmError, LocalError, RemoteError
from edgeswarm.limits import COORDINATOR_DEVICES_MAX

if TYPE_CHECKING:
    from edgeswarm.drivers.broker import Broker

START_S = 30.0
STOP_S = 10.0
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class DevFleet:
    """devices: 1 to COORDINATOR_DEVICES_MAX.  voters: how many of them vote; 0: as many as fit, up to 5.

    folder: None makes a temporary one that goes with the fleet.
    """

    def __init__(
        self, devices: int, *, voters: int = 0, folder: Path | None = None, profile: str | None = None
    ) -> None:
        if not 1 <= devices <= COORDINATOR_DEVICES_MAX:
            raise LocalError(f"devices: expected 1 to {COORDINATOR_DEVICES_MAX}, found {devices}")
        self._count, self._voters, self._profile = devices, voters, profile
        self._temporary = tempfile.TemporaryDirectory(prefix="es-") if folder is None else None
        self.folder = Path(self._temporary.name) if self._temporary is not None else Path(folder or "")
        self.states: dict[str, Path] = {}
        self.broker: Broker | None = None
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    async def start(self) -> None:
        """Returns once every device answers and a leader is known.  Raises RemoteError after START_S."""
        from edgeswarm.drivers.broker import Broker

        try:
            self.broker = await Broker.start()
            brokers = (self.broker.url,)
            _, self.states = init_dev(self.folder, self._count, brokers=brokers, voters=self._voters)
            atexit.register(self._kill)
            for device in self.states:
                self.start_device(device)
            async with asyncio.timeout(START_S):
                await asyncio.gather(*(self._ready(device) for device in self.states))
        except TimeoutError:
            await self.close()
            raise RemoteError(f"no leader within {START_S:g} s", who="the fleet") from None
        except BaseException:
            await self.close()
            raise

    def start_device(self, device: str) -> None:
        """Start it, or start it again after it was killed."""
        words = [sys.executable, "-m", "edgeswarm", "run", "--state", str(self.states[device])]
        if self._profile is not None:
            words += ["--profile", self._profile]
        with open(self.folder / f"{device}.log", "ab") as log:
            self.processes[device] = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=_die_with_parent
            )

    def kill(self, device: str) -> None:
        """kill -9, as a power cut would end it."""
        self.processes[device].kill()
        self.processes[device].wait()

    def socket(self, device: str) -> Path:
        return self.states[device] / "run" / f"{device}.sock"

    def log(self, device: str) -> str:
        return (self.folder / f"{device}.log").read_text(errors="replace")

    async def _ready(self, device: str) -> None:
        client = SwarmClient(self.socket(device))
        while True:
            if self.processes[device].poll() is not None:
                raise RemoteError(f"it did not start: {self.log(device)[-1000:]}", who=device)
            try:
                if (await client.call("leader"))["leader"] is not None:
                    return
            except EdgeSwarmError:
                pass
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        atexit.unregister(self._kill)
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        end = asyncio.get_running_loop().time() + STOP_S
        while any(process.poll() is None for process in self.processes.values()):
            if asyncio.get_running_loop().time() > end:
                self._kill()
                break
            await asyncio.sleep(0.02)
        if self.broker is not None:
            await self.broker.stop()
            self.broker = None
        if self._temporary is not None:
            self._temporary.cleanup()

    def _kill(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
