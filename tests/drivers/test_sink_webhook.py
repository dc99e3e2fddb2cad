"""Webhooks: records reach a server once it takes them, and nothing reaches a server that must not be asked."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import tls_files

from edgeswarm.agentfile.wiring import WebhookSink as Spec
from edgeswarm.drivers import sink_webhook_http as http
from edgeswarm.drivers import sources
from edgeswarm.drivers.profiles import Network
from edgeswarm.drivers.sink_webhook import WebhookSink
from edgeswarm.drivers.sinks import SinkSetup, make_sink
from edgeswarm.errors import CapabilityError, ConfigError, RemoteError
from edgeswarm.limits import SINK_RECORDS_MAX, WEBHOOK_ANSWER_BYTES_MAX

OK = b"HTTP/1.1 204 No Content\r\n\r\n"


class Server:
    """Answers each request with the next of `answers` (the last one for ever); keeps heads and bodies."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers) or [OK]
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            size = int(head.lower().split("content-length: ")[1].split("\r\n")[0])
            self.bodies.append(await reader.readexactly(size))
            self.heads.append(head)
            writer.write(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
            await writer.drain()
            if not self.answers[0]:
                await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    @property
    def seqs(self) -> list[int]:
        return [record["seq"] for body in self.bodies for record in json.loads(body)]


@asynccontextmanager
async def running(*answers: bytes, ssl: Any = None) -> AsyncIterator[Server]:
    server = Server(*answers)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=ssl)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()


class Told:
    def __init__(self) -> None:
        self.events: list[tuple[str, object]] = []

    def __call__(self, name: str, /, **fields: object) -> None:
        self.events.append((name, fields.get("kind")))


def spec(port: int, **options: Any) -> Spec:
    scheme = options.pop("scheme", "http")
    return Spec("webhook", f"{scheme}://127.0.0.1:{port}/in?x=1", **{"batch_ms": 0, **options})


@asynccontextmanager
async def sink_to(
    port: int, told: Told | None = None, secrets: Path = Path("/nowhere"), **options: Any
) -> AsyncIterator[WebhookSink]:
    sink = WebhookSink(SinkSetup("a", told or Told()), spec(port, **options), secrets=secrets, private=True)
    try:
        yield sink
    finally:
        sink.close()
        await sink.closed()
        balanced(sink)


def balanced(sink: WebhookSink) -> None:
    counts = sink.counts()
    assert counts["accepted"] == counts["written"] + counts["dropped"] + counts["waiting"]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - counters have no event
            await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "SOURCE_RETRY_MS", 1.0)


async def test_records_are_posted_as_a_json_array_in_order() -> None:
    async with running() as server, sink_to(server.port, batch=3, batch_ms=60_000) as sink:
        for seq in range(7):
            sink.write({"seq": seq, "text": "é"})
        await until(lambda: len(server.bodies) == 2)
        sink.flush()
        await until(lambda: sink.counts()["written"] == 7)
        assert server.seqs == list(range(7))
        assert [len(json.loads(body)) for body in server.bodies] == [3, 3, 1]
        head = server.heads[0]
        assert head.startswith("POST /in?x=1 HTTP/1.1\r\n") and f"Host: 127.0.0.1:{server.port}\r\n" in head
        assert "Content-Type: application/json\r\n" in head and "Authorization" not in head


async def test_what_waits_is_posted_when_the_sink_is_closed() -> None:
    async with running() as server:
        async with sink_to(server.port, batch_ms=60_000) as sink:
            sink.write({"seq": 1})
        assert server.seqs == [1] and sink.counts()["written"] == 1
        sink.write({"seq": 2})
        assert sink.counts()["dropped"] == 1


@pytest.mark.parametrize(
    "bad",
    [b"HTTP/1.1 503 Busy\r\n\r\n", b"HTTP/1.1 429 Slow\r\nRetry-After: 0\r\n\r\n", b"rubbish\r\n\r\n", b"HTTP/1.1 200"],
)
async def test_failure_that_may_pass_is_tried_again_and_nothing_is_lost(bad: bytes) -> None:
    told = Told()
    async with running(bad, bad, OK) as server, sink_to(server.port, told) as sink:
        sink.write({"seq": 1})
        await until(lambda: sink.counts()["written"] == 1)
        assert server.seqs == [1, 1, 1]
        assert told.events[0][0] == "sink_failed" and told.events[-1][0] == "sink_recovered"
        assert sink.counts()["failed"] == 2 and sink.counts()["dropped"] == 0


@pytest.mark.parametrize("status", [b"301 Moved\r\nLocation: http://127.0.0.1:1/", b"400 Bad", b"401 No", b"404 Gone"])
async def test_refusal_and_redirect_drop_the_records_and_are_not_followed(status: bytes) -> None:
    told = Told()
    async with running(b"HTTP/1.1 " + status + b"\r\n\r\n", OK) as server, sink_to(server.port, told) as sink:
        sink.write({"seq": 1})
        await until(lambda: sink.counts()["dropped"] == 1)
        sink.write({"seq": 2})
        await until(lambda: sink.counts()["written"] == 1)
        assert server.seqs == [1, 2]
        assert ("sink_failed", f"status_{status[:3].decode()}") in told.events
        assert ("sink_dropped", "refused") in told.events


async def test_server_that_is_down_costs_the_tries_and_then_the_records() -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        async with sink_to(taken.getsockname()[1], tries=3) as sink:
            sink.write({"seq": 1})
            await until(lambda: sink.counts()["dropped"] == 1)
            assert sink.counts()["requests"] == 3


async def test_server_that_says_nothing_is_given_up_after_the_timeout() -> None:
    told = Told()
    async with running(b"") as server, sink_to(server.port, told, timeout_s=0.1, tries=1) as sink:
        sink.write({"seq": 1})
        await until(lambda: sink.counts()["dropped"] == 1)
        assert told.events[0] == ("sink_failed", "timeout")


async def test_answer_without_end_is_cut_off() -> None:
    flood = b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * (WEBHOOK_ANSWER_BYTES_MAX // 3)
    async with running(flood) as server:
        target = http.parse(f"http://127.0.0.1:{server.port}/")
        with pytest.raises(RemoteError, match="a head of at most"):
            await http.post(target, b"[]", private=True, timeout_s=5)


async def test_interim_answers_are_passed_over() -> None:
    async with running(b"HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 202 Taken\r\nRETRY-AFTER: 7\r\n\r\n") as server:
        answer = await http.post(http.parse(f"http://127.0.0.1:{server.port}"), b"[]", private=True, timeout_s=5)
    assert answer == (202, 7.0)


async def test_records_that_wait_are_bounded_and_the_oldest_goes() -> None:
    async with running(b"") as server, sink_to(server.port, batch=1, timeout_s=0.1, tries=1) as sink:
        sink.write({"seq": 0})
        await until(lambda: sink.counts()["requests"] == 1)
        for seq in range(1, SINK_RECORDS_MAX + 11):
            sink.write({"seq": seq})
        assert sink.counts()["waiting"] == SINK_RECORDS_MAX + 1 and sink.counts()["dropped"] == 10
        balanced(sink)
        sink._task.cancel()


# --- who may be asked -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::808:808", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("192.168.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("2002:7f00:1::", False),
        ("ff02::1", False),
        ("no address", False),
    ],
)
def test_addresses_that_are_not_public_are_known(address: str, public: bool) -> None:
    assert http.is_public(address) is public


async def test_private_address_is_refused_by_name_before_anything_is_sent() -> None:
    with pytest.raises(CapabilityError, match=r"127\.0\.0\.1 is not a public address"):
        WebhookSink(SinkSetup("a"), spec(1), secrets=Path("/"), private=False)


async def test_name_that_leads_to_a_private_address_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it led to when the agent was deployed: each request looks again."""
    told = Told()
    async with running() as server:

        async def resolve(*_: object, **__: object) -> list[tuple[Any, ...]]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port))]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
        named = Spec("webhook", f"http://hooks.example:{server.port}/", batch_ms=0)
        sink = WebhookSink(SinkSetup("a", told), named, secrets=Path("/"), private=False)
        sink.write({"seq": 1})
        await until(lambda: sink.counts()["dropped"] == 1)
        sink.close()
        await sink.closed()
        assert server.heads == [] and told.events[0] == ("sink_failed", "private_address")


@pytest.mark.parametrize("url", ["ftp://a/", "http://u:p@a/", "http://a:99999/", "http:///x", "http://a/#f"])
def test_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="webhook"):
        http.parse(url)


async def test_capability_and_profile_are_needed(tmp_path: Path) -> None:
    one = Spec("webhook", "https://hooks.example/")

    def make(capabilities: tuple[str, ...], network: Network) -> Any:
        return make_sink(
            one, agent="a", base_dir=tmp_path, runtime_dir=tmp_path, capabilities=capabilities, network=network
        )

    with pytest.raises(CapabilityError, match="needs the capability webhook_sink"):
        make((), Network())
    with pytest.raises(CapabilityError, match=r"profile \(network.webhooks\)"):
        make(("webhook_sink",), Network(webhooks=False))
    sink = make(("webhook_sink",), Network())
    sink.close()
    await sink.closed()


# --- TLS and tokens -------------------------------------------------------------------------------------------------


async def test_server_is_checked_and_the_token_goes_to_it(tmp_path: Path) -> None:
    """The right name and authority are needed; the token is read anew for each request."""
    files = tls_files.make(tmp_path, "127.0.0.1")
    (tmp_path / "token").write_text("s3cret\n")
    os.chmod(tmp_path / "token", 0o600)
    async with running(ssl=files.server_context()) as server:
        options = {"scheme": "https", "token_file": "token", "secrets": tmp_path}
        async with sink_to(server.port, **options, ca_file=files.authority.name) as sink:
            sink.write({"seq": 1})
            await until(lambda: sink.counts()["written"] == 1)
        assert "Authorization: Bearer s3cret\r\n" in server.heads[0]
        told = Told()
        async with sink_to(server.port, told, **options, tries=1) as sink:  # the system knows no such authority
            sink.write({"seq": 2})
            await until(lambda: sink.counts()["dropped"] == 1)
        assert told.events[0] == ("sink_failed", "request") and len(server.heads) == 1


@pytest.mark.parametrize(
    ("text", "mode"),
    [("s3cret", 0o644), ("", 0o600), ("a\rb", 0o600), (None, 0o600)],
)
async def test_token_that_is_no_secret_is_not_sent(tmp_path: Path, text: str | None, mode: int) -> None:
    files = tls_files.make(tmp_path, "127.0.0.1")
    if text is not None:
        (tmp_path / "token").write_text(text)
        os.chmod(tmp_path / "token", mode)
    told = Told()
    async with running(ssl=files.server_context()) as server:
        async with sink_to(
            server.port, told, tmp_path, scheme="https", token_file="token", ca_file=files.authority.name, tries=1
        ) as sink:
            sink.write({"seq": 1})
            await until(lambda: sink.counts()["dropped"] == 1)
        assert told.events[0] == ("sink_failed", "secret") and server.heads == []
