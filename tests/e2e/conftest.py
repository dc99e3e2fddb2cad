"""Fixtures of tests/e2e: a state directory short enough for a socket, and supervisors as processes of their own."""

from __future__ import annotations

from processes import daemons, state  # noqa: F401 - fixtures
