"""A broker of our own on this machine: mosquitto with a configuration that we write, or amqtt where there is none.

    async with Broker.start(port=0) as broker:      # or: broker = await Broker.start(); ...; await broker.stop()
        print(broker.url)

mosquitto is a process; amqtt runs inside the caller's loop, speaks MQTT 3.1.1 only, and is meant for demos and for a
site that is cut off.  Every bound of mosquitto's configuration is written down (broker_config.py); persistence is off
unless asked for, since retained messages are a cache of ours and the log is the truth.
"""

from __future__ import annotations

import abc
import asyncio
import os
import pwd
import shutil
import signal
import socket
import tempfile
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from edgeswarm.drivers.broker_config import BrokerOptions, BrokerTls, check, mosquitto_config
from edgeswarm.errors import EdgeSwarmError, LocalError
from edgeswarm.limits import BROKER_LOG_BYTES, BROKER_START_S, BROKER_STOP_S

Kind = Literal["auto", "mosquitto", "embedded"]
KINDS = ("auto", "mosquitto", "embedded")


class BrokerFailedError(EdgeSwarmError):
    """The broker did not start, or ended; the text holds the end of its log."""


def mosquitto_path() -> str | None:
    """Where mosquitto is: Debian keeps it in /usr/sbin, which is in few users' PATH."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin")


def free_port(bind: str, port: int = 0) -> int:
    """`port`, or one that was free a moment ago for 0.  LocalError if the address or the port cannot be had."""
    with socket.socket(socket.AF_INET6 if ":" in bind else socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((bind, port))
            sock.listen(1)
        except OSError as error:
            raise LocalError(f"broker: cannot listen on {bind}, port {port}: {error.strerror}") from None
        return int(sock.getsockname()[1])


def _claim(folder: Path) -> None:
    """Make the folder, or take one that is empty or a broker's of ours: what is in it may change its owner."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(folder.iterdir()) and not (folder / "mosquitto.conf").exists():
        raise LocalError(f"broker: {folder} is not empty, and no broker of ours; name another folder")


class Broker(abc.ABC):
    """Base of both kinds.  url: what clients connect to, the same over restarts."""

    kind: str

    def __init__(self, options: BrokerOptions, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self._own_folder: tempfile.TemporaryDirectory[str] | None = None

    @staticmethod
    def start(
        kind: Kind = "auto",
        *,
        port: int = 0,
        bind: str = "127.0.0.1",
        tls: BrokerTls | None = None,
        folder: Path | None = None,
        persistence: bool = False,
        websocket: bool = False,
        acl: Path | None = None,
    ) -> Starting:
        """A broker that listens: to be awaited, or for `async with`.

        kind: auto takes mosquitto where it is installed and speaks what is asked for.  port: 0 takes a free one.
        tls: TLS 1.3 with client certificates; without it only loopback may be bound, because anybody may connect.
        folder: for configuration, log and persistence; without one a temporary folder, removed by `stop`.
        websocket: embedded only.  acl: mosquitto only.  Raises LocalError, BrokerFailedError.
        """
        return Starting(kind, BrokerOptions(bind, port, tls, persistence, websocket, acl), folder)

    @staticmethod
    async def _start(kind: Kind, options: BrokerOptions, folder: Path | None) -> Broker:
        if kind not in KINDS:
            raise LocalError(f"broker: expected one of {', '.join(KINDS)}, found {kind!r}")
        if kind == "auto":
            kind = "mosquitto" if mosquitto_path() is not None and not options.websocket else "embedded"
        if options.websocket and kind == "mosquitto":
            raise LocalError("broker: Debian's mosquitto has no WebSockets; take the embedded one")
        if kind == "embedded" and (options.acl is not None or (options.persistence and folder is not None)):
            raise LocalError("broker: the embedded one keeps nothing on disk and knows no access list; take mosquitto")
        check(options)
        options = replace(options, port=free_port(options.bind, options.port))
        own = tempfile.TemporaryDirectory(prefix="edgeswarm-broker-") if folder is None else None
        home = Path(own.name) if own is not None else folder
        assert home is not None
        if own is None:
            _claim(home)
        broker: Broker = Mosquitto(options, home) if kind == "mosquitto" else Embedded(options, home)
        broker._own_folder = own
        try:
            await broker._begin()
        except BaseException:
            await broker.stop()
            raise
        return broker

    @property
    def port(self) -> int:
        return self.options.port

    @property
    def url(self) -> str:
        host = "127.0.0.1" if self.options.bind in ("0.0.0.0", "::") else self.options.bind
        host = f"[{host}]" if ":" in host else host
        return f"{self.options.scheme}://{host}:{self.port}"

    @property
    @abc.abstractmethod
    def pid(self) -> int:
        """Of the process that the broker is, or is in."""

    @abc.abstractmethod
    async def _begin(self) -> None: ...

    @abc.abstractmethod
    async def _end(self, *, gently: bool) -> None: ...

    async def stop(self) -> None:
        """End it; clients lose their connections.  May be called twice."""
        await self._end(gently=True)
        if self._own_folder is not None:
            own, self._own_folder = self._own_folder, None
            own.cleanup()

    @abc.abstractmethod
    async def restart(self, *, keep_retained: bool) -> None:
        """End it and start it on the same port.  keep_retained: with its retained messages, or with none."""

    @abc.abstractmethod
    def kill(self) -> None:
        """As power loss would end it: no last word to anybody.  `restart` brings it back."""

    @abc.abstractmethod
    async def ended(self) -> int:
        """Wait until it ends by itself; its exit code."""

    async def __aenter__(self) -> Broker:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


class Mosquitto(Broker):
    """A process of its own."""

    kind = "mosquitto"
    _process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log_path(self) -> Path:
        return self.folder / "mosquitto.log"

    @property
    def log_tail(self) -> str:
        try:
            with self.log_path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - BROKER_LOG_BYTES))
                return file.read().decode(errors="replace").strip()
        except OSError:
            return ""

    async def _begin(self) -> None:
        program = mosquitto_path()
        if program is None:
            raise LocalError("mosquitto is not installed: apt-get install mosquitto, or use the embedded broker")
        config = await asyncio.to_thread(_prepare, self.options, self.folder)
        with self.log_path.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                program,
                "-c",
                str(config),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # ctrl-c at the terminal is ours to answer: we stop it
            )
        until = asyncio.get_running_loop().time() + BROKER_START_S
        while not await _listens(self.options.bind, self.port):
            if self._process.returncode is not None:
                raise BrokerFailedError(f"mosquitto ended with {self._process.returncode}: {self.log_tail}")
            if asyncio.get_running_loop().time() > until:
                raise BrokerFailedError(f"mosquitto does not listen after {BROKER_START_S:g} s: {self.log_tail}")
            await asyncio.sleep(0.01)
        # It listens before it has read its certificates, and then ends if they do not load.
        await asyncio.sleep(0.02 if self.options.tls is None else 0.1)
        if self._process.returncode is not None:
            raise BrokerFailedError(f"mosquitto ended with {self._process.returncode}: {self.log_tail}")

    async def _end(self, *, gently: bool) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM if gently else signal.SIGKILL)
        try:
            async with asyncio.timeout(BROKER_STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def restart(self, *, keep_retained: bool) -> None:
        if keep_retained and not self.options.persistence:
            raise LocalError("broker: it keeps retained messages over a restart only with persistence")
        # Gently: mosquitto writes its database when it is told to end.
        await self._end(gently=keep_retained)
        if not keep_retained:
            (self.folder / "mosquitto.db").unlink(missing_ok=True)
        await self._begin()

    def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def ended(self) -> int:
        assert self._process is not None
        return await self._process.wait()


class Embedded(Broker):
    """amqtt in the running loop."""

    kind = "embedded"
    _broker: Any = None

    @property
    def pid(self) -> int:
        return os.getpid()

    async def _begin(self) -> None:
        from edgeswarm.drivers.broker_amqtt import start

        self._stopped = asyncio.Event()
        self._broker = await start(self.options)

    async def _end(self, *, gently: bool) -> None:
        broker, self._broker = self._broker, None
        if broker is not None:
            from edgeswarm.drivers.broker_amqtt import stop

            await stop(broker)
            self._stopped.set()

    async def restart(self, *, keep_retained: bool) -> None:
        from edgeswarm.drivers.broker_amqtt import restore, retained

        kept = retained(self._broker) if keep_retained and self._broker is not None else {}
        await self._end(gently=False)
        await self._begin()
        restore(self._broker, kept)

    def kill(self) -> None:
        """The nearest thing inside one process: connections are cut at once, in a task."""
        if self._broker is not None:
            self._killing = asyncio.get_running_loop().create_task(self._end(gently=False))

    async def ended(self) -> int:
        await self._stopped.wait()
        return 0


def _prepare(options: BrokerOptions, folder: Path) -> Path:
    """Write the configuration.  As root mosquitto changes to its own user, who gets copies of what it has to read."""
    user = mosquitto_user()
    if user is not None:
        own = {}
        for name in ("authority", "certificate", "key", "revoked"):
            source: Path | None = getattr(options.tls, name, None)
            if source is not None:
                own[name] = folder / f"tls-{name}.pem"
                own[name].touch(mode=0o600)
                own[name].write_bytes(source.read_bytes())
        if options.tls is not None:
            options = replace(options, tls=BrokerTls(**own))
        if options.acl is not None:
            shutil.copyfile(options.acl, folder / "acl")
            options = replace(options, acl=folder / "acl")
    config = folder / "mosquitto.conf"
    config.write_text(mosquitto_config(options, folder, user=user))
    (folder / "mosquitto.log").touch(mode=0o600)
    if user is not None:
        for path in (folder, *folder.iterdir()):
            shutil.chown(path, user)
    return config


def mosquitto_user() -> str | None:
    """The user that mosquitto, started by root, is to run as."""
    if os.geteuid():
        return None
    try:
        return pwd.getpwnam("mosquitto").pw_name
    except KeyError:
        return "nobody"


async def _listens(bind: str, port: int) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bind, bind)
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True


class Starting:
    """What `Broker.start` returns: await it, or enter it."""

    def __init__(self, kind: Kind, options: BrokerOptions, folder: Path | None) -> None:
        self._arguments = (kind, options, folder)
        self._broker: Broker | None = None

    def __await__(self) -> Generator[Any, None, Broker]:
        return Broker._start(*self._arguments).__await__()

    async def __aenter__(self) -> Broker:
        self._broker = await self
        return self._broker

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._broker is not None:
            await self._broker.stop()
