"""Unary gRPC calls over one HTTP/2 connection, with as little Python as will do, so that etcd's figures are etcd's.

A call costs some 15 µs here; grpcio's costs 150 to 300 µs, which would be most of what is measured.  RFC 9113 frames,
HPACK without indexing (RFC 7541 6.2.2), no compression, one thread.  A call is answered when its stream ends, and has
succeeded when a message came (a failed call has trailers only).
"""

from __future__ import annotations

import select
import socket
import struct
import time
from typing import NamedTuple

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
WINDOW = (1 << 31) - 1


class Answered(NamedTuple):
    """stream: what `send` returned.  at: time.perf_counter()."""

    stream: int
    ok: bool
    at: float


class Channel:
    """One connection.  Raises OSError when it cannot be made, or is lost."""

    def __init__(self, port: int, timeout_s: float = 1.0) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), timeout_s)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._authority = b"127.0.0.1:%d" % port
        self._blocks: dict[bytes, bytes] = {}
        self._stream = -1
        self._window = 65_535  # what the server still takes, all streams together
        self._in = bytearray()
        self._early: list[Answered] = []  # came while `send` waited for room
        self._got: set[int] = set()  # streams with a message
        initial = struct.pack(">HI", 4, WINDOW)
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(SETTINGS, 0, 0, initial)
        self._sock.sendall(preface + _frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW - 65_535)))
        self._sock.setblocking(True)

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, path: bytes, message: bytes) -> int:
        """Begin a call; its stream's number."""
        data = b"\x00" + struct.pack(">I", len(message)) + message
        while self._window < len(data):
            if not self._read(1.0):
                raise OSError("the server takes no more data")
            self._early += self._parse()
        self._window -= len(data)
        self._stream += 2
        block = self._blocks.get(path)
        if block is None:
            block = self._blocks[path] = self._block(path)
        self._sock.sendall(
            _frame(HEADERS, END_HEADERS, self._stream, block) + _frame(DATA, END_STREAM, self._stream, data)
        )
        return self._stream

    def _block(self, path: bytes) -> bytes:
        def text(value: bytes) -> bytes:
            return bytes([len(value)]) + value

        head = b"\x83\x86\x04" + text(path) + b"\x01" + text(self._authority)
        return head + b"\x0f\x10" + text(b"application/grpc") + b"\x00" + text(b"te") + text(b"trailers")

    def poll(self, timeout_s: float) -> list[Answered]:
        """The calls that were answered by then; waits for the first of them."""
        if self._early:
            early, self._early = self._early, []
            return early
        until = time.perf_counter() + timeout_s
        while True:
            left = until - time.perf_counter()
            if not self._read(left) and left <= 0:
                return []
            if answered := self._parse():
                return answered

    def _read(self, timeout_s: float) -> bool:
        ready, _, _ = select.select([self._sock], [], [], max(0.0, timeout_s))
        if not ready:
            return False
        chunk = self._sock.recv(1 << 16)
        if not chunk:
            raise OSError("the server hung up")
        self._in += chunk
        return True

    def _parse(self) -> list[Answered]:
        answered: list[Answered] = []
        data, at = self._in, 0
        now = time.perf_counter()
        while len(data) - at >= 9:
            size = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            if len(data) - at < 9 + size:
                break
            kind, flags = data[at + 3], data[at + 4]
            stream = int.from_bytes(data[at + 5 : at + 9], "big") & WINDOW
            body = bytes(data[at + 9 : at + 9 + size])
            at += 9 + size
            if kind == DATA and size >= 5:
                self._got.add(stream)
            if (kind in (DATA, HEADERS) and flags & END_STREAM) or kind == RST_STREAM:
                answered.append(Answered(stream, stream in self._got and kind != RST_STREAM, now))
                self._got.discard(stream)
            elif kind == SETTINGS and not flags & ACK:
                self._sock.sendall(_frame(SETTINGS, ACK, 0, b""))
            elif kind == PING and not flags & ACK:
                self._sock.sendall(_frame(PING, ACK, 0, body))
            elif kind == WINDOW_UPDATE and stream == 0:
                self._window += int.from_bytes(body, "big")
            elif kind == GOAWAY:
                raise OSError("the server says goodbye")
        del data[:at]
        return answered

    def close(self) -> None:
        self._sock.close()


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def field(number: int, value: bytes) -> bytes:
    """A bytes field of a Protocol Buffers message."""
    return varint(number << 3 | 2) + varint(len(value)) + value
