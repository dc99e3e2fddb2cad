"""GET /metrics for Prometheus on 127.0.0.1: the one page this process serves.

Answers one request a connection, reads at most REQUEST_BYTES_MAX of it, and listens on nothing but loopback.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edgeswarm.errors import ConfigError

REQUEST_BYTES_MAX = 8_192  # a scraper sends a few hundred bytes of headers
REQUEST_S_MAX = 5.0


class MetricsServer:
    """port: 0 is off (the control socket has the same text)."""

    def __init__(self, port: int, text: Callable[[], str]) -> None:
        self._port = port
        self._text = text
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Raises ConfigError when the port is taken."""
        if not self._port:
            return
        try:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, limit=REQUEST_BYTES_MAX)
        except OSError as error:
            raise ConfigError(f"metrics.port: cannot listen on 127.0.0.1:{self._port}: {error.strerror}") from error

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_S_MAX):
                head = await reader.readuntil(b"\r\n\r\n")
                method, target, *_ = head.split(b" ", 2)
                found = method == b"GET" and target.split(b"?")[0] in (b"/metrics", b"/")
                body = self._text().encode() if found else b"not here; GET /metrics\n"
                status = b"200 OK" if found else b"404 Not Found"
                writer.write(
                    b"HTTP/1.1 " + status + b"\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
                    b"Connection: close\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, ConnectionError, ValueError):
            pass  # no request that we could answer
        finally:
            writer.close()
