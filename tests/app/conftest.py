"""Fixtures of tests/app; what they are made of is in tests/support."""

from __future__ import annotations

from supervised import bench  # noqa: F401 - a fixture
