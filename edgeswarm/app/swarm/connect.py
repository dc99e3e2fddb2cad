"""How a device reaches its cell: brokers, TLS files, what waits while no broker is there, the cell's content keys."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from edgeswarm.app.join import clock
from edgeswarm.app.swarm.config import CellConfig
from edgeswarm.drivers.files import write_whole
from edgeswarm.drivers.mqtt.transport import (
    Broker,
    Connected,
    Disconnected,
    OfflineQueue,
    Settings,
    StoredMessage,
    TlsFiles,
    Transport,
    Will,
)
from edgeswarm.drivers.offline import OfflineQueue as DiskQueue
from edgeswarm.errors import ConfigError, LocalError
from edgeswarm.wire.encryption import KEY_BYTES, CellCipher

RECONNECT_LAN_MS_MAX = 500.0  # where a cell decides within a second, nobody waits five for its broker
CONTENT_KEYS = "content.keys"


class Waiting:
    """The offline queue, once it is open; before and after that nothing waits, and the transport's memory must do."""

    def __init__(self) -> None:
        self.queue: DiskQueue | None = None

    async def open(self, path: Path) -> None:
        """Raises StoreError, LocalError, RemoteError, OSError."""
        self.queue = await DiskQueue.open(path)

    async def close(self) -> None:
        queue, self.queue = self.queue, None
        if queue is not None:
            await queue.close()

    def put(self, topic: str, payload: bytes, priority: int, qos: int, retain: bool, expires_at: float | None) -> None:
        if self.queue is not None:
            self.queue.put(topic, payload, priority, qos, retain, expires_at)

    def take(self, max_bytes: int) -> list[StoredMessage]:
        return [] if self.queue is None else self.queue.take(max_bytes)

    def ack(self, ids: list[int]) -> None:
        if self.queue is not None:
            self.queue.ack(ids)


def make_transport(
    config: CellConfig,
    folder: Path,
    *,
    will: Will,
    offline: OfflineQueue | None,
    on_state: Callable[[Connected | Disconnected], None],
    part: int = 0,
) -> Transport:
    """folder: DIR/swarm; TLS files are named relative to it.  part: tells several clients of one identity apart.

    Raises LocalError for a URL that is none.
    """
    tls = None
    if config.tls_ca:
        pair = (folder / config.tls_cert, folder / config.tls_key) if config.tls_cert else (None, None)
        tls = TlsFiles(folder / config.tls_ca, *pair)
        if clock.now(folder.parent) is None:  # before 1971, say: no certificate would have begun
            floor_s = clock.floor(folder.parent)
            tls = replace(tls, dated=False, check=lambda der: clock.check_ended(der, floor_s))
    return Transport(
        [Broker.from_url(url, tls=tls if url.startswith(("mqtts:", "wss:")) else None) for url in config.brokers],
        client_id=f"{config.fleet}.{config.cell}.{config.device}" + (f".{part}" if part else ""),
        will=will,
        offline=offline,
        settings=Settings(reconnect_ms_max=RECONNECT_LAN_MS_MAX) if config.timing == "lan" else None,
        on_state=on_state,
    )


def load_cipher(config: CellConfig, folder: Path) -> CellCipher | None:
    """The cell's content encryption, if it is on.

    DIR/swarm/content.keys holds a line `epoch key` (64 hex digits) for each key epoch.  Raises ConfigError.
    """
    if not config.encrypt:
        return None
    path = folder / CONTENT_KEYS
    keys: dict[int, bytes] = {}
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path}: others may read it; chmod 600 {path}")
        for line in path.read_text().splitlines():
            epoch, _, key = line.partition(" ")
            keys[int(epoch)] = bytes.fromhex(key)
        return CellCipher(keys, random_bytes=os.urandom)
    except (OSError, ValueError, LocalError) as error:
        raise ConfigError(f"{path}: expected lines of an epoch and {2 * KEY_BYTES} hex digits: {error}") from None


def save_content_key(folder: Path, epoch: int, key: bytes) -> None:
    write_whole(folder / CONTENT_KEYS, f"{epoch} {key.hex()}\n".encode())
