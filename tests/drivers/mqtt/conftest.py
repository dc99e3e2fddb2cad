"""Brokers, transports and keys for the MQTT driver's tests; everything is taken down again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import brokers
import pytest
from certificates import Pki
from mqtt_peers import Peers


@pytest.fixture
async def peers() -> AsyncIterator[Peers]:
    async with AsyncExitStack() as stack:
        yield Peers(stack)


@pytest.fixture(params=["mosquitto", "amqtt"])
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """Each of the two that we are made for: MQTT 5, and 3.1.1 only."""
    async with brokers.mosquitto() if request.param == "mosquitto" else brokers.amqtt() as running:
        yield running


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))
