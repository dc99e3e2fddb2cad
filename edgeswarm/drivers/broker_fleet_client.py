"""A small blocking MQTT 5 client for what is done at a broker rather than through it: probes, and ending sessions.

    with connect(Where("127.0.0.1", 8883, tls), client_id="x") as session:
        session.publish("es/1/f/c/device/x/status", b"...")     # -> reason code, 0 or 16 means taken
        session.subscribe("es/1/f/#");  session.messages(0.4)

It says exactly what it is told, also what no client of ours would say; QoS 0 and 1, no reconnecting, no threads.
"""

from __future__ import annotations

import os
import socket
import ssl
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from edgeswarm.errors import RemoteError
from edgeswarm.limits import BROKER_PROBE_S, MQTT_PACKET_BYTES_MAX

TAKEN: Final = frozenset({0, 16})  # success; success, and nobody listens
_CONNACK, _PUBLISH, _PUBACK, _SUBACK, _DISCONNECT = 2, 3, 4, 9, 14
_REASONS: Final = {
    128: "unspecified error",
    129: "malformed packet",
    130: "protocol error",
    133: "client identifier not valid",
    135: "not authorized",
    142: "session taken over",
    149: "packet too large",
    151: "quota exceeded",
    152: "administrative action",
    154: "retain not supported",
}


class RefusedError(RemoteError):
    """The broker did not take the connection, or ended it; the text says how."""


class UnreachableError(RefusedError):
    """Nobody listens there, or the way there is closed: nothing was refused."""


class Said(NamedTuple):
    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Where:
    """tls: None is plain TCP.  server_name: that the certificate must carry; empty: host."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    server_name: str = ""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def reason(code: int) -> str:
    return _REASONS.get(code, f"reason {code}")


@contextmanager
def context(ca: bytes, certificate: bytes = b"", key: bytes = b"") -> Iterator[ssl.SSLContext]:
    """A TLS 1.3 client context.  ca, certificate (with its chain), key: PEM.

    ssl takes certificates from files only: they lie in a folder of ours alone until the context is left.
    """
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    found.minimum_version = ssl.TLSVersion.TLSv1_3
    found.load_verify_locations(cadata=ca.decode())
    if certificate:
        with tempfile.TemporaryDirectory(prefix="edgeswarm-tls-") as folder:
            path = Path(folder) / "both.pem"
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(certificate + key)
            found.load_cert_chain(path)
    yield found


def connect(where: Where, *, client_id: str, user: str | None = None, timeout_s: float = BROKER_PROBE_S) -> Session:
    """A connected session.  Raises UnreachableError, RefusedError: no TLS, or no CONNACK that says yes."""
    try:
        sock = socket.create_connection((where.host, where.port), timeout_s)
    except OSError as error:
        raise UnreachableError(f"no connection: {error.strerror or error}", who=str(where)) from None
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        if where.tls is not None:
            sock = where.tls.wrap_socket(sock, server_hostname=where.server_name or where.host)
        session = Session(sock, where, timeout_s)
        session.greet(client_id, user)
    except BaseException as error:
        sock.close()
        if isinstance(error, ssl.SSLError):
            raise RefusedError(f"TLS: {error.reason or error}", who=str(where)) from None
        if isinstance(error, OSError):
            raise RefusedError(f"{error.strerror or error}", who=str(where)) from None
        raise
    return session


class Session:
    """One connection.  Every wait is bounded by timeout_s; RefusedError when the broker has ended it."""

    def __init__(self, sock: socket.socket, where: Where, timeout_s: float) -> None:
        self._sock, self._where, self._timeout_s = sock, where, timeout_s
        self._buffer = b""
        self._mid = 0
        self._said: list[Said] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        try:
            self._send(14 << 4, b"")
        except RefusedError:
            pass
        self._sock.close()

    # --- saying -------------------------------------------------------------------------------------------------------

    def greet(self, client_id: str, user: str | None) -> None:
        """CONNECT, clean start, session ends with the connection."""
        flags = 2 | (128 if user is not None else 0)
        body = _text("MQTT") + bytes((5, flags)) + struct.pack(">H", 60) + b"\0" + _text(client_id)
        self._send(1 << 4, body + (_text(user) if user is not None else b""))
        _, packet = self._await(_CONNACK)
        if packet[1] != 0:
            raise RefusedError(f"refused: {reason(packet[1])}", who=str(self._where))

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        """QoS 1; the broker's reason code (`TAKEN`, 135: not authorized)."""
        self._mid += 1
        body = _text(topic) + struct.pack(">H", self._mid) + b"\0" + payload
        self._send(3 << 4 | 2 | retain, body)
        _, packet = self._await(_PUBACK, self._mid)
        return packet[2] if len(packet) > 2 else 0

    def subscribe(self, topic_filter: str) -> int:
        """QoS 1; the reason code.  mosquitto 2.0 grants all that its access list knows, and then delivers nothing."""
        self._mid += 1
        self._send(8 << 4 | 2, struct.pack(">H", self._mid) + b"\0" + _text(topic_filter) + b"\x01")
        _, packet = self._await(_SUBACK, self._mid)
        return packet[-1]

    def raw(self, data: bytes) -> None:
        """Bytes as they are."""
        try:
            self._sock.sendall(data)
        except OSError as error:
            raise self._ended(error) from None

    # --- hearing ------------------------------------------------------------------------------------------------------

    def message(self, timeout_s: float) -> Said | None:
        """The next message; None when none comes in so long."""
        end = time.monotonic() + timeout_s
        while not self._said:
            packet = self._packet(end)
            if packet is None:
                return None
        return self._said.pop(0)

    def ended(self, timeout_s: float) -> str | None:
        """How the broker has ended the session, waiting so long for that; None when it lives."""
        end = time.monotonic() + timeout_s
        try:
            while self._packet(end) is not None:
                pass
        except RefusedError as error:
            return str(error)
        return None

    # --- parts --------------------------------------------------------------------------------------------------------

    def _send(self, head: int, body: bytes) -> None:
        self.raw(bytes((head,)) + _varint(len(body)) + body)

    def _await(self, wanted: int, mid: int | None = None) -> tuple[int, bytes]:
        end = time.monotonic() + self._timeout_s
        while True:
            found = self._packet(end)
            if found is None:
                raise RefusedError(f"no answer in {self._timeout_s:g} s", who=str(self._where))
            if found[0] == wanted and (mid is None or struct.unpack_from(">H", found[1])[0] == mid):
                return found

    def _packet(self, end: float) -> tuple[int, bytes] | None:
        """The next packet (type, body), a PUBLISH put aside; None when the time is over."""
        while (found := self._cut()) is None:
            left_s = end - time.monotonic()
            if left_s <= 0:
                return None
            self._sock.settimeout(left_s)
            try:
                data = self._sock.recv(65_536)
            except (TimeoutError, ssl.SSLWantReadError):
                return None
            except OSError as error:
                raise self._ended(error) from None
            finally:
                self._sock.settimeout(self._timeout_s)
            if not data:
                raise RefusedError("the broker closed the connection", who=str(self._where))
            self._buffer += data
        kind, flags, body = found
        if kind == _DISCONNECT:
            raise RefusedError(f"the broker ended it: {reason(body[0]) if body else 'normally'}", who=str(self._where))
        if kind == _PUBLISH:
            self._take(flags, body)
        return kind, body

    def _cut(self) -> tuple[int, int, bytes] | None:
        """The first packet of the buffer: type, flags, body."""
        size, shift, at = 0, 0, 1
        while True:
            if at >= len(self._buffer):
                return None
            byte = self._buffer[at]
            size |= (byte & 127) << shift
            shift, at = shift + 7, at + 1
            if not byte & 128:
                break
            if shift > 21:
                raise RefusedError("what it says is not MQTT", who=str(self._where))
        if size > MQTT_PACKET_BYTES_MAX:
            raise RefusedError(f"a packet of {size} bytes", who=str(self._where))
        if len(self._buffer) < at + size:
            return None
        head, body = self._buffer[0], self._buffer[at : at + size]
        self._buffer = self._buffer[at + size :]
        return head >> 4, head & 15, body

    def _take(self, flags: int, body: bytes) -> None:
        length = struct.unpack_from(">H", body)[0]
        topic, at = body[2 : 2 + length].decode(), 2 + length
        if flags & 6:
            self._send(4 << 4, body[at : at + 2])
            at += 2
        size = body[at]  # of the properties: below 128 bytes in what this client reads
        self._said.append(Said(topic, body[at + 1 + size :]))

    def _ended(self, error: OSError) -> RefusedError:
        text = error.reason if isinstance(error, ssl.SSLError) and error.reason else error.strerror or str(error)
        return RefusedError(f"the broker ended it: {text}", who=str(self._where))


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">H", len(data)) + data


def _varint(number: int) -> bytes:
    out = bytearray()
    while True:
        number, byte = number >> 7, number & 127
        out.append(byte | (128 if number else 0))
        if not number:
            return bytes(out)
