"""One kernel in one jail without a supervisor: what `Network.forward` and notebooks use."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from edgeswarm.app.config import default_dirs
from edgeswarm.assets import asset
from edgeswarm.drivers import keys
from edgeswarm.drivers.jail_link import KernelSpec
from edgeswarm.drivers.jail_sync import SyncJail

if TYPE_CHECKING:
    from edgeswarm.compile import Kernel


def lone_jail(kernel: Kernel) -> SyncJail:
    """A jail with this kernel in slot 0, compiled through the user's own cache.  Raises JailError, KernelError."""
    _, state, _ = default_dirs(os.environ, is_root=os.geteuid() == 0)
    key, _ = keys.load_or_make(state / "keys" / "device.key")
    return SyncJail(
        policy_dir=asset("sandbox"),
        cache_dir=state / "cache",
        mac_key=key.derive("es-cwasm"),
        wasm=kernel.wasm,
        spec=lambda cwasm: KernelSpec(
            slot=0, name="network", cwasm=cwasm, layout=kernel.layout, weights=kernel.weights
        ),
    )
