"""A local Unix socket that several readers follow: every record goes to each of them, as one JSON line.

A reader that does not keep up loses the oldest records, counted for it; the others do not notice.  (Records carry
`seq`: a gap there is a loss here.)  What readers send is thrown away; when they leave they are forgotten.
The socket has mode 0600 from its first moment.  A dead socket of an earlier run is replaced, one that lives is not.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeswarm.drivers.handover import Packer, Unpacker
from edgeswarm.drivers.sinks import Outbox, Sink, SinkSetup, Writer
from edgeswarm.errors import LocalError
from edgeswarm.limits import SOCKET_PATH_BYTES_MAX, SOCKET_READER_BYTES_MAX, SOCKET_READERS_MAX


class _Reader:
    """One connection."""

    __slots__ = ("connection", "outbox", "writer")

    def __init__(self, connection: socket.socket, sink: SocketSink) -> None:
        self.connection = connection
        self.outbox = Outbox(SOCKET_READER_BYTES_MAX)
        self.writer = Writer(
            self.outbox, connection.fileno(), polls=False, on_error=lambda error: sink.forget(self, str(error))
        )


class SocketSink(Sink):
    """Records to all who are connected."""

    def __init__(self, setup: SinkSetup, *, path: Path, when: str = "always") -> None:
        """Raises LocalError when the socket cannot be made."""
        super().__init__("socket", setup, when=when)
        self.path = path
        self.refused = 0
        self._readers: dict[int, _Reader] = {}
        self._gone = {"accepted": 0, "written": 0, "dropped": 0}  # of readers that left
        self._loop = asyncio.get_running_loop()
        self._inode = 0
        if setup.begins:
            self._listener = _listen(path)
            self._inode = os.stat(path).st_ino
            self.begin()

    def begin(self) -> None:
        self._loop.add_reader(self._listener.fileno(), self._accept)
        for reader in self._readers.values():
            self._loop.add_reader(reader.connection.fileno(), self._heard, reader)
        self.flush()

    @property
    def readers(self) -> int:
        """How many are connected."""
        return len(self._readers)

    def write(self, record: dict[str, Any]) -> None:
        if self._readers:
            super().write(record)

    def write_line(self, line: bytes) -> None:
        for reader in list(self._readers.values()):
            self.note_dropped(reader.outbox.push(line), "slow_reader")
            reader.writer.flush()

    def flush(self) -> None:
        for reader in list(self._readers.values()):
            reader.writer.flush()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:  # no descriptors left: the one who waits stays in the backlog
            self.note_failed("accept", error)
            return
        if len(self._readers) >= SOCKET_READERS_MAX:
            self.refused += 1
            self.reporter.report("sink_reader_refused", readers_max=SOCKET_READERS_MAX)
            connection.close()
            return
        connection.setblocking(False)
        reader = _Reader(connection, self)
        self._readers[connection.fileno()] = reader
        self._loop.add_reader(connection.fileno(), self._heard, reader)

    def _heard(self, reader: _Reader) -> None:
        try:
            if reader.connection.recv(4096):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self.forget(reader, "left")

    def forget(self, reader: _Reader, why: str) -> None:
        """A reader is gone, or of no use any more."""
        if self._readers.pop(reader.connection.fileno(), None) is None:
            return
        reader.writer.stop()
        self._loop.remove_reader(reader.connection.fileno())
        reader.connection.close()
        reader.outbox.clear()
        for name in self._gone:
            self._gone[name] += getattr(reader.outbox, name)
        self.reporter.report("sink_reader_left", why=why, dropped=reader.outbox.dropped, written=reader.outbox.written)

    def counts(self) -> dict[str, int]:
        outboxes = [reader.outbox for reader in self._readers.values()]
        totals = {name: count + sum(getattr(one, name) for one in outboxes) for name, count in self._gone.items()}
        waiting = sum(map(len, outboxes))
        return {**totals, "waiting": waiting, "failed": self.failed, "readers": self.readers, "refused": self.refused}

    async def parcel(self, packer: Packer) -> dict[str, Any]:
        """With the socket and all who are connected."""
        self._loop.remove_reader(self._listener.fileno())
        readers = []
        for fd, reader in self._readers.items():
            reader.writer.stop()
            self._loop.remove_reader(fd)
            readers.append([packer.fd(fd), reader.outbox.state()])
        return {
            **await super().parcel(packer),
            "listener": packer.fd(self._listener.fileno()),
            "inode": self._inode,
            "readers": readers,
            "gone": self._gone,
            "refused": self.refused,
        }

    def unpack(self, parcel: Mapping[str, Any], unpacker: Unpacker) -> None:
        super().unpack(parcel, unpacker)
        self._listener = socket.socket(fileno=unpacker.fd(parcel["listener"]))
        self._inode, self._gone, self.refused = parcel["inode"], dict(parcel["gone"]), parcel["refused"]
        for number, outbox in parcel["readers"]:
            connection = socket.socket(fileno=unpacker.fd(number))
            reader = self._readers[connection.fileno()] = _Reader(connection, self)
            reader.outbox.restore(outbox)

    def close(self) -> None:
        if self._listener.fileno() < 0:
            return
        self.flush()
        for reader in list(self._readers.values()):
            self.forget(reader, "closed")
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        try:
            if os.stat(self.path).st_ino == self._inode:
                os.unlink(self.path)
        except OSError:
            pass  # it is gone already


def _listen(path: Path) -> socket.socket:
    """A listening socket at `path`, for this user only."""
    size = len(os.fsencode(path))
    if size > SOCKET_PATH_BYTES_MAX:
        raise LocalError(f"sink socket: path of at most {SOCKET_PATH_BYTES_MAX} bytes expected, found {size}: {path}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.setblocking(False)
        _remove_dead(path)
        listener.bind(str(path))
        listener.listen(SOCKET_READERS_MAX)
    except OSError as error:
        listener.close()
        raise LocalError(f"sink socket: {path}: {error.strerror or error}") from None
    except LocalError:
        listener.close()
        raise
    finally:
        os.umask(mask)
    return listener


def _remove_dead(path: Path) -> None:
    """Remove the socket of an earlier run.  Raises LocalError when somebody listens there, or it is no socket."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise LocalError(f"sink socket: {path}: expected nothing or a socket there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass  # its backlog is full: it lives
    raise LocalError(f"sink socket: {path}: another sink or supervisor listens there")
