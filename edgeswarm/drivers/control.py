"""The control socket: length-prefixed CBOR over a Unix socket that only its owner (and root) may use.

Message = 4 bytes big endian length, then a CBOR map.  Request {"op": text, "args": map}; answer {"ok": true,
"result": any} or {"ok": false, "error": {"kind", "text", "exit_code"}}.  An op that follows something sends any number
of {"ok", "result", "more": true} before its last answer.  Both ends bound the length.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from io import BytesIO
from pathlib import Path
from typing import Any

import cbor2

from edgeswarm.errors import EdgeSwarmError, LimitError, LocalError, PermissionDeniedError, RemoteError
from edgeswarm.limits import CONTROL_CLIENTS_MAX, CONTROL_MESSAGE_BYTES_MAX, SOCKET_PATH_BYTES_MAX

LENGTH = struct.Struct(">I")
Answer = Callable[[str, dict[str, Any]], Awaitable[Any] | AsyncIterator[Any]]
ASKING: ContextVar[str] = ContextVar("asking", default="edgeswarm")
"""Who asks, while an op is answered: `uid 0 pid 4711`, as the kernel says (SO_PEERCRED)."""


class ControlError(RemoteError):
    """The supervisor answered with an error; `exit_code` is what the error ends a command with."""

    def __init__(self, text: str, *, kind: str, exit_code: int) -> None:
        super().__init__(text)
        self.kind = kind
        self.exit_code = exit_code


class NotRunningError(LocalError):
    """No supervisor listens on the socket."""

    exit_code = 8


def pack(message: dict[str, Any]) -> bytes:
    """Raises LimitError past CONTROL_MESSAGE_BYTES_MAX."""
    body = cbor2.dumps(message)
    _check_length(len(body))
    return LENGTH.pack(len(body)) + body


def unpack(body: bytes) -> dict[str, Any]:
    """Raises RemoteError if `body` is not one CBOR map with text keys and nothing behind it."""
    stream = BytesIO(body)
    try:
        message = cbor2.load(stream)
    except (cbor2.CBORDecodeError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        raise RemoteError(f"control message: not CBOR: {error}") from error
    if stream.tell() != len(body) or not isinstance(message, dict) or not all(isinstance(k, str) for k in message):
        raise RemoteError("control message: expected one map with text keys")
    return message


@contextmanager
def _address(path: Path) -> Iterator[str]:
    """Of a socket at `path`, however long that is: a socket address holds 107 bytes (unix(7), sun_path), so a path that
    is longer goes through a descriptor of its folder.  Raises OSError.
    """
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _check_length(length: int) -> None:
    if length > CONTROL_MESSAGE_BYTES_MAX:
        raise LimitError(f"control message: at most {CONTROL_MESSAGE_BYTES_MAX} bytes, found {length}")


class ControlServer:
    """answer(op, args) returns an awaitable (one answer) or an async iterator (many)."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self._path = path
        self._answer = answer
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    @property
    def listener_fd(self) -> int:
        """Of the socket that is listened on, for who takes over; -1 when there is none."""
        return -1 if self._server is None else self._server.sockets[0].fileno()

    def pause(self) -> None:
        """Let nobody in any more; who knocks waits for the one who takes over."""
        if self._server is not None:
            asyncio.get_running_loop().remove_reader(self.listener_fd)

    async def adopt(self, listener: int) -> None:
        """In place of `start`: go on with a copy of `listener_fd`; who has knocked meanwhile is let in."""
        ours = socket.socket(fileno=listener)
        ours.setblocking(False)
        self._server = await asyncio.start_unix_server(self._serve, sock=ours)

    async def start(self) -> None:
        """Raises LocalError if another supervisor listens there, or no socket can be made."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        ours = socket.socket(socket.AF_UNIX)
        ours.setblocking(False)
        old = os.umask(0o177)
        try:
            with _address(self._path) as address:
                if self._path.exists():
                    with socket.socket(socket.AF_UNIX) as probe:
                        if probe.connect_ex(address) == 0:
                            raise LocalError(
                                f"control socket {self._path}: a supervisor runs on this state directory already"
                            )
                    self._path.unlink()
                ours.bind(address)
            self._server = await asyncio.start_unix_server(self._serve, sock=ours)
        except OSError as error:
            raise LocalError(f"control socket {self._path}: cannot be made: {error.strerror or error}") from error
        finally:
            os.umask(old)
            if self._server is None:
                ours.close()

    def move(self, path: Path) -> None:
        """Be found at another path of the same folder from now on; who is connected stays so.  Raises OSError."""
        if self._server is not None:
            self._path.rename(path)
        self._path = path

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            for client in list(self._clients):
                client.cancel()
            await asyncio.gather(*self._clients, return_exceptions=True)
            self._path.unlink(missing_ok=True)
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            peer: socket.socket = writer.get_extra_info("socket")
            pid, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            ASKING.set(f"uid {uid} pid {pid}")
            if uid not in (0, os.geteuid()) or len(self._clients) > CONTROL_CLIENTS_MAX:
                return
            early = b""  # what came while something was followed
            while True:
                head = early or await reader.readexactly(1)
                (length,) = LENGTH.unpack(head + await reader.readexactly(LENGTH.size - 1))
                _check_length(length)
                early = await self._serve_one(unpack(await reader.readexactly(length)), reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client went away, or we are closing
        except EdgeSwarmError as error:
            await self._send_error(writer, error)
        finally:
            self._clients.discard(task)
            writer.close()

    async def _serve_one(
        self, request: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bytes:
        """Answer one request; the first byte of the next one, if it came too early."""
        try:
            op, args = request.get("op"), request.get("args", {})
            if not isinstance(op, str) or not isinstance(args, dict):
                raise RemoteError("control request: expected op (text) and args (map)")
            answer = self._answer(op, args)
            if isinstance(answer, AsyncIterator):
                return await self._follow(answer, reader, writer)
            await self._send(writer, {"ok": True, "result": await answer})
        except EdgeSwarmError as error:
            await self._send_error(writer, error)
        return b""

    async def _follow(
        self, items: AsyncIterator[Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bytes:
        """Send every item.  A client that goes away ends it at once, however quiet the items are."""
        heard = asyncio.ensure_future(reader.read(1))
        coming: asyncio.Future[Any] | None = None
        try:
            while True:
                coming = asyncio.ensure_future(anext(items))
                while not coming.done():
                    await asyncio.wait({coming, heard} if not heard.done() else {coming}, return_when="FIRST_COMPLETED")
                    if heard.done() and not heard.result():
                        raise ConnectionResetError
                try:
                    item = coming.result()
                except StopAsyncIteration:
                    break
                await self._send(writer, {"ok": True, "result": item, "more": True})
            await self._send(writer, {"ok": True, "result": None})
        finally:
            if coming is not None and not coming.done():
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
            await items.aclose()  # type: ignore[attr-defined]  # a generator: its `finally` forgets the follower
            if not heard.done():
                heard.cancel()
                await asyncio.gather(heard, return_exceptions=True)
        return b"" if heard.cancelled() else heard.result()

    @staticmethod
    async def _send(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
        writer.write(pack(message))
        await writer.drain()

    async def _send_error(self, writer: asyncio.StreamWriter, error: EdgeSwarmError) -> None:
        detail = {"kind": type(error).__name__, "text": str(error), "exit_code": error.exit_code}
        try:
            await self._send(writer, {"ok": False, "error": detail})
        except ConnectionError:
            pass  # nobody is left to tell


class ControlClient:
    """Blocking client, for the command line.  Use as a context manager."""

    def __init__(self, path: Path, *, timeout_s: float = 60.0) -> None:
        """Raises NotRunningError if nobody listens, PermissionDeniedError if the socket is another user's."""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout_s)
        try:
            with _address(path) as address:
                self._socket.connect(address)
        except PermissionError as error:
            raise PermissionDeniedError(f"control socket {path}: belongs to another user") from error
        except OSError as error:
            self._socket.close()
            raise NotRunningError(
                f"no supervisor runs on {path} ({error.strerror or error}); "
                "start one with `edgeswarm run`, or name its --state"
            ) from error

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def call(self, op: str, **args: Any) -> Any:
        """The answer of one op.  Raises ControlError."""
        self._send({"op": op, "args": args})
        return self._receive().get("result")

    def follow(self, op: str, **args: Any) -> Iterator[Any]:
        """Every answer of an op that follows something."""
        self._send({"op": op, "args": args})
        while (answer := self._receive()).get("more"):
            yield answer.get("result")

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._socket.sendall(pack(message))
        except ConnectionError:
            raise RemoteError("the supervisor closed the connection") from None

    def _receive(self) -> dict[str, Any]:
        (length,) = LENGTH.unpack(self._read(LENGTH.size))
        _check_length(length)
        answer = unpack(self._read(length))
        if not answer.get("ok"):
            error = answer.get("error") or {}
            kind, code = str(error.get("kind", "")), int(error.get("exit_code", 1))
            raise ControlError(str(error.get("text", "the supervisor gave no reason")), kind=kind, exit_code=code)
        return answer

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            try:
                piece = self._socket.recv(min(size - len(data), 1 << 20))
            except TimeoutError as error:
                raise RemoteError("the supervisor did not answer in time") from error
            except ConnectionError:
                piece = b""
            if not piece:
                raise RemoteError("the supervisor closed the connection")
            data += piece
        return bytes(data)
