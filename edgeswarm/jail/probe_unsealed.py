"""As `probe_worker`, in a zygote that does not seal its own code: what sealing stops, shows here."""

from __future__ import annotations

from edgeswarm.jail.probe_worker import FDS, start

__all__ = ["FDS", "seal_own_code", "start"]


def seal_own_code() -> None:
    """Leave the machine code of the zygote, which every jail inherits, as it was mapped."""
