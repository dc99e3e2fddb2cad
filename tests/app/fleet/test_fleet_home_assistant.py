"""The adapter for Home Assistant: what it publishes (golden), that it takes away what left, and nothing can command."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from brokers import mosquitto, needs_mosquitto
from fleet_index import TOPICS, FakeLink, status
from swarm_cells import Stranger

import edgeswarm
from edgeswarm.app.fleet import home_assistant as ha
from edgeswarm.app.fleet import link
from edgeswarm.drivers.mqtt.transport import Broker
from edgeswarm.errors import LocalError

GOLDEN = Path(__file__).parent / "golden" / "home_assistant.json"
TOP = {"devices": 3, "states": {"online": 1, "draining": 1, "silent": 1}, "alerts_open": 2, "fleet": "plant"}


def row(device: str, **changes: Any) -> dict[str, Any]:
    base = {
        "device": device, "role": "worker", "state": "online", "tier": "B", "profile": "rpi-5", "labels": [],
        "architecture": "aarch64", "software": "edgeswarm 0.1.0", "seen_s": 1, "agents": 2, "failed": 0, "uptime_s": 9,
        "cpu_milli": 4_000, "cpu_used_milli": 1_000, "memory_bytes": 2 << 30, "memory_free_bytes": 1 << 30,
        "temperature_c": 48.53,
    }  # fmt: skip
    return {**base, **changes}


class House:
    """What the broker of the house retains."""

    def __init__(self) -> None:
        self.retained: dict[str, bytes] = {}
        self.count = 0

    def publish(self, topic: str, payload: bytes) -> None:
        self.count += 1
        if payload:
            self.retained[topic] = payload
        else:
            self.retained.pop(topic, None)


def test_what_is_published_is_the_golden_file() -> None:
    house = House()
    ha.Adapter("plant", house.publish).update([row("press-1")], TOP)
    found = {topic: json.loads(payload) for topic, payload in sorted(house.retained.items())}
    text = json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False).replace(edgeswarm.__version__, "VERSION")
    text = text.replace("edgeswarm VERSION", "edgeswarm 0.1.0") + "\n"
    assert text == GOLDEN.read_text(), "read the difference; if it is meant, write the golden file anew"


def test_every_entity_has_what_discovery_asks_for_and_none_can_be_written_to() -> None:
    for payload in (ha.discovery(row("press-1"), fleet="plant"), ha.hub_discovery("plant")):
        assert payload["device"]["identifiers"]
        assert payload["origin"]["name"]
        names = [one["unique_id"] for one in payload["components"].values()]
        assert len(set(names)) == len(names)
        for one in payload["components"].values():
            assert one["platform"] in ("sensor", "binary_sensor")
        assert "command" not in json.dumps(payload)
    assert (
        ha.discovery(row("d"), fleet="plant")["device"]["via_device"]
        in ha.hub_discovery("plant")["device"]["identifiers"]
    )


def test_text_of_a_device_is_never_part_of_a_template_or_a_topic() -> None:
    evil = "{{ states('lock.door') }}/#"
    payload = ha.discovery(row("press-1", software=evil, profile=evil), fleet="plant")
    for one in payload["components"].values():
        assert "lock" not in json.dumps(one)
    assert payload["device"]["sw_version"] == evil


def test_what_did_not_change_is_not_sent_again_until_the_connection_is_new() -> None:
    house = House()
    adapter = ha.Adapter("plant", house.publish)
    adapter.update([row("press-1")], TOP)
    before = house.count
    adapter.update([row("press-1")], TOP)
    assert house.count == before
    adapter.update([row("press-1", agents=3)], TOP)
    assert house.count == before + 1
    adapter.forget()
    adapter.update([row("press-1", agents=3)], TOP)
    assert house.count == 2 * before + 1


def test_device_that_leaves_is_taken_away_also_when_it_left_while_nobody_looked() -> None:
    house = House()
    ha.Adapter("plant", house.publish).update([row("press-1"), row("press-2"), row("press-3")], TOP)
    house.retained["homeassistant/device/edgeswarm_plant_lamp/config"] = b'{"state_topic": "somebody/else"}'
    again = ha.Adapter("plant", house.publish)
    for topic, payload in list(house.retained.items()):
        again.retained(topic, payload)
    again.retained("homeassistant/device/edgeswarm_plant_x/config", b"not json")
    again.retained("homeassistant/device/edgeswarm_other_press-9/config", b"{}")
    again.update([row("press-1"), row("press-2")], TOP)
    assert not [topic for topic in house.retained if "press-3" in topic]
    assert "homeassistant/device/edgeswarm_plant_lamp/config" in house.retained  # not ours
    again.update([row("press-1")], TOP)
    assert not [topic for topic in house.retained if "press-2" in topic]
    assert [topic for topic in house.retained if "press-1" in topic]


def test_number_of_devices_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ha, "HOME_ASSISTANT_DEVICES_MAX", 3)
    house = House()
    adapter = ha.Adapter("plant", house.publish)
    adapter.update([row(f"d{at}") for at in range(5)], TOP)
    assert adapter.dropped == 2
    assert len([topic for topic in house.retained if topic.endswith("/config")]) == 4


@pytest.mark.parametrize("prefix", ["", "#", "a/+/b", "a//b", "/a", "a/", "a b", "a/b/c/d/e"])
def test_prefix_that_is_no_topic_is_refused(prefix: str) -> None:
    with pytest.raises(LocalError, match="prefix"):
        ha.Adapter("plant", lambda topic, payload: None, prefix=prefix)


def test_unknown_values_are_null_and_not_zero() -> None:
    found = ha.state(row("d", cpu_milli=0, temperature_c=None, state="silent"))
    assert (found["cpu"], found["temperature"], found["online"]) == (None, None, False)


async def test_house_sees_the_fleet_through_its_own_broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real mosquitto: the fleet appears, a device that left before is taken away, the bridge says when it ends."""
    needs_mosquitto()
    fake = await asyncio.to_thread(FakeLink, tmp_path, {"controller": ("coordinator", ()), "press-1": ("worker", ())})
    monkeypatch.setattr(link, "open_link", fake.open)
    fake.do(lambda: fake.desk.says("press-1", TOPICS.status("press-1"), status()))
    try:
        async with mosquitto() as broker, Stranger(broker.url) as house:
            gone = ha.discovery(row("press-9"), fleet="plant")
            await house.says(
                ha.config_topic("homeassistant", "plant", "press-9"), json.dumps(gone).encode(), retain=True
            )
            heard = await house.hears("#")
            told: list[str] = []
            await ha.run(
                None,
                Broker.from_url(broker.url),
                prefix="homeassistant",
                selector="all",
                interval_s=1,
                told=told.append,
                once=True,
            )
            last = {message.topic: message.payload for message in heard}
            for _ in range(100):
                last = {message.topic: message.payload for message in heard}
                if last.get(ha.bridge_topic("plant")) == b"offline":
                    break
                await asyncio.sleep(0.02)
            assert last[ha.bridge_topic("plant")] == b"offline"
            assert json.loads(last[ha.state_topic("plant", "press-1")])["temperature"] == 48.5
            assert json.loads(last[ha.config_topic("homeassistant", "plant", "press-1")])["device"]["model"] == "rpi-5"
            assert last[ha.config_topic("homeassistant", "plant", "press-9")] == b""
            assert told == []
    finally:
        await asyncio.to_thread(fake.close)
