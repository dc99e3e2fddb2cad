"""A change of the roster by the issuer, one at a time: built on the newest, verified as every device will, committed.

Others change it too (joins, growth, operators): who comes second builds anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgeswarm.app.swarm.replica import OutcomeUnknownError, RejectedError
from edgeswarm.core.cell import commands as cmd
from edgeswarm.errors import LocalError
from edgeswarm.wire.roster import Roster

if TYPE_CHECKING:
    from edgeswarm.app.swarm.node import SwarmNode

TRIES, COMMIT_S, ADOPT_S = 8, 15.0, 15.0


class RosterChanges:
    """node: the controller's."""

    def __init__(self, node: SwarmNode) -> None:
        self._node = node
        self._lock = asyncio.Lock()

    async def change(self, build: Callable[[Roster], Roster]) -> Roster:
        """The roster that `build` makes of the newest one, once it is this device's too.

        build: may be called again, with a newer one; what it raises ends the change.
        Raises RosterError, NoLeaderError, and LocalError when others were always faster.
        """
        node = self._node
        async with self._lock:
            for _ in range(TRIES):
                previous = node.rosters.current
                fresh = build(previous)
                fresh.verify(node.rosters.root_public, previous)
                if await self.put(fresh):
                    return fresh
        raise LocalError(f"roster: {TRIES} times another change came first")

    async def put(self, fresh: Roster) -> bool:
        """Commit a roster that follows the one of now; False when another came first."""
        node = self._node
        try:
            await node.propose(
                cmd.encode(cmd.SetRoster(fresh.version, fresh.previous, fresh.data)), deadline_s=COMMIT_S
            )
        except RejectedError:
            await asyncio.sleep(0.05)  # the one that was faster is on its way to us
            return False
        except OutcomeUnknownError:
            pass  # the log says
        end = asyncio.get_running_loop().time() + ADOPT_S
        while node.rosters.current.version < fresh.version and asyncio.get_running_loop().time() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return node.rosters.of(fresh.version).data == fresh.data
