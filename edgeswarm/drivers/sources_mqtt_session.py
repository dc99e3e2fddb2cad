"""One connection to a broker of somebody else, for an agent's source or sink: held up, made again, never trusted.

It is no part of the swarm: no envelope, no roster, a client id made up at each start and no session at the broker, so
what is published while it is away does not wait for it.  MQTT 3.1.1, which every broker speaks and which has all that
is needed here; 5 with a broker that refuses it.
Passwords and certificates are read at each attempt.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgeswarm.agentfile.wiring import MqttSink, MqttSource
from edgeswarm.drivers import secrets
from edgeswarm.drivers.mqtt.brokers import Broker, TlsFiles
from edgeswarm.drivers.mqtt.link import UNSUPPORTED_PROTOCOL, Link, RefusedError
from edgeswarm.drivers.mqtt.properties import Incoming
from edgeswarm.drivers.sources import Backoff
from edgeswarm.errors import ConfigError, EdgeSwarmError
from edgeswarm.limits import SOURCE_RETRY_MS_MAX


def broker_of(spec: MqttSource | MqttSink, folder: Path) -> Broker:
    """Where to connect, and as whom.  folder: of the secrets.  Raises LocalError for a file that is not there, holds
    nothing or can be read by others."""
    tls = _tls(spec, folder) if spec.url.startswith(("mqtts:", "wss:")) else None
    broker = Broker.from_url(spec.url, tls=tls)
    if spec.username:
        password = secrets.read(folder, spec.password_file) if spec.password_file else None
        broker = replace(broker, username=spec.username, password=password)
    return broker


def _tls(spec: MqttSource | MqttSink, folder: Path) -> TlsFiles:
    if spec.ca_file:
        authority = secrets.path_of(folder, spec.ca_file, private=False)
    else:
        paths = ssl.get_default_verify_paths()
        if paths.cafile is None:
            raise ConfigError(f"{spec.url}: this system has no file of authorities; name one with ca_file")
        authority = Path(paths.cafile)
    if not spec.cert_file:
        return TlsFiles(authority)
    certificate = secrets.path_of(folder, spec.cert_file, private=False)
    return TlsFiles(authority, certificate, secrets.path_of(folder, spec.key_file, private=True))


@dataclass(frozen=True, slots=True)
class Listener:
    """Whom a session tells, all in the loop.  up(link): connected.  down(why): the connection is gone.
    failed(error): an attempt to connect failed.  The others are those of `Link`."""

    up: Callable[[Link], None]
    down: Callable[[str], None]
    failed: Callable[[EdgeSwarmError], None]
    deliver: Callable[[Incoming], None] = lambda _incoming: None
    acked: Callable[[int, int], None] = lambda _mid, _reason: None
    granted: Callable[[int, Sequence[int]], None] = lambda _mid, _codes: None
    writable: Callable[[], None] = lambda: None


class Session:
    """`run` until it is cancelled; `link` is the connection while there is one."""

    def __init__(
        self,
        spec: MqttSource | MqttSink,
        folder: Path,
        listener: Listener,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.link: Link | None = None
        self._spec = spec
        self._folder = folder
        self._to = listener
        self._sleep = sleep
        self._client_id = f"es-{os.urandom(8).hex()}"
        self._protocol = 4  # 3.1.1

    async def run(self) -> None:
        """Connect, again and again, with a growing wait; a connection that lasted has earned a short one."""
        loop = asyncio.get_running_loop()
        backoff = Backoff()
        while True:
            lost: asyncio.Future[str] = loop.create_future()
            link = await self._connect(lost)
            if link is not None:
                since_s = loop.time()
                self.link = link
                try:
                    self._to.up(link)
                    why = await lost
                finally:
                    self.link = None
                    link.close()
                self._to.down(why)
                if loop.time() - since_s > SOURCE_RETRY_MS_MAX / 1000:
                    backoff.reset()
            await self._sleep(backoff.next_s())

    async def _connect(self, lost: asyncio.Future[str]) -> Link | None:
        try:
            link = Link(
                broker_of(self._spec, self._folder),
                client_id=self._client_id,
                protocol=self._protocol,
                deliver=self._to.deliver,
                acked=self._to.acked,
                granted=self._to.granted,
                writable=self._to.writable,
                lost=lambda why: None if lost.done() else lost.set_result(why),
            )
            await link.connect()
        except EdgeSwarmError as error:
            if isinstance(error, RefusedError) and error.reason == UNSUPPORTED_PROTOCOL:
                self._protocol = 5 if self._protocol == 4 else 4
            self._to.failed(error)
            return None
        return link
