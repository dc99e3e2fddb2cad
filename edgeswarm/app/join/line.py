"""One question to the issuer, over connections whose broker was judged by the token's pin before a byte of MQTT.

The check is on the very socket that MQTT then uses (drivers/mqtt: TlsFiles.check), for each connection anew, so there
is no moment between the look and the use.  Brokers are tried in the order of the token.  The question is asked again,
the same bytes, until it is answered: what was answered and lost on the way is answered once more.  An answer that does
not open is passed over: a broker may say what it likes, and only the issuer can sign.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgeswarm.drivers.mqtt.brokers import Broker, TlsFiles
from edgeswarm.drivers.mqtt.connack import UNSUPPORTED_PROTOCOL, ClosedEarlyError, LinkError, RefusedError
from edgeswarm.drivers.mqtt.link import Link
from edgeswarm.drivers.mqtt.stream import Opening
from edgeswarm.errors import EdgeSwarmError, RemoteError
from edgeswarm.limits import (
    JOIN_APPROVAL_S,
    JOIN_ASK_S,
    JOIN_ASK_S_MAX,
    JOIN_WAIT_S,
    MQTT_CONNECT_S,
    MQTT_RECONNECT_MS,
    MQTT_RECONNECT_MS_MAX,
)
from edgeswarm.wire import join
from edgeswarm.wire.certificate import CertificateError
from edgeswarm.wire.join import Answer, Topic
from edgeswarm.wire.token import Token


class PinError(RemoteError):
    """Whoever listens there is not this fleet's broker: nothing was said to it."""

    exit_code = 5


class NoAnswerError(RemoteError):
    """No broker could be reached, or nobody answered, in time."""

    exit_code = 1


class StillWaitingError(RemoteError):
    """The fleet has the request; a person has not decided yet."""

    exit_code = 9


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds.  wait: for the first answer; approval: for a person; ask: between two askings, doubled up to ask_max."""

    wait: float = JOIN_WAIT_S
    approval: float = JOIN_APPROVAL_S
    ask: float = JOIN_ASK_S
    ask_max: float = JOIN_ASK_S_MAX
    connect: float = MQTT_CONNECT_S


@dataclass(frozen=True, slots=True)
class Question:
    """topic: where it is asked; data: sealed; private: what the answer is sealed to."""

    topic: Topic
    data: bytes = field(repr=False)
    private: bytes = field(repr=False)


def pinned(token: Token, now: Callable[[], int | None]) -> list[Broker]:
    """The token's brokers, each with the pin.  now: None where this device's clock is not to be believed."""

    def broker(url: str) -> Broker:
        host = Broker.from_url(url, tls=TlsFiles(None, check=lambda _: None)).host

        def check(der: bytes) -> None:
            from edgeswarm.drivers.pki.x509 import check_leaf

            check_leaf(der, token.ca, host, now())

        return Broker.from_url(_with_user(url, token.id), tls=TlsFiles(None, check=check))

    return [broker(url) for url in token.brokers]


def _with_user(url: str, user: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{user}@{rest}"


async def try_pin(broker: Broker, connect_s: float = MQTT_CONNECT_S) -> None:
    """Connect, judge the broker's certificate, hang up.  Raises PinError, NoAnswerError."""
    opening = Opening(broker, connect_s)

    def look() -> None:
        opening.open().close()

    try:
        async with asyncio.timeout(connect_s):
            await asyncio.get_running_loop().run_in_executor(None, look)
    except CertificateError as error:
        raise PinError(str(error)) from None
    except (OSError, TimeoutError) as error:
        raise NoAnswerError(f"cannot connect: {error or 'no answer in time'}", who=broker.url) from None
    finally:
        opening.abandon()


async def ask(
    question: Question,
    token: Token,
    brokers: Sequence[Broker],
    *,
    times: Times | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Answer:
    """The issuer's last word: joined or refused.  progress: told what it waits for.

    Raises PinError where every broker that could be reached failed the pin, NoAnswerError, StillWaitingError.
    """
    return await _Asking(question, token, brokers, times or Times(), progress).run()


class _Asking:
    def __init__(
        self,
        question: Question,
        token: Token,
        brokers: Sequence[Broker],
        times: Times,
        progress: Callable[[str], None],
    ) -> None:
        self._question, self._token, self._brokers, self._times = question, token, brokers, times
        self._progress = progress
        self._protocols = dict.fromkeys((broker.url for broker in brokers), 5)
        self._faults: dict[str, str] = {}  # broker -> what went wrong there last
        self._pins: set[str] = set()
        self._pending = False
        self._passed_over = 0
        self._said = ""

    async def run(self) -> Answer:
        loop = asyncio.get_running_loop()
        self._end = loop.time() + self._times.wait
        wait_ms, number = MQTT_RECONNECT_MS, 0
        while loop.time() < self._end:
            broker = self._brokers[number % len(self._brokers)]
            number += 1
            answer = await self._at(broker)
            if answer is not None:
                return answer
            if len(self._pins) == len(self._brokers):
                raise PinError("; ".join(self._faults.values()))
            if number % len(self._brokers) == 0:
                self._say(f"trying again: {'; '.join(self._faults.values())}")
                left_s = self._end - loop.time()
                await asyncio.sleep(
                    max(0.0, min(left_s, int.from_bytes(os.urandom(2), "big") / 65_536 * wait_ms / 1000))
                )
                wait_ms = min(MQTT_RECONNECT_MS_MAX, 2 * wait_ms)
        if self._pending:
            raise StillWaitingError("the request waits for approval: `edgeswarm fleet pending`; join again later")
        why = "; ".join(self._faults.values()) or "nobody answered: does the controller run (`edgeswarm fleet serve`)?"
        if self._passed_over:
            why += f"; {self._passed_over} answers were not the issuer's"
        if self._pins:
            raise PinError(why)
        raise NoAnswerError(f"no answer within {self._times.wait:g} s: {why}")

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._progress(text)

    async def _at(self, broker: Broker) -> Answer | None:
        """What is answered through this broker; None where it cannot be reached, or the connection is lost."""
        lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        heard: asyncio.Queue[Any] = asyncio.Queue(64)
        granted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def deliver(incoming: Any) -> None:
            if not heard.full():
                heard.put_nowait(incoming.payload)

        link = Link(
            broker,
            client_id=f"join-{os.urandom(8).hex()}",
            protocol=self._protocols[broker.url],
            connect_s=self._times.connect,
            deliver=deliver,
            acked=lambda *_: None,
            granted=lambda _, codes: None if granted.done() else granted.set_result(max(codes)),
            writable=lambda: None,
            lost=lambda why: None if lost.done() else lost.set_result(why),
        )
        try:
            await link.connect()
            self._pins.discard(broker.url)
            return await self._over(link, lost, heard, granted)
        except CertificateError as error:
            self._pins.add(broker.url)
            self._faults[broker.url] = str(error)
        except LinkError as error:
            self._faults[broker.url] = str(error)
            if isinstance(error, ClosedEarlyError) or (
                isinstance(error, RefusedError) and error.reason == UNSUPPORTED_PROTOCOL
            ):
                self._protocols[broker.url] = 9 - self._protocols[broker.url]  # 5 or 4: MQTT 3.1.1
        finally:
            link.close()
        return None

    async def _over(
        self, link: Link, lost: asyncio.Future[str], heard: asyncio.Queue[Any], granted: asyncio.Future[int]
    ) -> Answer | None:
        """Ask on a connection until it is lost, or time is up."""
        loop, topic = asyncio.get_running_loop(), self._question.topic
        link.subscribe([(topic.answer, 1)])
        either: list[asyncio.Future[Any]] = [granted, lost]
        await asyncio.wait(either, timeout=self._times.connect, return_when=asyncio.FIRST_COMPLETED)
        if not granted.done() or granted.result() >= 128:
            raise LinkError("it does not let us hear the answer", who=link.broker.url)
        self._faults.pop(link.broker.url, None)
        ask_s = self._times.ask
        while loop.time() < self._end and not lost.done():
            link.publish(topic.request, self._question.data, qos=1)
            self._say("asked the issuer") if not self._pending else None
            until = min(self._end, loop.time() + ask_s)
            ask_s = min(self._times.ask_max, 2 * ask_s)
            while (left_s := until - loop.time()) > 0 and not lost.done():
                coming: asyncio.Future[Any] = asyncio.ensure_future(heard.get())
                either = [coming, lost]
                await asyncio.wait(either, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    coming.cancel()
                    continue
                answer = self._open(coming.result())
                if answer is not None:
                    return answer
        if lost.done():
            self._faults[link.broker.url] = f"{link.broker.url}: {lost.result()}"
        return None

    def _open(self, data: bytes) -> Answer | None:
        """A last word, or None."""
        try:
            answer = join.open_answer(
                data, self._question.topic, reply_private=self._question.private, issuer=self._token.ca
            )
        except EdgeSwarmError:
            self._passed_over += 1
            return None
        if answer.status != "pending":
            return answer
        if not self._pending:
            self._pending = True
            self._end = asyncio.get_running_loop().time() + self._times.approval
        self._say(answer.reason or "waits for approval")
        return None
