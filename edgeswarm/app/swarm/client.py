"""A program's way to a cell: the control socket of a device on the same machine, without blocking.

One connection for each question, so that questions do not wait for each other, and one for each thing that is followed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

from edgeswarm.drivers.control import LENGTH, ControlError, NotRunningError, pack, unpack
from edgeswarm.errors import LimitError, PermissionDeniedError, RemoteError
from edgeswarm.limits import CONTROL_MESSAGE_BYTES_MAX

CALL_S = 60.0


class SwarmClient:
    """path: of a device's control socket.  Usable from one event loop at a time; holds nothing between calls."""

    def __init__(self, path: Path, *, timeout_s: float = CALL_S) -> None:
        self.path, self.timeout_s = path, timeout_s

    async def call(self, what: str, **args: Any) -> Any:
        """One answer of `swarm`.  Raises NotRunningError, ControlError, RemoteError, LimitError."""
        return await self.ask("swarm", what=what, **args)

    async def ask(self, op: str, **args: Any) -> Any:
        """One answer of any op of the control socket; timeout_s in all."""
        try:
            async with asyncio.timeout(self.timeout_s), self._open() as (reader, writer):
                writer.write(pack({"op": op, "args": args}))
                await writer.drain()
                return (await _receive(reader)).get("result")
        except TimeoutError:
            raise RemoteError(f"no answer within {self.timeout_s:g} s", who=str(self.path)) from None

    async def follow(self, what: str, **args: Any) -> AsyncGenerator[Any, None]:
        """Answers of `swarm_watch` until it ends.  Closing the iterator ends the following on the device too."""
        async with self._open() as (reader, writer):
            writer.write(pack({"op": "swarm_watch", "args": {"what": what, **args}}))
            await writer.drain()
            while (answer := await _receive(reader)).get("more"):
                yield answer.get("result")

    @contextlib.asynccontextmanager
    async def _open(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        try:
            reader, writer = await asyncio.open_unix_connection(str(self.path))
        except PermissionError:
            raise PermissionDeniedError(f"control socket {self.path}: belongs to another user") from None
        except OSError as error:
            raise NotRunningError(f"no device runs on {self.path} ({error.strerror or error})") from None
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _receive(reader: asyncio.StreamReader) -> dict[str, Any]:
    try:
        (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
        if length > CONTROL_MESSAGE_BYTES_MAX:
            raise LimitError(f"control message: at most {CONTROL_MESSAGE_BYTES_MAX} bytes, found {length}")
        answer = unpack(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, OSError):
        raise RemoteError("the device closed the connection", who="control socket") from None
    if not answer.get("ok"):
        error = answer.get("error") or {}
        kind, code = str(error.get("kind", "")), int(error.get("exit_code", 1))
        raise ControlError(str(error.get("text", "no reason given")), kind=kind, exit_code=code)
    return answer
