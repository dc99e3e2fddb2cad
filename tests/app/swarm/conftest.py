"""Fixtures of tests/app/swarm; what they are made of is in tests/support."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from brokers import Mosquitto, mosquitto


@pytest.fixture
async def broker() -> AsyncIterator[Mosquitto]:
    async with mosquitto() as found:
        yield found
