"""One paho client on one connected socket, inside the asyncio loop: packets in, packets out, until it is lost.

A link lives once: connect, work, be lost.  Who holds a connection up makes a new one (lane.py), so that nothing stale
is carried over.  No thread is involved but the executor's while connecting (DNS, TCP, TLS): two hand-offs between
threads a hop would cost more than everything else in a commit.

Nothing that a broker sends may do more than end the link.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties

from edgeswarm.drivers.mqtt.brokers import Broker
from edgeswarm.drivers.mqtt.client import LoopClient, WebsocketStream, publish_properties
from edgeswarm.drivers.mqtt.connack import (
    SESSION_TAKEN_OVER,
    UNSUPPORTED_PROTOCOL,
    ClosedEarlyError,
    LinkError,
    Offer,
    RefusedError,
    Will,
)
from edgeswarm.drivers.mqtt.properties import Incoming
from edgeswarm.drivers.mqtt.stream import Opening, Stream
from edgeswarm.limits import (
    MQTT_CONNECT_S,
    MQTT_INFLIGHT_MAX,
    MQTT_KEEPALIVE_S,
    MQTT_PACKET_BYTES_MAX,
    MQTT_PAYLOAD_BYTES_MAX,
    MQTT_READ_MS,
    MQTT_READ_PACKETS,
)

_UNSPECIFIED = 128  # what paho says when the socket is gone
_UNWRITTEN_PACKETS_MAX = 256  # answers to a broker that sends and does not read; then nothing more is read either


async def speaks_5(broker: Broker, *, client_id: str, connect_s: float) -> bool:
    """Ask a broker that nobody here knows yet, with the shortest CONNECT there is; LinkError if it does not answer.

    A CONNECT with properties, a will or a user name reads in MQTT 3.1.1 as one with enormous strings: amqtt waits for
    the rest of them rather than refuse the version.
    """
    link = Link(
        broker,
        client_id=client_id,
        protocol=5,
        connect_s=connect_s,
        is_probe=True,
        deliver=lambda _: None,
        acked=lambda *_: None,
        granted=lambda *_: None,
        writable=lambda: None,
        lost=lambda _: None,
    )
    try:
        await link.connect()
    except ClosedEarlyError:
        return False
    except RefusedError as error:
        return error.reason != UNSUPPORTED_PROTOCOL
    finally:
        link.close()
    return True


class Link:
    """deliver(incoming), acked(mid, reason code), granted(mid, codes), writable(), lost(why): told in the loop.

    `lost` is told once if `connect` succeeded, also after `close`, and never from inside a call of this class.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        client_id: str,
        protocol: int,
        will: Will | None = None,
        keepalive_s: int = MQTT_KEEPALIVE_S,
        connect_s: float = MQTT_CONNECT_S,
        is_probe: bool = False,
        deliver: Callable[[Incoming], None],
        acked: Callable[[int, int], None],
        granted: Callable[[int, Sequence[int]], None],
        writable: Callable[[], None],
        lost: Callable[[str], None],
    ) -> None:
        self.broker = broker
        self.protocol = protocol
        self.offer = Offer()
        self.taken_over = False
        self.reads_bounded = 0
        self._client_id = client_id
        self._will = will
        self._keepalive_s = keepalive_s
        self._connect_s = connect_s
        self._is_probe = is_probe
        self._deliver, self._acked, self._granted = deliver, acked, granted
        self._writable, self._lost = writable, lost
        self._loop = asyncio.get_running_loop()
        self._clock = self._loop.time
        self._client: LoopClient | None = None
        self._stream: Stream | None = None
        self._fd = -1
        self._writing = False
        self._paused = False
        self._ended: str | None = None
        self._again: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._connack: asyncio.Future[None] = self._loop.create_future()
        self._pinged = 0.0

    # --- life --------------------------------------------------------------------------------------------------------
    async def connect(self) -> None:
        """Up to CONNACK.  Raises LinkError (RefusedError, ClosedEarlyError) or LocalError; all within connect_s."""
        opening = Opening(self.broker, self._connect_s)
        try:
            async with asyncio.timeout(self._connect_s):
                sock, stream = await self._loop.run_in_executor(None, self._open, opening)
                self._start(sock, stream)
                await self._connack
        except TimeoutError:
            raise LinkError(f"no answer within {self._connect_s:g} s", who=self.broker.url) from None
        except (OSError, ValueError) as error:
            raise LinkError(f"cannot connect: {error}", who=self.broker.url) from None
        finally:
            if not self._is_up:
                opening.abandon()
                self._connack.cancel()
                self.abort("not connected")

    def _open(self, opening: Opening) -> tuple[Stream | WebsocketStream, Stream]:
        stream = opening.open()
        sock: Stream | WebsocketStream = stream
        if self.broker.websocket:
            try:
                sock = WebsocketStream(stream, self.broker)
            except BaseException:
                stream.close()
                raise
        opening.finish(stream)
        return sock, stream

    def _start(self, sock: Stream | WebsocketStream, stream: Stream) -> None:
        client = LoopClient(
            sock, client_id=self._client_id, protocol=self.protocol, deliver=self._deliver, acked=self._acked
        )
        client.max_inflight_messages = 0  # the lane bounds it, and leaves room for what is CRITICAL
        if not self._is_probe:
            client.username_pw_set(self.broker.username, self.broker.password)
        if self._will is not None:
            client.will_set(self._will.topic, self._will.payload, self._will.qos, self._will.retain)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_socket_close = lambda *_: self._detach()
        self._client, self._stream, self._fd = client, stream, stream.fileno()
        stream.attach(lambda: self._loop.call_soon(self._turn_over))
        properties = None
        if self.protocol == 5 and not self._is_probe:
            properties = PahoProperties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.MaximumPacketSize = MQTT_PACKET_BYTES_MAX
        host, port = self.broker.host, self.broker.port
        self._loop.add_reader(self._fd, self._readable)
        client.connect(host, port, keepalive=self._keepalive_s, properties=properties)
        self._after_writing()

    def close(self) -> None:
        """Say DISCONNECT, so that the broker drops the last will, and be lost."""
        if self._client is not None and self._ended is None:
            try:
                self._client.disconnect()
                self._client.loop_write()
            except (OSError, ValueError):
                pass
        self.abort("closed")

    def abort(self, why: str) -> None:
        """Be lost without a word; the broker publishes the last will."""
        if self._ended is not None:
            return
        self._ended = why
        self._detach()
        for handle in (self._timer, self._again):
            if handle is not None:
                handle.cancel()
        if self._stream is not None:
            self._stream.close()
        if not self._connack.done():
            self._connack.set_exception(ClosedEarlyError(f"closed before it answered: {why}", who=self.broker.url))
        elif self._is_up:
            self._loop.call_soon(self._lost, why)

    @property
    def _is_up(self) -> bool:
        """CONNACK has come, and it was no refusal."""
        return self._connack.done() and not self._connack.cancelled() and self._connack.exception() is None

    @property
    def is_lost(self) -> bool:
        return self._ended is not None

    # --- out ---------------------------------------------------------------------------------------------------------
    @property
    def is_blocked(self) -> bool:
        """What is published now would wait in paho's queue or ours: better to let it wait where priorities count."""
        return self._writing or self._ended is not None

    def publish(
        self,
        topic: str,
        payload: bytes,
        qos: int = 0,
        retain: bool = False,
        expiry_s: int | None = None,
        response_topic: str | None = None,
        correlation: bytes | None = None,
    ) -> int | None:
        """Straight to the socket.  The message's id (`acked` tells it for QoS 1), None if the link is lost."""
        assert self._client is not None
        properties = publish_properties(expiry_s, response_topic, correlation) if self.protocol == 5 else None
        info = self._client.publish(topic, payload, qos, retain, properties)
        if self._client.want_write():
            self._after_writing()
        return info.mid if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS else None

    def subscribe(self, filters: Sequence[tuple[str, int]]) -> int | None:
        """(filter, QoS) pairs; the id that `granted` tells, None if the link is lost."""
        assert self._client is not None
        rc, mid = self._client.subscribe(list(filters))
        self._after_writing()
        return mid if rc == MQTTErrorCode.MQTT_ERR_SUCCESS else None

    def unsubscribe(self, filters: Sequence[str]) -> None:
        assert self._client is not None
        self._client.unsubscribe(list(filters))
        self._after_writing()

    def ask(self) -> None:
        """PINGREQ; `heard` tells of the answer."""
        if self._client is not None:
            self._client.ask()
            self._after_writing()

    @property
    def heard(self) -> tuple[int, int]:
        """QoS 1 messages that came, and PINGREQs that were answered."""
        return (self._client.heard, self._client.pongs) if self._client is not None else (0, 0)

    def _after_writing(self) -> None:
        """Wait for the socket if something could not be written."""
        client, stream = self._client, self._stream
        if client is None or stream is None or self._ended is not None:
            return
        if client.want_write() and not self._writing:
            client.loop_write()
        if not self._writing and not self.is_lost and client.want_write():
            self._writing = True
            self._loop.add_writer(self._fd, self._on_writable)

    def _turn_over(self) -> None:
        """At the end of a turn of the loop in which something was sent."""
        stream = self._stream
        if self._ended is not None or stream is None:
            return
        try:
            stream.turn_over()
        except OSError as error:
            self.abort(f"cannot write: {error}")
            return
        if stream.unwritten and not self._writing:
            self._writing = True
            self._loop.add_writer(self._fd, self._on_writable)

    def _on_writable(self) -> None:
        client, stream = self._client, self._stream
        if self._ended is not None or client is None or stream is None:
            return
        try:
            stream.flush()
            if not stream.unwritten and client.want_write():
                client.loop_write()
        except OSError as error:
            self.abort(f"cannot write: {error}")
            return
        if not self.is_lost and not stream.unwritten and not client.want_write():
            self._writing = False
            self._loop.remove_writer(self._fd)
            self._writable()

    # --- in ----------------------------------------------------------------------------------------------------------
    def _readable(self) -> None:
        """Handle what has come, a bounded number of packets and of milliseconds: others want the loop as well."""
        client, stream, self._again = self._client, self._stream, None
        if self._paused or self._ended is not None or client is None or stream is None:
            return
        until = self._clock() + MQTT_READ_MS / 1000
        for _ in range(MQTT_READ_PACKETS):
            try:
                client.loop_read()
            except Exception as error:
                # Whatever paho makes of a broker's bytes: it is the broker's fault and ends this connection only.
                self.abort(f"malformed packet: {type(error).__name__}: {error}")
                return
            if self.is_lost:
                return
            if client.is_oversized:
                self.abort("the broker sent a packet that is too large")
                return
            if client.want_write():
                self._after_writing()
                if client.packets_unwritten > _UNWRITTEN_PACKETS_MAX:
                    self.abort("the broker does not read what it asks for")
                    return
            if not stream.unread or self._paused:
                return
            if self._clock() > until:
                break
        self.reads_bounded += 1
        self._again = self._loop.call_soon(self._readable)

    def pause(self) -> None:
        """Stop reading: the broker keeps, and at its own bounds drops, what comes meanwhile."""
        if not self._paused and self._ended is None and self._fd >= 0:
            self._paused = True
            self._loop.remove_reader(self._fd)

    def resume(self) -> None:
        if self._paused and self._ended is None:
            self._paused = False
            self._loop.add_reader(self._fd, self._readable)
            self._again = self._loop.call_soon(self._readable)

    # --- what paho tells ---------------------------------------------------------------------------------------------
    def _on_connect(self, _client: Any, _userdata: Any, _flags: Any, reason: Any, properties: Any) -> None:
        if self._connack.done():
            if self._is_up:
                self._loop.call_soon(self.abort, "a second CONNACK")
            return
        if reason.is_failure:
            self._connack.set_exception(RefusedError(f"refused: {reason}", who=self.broker.url, reason=reason.value))
            return
        payload_max = getattr(properties, "MaximumPacketSize", MQTT_PACKET_BYTES_MAX) - 1_024
        self.offer = Offer(
            payload_bytes_max=max(0, min(payload_max, MQTT_PAYLOAD_BYTES_MAX)),
            inflight_max=max(1, min(getattr(properties, "ReceiveMaximum", MQTT_INFLIGHT_MAX), MQTT_INFLIGHT_MAX)),
            qos_max=getattr(properties, "MaximumQoS", 2),
        )
        keepalive_s = getattr(properties, "ServerKeepAlive", self._keepalive_s) or self._keepalive_s
        self._keepalive_s = min(keepalive_s, self._keepalive_s)
        self._connack.set_result(None)
        self._timer = self._loop.call_later(self._tick_s, self._tick)

    def _on_subscribe(self, _client: Any, _userdata: Any, mid: int, codes: Any, _properties: Any) -> None:
        # Not from inside paho's callback: it holds a lock that a failed write would take once more.
        self._loop.call_soon(self._granted, mid, [int(code.value) for code in codes])

    def _on_disconnect(self, _client: Any, _userdata: Any, flags: Any, reason: Any, _properties: Any) -> None:
        if flags.is_disconnect_packet_from_server and reason is not None:
            self.taken_over = reason.value == SESSION_TAKEN_OVER
        self.abort("connection lost" if reason.value == _UNSPECIFIED else str(reason))

    def _detach(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
            self._fd = -1

    # --- time --------------------------------------------------------------------------------------------------------
    @property
    def _tick_s(self) -> float:
        return min(max(self._keepalive_s / 4, 0.2), 5.0)

    def _tick(self) -> None:
        """paho's keepalive: PINGREQ, and the end if the broker does not answer."""
        client = self._client
        if self._ended is not None or client is None:
            return
        now = self._clock()
        if not self._paused:
            client.loop_misc()
        elif now - self._pinged >= self._keepalive_s / 2:
            self._pinged = now
            client.ping()
        self._after_writing()
        if not self.is_lost:
            self._timer = self._loop.call_later(self._tick_s, self._tick)


__all__ = ["UNSUPPORTED_PROTOCOL", "ClosedEarlyError", "Link", "LinkError", "Offer", "RefusedError", "Will", "speaks_5"]
