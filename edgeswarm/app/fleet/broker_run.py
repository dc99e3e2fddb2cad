"""Runs a fleet's broker: two mosquitto processes, started again when one ends by itself, their words in the log."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from edgeswarm.app.fleet import broker_files
from edgeswarm.app.fleet.broker_orphan import MARK, end_orphan, mark
from edgeswarm.app.fleet.folder import FleetFolder
from edgeswarm.app.log import Log
from edgeswarm.drivers import broker_fleet
from edgeswarm.drivers.broker import BrokerFailedError, mosquitto_path
from edgeswarm.drivers.broker_fleet import Files
from edgeswarm.errors import LocalError
from edgeswarm.limits import BROKER_RESTART_S_MAX, BROKER_START_S, BROKER_STOP_S

_STAMP = re.compile(r"^\d{4}-\d\d-\d\dT[0-9:]+: ")
_LINE_BYTES_MAX = 2_000
_HELD_S = 10.0  # who has run so long was started well


@asynccontextmanager
async def run_broker(folder: FleetFolder, log: Log, *, as_is: bool = False) -> AsyncIterator[None]:
    """Both listen while the body runs.  Raises LocalError, ConfigError, BrokerFailedError.

    Their files are brought up to date first: with a revocation list that has expired nobody would get in, not even the
    controller, who signs the next one.  as_is: the files are taken as they are.
    """
    program = mosquitto_path()
    if program is None:
        raise LocalError("mosquitto is not installed: apt-get install mosquitto")
    if broker_fleet.plugin_path() is None:
        raise LocalError(f"{broker_fleet.PLUGIN} is not there: install mosquitto 2.0 or later, with its plugins")
    files = Files(folder.broker.absolute())
    settings = broker_fleet.load_settings(folder.broker)
    if not as_is:
        changed = await asyncio.to_thread(broker_files.write_now, folder)
        log.info("broker_files", changed=sorted(changed))
    if broker_fleet.runs_as(folder.path) == "root":
        log.warning("broker_runs_as_root", why=f"a folder above {folder.path} is closed to mosquitto's own user")
    for pid_file, config in ((files.join_pid, files.join_config), (files.pid, files.config)):
        if pid := await asyncio.to_thread(end_orphan, pid_file, config):
            log.warning("broker_orphan_ended", pid=pid, config=str(config))
    rows = (("devices", files.config, settings.port), ("join", files.join_config, settings.join_port))
    processes = [Process(name, program, path, settings.local, port, log) for name, path, port in rows]
    try:
        for process in processes:
            await process.start()
        yield
    finally:
        for process in reversed(processes):
            await process.close()


class Process:
    """One mosquitto that is kept running."""

    def __init__(self, name: str, program: str, config: Path, host: str, port: int, log: Log) -> None:
        self.name, self._command, self._host, self._port, self._log = (
            name,
            (program, "-c", str(config)),
            host,
            port,
            log,
        )
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._last = ""

    async def start(self) -> None:
        """It listens when this returns.  Raises BrokerFailedError."""
        if await self._listens():
            raise BrokerFailedError(
                f"broker: {self._host}:{self._port} is taken (by another mosquitto? systemctl disable --now mosquitto)"
            )
        self._task = asyncio.create_task(self._run(), name=f"mosquitto {self.name}")
        end = asyncio.get_running_loop().time() + BROKER_START_S
        while not await self._listens():
            if self._task.done() or asyncio.get_running_loop().time() > end or self._last.startswith("ended"):
                raise BrokerFailedError(f"broker: mosquitto for {self.name} does not start: {self._last}")
            await asyncio.sleep(0.02)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection(self._host, self._port)
        except OSError:
            return False
        writer.close()
        return True

    async def _run(self) -> None:
        pause_s, loop = 0.5, asyncio.get_running_loop()
        while True:
            since = loop.time()
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                limit=_LINE_BYTES_MAX,
                env={**os.environ, MARK: mark()},
                start_new_session=True,  # ctrl-c at the terminal is ours to answer
            )
            try:
                await self._follow(process)
                code = await process.wait()
            finally:
                if process.returncode is None:
                    await _end(process)
            self._last = f"ended with {code}: {self._last}"
            say = self._log.error if code else self._log.warning  # 0: it was told to, as when the bridge is renewed
            say("broker_ended", process=self.name, code=code, said=self._last[:300])
            pause_s = 0.5 if loop.time() - since > _HELD_S else min(2 * pause_s, BROKER_RESTART_S_MAX)
            await asyncio.sleep(pause_s)

    async def _follow(self, process: asyncio.subprocess.Process) -> None:
        """Its log lines become ours, until it ends."""
        assert process.stderr is not None
        while True:
            try:
                data = await process.stderr.readline()
            except ValueError:  # a line beyond the limit was thrown away
                continue
            if not data:
                return
            text = _STAMP.sub("", data.decode(errors="replace").strip())
            self._last = text
            say = self._log.error if text.startswith("Error") else self._log.info
            say("broker_said", process=self.name, text=text[:500])


async def _end(process: asyncio.subprocess.Process) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(BROKER_STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
