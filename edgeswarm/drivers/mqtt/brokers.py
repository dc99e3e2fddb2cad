"""Where brokers are, and which of them is tried next: a breaker for each (core/breaker.py), pure, `now` in ms.

A broker that fails repeatedly opens its breaker and is left alone for a while; the next one in the list is tried.
When all are open the one whose pause ends first is tried, as often as the caller's back-off allows: a breaker says
which broker, never whether at all.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from edgeswarm.core.breaker import Breaker, State
from edgeswarm.errors import LocalError
from edgeswarm.limits import MQTT_BROKERS_MAX

PORTS = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
PROTOCOL_MEMORY_MS = 3_600_000.0  # how long a broker is taken to speak 3.1.1 only: an hour, then 5 is tried again
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?\.?", re.ASCII)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of one side.  authority: the only roots that are trusted, the system's are not.

    certificate, key: ours, shown to the broker; None where the broker asks for none.
    server_name: the name the broker's certificate must carry, if that is not the host connected to.
    check: judges the broker's own certificate (DER) on every connection, before anything is said on it; raises
    RemoteError.  authority None: nothing else does (a token's pin).  dated: False where this machine's clock is not to
    be believed: OpenSSL then judges no dates, `check` must.
    """

    authority: Path | None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str | None = None
    check: Callable[[bytes], None] | None = None
    dated: bool = True


@dataclass(frozen=True, slots=True)
class Broker:
    """One broker.  tls: None is plain TCP: what we send is signed all the same, but anybody on the way can read it."""

    host: str
    port: int
    tls: TlsFiles | None = None
    websocket: bool = False
    path: str = "/mqtt"
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Without user name and password: fit for logs."""
        scheme = ("wss" if self.tls else "ws") if self.websocket else ("mqtts" if self.tls else "mqtt")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}{self.path if self.websocket else ''}"

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @classmethod
    def from_url(cls, url: str, *, tls: TlsFiles | None = None) -> Broker:
        """mqtt:// mqtts:// ws:// wss://[user[:password]@]host[:port][/path of the WebSocket]; LocalError otherwise."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise LocalError(f"broker {url!r}: {error}") from None
        if parts.scheme not in PORTS:
            raise LocalError(f"broker {url!r}: expected mqtt://, mqtts://, ws:// or wss://, found {parts.scheme!r}")
        host = parts.hostname or ""
        if not _HOST.fullmatch(host):
            try:
                ipaddress.ip_address(host)
            except ValueError:
                raise LocalError(f"broker {url!r}: expected a host name or an address, found {host!r}") from None
        if port == 0:
            raise LocalError(f"broker {url!r}: port 0 cannot be connected to")
        secure = parts.scheme in ("mqtts", "wss")
        if secure and tls is None:
            raise LocalError(f"broker {url!r}: {parts.scheme} needs the authority's certificate")
        websocket = parts.scheme in ("ws", "wss")
        if parts.query or parts.fragment or (parts.path not in ("", "/") and not websocket):
            raise LocalError(f"broker {url!r}: nothing may follow the port")
        return cls(
            host=host,
            port=port or PORTS[parts.scheme],
            tls=tls if secure else None,
            websocket=websocket,
            path=parts.path if parts.path not in ("", "/") else "/mqtt",
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
        )


@dataclass(slots=True)
class Entry:
    """A broker in the list.  protocol: what it is taken to speak, 5 or 4 (MQTT 3.1.1).  connects, faults: counts.

    spoke_5: it is known to speak MQTT 5.
    """

    broker: Broker
    breaker: Breaker
    opened_ms: float = 0.0
    protocol: int = 5
    protocol_ms: float = 0.0
    spoke_5: bool = False
    connects: int = 0
    faults: int = 0

    @property
    def url(self) -> str:
        return self.broker.url

    def protocol_at(self, now: float) -> int:
        """The version to try now: a broker taken for old is asked for MQTT 5 once more after an hour."""
        if self.protocol != 5 and now - self.protocol_ms >= PROTOCOL_MEMORY_MS:
            self.protocol, self.spoke_5 = 5, False
        return self.protocol

    def speaks(self, protocol: int, now: float) -> None:
        self.protocol, self.protocol_ms = protocol, now


class BrokerList:
    """Brokers in the order of preference."""

    def __init__(self, brokers: Iterable[Broker], *, breaker: Breaker | None = None) -> None:
        # A loss and two refused connects: then the next one is tried, about 0.1 s after a broker has gone.
        self._fresh = breaker or Breaker(
            faults_max=3, within_ms=10_000.0, pause_ms_first=1_000.0, pause_ms_max=60_000.0
        )
        self.entries = [Entry(broker, self._fresh) for broker in brokers]
        if not 1 <= len(self.entries) <= MQTT_BROKERS_MAX:
            raise LocalError(f"brokers: expected 1 to {MQTT_BROKERS_MAX}, found {len(self.entries)}")

    def choose(self, now: float) -> Entry:
        """The first closed one, else the first whose pause is over, else the one whose pause ends first."""
        for entry in self.entries:
            if entry.breaker.state is not State.OPEN:
                return entry
        soonest = min(self.entries, key=lambda entry: max(0.0, entry.opened_ms + entry.breaker.pause_ms - now))
        soonest.breaker = soonest.breaker.probe_due()
        return soonest

    def failed(self, entry: Entry, now: float) -> None:
        entry.faults += 1
        before = entry.breaker.state
        entry.breaker = entry.breaker.faulted(now)
        if entry.breaker.state is State.OPEN and before is not State.OPEN:
            entry.opened_ms = now

    def connected(self, entry: Entry) -> None:
        entry.connects += 1

    def held(self, entry: Entry) -> None:
        """The connection has lasted: the broker's faults are forgotten.  Not at CONNACK: some accept, then drop."""
        entry.breaker = self._fresh
