"""The fleet for Home Assistant: MQTT discovery of its devices at a broker of the house, and their states.  Read only.

One retained message a device, `<prefix>/device/<id>/config`, names its entities (Home Assistant 2024.11 and later:
device discovery); one retained state, `edgeswarm/<fleet>/<device>/state`, feeds them all.  An empty retained message
takes a device away again: also one that left the fleet while the adapter did not run, which it knows by what the broker
still retains.  What did not change is not sent again.
Texts of devices are data of the payload, never part of a template.  No command topic is named: nothing can be changed
from there.  Source: home-assistant.io, Integrations, MQTT, "Device discovery payload".
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import edgeswarm
from edgeswarm.drivers.mqtt.connack import Will
from edgeswarm.drivers.mqtt.transport import Broker, Connected, Disconnected, Incoming, Priority, Transport
from edgeswarm.errors import EdgeSwarmError, LocalError
from edgeswarm.limits import HOME_ASSISTANT_DEVICES_MAX

Publish = Callable[[str, bytes], None]
"""(topic, payload): retained; an empty payload takes away what was."""
PREFIX: Final = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+){0,3}")
LOOK_S: Final = 1.0  # for what the broker retains to come after a subscription
_MIB = 1 << 20


def object_id(fleet: str, device: str = "") -> str:
    """Of a device; without one, of the fleet as a whole."""
    return f"edgeswarm_{fleet}_{device}" if device else f"edgeswarm_{fleet}"


def bridge_topic(fleet: str) -> str:
    """`online` while the adapter runs."""
    return f"edgeswarm/{fleet}/bridge"


def state_topic(fleet: str, device: str = "") -> str:
    return f"edgeswarm/{fleet}/{device}/state" if device else f"edgeswarm/{fleet}/state"


def config_topic(prefix: str, fleet: str, device: str = "") -> str:
    return f"{prefix}/device/{object_id(fleet, device)}/config"


def discovery(row: Mapping[str, Any], *, fleet: str) -> dict[str, Any]:
    """The discovery payload of one device.  row: of the index's page."""
    device = row["device"]
    base = object_id(fleet, device)
    alive = [
        {"topic": bridge_topic(fleet)},
        {"topic": state_topic(fleet, device), "value_template": "{{ 'online' if value_json.online else 'offline' }}"},
    ]
    components = {
        "connectivity": _binary(base, "connectivity", "Connectivity", "connectivity", "value_json.online"),
        "problem": _binary(base, "problem", "Failed agents", "problem", "value_json.failed > 0"),
        "agents": _sensor(base, "agents", "Agents"),
        "cpu": _sensor(base, "cpu", "CPU", unit="%"),
        "memory_free": _sensor(base, "memory_free", "Memory free", unit="MiB", kind="data_size"),
        "temperature": _sensor(base, "temperature", "Temperature", unit="°C", kind="temperature"),
    }
    for name, component in components.items():
        if name != "connectivity":  # which says so itself when the device is gone
            component |= {"availability": alive, "availability_mode": "all"}
    return {
        "device": {
            "identifiers": [base],
            "name": device,
            "manufacturer": "EdgeSwarm",
            "model": row["profile"] or "unknown",
            "hw_version": row["architecture"] or "unknown",
            "sw_version": row["software"] or "unknown",
            "via_device": object_id(fleet),
        },
        "origin": {"name": "edgeswarm", "sw_version": edgeswarm.__version__},
        "availability": [{"topic": bridge_topic(fleet)}],
        "components": components,
        "state_topic": state_topic(fleet, device),
        "qos": 1,
    }


def hub_discovery(fleet: str) -> dict[str, Any]:
    """The fleet as a device of its own, which the others stand behind."""
    base = object_id(fleet)
    return {
        "device": {"identifiers": [base], "name": f"EdgeSwarm {fleet}", "manufacturer": "EdgeSwarm"},
        "origin": {"name": "edgeswarm", "sw_version": edgeswarm.__version__},
        "availability": [{"topic": bridge_topic(fleet)}],
        "components": {
            "devices": _sensor(base, "devices", "Devices"),
            "online": _sensor(base, "online", "Devices online"),
            "silent": _sensor(base, "silent", "Devices silent"),
            "alerts": _sensor(base, "alerts", "Open alerts"),
            "problem": _binary(base, "problem", "Alert", "problem", "value_json.alerts > 0"),
        },
        "state_topic": state_topic(fleet),
        "qos": 1,
    }


def _sensor(base: str, key: str, name: str, *, unit: str = "", kind: str = "") -> dict[str, Any]:
    return {
        "platform": "sensor",
        "unique_id": f"{base}_{key}",
        "name": name,
        "value_template": f"{{{{ value_json.{key} }}}}",
        "state_class": "measurement",
        **({"unit_of_measurement": unit} if unit else {}),
        **({"device_class": kind} if kind else {}),
    }


def _binary(base: str, key: str, name: str, kind: str, condition: str) -> dict[str, Any]:
    return {
        "platform": "binary_sensor",
        "unique_id": f"{base}_{key}",
        "name": name,
        "device_class": kind,
        "entity_category": "diagnostic",
        "value_template": f"{{{{ 'ON' if {condition} else 'OFF' }}}}",
    }


def state(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the entities of one device show.  None is "unknown" there."""
    online = row["state"] in ("online", "draining")
    return {
        "online": online,
        "state": row["state"],
        "agents": row["agents"],
        "failed": row["failed"],
        "cpu": 100 * row["cpu_used_milli"] // row["cpu_milli"] if row["cpu_milli"] else None,
        "memory_free": row["memory_free_bytes"] // _MIB,
        "temperature": None if row["temperature_c"] is None else round(row["temperature_c"], 1),
    }


def hub_state(top: Mapping[str, Any]) -> dict[str, Any]:
    states = top["states"]
    return {
        "devices": top["devices"],
        "online": states.get("online", 0) + states.get("draining", 0),
        "silent": states.get("silent", 0),
        "alerts": top["alerts_open"],
    }


class Adapter:
    """Sends what changed.  `dropped`: devices past HOME_ASSISTANT_DEVICES_MAX."""

    def __init__(self, fleet: str, publish: Publish, *, prefix: str = "homeassistant") -> None:
        if not PREFIX.fullmatch(prefix):
            raise LocalError(f"prefix {prefix!r}: expected levels of letters, digits, _ and -, as homeassistant")
        self.fleet, self.prefix = fleet, prefix
        self.dropped = 0
        self._publish = publish
        self._sent: dict[str, bytes] = {}
        self._shown: set[str] = set()  # devices that the broker has a config of

    def forget(self) -> None:
        """The connection is new: perhaps the broker is, too."""
        self._sent.clear()

    def retained(self, topic: str, payload: bytes) -> None:
        """A config that the broker had: of a device of this fleet that may be gone meanwhile."""
        start, end = f"{self.prefix}/device/{object_id(self.fleet)}_", "/config"
        if payload and topic.startswith(start) and topic.endswith(end):
            device = topic[len(start) : -len(end)]
            if len(self._shown) < 2 * HOME_ASSISTANT_DEVICES_MAX and self._is_ours(payload, device):
                self._shown.add(device)

    def _is_ours(self, payload: bytes, device: str) -> bool:
        """Another fleet's name may begin as ours does and go on with "_": the payload says whose it is."""
        try:
            tree = json.loads(payload)
            return bool(tree["state_topic"] == state_topic(self.fleet, device))
        except (ValueError, TypeError, KeyError, RecursionError):
            return False

    def update(self, rows: Sequence[Mapping[str, Any]], top: Mapping[str, Any]) -> None:
        """rows: of all devices that are to be shown; who is not among them is taken away."""
        self.dropped = max(0, len(rows) - HOME_ASSISTANT_DEVICES_MAX)
        rows = rows[:HOME_ASSISTANT_DEVICES_MAX]
        self._send(config_topic(self.prefix, self.fleet), hub_discovery(self.fleet))
        self._send(state_topic(self.fleet), hub_state(top))
        for row in rows:
            self._send(config_topic(self.prefix, self.fleet, row["device"]), discovery(row, fleet=self.fleet))
            self._send(state_topic(self.fleet, row["device"]), state(row))
        shown = {str(row["device"]) for row in rows}
        for device in sorted(self._shown - shown):
            for topic in (config_topic(self.prefix, self.fleet, device), state_topic(self.fleet, device)):
                self._publish(topic, b"")
                self._sent.pop(topic, None)
        self._shown = shown

    def _send(self, topic: str, value: Mapping[str, Any]) -> None:
        data = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode("utf-8", "replace")
        if self._sent.get(topic) != data:
            self._publish(topic, data)
            self._sent[topic] = data


async def run(
    fleet_dir: Path | None,
    broker: Broker,
    *,
    prefix: str,
    selector: str,
    interval_s: float,
    told: Callable[[str], None],
    once: bool = False,
) -> None:
    """Until SIGTERM or ctrl-c; once: one picture.  told: one line for people, of what goes wrong.

    Raises LocalError where there is no fleet, ControlError where the selector is wrong at the start.
    """
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    with ThreadPoolExecutor(1, thread_name_prefix="fleet-link") as pool:
        ask = _Asking(fleet_dir, selector)
        rows: list[dict[str, Any]] | None
        rows, top = await loop.run_in_executor(pool, ask)
        fleet = top["fleet"]
        bridge = bridge_topic(fleet)

        def publish(topic: str, payload: bytes) -> None:
            transport.publish(topic, payload, priority=Priority.MEDIUM, qos=1, retain=True)

        def on_state(now: Connected | Disconnected) -> None:
            if isinstance(now, Connected):
                adapter.forget()
                publish(bridge, b"online")
            elif not closing:
                told(f"{now.broker}: {now.reason}; it is tried again")

        def retained(message: Incoming) -> None:
            if message.retain:
                adapter.retained(message.topic, message.payload)

        closing = False
        adapter = Adapter(fleet, publish, prefix=prefix)
        will = Will(bridge, b"offline", retain=True)
        transport = Transport([broker], client_id=f"{object_id(fleet)}_bridge", will=will, on_state=on_state)
        try:
            await transport.start(30)
            transport.subscribe(f"{prefix}/device/+/config", retained)
            await asyncio.sleep(LOOK_S)
            dropped = 0
            while not ended.is_set():
                if rows is not None:
                    adapter.update(rows, top)
                    if adapter.dropped > dropped:
                        most = HOME_ASSISTANT_DEVICES_MAX
                        told(f"{adapter.dropped} devices are not shown: at most {most} are; choose by --select")
                    dropped = adapter.dropped
                if once:
                    break
                try:
                    async with asyncio.timeout(interval_s):
                        await ended.wait()
                except TimeoutError:
                    rows, top = await loop.run_in_executor(pool, _quietly, ask, told, top)
            publish(bridge, b"offline")
        finally:
            closing = True
            await transport.close(2.0)


class _Asking:
    """The controller's answer, over a link of its own each time: the controller may go and come back."""

    def __init__(self, fleet_dir: Path | None, selector: str) -> None:
        self._fleet_dir, self._selector = fleet_dir, selector

    def __call__(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        from edgeswarm.app.fleet import link

        rows: list[dict[str, Any]] = []
        cursor = ""
        with link.open_link(self._fleet_dir) as asking:
            while len(rows) <= HOME_ASSISTANT_DEVICES_MAX:
                page = asking.call("devices", selector=self._selector, cursor=cursor)
                rows += [dict(zip(page["columns"], row, strict=True)) for row in page["rows"]]
                if not (cursor := page["next"]):
                    break
            return rows, asking.call("top", busiest=1)


def _quietly(
    ask: _Asking, told: Callable[[str], None], top: dict[str, Any]
) -> tuple[list[dict[str, Any]] | None, dict[str, Any]]:
    """No rows where the controller does not answer: then nothing is changed, least of all taken away."""
    try:
        return ask()
    except (EdgeSwarmError, OSError) as error:
        told(f"the controller does not answer: {error}")
        return None, top
