"""Real brokers on ephemeral ports of 127.0.0.1: mosquitto (skips where it is absent), or amqtt in this loop.

async with mosquitto() as broker: ...broker.url, broker.port, broker.kill(), await broker.restart()
async with amqtt() as broker: ...           # MQTT 3.1.1 only;  amqtt(websocket=True) speaks WebSockets
async with a_broker() as broker: ...        # mosquitto where installed, else amqtt
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
START_S_MAX = 20.0


def needs_mosquitto() -> None:
    """Skip the running test, with the reason, where mosquitto is not installed."""
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed (apt-get install mosquitto)")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@dataclass
class Mosquitto:
    """One mosquitto process.  options: further lines of its configuration.  Its port survives restarts."""

    port: int
    folder: Path
    options: tuple[str, ...] = ()
    scheme: str = "mqtt"
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text(errors="replace")

    async def start(self) -> None:
        assert MOSQUITTO is not None
        lines = [f"listener {self.port} 127.0.0.1", "set_tcp_nodelay true", *self.options]
        if not any("allow_anonymous" in line for line in lines):
            lines.insert(0, "allow_anonymous true")
        config = self.folder / "mosquitto.conf"
        config.write_text("\n".join([*lines, "log_type all", f"log_dest file {self.folder / 'log.txt'}", ""]))
        # As root mosquitto changes to a user of its own, who could not read our folder.
        config.write_text(config.read_text() + "user root\n")
        self.process = subprocess.Popen(  # noqa: ASYNC220 - a spawn takes about 1 ms; the start is polled below
            [MOSQUITTO, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = asyncio.get_running_loop().time() + START_S_MAX
        while True:
            if self.process.poll() is not None:
                raise RuntimeError(f"mosquitto ended with {self.process.returncode}: {self.log[-2000:]}")
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(0.01)
                continue
            writer.close()
            return

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it (or with SIGSTOP / SIGCONT: hang it) and, if it ends, wait for that."""
        assert self.process is not None
        self.process.send_signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            self.process.wait(10)

    async def restart(self) -> None:
        """kill -9 and start again on the same port; retained messages are gone unless `options` say persistence."""
        self.close()
        await self.start()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(10)


@asynccontextmanager
async def mosquitto(*options: str, port: int = 0, scheme: str = "mqtt") -> AsyncIterator[Mosquitto]:
    """A mosquitto that listens before the body runs and is gone after it; skips the test where there is none."""
    needs_mosquitto()
    with tempfile.TemporaryDirectory(prefix="es-mosquitto-") as folder:
        broker = Mosquitto(port or free_port(), Path(folder), options, scheme)
        try:
            await broker.start()
            yield broker
        finally:
            broker.close()


@dataclass
class Amqtt:
    """One amqtt broker inside the running loop: MQTT 3.1.1 only."""

    port: int
    websocket: bool = False
    overrides: dict[str, Any] = field(default_factory=dict)
    broker: Any = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"{'ws' if self.websocket else 'mqtt'}://127.0.0.1:{self.port}"

    async def start(self) -> None:
        pytest.importorskip("amqtt", reason="amqtt is not installed (pip install 'edgeswarm[broker]')")
        from amqtt.broker import Broker

        from edgeswarm.drivers.broker_amqtt import tidy_class

        listener: dict[str, Any] = {"type": "ws" if self.websocket else "tcp", "bind": f"127.0.0.1:{self.port}"}
        config: dict[str, Any] = {
            "listeners": {"default": listener | self.overrides},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
        self.broker = tidy_class(Broker)(config)
        await self.broker.start()

    async def stop(self) -> None:
        if self.broker is not None:
            broker, self.broker = self.broker, None
            await broker.shutdown()

    async def restart(self) -> None:
        await self.stop()
        await self.start()


@asynccontextmanager
async def amqtt(*, websocket: bool = False, port: int = 0, **overrides: Any) -> AsyncIterator[Amqtt]:
    """An amqtt broker in this loop; overrides: further keys of its listener (ssl, certfile, ...)."""
    broker = Amqtt(port or free_port(), websocket, overrides)
    try:
        await broker.start()
        yield broker
    finally:
        await broker.stop()


@asynccontextmanager
async def a_broker() -> AsyncIterator[Mosquitto | Amqtt]:
    """Whatever broker this machine has: for tests that do not care which."""
    if MOSQUITTO is not None:
        async with mosquitto() as broker:
            yield broker
    else:
        async with amqtt() as broker:
            yield broker
