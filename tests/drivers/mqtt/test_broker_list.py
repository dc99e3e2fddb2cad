"""Where brokers are, and which is tried next."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeswarm.drivers.mqtt.brokers import Broker, BrokerList, TlsFiles
from edgeswarm.errors import LocalError

TLS = TlsFiles(Path("ca.crt"))


def test_urls_are_read() -> None:
    assert Broker.from_url("mqtt://broker.lan") == Broker("broker.lan", 1883)
    assert Broker.from_url("mqtt://[::1]:1884").url == "mqtt://[::1]:1884"
    assert Broker.from_url("mqtts://10.0.0.1", tls=TLS) == Broker("10.0.0.1", 8883, TLS)
    assert Broker.from_url("ws://h:90") == Broker("h", 90, websocket=True, path="/mqtt")
    assert Broker.from_url("wss://h/x", tls=TLS) == Broker("h", 443, TLS, websocket=True, path="/x")
    found = Broker.from_url("mqtt://me:pass%20word@h")
    assert (found.username, found.password) == ("me", "pass word")
    assert found.url == "mqtt://h:1883" and "pass" not in repr(found)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "h:1883",
        "http://h",
        "mqtt://",
        "mqtt://h:0",
        "mqtt://h:99999",
        "mqtt://h/x",
        "mqtts://h",
        "mqtt://a b",
        "mqtt://h?x=1",
    ],
)
def test_a_bad_url_is_refused(bad: str) -> None:
    with pytest.raises(LocalError):
        Broker.from_url(bad)


def test_a_broker_that_keeps_failing_gives_way_to_the_next() -> None:
    brokers = BrokerList([Broker("a", 1), Broker("b", 1)])
    first, second = brokers.entries
    for now in (0.0, 10.0, 20.0):
        assert brokers.choose(now) is first
        brokers.failed(first, now)
    assert brokers.choose(30.0) is second


def test_when_all_fail_the_one_whose_pause_ends_first_is_tried() -> None:
    brokers = BrokerList([Broker("a", 1), Broker("b", 1)])
    first, second = brokers.entries
    for now in (0.0, 1.0, 2.0):
        brokers.failed(first, now)
    for now in (500.0, 501.0, 502.0):
        brokers.failed(second, now)
    assert brokers.choose(600.0) is first
    brokers.failed(first, 600.0)  # the probe failed: its pause doubles to 2 s
    assert brokers.choose(700.0) is second


def test_a_broker_that_held_is_as_good_as_new() -> None:
    brokers = BrokerList([Broker("a", 1), Broker("b", 1)])
    first = brokers.entries[0]
    for now in (0.0, 1.0, 2.0):
        brokers.failed(first, now)
    brokers.held(first)
    assert brokers.choose(3.0) is first
    assert first.faults == 3


def test_one_broker_alone_is_always_tried() -> None:
    brokers = BrokerList([Broker("a", 1)])
    for now in range(100):
        assert brokers.choose(float(now)) is brokers.entries[0]
        brokers.failed(brokers.entries[0], float(now))


def test_an_old_broker_is_asked_for_mqtt_5_again_after_an_hour() -> None:
    entry = BrokerList([Broker("a", 1)]).entries[0]
    assert entry.protocol_at(0.0) == 5
    entry.speaks(4, 0.0)
    assert entry.protocol_at(3_599_000.0) == 4
    assert entry.protocol_at(3_600_000.0) == 5


@pytest.mark.parametrize("count", [0, 17])
def test_a_list_holds_1_to_16_brokers(count: int) -> None:
    with pytest.raises(LocalError):
        BrokerList([Broker("a", 1)] * count)
