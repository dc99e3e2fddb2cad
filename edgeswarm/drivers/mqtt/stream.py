"""A connected socket under paho: read in large pieces, written in bursts, TCP_NODELAY always.

paho reads a packet with three calls of recv and writes each with one of send.  Here a read takes up to 64 KiB and
paho is served from memory; the first few packets of one turn of the loop go out at once, what follows in the same
turn is gathered and written together.

Invariants: at most MQTT_READ_BYTES wait to be handled, at most MQTT_WRITE_BYTES_MAX and one packet to be written.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable

from edgeswarm.drivers.mqtt.brokers import Broker, TlsFiles
from edgeswarm.errors import LocalError
from edgeswarm.limits import (
    MQTT_PACKET_BYTES_MAX,
    MQTT_READ_BYTES,
    MQTT_SENDS_DIRECT,
    MQTT_WRITE_BYTES_MAX,
)

_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, openssl/x509_vfy.h: Python has no name for it
HANDSHAKE_BYTES_MAX = 16 * 1024  # the broker's half of a WebSocket handshake: a page of HTTP headers


class Stream:
    """What paho takes for its socket.  Blocking until `attach`, which belongs to the loop's thread."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.closed = False
        self._in = b""
        self._at = 0
        self._out = bytearray()
        self._directs = 0
        self._turn: Callable[[], object] | None = None
        self._handshake_left = HANDSHAKE_BYTES_MAX

    def attach(self, turn: Callable[[], object]) -> None:
        """From here on non-blocking.  turn: called at the first send of a turn, has to call `turn_over` at its end."""
        self.sock.setblocking(False)
        self._turn = turn

    # --- what paho calls ---------------------------------------------------------------------------------------------
    def recv(self, size: int) -> bytes:
        if size > MQTT_PACKET_BYTES_MAX:
            raise ConnectionError(f"the broker announced {size} bytes, at most {MQTT_PACKET_BYTES_MAX} are taken")
        at = self._at
        if at >= len(self._in):
            self._in = b""  # first: an error below must not leave the old bytes to be read again
            self._at = at = 0
            self._in = self.sock.recv(MQTT_READ_BYTES)
            if self._turn is None:
                self._handshake_left -= len(self._in)
                if self._handshake_left < 0:
                    raise ConnectionError(f"a handshake of more than {HANDSHAKE_BYTES_MAX} bytes")
        piece = self._in[at : at + size]
        self._at = at + len(piece)
        return piece

    def send(self, data: bytes | bytearray) -> int:
        if self._out:
            if len(self._out) >= MQTT_WRITE_BYTES_MAX:
                raise BlockingIOError
            self._out += data
            return len(data)
        if self._turn is None:
            return self.sock.send(data)
        if self._directs >= MQTT_SENDS_DIRECT:
            self._out += data
            return len(data)
        if not self._directs:
            self._turn()
        self._directs += 1
        return self.sock.send(data)

    def close(self) -> None:
        """With what was gathered, as far as the kernel takes it: a DISCONNECT is the last thing we send."""
        if self.closed:
            return
        self.closed = True
        try:
            self.flush()
        except OSError:
            pass
        self._out.clear()
        self.sock.close()

    def fileno(self) -> int:
        return self.sock.fileno()

    def pending(self) -> int:
        return self.unread

    def setblocking(self, flag: bool) -> None:
        """paho asks for it after connecting; `attach` has done it."""

    def settimeout(self, timeout_s: float) -> None:
        self.sock.settimeout(timeout_s)

    # --- what the link calls -----------------------------------------------------------------------------------------
    @property
    def unread(self) -> int:
        """Bytes that were read and not handled: the selector knows nothing of them."""
        return len(self._in) - self._at

    @property
    def unwritten(self) -> int:
        return len(self._out)

    def turn_over(self) -> None:
        """The turn ends: what it gathered is written."""
        self._directs = 0
        self.flush()

    def flush(self) -> None:
        """Write what the kernel takes; the rest waits.  OSError if the connection is gone."""
        while self._out:
            try:
                written = self.sock.send(self._out)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            del self._out[:written]


def tls_context(files: TlsFiles) -> ssl.SSLContext:
    """TLS 1.3 and nothing older; only `files.authority` is trusted; LocalError if a file does not load."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if files.authority is None:
        if files.check is None:
            raise LocalError("tls: neither an authority nor a check of the broker's certificate")
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # `check` decides, on the socket itself
    if not files.dated:
        context.verify_flags |= _NO_CHECK_TIME
    try:
        if files.authority is not None:
            context.load_verify_locations(cafile=files.authority)
        if files.certificate is not None:
            context.load_cert_chain(files.certificate, files.key)
    except (OSError, ssl.SSLError) as error:
        raise LocalError(f"tls: {files.authority}, {files.certificate}, {files.key}: {error}") from None
    return context


class Opening:
    """One attempt to connect, in a thread of the executor; `abandon` ends it from the loop's thread."""

    def __init__(self, broker: Broker, timeout_s: float) -> None:
        self._broker = broker
        self._timeout_s = timeout_s
        self._lock = threading.Lock()  # between the two threads: a socket is closed by the one that comes last
        self._sock: socket.socket | None = None
        self._finished: Stream | None = None
        self._abandoned = False

    def open(self) -> Stream:
        """DNS, TCP, TLS.  Raises OSError (ssl.SSLError is one), LocalError, or what `check` of the broker's raises."""
        sock = self._keep(socket.create_connection((self._broker.host, self._broker.port), self._timeout_s))
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # What the kernel holds cannot be overtaken by something more urgent.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MQTT_WRITE_BYTES_MAX)
            if (tls := self._broker.tls) is not None:
                name = tls.server_name or self._broker.host
                sock = self._keep(
                    tls_context(tls).wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)
                )
                sock.settimeout(self._timeout_s)
                sock.do_handshake()  # type: ignore[attr-defined]
                if tls.check is not None:
                    tls.check(sock.getpeercert(True) or b"")  # type: ignore[attr-defined]
            return Stream(sock)
        except BaseException:
            sock.close()
            raise

    def abandon(self) -> None:
        """Wakes the thread if it waits for the broker; a look-up of a name ends when the resolver gives up."""
        with self._lock:
            self._abandoned = True
            if self._finished is not None:
                self._finished.close()
            elif self._sock is not None:
                try:
                    self._sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def finish(self, stream: Stream) -> None:
        """The last step of the executor's thread."""
        with self._lock:
            self._finished = stream
            if self._abandoned:
                stream.close()
                raise TimeoutError("the attempt to connect was given up")

    def _keep(self, sock: socket.socket) -> socket.socket:
        with self._lock:
            self._sock = sock
            if self._abandoned:
                sock.close()
                raise TimeoutError("the attempt to connect was given up")
        return sock
