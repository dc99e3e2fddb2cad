"""The controller of a fleet: a device of the cell that also issues, advances waves, keeps the index and answers operators.

Joins its parts; each decides for itself.  Everything may be down: no device minds.
`one`, `many`: what an operator may ask, by name; `needs`: the capability that asking it takes (administrators have the
rest).  `who` is the operator's console, or "local" for the control socket of the controller's own machine.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from edgeswarm.app.fleet.folder import FleetFolder

if TYPE_CHECKING:
    from edgeswarm.app.log import Log
    from edgeswarm.app.swarm.node import SwarmNode

One = Callable[[dict[str, Any], str], Awaitable[Any]]
"""(arguments, who) -> the answer, plain values only."""
Many = Callable[[dict[str, Any], str], AsyncIterator[Any]]


class Controller:
    """node: started.  The parts are set by `start` in the order of their needs."""

    def __init__(self, folder: FleetFolder, node: SwarmNode, log: Log) -> None:
        self.folder, self.node, self.log = folder, node, log
        self.one: dict[str, One] = {}
        self.many: dict[str, Many] = {}
        self.needs: dict[str, str] = {}
        self.audit: Any = None
        self.broker: Any = None
        self.issuer: Any = None
        self.index: Any = None
        self.waves: Any = None
        self.revoker: Any = None
