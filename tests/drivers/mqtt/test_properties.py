"""The properties of a PUBLISH: paho reads ours, we read paho's, and garbage is refused."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as Theirs

from edgeswarm.drivers.mqtt.properties import Properties, pack, unpack
from edgeswarm.errors import CodecError

EXPIRY = st.none() | st.integers(0, 2**32 - 1)
TOPIC = st.none() | st.text("abc/", min_size=1, max_size=200)
CORRELATION = st.none() | st.binary(min_size=1, max_size=200)


@given(EXPIRY, TOPIC, CORRELATION)
def test_what_is_packed_is_read_back(expiry_s: int | None, topic: str | None, correlation: bytes | None) -> None:
    data = pack(expiry_s, topic, correlation)
    found, end = unpack(data + b"payload", 0)
    assert end == len(data)
    assert (found or Properties()) == Properties(topic, correlation, expiry_s)


@given(EXPIRY, TOPIC, CORRELATION)
def test_paho_reads_ours_and_we_read_pahos(expiry_s: int | None, topic: str | None, correlation: bytes | None) -> None:
    theirs = Theirs(PacketTypes.PUBLISH)
    theirs.unpack(pack(expiry_s, topic, correlation))
    assert getattr(theirs, "MessageExpiryInterval", None) == expiry_s
    assert getattr(theirs, "ResponseTopic", None) == topic
    assert getattr(theirs, "CorrelationData", None) == correlation
    theirs.UserProperty = ("name", "value")
    theirs.ContentType = "text/plain"
    theirs.PayloadFormatIndicator = 1
    theirs.TopicAlias = 3
    theirs.SubscriptionIdentifier = 300
    found, _ = unpack(theirs.pack(), 0)
    assert found == Properties(topic, correlation, expiry_s)


@given(st.binary(max_size=60))
def test_garbage_is_refused_in_one_way(data: bytes) -> None:
    try:
        _, end = unpack(data, 0)
    except (CodecError, IndexError, UnicodeDecodeError):
        return
    assert end <= len(data)
