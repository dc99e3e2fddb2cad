"""One kernel in one jail without a supervisor, and the zygote behind it: what `Network` and `Population` use."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from edgeswarm.app import config, isolation
from edgeswarm.assets import asset
from edgeswarm.drivers import keys
from edgeswarm.drivers.jail_link import KernelSpec
from edgeswarm.drivers.jail_sync import SyncHost, SyncJail

if TYPE_CHECKING:
    from edgeswarm.compile import Kernel


def open_host() -> SyncHost:
    """A zygote of one's own, with the user's code cache.  Raises ConfigError, JailError, TierError."""
    _, state, _ = config.default_dirs(os.environ, is_root=os.geteuid() == 0)
    key, _ = keys.load_or_make(state / "keys" / "device.key")
    host = SyncHost(policy_dir=asset("sandbox"), cache_dir=state / "cache", mac_key=key.derive("es-cwasm"))
    try:
        isolation.check(host.tier, host.layers, config.load())
    except BaseException:
        host.close()
        raise
    return host


class LoneKernel:
    """A zygote and a jail for one kernel.  Raises JailError, KernelError, TierError."""

    def __init__(self, kernel: Kernel) -> None:
        self._host = open_host()
        try:
            cwasm = self._host.compile(kernel.wasm)
            spec = KernelSpec(slot=0, name="network", cwasm=cwasm, layout=kernel.layout, weights=kernel.weights)
            self.jail: SyncJail = self._host.spawn([spec])
        except BaseException:
            self._host.close()
            raise

    def close(self) -> None:
        self._host.close()
