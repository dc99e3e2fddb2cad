"""A bundle's version on trial that was started anew, not handed over: confirmed once it has served long enough.

An upgrade by hand-over is judged by `app/upgrade.py`. This is the other way in: the power went while a version was on
probation, or the machine was started again. Then nobody else would remove the trial's file, and after three starts a
version that works would be replaced (drivers/service/prefix.py).
"""

from __future__ import annotations

import asyncio

from edgeswarm.app.log import Log
from edgeswarm.drivers.service.prefix import Prefix
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.limits import UPGRADE_HEALTHY_S


async def confirm(
    log: Log, prefix: Prefix | None = None, *, version: str | None = None, healthy_s: float = UPGRADE_HEALTHY_S
) -> None:
    """Ends the trial of this version after `healthy_s` seconds; does nothing where there is none.

    prefix, version: as this program was installed by a bundle, unless a test says so.  Whoever ends the daemon before
    cancels this: then the start counted, and that was all.
    """
    prefix = Prefix.of_this_program() if prefix is None else prefix
    if prefix is None or prefix.trial() is None:
        return
    await asyncio.sleep(healthy_s)
    try:
        if prefix.confirm(version):
            log.info("trial_ended", prefix=str(prefix.path))
    except (EdgeSwarmError, OSError) as error:
        log.warning("trial_not_ended", error=str(error))
