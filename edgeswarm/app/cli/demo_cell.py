"""The machinery of `edgeswarm demo`: a broker, a wire to it for each device, and supervisors as processes.

Everything lives below one directory and ends with `DemoCell.close`.  A wire is a small TCP proxy between a device and
the broker: while it is cut nothing goes through, in either direction, and no connection ends, as with a pulled cable.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, TypeVar

from edgeswarm.app.isolation import any_tier
from edgeswarm.drivers.broker import Broker, free_port, mosquitto_path
from edgeswarm.drivers.control import ControlClient
from edgeswarm.errors import EdgeSwarmError, JailError, LocalError

HOST = "127.0.0.1"
WIRE_BYTES = 1 << 16
CALL_S = 5.0
START_S_MAX = 30.0
STOP_S_MAX = 10.0
T = TypeVar("T")


class LoopThread:
    """An event loop in a thread of its own, for the wires and for mosquitto."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="wires", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float = START_S_MAX) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout_s)

    def close(self) -> None:
        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        with contextlib.suppress(TimeoutError):
            self.run(end(), STOP_S_MAX)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(STOP_S_MAX)


class Wire:
    """From one device to the broker's port; `port` is where the device connects to."""

    def __init__(self, broker_port: int) -> None:
        self._broker_port = broker_port
        self._whole = asyncio.Event()
        self._whole.set()
        self.port = 0

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._carry, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        self._whole.clear()

    async def mend(self) -> None:
        self._whole.set()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far: asyncio.StreamWriter | None = None
        try:
            await self._whole.wait()
            far_reader, far = await asyncio.open_connection(HOST, self._broker_port)
            ways = [asyncio.create_task(self._pump(a, b)) for a, b in ((reader, far), (far_reader, writer))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # no broker listens, or the demo ends
        finally:
            for end in (writer, far):
                if end is not None:
                    end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(WIRE_BYTES):
                await self._whole.wait()
                writer.write(data)
                await writer.drain()
        await self._whole.wait()


class DemoBroker:
    """mosquitto, or the embedded broker in a process of its own, so that either can be killed with -9."""

    def __init__(self, loop: LoopThread, folder: Path, *, embedded: bool) -> None:
        self._loop = loop
        self.kind = "embedded" if embedded or mosquitto_path() is None else "mosquitto"
        self.port = free_port(HOST)
        self._mosquitto: Broker | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "broker.log"
        if self.kind == "mosquitto":
            self._mosquitto = loop.run(self._begin())
        else:
            self._begin_embedded()

    @property
    def pid(self) -> int:
        return self._mosquitto.pid if self._mosquitto is not None else self._child.pid

    @property
    def _child(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    async def _begin(self) -> Broker:
        return await Broker.start("mosquitto", port=self.port, bind=HOST)

    def _begin_embedded(self) -> None:
        command = [sys.executable, "-m", "edgeswarm", "broker", "--embedded", "--json", "--port", str(self.port)]
        env = {**os.environ, "TMPDIR": str(self._log.parent)}  # killed with -9 it leaves its folder behind
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, env=env
            )
        assert self._process.stdout is not None
        with self._process.stdout as said:
            line = said.readline()  # comes when it listens; nothing when it ends instead
        if not line or json.loads(line)["port"] != self.port:
            raise LocalError(f"the embedded broker did not start: {self._log.read_text(errors='replace')[-300:]}")

    def kill(self) -> None:
        """With -9: no last word to anybody."""
        if self._mosquitto is not None:
            os.kill(self._mosquitto.pid, signal.SIGKILL)
        else:
            self._child.kill()
            self._child.wait()

    def start_again(self) -> None:
        """On the same port, with nothing that it had before.  Returns when it listens."""
        if self._mosquitto is not None:
            self._loop.run(self._mosquitto.restart(keep_retained=False))
        else:
            self._begin_embedded()

    def close(self) -> None:
        if self._mosquitto is not None:
            self._loop.run(self._mosquitto.stop())
        elif self._process is not None:
            end(self._process)


class Device:
    """One supervisor.  name: in the cell; state: its state directory."""

    def __init__(self, name: str, state: Path, wire: Wire) -> None:
        self.name, self.state, self.wire = name, state, wire
        self.log = state / "supervisor.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._client: ControlClient | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        command = [sys.executable, "-m", "edgeswarm", "run", "--state", str(self.state)]
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=log, stdin=subprocess.DEVNULL, env=any_tier(os.environ)
            )

    def kill(self) -> None:
        """With -9, as a power cut would end it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self.hang_up()

    def connect(self, timeout_s: float = CALL_S) -> ControlClient:
        """A connection of the caller's own.  Raises NotRunningError."""
        return ControlClient(self.state / "run" / f"{self.name}.sock", timeout_s=timeout_s)

    def call(self, what: str, **args: Any) -> Any:
        """An answer to `swarm` command `what`.  Raises EdgeSwarmError, OSError."""
        try:
            if self._client is None:
                self._client = self.connect()
            return self._client.call("swarm", what=what, **args)
        except (EdgeSwarmError, OSError):
            self.hang_up()
            raise

    def look(self) -> dict[str, Any]:
        """Its part in the cell, as it sees it; empty when it does not answer."""
        try:
            found: dict[str, Any] = self.call("status")
        except (EdgeSwarmError, OSError):
            return {}
        return found

    def hang_up(self) -> None:
        if self._client is not None:
            self._client.__exit__()
            self._client = None

    def events(self, *names: str) -> list[dict[str, Any]]:
        """What it logged under these names."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        rows = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return [row for row in rows if row.get("event") in names]

    def stop(self) -> None:
        self.hang_up()
        if self._process is not None:
            end(self._process)


class DemoCell:
    """folder: empty, and short enough for sockets below it."""

    def __init__(self, folder: Path, count: int, *, embedded: bool) -> None:
        from edgeswarm.app.swarm.dev import init_dev

        self.folder, self.fleet = folder, folder / "cell" / "fleet"
        self._loop = LoopThread()
        self.devices: dict[str, Device] = {}
        self._open: list[Callable[[], None]] = [self._loop.close]
        try:
            self.broker = DemoBroker(self._loop, folder, embedded=embedded)
            self._open.append(self.broker.close)
            _, states = init_dev(folder / "cell", count, brokers=(f"mqtt://{HOST}:{self.broker.port}",))
            for name, state in states.items():
                self.devices[name] = self._wired(name, state)
        except BaseException:
            self.close()
            raise

    def _wired(self, name: str, state: Path) -> Device:
        from dataclasses import replace

        from edgeswarm.app.swarm import config

        async def open_wire() -> Wire:
            wire = Wire(self.broker.port)
            await wire.open()
            return wire

        wire = self._loop.run(open_wire())
        config.save(state, replace(config.load(state), brokers=(f"mqtt://{HOST}:{wire.port}",)))
        device = Device(name, state, wire)
        self._open.append(device.stop)
        return device

    def start(self) -> None:
        """Raises JailError with a device's last words when it ends instead of answering."""
        for device in self.devices.values():
            device.start()
        for device in self.devices.values():
            until = time.monotonic() + START_S_MAX
            while not device.look():
                if not device.runs or time.monotonic() > until:
                    words = device.log.read_text(errors="replace").strip().splitlines()[-3:]
                    raise JailError(f"device {device.name} did not start:\n  " + "\n  ".join(words))
                time.sleep(0.02)

    def cut(self, name: str) -> None:
        self._loop.run(self.devices[name].wire.cut())

    def mend(self, name: str) -> None:
        self._loop.run(self.devices[name].wire.mend())

    def others(self, *names: str) -> Iterable[Device]:
        """Devices whose process runs, but for these."""
        return [device for device in self.devices.values() if device.runs and device.name not in names]

    def stop_devices(self) -> None:
        """All at once: each takes a moment."""
        for device in self.devices.values():
            device.hang_up()
        ends = [threading.Thread(target=device.stop) for device in self.devices.values()]
        for one in ends:
            one.start()
        for one in ends:
            one.join()

    def close(self) -> None:
        """May be called twice."""
        with contextlib.suppress(EdgeSwarmError, OSError):
            self.stop_devices()
        while self._open:
            with contextlib.suppress(EdgeSwarmError, OSError, TimeoutError):
                self._open.pop()()


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL for one that does not hear."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(STOP_S_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
