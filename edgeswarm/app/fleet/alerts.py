"""What is done when something critical is told: a line in the controller's log, and a command of the operator's.

The index keeps alerts; this module only tells of them.  The command gets one alert as JSON on its standard input, one
process at a time, with a pause between two, a time limit, and a bounded queue: a storm of alerts is no storm of
processes.  It is split as a shell would and run without one, so no text of a device is ever part of a command.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import time
from collections import Counter
from contextlib import suppress

from edgeswarm.app.fleet.index_rows import AlertRow
from edgeswarm.app.log import Log
from edgeswarm.errors import ConfigError
from edgeswarm.limits import ALERT_COMMAND_PAUSE_S, ALERT_COMMAND_S_MAX, ALERT_COMMANDS_WAITING_MAX

LOGGED_S = 10.0
LOGGED_MAX = 4_096
STDERR_BYTES = 2_048
_ENVIRONMENT = ("PATH", "HOME", "LANG", "TZ")


class Alerts:
    """command: empty for none.  Raises ConfigError where it cannot be split."""

    def __init__(self, log: Log, command: str = "", *, pause_s: float = ALERT_COMMAND_PAUSE_S) -> None:
        try:
            self._command = shlex.split(command)
        except ValueError as error:
            raise ConfigError(f"--on-alert {command!r}: {error}") from None
        self._log, self._pause_s = log, pause_s
        self.counts: Counter[str] = Counter()
        self._logged: dict[tuple[str, str], float] = {}
        self._queue: asyncio.Queue[AlertRow] = asyncio.Queue(ALERT_COMMANDS_WAITING_MAX)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._command:
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def heard(self, alert: AlertRow) -> None:
        """Never blocks.  The same code of one device is logged once in LOGGED_S."""
        self.counts["heard"] += 1
        now, key = time.monotonic(), (alert.device, alert.code)
        if now - self._logged.get(key, -LOGGED_S) >= LOGGED_S:
            if len(self._logged) >= LOGGED_MAX:
                self._logged.clear()
            self._logged[key] = now
            self._log.warning("fleet_alert", **{key: value for key, value in alert.plain().items() if key != "at_s"})
        if not self._command:
            return
        if self._queue.full():
            self.counts["commands_dropped"] += 1
        else:
            self._queue.put_nowait(alert)

    async def _run(self) -> None:
        while True:
            await self._tell(await self._queue.get())
            await asyncio.sleep(self._pause_s)

    async def _tell(self, alert: AlertRow) -> None:
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            self.counts["commands_failed"] += 1
            self._log.error("alert_command_failed", command=self._command[0], error=str(error))
            return
        try:
            data = json.dumps(alert.plain()).encode() + b"\n"
            async with asyncio.timeout(ALERT_COMMAND_S_MAX):
                await process.communicate(data)
        except TimeoutError:
            self._log.error(
                "alert_command_failed", command=self._command[0], error=f"not done in {ALERT_COMMAND_S_MAX:g} s"
            )
        except OSError:
            pass  # it did not read what it was given
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and whatever it started, in its session
            code = await process.wait()
        self.counts["commands_run" if code == 0 else "commands_failed"] += 1
        if code > 0:
            self._log.error("alert_command_failed", command=self._command[0], code=code)
