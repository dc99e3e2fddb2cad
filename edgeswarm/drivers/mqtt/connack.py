"""What a broker answers to CONNECT, and what goes wrong there (MQTT 5.0, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

from edgeswarm.errors import RemoteError
from edgeswarm.limits import MQTT_INFLIGHT_MAX, MQTT_PAYLOAD_BYTES_MAX

UNSUPPORTED_PROTOCOL = 132
SESSION_TAKEN_OVER = 142


class LinkError(RemoteError):
    """A connection to a broker could not be made, or was lost."""


class RefusedError(LinkError):
    """The broker answered CONNECT with a refusal; reason: the code of MQTT 5.0, section 3.2.2.2."""

    def __init__(self, message: str, *, who: str, reason: int) -> None:
        super().__init__(message, who=who)
        self.reason = reason


class ClosedEarlyError(LinkError):
    """The broker closed the connection instead of answering CONNECT: what some do that know no MQTT 5."""


@dataclass(frozen=True, slots=True)
class Will:
    """Published by the broker when the connection dies without a DISCONNECT.  Unsigned: it may only make one doubt."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Offer:
    """What the broker's CONNACK allows.  payload_bytes_max, inflight_max: the smaller of its bound and ours."""

    payload_bytes_max: int = MQTT_PAYLOAD_BYTES_MAX
    inflight_max: int = MQTT_INFLIGHT_MAX
    qos_max: int = 2
