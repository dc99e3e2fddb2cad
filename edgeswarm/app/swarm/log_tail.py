"""The end of this device's log for who may see it: a peer's method, "logs.tail".

May: an administrator of the roster, or who is granted `tool:logs` (a controller, that asks for its operators).
Invariant: an answer is at most LOG_TAIL_BYTES_MAX, whatever is asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeswarm.app.swarm.peer import CallError
from edgeswarm.limits import LOG_TAIL_BYTES_MAX, LOG_TAIL_LINES_MAX
from edgeswarm.wire import codec

if TYPE_CHECKING:
    from edgeswarm.app.log import Log
    from edgeswarm.app.swarm.node import SwarmNode

METHOD = "logs.tail"
CAPABILITY = "tool:logs"


def serve(node: SwarmNode) -> None:
    """Answer from now on."""

    async def tail(sender: str, body: bytes) -> bytes:
        roster = node.rosters.current
        if roster.role(sender) != "administrator" and not roster.may(sender, CAPABILITY):
            raise CallError(
                f"{METHOD}: expected an administrator, or who is granted {CAPABILITY}", who=sender, code="not-allowed"
            )
        match codec.loads(body, who=sender, bytes_max=1_024):
            case [int(count)] if 0 <= count <= LOG_TAIL_LINES_MAX:
                return codec.dumps(last(node.log, count))
            case _:
                raise CallError(f"{METHOD}: expected [0 .. {LOG_TAIL_LINES_MAX}]", who=sender, code="error")

    node.peer.methods[METHOD] = tail


def last(log: Log, count: int) -> list[str]:
    """The last `count` lines, fewer where they are more than LOG_TAIL_BYTES_MAX together."""
    found: list[str] = []
    size = 0
    for line in reversed(list(log.ring.lines)[-count:] if count else []):
        size += len(line.encode("utf-8", "replace")) + 8
        if size > LOG_TAIL_BYTES_MAX:
            break
        found.append(line.encode("utf-8", "replace").decode())
    return found[::-1]
