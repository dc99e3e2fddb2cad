"""Records to a web server: POST of a JSON array, one request at a time, in order.

A request that fails in a way that may pass (no connection, timeout, 408, 425, 429, 5xx) is sent again with a growing
wait, `Retry-After` respected, at most `tries` times; any other answer, a redirect included, drops its records.  A
server may so see a record twice, after a timeout: records carry `seq`.  Meanwhile records wait in an outbox, bounded;
the oldest goes, counted.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeswarm.agentfile.wiring import WebhookSink as WebhookSpec
from edgeswarm.drivers import secrets
from edgeswarm.drivers.handover import Packer, Unpacker
from edgeswarm.drivers.sink_webhook_http import PrivateAddressError, is_public, parse, post
from edgeswarm.drivers.sinks import Outbox, Sink, SinkSetup, outbox_counts
from edgeswarm.drivers.sources import Backoff
from edgeswarm.errors import CapabilityError, EdgeSwarmError
from edgeswarm.limits import CHILD_STOP_MS, WEBHOOK_LEAVE_S, WEBHOOK_RETRY_AFTER_S_MAX

_PASSING = frozenset({408, 425, 429})


class WebhookSink(Sink):
    """Records to one address."""

    def __init__(self, setup: SinkSetup, spec: WebhookSpec, *, secrets: Path, private: bool) -> None:
        """private: addresses that are not public are allowed.  Raises CapabilityError for one that is not."""
        super().__init__("webhook", setup, when=spec.when)
        self._spec = spec
        self._target = parse(spec.url)
        self._secrets = secrets
        self._private = private
        if not private and _is_address(self._target.host) and not is_public(self._target.host):
            raise CapabilityError(
                f"sink webhook: {self._target.host} is not a public address, which this device's profile does not allow"
                " (network.private_webhooks)"
            )
        self._outbox = Outbox()
        self._flight: list[bytes] = []  # the records of the request on its way
        self._some = asyncio.Event()
        self._full = asyncio.Event()
        self._closing = asyncio.Event()
        self.requests = 0
        self._failing = False
        self._leaving = False
        self._task: asyncio.Task[None] | None = None
        if setup.begins:
            self.begin()

    def begin(self) -> None:
        if self._outbox:
            self._some.set()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def parcel(self, packer: Packer) -> dict[str, Any]:
        """The request on its way has WEBHOOK_LEAVE_S to end, else its records go again: a server may see them twice."""
        self._leaving = True
        if self._task is not None:
            if self._flight:
                await asyncio.wait((self._task,), timeout=WEBHOOK_LEAVE_S)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        lines, *rest = self._outbox.state()
        return {
            **await super().parcel(packer),
            "outbox": [[*self._flight, *lines], *rest],
            "requests": self.requests,
        }

    def unpack(self, parcel: Mapping[str, Any], unpacker: Unpacker) -> None:
        super().unpack(parcel, unpacker)
        self._outbox.restore(parcel["outbox"])
        self.requests = parcel["requests"]

    def write_line(self, line: bytes) -> None:
        dropped = self._outbox.push(line)
        if self._closing.is_set():
            dropped += self._outbox.clear()
        self.note_dropped(dropped, "closed" if self._closing.is_set() else "slow")
        self._some.set()
        if len(self._outbox) >= self._spec.batch:
            self._full.set()

    def flush(self) -> None:
        self._full.set()

    async def _run(self) -> None:
        try:
            while not self._leaving and (self._outbox or not self._closing.is_set()):
                await self._gather()
                self._flight = self._outbox.take(self._spec.batch)
                if self._flight:
                    await self._deliver(self._flight)
        finally:
            if not self._leaving:
                unsent = len(self._flight)
                self._outbox.dropped += unsent
                self._flight = []
                self.note_dropped(unsent + self._outbox.clear(), "closed")

    async def _gather(self) -> None:
        """Until there is a request's worth of records, or the first has waited long enough."""
        await _either(self._some, self._closing, None)
        if len(self._outbox) < self._spec.batch:
            self._full.clear()
            await _either(self._full, self._closing, self._spec.batch_ms / 1000)
        if len(self._outbox) <= self._spec.batch:
            self._some.clear()

    async def _deliver(self, lines: list[bytes]) -> None:
        """Post these records, again and again if need be; they are written or dropped after it."""
        body = b"[" + b",".join(line.rstrip(b"\n") for line in lines) + b"]"
        backoff = Backoff()
        for number in range(self._spec.tries):
            wait_s = await self._try(body)
            if wait_s is None or wait_s < 0:
                break
            last = number == self._spec.tries - 1 or self._closing.is_set()
            if last:
                break
            await _either(self._closing, self._closing, max(wait_s, backoff.next_s() * random.uniform(0.5, 1.0)))
        self._flight = []
        if wait_s is None:
            self._outbox.written += len(lines)
            if self._failing:
                self._failing = False
                self.reporter.report("sink_recovered", url=self._spec.url)
        else:
            self._outbox.dropped += len(lines)
            self.note_dropped(len(lines), "refused" if wait_s < 0 else "unreachable")

    async def _try(self, body: bytes) -> float | None:
        """One request.  None: taken; below 0: refused for good; else it may pass, after so many seconds."""
        self.requests += 1
        try:
            answer = await post(
                self._target,
                body,
                private=self._private,
                timeout_s=self._spec.timeout_s,
                token=secrets.read(self._secrets, self._spec.token_file) if self._spec.token_file else "",
                context=self._context(),
            )
        except PrivateAddressError as error:
            self._note("private_address", error)
            return -1.0
        except TimeoutError:
            self._note("timeout", TimeoutError(f"no answer within {self._spec.timeout_s:g} s"))
            return 0.0
        except (OSError, EdgeSwarmError) as error:
            self._note("secret" if isinstance(error, EdgeSwarmError) and "secret" in str(error) else "request", error)
            return 0.0
        if 200 <= answer.status < 300:
            return None
        passing = answer.status in _PASSING or answer.status >= 500
        self._note(f"status_{answer.status}", ConnectionError(f"status {answer.status}"))
        return min(answer.retry_after_s or 0.0, WEBHOOK_RETRY_AFTER_S_MAX) if passing else -1.0

    def _context(self) -> ssl.SSLContext | None:
        return secrets.tls_context(self._secrets, ca=self._spec.ca_file) if self._target.is_tls else None

    def _note(self, what: str, error: Exception) -> None:
        self._failing = True
        self.note_failed(what, error)

    def counts(self) -> dict[str, int]:
        counts = outbox_counts(self._outbox, self.failed)
        return {**counts, "waiting": counts["waiting"] + len(self._flight), "requests": self.requests}

    def close(self) -> None:
        """What waits has CHILD_STOP_MS from now on to be posted; `closed` waits for it."""
        if not self._closing.is_set():
            self._closing.set()
            if self._task is not None:
                asyncio.get_running_loop().call_later(CHILD_STOP_MS / 1000, self._task.cancel)

    async def closed(self) -> None:
        """Returns once the last request is over."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)


async def _either(one: asyncio.Event, other: asyncio.Event, timeout_s: float | None) -> None:
    """Until one of the two is set, or the time is over."""
    if one.is_set() or other.is_set():
        return
    waits = [asyncio.ensure_future(event.wait()) for event in {one, other}]
    try:
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
