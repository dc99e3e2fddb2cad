"""One HTTP POST: HTTP/1.1 over a connection of its own, as much of it as a webhook needs (RFC 9112).

The name is resolved first, and only addresses that are allowed are connected to, so that a name which points at this
machine, its neighbours or a cloud's metadata service leads nowhere.  TLS is verified against the name.  Of the answer
the status line and `Retry-After` are read; redirects are not followed.
Invariant: a call ends within its timeout, and keeps at most WEBHOOK_ANSWER_BYTES_MAX of what the server says.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

from edgeswarm.errors import ConfigError, RemoteError
from edgeswarm.limits import WEBHOOK_ANSWER_BYTES_MAX

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: |$)")
_RETRY_AFTER = re.compile(rb"(?:^|\r\n)retry-after:[ \t]*([0-9]{1,9})[ \t]*(?:\r\n|$)", re.IGNORECASE)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_INTERIM_MAX = 8  # answers of the kind 1xx before the real one


class PrivateAddressError(RemoteError):
    """The name leads to no address that may be asked."""


class Answer(NamedTuple):
    """status: 200 to 599.  retry_after_s: what the server asks for; None: nothing."""

    status: int
    retry_after_s: float | None


@dataclass(frozen=True, slots=True)
class Target:
    """Where to post."""

    is_tls: bool
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_tls else 80) else f"{host}:{self.port}"


def parse(url: str) -> Target:
    """Raises ConfigError for what is no http or https address, or holds a user name."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"webhook {url}: {error}") from None
    is_tls = parts.scheme == "https"
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.fragment:
        raise ConfigError(f"webhook {url}: expected http:// or https://host[:port][/path]")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not re.fullmatch(r"/[!-~]*", path):
        raise ConfigError(f"webhook {url}: expected a path without spaces")
    return Target(is_tls, parts.hostname, port or (443 if is_tls else 80), path)


def is_public(address: str) -> bool:
    """True for an address that anybody on the internet means the same by."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or (ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None)
        if inner is not None:
            return is_public(str(inner))
        if ip.sixtofour is not None or ip.teredo is not None:
            return False  # tunnels that lead to an IPv4 address of the sender's choice
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


async def post(
    target: Target,
    body: bytes,
    *,
    private: bool,
    timeout_s: float,
    token: str = "",
    context: ssl.SSLContext | None = None,
) -> Answer:
    """Post `body`, which is JSON.  private: addresses that are not public are allowed.

    Raises PrivateAddressError, RemoteError for an answer that is none, OSError (ssl.SSLError among them), TimeoutError.
    """
    async with asyncio.timeout(timeout_s):
        reader, writer = await _connect(target, private=private, context=context)
        try:
            writer.write(_head(target, len(body), token) + body)
            await writer.drain()
            return await _answer(reader, target)
        finally:
            writer.transport.abort()


def _head(target: Target, size: int, token: str) -> bytes:
    lines = [
        f"POST {target.path} HTTP/1.1",
        f"Host: {target.authority}",
        "User-Agent: edgeswarm",
        "Content-Type: application/json",
        f"Content-Length: {size}",
        "Connection: close",
    ]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _connect(
    target: Target, *, private: bool, context: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    allowed = [address for address in addresses if private or is_public(address)]
    if not allowed:
        raise PrivateAddressError(f"{', '.join(addresses)}: not a public address", who=target.host)
    failure: OSError | None = None
    for address in allowed:
        try:
            return await asyncio.open_connection(
                address,
                target.port,
                ssl=context if target.is_tls else None,
                server_hostname=target.host if target.is_tls else None,
                limit=WEBHOOK_ANSWER_BYTES_MAX,
            )
        except OSError as error:
            failure = error
    assert failure is not None
    raise failure


async def _answer(reader: asyncio.StreamReader, target: Target) -> Answer:
    for _ in range(_INTERIM_MAX):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            raise RemoteError(f"a head of at most {WEBHOOK_ANSWER_BYTES_MAX} bytes expected", who=target.host) from None
        except asyncio.IncompleteReadError:
            raise RemoteError("hung up before it answered", who=target.host) from None
        first, _, rest = head[:-4].partition(b"\r\n")
        status = _STATUS.match(first)
        if status is None:
            raise RemoteError(f"expected an HTTP status line, found {first[:40]!r}", who=target.host)
        if not status[1].startswith(b"1"):
            wait = _RETRY_AFTER.search(rest)
            return Answer(int(status[1]), float(wait[1]) if wait else None)
    raise RemoteError("nothing but interim answers", who=target.host)
