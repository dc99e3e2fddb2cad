"""paho's client with the few places changed that cost time or memory; everything that knows paho's inside is here.

paho-mqtt 2.1 and 2.2 have the same names; tests/drivers/mqtt/test_client.py fails where a later one has others.

- the socket is a Stream that is already connected: paho neither resolves nor connects, so it never blocks the loop
- a PUBLISH that comes in is read in 5 us rather than 18, and QoS 2, which we never ask for, is a breach of protocol
- an acknowledgement calls `acked` rather than on_publish, which paho calls for every QoS 0 message as well
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from paho.mqtt.client import Client, _WebsocketWrapper
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.properties import Properties as PahoProperties
from paho.mqtt.reasoncodes import ReasonCode

from edgeswarm.drivers.mqtt.brokers import Broker
from edgeswarm.drivers.mqtt.properties import Incoming, Properties, pack, unpack
from edgeswarm.drivers.mqtt.stream import Stream
from edgeswarm.errors import CodecError
from edgeswarm.limits import MQTT_PACKET_BYTES_MAX


class _Packed:
    """Properties of a PUBLISH that are bytes already: all that paho does with them is to call `pack`."""

    __slots__ = ("_bytes",)

    def __init__(self, data: bytes) -> None:
        self._bytes = data

    def pack(self) -> bytes:
        return self._bytes


def publish_properties(
    expiry_s: int | None, response_topic: str | None, correlation: bytes | None
) -> PahoProperties | None:
    if expiry_s is None and response_topic is None and correlation is None:
        return None
    return cast(PahoProperties, _Packed(pack(expiry_s, response_topic, correlation)))


class WebsocketStream(_WebsocketWrapper):
    """paho's framing over a Stream.  Does the handshake on construction: blocking, in the executor's thread."""

    def __init__(self, stream: Stream, broker: Broker) -> None:
        super().__init__(
            socket=cast(Any, stream),
            host=broker.host,
            port=broker.port,
            is_ssl=broker.tls is not None,
            path=broker.path,
            extra_headers=None,
        )


class LoopClient(Client):
    """deliver: called with each message.  acked: called with the message id and the broker's reason code, QoS 1."""

    def __init__(
        self,
        sock: Stream | WebsocketStream,
        *,
        client_id: str,
        protocol: int,
        deliver: Callable[[Incoming], None],
        acked: Callable[[int, int], None],
    ) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=MQTTProtocolVersion(protocol),
            clean_session=None if protocol == 5 else True,
            reconnect_on_failure=False,
        )
        self._connected_socket: Stream | WebsocketStream | None = sock
        self._is_v5 = protocol == 5
        self._deliver = deliver
        self._acked = acked
        self.heard = 0  # messages of QoS 1 that came in
        self.pongs = 0

    @property
    def packets_unwritten(self) -> int:
        return len(self._out_packet)

    @property
    def is_oversized(self) -> bool:
        """A packet is coming in that is larger than we take; over WebSockets nothing else stops it."""
        return self._in_packet["remaining_length"] > MQTT_PACKET_BYTES_MAX

    def ping(self) -> None:
        """Keep the connection while nothing is read: paho would take the missing answer for a dead broker."""
        self._send_pingreq()
        self._ping_t = 0.0

    def ask(self) -> None:
        """PINGREQ: `pongs` tells the answer."""
        self._send_pingreq()

    # --- overridden ----------------------------------------------------------------------------------------------
    def _create_socket(self) -> Any:
        sock, self._connected_socket = self._connected_socket, None
        if sock is None:
            raise ConnectionError("a client connects once")
        return sock

    def _handle_publish(self) -> MQTTErrorCode:
        command, body = self._in_packet["command"], self._in_packet["packet"]
        qos = command >> 1 & 3
        mid = 0
        properties: Properties | None = None
        try:
            at = 2 + (body[0] << 8 | body[1])
            if at > len(body):
                return MQTTErrorCode.MQTT_ERR_PROTOCOL
            topic = body[2:at].decode()
            if qos == 1:
                mid = body[at] << 8 | body[at + 1]
                at += 2
            elif qos:
                return MQTTErrorCode.MQTT_ERR_PROTOCOL
            if self._is_v5:
                properties, at = unpack(body, at)
        except (IndexError, UnicodeDecodeError, CodecError):
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        if not topic or "\0" in topic:
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        self._deliver(Incoming(topic, bytes(body[at:]), bool(command & 1), qos, properties))
        if qos == 1:
            self.heard += 1
            return self._send_puback(mid)
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _handle_pingresp(self) -> MQTTErrorCode:
        self.pongs += 1
        return super()._handle_pingresp()

    def _do_on_publish(self, mid: int, reason_code: ReasonCode, properties: PahoProperties) -> MQTTErrorCode:
        rc = super()._do_on_publish(mid, reason_code, properties)
        self._acked(mid, int(reason_code.value))
        return rc
