"""What an agent may use is the smaller of what its file asks for and what its class allows, and says which that was."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.agentfile.header import Header, NeuralConfig, ResourceLimits, Resources
from edgeswarm.app.allowance import allow
from edgeswarm.drivers import profiles
from edgeswarm.errors import CapabilityError

CLASSES = profiles.load("default").classes


def header(**limits: Any) -> Header:
    return Header(
        version="1.0",
        name="watcher",
        neural_config=NeuralConfig(2, 1),
        resources=Resources(limits=ResourceLimits(**limits)),
    )


def test_the_classes_are_those_of_the_specification() -> None:
    assert (CLASSES.agent.memory_mb, CLASSES.agent.cpu_cores) == (512, 1.0)
    assert (CLASSES.coordinator.memory_mb, CLASSES.coordinator.cpu_cores) == (1024, 2.0)
    assert CLASSES.coordinator.network == "broker"


def test_a_file_that_asks_for_less_gets_what_it_asks_for() -> None:
    found = allow(header(memory_mb=8, cpu_cores=0.25, disk_mb=3, network_bandwidth_mbps=0.5), CLASSES)
    assert (found.memory_bytes, found.cpu_cores, found.disk_bytes, found.bandwidth_mbps) == (
        8 << 20,
        0.25,
        3 << 20,
        0.5,
    )
    assert set(found.origin.values()) == {"agent file"}


def test_a_file_that_asks_for_more_gets_what_its_class_allows() -> None:
    found = allow(header(memory_mb=512, cpu_cores=64.0, disk_mb=1 << 20), CLASSES)
    assert (found.cpu_cores, found.disk_bytes) == (1.0, 1024 << 20)
    assert found.rows()["cpu_cores"] == {"value": 1.0, "from": "class agent"}
    assert found.rows()["memory_mb"]["from"] == "agent file"


def test_a_coordinator_is_one_by_the_devices_own_word() -> None:
    classes = replace(CLASSES, coordinators=("watcher",))
    found = allow(header(cpu_cores=64.0), classes)
    assert (found.class_name, found.cpu_cores) == ("coordinator", 2.0)
    assert found.origin["cpu_cores"] == "class coordinator"


def test_bandwidth_that_no_file_names_is_that_of_the_class() -> None:
    found = allow(header(), CLASSES)
    assert found.rows()["network_bandwidth_mbps"] == {"value": 100.0, "from": "class agent"}


@pytest.mark.parametrize(
    ("network", "capability", "allowed"),
    [
        ("none", "mqtt_sink", False),
        ("none", "file_sink", True),
        ("broker", "mqtt_source", True),
        ("broker", "webhook_sink", False),
        ("capabilities", "webhook_sink", True),
    ],
)
def test_a_network_that_its_class_has_not_is_refused(network: Any, capability: Any, allowed: bool) -> None:
    classes = replace(CLASSES, agent=replace(CLASSES.agent, network=network))
    asking = replace(header(), capabilities=(capability,))
    if allowed:
        allow(asking, classes)
    else:
        with pytest.raises(CapabilityError, match=f"watcher: capability {capability}: class agent .*classes.agent"):
            allow(asking, classes)


@given(
    st.integers(1, 512), st.floats(0.0, 1024.0), st.integers(0, 1 << 20), st.floats(0.0, 1e6),
    st.integers(1, 1024), st.floats(0.01, 1024.0), st.integers(0, 1 << 20), st.floats(0.001, 1e6),
)  # fmt: skip
def test_nothing_is_above_the_file_or_the_class(
    memory: int, cpu: float, disk: int, mbps: float, memory_max: int, cpu_max: float, disk_max: int, mbps_max: float
) -> None:
    most = replace(
        CLASSES.agent, memory_mb=memory_max, cpu_cores=cpu_max, disk_mb=disk_max, network_bandwidth_mbps=mbps_max
    )
    found = allow(
        header(memory_mb=memory, cpu_cores=cpu, disk_mb=disk, network_bandwidth_mbps=mbps),
        replace(CLASSES, agent=most),
    )
    assert found.memory_bytes == min(memory, memory_max) << 20
    assert found.cpu_cores == min(cpu, cpu_max)
    assert found.disk_bytes == min(disk, disk_max) << 20
    assert found.bandwidth_mbps == (min(mbps, mbps_max) if mbps else mbps_max)
